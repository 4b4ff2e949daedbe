/* The bridge that containers in bridge mode are connected to, with the host's address on it. Its
 * MAC address, which begins with 0a:58, is the mark that it is ours. */
#pragma once

#include "lib/err.h"
#include "netns/bridge_config.h"

struct nl_sock;

/*
 * Make the bridge, or what is missing of it: up, its address and MAC, the MTU of the interface with
 * the default route (1500 without one), no IPv6. Safe to repeat. *ret_mtu is what it has now.
 * -EEXIST: the name is that of another link, or a bridge with another address, or one that has
 * neither our mark nor our address; or another interface of the host has an address in the subnet.
 */
int bridge_create(const struct bridge *bridge, struct nl_sock *sock, unsigned *ret_mtu,
                  struct err *err);

/* Let the host's own 127.0.0.1 be the source of packets to the bridge. Only once the rule is in
 * place that drops such packets when they come from it (CVE-2020-8558). */
int bridge_allow_loopback_source(const struct bridge *bridge, struct err *err);

/* Removes the bridge; one that is not there is no error. -EEXIST: what has its name is no bridge,
 * or has not our mark, and stays. */
int bridge_remove(const struct bridge *bridge, struct nl_sock *sock, struct err *err);
