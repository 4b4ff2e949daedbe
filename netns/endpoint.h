/*
 * The link-local endpoint of a network namespace: 169.254.170.2/32 on lo, a listening TCP socket
 * on 169.254.170.2:51679 (SO_REUSEADDR, never SO_REUSEPORT), and an sk_lookup BPF program on the
 * namespace that steers 169.254.170.2:80 to that socket, for peers whose address is 169.254.170.2
 * itself. A container may bind 0.0.0.0:80 all the same. Must be made before any process of a
 * container exists in the namespace.
 *
 * Life: socket and BPF link keep the namespace alive; endpoint_close() releases them when the task
 * ends. Copies of the socket (ecs-metadata has one) must be closed too.
 *
 * Source: Linux Documentation/bpf/prog_sk_lookup.rst; the address is that of the ECS task metadata
 * and credentials endpoint.
 */
#pragma once

#include <errno.h>

#include "lib/err.h"

#define ENDPOINT_ADDRESS "169.254.170.2"
#define ENDPOINT_PORT    51679

struct endpoint {
	int socket_fd; /* listening, non-blocking; -EBADF if none */
	int link_fd;   /* BPF link; -EBADF if none */
};

#define ENDPOINT_EMPTY                                                                             \
	(struct endpoint)                                                                          \
	{                                                                                          \
		.socket_fd = -EBADF, .link_fd = -EBADF                                             \
	}

/* netns_fd: borrowed. Needs CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_BPF. The program is loaded once
 * per process and shared. On failure nothing is left behind. */
int endpoint_open(int netns_fd, struct endpoint *ret, struct err *err);
void endpoint_close(struct endpoint *endpoint);
