/*
 * The nft table, through libnftables: its rules as nft's own language, which is what people know
 * them by (and the JSON of libnftables 1.0.6 cannot declare a map with concatenated values);
 * elements and listings as JSON.
 */
#include "netns/firewall.h"

#include "lib/json.h"
#include "netns/endpoint.h"
#include "netns/netlink.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <netlink/msg.h>
#include <nftables/libnftables.h>
#include <stdio.h>
#include <string.h>

#define LIST_MAX_BYTES (64u * 1024 * 1024) /* 65535 ports of two protocols, and to spare */

/*
 * Listing thousands of ports through libnftables takes tens of milliseconds, and each attach and
 * detach looks at them. So the last listing is kept with the generation of the ruleset, a number
 * that the kernel counts up with each transaction, whoever makes it.
 */
struct listing {
	struct published_port *ports;
	size_t n;
	bool has_table;
	uint32_t generation; /* 0: there is none */
};

struct firewall {
	const struct bridge *bridge;
	struct nft_ctx *nft;
	struct nl_sock *sock; /* for the generation */
	char table[sizeof("ecs_") + IFNAMSIZ];
	struct listing known;
};

/*
 * guard, before connection tracking: packets from the bridge have an address of the subnet, so
 * neither 127.0.0.1 nor that of the credentials endpoint, and do not go to either of them. This is
 * what makes route_localnet safe on the bridge (CVE-2020-8558).
 *
 * destination, and the same for the host's own packets: published ports on any address of the
 * host, also 127.0.0.1; but the host's credentials endpoint keeps its port 80.
 *
 * source: outbound traffic gets the host's address. Through published ports, the host's 127.0.0.1
 * and the containers themselves get the bridge's, or answers would not come back this way.
 *
 * forward: from outside only what belongs to a connection from inside, or came through a published
 * port: not what a neighbour of the host has routed here.
 */
static const char table_rules[] =
	"add table ip %1$s\n"
	"add map ip %1$s ports { type inet_proto . inet_service : ipv4_addr . inet_service; }\n"
	"add chain ip %1$s guard { type filter hook prerouting priority -300; }\n"
	"add chain ip %1$s destination { type nat hook prerouting priority -100; }\n"
	"add chain ip %1$s destination_local { type nat hook output priority -100; }\n"
	"add chain ip %1$s source { type nat hook postrouting priority 100; }\n"
	"add chain ip %1$s forward { type filter hook forward priority 0; }\n"
	"flush table ip %1$s\n"
	"add rule ip %1$s guard iifname \"%2$s\" ip saddr != %3$s drop\n"
	"add rule ip %1$s guard iifname \"%2$s\""
	" ip daddr { 127.0.0.0/8, " ENDPOINT_ADDRESS " } drop\n"
	"add rule ip %1$s destination fib daddr type local ip daddr != " ENDPOINT_ADDRESS
	" dnat ip to meta l4proto . th dport map @ports\n"
	"add rule ip %1$s destination_local fib daddr type local ip daddr != " ENDPOINT_ADDRESS
	" dnat ip to meta l4proto . th dport map @ports\n"
	"add rule ip %1$s source oifname != { \"%2$s\", \"lo\" } ip saddr %3$s masquerade\n"
	"add rule ip %1$s source oifname \"%2$s\" ip saddr 127.0.0.0/8 masquerade\n"
	"add rule ip %1$s source oifname \"%2$s\" ip saddr %3$s ct status dnat masquerade\n"
	"add rule ip %1$s forward ct state established,related accept\n"
	"add rule ip %1$s forward oifname \"%2$s\" iifname != \"%2$s\" ct status dnat accept\n"
	"add rule ip %1$s forward oifname \"%2$s\" iifname != \"%2$s\" drop\n";

static int elements_change(struct firewall *firewall, const struct published_port *gone,
                           size_t n_gone, const struct published_port *added, size_t n_added,
                           struct err *err);

