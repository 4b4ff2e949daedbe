/*
 * The link-local endpoint of a network namespace: 169.254.170.2/32 on lo, a listening TCP socket
 * on 169.254.170.2:51679 (SO_REUSEADDR, never SO_REUSEPORT: that lets others in), and an sk_lookup
 * BPF program on the namespace that steers 169.254.170.2:80 to that socket, for peers whose
 * address is 169.254.170.2 itself. A container may bind 0.0.0.0:80 all the same. Must be made
 * before any process of a container exists in the namespace.
 *
 * The server should let the client close first. While a connection to port 80 is open, or lingers
 * in TIME_WAIT on the server's side, a container can bind 0.0.0.0:80 with SO_REUSEADDR only.
 *
 * Who can reach it: processes of the namespace. A neighbour that routes 169.254.170.2 to the
 * namespace has another address: its connections to port 80 go to whatever the container listens
 * with, those to 51679 are refused by the program. The server checks the peer all the same.
 *
 * A container with CAP_NET_ADMIN can remove the address, or redirect its own connections to
 * itself: it can deny itself credentials or answer its own requests, and open its namespace to
 * neighbours by forwarding what it was given. It cannot reach the endpoint of another namespace,
 * and cannot take the program off (that needs the link's descriptor).
 *
 * Life: the socket (each copy: ecs-metadata has one) keeps the namespace alive. endpoint_close()
 * takes the program off and closes our descriptors; closing link_fd, the last copy, does the same.
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

/*
 * netns_fd: borrowed. Needs CAP_SYS_ADMIN and CAP_NET_ADMIN. Each endpoint has a program and a
 * socket map of its own, since a program of this type cannot tell which namespace it runs for
 * (well under a millisecond).
 *
 * Returns 0, -EADDRINUSE (the namespace has an endpoint, or something else on its port), or -errno
 * of the step that failed. On failure nothing is left behind.
 */
int endpoint_open(int netns_fd, struct endpoint *ret, struct err *err);
void endpoint_close(struct endpoint *endpoint);

/* Take 169.254.170.2 off lo of the thread's own namespace; it need not be there. */
int endpoint_address_remove(struct err *err);
