/*
 * The volumes of a task that are mounted by ecs-volume: one process for each, which ends up in the
 * hands of the task's supervisor. All of them are there before the first image is pulled, so that a
 * file system that is missing costs no pull; none of them is waited for by another task.
 */
#include <errno.h>
#include <string.h>

#include "agent/engine/engine_internal.h"
#include "agent/engine/volume_drivers.h"
#include "agent/engine/volumes.h"
#include "lib/fd.h"
#include "lib/json.h"
#include "lib/loop.h"

#define AGAIN_USEC (SECOND_USEC / 2)

enum mount_status {
	MOUNT_WANTED,
	MOUNT_ASKED, /* of ecs-volume */
	MOUNT_GIVEN, /* to the supervisor, without an answer yet */
	MOUNT_HELD,
};

struct engine_mount {
	struct engine_task *et;
	struct json_object *volume; /* borrowed from the task's document */
	enum mount_status status;
	struct peer *peer; /* ecs-volume, while asked */
	sd_event_source *again;
	uint64_t deadline_usec; /* monotonic; 0: not begun */
};

static const char *mount_name(const struct engine_mount *mount)
{
	return json_text(mount->volume, "name");
}

int mounts_init(struct engine_task *et)
{
	struct json_object *list = json_get(et->task->document, "volumes");
	size_t n = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;

	et->mounts = n > 0 ? calloc(n, sizeof(*et->mounts)) : NULL;
	if (n > 0 && !et->mounts)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		struct json_object *volume = json_object_array_get_idx(list, i);

		if (volume_is_mounted(volume) &&
		    volumes_is_used(et->task, json_text(volume, "name")))
			et->mounts[et->n_mounts++] =
				(struct engine_mount){.et = et, .volume = volume};
	}
	return 0;
}

bool mounts_need_task_role(const struct engine_task *et)
{
	for (size_t i = 0; i < et->n_mounts; i++)
		if (volume_needs_task_role(et->mounts[i].volume))
			return true;
	return false;
}

static void reset(struct engine_mount *mount)
{
	mount->peer = peer_free(mount->peer);
	mount->again = sd_event_source_disable_unref(mount->again);
	mount->deadline_usec = 0;
	mount->status = MOUNT_WANTED;
}

void mounts_free(struct engine_task *et)
{
	for (size_t i = 0; i < et->n_mounts; i++)
		reset(&et->mounts[i]);
	free(et->mounts);
	et->mounts = NULL;
	et->n_mounts = 0;
}

void mounts_cancel(struct engine_task *et)
{
	for (size_t i = 0; i < et->n_mounts; i++)
		if (et->mounts[i].status <= MOUNT_ASKED)
			reset(&et->mounts[i]);
}

void mounts_lost(struct engine_task *et)
{
	for (size_t i = 0; i < et->n_mounts; i++)
		reset(&et->mounts[i]);
}

void mounts_merge(struct engine_task *et, struct json_object *names)
{
	size_t n =
		json_object_is_type(names, json_type_array) ? json_object_array_length(names) : 0;

	for (size_t i = 0; i < et->n_mounts; i++) {
		struct engine_mount *mount = &et->mounts[i];

		if (mount->status == MOUNT_GIVEN || mount->status == MOUNT_HELD)
			reset(mount);
		for (size_t k = 0; k < n; k++) {
			const char *name =
				json_object_get_string(json_object_array_get_idx(names, k));

			if (name && strcmp(name, mount_name(mount)) == 0) {
				reset(mount);
				mount->status = MOUNT_HELD;
			}
		}
	}
}

static void fail(struct engine_mount *mount, const char *text)
{
	struct engine_task *et = mount->et;

	reset(mount);
	engine_fail_task(et, "resource cannot be initialized for task %s: volume %s: %s",
	                 et->task->arn, mount_name(mount), text);
}

/* --- again, later --- */

static int on_again(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct engine_mount *mount = userdata;

	(void)source;
	(void)usec;
	mount->again = sd_event_source_disable_unref(mount->again);
	engine_changed(mount->et);
	return 0;
}

static void try_again(struct engine_mount *mount, const char *why)
{
	if (now_usec() >= mount->deadline_usec)
		fail(mount, why);
	else if (!mount->again)
		(void)loop_add_timer(mount->et->engine->loop, AGAIN_USEC, AGAIN_USEC / 5, on_again,
		                     mount, &mount->again);
}

/* --- to the supervisor --- */

