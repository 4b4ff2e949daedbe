/*
 * Directories below <run>/tasks, <state>/tasks and <state>/exits of tasks that the store does not
 * know (it was damaged and could not be rebuilt, or the host is another instance now): a supervisor
 * that lives there is told to stop its containers and to end; what a dead one left is reaped.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/engine/engine_internal.h"
#include "agent/launcher/protocol.h"
#include "agent/task/protocol.h"
#include "lib/json.h"
#include "lib/loop.h"
#include "lib/parse.h"

#define ORPHAN_TRIES_MAX 5

struct orphan {
	struct orphan *next;
	struct engine *engine;
	char id[LAUNCHER_TASK_ID_MAX + 1];
	struct peer *peer;
	sd_event_source *timer;
	unsigned int tries;
	size_t running;
};

static void adopt(struct orphan *orphan);
static void reap(struct orphan *orphan);

static struct orphan *orphan_free(struct orphan *orphan)
{
	for (struct orphan **p = &orphan->engine->orphans; *p; p = &(*p)->next)
		if (*p == orphan) {
			*p = orphan->next;
			break;
		}
	peer_free(orphan->peer);
	sd_event_source_disable_unref(orphan->timer);
	free(orphan);
	return NULL;
}

void orphans_free(struct engine *engine)
{
	while (engine->orphans)
		orphan_free(engine->orphans);
}

static int on_again(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct orphan *orphan = userdata;

	(void)source;
	(void)usec;
	orphan->timer = sd_event_source_disable_unref(orphan->timer);
	adopt(orphan);
	return 0;
}

static void again(struct orphan *orphan, const char *why)
{
	orphan->peer = peer_free(orphan->peer);
	orphan->running = 0;
	if (orphan->tries++ >= ORPHAN_TRIES_MAX) {
		log_err(&orphan->engine->log, 0, "unknown task %s could not be removed: %s",
		        orphan->id, why);
		orphan_free(orphan);
		return;
	}
	orphan->timer = sd_event_source_disable_unref(orphan->timer);
	(void)loop_add_timer(orphan->engine->loop, SECOND_USEC, SECOND_USEC / 10, on_again, orphan,
	                     &orphan->timer);
}

/* Dead: the reaper. */

static void on_reaper_event(struct peer *peer, struct ipc_message *msg, void *userdata)
{
	struct orphan *orphan = userdata;
	const char *type = json_text(msg->body, "type");
	struct err err = {0};

	(void)peer;
	if (type && strcmp(type, "reaped") == 0) {
		log_info(&orphan->engine->log, "unknown task %s was removed", orphan->id);
		orphan_free(orphan);
		return;
	}
	(void)ipc_message_error(msg->body, &err);
	again(orphan, err.text);
}

static void on_reaper_end(struct peer *peer, int r, const struct err *err, void *userdata)
{
	(void)peer;
	(void)r;
	again(userdata, err->text);
}

static void reap(struct orphan *orphan)
{
	static const struct peer_ops ops = {.on_event = on_reaper_event, .on_end = on_reaper_end};
	struct err err = {0};
	int fd;

	fd = launcher_connect(orphan->engine->o.runtime_dir, "reap", orphan->id, &err);
	if (fd < 0 || peer_new(orphan->engine->loop, fd, false, &ops, orphan, &orphan->peer) < 0)
		again(orphan, err.text[0] ? err.text : "out of memory");
}

/* Alive: stop everything, then end. */

static void on_ended(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct orphan *orphan = userdata;

	(void)msg;
	if (r < 0) {
		again(orphan, err->text);
		return;
	}
	/* Its own cgroup is left for the reaper. */
	orphan->peer = peer_free(orphan->peer);
	reap(orphan);
}

static void end(struct orphan *orphan)
{
	if (peer_request(orphan->peer, ipc_message_new("end", NULL), NULL, 0, MINUTE_USEC, on_ended,
	                 orphan) < 0)
		again(orphan, "ask the supervisor to end");
}

static void on_event(struct peer *peer, struct ipc_message *msg, void *userdata)
{
	struct orphan *orphan = userdata;
	const char *type = json_text(msg->body, "type");

	(void)peer;
	if (type && strcmp(type, "exited") == 0 && orphan->running > 0 && --orphan->running == 0)
		end(orphan);
}

