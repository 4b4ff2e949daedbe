/* The requests of ecs-agent. Each checks its members anew, and either does all of it or leaves
 * nothing. */
#include "netns/network.h"

#include "lib/fd.h"
#include "lib/json.h"
#include "lib/log.h"
#include "lib/parse.h"
#include "netns/conntrack.h"
#include "netns/endpoint.h"
#include "netns/firewall.h"
#include "netns/host_port.h"
#include "netns/members.h"
#include "netns/netlink.h"
#include "netns/veth.h"

#include <linux/magic.h>
#include <string.h>
#include <sys/vfs.h>

struct network {
	struct bridge bridge;
	struct nl_sock *sock;
	struct firewall *firewall;
};

int network_new(const struct bridge *bridge, struct network **ret, struct err *err)
{
	_cleanup_(network_freep) struct network *network = calloc(1, sizeof(*network));
	int r;

	if (!network)
		return err_oom(err);
	network->bridge = *bridge;
	r = netlink_open(&network->sock, err);
	if (r == 0)
		r = firewall_new(&network->bridge, &network->firewall, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(network);
	return 0;
}

struct network *network_free(struct network *network)
{
	if (!network)
		return NULL;
	nl_socket_freep(&network->sock);
	firewall_freep(&network->firewall);
	free(network);
	return NULL;
}

static void published_ports_fill(struct published_port *ports, const char *id, uint32_t address,
                                 const struct port_mapping *mappings, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		ports[i] = (struct published_port){.address = address, .mapping = mappings[i]};
		memcpy(ports[i].id, id, CONTAINER_ID_LENGTH + 1);
	}
}

/* The rules are right by now, and old UDP flows end when their clients pause: a failure is not
 * worth the container. */
static void flows_forget(const struct published_port *ports, size_t n,
                         int (*forget)(const struct port_mapping *mapping, uint32_t address,
                                       struct err *err))
{
	struct err err = {0};

	for (size_t i = 0; i < n; i++)
		if (forget(&ports[i].mapping, ports[i].address, &err) < 0)
			log_warning(NULL, 0, "container %s: %s", ports[i].id, err.text);
}

/* *created becomes true if the table had to be made. */
static int ports_publish(struct network *network, const struct published_port *ports, size_t n,
                         bool *created, struct err *err)
{
	bool created_now;
	int r = firewall_publish(network->firewall, ports, n, &created_now, err);

	*created = *created || created_now;
	if (r == 0)
		flows_forget(ports, n, conntrack_forget_others);
	return r;
}

/* An error says nothing of a table that was made on the way, and nobody else would ever learn that
 * the ports of other containers are gone: so that the next one finds it missing again. */
static void table_take_back(struct network *network, bool created)
{
	struct err err = {0};

	if (created && firewall_remove(network->firewall, &err) < 0)
		log_warning(NULL, 0, "undo: %s", err.text);
}

/* What host requests */

static int host_endpoint_open(struct ipc_message *answer, struct err *err)
{
	_cleanup_close_ int own = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	struct endpoint endpoint = ENDPOINT_EMPTY;
	int r;

	if (own < 0)
		return err_set(err, -errno, "open /proc/thread-self/ns/net");
	r = endpoint_open(own, &endpoint, err);
	if (r == -EADDRINUSE)
		return err_text(err, r,
		                ENDPOINT_ADDRESS ":%d has a listener already: ecs-metadata still "
		                                 "serves it, or another agent does",
		                ENDPOINT_PORT);
	if (r < 0)
		return r;
	answer->fds[0] = endpoint.socket_fd;
	answer->fds[1] = endpoint.link_fd;
	answer->n_fds = 2;
	return 0;
}

/* The rules come before the two settings that would be a hole without them. */
static int host_prepare(struct network *network, unsigned *ret_mtu, bool *ret_created,
                        struct err *err)
{
	int r;

	r = bridge_create(&network->bridge, network->sock, ret_mtu, err);
	if (r == 0)
		r = firewall_create(network->firewall, ret_created, err);
	if (r == 0)
		r = bridge_allow_loopback_source(&network->bridge, err);
	if (r == 0) {
		r = file_write(AT_FDCWD, "/proc/sys/net/ipv4/ip_forward", "1");
		if (r < 0)
			r = err_set(err, r, "write 1 to /proc/sys/net/ipv4/ip_forward");
	}
	return r;
}

static int handle_host(struct network *network, struct ipc_message *request,
                       struct ipc_message *answer, struct err *err)
{
	static const char *const known[] = {"type", "seq", "metadata", NULL};
	char address[BRIDGE_ADDRESS_TEXT_MAX];
	bool with_endpoint = false, created = false;
	unsigned mtu = 0;
	int r;

