/* Bringing the kernel's bridge in line with what it is to be. */
#include "netns/bridge.h"

#include "lib/fd.h"
#include "netns/netlink.h"

#include <arpa/inet.h>
#include <limits.h>
#include <linux/if_ether.h>
#include <linux/rtnetlink.h>
#include <netlink/route/link/bridge.h>
#include <stdio.h>
#include <string.h>

#define MTU_DEFAULT 1500

/* The interface of the best default route in the main table; 0 if there is none. */
static int default_interface(struct nl_sock *sock, int *ret_ifindex, struct err *err)
{
	_cleanup_(nl_cache_freep) struct nl_cache *routes = NULL;
	uint32_t best = UINT32_MAX;
	int ifindex = 0;
	int r = rtnl_route_alloc_cache(sock, AF_INET, 0, &routes);

	if (r < 0)
		return netlink_error(err, r, "list routes");
	for (struct nl_object *o = nl_cache_get_first(routes); o; o = nl_cache_get_next(o)) {
		struct rtnl_route *route = (struct rtnl_route *)o;
		struct nl_addr *destination = rtnl_route_get_dst(route);

		if (rtnl_route_get_table(route) != RT_TABLE_MAIN ||
		    rtnl_route_get_type(route) != RTN_UNICAST ||
		    (destination && nl_addr_get_prefixlen(destination) != 0) ||
		    rtnl_route_get_nnexthops(route) < 1 ||
		    (ifindex && rtnl_route_get_priority(route) >= best))
			continue;
		best = rtnl_route_get_priority(route);
		ifindex = rtnl_route_nh_get_ifindex(rtnl_route_nexthop_n(route, 0));
	}
	*ret_ifindex = ifindex;
	return 0;
}

static int default_mtu(struct nl_sock *sock, unsigned *ret, struct err *err)
{
	_cleanup_(rtnl_link_putp) struct rtnl_link *link = NULL;
	int ifindex = 0;
	int r = default_interface(sock, &ifindex, err);

	if (r < 0)
		return r;
	*ret = MTU_DEFAULT;
	if (ifindex && rtnl_link_get_kernel(sock, ifindex, NULL, &link) == 0)
		*ret = rtnl_link_get_mtu(link);
	return 0;
}

static bool is_bridge(struct rtnl_link *link)
{
	const char *type = rtnl_link_get_type(link);

	return type && strcmp(type, "bridge") == 0;
}

/* A bridge whose MAC address is one of address_to_mac(), of whichever subnet. */
static bool is_ours(struct rtnl_link *link)
{
	static const uint8_t mark[] = {MAC_FIRST, MAC_SECOND};
	struct nl_addr *mac = rtnl_link_get_addr(link);

	return is_bridge(link) && mac && nl_addr_get_len(mac) == ETH_ALEN &&
	       memcmp(nl_addr_get_binary_addr(mac), mark, sizeof(mark)) == 0;
}

static int other_address_error(const struct bridge *bridge, struct nl_sock *sock, uint32_t value,
                               unsigned prefix, struct err *err)
{
	_cleanup_(rtnl_link_putp) struct rtnl_link *link = NULL;
	char text[BRIDGE_ADDRESS_TEXT_MAX], subnet[BRIDGE_ADDRESS_TEXT_MAX];
	bool ours = rtnl_link_get_kernel(sock, 0, bridge->name, &link) == 0 && is_ours(link);

	return err_text(err, -EEXIST,
	                "bridge %s has the address %s/%u already, which is not that of "
	                "ECS_BRIDGE_SUBNET=%s: %s",
	                bridge->name, address_to_string(value, text), prefix,
	                bridge_subnet_to_string(bridge, subnet),
	                ours ? "remove the bridge (ecs-network --remove) or use another name"
	                     : "it was made by something else, so choose another ECS_BRIDGE_NAME");
}

static int overlap_error(const struct bridge *bridge, struct rtnl_addr *address, uint32_t value,
                         unsigned prefix, struct err *err)
{
	char text[BRIDGE_ADDRESS_TEXT_MAX], subnet[BRIDGE_ADDRESS_TEXT_MAX];
	char device[IFNAMSIZ] = "";

	return err_text(err, -EEXIST,
	                "ECS_BRIDGE_SUBNET=%s overlaps with %s/%u of %s: choose a subnet that the "
	                "host does not use",
	                bridge_subnet_to_string(bridge, subnet), address_to_string(value, text),
	                prefix,
	                if_indextoname((unsigned)rtnl_addr_get_ifindex(address), device)
	                        ? device
	                        : "another interface");
}

