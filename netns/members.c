/* Members of requests: each says which one is wrong, its value, and what would be right. */
#include "netns/members.h"

#include "lib/ipc.h"
#include "lib/json.h"
#include "lib/parse.h"
#include "netns/veth.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

int member_required(int r)
{
	return r == -ENOENT ? -EINVAL : r;
}

int members_check(struct json_object *object, const char *const *names, struct err *err)
{
	json_object_object_foreach (object, name, value) {
		const char *const *known = names;

		(void)value;
		while (*known && strcmp(*known, name) != 0)
			known++;
		if (!*known)
			return err_text(err, -EINVAL, "member \"%s\" is not known here", name);
	}
	return 0;
}

int container_id_get(struct json_object *body, const char **ret, struct err *err)
{
	const char *id;
	int r = member_required(json_get_string(body, "id", &id, err));

	if (r < 0)
		return r;
	if (!name_is_hex(id, CONTAINER_ID_LENGTH))
		return err_text(err, -EINVAL, "id \"%s\": must be %d lower-case hex digits", id,
		                CONTAINER_ID_LENGTH);
	*ret = id;
	return 0;
}

int container_address_get(const struct bridge *bridge, struct json_object *body, uint32_t *ret,
                          struct err *err)
{
	char subnet[BRIDGE_ADDRESS_TEXT_MAX];
	struct in_addr address;
	const char *text;
	int r = member_required(json_get_string(body, "address", &text, err));

	if (r < 0)
		return r;
	if (inet_pton(AF_INET, text, &address) != 1 ||
	    !bridge_can_give(bridge, ntohl(address.s_addr)))
		return err_text(err, -EINVAL,
		                "address \"%s\": must be a host address of %s other than the "
		                "bridge's",
		                text, bridge_subnet_to_string(bridge, subnet));
	*ret = ntohl(address.s_addr);
	return 0;
}

/* protocol is "tcp" unless it says "udp". lowest_host_port: 0 where one may be found. */
static int port_mapping_parse(struct json_object *object, int64_t lowest_host_port,
                              struct port_mapping *ret, struct err *err)
{
	static const char *const known[] = {"containerPort", "hostPort", "protocol", "bindIP",
	                                    NULL};
	const char *protocol = "tcp";
	const char *bind_ip = "0.0.0.0";
	int64_t container_port, host_port;
	int r;

	if (!json_object_is_type(object, json_type_object))
		return err_text(err, -EINVAL, "ports: an entry is no object");
	r = members_check(object, known, err);
	if (r == 0)
		r = member_required(
			json_get_i64(object, "containerPort", 1, UINT16_MAX, &container_port, err));
	if (r == 0)
		r = member_required(json_get_i64(object, "hostPort", lowest_host_port, UINT16_MAX,
		                                 &host_port, err));
	if (r == 0)
		r = json_optional(json_get_string(object, "protocol", &protocol, err));
	if (r == 0)
		r = json_optional(json_get_string(object, "bindIP", &bind_ip, err));
	if (r < 0)
		return err_prefix(err, r, "ports");
	if (strcmp(protocol, "tcp") != 0 && strcmp(protocol, "udp") != 0)
		return err_text(err, -EINVAL, "ports: protocol \"%s\": must be tcp or udp",
		                protocol);
	if (strcmp(bind_ip, "0.0.0.0") != 0)
		return err_text(err, -EINVAL,
		                "ports: bindIP \"%s\": ports are published on 0.0.0.0 only",
		                bind_ip);
	*ret = (struct port_mapping){
		.container_port = (uint16_t)container_port,
		.host_port = (uint16_t)host_port,
		.protocol = strcmp(protocol, "udp") == 0 ? IPPROTO_UDP : IPPROTO_TCP,
	};
	return 0;
}

int port_mappings_get(struct json_object *body, const char *name, int64_t lowest_host_port,
                      struct port_mapping *mappings, size_t *ret_n, struct err *err)
{
	struct json_object *array;
	size_t n;
	int r = member_required(json_get_array(body, name, &array, err));

	if (r < 0)
		return r;
	n = json_object_array_length(array);
	if (n > IPC_FDS_MAX)
		return err_text(err, -EINVAL, "%s: %zu ports; a container can publish %d at most",
		                name, n, IPC_FDS_MAX);
	for (size_t i = 0; i < n; i++) {
		r = port_mapping_parse(json_object_array_get_idx(array, i), lowest_host_port,
		                       &mappings[i], err);
		if (r < 0)
			return r;
	}
	*ret_n = n;
	return 0;
}

static int range_end_get(struct json_object *range, size_t i, uint16_t *ret, struct err *err)
{
	struct json_object *end = json_object_array_get_idx(range, i);
	int64_t value = json_object_get_int64(end);

	if (!json_object_is_type(end, json_type_int) || value < 1 || value > UINT16_MAX)
		return err_text(err, -EINVAL, "portRange: must be two ports from 1 to 65535");
	*ret = (uint16_t)value;
	return 0;
}

int port_range_get(struct json_object *body, struct port_range *ret, struct err *err)
{
	struct json_object *range;
	uint64_t cursor;
	int r;

	r = member_required(json_get_u64(body, "portCursor", UINT16_MAX, &cursor, err));
	if (r == 0)
		r = member_required(json_get_array(body, "portRange", &range, err));
	if (r < 0)
		return r;
	if (json_object_array_length(range) != 2)
		return err_text(err, -EINVAL, "portRange: must be two ports from 1 to 65535");
	r = range_end_get(range, 0, &ret->first, err);
	if (r == 0)
		r = range_end_get(range, 1, &ret->last, err);
	if (r < 0)
		return r;
	if (ret->first > ret->last)
		return err_text(err, -EINVAL, "portRange: %u is greater than %u", ret->first,
		                ret->last);
	ret->cursor = (uint16_t)cursor;
	return 0;
}
