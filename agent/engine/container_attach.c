/* A container's way onto the bridge: an address, then ecs-network, then both in the store. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/engine/engine_internal.h"
#include "lib/fd.h"
#include "lib/json.h"

static int read_binding(struct json_object *obj, struct network_binding *ret)
{
	uint64_t container_port = 0, host_port = 0;
	const char *protocol = json_text(obj, "protocol"), *ip = json_text(obj, "bindIP");

	if (json_get_u64(obj, "containerPort", UINT16_MAX, &container_port, NULL) < 0 ||
	    json_get_u64(obj, "hostPort", UINT16_MAX, &host_port, NULL) < 0 || !protocol || !ip ||
	    strlen(ip) >= sizeof(ret->bind_ip))
		return -EBADMSG;
	*ret = (struct network_binding){
		.container_port = (uint16_t)container_port,
		.host_port = (uint16_t)host_port,
		.udp = strcmp(protocol, "udp") == 0,
	};
	strcpy(ret->bind_ip, ip);
	return 0;
}

static int read_bindings(struct container *c, struct json_object *array)
{
	size_t n = array ? json_object_array_length(array) : 0;
	struct network_binding *bindings;
	int r;

	bindings = calloc(n + 1, sizeof(*bindings));
	if (!bindings)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		r = read_binding(json_object_array_get_idx(array, i), &bindings[i]);
		if (r < 0) {
			free(bindings);
			return r;
		}
	}
	free(c->bindings);
	c->bindings = bindings;
	c->n_bindings = n;
	return 0;
}

static int take_port_sockets(struct engine_container *ec, struct ipc_message *msg)
{
	ec->port_fds = calloc(msg->n_fds + 1, sizeof(*ec->port_fds));
	if (!ec->port_fds)
		return -ENOMEM;
	for (size_t i = 0; i < msg->n_fds; i++)
		ec->port_fds[ec->n_port_fds++] = TAKE_FD(msg->fds[i]);
	return 0;
}

static void save_port_cursor(struct engine *engine, struct json_object *answer)
{
	uint64_t cursor = 0;
	char text[16];

	if (json_get_u64(answer, "portCursor", UINT16_MAX, &cursor, NULL) < 0 ||
	    engine->port_cursor == (int)cursor)
		return;
	engine->port_cursor = (int)cursor;
	snprintf(text, sizeof(text), "%d", engine->port_cursor);
	(void)state_set(engine->o.state, "port-cursor", text);
}

/* The address is durable: it may be used. */
static void on_address_saved(void *userdata)
{
	struct engine_container *ec = userdata;

	ec->op = OP_NONE;
	engine_changed(ec->et);
}

static int attached(struct engine_container *ec, struct ipc_message *msg, struct err *err)
{
	const char *gateway = json_text(msg->body, "gateway");
	struct json_object *bindings = NULL;
	uint64_t prefix = 0;
	int r;

	r = json_get_u64(msg->body, "prefix", 32, &prefix, err);
	if (r >= 0)
		r = json_optional(json_get_array(msg->body, "bindings", &bindings, err));
	if (r >= 0 && (!gateway || strlen(gateway) >= sizeof(ec->gateway)))
		r = err_text(err, -EBADMSG, "no gateway");
	if (r >= 0)
		r = read_bindings(ec->c, bindings);
	if (r >= 0)
		r = take_port_sockets(ec, msg);
	if (r < 0)
		return err_prefix(err, r, "answer of ecs-network");

	ec->prefix = (unsigned int)prefix;
	strcpy(ec->gateway, gateway);
	ec->attached = true;
	ec->netns_fd = fd_close(ec->netns_fd);
	save_port_cursor(ec->et->engine, msg->body);
	return 0;
}

/* The address stays the container's until it is detached: a refusal leaves nothing, but an answer
 * that is lost may have been one of success. */
static void attach_failed(struct engine_container *ec, int r, const struct err *err)
{
	if (r == -ETIMEDOUT)
		container_fail_timeout(ec, "attached", NETWORK_TIMEOUT_USEC);
	else
		container_fail(ec,
		               r == -EADDRINUSE ? "CannotStartContainerError"
		                                : "ContainerNetworkingError",
		               err);
}

static void on_attached(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct engine_container *ec = userdata;
	struct engine *engine = ec->et->engine;
	struct err bad = {0};

	ec->op = OP_NONE;
	if (r == 0) {
		r = attached(ec, msg, &bad);
		host_network_answered(engine, msg->body);
	} else {
		bad = *err;
		if (!network_has_refused(engine->network))
			host_network_lost_answer(engine);
	}

	if (r < 0) {
		attach_failed(ec, r, &bad);
	} else {
		persist_task(ec->et);
		ec->et->unsaved = false;
		ec->op = OP_SAVE;
		if (state_after_commit(engine->o.state, on_address_saved, ec) < 0)
			ec->op = OP_NONE;
	}
	engine_save(ec->et);
}

static struct json_object *attach_message(struct engine_container *ec)
{
	const struct engine *engine = ec->et->engine;
	struct json_object *body = ipc_message_new("attach", NULL);
	struct json_object *ports = json_object_new_array(), *range = json_object_new_array();
	int r = body && ports && range ? 0 : -ENOMEM;

	for (size_t i = 0; i < ec->c->n_ports && r == 0; i++) {
		const struct port_mapping *mapping = &ec->c->ports[i];
		struct json_object *port = json_object_new_object();

		r = json_add_u64(port, "containerPort", mapping->container_port);
		if (r == 0)
			r = json_add_u64(port, "hostPort", mapping->host_port);
		if (r == 0)
			r = json_add_string(port, "protocol", mapping->udp ? "udp" : "tcp");
		if (r == 0)
			r = json_append(ports, port);
		else
			json_object_put(port);
	}
	if (r == 0)
		r = json_append(range, json_object_new_int(engine->o.config->dynamic_port_first));
	if (r == 0)
		r = json_append(range, json_object_new_int(engine->o.config->dynamic_port_last));
	if (r == 0)
		r = json_add_string(body, "id", ec->c->runtime_id);
	if (r == 0)
		r = json_add_string(body, "address", ec->c->address);
	if (r == 0)
		r = json_add_i64(body, "portCursor", engine->port_cursor);
	if (r == 0)
		r = json_add(body, "ports", json_object_get(ports));
	if (r == 0)
		r = json_add(body, "portRange", json_object_get(range));
	json_object_put(ports);
	json_object_put(range);
	if (r == 0)
		return body;
	json_object_put(body);
	return NULL;
}

void container_attach(struct engine_container *ec)
{
	struct engine *engine = ec->et->engine;
	struct err err = {.name = "ContainerNetworkingError"};
	int r;

	if (ec->c->address[0] == '\0' && addresses_take(engine->addresses, ec->c->address) < 0) {
		(void)err_text(&err, -ENOSPC, "no address of the bridge subnet is free");
		container_fail(ec, err.name, &err);
		return;
	}
	ec->op = OP_ATTACH;
	ec->may_be_attached = true;
	r = network_request(engine->network, attach_message(ec), &ec->netns_fd, 1,
	                    NETWORK_TIMEOUT_USEC, on_attached, ec);
	if (r < 0)
		container_request_failed(ec, err.name, r, "ask ecs-network");
}
