/* Conntrack netlink: list the flows of one UDP port, delete some of them. */
#include "netns/conntrack.h"

#include "lib/cleanup.h"
#include "netns/netlink.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <stdlib.h>
#include <string.h>

/* Bits of CTA_FILTER_ORIG_FLAGS, which the kernel's headers do not give to programs: those of
 * net/netfilter/nf_internals.h since Linux 5.8. */
#define FILTER_PROTO_NUM      (1u << 3)
#define FILTER_PROTO_DST_PORT (1u << 5)

#define FLOWS_MAX 65536 /* at a time: 2 MiB */

struct flow {
	uint32_t source, destination; /* as the first datagram said; network byte order */
	uint16_t source_port, destination_port;
	uint32_t reply_source; /* who answers */
	uint16_t zone;
	uint32_t id;
};

struct flows {
	struct flow *flow;
	size_t n;
	bool is_out_of_memory;
};

static struct nl_msg *request_new(uint8_t type, int flags)
{
	struct nl_msg *msg = nlmsg_alloc_simple(NFNL_SUBSYS_CTNETLINK << 8 | type, flags);
	struct nfgenmsg header = {.nfgen_family = AF_INET, .version = NFNETLINK_V0};

	if (msg && nlmsg_append(msg, &header, sizeof(header), NLMSG_ALIGNTO) < 0) {
		nlmsg_free(msg);
		return NULL;
	}
	return msg;
}

static int tuple_parse(struct nlattr *tuple, struct nlattr **ip, struct nlattr **proto)
{
	struct nlattr *parts[CTA_TUPLE_MAX + 1];

	if (!tuple || nla_parse_nested(parts, CTA_TUPLE_MAX, tuple, NULL) < 0 ||
	    !parts[CTA_TUPLE_IP] || !parts[CTA_TUPLE_PROTO] ||
	    nla_parse_nested(ip, CTA_IP_MAX, parts[CTA_TUPLE_IP], NULL) < 0 ||
	    nla_parse_nested(proto, CTA_PROTO_MAX, parts[CTA_TUPLE_PROTO], NULL) < 0 ||
	    !ip[CTA_IP_V4_SRC] || !ip[CTA_IP_V4_DST] || !proto[CTA_PROTO_NUM] ||
	    nla_get_u8(proto[CTA_PROTO_NUM]) != IPPROTO_UDP || !proto[CTA_PROTO_SRC_PORT] ||
	    !proto[CTA_PROTO_DST_PORT])
		return NL_SKIP;
	return NL_OK;
}

static int flow_parse(struct nl_msg *msg, struct flow *ret)
{
	struct nlattr *attrs[CTA_MAX + 1], *ip[CTA_IP_MAX + 1], *proto[CTA_PROTO_MAX + 1];

	if (nlmsg_parse(nlmsg_hdr(msg), sizeof(struct nfgenmsg), attrs, CTA_MAX, NULL) < 0 ||
	    tuple_parse(attrs[CTA_TUPLE_REPLY], ip, proto) != NL_OK)
		return NL_SKIP;
	ret->reply_source = nla_get_u32(ip[CTA_IP_V4_SRC]);
	if (tuple_parse(attrs[CTA_TUPLE_ORIG], ip, proto) != NL_OK || !attrs[CTA_ID])
		return NL_SKIP;
	ret->source = nla_get_u32(ip[CTA_IP_V4_SRC]);
	ret->destination = nla_get_u32(ip[CTA_IP_V4_DST]);
	ret->source_port = nla_get_u16(proto[CTA_PROTO_SRC_PORT]);
	ret->destination_port = nla_get_u16(proto[CTA_PROTO_DST_PORT]);
	ret->id = nla_get_u32(attrs[CTA_ID]);
	ret->zone = attrs[CTA_ZONE] ? nla_get_u16(attrs[CTA_ZONE]) : 0;
	return NL_OK;
}

static int flow_collect(struct nl_msg *msg, void *userdata)
{
	struct flows *flows = userdata;
	struct flow flow = {0};
	struct flow *grown;

	if (flows->n == FLOWS_MAX || flow_parse(msg, &flow) != NL_OK)
		return NL_SKIP;
	if ((flows->n & (flows->n - 1)) == 0) { /* full at each power of two */
		grown = reallocarray(flows->flow, flows->n ? 2 * flows->n : 1, sizeof(*grown));
		if (!grown) {
			flows->is_out_of_memory = true;
			return NL_STOP;
		}
		flows->flow = grown;
	}
	flows->flow[flows->n++] = flow;
	return NL_OK;
}

/* The nested attributes of a tuple; the source only for an exact one. */
static int tuple_put(struct nl_msg *msg, const struct flow *flow, bool is_exact)
{
	struct nlattr *tuple = nla_nest_start(msg, CTA_TUPLE_ORIG | NLA_F_NESTED);
	struct nlattr *part;
	int r = tuple ? 0 : -1;

	if (r == 0 && is_exact) {
		part = nla_nest_start(msg, CTA_TUPLE_IP | NLA_F_NESTED);
		r = part ? 0 : -1;
		r |= nla_put_u32(msg, CTA_IP_V4_SRC, flow->source);
		r |= nla_put_u32(msg, CTA_IP_V4_DST, flow->destination);
		if (part)
			nla_nest_end(msg, part);
	}
	part = r == 0 ? nla_nest_start(msg, CTA_TUPLE_PROTO | NLA_F_NESTED) : NULL;
	if (!part)
		return -1;
	r = nla_put_u8(msg, CTA_PROTO_NUM, IPPROTO_UDP);
	if (is_exact)
		r |= nla_put_u16(msg, CTA_PROTO_SRC_PORT, flow->source_port);
	r |= nla_put_u16(msg, CTA_PROTO_DST_PORT, flow->destination_port);
	nla_nest_end(msg, part);
	nla_nest_end(msg, tuple);
	return r;
}

