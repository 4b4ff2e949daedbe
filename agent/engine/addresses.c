/* A bitmap over the subnet, of 2 MiB at most, which takes memory only where addresses were given;
 * network, broadcast and gateway are taken from the start. */
#include "agent/engine/addresses.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdbool.h>

#include "netns/protocol.h"

struct addresses {
	uint32_t first; /* network address, host byte order */
	uint32_t n;
	uint32_t last_taken; /* offset */
	uint32_t n_taken, n_own;
	uint8_t taken[];
};

static bool is_taken(const struct addresses *addresses, uint32_t offset)
{
	return addresses->taken[offset / 8] & (1u << (offset % 8));
}

static void set_taken(struct addresses *addresses, uint32_t offset, bool value)
{
	if (is_taken(addresses, offset) == value)
		return;
	addresses->taken[offset / 8] ^= (uint8_t)(1u << (offset % 8));
	if (value)
		addresses->n_taken++;
	else
		addresses->n_taken--;
}

static bool offset_of(const struct addresses *addresses, const char *address, uint32_t *ret)
{
	struct in_addr in;
	uint32_t host;

	if (inet_pton(AF_INET, address, &in) != 1)
		return false;
	host = ntohl(in.s_addr);
	if (host < addresses->first || host - addresses->first >= addresses->n)
		return false;
	*ret = host - addresses->first;
	return true;
}

int addresses_new(const char *gateway, unsigned int prefix, struct addresses **ret, struct err *err)
{
	struct addresses *addresses;
	struct in_addr in;
	uint32_t n;

	if (prefix < NETWORK_BRIDGE_PREFIX_MIN || prefix > NETWORK_BRIDGE_PREFIX_MAX)
		return err_text(err, -EINVAL, "bridge subnet has prefix length %u, not %d to %d",
		                prefix, NETWORK_BRIDGE_PREFIX_MIN, NETWORK_BRIDGE_PREFIX_MAX);
	if (inet_pton(AF_INET, gateway, &in) != 1)
		return err_text(err, -EINVAL, "bridge address '%s' is no IPv4 address", gateway);

	n = UINT32_C(1) << (32 - prefix);
	addresses = calloc(1, sizeof(*addresses) + n / 8);
	if (!addresses)
		return err_oom(err);
	addresses->n = n;
	addresses->first = ntohl(in.s_addr) & ~(n - 1);
	set_taken(addresses, 0, true);
	set_taken(addresses, n - 1, true);
	addresses_mark(addresses, gateway);
	addresses->n_own = addresses->n_taken;
	*ret = addresses;
	return 0;
}

struct addresses *addresses_free(struct addresses *addresses)
{
	free(addresses);
	return NULL;
}

int addresses_take(struct addresses *addresses, char ret[static 16])
{
	for (uint32_t i = 1; i <= addresses->n; i++) {
		uint32_t offset = (addresses->last_taken + i) % addresses->n;
		struct in_addr in = {.s_addr = htonl(addresses->first + offset)};

		if (is_taken(addresses, offset))
			continue;
		set_taken(addresses, offset, true);
		addresses->last_taken = offset;
		(void)inet_ntop(AF_INET, &in, ret, 16);
		return 0;
	}
	return -ENOSPC;
}

void addresses_mark(struct addresses *addresses, const char *address)
{
	uint32_t offset;

	if (!offset_of(addresses, address, &offset))
		return;
	set_taken(addresses, offset, true);
	addresses->last_taken = offset;
}

void addresses_give(struct addresses *addresses, const char *address)
{
	uint32_t offset;

	if (offset_of(addresses, address, &offset))
		set_taken(addresses, offset, false);
}

size_t addresses_count(const struct addresses *addresses)
{
	return addresses->n_taken - addresses->n_own;
}