int firewall_new(const struct bridge *bridge, struct firewall **ret, struct err *err)
{
	_cleanup_(firewall_freep) struct firewall *firewall = calloc(1, sizeof(*firewall));
	int r;

	if (!firewall)
		return err_oom(err);
	firewall->bridge = bridge;
	snprintf(firewall->table, sizeof(firewall->table), "ecs_%s", bridge->name);
	firewall->nft = nft_ctx_new(NFT_CTX_DEFAULT);
	if (!firewall->nft || nft_ctx_buffer_output(firewall->nft) != 0 ||
	    nft_ctx_buffer_error(firewall->nft) != 0)
		return err_text(err, -EIO, "set up libnftables");
	firewall->sock = nl_socket_alloc();
	if (!firewall->sock)
		return err_oom(err);
	nl_socket_disable_auto_ack(firewall->sock); /* the answer is all that comes */
	r = nl_connect(firewall->sock, NETLINK_NETFILTER);
	if (r < 0)
		return netlink_error(err, r, "netlink socket of nftables");
	*ret = TAKE_PTR(firewall);
	return 0;
}

struct firewall *firewall_free(struct firewall *firewall)
{
	if (!firewall)
		return NULL;
	nl_socket_freep(&firewall->sock);
	free(firewall->known.ports);
	if (firewall->nft)
		nft_ctx_free(firewall->nft);
	free(firewall);
	return NULL;
}

/* One transaction. libnftables reports in words only; its first line is what went wrong. */
static int transaction_run(struct firewall *firewall, unsigned flags, const char *commands,
                           struct err *err)
{
	const char *words;
	int r;

	nft_ctx_output_set_flags(firewall->nft, flags);
	r = nft_run_cmd_from_buffer(firewall->nft, commands);
	words = nft_ctx_get_error_buffer(firewall->nft); /* also empties it */
	if (r == 0)
		return 0;
	return err_text(err, strstr(words, strerror(ENOENT)) ? -ENOENT : -EIO,
	                "nft table ip %s: %.*s", firewall->table, (int)strcspn(words, "\n"), words);
}

static int generation_parse(struct nl_msg *msg, void *userdata)
{
	struct nlattr *attrs[NFTA_GEN_MAX + 1];

	if (nlmsg_parse(nlmsg_hdr(msg), sizeof(struct nfgenmsg), attrs, NFTA_GEN_MAX, NULL) < 0 ||
	    !attrs[NFTA_GEN_ID])
		return NL_SKIP;
	*(uint32_t *)userdata = ntohl(nla_get_u32(attrs[NFTA_GEN_ID]));
	return NL_OK;
}

/* The ruleset's generation now; 0, which is none, if the kernel does not say. */
static uint32_t generation_get(struct firewall *firewall)
{
	struct nl_msg *msg =
		nlmsg_alloc_simple(NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN, NLM_F_REQUEST);
	struct nfgenmsg header = {.nfgen_family = AF_UNSPEC, .version = NFNETLINK_V0};
	uint32_t generation = 0;
	int r;

	if (!msg)
		return 0;
	nl_socket_modify_cb(firewall->sock, NL_CB_VALID, NL_CB_CUSTOM, generation_parse,
	                    &generation);
	r = nlmsg_append(msg, &header, sizeof(header), NLMSG_ALIGNTO);
	if (r == 0)
		r = nl_send_auto(firewall->sock, msg);
	nlmsg_free(msg);
	if (r >= 0)
		r = nl_recvmsgs_default(firewall->sock);
	return r < 0 ? 0 : generation;
}

static int table_create(struct firewall *firewall, const char *before, struct err *err)
{
	char subnet[BRIDGE_ADDRESS_TEXT_MAX];
	_cleanup_free_ char *rules = NULL;
	_cleanup_free_ char *commands = NULL;

	if (asprintf(&rules, table_rules, firewall->table, firewall->bridge->name,
	             bridge_subnet_to_string(firewall->bridge, subnet)) < 0) {
		rules = NULL;
		return err_oom(err);
	}
	if (asprintf(&commands, "%s%s", before, rules) < 0) {
		commands = NULL;
		return err_oom(err);
	}
	return transaction_run(firewall, 0, commands, err);
}

