/* Which bridge ecs.config asks for, and which addresses it has. Without netlink, so that the agent
 * refuses at its start what ecs-network would refuse later. */
#include "netns/bridge_config.h"

#include "lib/parse.h"
#include "netns/protocol.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

uint32_t prefix_mask(unsigned prefix)
{
	return prefix ? UINT32_MAX << (32 - prefix) : 0;
}

const char *address_to_string(uint32_t address, char *buf)
{
	snprintf(buf, BRIDGE_ADDRESS_TEXT_MAX, "%u.%u.%u.%u", address >> 24, address >> 16 & 0xff,
	         address >> 8 & 0xff, address & 0xff);
	return buf;
}

const char *bridge_subnet_to_string(const struct bridge *bridge, char *buf)
{
	char address[BRIDGE_ADDRESS_TEXT_MAX];

	snprintf(buf, BRIDGE_ADDRESS_TEXT_MAX, "%.15s/%u",
	         address_to_string(bridge->subnet, address), bridge->prefix & 31);
	return buf;
}

void address_to_mac(uint32_t address, uint8_t mac[6])
{
	mac[0] = MAC_FIRST;
	mac[1] = MAC_SECOND;
	for (int i = 0; i < 4; i++)
		mac[2 + i] = address >> (24 - 8 * i) & 0xff;
}

bool bridge_can_give(const struct bridge *bridge, uint32_t address)
{
	uint32_t mask = prefix_mask(bridge->prefix);

	return (address & mask) == bridge->subnet && address != bridge->subnet &&
	       address != bridge->address && address != (bridge->subnet | ~mask);
}

/* The name is also a directory of /proc/sys/net, and part of a table's name. */
int bridge_name_configure(const char *name, struct bridge *ret, struct err *err)
{
	static const char *const reserved[] = {"lo", "all", "default"};
	bool is_valid = name_is_component(name, IFNAMSIZ - 1);

	for (size_t i = 0; i < ARRAY_SIZE(reserved); i++)
		is_valid = is_valid && strcmp(name, reserved[i]) != 0;
	if (!is_valid)
		return err_text(err, -EINVAL,
		                "ECS_BRIDGE_NAME=%s: must be 1 to %d letters, digits, '-', '_' or "
		                "'.', and not lo, all or default",
		                name, IFNAMSIZ - 1);
	snprintf(ret->name, sizeof(ret->name), "%s", name);
	return 0;
}

/* Is any of it in 169.254.0.0/16, where the endpoints of credentials and of the instance are? */
static bool is_link_local(uint32_t subnet, unsigned prefix)
{
	uint32_t mask = prefix_mask(prefix < 16 ? prefix : 16);

	return (subnet & mask) == (0xa9fe0000 & mask);
}

int bridge_subnet_configure(const char *text, struct bridge *ret, struct err *err)
{
	char address[INET_ADDRSTRLEN];
	const char *slash = strchr(text, '/');
	struct in_addr parsed;
	uint64_t prefix = 0;
	uint32_t subnet;

	if (!slash || (size_t)(slash - text) >= sizeof(address) ||
	    parse_u64(slash + 1, 32, &prefix) < 0)
		prefix = 0;
	else
		snprintf(address, sizeof(address), "%.*s", (int)(slash - text), text);
	if (prefix < NETWORK_BRIDGE_PREFIX_MIN || prefix > NETWORK_BRIDGE_PREFIX_MAX ||
	    inet_pton(AF_INET, address, &parsed) != 1)
		return err_text(err, -EINVAL,
		                "ECS_BRIDGE_SUBNET=%s: must be an IPv4 network with a prefix of %d "
		                "to %d, such as " NETWORK_BRIDGE_SUBNET_DEFAULT,
		                text, NETWORK_BRIDGE_PREFIX_MIN, NETWORK_BRIDGE_PREFIX_MAX);

	subnet = ntohl(parsed.s_addr);
	if (subnet & ~prefix_mask((unsigned)prefix))
		return err_text(err, -EINVAL,
		                "ECS_BRIDGE_SUBNET=%s: the address has bits beyond its prefix; the "
		                "network is %s/%u",
		                text,
		                address_to_string(subnet & prefix_mask((unsigned)prefix),
		                                  (char[BRIDGE_ADDRESS_TEXT_MAX]){0}),
		                (unsigned)prefix);
	if (subnet >> 24 == 0 || subnet >> 24 == 127 || subnet >> 24 >= 224 ||
	    is_link_local(subnet, (unsigned)prefix))
		return err_text(
			err, -EINVAL,
			"ECS_BRIDGE_SUBNET=%s: loopback, link-local, multicast and reserved "
			"networks cannot be used",
			text);
	ret->subnet = subnet;
	ret->prefix = (unsigned)prefix;
	ret->address = subnet + 1;
	return 0;
}

/* As ecs-agent reads the file: an empty value is none. */
static const char *setting_get(const struct envfile *config, const char *name,
                               const char *default_value)
{
	const char *value = envfile_get(config, name);

	return value && *value ? value : default_value;
}

int bridge_configure(const struct envfile *config, struct bridge *ret, struct err *err)
{
	struct bridge bridge = {0};
	int r;

	r = bridge_name_configure(
		setting_get(config, "ECS_BRIDGE_NAME", NETWORK_BRIDGE_NAME_DEFAULT), &bridge, err);
	if (r == 0)
		r = bridge_subnet_configure(
			setting_get(config, "ECS_BRIDGE_SUBNET", NETWORK_BRIDGE_SUBNET_DEFAULT),
			&bridge, err);
	if (r < 0)
		return r;
	*ret = bridge;
	return 0;
}
