/*
 * The requests of protocol.h: one table, and a handler for each, which checks every member anew.
 * Answers and events that cannot be sent are in the exit files and in the answer to "state".
 */
#include "agent/task/supervisor_internal.h"

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/task/execute_command.h"
#include "agent/task/health.h"
#include "agent/task/protocol.h"
#include "agent/task/stop_order.h"
#include "lib/fd.h"
#include "lib/json.h"
#include "lib/log.h"
#include "lib/spool_writer.h"

/* --- answering --- */

void supervisor_drop_connection(struct supervisor *s)
{
	s->conn = ipc_conn_free(s->conn);
}

void supervisor_send(struct supervisor *s, struct json_object *body, const int *fds, size_t n)
{
	int r;

	if (!s->conn)
		return;
	r = body ? ipc_conn_send(s->conn, body, fds, n) : -ENOMEM;
	if (r < 0) {
		log_warning(NULL, r, "send to ecs-agent");
		supervisor_drop_connection(s);
	}
}

void supervisor_send_error(struct supervisor *s, struct json_object *request, int code,
                           const struct err *err)
{
	if (s->conn && ipc_conn_send_error(s->conn, request, code, err) < 0)
		supervisor_drop_connection(s);
}

static struct container *find_container(struct supervisor *s, const char *name)
{
	for (struct container *c = s->containers; c; c = c->next)
		if (strcmp(c->name, name) == 0)
			return c;
	return NULL;
}

/* Says which containers there are, for people who mistyped one. */
static int no_such_container(struct supervisor *s, const char *name, struct err *err)
{
	char names[256] = "";
	size_t used = 0;

	for (struct container *c = s->containers; c && used < sizeof(names); c = c->next)
		used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%.64s",
		                         used > 0 ? ", " : "", c->name);
	return err_text(err, -ENOENT, "this task has no container \"%.100s\"; it has %s", name,
	                used > 0 ? names : "none yet");
}

/* The container that a request names; -ENOENT with the name in err. */
static int get_container(struct supervisor *s, struct json_object *request, struct container **ret,
                         struct err *err)
{
	const char *name;
	int r = json_get_string(request, "container", &name, err);

	if (r < 0)
		return r == -ENOENT ? -EINVAL : r;
	*ret = find_container(s, name);
	return *ret ? 0 : no_such_container(s, name, err);
}

/* --- setup --- */

static int on_setup(struct supervisor *s, struct json_object *request, struct ipc_message *msg,
                    struct err *err)
{
	_cleanup_(cgroup_freep) struct cgroup *cgroup = NULL;
	const struct namespaces_config config = {
		.policy = &s->task.policy,
		.tasks_dir = s->task.tasks_dir,
		.seccomp_dir = s->task.seccomp_dir,
		.host_pid = s->host_pid,
	};
	struct json_object *spec;
	char path[128];
	int r;

	(void)msg;
	if (s->was_set_up)
		return err_text(err, -EALREADY, "the task was set up already");
	r = json_get_object(request, "task", &spec, err);
	if (r < 0)
		return r == -ENOENT ? -EINVAL : r;
	r = task_spec_parse(spec, &s->task.spec, err);
	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "ecstasks-%s", s->task.id);
	r = namespaces_open(&s->task.spec, &config, &s->task.namespaces, err);
	if (r == 0)
		r = cgroup_create(s->task.cgroup_root, path, true, &s->task.spec.limits, &cgroup,
		                  err);
	if (r < 0) {
		namespaces_close(&s->task.namespaces);
		task_spec_done(&s->task.spec);
		return r;
	}
	s->was_set_up = true;

	_cleanup_json_ struct json_object *answer = ipc_message_new("ready", request);

	supervisor_send(s, answer, NULL, 0);
	return 0;
}

/* --- volume --- */

static int on_volume(struct supervisor *s, struct json_object *request, struct ipc_message *msg,
                     struct err *err)
{
	_cleanup_json_ struct json_object *answer = ipc_message_new("volume-held", request);
	const char *name;
	int r;

	if (!answer)
		return err_oom(err);
	r = json_get_string(request, "name", &name, err);
	if (r < 0)
		return r == -ENOENT ? -EINVAL : r;
	if (msg->n_fds != 1)
		return err_text(err, -EINVAL, "\"volume\" must come with one descriptor");
	r = mounted_take(&s->mounted, name, TAKE_FD(msg->fds[0]), err);
	if (r == 0)
		supervisor_send(s, answer, NULL, 0);
	return r;
}

