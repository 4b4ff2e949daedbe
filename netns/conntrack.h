/*
 * Flows that the kernel remembers. NAT is decided by the first datagram of a UDP flow: a client
 * that keeps sending from one port keeps reaching whoever had the port of the host then, be it a
 * container that is gone or nobody, however the rules have changed. So such flows are forgotten
 * when the rules of their port change. (TCP connections end by themselves.)
 */
#pragma once

#include "lib/err.h"
#include "netns/host_port.h"

#include <stdint.h>

/*
 * Forget the IPv4 flows to a UDP port of the host that do not lead to the container's address:
 * for a port that has just been published. Those of other hosts' ports, which the host merely
 * forwards, stay.
 */
int conntrack_forget_others(const struct port_mapping *mapping, uint32_t address, struct err *err);

/* Forget the flows to a UDP port of the host that lead to the container's address: for a port that
 * is published no more. */
int conntrack_forget_own(const struct port_mapping *mapping, uint32_t address, struct err *err);