	r = members_check(request->body, known, err);
	if (r == 0)
		r = json_optional(json_get_bool(request->body, "metadata", &with_endpoint, err));
	if (r == 0)
		r = host_prepare(network, &mtu, &created, err);
	if (r == 0 && with_endpoint)
		r = host_endpoint_open(answer, err);
	if (r < 0)
		return r;

	r = json_add_string(answer->body, "bridge", network->bridge.name);
	r |= json_add_string(answer->body, "address",
	                     address_to_string(network->bridge.address, address));
	r |= json_add_u64(answer->body, "prefix", network->bridge.prefix);
	r |= json_add_u64(answer->body, "mtu", mtu);
	r |= json_add_bool(answer->body, "created", created);
	return r < 0 ? err_oom(err) : 0;
}

/* Taking things away */

/* Takes back the published ports for which is_gone() says so; their ids go to is_gone() only. */
static int ports_unpublish_if(struct network *network,
                              bool (*is_gone)(const struct published_port *port, void *userdata),
                              void *userdata, struct err *err)
{
	_cleanup_free_ struct published_port *ports = NULL;
	size_t n = 0, n_gone = 0;
	int r = firewall_list(network->firewall, &ports, &n, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++)
		if (is_gone(&ports[i], userdata))
			ports[n_gone++] = ports[i];
	r = firewall_unpublish(network->firewall, ports, n_gone, err);
	if (r == 0)
		flows_forget(ports, n_gone, conntrack_forget_own);
	return r;
}

static bool is_of_container(const struct published_port *port, void *id)
{
	return strcmp(port->id, id) == 0;
}

/* The ports first: until the link is gone they cannot lead to another container. */
static int container_remove(struct network *network, const char *id, struct err *err)
{
	int r = ports_unpublish_if(network, is_of_container, (void *)id, err);

	if (r == 0)
		r = veth_remove(network->sock, id, err);
	return r < 0 ? r : 0;
}

static int handle_detach(struct network *network, struct ipc_message *request,
                         struct ipc_message *answer, struct err *err)
{
	static const char *const known[] = {"type", "seq", "id", NULL};
	const char *id;
	int r;

	(void)answer;
	r = members_check(request->body, known, err);
	if (r == 0)
		r = container_id_get(request->body, &id, err);
	return r < 0 ? r : container_remove(network, id, err);
}

struct pruning {
	struct network *network;
	struct json_object *keep;    /* array of ids */
	struct json_object *removed; /* array of ids, each once */
	bool is_out_of_memory;
};

/* text may be the first digits of an id only. */
static bool has_id(struct json_object *ids, const char *text)
{
	for (size_t i = 0; i < json_object_array_length(ids); i++) {
		const char *id = json_object_get_string(json_object_array_get_idx(ids, i));

		if (strncmp(id, text, strlen(text)) == 0)
			return true;
	}
	return false;
}

static void pruning_note(struct pruning *pruning, const char *id)
{
	if (!has_id(pruning->removed, id) &&
	    json_append(pruning->removed, json_object_new_string(id)) < 0)
		pruning->is_out_of_memory = true;
}

static bool is_to_prune(const struct published_port *port, void *userdata)
{
	struct pruning *pruning = userdata;

	if (has_id(pruning->keep, port->id))
		return false;
	pruning_note(pruning, port->id);
	return true;
}

static int link_prune(const char *id, void *userdata, struct err *err)
{
	struct pruning *pruning = userdata;

	if (has_id(pruning->keep, id))
		return 0;
	pruning_note(pruning, id);
	return veth_remove(pruning->network->sock, id, err);
}

static int keep_check(struct json_object *keep, struct err *err)
{
	for (size_t i = 0; i < json_object_array_length(keep); i++) {
		struct json_object *id = json_object_array_get_idx(keep, i);

		if (!json_object_is_type(id, json_type_string) ||
		    !name_is_hex(json_object_get_string(id), CONTAINER_ID_LENGTH))
			return err_text(err, -EINVAL,
			                "keep: each must be a string of %d lower-case hex digits",
			                CONTAINER_ID_LENGTH);
	}
	return 0;
}

static int handle_prune(struct network *network, struct ipc_message *request,
                        struct ipc_message *answer, struct err *err)
{
	static const char *const known[] = {"type", "seq", "keep", NULL};
	struct pruning pruning = {.network = network};
	int r;

	r = members_check(request->body, known, err);
	if (r == 0)
		r = member_required(json_get_array(request->body, "keep", &pruning.keep, err));
	if (r == 0)
		r = keep_check(pruning.keep, err);
	if (r < 0)
		return r;