/* --- create --- */

static void answer_created(struct supervisor *s, struct json_object *request,
                           const struct container *container)
{
	_cleanup_json_ struct json_object *answer = ipc_message_new("created", request);
	int fds[2] = {container->netns_fd, container->endpoint.socket_fd};

	if (answer && (json_add_string(answer, "container", container->name) < 0 ||
	               (container->has_cgroup_id &&
	                json_add_u64(answer, "cgroupId", container->cgroup_id) < 0)))
		answer = (json_object_put(answer), NULL);
	supervisor_send(s, answer, fds, container->endpoint.socket_fd >= 0 ? ARRAY_SIZE(fds) : 0);
}

static int make_health(const struct container_spec *spec, struct health **ret, struct err *err)
{
	struct health_check check = {};
	int r;

	if (!spec->health_check)
		return 0;
	r = health_check_parse(spec->health_check, &check, err);
	if (r == 0 && health_new(&check, ret) < 0)
		r = err_oom(err);
	health_check_done(&check);
	return r;
}

/* Only what was asked for wrongly is an error; what is missing on the host is told later. */
static int make_execute_command(struct supervisor *s, const struct container_spec *spec,
                                struct execute_command **ret, struct err *err)
{
	struct execute_command_request request = {
		.state_dir = s->state_dir,
		.task_id = s->task.id,
		.container = spec->name,
		.keep_logs_usec = s->task.policy.task_cleanup_wait_usec,
	};
	int r;

	if (!spec->execute_command)
		return 0;
	r = execute_command_parse(spec->execute_command, &request.session_limit, err);
	if (r == 0 && execute_command_new(&request, ret) < 0)
		r = err_oom(err);
	return r;
}

static int on_create(struct supervisor *s, struct json_object *request, struct ipc_message *msg,
                     struct err *err)
{
	_cleanup_(container_spec_freep) struct container_spec *spec = NULL;
	_cleanup_(health_freep) struct health *health = NULL;
	_cleanup_(execute_command_freep) struct execute_command *execute_command = NULL;
	struct container *container = NULL;
	struct json_object *object;
	int r;

	(void)msg;
	r = json_get_object(request, "container", &object, err);
	if (r < 0)
		return r == -ENOENT ? -EINVAL : r;
	r = container_spec_parse(object, &s->task.spec, &spec, err);
	if (r < 0)
		return r;
	err->name = "CannotCreateContainerError";
	r = namespaces_check(&s->task.policy, spec->ipc_mode, err);
	if (r < 0)
		return r;
	if (spec->bare && !s->oci)
		return err_text(err, -EINVAL, "container.oci is not for tasks");
	container = find_container(s, spec->name);
	if (container && container->status == CONTAINER_CREATED &&
	    strcmp(container->id, spec->id) == 0) {
		answer_created(s, request,
		               container); /* the first answer was lost with its reader */
		return 0;
	}
	if (container)
		return err_text(err, -EEXIST, "container %s exists already", spec->name);
	if (s->n_containers == CONTAINERS_MAX)
		return err_text(err, -E2BIG, "a task can have %d containers", CONTAINERS_MAX);

	r = make_health(spec, &health, err);
	if (r == 0)
		r = make_execute_command(s, spec, &execute_command, err);
	if (r == 0)
		r = container_create(&s->task, spec, &container, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < 3 && i < msg->n_fds && spec->bare; i++)
		container->stdio[i] = TAKE_FD(msg->fds[i]);
	TAKE_PTR(spec);
	container->health = TAKE_PTR(health);
	container->execute_command = TAKE_PTR(execute_command);
	container->next = s->containers;
	s->containers = container;
	s->n_containers++;
	answer_created(s, request, container);
	return 0;
}

/* --- start --- */

static int network_parse(struct supervisor *s, const struct container *container,
                         struct json_object *request, struct network_address *ret, struct err *err)
{
	bool bridge = s->task.spec.network_mode == NETWORK_BRIDGE &&
	              !(container->spec && container->spec->network_disabled);
	struct json_object *network = NULL;
	uint64_t prefix;
	int r;