static int filter_put(struct nl_msg *msg)
{
	struct nlattr *filter = nla_nest_start(msg, CTA_FILTER | NLA_F_NESTED);
	int r = filter ? 0 : -1;

	r |= nla_put_u32(msg, CTA_FILTER_ORIG_FLAGS, FILTER_PROTO_NUM | FILTER_PROTO_DST_PORT);
	r |= nla_put_u32(msg, CTA_FILTER_REPLY_FLAGS, 0);
	if (filter)
		nla_nest_end(msg, filter);
	return r;
}

static int flows_list(struct nl_sock *sock, uint16_t port, struct flows *flows, struct err *err)
{
	struct nl_msg *msg = request_new(IPCTNL_MSG_CT_GET, NLM_F_REQUEST | NLM_F_DUMP);
	struct flow wanted = {.destination_port = htons(port)};
	int r;

	if (!msg || tuple_put(msg, &wanted, false) < 0 || filter_put(msg) < 0) {
		nlmsg_free(msg);
		return err_oom(err);
	}
	r = nl_send_auto(sock, msg);
	nlmsg_free(msg);
	if (r >= 0)
		r = nl_recvmsgs_default(sock);
	if (flows->is_out_of_memory)
		return err_oom(err);
	return r < 0 ? netlink_error(err, r, "list the flows to UDP port %u", port) : 0;
}

static int flow_delete(struct nl_sock *sock, const struct flow *flow, struct err *err)
{
	struct nl_msg *msg = request_new(IPCTNL_MSG_CT_DELETE, NLM_F_REQUEST | NLM_F_ACK);
	int r;

	if (!msg || (flow->zone && nla_put_u16(msg, CTA_ZONE, flow->zone) < 0) ||
	    tuple_put(msg, flow, true) < 0 || nla_put_u32(msg, CTA_ID, flow->id) < 0) {
		nlmsg_free(msg);
		return err_oom(err);
	}
	r = nl_send_sync(sock, msg); /* takes msg */
	if (r == -NLE_OBJ_NOTFOUND)
		return 0; /* it has just expired */
	return r < 0 ? netlink_error(err, r, "forget a flow to UDP port %u",
	                             ntohs(flow->destination_port))
	             : 0;
}

static bool is_address_of(const struct ifaddrs *interfaces, uint32_t address)
{
	if ((ntohl(address) >> 24) == 127)
		return true;
	for (const struct ifaddrs *i = interfaces; i; i = i->ifa_next) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)i->ifa_addr;

		if (in && in->sin_family == AF_INET && in->sin_addr.s_addr == address)
			return true;
	}
	return false;
}

/* Which flows to forget: those that lead to the container, or those of the host that do not. */
struct choice {
	uint32_t address; /* of the container, in network byte order */
	bool own;
	struct ifaddrs *interfaces; /* of the host, unless own */
};

static bool is_chosen(const struct choice *choice, const struct flow *flow)
{
	bool is_own = flow->reply_source == choice->address;

	return choice->own ? is_own
	                   : !is_own && is_address_of(choice->interfaces, flow->destination);
}

/* Returns how many there were to be looked at, not more than FLOWS_MAX, or -errno. */
static int flows_forget_some(struct nl_sock *sock, uint16_t port, const struct choice *choice,
                             size_t *ret_forgotten, struct err *err)
{
	struct flows flows = {0};
	int r;

	*ret_forgotten = 0;
	nl_socket_modify_cb(sock, NL_CB_VALID, NL_CB_CUSTOM, flow_collect, &flows);
	r = flows_list(sock, port, &flows, err);
	for (size_t i = 0; r == 0 && i < flows.n; i++) {
		if (flows.flow[i].destination_port != htons(port) ||
		    !is_chosen(choice, &flows.flow[i]))
			continue;
		r = flow_delete(sock, &flows.flow[i], err);
		++*ret_forgotten;
	}
	free(flows.flow);
	return r < 0 ? r : (int)flows.n;
}

static int flows_forget(uint16_t port, struct choice *choice, struct err *err)
{
	_cleanup_(nl_socket_freep) struct nl_sock *sock = nl_socket_alloc();
	size_t forgotten;
	int r;

	if (!sock)
		return err_oom(err);
	r = nl_connect(sock, NETLINK_NETFILTER);
	if (r < 0)
		return netlink_error(err, r, "netlink socket");
	do
		r = flows_forget_some(sock, port, choice, &forgotten, err);
	while (r == FLOWS_MAX && forgotten > 0);
	return r < 0 ? r : 0;
}

int conntrack_forget_others(const struct port_mapping *mapping, uint32_t address, struct err *err)
{
	struct choice choice = {.address = htonl(address)};
	int r;

	if (mapping->protocol != IPPROTO_UDP)
		return 0;
	if (getifaddrs(&choice.interfaces) < 0)
		return err_set(err, -errno, "list addresses");
	r = flows_forget(mapping->host_port, &choice, err);
	freeifaddrs(choice.interfaces);
	return r;
}

int conntrack_forget_own(const struct port_mapping *mapping, uint32_t address, struct err *err)
{
	struct choice choice = {.address = htonl(address), .own = true};

	return mapping->protocol == IPPROTO_UDP ? flows_forget(mapping->host_port, &choice, err)
	                                        : 0;
}
