/* Plays ecs-metadata (iam-creds/protocol.h), which remembers what it serves. */
#include "tests/unit/engine_world_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/json.h"

static void remember_task(struct world_private *p, const char *id)
{
	for (size_t i = 0; i < p->n_metadata_tasks; i++)
		if (strcmp(p->metadata_tasks[i], id) == 0)
			return;
	snprintf(p->metadata_tasks[p->n_metadata_tasks++], 65, "%s", id);
}

static void remember_served(struct world_private *p, struct json_object *request)
{
	const char *task = json_text(request, "taskId");
	struct json_object *names;

	if (!p->metadata_served)
		p->metadata_served = json_object_new_object();
	names = json_get(p->metadata_served, task);
	if (!names) {
		names = json_object_new_array();
		json_add(p->metadata_served, task, names);
	}
	json_append(names, json_object_new_string(json_text(request, "container")));
}

static bool is_refused(struct world *world, struct json_object *request)
{
	const char *credentials = json_text(request, "credentialsId");

	if (strcmp(json_text(request, "type"), "serve") == 0 && world->refuse_serve > 0) {
		world->refuse_serve--;
		return true;
	}
	return credentials && world->refused_role && strcmp(credentials, world->refused_role) == 0;
}

void on_metadata_message(struct fake_peer *peer, struct ipc_message *msg, const char *type)
{
	struct world_private *p = peer->world->private;
	struct json_object *body, *tasks;
	const char *container = json_text(msg->body, "container");
	bool all = false, for_mounts = false;

	(void)json_get_bool(msg->body, "all", &all, NULL);
	(void)json_get_bool(msg->body, "forMounts", &for_mounts, NULL);
	if (container)
		world_note(peer->world, "%s:%s", type, container);
	else if (json_text(msg->body, "credentialsId"))
		world_note(peer->world, "%s:%s%s", type, json_text(msg->body, "credentialsId"),
		           for_mounts ? "+mounts" : "");
	else
		world_note(peer->world, "%s%s", type, all ? "-all" : "");

	if (strcmp(type, "hello") != 0) {
		if (strcmp(type, "serve") == 0)
			remember_task(p, json_text(msg->body, "taskId"));
		if (strcmp(type, "serve") == 0 || strcmp(type, "host-container") == 0)
			remember_served(p, msg->body);
		if (strcmp(type, "serve-host") == 0)
			p->metadata_host = true;
		if (strcmp(type, "serve") == 0 && peer->world->hold_serve) {
			peer->held = json_object_get(msg->body);
			return;
		}
		if (is_refused(peer->world, msg->body))
			peer_refuse(peer, msg->body, -EINVAL, NULL, "refused");
		else
			peer_ok(peer, msg->body, "ok");
		return;
	}
	body = ipc_message_new("hello", msg->body);
	tasks = json_object_new_array();
	for (size_t i = 0; i < p->n_metadata_tasks; i++)
		json_append(tasks, json_object_new_string(p->metadata_tasks[i]));
	json_add(body, "tasks", tasks);
	if (p->metadata_served)
		json_add(body, "served", json_object_get(p->metadata_served));
	json_add(body, "credentials", json_object_new_array());
	json_add_bool(body, "host", p->metadata_host);
	peer_answer(peer, body, NULL, 0);
}

void world_restart_metadata(struct world *world)
{
	struct world_private *p = world->private;

	p->n_metadata_tasks = 0;
	json_object_put(p->metadata_served);
	p->metadata_served = NULL;
	p->metadata_host = false;
	world_disconnect_metadata(world);
}

void world_disconnect_metadata(struct world *world)
{
	struct world_private *p = world->private;

	for (size_t i = 0; i < p->n_peers; i++)
		if (p->peers[i]->role == ROLE_METADATA && p->peers[i]->conn)
			peer_gone(p->peers[i]);
}

void world_lose_served(struct world *world, const char *task_id)
{
	struct world_private *p = world->private;

	json_object_object_del(p->metadata_served, task_id);
}

void world_release_serve(struct world *world)
{
	struct world_private *p = world->private;

	world->hold_serve = false;
	for (size_t i = 0; i < p->n_peers; i++)
		if (p->peers[i]->role == ROLE_METADATA && p->peers[i]->held) {
			peer_ok(p->peers[i], p->peers[i]->held, "ok");
			json_object_put(p->peers[i]->held);
			p->peers[i]->held = NULL;
		}
}
