/* What is known of one container, and how that changes: never backwards, and never without the
 * task being looked at again. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "agent/engine/engine_internal.h"
#include "agent/engine/health.h"
#include "agent/task/execute_command_paths.h"
#include "lib/fd.h"
#include "lib/json.h"
#include "lib/loop.h"
#include "lib/parse.h"

static int name_image(struct engine_container *ec)
{
	char normal[IMAGE_REFERENCE_MAX];

	if (image_reference_normalize(ec->c->image, normal, NULL) < 0)
		return 0; /* its pull will say so */
	ec->image = strdup(normal);
	return ec->image ? 0 : -ENOMEM;
}

int engine_containers_init(struct engine_task *et)
{
	struct task *task = et->task;

	et->containers = calloc(task->n_containers + 1, sizeof(*et->containers));
	if (!et->containers)
		return -ENOMEM;
	for (size_t i = 0; i < task->n_containers; i++)
		et->containers[i] = (struct engine_container){
			.et = et,
			.c = &task->containers[i],
			.log = {.parent = &et->log,
		                .field = "ECS_CONTAINER_NAME",
		                .value = task->containers[i].name},
			.netns_fd = -EBADF,
			.endpoint_fd = -EBADF,
			.stop_backoff = {.min_usec = SECOND_USEC,
		                         .max_usec = 5 * SECOND_USEC,
		                         .multiple = 1.3,
		                         .jitter = 0.2},
		};
	for (size_t i = 0; i < task->n_containers; i++)
		if (name_image(&et->containers[i]) < 0) {
			engine_containers_done(et);
			return -ENOMEM;
		}
	return 0;
}

void container_release_descriptors(struct engine_container *ec)
{
	ec->netns_fd = fd_close(ec->netns_fd);
	ec->endpoint_fd = fd_close(ec->endpoint_fd);
	for (size_t i = 0; i < ec->n_port_fds; i++)
		(void)fd_close(ec->port_fds[i]);
	free(ec->port_fds);
	ec->port_fds = NULL;
	ec->n_port_fds = 0;
}

void engine_containers_done(struct engine_task *et)
{
	struct engine *engine = et->engine;

	for (size_t i = 0; et->containers && i < et->task->n_containers; i++) {
		struct engine_container *ec = &et->containers[i];

		pull_free(ec->pull);
		sd_event_source_disable_unref(ec->stop_retry);
		state_forget(engine->o.state, ec);
		if (engine->network)
			network_forget(engine->network, ec);
		if (engine->metadata)
			metadata_forget(engine->metadata, ec);
		container_release_descriptors(ec);
		free(ec->image);
	}
	free(et->containers);
	et->containers = NULL;
}

struct engine_container *engine_container_find(struct engine_task *et, const char *name)
{
	for (size_t i = 0; name && i < et->task->n_containers; i++)
		if (strcmp(et->containers[i].c->name, name) == 0)
			return &et->containers[i];
	return NULL;
}

void container_reach(struct engine_container *ec, enum task_status status)
{
	if (status <= ec->c->known)
		return;
	ec->c->known = status;
	log_debug(&ec->log, "container is %s", task_status_to_string(status));
	engine_save(ec->et);
}

/* What counts from the start does so on the monotonic clock: the other one may be set meanwhile.
 * One that is older than the host has been set between the start and now, and tells nothing. */
void container_set_started(struct container *c, uint64_t realtime_usec)
{
	uint64_t now = now_usec(), realtime = now_realtime_usec();
	uint64_t age = realtime > realtime_usec ? realtime - realtime_usec : 0;

	c->started_realtime_usec = realtime_usec;
	if (realtime_usec > 0)
		c->started_usec = age < now ? now - age : now;
}

void container_set_reason(struct engine_container *ec, const char *name, const char *text)
{
	if (ec->c->reason)
		return;
	if (asprintf(&ec->c->reason, "%s: %s", name, text) < 0)
		ec->c->reason = NULL;
	engine_save(ec->et);
}

