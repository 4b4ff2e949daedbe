/*
 * One thread, one poll(2). Requests are answered in the order they come; a start is answered when
 * its child has reached execve(2), and other requests are served meanwhile. What could not be sent,
 * because ecs-agent is restarting, is in the exit files and in the answer to "state".
 */
#include "agent/task/supervisor.h"

#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "agent/task/container.h"
#include "agent/task/exec_requests.h"
#include "agent/task/health.h"
#include "agent/task/protocol.h"
#include "agent/task/rootfs.h"
#include "agent/task/stop_order.h"
#include "lib/fd.h"
#include "lib/ipc.h"
#include "lib/json.h"
#include "lib/log.h"
#include "lib/spool_writer.h"

#define CONTAINERS_MAX    64
#define FDS_PER_CONTAINER 3
#define STALL_MSEC        50      /* how often a full spool is looked at again */
#define DROPPED_USEC      1000000 /* at most one event "dropped" in this time */
#define MESSAGES_PER_TURN 16

struct supervisor {
	struct task task;
	char run_dir[PATH_MAX]; /* <run>/tasks/<id> */
	gid_t agent_gid;        /* group of <run>/tasks: who may connect besides root */
	int signal_fd, listen_fd;
	struct ipc_conn *conn; /* NULL: ecs-agent is not there */
	struct container *containers;
	size_t n_containers;
	char *record;                   /* JSON text of "record"; NULL: none */
	struct json_object *stop_order; /* array of "stop-order"; NULL: none */
	char exits_dir[PATH_MAX];       /* <state>/exits */
	struct exec_requests execs;
	bool oci;
	bool was_set_up;
	bool stopping; /* SIGTERM */
	bool ended;    /* leave the loop once the answer is sent */
	uint64_t dropped_usec;
};

/* --- answering --- */

static void drop_connection(struct supervisor *s)
{
	s->conn = ipc_conn_free(s->conn);
}

static void send_message(struct supervisor *s, struct json_object *body, const int *fds, size_t n)
{
	int r;

	if (!s->conn)
		return;
	r = body ? ipc_conn_send(s->conn, body, fds, n) : -ENOMEM;
	if (r < 0) {
		log_warning(NULL, r, "send to ecs-agent");
		drop_connection(s);
	}
}

static void send_error(struct supervisor *s, struct json_object *request, int code,
                       const struct err *err)
{
	if (s->conn && ipc_conn_send_error(s->conn, request, code, err) < 0)
		drop_connection(s);
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

/* v1: the hierarchies to mount in containers, from "4:memory:/..." lines. */
static int read_hierarchies(struct task *task, struct err *err)
{
	_cleanup_free_ const char **list = NULL;
	char *save = NULL;
	size_t n = 0;
	int r;

	if (cgroup_root_is_v2(task->cgroup_root))
		return 0;
	r = file_read(AT_FDCWD, "/proc/self/cgroup", 65536, &task->hierarchies_text, NULL);
	if (r < 0)
		return err_set(err, r, "read /proc/self/cgroup");
	list = calloc(CONTAINER_HIERARCHIES_MAX + 1, sizeof(*list));
	if (!list)
		return err_oom(err);

	for (char *line = strtok_r(task->hierarchies_text, "\n", &save);
	     line && n < CONTAINER_HIERARCHIES_MAX; line = strtok_r(NULL, "\n", &save)) {
		char *name = strchr(line, ':');
		char *end = name ? strchr(name + 1, ':') : NULL;

		if (!end)
			return err_text(err, -EBADMSG, "/proc/self/cgroup has the line \"%.100s\"",
			                line);
		*end = '\0';
		list[n++] = name + 1;
	}
	task->hierarchies = TAKE_PTR(list);
	return 0;
}

static int on_setup(struct supervisor *s, struct json_object *request, struct ipc_message *msg,
                    struct err *err)
{
	_cleanup_(cgroup_freep) struct cgroup *cgroup = NULL;
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
	r = cgroup_create(s->task.cgroup_root, path, true, &s->task.spec.limits, &cgroup, err);
	if (r < 0) {
		task_spec_done(&s->task.spec);
		return r;
	}
	s->was_set_up = true;

	_cleanup_json_ struct json_object *answer = ipc_message_new("ready", request);

	send_message(s, answer, NULL, 0);
	return 0;
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
	send_message(s, answer, fds, container->endpoint.socket_fd >= 0 ? ARRAY_SIZE(fds) : 0);
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

static int on_create(struct supervisor *s, struct json_object *request, struct ipc_message *msg,
                     struct err *err)
{
	_cleanup_(container_spec_freep) struct container_spec *spec = NULL;
	_cleanup_(health_freep) struct health *health = NULL;
	struct container *container = NULL;
	struct json_object *object;
	int r;

	(void)msg;
	r = json_get_object(request, "container", &object, err);
	if (r < 0)
		return r == -ENOENT ? -EINVAL : r;
	r = container_spec_parse(object, s->task.spec.network_mode, &spec, err);
	if (r < 0)
		return r;
	err->name = "CannotCreateContainerError";
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
		r = container_create(&s->task, spec, &container, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < 3 && i < msg->n_fds && spec->bare; i++)
		container->stdio[i] = TAKE_FD(msg->fds[i]);
	TAKE_PTR(spec);
	container->health = TAKE_PTR(health);
	container->next = s->containers;
	s->containers = container;
	s->n_containers++;
	answer_created(s, request, container);
	return 0;
}

/* --- start --- */

static int network_parse(struct supervisor *s, struct json_object *request,
                         struct network_address *ret, struct err *err)
{
	struct json_object *network = NULL;
	uint64_t prefix;
	int r;

	r = json_optional(json_get_object(request, "network", &network, err));
	if (r < 0)
		return r;
	if (!network && s->task.spec.network_mode == NETWORK_BRIDGE)
		return err_text(err, -EINVAL, "\"network\" is missing, which bridge mode needs");
	if (!network)
		return 0;
	if (s->task.spec.network_mode != NETWORK_BRIDGE)
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
	               json_add_u64(answer, "time", container->started_realtime_usec) < 0))
		answer = (json_object_put(answer), NULL);
	send_message(s, answer, NULL, 0);
}

