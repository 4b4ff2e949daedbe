/*
 * The containers of a task as requests have them: made, started, stopped and signalled one by one.
 * A start is answered when it is over, which supervisor_start_progress() tells.
 */
#include "agent/task/supervisor_containers.h"

#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>

#include "agent/task/execute_command.h"
#include "agent/task/health.h"
#include "agent/task/supervisor_report.h"
#include "lib/fd.h"
#include "lib/json.h"

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

int supervisor_get_container(struct supervisor *s, struct json_object *request,
                             struct container **ret, struct err *err)
{
	const char *name;
	int r = json_get_string(request, "container", &name, err);

	if (r < 0)
		return r == -ENOENT ? -EINVAL : r;
	*ret = find_container(s, name);
	return *ret ? 0 : no_such_container(s, name, err);
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

int supervisor_create_container(struct supervisor *s, struct json_object *request,
                                struct ipc_message *msg, struct err *err)
{
	_cleanup_(container_spec_freep) struct container_spec *spec = NULL;
	_cleanup_(health_freep) struct health *health = NULL;
	_cleanup_(execute_command_freep) struct execute_command *execute_command = NULL;
	struct container *container = NULL;
	struct json_object *object;
	int r;

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

int supervisor_start_container(struct supervisor *s, struct json_object *request,
                               struct ipc_message *msg, struct err *err)
{
	struct network_address address = {};
	struct container *container;
	int r;

	r = supervisor_get_container(s, request, &container, err);
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

/* --- stop and signal --- */

int supervisor_stop_container(struct supervisor *s, struct json_object *request,
                              struct ipc_message *msg, struct err *err)
{
	_cleanup_json_ struct json_object *answer = NULL;
	struct container *container;
	uint64_t timeout = CONTAINER_STOP_USEC;
	bool stopped;
	int r;

	(void)msg;
	r = supervisor_get_container(s, request, &container, err);
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

int supervisor_signal_container(struct supervisor *s, struct json_object *request,
                                struct ipc_message *msg, struct err *err)
{
	_cleanup_json_ struct json_object *answer = ipc_message_new("signalled", request);
	struct container *container;
	const char *name;
	int r, number;

	(void)msg;
	if (!answer)
		return err_oom(err);
	r = supervisor_get_container(s, request, &container, err);
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
