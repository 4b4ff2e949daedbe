/* Plays ecs-image (agent/image/protocol.h): every image is the same. */
#include "tests/unit/engine_world_internal.h"

#include <errno.h>
#include <string.h>

#include "lib/json.h"

#define HEX64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void answer_pull(struct fake_peer *peer, struct json_object *request, bool local)
{
	struct world *world = peer->world;
	struct json_object *body, *layers, *config, *cmd;

	if (local ? !world->image_is_local : world->pull_error != NULL) {
		peer_refuse(peer, request, -ENOENT,
		            local ? "CannotPullContainerError" : world->pull_error,
		            "no such image");
		return;
	}
	if (!local) {
		body = ipc_message_new("resolved", request);
		json_add_string(body, "digest", "sha256:" HEX64);
		peer_answer(peer, body, NULL, 0);
	}
	body = ipc_message_new("pulled", request);
	layers = json_object_new_array();
	json_append(layers, json_object_new_string(HEX64));
	config = json_object_new_object();
	cmd = json_object_new_array();
	json_append(cmd, json_object_new_string("/bin/true"));
	json_add(config, "Cmd", cmd);
	json_add_string(body, "digest", "sha256:" HEX64);
	json_add_string(body, "imageId", "sha256:" HEX64);
	json_add(body, "layers", layers);
	json_add(body, "config", config);
	peer_answer(peer, body, NULL, 0);
}

static void answer_list(struct fake_peer *peer, struct json_object *request)
{
	struct json_object *body = ipc_message_new("images", request);

	json_add(body, "images",
	         json_tokener_parse(peer->world->images ? peer->world->images : "[]"));
	peer_answer(peer, body, NULL, 0);
}

static void answer_removal(struct fake_peer *peer, struct json_object *request, const char *type,
                           unsigned int layers)
{
	struct json_object *body = ipc_message_new(type, request);

	json_add_u64(body, "layersRemoved", layers);
	peer_answer(peer, body, NULL, 0);
}

void on_image_message(struct fake_peer *peer, struct ipc_message *msg, const char *type)
{
	struct world *world = peer->world;
	const char *reference = json_text(msg->body, "reference");

	world_note(peer->world, "%s:%s", type, reference ? reference : "");
	if (strcmp(type, "list") == 0) {
		answer_list(peer, msg->body);
		return;
	}
	if (strcmp(type, "remove") == 0) {
		answer_removal(peer, msg->body, "removed", 1);
		return;
	}
	if (strcmp(type, "sweep") == 0 && world->busy_sweeps > 0) {
		world->busy_sweeps--;
		peer_refuse(peer, msg->body, -EAGAIN, NULL, "a pull is running");
		return;
	}
	if (strcmp(type, "sweep") == 0) {
		answer_removal(peer, msg->body, "swept", world->sweep_layers);
		return;
	}
	if (strcmp(type, "pull") == 0 && world->full_disk > 0) {
		world->full_disk--;
		peer_refuse(peer, msg->body, -ENOSPC, "CannotPullContainerError",
		            "no space left on device");
		return;
	}
	if (peer->world->hold_pulls && strcmp(type, "pull") == 0) {
		peer->held = json_object_get(msg->body);
		return;
	}
	answer_pull(peer, msg->body, strcmp(type, "inspect") == 0);
}

void world_release_pulls(struct world *world)
{
	struct world_private *p = world->private;

	world->hold_pulls = false;
	for (size_t i = 0; i < p->n_peers; i++) {
		struct json_object *held = p->peers[i]->held;

		if (!held || p->peers[i]->role != ROLE_IMAGE)
			continue;
		p->peers[i]->held = NULL;
		answer_pull(p->peers[i], held, false);
		json_object_put(held);
	}
}
