/*
 * What ecs-metadata must have: credentials, documents, sockets. A new connection's hello says what
 * is there; the rest is sent again, then "complete". Endpoint sockets that it has lost are fetched
 * from the supervisors, the host's from ecs-network.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#include "agent/engine/documents.h"
#include "agent/engine/engine_internal.h"
#include "lib/fd.h"
#include "lib/json.h"
#include "lib/loop.h"

static int request(struct engine *engine, struct json_object *body, const int *fds, size_t n_fds)
{
	return metadata_request(engine->metadata, body, fds, n_fds, NULL, NULL);
}

static bool is_live(const struct engine_task *et)
{
	return et->launched && et->task->known != TASK_STATUS_STOPPED;
}

/* A member of hello; NULL where it is no array. */
static struct json_object *get_list(struct json_object *object, const char *name)
{
	struct json_object *list = NULL;

	return object && json_get_array(object, name, &list, NULL) == 0 ? list : NULL;
}

static bool array_has(struct json_object *array, const char *text)
{
	for (size_t i = 0; array && i < json_object_array_length(array); i++) {
		const char *s = json_object_get_string(json_object_array_get_idx(array, i));

		if (s && strcmp(s, text) == 0)
			return true;
	}
	return false;
}

/* Credentials. */

static void on_put(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct role_sending *sending = userdata;
	struct engine *engine = sending->userdata;
	const struct role_credential *credential = role_sending_end(sending, r == 0);
	struct engine_task *et = credential ? engine_find_id(engine, credential->task_id) : NULL;

	(void)msg;
	if (r < 0 && r != -EPIPE)
		log_err(et ? &et->log : &engine->log, 0,
		        "ecs-metadata does not take credentials: %s", err->text);
	else if (r == 0 && et)
		engine_changed(et);
}

/* Does root of the host ask for them: mount.efs, for a volume of the task. */
static bool are_for_mounts(struct engine *engine, const struct role_credential *credential)
{
	const struct engine_task *et = engine_find_id(engine, credential->task_id);

	return et && strcmp(credential->role_type, "TaskApplication") == 0 &&
	       mounts_need_task_role(et);
}

static int send_credential(struct engine *engine, struct role_credential *credential,
                           struct json_object *body)
{
	struct role_sending *sending;
	int r;

	sending = role_credentials_send(engine->credentials, credential, engine);
	if (!sending) {
		json_object_put(body);
		return -ENOMEM;
	}
	r = metadata_request(engine->metadata, body, NULL, 0, on_put, sending);
	if (r < 0)
		(void)role_sending_end(sending, false);
	return r;
}

void metadata_put_credentials(struct engine *engine, struct role_credential *credential)
{
	struct json_object *body = NULL;
	int r = 0;

	if (!metadata_is_up(engine->metadata))
		return;
	if (!engine->o.config->task_iam_role &&
	    strcmp(credential->role_type, "TaskApplication") == 0) {
		credential->is_put = true; /* there is nothing that would ask */
		return;
	}
	if (json_object_deep_copy(credential->message, &body, NULL) < 0)
		return;
	json_object_get(body);
	if (are_for_mounts(engine, credential))
		r = json_add_bool(body, "forMounts", true);
	if (r == 0)
		r = send_credential(engine, credential, body);
	else
		json_object_put(body);
	if (r < 0 && r != -EPIPE)
		log_err(&engine->log, r, "pass credentials of a task on to ecs-metadata");
	json_wipe(body);
	(void)json_to_text(body, NULL);
	json_object_put(body);
}

static int add_keys(struct json_object *body, const struct aws_keys *keys)
{
	uint64_t expires = aws_keys_expires_realtime_usec(keys);
	const char *token = aws_keys_session_token(keys);
	char time[21] = "9999-12-31T23:59:59Z";
	int r;

	if (expires != AWS_KEYS_NO_EXPIRY)
		aws_time_to_string(expires, time);
	r = json_add_string(body, "accessKeyId", aws_keys_access_key_id(keys));
	if (r == 0)
		r = json_add_string(body, "secretAccessKey", aws_keys_secret_access_key(keys));
	if (r == 0)
		r = json_add_string(body, "sessionToken", token ? token : "");
	if (r == 0)
		r = json_add_string(body, "expiration", time);
	return r;
}

void metadata_put_instance(struct engine *engine)
{
	struct json_object *body;
	int r;

	if (!engine->instance_keys || !metadata_is_up(engine->metadata))
		return;
	body = ipc_message_new("put-credentials", NULL);
	r = body ? json_add_string(body, "credentialsId", "instance") : -ENOMEM;
	if (r == 0)
		r = json_add_string(body, "roleType", "Instance");
	if (r == 0)
		r = json_add_string(body, "roleArn", "");
	if (r == 0)
		r = add_keys(body, engine->instance_keys);
	if (r == 0) {
		json_object_get(body);
		r = request(engine, body, NULL, 0);
	}
	if (r < 0)
		log_warning(&engine->log, r, "pass the instance's credentials on to ecs-metadata");
	json_wipe(body);
	(void)json_to_text(body, NULL);
	json_object_put(body);
}