void container_fail(struct engine_container *ec, const char *name, const struct err *err)
{
	if (err->name)
		name = err->name;
	log_warning(&ec->log, 0, "container fails: %s: %s", name, err->text);
	container_set_reason(ec, name, err->text);
	ec->c->desired = TASK_STATUS_STOPPED;
	engine_save(ec->et);
}

void container_fail_timeout(struct engine_container *ec, const char *transition, uint64_t usec)
{
	char duration[32];
	struct err err = {.name = "DockerTimeoutError"};

	duration_to_string(usec, duration, sizeof(duration));
	(void)err_text(&err, 0, "Could not transition to %s; timed out after waiting %s",
	               transition, duration);
	container_fail(ec, err.name, &err);
}

void container_stopped(struct engine_container *ec, const int *exit_code,
                       uint64_t finished_realtime_usec)
{
	struct container *c = ec->c;
	struct task *task = ec->et->task;

	if (c->known == TASK_STATUS_STOPPED)
		return;
	if (exit_code) {
		c->has_exit_code = true;
		c->exit_code = *exit_code;
	}
	if (finished_realtime_usec == 0)
		finished_realtime_usec = now_realtime_usec();
	c->finished_realtime_usec = finished_realtime_usec;
	c->desired = TASK_STATUS_STOPPED;
	if (c->essential && task->execution_stopped_realtime_usec == 0)
		task->execution_stopped_realtime_usec = finished_realtime_usec;

	ec->pull = pull_free(ec->pull);
	ec->stop_retry = sd_event_source_disable_unref(ec->stop_retry);
	container_release_descriptors(ec);
	ec->may_run = ec->restart_due = false;
	(void)managed_agent_end(&c->managed_agent); /* of memory: ECS infers it */
	if (exit_code)
		log_info(&ec->log, "container has stopped with exit code %d", *exit_code);
	else
		log_info(&ec->log, "container has stopped%s%s", c->reason ? ": " : "",
		         c->reason ? c->reason : "");
	container_reach(ec, TASK_STATUS_STOPPED);
}

void container_exited(struct engine_container *ec, struct json_object *exit)
{
	bool oom_killed = false, has_code;
	int64_t code = 0;
	uint64_t time = 0;
	int exit_code;

	if (container_wants_restart(ec, exit))
		return;
	has_code = json_get_i64(exit, "exitCode", 0, 255, &code, NULL) == 0;
	(void)json_get_bool(exit, "oomKilled", &oom_killed, NULL);
	if (json_get_u64(exit, "time", INT64_MAX, &time, NULL) == -ENOENT)
		(void)json_get_u64(exit, "exitTime", INT64_MAX, &time, NULL);

	if (oom_killed)
		container_set_reason(ec, "OutOfMemoryError",
		                     "Container killed due to memory usage");
	exit_code = (int)code;
	container_stopped(ec, has_code ? &exit_code : NULL, time);
}

void container_health(struct engine_container *ec, struct json_object *event)
{
	enum health_status before = ec->c->health;
	int r = health_update(ec->c, event);

	if (r < 0)
		log_warning(&ec->log, r, "health of the container cannot be taken over");
	if (r <= 0)
		return;
	if (ec->c->health == HEALTH_UNHEALTHY && before != HEALTH_UNHEALTHY)
		log_info(&ec->log, "the container is UNHEALTHY; its last check ended with %d",
		         ec->c->health_exit_code);
	ec->et->documents_stale = true;
	engine_changed(ec->et);
}

void container_managed_agent(struct engine_container *ec, struct json_object *event)
{
	struct managed_agent *agent = &ec->c->managed_agent;
	int r;

	if (ec->c->known == TASK_STATUS_STOPPED)
		return;
	r = managed_agent_update(agent, event);
	if (r < 0)
		log_warning(&ec->log, r, "state of " EXECUTE_COMMAND_NAME " cannot be taken over");
	if (r <= 0)
		return;
	if (agent->status == MANAGED_AGENT_STOPPED)
		log_warning(&ec->log, 0, "%s", agent->reason);
	else
		log_info(&ec->log, "%s", agent->reason);
	engine_save(ec->et);
}
