/*
 * The network half of ecs-image: user ecs-image, no capabilities. It has the connection to the
 * client (agent/image/protocol.h), speaks to registries, and asks the unpack half for all that
 * touches the store.
 */
#pragma once

#include "lib/err.h"
#include "lib/http.h"

struct network_options {
	const struct http_settings *settings;
	const char *runtime_dir;
	int client_fd; /* taken */
	int unpack_fd; /* taken */
};

/* Confine this process and serve the client until it hangs up. 0 or -errno. */
int network_serve(const struct network_options *options, struct err *err);