/* ecs-metadata has no file system of its own, so it gets the audit log as a descriptor. A disabled
 * one goes nowhere; without a file the lines go to the log of ecs-metadata. -EBADF: none. */
static int open_audit_log(const struct engine *engine)
{
	const struct config *config = engine->o.config;
	const char *path = config->audit_log_disabled ? "/dev/null" : config->audit_log;
	int fd;

	if (!path)
		return -EBADF;
	fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_NOCTTY | O_CLOEXEC, 0640);
	if (fd < 0)
		log_warning(
			&engine->log, -errno,
			"ECS_AUDIT_LOGFILE %s cannot be opened, so audit lines go to the log of ecs-metadata",
			path);
	return fd < 0 ? -EBADF : fd;
}

void metadata_configure(struct engine *engine)
{
	const struct config *config = engine->o.config;
	_cleanup_close_ int audit_fd = -EBADF;
	struct json_object *body;
	int r;

	if (!metadata_is_up(engine->metadata))
		return;
	body = ipc_message_new("configure", NULL);
	r = body ? json_add_string(body, "cluster", config->cluster) : -ENOMEM;
	if (r == 0)
		r = json_add_string(body, "containerInstanceArn",
		                    engine->container_instance_arn ? engine->container_instance_arn
		                                                   : "");
	if (r == 0)
		r = json_add_u64(body, "requestsPerSecond", config->metadata_rate);
	if (r == 0)
		r = json_add_u64(body, "burst", config->metadata_burst);
	audit_fd = open_audit_log(engine);
	if (r == 0)
		r = request(engine, body, &audit_fd, audit_fd >= 0);
	else
		json_object_put(body);
	if (r < 0)
		log_warning(&engine->log, r, "configure ecs-metadata");
}

/* Documents and tasks. */

void metadata_send_documents(struct engine_task *et)
{
	const struct engine *engine = et->engine;
	const struct document_options options = {
		.cluster = engine->o.config->cluster,
		.availability_zone =
			engine->o.config->metadata_az_disabled ? NULL : engine->availability_zone,
	};
	struct json_object *documents = NULL, *body;
	int r;

	if (!et->documents_stale || !is_live(et) || !metadata_is_up(engine->metadata))
		return;
	r = documents_build(et->task, &options, &documents);
	if (r < 0)
		return;
	body = ipc_message_new("documents", NULL);
	if (!body) {
		json_object_put(documents);
		return;
	}
	r = json_add(body, "documents", documents);
	if (r == 0)
		r = json_add_string(body, "taskId", et->task->id);
	if (r == 0)
		r = request(et->engine, body, NULL, 0);
	else
		json_object_put(body);
	if (r == 0)
		et->documents_stale = false;
}

static int send_release(struct engine *engine, const char *task_id, bool all)
{
	struct json_object *body = ipc_message_new("release", NULL);
	int r;

	r = body ? json_add_string(body, "taskId", task_id) : -ENOMEM;
	if (r == 0 && all)
		r = json_add_bool(body, "all", true);
	if (r == 0)
		return request(engine, body, NULL, 0);
	json_object_put(body);
	return r;
}

bool metadata_keeps_role(const struct task *task)
{
	for (size_t i = 0; i < task->n_containers; i++)
		if (task->containers[i].logs_by_role)
			return true;
	return false;
}

void metadata_release(struct engine_task *et, bool all)
{
	if (metadata_is_up(et->engine->metadata))
		(void)send_release(et->engine, et->task->id, all || !metadata_keeps_role(et->task));
}

/* Sockets. */

static void send_host_container(struct engine_container *ec)
{
	struct json_object *body = ipc_message_new("host-container", NULL);
	int r;

	r = body ? json_add_string(body, "taskId", ec->et->task->id) : -ENOMEM;
	if (r == 0)
		r = json_add_string(body, "container", ec->c->name);
	if (r == 0)
		r = json_add_u64(body, "cgroupId", ec->c->cgroup_id);
	if (r == 0)
		(void)request(ec->et->engine, body, NULL, 0);
	else
		json_object_put(body);
}

static void serve_again(struct engine_task *et, const char *container, int fd)
{
	struct json_object *body = ipc_message_new("serve", NULL);
	int r;

	r = body ? json_add_string(body, "taskId", et->task->id) : -ENOMEM;
	if (r == 0)
		r = json_add_string(body, "container", container);
	if (r == 0)
		(void)request(et->engine, body, &fd, 1);
	else
		json_object_put(body);
}

static void on_sockets(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct engine_task *et = userdata;
	struct json_object *names = NULL;

	et->sockets_asked = false;
	if (r < 0) {
		if (answer_is_lost(et->supervisor.peer, r))
			return; /* asked again when it is found */
		log_warning(&et->log, 0, "endpoint sockets of the task: %s", err->text);
	} else if (json_get_array(msg->body, "containers", &names, NULL) == 0) {
		for (size_t i = 0; i < json_object_array_length(names) && i < msg->n_fds; i++) {
			const char *name =
				json_object_get_string(json_object_array_get_idx(names, i));

			if (name)
				serve_again(et, name, msg->fds[i]);
		}
	}
	et->sockets_due = false;
	metadata_sync_check(et->engine);
}