static void send_exited(struct supervisor *s, struct container *container);

static void answer_held(struct supervisor *s, struct container *container)
{
	_cleanup_json_ struct json_object *request = TAKE_PTR(container->start_request);
	_cleanup_json_ struct json_object *answer = ipc_message_new("held", request);
	_cleanup_close_ int console = TAKE_FD(container->console_fd);

	if (answer && (json_add_string(answer, "container", container->name) < 0 ||
	               json_add_i64(answer, "pid", container->host_pid) < 0))
		answer = (json_object_put(answer), NULL);
	send_message(s, answer, &console, console >= 0 ? 1 : 0);
}

/* As ipc_conn_send_error(), and which container it is about. */
static void answer_start_failed(struct supervisor *s, struct container *container,
                                const struct err *err)
{
	_cleanup_json_ struct json_object *request = TAKE_PTR(container->start_request);
	_cleanup_json_ struct json_object *answer = ipc_message_new("error", request);
	const char *code = strerrorname_np(-container->failure.error);

	if (!request) { /* it was held, which is answered */
		send_exited(s, container);
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
	send_message(s, answer, NULL, 0);
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
	r = network_parse(s, request, &address, err);
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
		answer_start_failed(s, container, err);
		return 0;
	}
	for (size_t i = 0; i < msg->n_fds; i++)
		TAKE_FD(msg->fds[i]);
	return 0;
}

static void start_progress(struct supervisor *s, struct container *container, bool ended)
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
		malloc_trim(0); /* the specification is gone */
		break;
	case CONTAINER_FAILED:
		answer_start_failed(s, container, &err);
		break;
	}
}

/* --- stop --- */

static void send_exited(struct supervisor *s, struct container *container)
{
	_cleanup_json_ struct json_object *event = container_exit_event(container);

	send_message(s, event, NULL, 0);
}

static void send_dropped(struct supervisor *s, struct container *container)
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
	send_message(s, event, NULL, 0);
}

