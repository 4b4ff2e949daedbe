/*
 * ecs-image is two processes with a socketpair between them: the network half
 * (agent/image/network.h), which believes a registry, and the unpack half (agent/image/unpack.h),
 * which believes nobody. Both begin as root here.
 */
#pragma once

#include "lib/err.h"
#include "lib/options.h"

/*
 * Split and serve the client on client_fd (taken) until it hangs up. Reads the options' config for
 * proxies and CAs. Returns, in the process that called, 0 or -errno.
 */
int halves_run(const struct options *options, int client_fd, struct err *err);
