/* Plays ecs-network (netns/protocol.h): one bridge, ports counted up from 32768. */
#include "tests/unit/engine_world_internal.h"

#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lib/json.h"

static void on_host(struct fake_peer *peer, struct json_object *request)
{
	struct json_object *body = ipc_message_new("host", request);
	bool metadata = false;
	int fd = eventfd(0, EFD_CLOEXEC);

	(void)json_get_bool(request, "metadata", &metadata, NULL);
	world_note(peer->world, "host%s", metadata ? "+endpoint" : "");
	json_add_string(body, "bridge", "ecs0");
	json_add_string(body, "address", "172.29.0.1");
	json_add_i64(body, "prefix", 16);
	json_add_bool(body, "created", false);
	peer_answer(peer, body, &fd, metadata ? 1 : 0);
	close(fd);
}

static void on_attach(struct fake_peer *peer, struct json_object *request, size_t n_fds)
{
	struct json_object *body = ipc_message_new("attached", request);
	struct json_object *ports = json_get(request, "ports"), *bindings = json_object_new_array();
	int fds[8];
	size_t n = 0;

	assert_int_equal(n_fds, 1);
	world_note(peer->world, "attach:%s", json_text(request, "address"));
	if (peer->world->attach_is_lost) {
		json_object_put(body);
		json_object_put(bindings);
		peer_gone(peer);
		return;
	}
	for (; n < json_object_array_length(ports); n++) {
		struct json_object *binding = json_object_new_object();
		int64_t port = 0;

		(void)json_get_i64(json_object_array_get_idx(ports, n), "containerPort", 0, 65535,
		                   &port, NULL);
		json_add_i64(binding, "containerPort", port);
		json_add_i64(binding, "hostPort", ++peer->world->private->next_port);
		json_add_string(binding, "protocol", "tcp");
		json_add_string(binding, "bindIP", "0.0.0.0");
		json_append(bindings, binding);
		fds[n] = eventfd(0, EFD_CLOEXEC);
	}
	json_add_string(body, "address", json_text(request, "address"));
	json_add_i64(body, "prefix", 16);
	json_add_string(body, "gateway", "172.29.0.1");
	json_add_i64(body, "portCursor", peer->world->private->next_port);
	json_add_bool(body, "created", peer->world->rules_are_flushed);
	json_add(body, "bindings", bindings);
	peer->world->rules_are_flushed = false;
	peer_answer(peer, body, fds, n);
	while (n > 0)
		close(fds[--n]);
}

void on_network_message(struct fake_peer *peer, struct ipc_message *msg, const char *type)
{
	struct json_object *body;

	if (strcmp(type, "host") == 0 && peer->world->hold_host) {
		world_note(peer->world, "host-held");
		peer->held = json_object_get(msg->body);
	} else if (strcmp(type, "host") == 0) {
		on_host(peer, msg->body);
	} else if (strcmp(type, "attach") == 0 && peer->world->hold_attach) {
		world_note(peer->world, "attach-held");
		peer->held = json_object_get(msg->body);
	} else if (strcmp(type, "attach") == 0) {
		on_attach(peer, msg->body, msg->n_fds);
	} else if (strcmp(type, "publish") == 0) {
		world_note(peer->world, "publish:%s", json_text(msg->body, "address"));
		peer_ok(peer, msg->body, "published");
	} else if (strcmp(type, "detach") == 0) {
		world_note(peer->world, "detach");
		peer_ok(peer, msg->body, "detached");
	} else if (strcmp(type, "prune") == 0) {
		world_note(peer->world, "prune:%zu",
		           json_object_array_length(json_get(msg->body, "keep")));
		body = ipc_message_new("pruned", msg->body);
		json_add(body, "removed", json_object_new_array());
		peer_answer(peer, body, NULL, 0);
	} else {
		fail_msg("ecs-network was asked for '%s'", type);
	}
}

/* It is asked one thing at a time. */
static void release(struct world *world)
{
	struct world_private *p = world->private;

	for (size_t i = 0; i < p->n_peers; i++) {
		struct json_object *held = p->peers[i]->held;

		if (!held || p->peers[i]->role != ROLE_NETWORK)
			continue;
		p->peers[i]->held = NULL;
		if (strcmp(json_text(held, "type"), "host") == 0)
			on_host(p->peers[i], held);
		else
			on_attach(p->peers[i], held, 1);
		json_object_put(held);
	}
}

void world_release_host(struct world *world)
{
	world->hold_host = false;
	release(world);
}

void world_release_attach(struct world *world)
{
	world->hold_attach = false;
	release(world);
}