static void send_health(struct supervisor *s)
{
	for (struct container *c = s->containers; c; c = c->next) {
		_cleanup_json_ struct json_object *event = NULL;

		if (!c->health || !health_take_news(c->health))
			continue;
		event = ipc_message_new("health", NULL);
		if (event && (json_add_string(event, "container", c->name) < 0 ||
		              health_to_json(c->health, event) < 0))
			continue;
		send_message(s, event, NULL, 0);
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
	send_message(s, answer, NULL, 0);
	if (stopped)
		send_exited(s, container);
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
	send_message(s, answer, NULL, 0);
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
	send_message(s, answer, NULL, 0);
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
	send_message(s, answer, NULL, 0);
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
	if (c->health) {
		struct json_object *health = json_object_new_object();

		if (json_add(state, "health", health) < 0 || health_to_json(c->health, health) < 0)
			return NULL;
	}
	if (c->status == CONTAINER_STOPPED &&
	    json_add_u64(state, "exitTime", c->exit_realtime_usec) < 0)
		return NULL;
	if (c->has_exit_code && (json_add_i64(state, "exitCode", c->exit_code) < 0 ||
	                         json_add_bool(state, "oomKilled", c->oom_killed) < 0))
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
	    add_record(s, request, answer) < 0)
		return err_oom(err);
	send_message(s, answer, NULL, 0);
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
	send_message(s, answer, fds, n);
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

static int container_for_exec(void *userdata, struct json_object *request, struct container **ret,
                              struct err *err)
{
	return get_container(userdata, request, ret, err);
}

static void send_for_exec(void *userdata, struct json_object *body, const int *fds, size_t n)
{
	send_message(userdata, body, fds, n);
}

/* --- end --- */

static void remove_directory(const char *parent, const char *name)
{
	_cleanup_close_ int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = fd < 0 ? -errno : dir_remove_all(fd, name);

	if (r < 0)
		log_warning(NULL, r, "remove %s/%s", parent, name);
}

static void remove_runtime_directory(struct supervisor *s)
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
	remove_runtime_directory(s);
	answer = ipc_message_new("ended", request);
	send_message(s, answer, NULL, 0);
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

static void handle_message(struct supervisor *s, struct ipc_message *msg)
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
		send_error(s, msg->body, r, &err);
}

static void on_connection(struct supervisor *s)
{
	for (int i = 0; i < MESSAGES_PER_TURN && s->conn && !s->ended; i++) {
		struct ipc_message msg = {};
		struct err err = {};
		int r = ipc_conn_receive(s->conn, &msg, &err);

		if (r == 0)
			return;
		if (r < 0) {
			if (r != -EPIPE && r != -ECONNRESET)
				log_warning(NULL, r, "connection of ecs-agent: %s", err.text);
			drop_connection(s);
			return;
		}
		handle_message(s, &msg);
		ipc_message_done(&msg);
	}
}

static int adopt_connection(struct supervisor *s, int fd)
{
	struct ipc_conn *conn;
	int r = ipc_conn_new(fd, 0, true, &conn); /* wiped: environments carry secrets */

	if (r < 0)
		return r;
	drop_connection(s);
	s->conn = conn;
	return 0;
}

static void on_listener(struct supervisor *s)
{
	int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	uid_t uid;
	gid_t gid;
	int r;

	if (fd < 0)
		return; /* it went away again, or the loop comes back */
	r = ipc_peer(fd, &uid, &gid, NULL);
	if (r < 0 || (uid != 0 && (s->agent_gid == 0 || gid != s->agent_gid))) {
		log_warning(NULL, r, "refused a connection of uid %d", r < 0 ? -1 : (int)uid);
		fd_close(fd);
		return;
	}
	r = adopt_connection(s, fd);
	if (r < 0)
		log_warning(NULL, r, "take a connection");
}

/* --- signals --- */

static void on_child_exit(struct supervisor *s, pid_t pid, int status)
{
	if (execs_reaped(&s->execs.set, pid, status))
		return;
	for (struct container *c = s->containers; c; c = c->next) {
		if (c->pid != pid)
			continue;
		if (c->status == CONTAINER_STARTING)
			start_progress(s, c, true);
		if (c->status != CONTAINER_RUNNING)
			return; /* the start failed, which is answered */
		if (c->health)
			health_stop(c->health);
		container_exited(c, status);
		send_dropped(s, c);
		send_exited(s, c);
		malloc_trim(0);
		return;
	}
}

static void stop_one(struct supervisor *s, struct container *c)
{
	if (container_stop(c, stop_order_timeout_usec(s->stop_order, c)))
		send_exited(s, c);
}

