/*
 * Ports of the host that are published for containers. A port is taken by binding a socket to it
 * (0.0.0.0): whoever holds the socket keeps the port from everybody else and from ephemeral use. A
 * TCP port that was asked for by its number is also listened on, which is the price for taking it
 * while connections of its last user are in TIME_WAIT. The socket itself never gets anything:
 * packets go to the container, and what comes while there is no rule for it is dropped.
 */
#pragma once

#include "lib/err.h"

#include <stddef.h>
#include <stdint.h>

struct port_mapping {
	uint16_t container_port;
	uint16_t host_port; /* 0: a free one is to be found */
	int protocol;       /* IPPROTO_TCP or IPPROTO_UDP */
};

/* Where dynamic ports come from. */
struct port_range {
	uint16_t first;
	uint16_t last;
	uint16_t cursor; /* the last one that was given out; the scan begins after it and wraps once
	                  */
};

/* "tcp" or "udp". */
const char *port_protocol_to_string(int protocol);

/*
 * Bind a socket for each mapping, in the thread's namespace: given ports first, then found ones,
 * whose host_port is filled in and to which the cursor moves. fds: n descriptors, owned by the
 * caller on success, in the order of the mappings.
 * Returns 0, -EADDRINUSE (err says which port, or that none is free) or -errno. On failure no
 * socket is left open and range is as it was.
 */
int host_ports_bind(struct port_mapping *mappings, size_t n, struct port_range *range, int *fds,
                    struct err *err);