static void on_end(struct peer *peer, int r, const struct err *err, void *userdata)
{
	(void)peer;
	(void)r;
	again(userdata, err->text);
}

static int stop_one(struct orphan *orphan, const char *name)
{
	struct json_object *body = ipc_message_new("stop", NULL);
	int r;

	r = body ? json_add_string(body, "container", name) : -ENOMEM;
	if (r == 0)
		r = json_add_u64(body, "timeoutUsec",
		                 orphan->engine->o.config->container_stop_timeout_usec);
	if (r == 0)
		return peer_request(orphan->peer, body, NULL, 0, STATE_TIMEOUT_USEC, NULL, NULL);
	json_object_put(body);
	return r;
}

static void on_state(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct orphan *orphan = userdata;
	struct json_object *containers = NULL;

	if (r < 0) {
		again(orphan, err->text);
		return;
	}
	(void)json_get_array(msg->body, "containers", &containers, NULL);
	for (size_t i = 0; containers && i < json_object_array_length(containers); i++) {
		struct json_object *entry = json_object_array_get_idx(containers, i);
		const char *name = json_text(entry, "name"), *status = json_text(entry, "status");

		if (name && status && strcmp(status, "running") == 0 && stop_one(orphan, name) == 0)
			orphan->running++;
	}
	if (orphan->running == 0)
		end(orphan);
}

static void adopt(struct orphan *orphan)
{
	static const struct peer_ops ops = {.on_event = on_event, .on_end = on_end};
	struct engine *engine = orphan->engine;
	_cleanup_free_ char *path = NULL;
	struct err err = {0};
	int fd, r;

	if (asprintf(&path, "%s/tasks/%s/" TASK_SOCKET, engine->o.runtime_dir, orphan->id) < 0) {
		path = NULL;
		again(orphan, "out of memory");
		return;
	}
	fd = ipc_connect(path, &err);
	if (fd == -ENOENT || fd == -ECONNREFUSED) {
		reap(orphan);
		return;
	}
	r = fd < 0 ? fd : peer_new(engine->loop, fd, false, &ops, orphan, &orphan->peer);
	if (r >= 0)
		r = peer_request(orphan->peer, ipc_message_new("state", NULL), NULL, 0,
		                 STATE_TIMEOUT_USEC, on_state, orphan);
	if (r < 0)
		again(orphan, err.text[0] ? err.text : "ask the supervisor");
}

static int orphan_new(struct engine *engine, const char *id)
{
	struct orphan *orphan = calloc(1, sizeof(*orphan));

	if (!orphan)
		return -ENOMEM;
	orphan->engine = engine;
	strcpy(orphan->id, id);
	orphan->next = engine->orphans;
	engine->orphans = orphan;
	log_warning(&engine->log, 0,
	            "task %s is not in the state: its containers are stopped and it is removed",
	            id);
	return loop_add_timer(engine->loop, 0, 1, on_again, orphan, &orphan->timer);
}

static bool is_orphan(struct engine *engine, const char *id)
{
	for (const struct orphan *orphan = engine->orphans; orphan; orphan = orphan->next)
		if (strcmp(orphan->id, id) == 0)
			return false;
	/* Of names with a dot ecs-task has directories of its own. */
	return id[0] != '.' && name_is_component(id, LAUNCHER_TASK_ID_MAX) &&
	       !engine_find_id(engine, id);
}

static void look_below(struct engine *engine, const char *top, const char *name)
{
	_cleanup_free_ char *path = NULL;
	const struct dirent *entry;
	DIR *dir;

	if (asprintf(&path, "%s/%s", top, name) < 0) {
		path = NULL;
		return;
	}
	dir = opendir(path);
	if (!dir) {
		if (errno != ENOENT)
			log_warning(&engine->log, -errno, "look for tasks in %s", path);
		return;
	}
	while ((entry = readdir(dir)))
		if (is_orphan(engine, entry->d_name))
			(void)orphan_new(engine, entry->d_name);
	closedir(dir);
}

void orphans_start(struct engine *engine)
{
	look_below(engine, engine->o.runtime_dir, "tasks");
	look_below(engine, engine->o.state_dir, "tasks");
	look_below(engine, engine->o.state_dir, "exits");
}
