/*
 * Who is at the other end of a connection within this network namespace: the id of the cgroup in
 * which its socket was made, as sock_diag(7) tells (INET_DIAG_CGROUP_ID, Linux 5.10). Needs no
 * capability. And the user who made it.
 */
#pragma once

#include <netinet/in.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/err.h"

/* A socket for the questions: the descriptor or -errno. */
int caller_open(struct err *err);

/*
 * peer and local: addresses of the accepted connection, so that the caller's socket is the one
 * bound to peer and connected to local. -ENOENT when it is gone already, -ENODATA when the kernel
 * does not say (no cgroup2).
 */
int caller_cgroup(int diag_fd, const struct sockaddr_in *peer, const struct sockaddr_in *local,
                  uint64_t *ret_cgroup_id, uid_t *ret_uid);

/* The root of the hierarchy: where the kernel says this of every socket there is no cgroup2. */
#define CALLER_ROOT_CGROUP 1
