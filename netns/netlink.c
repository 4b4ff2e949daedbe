/* libnl returns codes of its own. They become errnos here and nowhere else. */
#include "netns/netlink.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netlink/errno.h>
#include <stdarg.h>
#include <stdio.h>

static int errno_of(int nle)
{
	switch (-nle) {
	case NLE_EXIST:
		return -EEXIST;
	case NLE_NODEV:
		return -ENODEV;
	case NLE_OBJ_NOTFOUND:
		return -ENOENT;
	case NLE_PERM:
	case NLE_NOACCESS:
		return -EPERM;
	case NLE_BUSY:
		return -EBUSY;
	case NLE_NOMEM:
		return -ENOMEM;
	case NLE_INVAL:
		return -EINVAL;
	default:
		return -EIO;
	}
}

int netlink_error(struct err *err, int nle, const char *fmt, ...)
{
	char what[200];
	va_list args;

	va_start(args, fmt);
	vsnprintf(what, sizeof(what), fmt, args);
	va_end(args);
	return err_text(err, errno_of(nle), "%s: %s", what, nl_geterror(nle));
}

int netlink_open(struct nl_sock **ret, struct err *err)
{
	_cleanup_(nl_socket_freep) struct nl_sock *sock = nl_socket_alloc();
	int r;

	if (!sock)
		return err_oom(err);
	r = nl_connect(sock, NETLINK_ROUTE);
	if (r < 0)
		return netlink_error(err, r, "netlink socket");
	*ret = TAKE_PTR(sock);
	return 0;
}

struct nl_addr *netlink_address(uint32_t address, unsigned prefix)
{
	uint32_t bytes = htonl(address);
	struct nl_addr *addr = nl_addr_build(AF_INET, &bytes, sizeof(bytes));

	if (addr)
		nl_addr_set_prefixlen(addr, (int)prefix);
	return addr;
}