	pruning.removed = json_object_new_array();
	if (json_add(answer->body, "removed", pruning.removed) < 0)
		return err_oom(err);
	r = ports_unpublish_if(network, is_to_prune, &pruning, err);
	if (r == 0)
		r = veth_foreach(&network->bridge, network->sock, link_prune, &pruning, err);
	return r == 0 && pruning.is_out_of_memory ? err_oom(err) : r;
}

/* Attaching */

struct attachment {
	const char *id; /* of the request */
	uint32_t address;
	struct port_mapping mappings[IPC_FDS_MAX];
	size_t n_mappings;
	struct port_range range;
	char mac[MAC_TEXT_MAX];
	bool created; /* the table was not there */
};

static int namespace_check(const struct ipc_message *request, struct err *err)
{
	struct statfs fs;

	if (request->n_fds != 1)
		return err_text(err, -EINVAL,
		                "%zu descriptors: one must come along, the network namespace",
		                request->n_fds);
	if (fstatfs(request->fds[0], &fs) < 0)
		return err_set(err, -errno, "statfs of the descriptor");
	if (fs.f_type != NSFS_MAGIC)
		return err_text(err, -EINVAL, "the descriptor is no network namespace");
	return 0;
}

static int attachment_parse(struct network *network, struct ipc_message *request,
                            struct attachment *ret, struct err *err)
{
	static const char *const known[] = {"type",  "seq",       "id",         "address",
	                                    "ports", "portRange", "portCursor", NULL};
	bool has_dynamic = false;
	int r;

	r = members_check(request->body, known, err);
	if (r == 0)
		r = container_id_get(request->body, &ret->id, err);
	if (r == 0)
		r = container_address_get(&network->bridge, request->body, &ret->address, err);
	if (r == 0)
		r = port_mappings_get(request->body, "ports", 0, ret->mappings, &ret->n_mappings,
		                      err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < ret->n_mappings; i++)
		has_dynamic = has_dynamic || ret->mappings[i].host_port == 0;
	if (has_dynamic || json_get(request->body, "portRange"))
		r = port_range_get(request->body, &ret->range, err);
	return r < 0 ? r : namespace_check(request, err);
}

static int bindings_add(struct json_object *body, const struct attachment *attachment)
{
	struct json_object *bindings = json_object_new_array();
	int r = json_add(body, "bindings", bindings);

	for (size_t i = 0; r == 0 && i < attachment->n_mappings; i++) {
		const struct port_mapping *mapping = &attachment->mappings[i];
		struct json_object *binding = json_object_new_object();

		r |= json_add_u64(binding, "containerPort", mapping->container_port);
		r |= json_add_u64(binding, "hostPort", mapping->host_port);
		r |= json_add_string(binding, "protocol",
		                     port_protocol_to_string(mapping->protocol));
		r |= json_add_string(binding, "bindIP", "0.0.0.0");
		r |= json_append(bindings, binding);
	}
	return r;
}

static int attachment_answer(const struct network *network, const struct attachment *attachment,
                             struct json_object *body, struct err *err)
{
	char text[BRIDGE_ADDRESS_TEXT_MAX];
	int r;

	r = json_add_string(body, "address", address_to_string(attachment->address, text));
	r |= json_add_u64(body, "prefix", network->bridge.prefix);
	r |= json_add_string(body, "gateway", address_to_string(network->bridge.address, text));
	r |= json_add_string(body, "mac", attachment->mac);
	r |= json_add_u64(body, "portCursor", attachment->range.cursor);
	r |= json_add_bool(body, "created", attachment->created);
	r |= bindings_add(body, attachment);
	return r < 0 ? err_oom(err) : 0;
}

/* Link, then ports: one that is published leads somewhere. */
static int attachment_make(struct network *network, int netns_fd, struct attachment *attachment,
                           struct err *err)
{
	struct published_port ports[IPC_FDS_MAX];
	int r;

	r = firewall_repair(network->firewall, &attachment->created, err);
	if (r == 0)
		r = veth_create(&network->bridge, network->sock, attachment->id, netns_fd,
		                attachment->address, attachment->mac, err);
	if (r < 0 || attachment->n_mappings == 0)
		return r;
	published_ports_fill(ports, attachment->id, attachment->address, attachment->mappings,
	                     attachment->n_mappings);
	return ports_publish(network, ports, attachment->n_mappings, &attachment->created, err);
}

static int handle_attach(struct network *network, struct ipc_message *request,
                         struct ipc_message *answer, struct err *err)
{
	struct attachment attachment = {0};
	int r;

	r = attachment_parse(network, request, &attachment, err);
	if (r == 0)
		r = container_remove(network, attachment.id, err);
	if (r == 0)
		r = host_ports_bind(attachment.mappings, attachment.n_mappings, &attachment.range,
		                    answer->fds, err);
	if (r < 0)
		return r;
	answer->n_fds = attachment.n_mappings;