/* Addresses of the host must not be in the way, and those of the bridge must be ours: a bridge
 * with another address is somebody else's, or is left from another subnet. */
static int addresses_check(const struct bridge *bridge, struct nl_sock *sock, int ifindex,
                           bool *ret_has_address, struct err *err)
{
	_cleanup_(nl_cache_freep) struct nl_cache *addresses = NULL;
	int r = rtnl_addr_alloc_cache(sock, &addresses);

	if (r < 0)
		return netlink_error(err, r, "list addresses");
	*ret_has_address = false;
	for (struct nl_object *o = nl_cache_get_first(addresses); o; o = nl_cache_get_next(o)) {
		struct rtnl_addr *address = (struct rtnl_addr *)o;
		struct nl_addr *local = rtnl_addr_get_local(address);
		uint32_t value, mask;
		unsigned prefix;

		if (rtnl_addr_get_family(address) != AF_INET || !local)
			continue;
		memcpy(&value, nl_addr_get_binary_addr(local), sizeof(value));
		value = ntohl(value);
		prefix = (unsigned)rtnl_addr_get_prefixlen(address);
		if (ifindex && rtnl_addr_get_ifindex(address) == ifindex) {
			if (value != bridge->address || prefix != bridge->prefix)
				return other_address_error(bridge, sock, value, prefix, err);
			*ret_has_address = true;
			continue;
		}
		mask = prefix_mask(prefix < bridge->prefix ? prefix : bridge->prefix);
		if ((value & mask) == (bridge->subnet & mask))
			return overlap_error(bridge, address, value, prefix, err);
	}
	return 0;
}

static int link_describe(const struct bridge *bridge, unsigned mtu, struct rtnl_link *link)
{
	_cleanup_(nl_addr_putp) struct nl_addr *mac_address = NULL;
	uint8_t mac[6];

	address_to_mac(bridge->address, mac);
	mac_address = nl_addr_build(AF_LLC, mac, sizeof(mac));
	if (!mac_address)
		return -ENOMEM;
	rtnl_link_set_name(link, bridge->name);
	rtnl_link_set_addr(link, mac_address);
	rtnl_link_set_mtu(link, mtu);
	return 0;
}

/* The link itself, down if it is new. One that is there without our mark is somebody else's, unless
 * it has our address: then somebody has changed its MAC address. */
static int link_create(const struct bridge *bridge, struct nl_sock *sock, unsigned mtu,
                       bool has_address, struct rtnl_link **ret, struct err *err)
{
	_cleanup_(rtnl_link_putp) struct rtnl_link *link = NULL;
	_cleanup_(rtnl_link_putp) struct rtnl_link *wanted = rtnl_link_bridge_alloc();
	int r;

	if (!wanted || link_describe(bridge, mtu, wanted) < 0)
		return err_oom(err);
	r = rtnl_link_add(sock, wanted, NLM_F_CREATE | NLM_F_EXCL);
	if (r < 0 && r != -NLE_EXIST)
		return netlink_error(err, r, "create the bridge %s", bridge->name);
	r = rtnl_link_get_kernel(sock, 0, bridge->name, &link);
	if (r < 0)
		return netlink_error(err, r, "find the bridge %s", bridge->name);
	if (!is_bridge(link))
		return err_text(err, -EEXIST,
		                "ECS_BRIDGE_NAME=%s: there is a link of this name, and it is no "
		                "bridge",
		                bridge->name);
	if (!is_ours(link) && !has_address)
		return err_text(
			err, -EEXIST,
			"ECS_BRIDGE_NAME=%s: there is a bridge of this name that was made by "
			"something else: choose another",
			bridge->name);
	*ret = TAKE_PTR(link);
	return 0;
}

static int sysctl_write(const char *family, const struct bridge *bridge, const char *key,
                        const char *value, struct err *err)
{
	char path[PATH_MAX];
	int r;

	snprintf(path, sizeof(path), "/proc/sys/net/%s/conf/%s/%s", family, bridge->name, key);
	r = file_write(AT_FDCWD, path, value);
	return r < 0 ? err_set(err, r, "write %s to %s", value, path) : 0;
}