/* Called by the reconciler: has this task sockets to fetch, and can it? */
void metadata_sync_task(struct engine_task *et)
{
	if (!et->sockets_due || et->sockets_asked)
		return;
	if (!is_live(et) || et->supervisor.status == SUPERVISOR_NONE ||
	    et->supervisor.status == SUPERVISOR_LAUNCHING ||
	    !metadata_is_up(et->engine->metadata)) {
		et->sockets_due = false;
		metadata_sync_check(et->engine);
		return;
	}
	if (et->supervisor.status != SUPERVISOR_READY)
		return; /* being found */
	if (et->task->network_mode == NETWORK_MODE_HOST) {
		for (size_t i = 0; i < et->task->n_containers; i++)
			if (et->containers[i].c->cgroup_id != 0 &&
			    et->containers[i].c->known != TASK_STATUS_STOPPED)
				send_host_container(&et->containers[i]);
		et->sockets_due = false;
		metadata_sync_check(et->engine);
		return;
	}
	if (peer_request(et->supervisor.peer, ipc_message_new("sockets", NULL), NULL, 0,
	                 STATE_TIMEOUT_USEC, on_sockets, et) == 0)
		et->sockets_asked = true;
}

void metadata_sync_check(struct engine *engine)
{
	if (engine->metadata_complete || !metadata_is_up(engine->metadata) ||
	    engine->host_endpoint_due)
		return;
	for (size_t i = 0; i < engine->n_tasks; i++)
		if (engine->tasks[i]->sockets_due)
			return;
	if (request(engine, ipc_message_new("complete", NULL), NULL, 0) == 0)
		engine->metadata_complete = true;
}

/* What it should have been told to forget while it was not there. */
static void release_ended(struct engine *engine, struct json_object *tasks)
{
	for (size_t i = 0; tasks && i < json_object_array_length(tasks); i++) {
		const char *id = json_object_get_string(json_object_array_get_idx(tasks, i));
		const struct engine_task *et = id ? engine_find_id(engine, id) : NULL;

		if (id && !et)
			(void)send_release(engine, id, true);
		else if (et && et->task->known == TASK_STATUS_STOPPED)
			(void)send_release(engine, id, !metadata_keeps_role(et->task));
	}
}

/* Is the caller of each container known: by its socket, in host mode by its cgroup. */
static bool is_served(const struct engine_task *et, struct json_object *hello)
{
	struct json_object *names = get_list(json_get(hello, "served"), et->task->id);

	for (size_t i = 0; i < et->task->n_containers; i++) {
		const struct engine_container *ec = &et->containers[i];

		if (ec->c->known != TASK_STATUS_STOPPED &&
		    (ec->served || ec->c->known >= TASK_STATUS_CREATED) &&
		    !array_has(names, ec->c->name))
			return false;
	}
	return true;
}

/* An agent that was restarted has no credentials before ACS sends them again; those which are
 * there are as good. */
static void note_credentials(struct engine *engine, struct json_object *ids,
                             struct json_object *tasks)
{
	for (struct role_credential *c = role_credentials_first(engine->credentials); c;
	     c = c->next) {
		metadata_put_credentials(engine, c);
		if (c->has_ended && !array_has(tasks, c->task_id)) /* else release_ended() does */
			(void)send_release(engine, c->task_id, false);
	}
	for (size_t i = 0; i < engine->n_tasks; i++) {
		const char *id = engine->tasks[i]->task->execution_credentials_id;

		engine->tasks[i]->execution_credentials_there = id && array_has(ids, id);
	}
}

static void on_up(struct json_object *hello, void *userdata)
{
	struct engine *engine = userdata;
	struct json_object *tasks = get_list(hello, "tasks");
	bool host = false;

	engine->metadata_complete = false;
	(void)json_get_bool(hello, "host", &host, NULL);
	log_debug(&engine->log, "ecs-metadata is there and has %zu tasks",
	          tasks ? json_object_array_length(tasks) : 0);
	role_credentials_reset(engine->credentials);
	metadata_configure(engine);
	metadata_put_instance(engine);
	note_credentials(engine, get_list(hello, "credentials"), tasks);
	release_ended(engine, tasks);

	for (size_t i = 0; i < engine->n_tasks; i++) {
		struct engine_task *et = engine->tasks[i];

		et->documents_stale = true;
		et->sockets_asked = false;
		et->sockets_due = is_live(et) && !is_served(et, hello);
		metadata_send_documents(et);
		engine_changed(et);
	}
	engine->host_endpoint_due = !host;
	host_network_start(engine);
	metadata_sync_check(engine);
}

static void on_down(void *userdata)
{
	struct engine *engine = userdata;

	role_credentials_reset(engine->credentials);
	engine_changed_all(engine);
}

const struct metadata_client_ops engine_metadata_ops = {.up = on_up, .down = on_down};