	r = attachment_make(network, request->fds[0], &attachment, err);
	if (r == 0)
		r = attachment_answer(network, &attachment, answer->body, err);
	if (r < 0) {
		struct err undo = {0};

		if (container_remove(network, attachment.id, &undo) < 0)
			log_warning(NULL, 0, "undo of attach %s: %s", attachment.id, undo.text);
		table_take_back(network, attachment.created);
	}
	return r;
}

/* Publishing again what a running container had */

struct publication {
	const char *id; /* of the request */
	uint32_t address;
	struct published_port ports[IPC_FDS_MAX];
	size_t n;
	bool created; /* the table was not there */
};

static bool is_among(const struct published_port *port, const struct published_port *ports,
                     size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(ports[i].id, port->id) == 0 && ports[i].address == port->address &&
		    ports[i].mapping.protocol == port->mapping.protocol &&
		    ports[i].mapping.host_port == port->mapping.host_port &&
		    ports[i].mapping.container_port == port->mapping.container_port)
			return true;
	return false;
}

static bool is_out_of_date(const struct published_port *port, void *userdata)
{
	const struct publication *publication = userdata;

	return strcmp(port->id, publication->id) == 0 &&
	       !is_among(port, publication->ports, publication->n);
}

/* What is there stays, so that no connection meets a port that is missing for a moment. */
static int publication_make(struct network *network, struct publication *publication,
                            struct err *err)
{
	struct published_port missing[IPC_FDS_MAX];
	_cleanup_free_ struct published_port *there = NULL;
	size_t n_there = 0, n_missing = 0;
	int r;

	r = ports_unpublish_if(network, is_out_of_date, publication, err);
	if (r == 0)
		r = firewall_list(network->firewall, &there, &n_there, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < publication->n; i++)
		if (!is_among(&publication->ports[i], there, n_there))
			missing[n_missing++] = publication->ports[i];
	return n_missing == 0
	               ? 0
	               : ports_publish(network, missing, n_missing, &publication->created, err);
}

static int handle_publish(struct network *network, struct ipc_message *request,
                          struct ipc_message *answer, struct err *err)
{
	static const char *const known[] = {"type", "seq", "id", "address", "bindings", NULL};
	struct publication publication = {0};
	struct port_mapping mappings[IPC_FDS_MAX];
	int r;

	r = members_check(request->body, known, err);
	if (r == 0)
		r = container_id_get(request->body, &publication.id, err);
	if (r == 0)
		r = container_address_get(&network->bridge, request->body, &publication.address,
		                          err);
	if (r == 0)
		r = port_mappings_get(request->body, "bindings", 1, mappings, &publication.n, err);
	if (r < 0)
		return r;
	published_ports_fill(publication.ports, publication.id, publication.address, mappings,
	                     publication.n);
	r = publication_make(network, &publication, err);
	if (r == 0 && json_add_bool(answer->body, "created", publication.created) < 0)
		r = err_oom(err);
	if (r < 0)
		table_take_back(network, publication.created);
	return r;
}

static const struct {
	const char *type;
	const char *answer_type;
	int (*handle)(struct network *network, struct ipc_message *request,
	              struct ipc_message *answer, struct err *err);
} requests[] = {
	{"host", "host", handle_host},
	{"attach", "attached", handle_attach},
	{"publish", "published", handle_publish},
	{"detach", "detached", handle_detach},
	{"prune", "pruned", handle_prune},
};

int network_handle(struct network *network, struct ipc_message *request, struct ipc_message *answer,
                   struct err *err)
{
	const char *type = json_text(request->body, "type");
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
		if (!type || strcmp(type, requests[i].type) != 0)
			continue;
		answer->body = ipc_message_new(requests[i].answer_type, request->body);
		if (!answer->body)
			return err_oom(err);
		r = requests[i].handle(network, request, answer, err);
		if (r < 0)
			ipc_message_done(answer);
		return r;
	}
	return err_text(err, -EINVAL, "request \"%s\" is not known", type ? type : "");
}

static int link_remove(const char *id, void *userdata, struct err *err)
{
	struct network *network = userdata;

	return veth_remove(network->sock, id, err);
}

int network_remove(struct network *network, struct err *err)
{
	int r, r_bridge;

	r = veth_foreach(&network->bridge, network->sock, link_remove, network, err);
	if (r < 0)
		return r;
	/* A bridge that is not ours stays, and what is ours goes all the same. */
	r_bridge = bridge_remove(&network->bridge, network->sock, err);
	r = firewall_remove(network->firewall, r_bridge < 0 ? NULL : err);
	if (r == 0)
		r = endpoint_address_remove(r_bridge < 0 ? NULL : err);
	return r_bridge < 0 ? r_bridge : r;
}
