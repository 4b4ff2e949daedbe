/*
 * One table of all requests, and the handlers of those that are about the task as a whole. Each
 * handler checks every member anew.
 */
#include "agent/task/supervisor_requests.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "agent/task/stop_order.h"
#include "agent/task/supervisor_containers.h"
#include "agent/task/supervisor_report.h"
#include "agent/task/supervisor_state.h"
#include "lib/fd.h"
#include "lib/json.h"
#include "lib/log.h"
#include "lib/spool_writer.h"

/* --- setup and volume --- */

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

/* --- stop order --- */

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
	return supervisor_get_container(userdata, request, ret, err);
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
	{"create", true, true, supervisor_create_container},
	{"start", true, true, supervisor_start_container},
	{"stop", true, false, supervisor_stop_container},
	{"stop-order", false, false, on_stop_order},
	{"record", false, false, supervisor_keep_record},
	{"state", false, false, supervisor_tell_state},
	{"sockets", false, false, supervisor_tell_sockets},
	{"end", false, false, on_end},
	{"exec", true, true, on_exec},
	{"exec-signal", true, false, on_exec_signal},
	{"signal", true, false, supervisor_signal_container},
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