/* Those whose turn it is; all that are left, should the order have no beginning. */
static void stop_next(struct supervisor *s)
{
	bool waiting = false, under_way = false;

	for (struct container *c = s->containers; c; c = c->next) {
		if (c->status != CONTAINER_STOPPED && c->stop_deadline_usec == 0 &&
		    stop_order_allows(s->stop_order, s->containers, c))
			stop_one(s, c);
		under_way |= c->stop_deadline_usec != 0;
		waiting |= c->status != CONTAINER_STOPPED && c->stop_deadline_usec == 0;
	}
	for (struct container *c = s->containers; c && waiting && !under_way; c = c->next)
		if (c->status != CONTAINER_STOPPED)
			stop_one(s, c);
}

static void start_stopping(struct supervisor *s)
{
	struct err err = {};

	s->stopping = true;
	s->task.exits_fd = exits_create(s->exits_dir, s->task.id, &err);
	if (s->task.exits_fd < 0)
		log_err(NULL, 0, "exits will not outlive the host: %s", err.text);
	for (struct container *c = s->containers; c; c = c->next)
		container_save_exit(c);
}

static void on_signal(struct supervisor *s)
{
	struct signalfd_siginfo info;
	int status;
	pid_t pid;

	while (read(s->signal_fd, &info, sizeof(info)) == sizeof(info))
		if (info.ssi_signo == SIGTERM && !s->stopping)
			start_stopping(s);
	/* Signals of one kind merge, and orphans of ours are collected too. */
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		on_child_exit(s, pid, status);
}

/* --- the loop --- */

static bool all_stopped(const struct supervisor *s)
{
	for (const struct container *c = s->containers; c; c = c->next)
		if (c->status != CONTAINER_STOPPED)
			return false;
	return true;
}

static void check_deadlines(struct supervisor *s)
{
	uint64_t now = now_monotonic_usec();

	for (struct container *c = s->containers; c; c = c->next) {
		struct err err = {};

		if (c->start_deadline_usec && now >= c->start_deadline_usec) {
			container_start_abort(c, &err);
			answer_start_failed(s, c, &err);
		}
		if (c->stop_deadline_usec && now >= c->stop_deadline_usec && !c->kill_sent)
			container_kill(c);
		if (c->health)
			health_check_due(c->health, now);
	}
	execs_check_deadlines(&s->execs.set);
	if (now - s->dropped_usec < DROPPED_USEC)
		return;
	s->dropped_usec = now;
	for (struct container *c = s->containers; c; c = c->next)
		send_dropped(s, c);
}

static void earlier(uint64_t *deadline, uint64_t other)
{
	if (other && other < *deadline)
		*deadline = other;
}

/* Milliseconds until something is due, rounded up; -1: nothing is. */
static int next_timeout(const struct supervisor *s, bool stalled)
{
	uint64_t due = UINT64_MAX, now = now_monotonic_usec();

	for (const struct container *c = s->containers; c; c = c->next) {
		uint64_t records = 0, bytes;

		earlier(&due, c->start_deadline_usec);
		if (!c->kill_sent)
			earlier(&due, c->stop_deadline_usec);
		if (c->health)
			earlier(&due, health_deadline(c->health));
		if (c->output.writer)
			spool_writer_dropped(c->output.writer, &records, &bytes);
		if (records != c->dropped_told)
			earlier(&due, s->dropped_usec + DROPPED_USEC);
	}
	earlier(&due, execs_deadline(&s->execs.set));
	if (stalled)
		earlier(&due, now + STALL_MSEC * 1000);
	if (due == UINT64_MAX)
		return -1;
	if (due <= now)
		return 0;
	due = (due - now + 999) / 1000;
	return due < 3600000 ? (int)due : 3600000;
}

/* What poll(2) watches: three of the supervisor's own, then three of each container, then execs. */
enum {
	AT_SIGNALS,
	AT_LISTENER,
	AT_CONNECTION,
	AT_CONTAINERS,
};