	r = json_optional(json_get_object(request, "network", &network, err));
	if (r < 0)
		return r;
	if (!network && bridge && !container->address[0])
		return err_text(err, -EINVAL, "\"network\" is missing, which bridge mode needs");
	if (!network)
		return 0;
	if (!bridge)
		return err_text(err, -EINVAL, "\"network\" is for bridge mode only");
	r = json_get_string(network, "address", &ret->address, err);
	if (r == 0)
		r = json_get_string(network, "gateway", &ret->gateway, err);
	if (r == 0)
		r = json_get_u64(network, "prefix", 128, &prefix, err);
	return r == -ENOENT ? -EINVAL : r;
}

static void answer_started(struct supervisor *s, struct container *container)
{
	_cleanup_json_ struct json_object *request = TAKE_PTR(container->start_request);
	_cleanup_json_ struct json_object *answer = ipc_message_new("started", request);

	if (answer && (json_add_string(answer, "container", container->name) < 0 ||
	               json_add_i64(answer, "pid", container->host_pid) < 0 ||
	               json_add_u64(answer, "time", container->started_realtime_usec) < 0 ||
	               json_add_u64(answer, "restarts", container->starts - 1) < 0))
		answer = (json_object_put(answer), NULL);
	supervisor_send(s, answer, NULL, 0);
}

static void answer_held(struct supervisor *s, struct container *container)
{
	_cleanup_json_ struct json_object *request = TAKE_PTR(container->start_request);
	_cleanup_json_ struct json_object *answer = ipc_message_new("held", request);
	_cleanup_close_ int console = TAKE_FD(container->console_fd);

	if (answer && (json_add_string(answer, "container", container->name) < 0 ||
	               json_add_i64(answer, "pid", container->host_pid) < 0))
		answer = (json_object_put(answer), NULL);
	supervisor_send(s, answer, &console, console >= 0 ? 1 : 0);
}

/* As ipc_conn_send_error(), and which container it is about. */
void supervisor_answer_start_failed(struct supervisor *s, struct container *container,
                                    const struct err *err)
{
	_cleanup_json_ struct json_object *request = TAKE_PTR(container->start_request);
	_cleanup_json_ struct json_object *answer = ipc_message_new("error", request);
	const char *code = strerrorname_np(-container->failure.error);

	if (!request) { /* it was held, which is answered */
		supervisor_send_exited(s, container);
		return;
	}
	if (answer &&
	    (json_add_string(answer, "code", code && container->failure.error ? code : "EIO") < 0 ||
	     json_add_string(answer, "message", err->text) < 0 ||
	     json_add_string(answer, "name", err->name) < 0 ||
	     json_add_string(answer, "container", container->name) < 0 ||
	     (container->has_exit_code &&
	      json_add_i64(answer, "exitCode", container->exit_code) < 0)))
		answer = (json_object_put(answer), NULL);
	supervisor_send(s, answer, NULL, 0);
}

static int on_start(struct supervisor *s, struct json_object *request, struct ipc_message *msg,
                    struct err *err)
{
	struct network_address address = {};
	struct container *container;
	int r;

	r = get_container(s, request, &container, err);
	if (r < 0)
		return r;
	err->name = "CannotStartContainerError";
	if (s->stopping)
		return err_text(err, -ESHUTDOWN, "the host is shutting down");
	r = network_parse(s, container, request, &address, err);
	if (r < 0)
		return r;
	r = container->held ? container_release(container, err)
	                    : container_start(container, &address, msg->fds, msg->n_fds, err);
	if (r == -EBUSY)
		return r;
	json_object_put(container->start_request);
	container->start_request = json_object_get(request);
	if (r < 0) {
		err->name = "CannotStartContainerError";
		supervisor_answer_start_failed(s, container, err);
		return 0;
	}
	for (size_t i = 0; i < msg->n_fds; i++)
		TAKE_FD(msg->fds[i]);
	return 0;
}

void supervisor_start_progress(struct supervisor *s, struct container *container, bool ended)
{
	struct err err = {};

	switch (container_start_progress(container, ended, &err)) {
	case CONTAINER_WAITS:
		break;
	case CONTAINER_HELD:
		answer_held(s, container);
		break;
	case CONTAINER_STARTED:
		answer_started(s, container);
		if (container->health)
			health_start(container->health, &s->execs.set, container);
		if (container->execute_command)
			execute_command_start(container->execute_command, &s->execs.set, container);
		malloc_trim(0); /* the specification is gone */
		break;
	case CONTAINER_FAILED:
		supervisor_answer_start_failed(s, container, &err);
		break;
	}
}

