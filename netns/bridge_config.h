/*
 * Which bridge ecs.config asks for: ECS_BRIDGE_NAME and ECS_BRIDGE_SUBNET, and the addresses that
 * follow from them, in host byte order. Needs nothing of the kernel: ecs-agent checks its start
 * with the same functions that ecs-network works by.
 */
#pragma once

#include "lib/envfile.h"
#include "lib/err.h"

#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>

struct bridge {
	char name[IFNAMSIZ];
	uint32_t subnet;
	unsigned prefix;  /* NETWORK_BRIDGE_PREFIX_MIN to _MAX */
	uint32_t address; /* the bridge's own: the first of the subnet */
};

#define BRIDGE_ADDRESS_TEXT_MAX sizeof("255.255.255.255/32")

/* Both settings, or their defaults. -EINVAL names the bad one. */
int bridge_configure(const struct envfile *config, struct bridge *ret, struct err *err);

/* One of them each, into its members of ret. -EINVAL with setting and value in err. */
int bridge_name_configure(const char *name, struct bridge *ret, struct err *err);
int bridge_subnet_configure(const char *text, struct bridge *ret, struct err *err);

/* Can a container have this address: in the subnet, not its first, network or broadcast one. */
bool bridge_can_give(const struct bridge *bridge, uint32_t address);

/* The bits of the network: 255.255.0.0 for 16. */
uint32_t prefix_mask(unsigned prefix);

/* "172.29.0.0", and with a prefix. buf: BRIDGE_ADDRESS_TEXT_MAX bytes; returns buf. */
const char *address_to_string(uint32_t address, char *buf);
const char *bridge_subnet_to_string(const struct bridge *bridge, char *buf);

/* The MAC address that belongs to an IPv4 address, 0a:58 and its bytes: a container that gets a
 * used address has the used MAC too, so no neighbour cache is wrong. */
#define MAC_FIRST  0x0a
#define MAC_SECOND 0x58
void address_to_mac(uint32_t address, uint8_t mac[6]);
