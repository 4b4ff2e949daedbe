/*
 * Network namespaces. A namespace is its descriptor: nothing is mounted or named, so it ends with
 * the last process, socket and descriptor in it. libc only (ecs-task links this; libnl stays out).
 */
#pragma once

#include "lib/err.h"

/*
 * A new namespace with lo up and net.ipv4.ping_group_range / ip_unprivileged_port_start as Docker
 * gives containers (0 2147483647, 0). Made in the calling thread, which is back in its own
 * namespace afterwards (as with netns_run()). No child process, so no SIGCHLD either.
 * Needs CAP_SYS_ADMIN, and /proc for the two sysctls.
 * Returns 0 with *ret_fd (an nsfs descriptor, O_CLOEXEC, owned by the caller) or -errno.
 */
int netns_create(int *ret_fd, struct err *err);

/* The same for a namespace that somebody else has made, as for a user namespace that is to own it.
 */
int netns_fill(int netns_fd, struct err *err);

/* Run fn(arg) inside the namespace, in the calling thread, and come back. The caller must be able
 * to enter it (CAP_SYS_ADMIN). Returns fn's result or -errno of setns(2). Coming back cannot be
 * skipped: if it fails the process is aborted. */
int netns_run(int netns_fd, int (*fn)(void *arg, struct err *err), void *arg, struct err *err);