/* --- stop --- */

void supervisor_send_exited(struct supervisor *s, struct container *container)
{
	_cleanup_json_ struct json_object *event = container_exit_event(container);

	supervisor_send(s, event, NULL, 0);
}

void supervisor_send_dropped(struct supervisor *s, struct container *container)
{
	_cleanup_json_ struct json_object *event = NULL;
	uint64_t records, bytes;

	if (!container->output.writer)
		return;
	spool_writer_dropped(container->output.writer, &records, &bytes);
	if (records == container->dropped_told)
		return;
	container->dropped_told = records;
	event = ipc_message_new("dropped", NULL);
	if (event && (json_add_string(event, "container", container->name) < 0 ||
	              json_add_u64(event, "records", records) < 0 ||
	              json_add_u64(event, "bytes", bytes) < 0))
		return;
	supervisor_send(s, event, NULL, 0);
}

void supervisor_send_health(struct supervisor *s)
{
	for (struct container *c = s->containers; c; c = c->next) {
		_cleanup_json_ struct json_object *event = NULL;

		if (!c->health || !health_take_news(c->health))
			continue;
		event = ipc_message_new("health", NULL);
		if (event && (json_add_string(event, "container", c->name) < 0 ||
		              health_to_json(c->health, event) < 0))
			continue;
		supervisor_send(s, event, NULL, 0);
	}
}

void supervisor_send_managed_agents(struct supervisor *s)
{
	for (struct container *c = s->containers; c; c = c->next) {
		_cleanup_json_ struct json_object *event = NULL;

		if (!c->execute_command || !execute_command_take_news(c->execute_command))
			continue;
		event = ipc_message_new("managed-agent", NULL);
		if (event && (json_add_string(event, "container", c->name) < 0 ||
		              execute_command_to_json(c->execute_command, event) < 0))
			continue;
		supervisor_send(s, event, NULL, 0);
	}
}

static int on_stop(struct supervisor *s, struct json_object *request, struct ipc_message *msg,
                   struct err *err)
{
	_cleanup_json_ struct json_object *answer = NULL;
	struct container *container;
	uint64_t timeout = CONTAINER_STOP_USEC;
	bool stopped;
	int r;

	(void)msg;
	r = get_container(s, request, &container, err);
	if (r == 0)
		r = json_optional(
			json_get_u64(request, "timeoutUsec", INT64_MAX / 2, &timeout, err));
	if (r < 0)
		return r;
	stopped = container_stop(container, timeout);
	answer = ipc_message_new("stopping", request);
	supervisor_send(s, answer, NULL, 0);
	if (stopped)
		supervisor_send_exited(s, container);
	return 0;
}

static int on_stop_order(struct supervisor *s, struct json_object *request, struct ipc_message *msg,
                         struct err *err)
{
	_cleanup_json_ struct json_object *answer = NULL;
	int r;

	(void)msg;
	r = stop_order_take(&s->stop_order, request, err);
	if (r < 0)
		return r;
	answer = ipc_message_new("stop-ordered", request);
	supervisor_send(s, answer, NULL, 0);
	return 0;
}

static int on_signal_request(struct supervisor *s, struct json_object *request,
                             struct ipc_message *msg, struct err *err)
{
	_cleanup_json_ struct json_object *answer = ipc_message_new("signalled", request);
	struct container *container;
	const char *name;
	int r, number;

	(void)msg;
	if (!answer)
		return err_oom(err);
	r = get_container(s, request, &container, err);
	if (r == 0)
		r = json_get_string(request, "signal", &name, err);
	if (r < 0)
		return r;
	number = signal_from_name(name);
	if (number < 0)
		return err_text(err, -EINVAL, "signal \"%.64s\" is no signal", name);
	r = container_signal(container, number);
	if (r == -ESRCH)
		return err_text(err, r, "container %s is not running", container->name);
	if (r < 0)
		return err_set(err, r, "send signal %s to container %s", name, container->name);
	supervisor_send(s, answer, NULL, 0);
	return 0;
}

/* --- record, state, sockets --- */

/* As text: it takes a fraction of what the parsed objects do. */
static int on_record(struct supervisor *s, struct json_object *request, struct ipc_message *msg,
                     struct err *err)
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

static int on_state(struct supervisor *s, struct json_object *request, struct ipc_message *msg,
                    struct err *err)
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

