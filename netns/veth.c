/*
 * One container's link. The pair is made with one netlink message: its host end is born as a port
 * of the bridge, its other end inside the namespace under its final name, so that a crash leaves
 * nothing that cannot be found by the name of the port.
 */
#include "netns/veth.h"

#include "lib/fd.h"
#include "lib/parse.h"
#include "netns/netlink.h"
#include "netns/netns.h"

#include <limits.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <netlink/msg.h>
#include <netlink/route/link/veth.h>
#include <netlink/route/nexthop.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define ID_DIGITS_IN_NAME 12
#define NAME_PREFIX       "ecs"

void veth_name(const char *id, char *name)
{
	snprintf(name, IFNAMSIZ, NAME_PREFIX "%.*s", ID_DIGITS_IN_NAME, id);
}

/* Before the link is up, or it would get a link-local address and solicit routers. */
static int ipv6_disable(const char *link, struct err *err)
{
	char path[PATH_MAX];
	int r;

	snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/disable_ipv6", link);
	r = file_write(AT_FDCWD, path, "1");
	return r < 0 && r != -ENOENT ? err_set(err, r, "write 1 to %s", path) : 0;
}

/* Both ends, down. */
static int pair_create(struct nl_sock *sock, struct rtnl_link *bridge_link, const char *name,
                       int netns_fd, uint32_t address, struct err *err)
{
	_cleanup_(rtnl_link_putp) struct rtnl_link *link = rtnl_link_veth_alloc();
	_cleanup_(nl_addr_putp) struct nl_addr *mac_address = NULL;
	struct rtnl_link *peer; /* of link */
	uint8_t mac[6];
	int r;

	address_to_mac(address, mac);
	mac_address = nl_addr_build(AF_LLC, mac, sizeof(mac));
	peer = link ? rtnl_link_veth_get_peer(link) : NULL;
	if (!peer || !mac_address)
		return err_oom(err);

	rtnl_link_set_name(link, name);
	rtnl_link_set_mtu(link, rtnl_link_get_mtu(bridge_link));
	rtnl_link_set_master(link, rtnl_link_get_ifindex(bridge_link));
	rtnl_link_set_name(peer, "eth0");
	rtnl_link_set_addr(peer, mac_address);
	rtnl_link_set_mtu(peer, rtnl_link_get_mtu(bridge_link));
	rtnl_link_set_ns_fd(peer, netns_fd);
	r = rtnl_link_add(sock, link, NLM_F_CREATE | NLM_F_EXCL);
	rtnl_link_put(peer); /* get_peer() took a reference */
	return r < 0 ? netlink_error(err, r, "create the link %s", name) : 0;
}

/* alias may be NULL. */
static int link_up(struct nl_sock *sock, const char *name, const char *alias, int *ret_ifindex,
                   struct err *err)
{
	_cleanup_(rtnl_link_putp) struct rtnl_link *link = rtnl_link_alloc();
	_cleanup_(rtnl_link_putp) struct rtnl_link *change = rtnl_link_alloc();
	unsigned ifindex = if_nametoindex(name);
	int r;

	if (!link || !change)
		return err_oom(err);
	if (!ifindex)
		return err_set(err, -errno, "find the link %s", name);
	rtnl_link_set_ifindex(link, (int)ifindex);
	rtnl_link_set_flags(change, IFF_UP);
	if (alias)
		rtnl_link_set_ifalias(change, alias);
	r = rtnl_link_change(sock, link, change, 0);
	if (r < 0)
		return netlink_error(err, r, "set the link %s up", name);
	if (ret_ifindex)
		*ret_ifindex = (int)ifindex;
	return 0;
}

/*
 * A container may call its own published port. Where bridged packets meet nft as well (the bridge
 * netfilter module), such a packet gets its new destination while it is on the bridge, and leaves
 * through the port that it came from, which bridges refuse without this.
 */