/* A table whose chains are of another version cannot be put right in place. */
static int table_replace(struct firewall *firewall, struct err *err)
{
	_cleanup_free_ struct published_port *ports = NULL;
	char drop_table[100];
	size_t n = 0;
	int r = firewall_list(firewall, &ports, &n, err);

	if (r < 0)
		return r;
	snprintf(drop_table, sizeof(drop_table), "add table ip %s\ndelete table ip %s\n",
	         firewall->table, firewall->table);
	r = table_create(firewall, drop_table, err);
	return r < 0 || n == 0 ? r : elements_change(firewall, NULL, 0, ports, n, err);
}

int firewall_create(struct firewall *firewall, bool *ret_created, struct err *err)
{
	char list_map[100];
	int r;

	snprintf(list_map, sizeof(list_map), "list map ip %s ports", firewall->table);
	r = transaction_run(firewall, NFT_CTX_OUTPUT_TERSE, list_map, NULL);
	*ret_created = r < 0;
	(void)nft_ctx_get_output_buffer(firewall->nft); /* empties it */

	r = table_create(firewall, "", NULL);
	return r < 0 ? table_replace(firewall, err) : 0;
}

int firewall_remove(struct firewall *firewall, struct err *err)
{
	char commands[100];

	snprintf(commands, sizeof(commands), "add table ip %s\ndelete table ip %s\n",
	         firewall->table, firewall->table);
	return transaction_run(firewall, 0, commands, err);
}

/* [{"elem":{"val":{"concat":["tcp",8080]},"comment":"<id>"}},{"concat":["172.29.0.5",80]}] */
static int element_parse(struct json_object *pair, struct published_port *ret)
{
	struct json_object *elem, *key, *value;
	struct in_addr address;
	const char *id, *protocol;

	if (!json_object_is_type(pair, json_type_array) || json_object_array_length(pair) != 2)
		return -EINVAL;
	elem = json_get(json_object_array_get_idx(pair, 0), "elem");
	key = json_get(json_get(elem, "val"), "concat");
	value = json_get(json_object_array_get_idx(pair, 1), "concat");
	id = json_text(elem, "comment");
	if (!json_object_is_type(key, json_type_array) || json_object_array_length(key) != 2 ||
	    !json_object_is_type(value, json_type_array) || json_object_array_length(value) != 2 ||
	    !id || strlen(id) > CONTAINER_ID_LENGTH ||
	    inet_pton(AF_INET, json_object_get_string(json_object_array_get_idx(value, 0)),
	              &address) != 1)
		return -EINVAL;

	protocol = json_object_get_string(json_object_array_get_idx(key, 0));
	snprintf(ret->id, sizeof(ret->id), "%s", id);
	ret->address = ntohl(address.s_addr);
	ret->mapping = (struct port_mapping){
		.protocol = strcmp(protocol, "udp") == 0 ? IPPROTO_UDP : IPPROTO_TCP,
		.host_port = (uint16_t)json_object_get_int(json_object_array_get_idx(key, 1)),
		.container_port =
			(uint16_t)json_object_get_int(json_object_array_get_idx(value, 1)),
	};
	return 0;
}

/* Elements without a comment are not ours, and left alone. */
static int listing_parse(struct json_object *listing, struct listing *ret, struct err *err)
{
	struct json_object *objects = json_get(listing, "nftables");
	struct json_object *elements = NULL;
	_cleanup_free_ struct published_port *ports = NULL;
	size_t n = 0;

	for (size_t i = 0; objects && i < json_object_array_length(objects); i++) {
		struct json_object *map = json_get(json_object_array_get_idx(objects, i), "map");

		elements = map ? json_get(map, "elem") : elements;
	}
	if (elements) {
		ports = calloc(json_object_array_length(elements), sizeof(*ports));
		if (!ports)
			return err_oom(err);
		for (size_t i = 0; i < json_object_array_length(elements); i++)
			if (element_parse(json_object_array_get_idx(elements, i), &ports[n]) == 0)
				n++;
	}
	*ret = (struct listing){.ports = TAKE_PTR(ports), .n = n, .has_table = true};
	return 0;
}

