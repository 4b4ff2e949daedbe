/* Route netlink through libnl, with errors in our way. Only ecs-network links this. */
#pragma once

#include "lib/cleanup.h"
#include "lib/err.h"

#include <netlink/netlink.h>
#include <netlink/route/addr.h>
#include <netlink/route/link.h>
#include <netlink/route/route.h>
#include <netlink/socket.h>

DEFINE_CLEANUP(struct nl_sock *, nl_socket_free)
DEFINE_CLEANUP(struct nl_cache *, nl_cache_free)
DEFINE_CLEANUP(struct nl_addr *, nl_addr_put)
DEFINE_CLEANUP(struct rtnl_link *, rtnl_link_put)
DEFINE_CLEANUP(struct rtnl_addr *, rtnl_addr_put)
DEFINE_CLEANUP(struct rtnl_route *, rtnl_route_put)
DEFINE_CLEANUP(struct rtnl_nexthop *, rtnl_route_nh_free)

/* A socket of the namespace that the thread is in; it stays of that namespace. */
int netlink_open(struct nl_sock **ret, struct err *err);

/* nle: a negative NLE_* code. Describes it, with libnl's words, and returns it as a negative
 * errno: those that callers branch on (EEXIST, ENODEV, ENOENT, EPERM, EBUSY), else -EIO. */
int netlink_error(struct err *err, int nle, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* An IPv4 address in host byte order with a prefix; NULL when out of memory. */
struct nl_addr *netlink_address(uint32_t address, unsigned prefix);