/* The bridge has no IPv6, so that no container can become the host's router by an advertisement
 * (CVE-2020-13401). accept_ra says so once more for whoever turns IPv6 on. */
static int ipv6_disable(const struct bridge *bridge, struct err *err)
{
	int r;

	if (access("/proc/sys/net/ipv6", F_OK) < 0)
		return 0; /* a kernel without IPv6 */
	r = sysctl_write("ipv6", bridge, "accept_ra", "0", err);
	return r < 0 ? r : sysctl_write("ipv6", bridge, "disable_ipv6", "1", err);
}

static int link_change(const struct bridge *bridge, struct nl_sock *sock, struct rtnl_link *link,
                       unsigned mtu, struct err *err)
{
	_cleanup_(rtnl_link_putp) struct rtnl_link *change = rtnl_link_alloc();
	int r;

	if (!change || link_describe(bridge, mtu, change) < 0)
		return err_oom(err);
	rtnl_link_set_flags(change, IFF_UP);
	r = rtnl_link_change(sock, link, change, 0);
	return r < 0 ? netlink_error(err, r, "set the bridge %s up", bridge->name) : 0;
}

static int address_add(const struct bridge *bridge, struct nl_sock *sock, int ifindex,
                       struct err *err)
{
	_cleanup_(rtnl_addr_putp) struct rtnl_addr *address = rtnl_addr_alloc();
	_cleanup_(nl_addr_putp) struct nl_addr *local =
		netlink_address(bridge->address, bridge->prefix);
	_cleanup_(nl_addr_putp) struct nl_addr *broadcast =
		netlink_address(bridge->subnet | ~prefix_mask(bridge->prefix), 32);
	int r;

	if (!address || !local || !broadcast)
		return err_oom(err);
	rtnl_addr_set_ifindex(address, ifindex);
	rtnl_addr_set_local(address, local);
	rtnl_addr_set_broadcast(address, broadcast);
	r = rtnl_addr_add(sock, address, NLM_F_EXCL);
	if (r < 0 && r != -NLE_EXIST)
		return netlink_error(err, r, "give the bridge %s its address", bridge->name);
	return 0;
}

int bridge_create(const struct bridge *bridge, struct nl_sock *sock, unsigned *ret_mtu,
                  struct err *err)
{
	_cleanup_(rtnl_link_putp) struct rtnl_link *link = NULL;
	bool has_address = false;
	unsigned mtu = MTU_DEFAULT;
	int r;

	r = addresses_check(bridge, sock, (int)if_nametoindex(bridge->name), &has_address, err);
	if (r == 0)
		r = default_mtu(sock, &mtu, err);
	if (r == 0)
		r = link_create(bridge, sock, mtu, has_address, &link, err);
	if (r == 0)
		r = ipv6_disable(bridge, err);
	if (r == 0)
		r = link_change(bridge, sock, link, mtu, err);
	if (r == 0 && !has_address)
		r = address_add(bridge, sock, rtnl_link_get_ifindex(link), err);
	if (r < 0)
		return r;
	*ret_mtu = mtu;
	return 0;
}

int bridge_allow_loopback_source(const struct bridge *bridge, struct err *err)
{
	return sysctl_write("ipv4", bridge, "route_localnet", "1", err);
}

int bridge_remove(const struct bridge *bridge, struct nl_sock *sock, struct err *err)
{
	_cleanup_(rtnl_link_putp) struct rtnl_link *link = NULL;
	int r = rtnl_link_get_kernel(sock, 0, bridge->name, &link);

	if (r == -NLE_NODEV || r == -NLE_OBJ_NOTFOUND)
		return 0;
	if (r < 0)
		return netlink_error(err, r, "find the bridge %s", bridge->name);
	if (!is_ours(link))
		return err_text(err, -EEXIST, "ECS_BRIDGE_NAME=%s: %s %s, so it is not removed",
		                bridge->name, bridge->name,
		                is_bridge(link) ? "was made by something else" : "is no bridge");
	r = rtnl_link_delete(sock, link);
	if (r < 0 && r != -NLE_NODEV)
		return netlink_error(err, r, "remove the bridge %s", bridge->name);
	return 0;
}
