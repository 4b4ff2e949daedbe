/*
 * The bridge that containers in bridge mode are connected to, with the host's address on it.
 * Addresses are in host byte order.
 */
#pragma once

#include "lib/envfile.h"
#include "lib/err.h"

#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>

struct nl_sock;

struct bridge {
	char name[IFNAMSIZ];
	uint32_t subnet;
	unsigned prefix;  /* 8 to 29 */
	uint32_t address; /* the bridge's own: the first of the subnet */
};

#define BRIDGE_ADDRESS_TEXT_MAX sizeof("255.255.255.255/32")

/* ECS_BRIDGE_NAME and ECS_BRIDGE_SUBNET, or their defaults. -EINVAL names the bad one. */
int bridge_configure(const struct envfile *config, struct bridge *ret, struct err *err);

/* Can a container have this address: in the subnet, not its first, network or broadcast one. */
bool bridge_can_give(const struct bridge *bridge, uint32_t address);

/* "172.29.0.0", and with a prefix. buf: BRIDGE_ADDRESS_TEXT_MAX bytes; returns buf. */
const char *address_to_string(uint32_t address, char *buf);
const char *bridge_subnet_to_string(const struct bridge *bridge, char *buf);

/* The MAC address that belongs to an IPv4 address, 0a:58 and its bytes: a container that gets a
 * used address has the used MAC too, so no neighbour cache is wrong. */
void address_to_mac(uint32_t address, uint8_t mac[6]);

/*
 * Make the bridge, or what is missing of it: up, its address and MAC, the MTU of the interface with
 * the default route (1500 without one), no IPv6. Safe to repeat. *ret_mtu is what it has now.
 * -EEXIST: the name is that of another link, or a bridge with another address; or another
 * interface of the host has an address in the subnet.
 */
int bridge_create(const struct bridge *bridge, struct nl_sock *sock, unsigned *ret_mtu,
                  struct err *err);

/* Let the host's own 127.0.0.1 be the source of packets to the bridge. Only once the rule is in
 * place that drops such packets when they come from it (CVE-2020-8558). */
int bridge_allow_loopback_source(const struct bridge *bridge, struct err *err);

/* Removes the bridge; one that is not there is no error. */
int bridge_remove(const struct bridge *bridge, struct nl_sock *sock, struct err *err);