static size_t fill_pollfds(struct supervisor *s, struct pollfd *fds, bool *ret_stalled)
{
	size_t n = AT_CONTAINERS;

	*ret_stalled = false;
	fds[AT_SIGNALS] = (struct pollfd){.fd = s->signal_fd, .events = POLLIN};
	fds[AT_LISTENER] = (struct pollfd){.fd = s->listen_fd, .events = POLLIN};
	fds[AT_CONNECTION] = (struct pollfd){.fd = -1};
	if (s->conn)
		fds[AT_CONNECTION] = (struct pollfd){
			.fd = ipc_conn_fd(s->conn),
			.events = POLLIN | (ipc_conn_wants_write(s->conn) ? POLLOUT : 0),
		};
	for (struct container *c = s->containers; c; c = c->next) {
		bool has_pipes = c->output.read_fds[0] >= 0 || c->output.read_fds[1] >= 0;
		bool room = has_pipes && output_has_room(&c->output);

		*ret_stalled |= has_pipes && !room;
		fds[n++] = (struct pollfd){.fd = c->report_fd, .events = POLLIN};
		for (int i = 0; i < 2; i++)
			fds[n++] = (struct pollfd){.fd = room ? c->output.read_fds[i] : -1,
			                           .events = POLLIN};
	}
	return n;
}

/* Output first, so that nothing a container wrote before it ended comes after its end. */
static void serve_containers(struct supervisor *s, const struct pollfd *fds)
{
	size_t at = AT_CONTAINERS;

	for (struct container *c = s->containers; c; c = c->next, at += FDS_PER_CONTAINER) {
		for (int i = 0; i < 2; i++)
			if (fds[at + 1 + (size_t)i].revents)
				output_read(&c->output, i);
		if (fds[at].revents && c->status == CONTAINER_STARTING)
			start_progress(s, c, false);
	}
}

static int turn(struct supervisor *s, struct err *err)
{
	struct pollfd
		fds[AT_CONTAINERS + CONTAINERS_MAX * FDS_PER_CONTAINER + EXEC_REQUESTS_FDS_MAX];
	bool stalled;
	size_t n = fill_pollfds(s, fds, &stalled);
	size_t n_execs = exec_requests_poll(&s->execs, fds + n);

	if (poll(fds, n + n_execs, next_timeout(s, stalled)) < 0)
		return errno == EINTR ? 0 : err_set(err, -errno, "poll");

	serve_containers(s, fds); /* before anything that changes the list */
	exec_requests_serve(&s->execs, fds + n);
	if (fds[AT_SIGNALS].revents)
		on_signal(s);
	check_deadlines(s);
	if (s->stopping)
		stop_next(s);
	send_health(s);
	if (s->conn && (fds[AT_CONNECTION].revents & POLLOUT) && ipc_conn_flush(s->conn) < 0)
		drop_connection(s);
	if (s->conn && (fds[AT_CONNECTION].revents & ~POLLOUT))
		on_connection(s);
	if (!s->ended && fds[AT_LISTENER].revents)
		on_listener(s);
	return 0;
}

static bool is_over(const struct supervisor *s)
{
	if (s->ended)
		return !s->conn || !ipc_conn_wants_write(s->conn);
	if (s->stopping)
		return all_stopped(s);
	/* Nobody has asked for anything, and nobody can come back for it. */
	return !s->was_set_up && !s->conn;
}

/* --- the start of it all --- */

static int open_directories(struct supervisor *s, const struct options *options, const char *id,
                            struct err *err)
{
	_cleanup_close_ int tasks_fd = -EBADF;
	char path[PATH_MAX];
	struct stat st;
	int n[7];

	n[0] = snprintf(s->task.state_dir, PATH_MAX, "%s/tasks/%s", options->state_dir, id);
	n[1] = snprintf(s->task.layers_dir, PATH_MAX, "%s/images/layers", options->state_dir);
	n[2] = snprintf(s->task.seccomp_dir, PATH_MAX, "%s/seccomp", options->runtime_dir);
	n[3] = snprintf(s->run_dir, PATH_MAX, "%s/tasks/%s", options->runtime_dir, id);
	n[4] = snprintf(s->task.tasks_dir, PATH_MAX, "%s/tasks", options->state_dir);
	n[5] = snprintf(s->task.volumes_dir, PATH_MAX, "%s/volumes", options->state_dir);
	n[6] = snprintf(s->exits_dir, PATH_MAX, "%s/exits", options->state_dir);
	for (size_t i = 0; i < ARRAY_SIZE(n); i++)
		if (n[i] >= PATH_MAX)
			return err_text(err, -ENAMETOOLONG, "the directories' paths are too long");

	snprintf(path, sizeof(path), "%.4000s/spool", options->state_dir);
	s->task.spool_fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (s->task.spool_fd < 0)
		return err_set(err, -errno, "open %s", path);

