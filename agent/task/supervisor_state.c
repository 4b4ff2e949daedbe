/* What a restarted agent takes a task up from: all of it is the supervisor's own memory. */
#include "agent/task/supervisor_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/task/execute_command.h"
#include "agent/task/health.h"
#include "agent/task/protocol.h"
#include "agent/task/supervisor_report.h"
#include "lib/json.h"

/* As text: it takes a fraction of what the parsed objects do. */
int supervisor_keep_record(struct supervisor *s, struct json_object *request,
                           struct ipc_message *msg, struct err *err)
{
	_cleanup_json_ struct json_object *answer = NULL;
	struct json_object *record;
	const char *text;
	char *copy;
	size_t len = 0;
	int r;

	(void)msg;
	r = json_get_object(request, "record", &record, err);
	if (r < 0)
		return r == -ENOENT ? -EINVAL : r;
	text = json_to_text(record, &len);
	if (text && len > TASK_RECORD_MAX)
		return err_text(err, -E2BIG, "the record has %zu bytes; at most %d are kept", len,
		                TASK_RECORD_MAX);
	copy = text ? strdup(text) : NULL;
	if (!copy)
		return err_oom(err);
	free(s->record);
	s->record = copy;
	answer = ipc_message_new("recorded", request);
	supervisor_send(s, answer, NULL, 0);
	return 0;
}

static int add_record(struct supervisor *s, struct json_object *request, struct json_object *answer)
{
	struct json_object *record = NULL;
	bool wanted = false;
	int r;

	(void)json_get_bool(request, "record", &wanted, NULL);
	if (!wanted || !s->record)
		return 0;
	r = json_parse_object(s->record, strlen(s->record), TASK_RECORD_MAX, &record, NULL);
	return r < 0 ? r : json_add(answer, "record", record);
}

static struct json_object *container_state(const struct container *c)
{
	static const char *const words[] = {
		[CONTAINER_CREATED] = "created",
		[CONTAINER_STARTING] = "starting",
		[CONTAINER_RUNNING] = "running",
		[CONTAINER_STOPPED] = "stopped",
	};
	_cleanup_json_ struct json_object *state = json_object_new_object();

	if (!state || json_add_string(state, "name", c->name) < 0 ||
	    json_add_string(state, "id", c->id) < 0 ||
	    json_add_string(state, "status", c->held ? "held" : words[c->status]) < 0 ||
	    (c->has_cgroup_id && json_add_u64(state, "cgroupId", c->cgroup_id) < 0))
		return NULL;
	if ((c->held || c->status == CONTAINER_RUNNING) &&
	    json_add_i64(state, "pid", c->host_pid) < 0)
		return NULL;
	if (c->started_realtime_usec &&
	    json_add_u64(state, "startedTime", c->started_realtime_usec) < 0)
		return NULL;
	if (c->starts > 1 && json_add_u64(state, "restarts", c->starts - 1) < 0)
		return NULL;
	if (c->health) {
		struct json_object *health = json_object_new_object();

		if (json_add(state, "health", health) < 0 || health_to_json(c->health, health) < 0)
			return NULL;
	}
	if (c->execute_command) {
		struct json_object *agent = json_object_new_object();

		if (json_add(state, "managedAgent", agent) < 0 ||
		    execute_command_to_json(c->execute_command, agent) < 0)
			return NULL;
	}
	if (c->status == CONTAINER_STOPPED &&
	    json_add_u64(state, "exitTime", c->exit_realtime_usec) < 0)
		return NULL;
	if (c->has_exit_code && (json_add_i64(state, "exitCode", c->exit_code) < 0 ||
	                         json_add_bool(state, "oomKilled", c->oom_killed) < 0))
		return NULL;
	if (c->ran_usec && json_add_u64(state, "ranUsec", c->ran_usec) < 0)
		return NULL;
	return TAKE_PTR(state);
}

int supervisor_tell_state(struct supervisor *s, struct json_object *request,
                          struct ipc_message *msg, struct err *err)
{
	_cleanup_json_ struct json_object *answer = ipc_message_new("state", request);
	_cleanup_json_ struct json_object *list = json_object_new_array();

	(void)msg;
	if (!answer || !list || json_add_bool(answer, "ready", s->was_set_up) < 0)
		return err_oom(err);
	for (struct container *c = s->containers; c; c = c->next) {
		struct json_object *item = container_state(c);

		if (json_append(list, item) < 0 ||
		    json_add(item, "execs", exec_requests_state(&s->execs, c)) < 0)
			return err_oom(err);
	}
	if (json_add(answer, "containers", TAKE_PTR(list)) < 0 ||
	    json_add(answer, "volumes", mounted_names(&s->mounted)) < 0 ||
	    add_record(s, request, answer) < 0)
		return err_oom(err);
	supervisor_send(s, answer, NULL, 0);
	return 0;
}

int supervisor_tell_sockets(struct supervisor *s, struct json_object *request,
                            struct ipc_message *msg, struct err *err)
{
	_cleanup_json_ struct json_object *answer = ipc_message_new("sockets", request);
	_cleanup_json_ struct json_object *list = json_object_new_array();
	int fds[CONTAINERS_MAX];
	size_t n = 0;

	(void)msg;
	if (!answer || !list)
		return err_oom(err);
	for (struct container *c = s->containers; c; c = c->next) {
		if (c->endpoint.socket_fd < 0)
			continue;
		fds[n++] = c->endpoint.socket_fd;
		if (json_append(list, json_object_new_string(c->name)) < 0)
			return err_oom(err);
	}
	if (json_add(answer, "containers", TAKE_PTR(list)) < 0)
		return err_oom(err);
	supervisor_send(s, answer, fds, n);
	return 0;
}