static int hairpin_allow(struct nl_sock *sock, const char *name, struct err *err)
{
	struct nl_msg *msg = nlmsg_alloc_simple(RTM_SETLINK, NLM_F_REQUEST);
	struct ifinfomsg link = {.ifi_family = AF_BRIDGE, .ifi_index = (int)if_nametoindex(name)};
	struct nlattr *port;
	int r;

	if (!msg)
		return err_oom(err);
	port = nlmsg_append(msg, &link, sizeof(link), NLMSG_ALIGNTO) == 0
	               ? nla_nest_start(msg, IFLA_PROTINFO | NLA_F_NESTED)
	               : NULL;
	if (!port || nla_put_u8(msg, IFLA_BRPORT_MODE, 1) < 0) {
		nlmsg_free(msg);
		return err_oom(err);
	}
	nla_nest_end(msg, port);
	r = nl_send_sync(sock, msg); /* takes msg */
	return r < 0 ? netlink_error(err, r, "set the hairpin mode of %s", name) : 0;
}

static int address_add(struct nl_sock *sock, int ifindex, const struct bridge *bridge,
                       uint32_t address, struct err *err)
{
	_cleanup_(rtnl_addr_putp) struct rtnl_addr *wanted = rtnl_addr_alloc();
	_cleanup_(nl_addr_putp) struct nl_addr *local = netlink_address(address, bridge->prefix);
	_cleanup_(nl_addr_putp) struct nl_addr *broadcast =
		netlink_address(bridge->subnet | (UINT32_MAX >> bridge->prefix), 32);
	int r;

	if (!wanted || !local || !broadcast)
		return err_oom(err);
	rtnl_addr_set_ifindex(wanted, ifindex);
	rtnl_addr_set_local(wanted, local);
	rtnl_addr_set_broadcast(wanted, broadcast);
	r = rtnl_addr_add(sock, wanted, NLM_F_EXCL);
	return r < 0 ? netlink_error(err, r, "give eth0 its address") : 0;
}

static int default_route_add(struct nl_sock *sock, int ifindex, const struct bridge *bridge,
                             struct err *err)
{
	_cleanup_(rtnl_route_putp) struct rtnl_route *route = rtnl_route_alloc();
	_cleanup_(nl_addr_putp) struct nl_addr *anywhere = netlink_address(0, 0);
	_cleanup_(nl_addr_putp) struct nl_addr *gateway = netlink_address(bridge->address, 32);
	struct rtnl_nexthop *hop; /* of route */
	int r;

	hop = route ? rtnl_route_nh_alloc() : NULL;
	if (hop)
		rtnl_route_add_nexthop(route, hop);
	if (!hop || !anywhere || !gateway || rtnl_route_set_dst(route, anywhere) < 0)
		return err_oom(err);
	rtnl_route_nh_set_ifindex(hop, ifindex);
	rtnl_route_nh_set_gateway(hop, gateway);
	r = rtnl_route_add(sock, route, NLM_F_CREATE | NLM_F_EXCL);
	return r < 0 ? netlink_error(err, r, "add the default route") : 0;
}

struct inner_end {
	const struct bridge *bridge;
	uint32_t address;
};

/* Runs in the namespace. */
static int inner_end_fill(void *arg, struct err *err)
{
	const struct inner_end *end = arg;
	_cleanup_(nl_socket_freep) struct nl_sock *sock = NULL;
	int ifindex = 0;
	int r;

	r = netlink_open(&sock, err);
	if (r == 0)
		r = ipv6_disable("eth0", err);
	if (r == 0)
		r = link_up(sock, "eth0", NULL, &ifindex, err);
	if (r == 0)
		r = address_add(sock, ifindex, end->bridge, end->address, err);
	if (r == 0)
		r = default_route_add(sock, ifindex, end->bridge, err);
	return r;
}