	snprintf(path, sizeof(path), "%.4000s/tasks", options->runtime_dir);
	tasks_fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (tasks_fd < 0 || fstat(tasks_fd, &st) < 0)
		return err_set(err, -errno, "open %s", path);
	s->agent_gid = st.st_gid;
	if (mkdirat(tasks_fd, id, 0750) < 0 && errno != EEXIST)
		return err_set(err, -errno, "create %s", s->run_dir);
	s->task.run_fd = openat(tasks_fd, id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (s->task.run_fd < 0)
		return err_set(err, -errno, "open %s", s->run_dir);
	/* set-group-ID: what is made inside belongs to ecs-agent's group as well. */
	if (fchown(s->task.run_fd, 0, st.st_gid) < 0 || fchmod(s->task.run_fd, 02750) < 0)
		return err_set(err, -errno, "set owner and mode of %s", s->run_dir);
	return 0;
}

static int listen_for_agent(struct supervisor *s, struct err *err)
{
	char path[PATH_MAX];

	if (snprintf(path, sizeof(path), "%s/" TASK_SOCKET, s->run_dir) >= (int)sizeof(path))
		return err_text(err, -ENAMETOOLONG, "the path of the control socket is too long");
	s->listen_fd = ipc_listen(path, 0660, s->agent_gid, err);
	return s->listen_fd < 0 ? s->listen_fd : 0;
}

static int catch_signals(struct supervisor *s, struct err *err)
{
	sigset_t mask;

	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);
	sigaddset(&mask, SIGTERM);
	if (sigprocmask(SIG_BLOCK, &mask, NULL) < 0)
		return err_set(err, -errno, "block signals");
	(void)signal(SIGPIPE, SIG_IGN);
	s->signal_fd = signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC);
	return s->signal_fd < 0 ? err_set(err, -errno, "signalfd") : 0;
}

static int start(struct supervisor *s, const struct supervisor_config *config, struct err *err)
{
	const struct options *options = config->options;
	int r;

	r = policy_read(options->config, options->state_dir, &s->task.policy, err);
	if (r == 0)
		r = cgroup_root_open(NULL, config->cgroup_parent, &s->task.cgroup_root, err);
	if (r == 0)
		r = read_hierarchies(&s->task, err);
	if (r == 0)
		r = open_directories(s, options, config->task_id, err);
	if (r == 0)
		r = rootfs_prepare(s->task.tasks_dir, err);
	if (r == 0)
		r = catch_signals(s, err);
	if (r == 0)
		r = listen_for_agent(s, err);
	if (r == 0)
		r = exec_requests_listen(&s->execs, s->run_dir, err);
	return r;
}

static void done(struct supervisor *s)
{
	exec_requests_done(&s->execs);
	while (s->containers) {
		struct container *c = s->containers;

		s->containers = c->next;
		container_free(c);
	}
	drop_connection(s);
	fd_close(s->listen_fd);
	fd_close(s->signal_fd);
	fd_close(s->task.run_fd);
	fd_close(s->task.exits_fd);
	fd_close(s->task.spool_fd);
	task_spec_done(&s->task.spec);
	policy_done(&s->task.policy);
	free(s->record);
	json_object_put(s->stop_order);
	free(s->task.hierarchies);
	free(s->task.hierarchies_text);
	cgroup_root_free(s->task.cgroup_root);
}

int supervisor_run(const struct supervisor_config *config, struct err *err)
{
	struct supervisor s = {
		.task = {.id = config->task_id,
	                 .run_fd = -EBADF,
	                 .exits_fd = -EBADF,
	                 .spool_fd = -EBADF},
		.signal_fd = -EBADF,
		.listen_fd = -EBADF,
		.oci = config->oci,
	};
	const struct exec_requests_calls calls = {
		.get_container = container_for_exec,
		.send_to_agent = send_for_exec,
		.userdata = &s,
	};
	int r;

	exec_requests_init(&s.execs, &calls);
	r = adopt_connection(&s, config->control_fd);
	if (r < 0)
		return err_set(err, r, "take the connection on descriptor %d", config->control_fd);
	r = start(&s, config, err);
	if (r < 0)
		send_error(&s, NULL, r, err);
	while (r == 0 && !is_over(&s))
		r = turn(&s, err);
	if (r == 0 && !s.was_set_up && !s.ended)
		remove_runtime_directory(&s); /* nothing to come back for */
	done(&s);
	return r;
}