static int on_sockets(struct supervisor *s, struct json_object *request, struct ipc_message *msg,
                      struct err *err)
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

/* --- exec (exec_requests.h) --- */

static int on_exec(struct supervisor *s, struct json_object *request, struct ipc_message *msg,
                   struct err *err)
{
	return exec_requests_exec(&s->execs, request, msg, err);
}

static int on_exec_signal(struct supervisor *s, struct json_object *request,
                          struct ipc_message *msg, struct err *err)
{
	(void)msg;
	return exec_requests_signal(&s->execs, request, err);
}

int supervisor_container_for_exec(void *userdata, struct json_object *request,
                                  struct container **ret, struct err *err)
{
	return get_container(userdata, request, ret, err);
}

void supervisor_send_for_exec(void *userdata, struct json_object *body, const int *fds, size_t n)
{
	supervisor_send(userdata, body, fds, n);
}

/* --- end --- */

static void remove_directory(const char *parent, const char *name)
{
	_cleanup_close_ int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = fd < 0 ? -errno : dir_remove_all(fd, name);

	if (r < 0)
		log_warning(NULL, r, "remove %s/%s", parent, name);
}

void supervisor_remove_runtime_directory(struct supervisor *s)
{
	char *slash = strrchr(s->run_dir, '/');

	*slash = '\0';
	remove_directory(s->run_dir, slash + 1);
	*slash = '/';
}

/* What is left in it is volumes, which end with the task. */
static void remove_state_directory(struct supervisor *s)
{
	int r = dir_remove_all(AT_FDCWD, s->task.state_dir);

	if (r < 0)
		log_warning(NULL, r, "remove %s", s->task.state_dir);
}

static int on_end(struct supervisor *s, struct json_object *request, struct ipc_message *msg,
                  struct err *err)
{
	_cleanup_json_ struct json_object *answer = NULL;

	(void)msg;
	for (struct container *c = s->containers; c; c = c->next)
		if (c->status == CONTAINER_RUNNING || c->status == CONTAINER_STARTING)
			return err_text(err, -EBUSY, "container %s is running", c->name);

	while (s->containers) {
		struct container *c = s->containers;

		s->containers = c->next;
		execs_end(&s->execs.set, c);
		container_remove(c);
		container_free(c);
	}
	if (spool_end_all(s->task.spool_fd, s->task.id, err) < 0)
		log_warning(NULL, 0, "%s", err->text);
	remove_state_directory(s);
	if (s->task.exits_fd >= 0)
		remove_directory(s->exits_dir, s->task.id);
	supervisor_remove_runtime_directory(s);
	answer = ipc_message_new("ended", request);
	supervisor_send(s, answer, NULL, 0);
	s->ended = true;
	return 0;
}

/* --- requests --- */

static const struct {
	const char *type;
	bool needs_setup;
	bool ends_at_shutdown;
	int (*handle)(struct supervisor *s, struct json_object *request, struct ipc_message *msg,
	              struct err *err);
} handlers[] = {
	{"setup", false, true, on_setup},
	{"volume", true, true, on_volume},
	{"create", true, true, on_create},
	{"start", true, true, on_start},
	{"stop", true, false, on_stop},
	{"stop-order", false, false, on_stop_order},
	{"record", false, false, on_record},
	{"state", false, false, on_state},
	{"sockets", false, false, on_sockets},
	{"end", false, false, on_end},
	{"exec", true, true, on_exec},
	{"exec-signal", true, false, on_exec_signal},
	{"signal", true, false, on_signal_request},
};

void supervisor_handle(struct supervisor *s, struct ipc_message *msg)
{
	const char *type = json_text(msg->body, "type");
	struct err err = {};
	int r = -ENOSYS;

	for (size_t i = 0; i < ARRAY_SIZE(handlers); i++) {
		if (strcmp(handlers[i].type, type) != 0)
			continue;
		if (handlers[i].needs_setup && !s->was_set_up)
			r = err_text(&err, -EINVAL, "\"%s\" before \"setup\"", type);
		else if (handlers[i].ends_at_shutdown && s->stopping)
			r = err_text(&err, -ECANCELED, "the host is being shut down");
		else
			r = handlers[i].handle(s, msg->body, msg, &err);
		break;
	}
	if (r == -ENOSYS)
		err_text(&err, r, "unknown request \"%.64s\"", type);
	if (r < 0)
		supervisor_send_error(s, msg->body, r, &err);
}