static int ports_read(struct firewall *firewall, struct listing *ret, struct err *err)
{
	_cleanup_json_ struct json_object *listing = NULL;
	const char *text;
	char command[100];
	int r;

	snprintf(command, sizeof(command), "list map ip %s ports", firewall->table);
	r = transaction_run(firewall, NFT_CTX_OUTPUT_JSON, command, err);
	text = nft_ctx_get_output_buffer(firewall->nft);
	if (r == -ENOENT) {
		*ret = (struct listing){0};
		return 0;
	}
	if (r < 0)
		return r;
	r = json_parse_object(text, strlen(text), LIST_MAX_BYTES, &listing, err);
	if (r < 0)
		return err_prefix(err, r, "listing of nft table ip %s", firewall->table);
	return listing_parse(listing, ret, err);
}

/* Bring the kept listing up to date. */
static int ports_know(struct firewall *firewall, struct err *err)
{
	struct listing *known = &firewall->known;
	struct listing now = {0};
	uint32_t generation = generation_get(firewall);
	int r;

	if (generation && generation == known->generation)
		return 0;
	r = ports_read(firewall, &now, err);
	if (r < 0)
		return r;
	free(known->ports);
	*known = now;
	if (generation_get(firewall) == generation)
		known->generation = generation;
	return 0;
}

int firewall_list(struct firewall *firewall, struct published_port **ret, size_t *ret_n,
                  struct err *err)
{
	struct published_port *copy;
	int r = ports_know(firewall, err);

	if (r < 0)
		return r;
	copy = calloc(firewall->known.n ? firewall->known.n : 1, sizeof(*copy));
	if (!copy)
		return err_oom(err);
	if (firewall->known.n)
		memcpy(copy, firewall->known.ports, firewall->known.n * sizeof(*copy));
	*ret = copy;
	*ret_n = firewall->known.n;
	return 0;
}

static bool is_same_host_port(const struct published_port *a, const struct published_port *b)
{
	return a->mapping.host_port == b->mapping.host_port &&
	       a->mapping.protocol == b->mapping.protocol;
}