int veth_create(const struct bridge *bridge, struct nl_sock *sock, const char *id, int netns_fd,
                uint32_t address, char *mac, struct err *err)
{
	_cleanup_(rtnl_link_putp) struct rtnl_link *bridge_link = NULL;
	struct inner_end end = {.bridge = bridge, .address = address};
	int bridge_ifindex = (int)if_nametoindex(bridge->name);
	char name[IFNAMSIZ];
	uint8_t bytes[6];
	int r;

	if (!bridge_ifindex)
		return err_text(err, -ENOENT, "there is no bridge %s: \"host\" makes it",
		                bridge->name);
	r = rtnl_link_get_kernel(sock, bridge_ifindex, NULL, &bridge_link);
	if (r < 0)
		return netlink_error(err, r, "find the bridge %s", bridge->name);
	veth_name(id, name);
	r = pair_create(sock, bridge_link, name, netns_fd, address, err);
	if (r < 0)
		return r;

	r = ipv6_disable(name, err);
	if (r == 0)
		r = hairpin_allow(sock, name, err);
	if (r == 0)
		r = link_up(sock, name, id, NULL, err);
	if (r == 0)
		r = netns_run(netns_fd, inner_end_fill, &end, err);
	if (r < 0) {
		(void)veth_remove(sock, id, NULL);
		return r;
	}

	address_to_mac(address, bytes);
	snprintf(mac, MAC_TEXT_MAX, "%02x:%02x:%02x:%02x:%02x:%02x", bytes[0], bytes[1], bytes[2],
	         bytes[3], bytes[4], bytes[5]);
	return 0;
}

int veth_remove(struct nl_sock *sock, const char *id, struct err *err)
{
	_cleanup_(rtnl_link_putp) struct rtnl_link *link = rtnl_link_alloc();
	char name[IFNAMSIZ];
	unsigned ifindex;
	int r;

	veth_name(id, name);
	ifindex = if_nametoindex(name);
	if (!ifindex)
		return errno == ENODEV ? 0 : err_set(err, -errno, "find the link %s", name);
	if (!link)
		return err_oom(err);
	rtnl_link_set_ifindex(link, (int)ifindex);
	r = rtnl_link_delete(sock, link);
	if (r == -NLE_NODEV || r == -NLE_OBJ_NOTFOUND)
		return 0; /* its namespace has just ended */
	return r < 0 ? netlink_error(err, r, "remove the link %s", name) : 1;
}

/* The container that a link belongs to, or NULL if it is none of ours. id: CONTAINER_ID_LENGTH + 1
 * bytes. */
static const char *link_container(struct rtnl_link *link, int bridge_ifindex, char *id)
{
	const char *name = rtnl_link_get_name(link);
	const char *alias = rtnl_link_get_ifalias(link);
	size_t prefix = strlen(NAME_PREFIX);

	if (rtnl_link_get_master(link) != bridge_ifindex || !name ||
	    strncmp(name, NAME_PREFIX, prefix) != 0 ||
	    !name_is_hex(name + prefix, ID_DIGITS_IN_NAME))
		return NULL;
	if (alias && name_is_hex(alias, CONTAINER_ID_LENGTH) &&
	    strncmp(alias, name + prefix, ID_DIGITS_IN_NAME) == 0)
		snprintf(id, CONTAINER_ID_LENGTH + 1, "%s", alias);
	else
		snprintf(id, CONTAINER_ID_LENGTH + 1, "%s", name + prefix);
	return id;
}

int veth_foreach(const struct bridge *bridge, struct nl_sock *sock,
                 int (*fn)(const char *id, void *userdata, struct err *err), void *userdata,
                 struct err *err)
{
	_cleanup_(nl_cache_freep) struct nl_cache *links = NULL;
	int bridge_ifindex = (int)if_nametoindex(bridge->name);
	char id[CONTAINER_ID_LENGTH + 1];
	int r;

	if (!bridge_ifindex)
		return 0;
	r = rtnl_link_alloc_cache(sock, AF_UNSPEC, &links);
	if (r < 0)
		return netlink_error(err, r, "list links");
	for (struct nl_object *o = nl_cache_get_first(links); o; o = nl_cache_get_next(o)) {
		if (!link_container((struct rtnl_link *)o, bridge_ifindex, id))
			continue;
		r = fn(id, userdata, err);
		if (r < 0)
			return r;
	}
	return 0;
}
