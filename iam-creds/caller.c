/* One question to sock_diag for one socket; the kernel answers within the send. */
#include "iam-creds/caller.h"

#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef INET_DIAG_CGROUP_ID
#	define INET_DIAG_CGROUP_ID 21
#endif

struct question {
	struct nlmsghdr header;
	struct inet_diag_req_v2 body;
};

int caller_open(struct err *err)
{
	int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);

	return fd < 0 ? err_set(err, -errno, "open a sock_diag socket") : fd;
}

static int find_cgroup(const struct nlmsghdr *header, uint64_t *ret)
{
	const struct inet_diag_msg *msg = NLMSG_DATA(header);
	int left = (int)(header->nlmsg_len - NLMSG_LENGTH(sizeof(*msg)));

	for (const struct rtattr *attr = (const struct rtattr *)(msg + 1); RTA_OK(attr, left);
	     attr = RTA_NEXT(attr, left)) {
		if (attr->rta_type != INET_DIAG_CGROUP_ID || RTA_PAYLOAD(attr) != sizeof(*ret))
			continue;
		memcpy(ret, RTA_DATA(attr), sizeof(*ret));
		return 0;
	}
	return -ENODATA;
}

static int read_answer(const char *buf, size_t n, uint32_t seq, uint64_t *ret, uid_t *ret_uid)
{
	const struct nlmsghdr *header = (const struct nlmsghdr *)buf;

	if (n < sizeof(*header) || header->nlmsg_len > n || header->nlmsg_len < sizeof(*header))
		return -EPROTO;
	if (header->nlmsg_seq != seq)
		return -EAGAIN; /* of an earlier question */
	if (header->nlmsg_type == NLMSG_ERROR) {
		const struct nlmsgerr *error = NLMSG_DATA(header);

		if (header->nlmsg_len < NLMSG_LENGTH(sizeof(*error)) || error->error >= 0)
			return -EPROTO;
		return error->error;
	}
	if (header->nlmsg_type != SOCK_DIAG_BY_FAMILY ||
	    header->nlmsg_len < NLMSG_LENGTH(sizeof(struct inet_diag_msg)))
		return -EPROTO;
	*ret_uid = ((const struct inet_diag_msg *)NLMSG_DATA(header))->idiag_uid;
	return find_cgroup(header, ret);
}

int caller_cgroup(int diag_fd, const struct sockaddr_in *peer, const struct sockaddr_in *local,
                  uint64_t *ret_cgroup_id, uid_t *ret_uid)
{
	static uint32_t seq;
	struct question q = {
		.header = {.nlmsg_len = sizeof(q),
	                   .nlmsg_type = SOCK_DIAG_BY_FAMILY,
	                   .nlmsg_flags = NLM_F_REQUEST,
	                   .nlmsg_seq = ++seq},
		.body = {.sdiag_family = AF_INET,
	                 .sdiag_protocol = IPPROTO_TCP,
	                 .idiag_states = ~0u,
	                 .id = {.idiag_sport = peer->sin_port,
	                        .idiag_dport = local->sin_port,
	                        .idiag_src = {peer->sin_addr.s_addr},
	                        .idiag_dst = {local->sin_addr.s_addr},
	                        .idiag_cookie = {INET_DIAG_NOCOOKIE, INET_DIAG_NOCOOKIE}}},
	};
	char buf[4096] __attribute__((aligned(NLMSG_ALIGNTO)));
	ssize_t n;
	int r;

	if (send(diag_fd, &q, sizeof(q), 0) < 0)
		return -errno;
	do {
		n = recv(diag_fd, buf, sizeof(buf), 0);
		if (n < 0)
			return errno == EAGAIN ? -ENODATA : -errno;
		r = read_answer(buf, (size_t)n, q.header.nlmsg_seq, ret_cgroup_id, ret_uid);
	} while (r == -EAGAIN);
	return r;
}