/* What we have just changed, in the kept listing as well. */
static int known_change(struct listing *known, const struct published_port *gone, size_t n_gone,
                        const struct published_port *added, size_t n_added)
{
	struct published_port *grown;
	size_t kept = 0;

	for (size_t i = 0; i < known->n; i++) {
		bool is_gone = false;

		for (size_t j = 0; j < n_gone; j++)
			is_gone = is_gone || is_same_host_port(&known->ports[i], &gone[j]);
		if (!is_gone)
			known->ports[kept++] = known->ports[i];
	}
	known->n = kept;
	if (n_added == 0)
		return 0;
	grown = reallocarray(known->ports, kept + n_added, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	memcpy(&grown[kept], added, n_added * sizeof(*grown));
	known->ports = grown;
	known->n = kept + n_added;
	return 0;
}

/* {"concat":[a,b]}; takes both. */
static struct json_object *concat_new(struct json_object *a, struct json_object *b)
{
	struct json_object *pair = json_object_new_array();
	struct json_object *concat = json_object_new_object();

	if (json_append(pair, a) + json_append(pair, b) < 0 ||
	    json_add(concat, "concat", json_object_get(pair)) < 0) {
		json_object_put(concat);
		concat = NULL;
	}
	json_object_put(pair);
	return concat;
}

static struct json_object *element_new(const struct published_port *port)
{
	char address[BRIDGE_ADDRESS_TEXT_MAX];
	struct json_object *element = json_object_new_object();
	struct json_object *commented = json_object_new_object();
	struct json_object *pair = json_object_new_array();
	int r;

	r = json_add(
		commented, "val",
		concat_new(json_object_new_string(port_protocol_to_string(port->mapping.protocol)),
	                   json_object_new_int(port->mapping.host_port)));
	r |= json_add_string(commented, "comment", port->id);
	r |= json_add(element, "elem", commented);
	r |= json_append(pair, element);
	r |= json_append(
		pair, concat_new(json_object_new_string(address_to_string(port->address, address)),
	                         json_object_new_int(port->mapping.container_port)));
	if (r == 0)
		return pair;
	json_object_put(pair);
	return NULL;
}

/* Adds {"<verb>":{"element":{...}}} to the commands. */
static int command_add(struct json_object *commands, const char *verb,
                       const struct firewall *firewall, const struct published_port *ports,
                       size_t n)
{
	struct json_object *command = json_object_new_object();
	struct json_object *object = json_object_new_object();
	struct json_object *element = json_object_new_object();
	struct json_object *elements = json_object_new_array();
	int r = 0;

	for (size_t i = 0; i < n; i++)
		r |= json_append(elements, element_new(&ports[i]));
	r |= json_add_string(element, "family", "ip");
	r |= json_add_string(element, "table", firewall->table);
	r |= json_add_string(element, "name", "ports");
	r |= json_add(element, "elem", elements);
	r |= json_add(object, "element", element);
	r |= json_add(command, verb, object);
	return r | json_append(commands, command);
}

static int elements_change(struct firewall *firewall, const struct published_port *gone,
                           size_t n_gone, const struct published_port *added, size_t n_added,
                           struct err *err)
{
	_cleanup_json_ struct json_object *transaction = json_object_new_object();
	struct json_object *commands = json_object_new_array();
	uint32_t before = generation_get(firewall);
	int r;

	r = json_add(transaction, "nftables", commands);
	if (r == 0 && n_gone)
		r = command_add(commands, "delete", firewall, gone, n_gone);
	if (r == 0 && n_added)
		r = command_add(commands, "add", firewall, added, n_added);
	if (r < 0)
		return err_oom(err);
	r = transaction_run(firewall, NFT_CTX_OUTPUT_JSON, json_to_text(transaction, NULL), err);
	if (r < 0)
		return r;

	/* Ours was the only one since the listing, or the listing is out of date. */
	if (firewall->known.generation != before || generation_get(firewall) != before + 1 ||
	    known_change(&firewall->known, gone, n_gone, added, n_added) < 0)
		firewall->known.generation = 0;
	else
		firewall->known.generation = before + 1;
	return 0;
}

int firewall_repair(struct firewall *firewall, bool *ret_created, struct err *err)
{
	int r = ports_know(firewall, err);

	*ret_created = false;
	return r < 0 || firewall->known.has_table ? r : firewall_create(firewall, ret_created, err);
}

/* Make room: the table as it should be, without what is on these host ports. */
static int publish_over(struct firewall *firewall, const struct published_port *ports, size_t n,
                        bool *ret_created, struct err *err)
{
	_cleanup_free_ struct published_port *there = NULL;
	size_t n_there = 0, n_gone = 0;
	int r;

	r = firewall_create(firewall, ret_created, err);
	if (r == 0)
		r = firewall_list(firewall, &there, &n_there, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < n_there; i++)
		for (size_t j = 0; j < n; j++)
			if (is_same_host_port(&there[i], &ports[j])) {
				there[n_gone++] = there[i];
				break;
			}
	return elements_change(firewall, there, n_gone, ports, n, err);
}

int firewall_publish(struct firewall *firewall, const struct published_port *ports, size_t n,
                     bool *ret_created, struct err *err)
{
	*ret_created = false;
	/* Most of the time nothing is in the way, and one message does. */
	if (elements_change(firewall, NULL, 0, ports, n, NULL) == 0)
		return 0;
	return publish_over(firewall, ports, n, ret_created, err);
}

int firewall_unpublish(struct firewall *firewall, const struct published_port *ports, size_t n,
                       struct err *err)
{
	return n ? elements_change(firewall, ports, n, NULL, 0, err) : 0;
}