static void on_held(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct engine_mount *mount = userdata;
	struct engine_task *et = mount->et;

	(void)msg;
	if (r == 0) {
		log_debug(&et->log, "volume %s is mounted", mount_name(mount));
		mount->status = MOUNT_HELD;
		engine_changed(et);
		return;
	}
	if (answer_is_lost(et->supervisor.peer, r))
		reset(mount); /* the state will tell, or it is launched anew */
	else
		fail(mount, err->text);
}

static void give(struct engine_mount *mount, int lifeline_fd)
{
	struct engine_task *et = mount->et;
	struct json_object *body;
	int r = -EPIPE;

	if (et->supervisor.status == SUPERVISOR_READY) {
		body = ipc_message_new("volume", NULL);
		if (body && json_add_string(body, "name", mount_name(mount)) < 0) {
			json_object_put(body);
			body = NULL;
		}
		r = peer_request(et->supervisor.peer, body, &lifeline_fd, 1, STATE_TIMEOUT_USEC,
		                 on_held, mount);
	}
	if (r == 0) {
		mount->status = MOUNT_GIVEN;
		return;
	}
	/* Closing the lifeline ends the mount. */
	reset(mount);
	engine_changed(et);
}

/* --- of ecs-volume --- */

static void on_mounted(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct engine_mount *mount = userdata;
	_cleanup_close_ int lifeline_fd = -EBADF;

	if (r == 0 && msg->n_fds == 1)
		lifeline_fd = TAKE_FD(msg->fds[0]);
	if (r == 0 && lifeline_fd < 0) {
		fail(mount, "ecs-volume answered without a descriptor");
	} else if (r == 0) {
		mount->peer = peer_free(mount->peer);
		give(mount, lifeline_fd);
	} else if (r == -ETIMEDOUT) {
		fail(mount, "the file system could not be mounted in time");
	} else {
		fail(mount, err->text);
	}
}

static void on_end(struct peer *peer, int r, const struct err *err, void *userdata)
{
	struct engine_mount *mount = userdata;

	(void)peer;
	(void)r;
	(void)err;
	mount->peer = peer_free(mount->peer); /* an open request was answered before */
}

static bool role_is_here(struct engine_mount *mount)
{
	struct engine *engine = mount->et->engine;
	const char *id = mount->et->task->credentials_id;
	const struct role_credential *credential;

	if (!volume_needs_task_role(mount->volume) || !id)
		return true;
	credential = role_credentials_find(engine->credentials, id);
	if (engine->host_endpoint_due)
		host_network_start(engine);
	return metadata_is_up(engine->metadata) && !engine->host_endpoint_due &&
	       (!credential || credential->is_put);
}

static void ask(struct engine_mount *mount)
{
	static const struct peer_ops ops = {.on_end = on_end};
	struct engine_task *et = mount->et;
	struct engine *engine = et->engine;
	uint64_t timeout = engine->o.config->container_create_timeout_usec;
	struct json_object *body = NULL;
	struct err err = {0};
	int fd, r;

	if (mount->deadline_usec == 0)
		mount->deadline_usec = now_usec() + timeout;
	if (!role_is_here(mount)) {
		try_again(mount, "credentials of the task role are not there");
		return;
	}
	r = volume_mount_request(et->task, mount->volume, engine->o.region,
	                         config_aws_domain(engine->o.region), &body, &err);
	if (r < 0) {
		fail(mount, err.text);
		return;
	}
	fd = launcher_connect(engine->o.runtime_dir, "volume", NULL, &err);
	if (fd < 0) {
		json_object_put(body);
		try_again(mount, err.text);
		return;
	}
	r = peer_new(engine->loop, fd, true, &ops, mount, &mount->peer);
	if (r < 0)
		json_object_put(body);
	else
		r = peer_request(mount->peer, body, NULL, 0, timeout, on_mounted, mount);
	if (r < 0)
		fail(mount, "out of memory");
	else
		mount->status = MOUNT_ASKED;
}

bool mounts_are_held(struct engine_task *et)
{
	bool all = true;

	for (size_t i = 0; i < et->n_mounts; i++) {
		struct engine_mount *mount = &et->mounts[i];

		if (mount->status == MOUNT_HELD)
			continue;
		all = false;
		if (et->supervisor.status == SUPERVISOR_READY && mount->status == MOUNT_WANTED &&
		    et->task->desired != TASK_STATUS_STOPPED)
			ask(mount);
	}
	return all;
}
