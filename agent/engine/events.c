/*
 * State changes for ECS. A task reports MANIFEST_PULLED (as PENDING, once a digest is known),
 * RUNNING and STOPPED; changes of its containers travel with the next of these, or with a report of
 * their own after 10 to 30 seconds.
 */
#include <errno.h>

#include "agent/engine/engine_internal.h"
#include "agent/engine/progress.h"
#include "agent/task/execute_command_paths.h"
#include "lib/json.h"
#include "lib/loop.h"

#define TICK_MIN_USEC    (10 * SECOND_USEC)
#define TICK_SPREAD_USEC (20 * SECOND_USEC)

/* The highest status of the container that ECS is told, or NONE. */
static enum task_status reportable(const struct container *c)
{
	if (c->known == TASK_STATUS_STOPPED || c->known == TASK_STATUS_RUNNING)
		return c->known;
	if (c->known >= TASK_STATUS_MANIFEST_PULLED && c->image_digest)
		return TASK_STATUS_MANIFEST_PULLED;
	return TASK_STATUS_NONE;
}

static bool container_has_event(const struct container *c)
{
	return reportable(c) > c->sent;
}

static bool any_container_has_event(const struct task *task)
{
	for (size_t i = 0; i < task->n_containers; i++)
		if (container_has_event(&task->containers[i]) ||
		    task->containers[i].managed_agent.unsent)
			return true;
	return false;
}

/* ECS lets nobody in before it knows that a managed agent is there, so that it does not wait with
 * the containers' changes. */
static bool managed_agent_is_urgent(const struct task *task)
{
	if (task->sent != TASK_STATUS_RUNNING)
		return false;
	for (size_t i = 0; i < task->n_containers; i++)
		if (task->containers[i].managed_agent.status !=
		    task->containers[i].managed_agent.sent)
			return true;
	return false;
}

static bool any_digest(const struct task *task)
{
	for (size_t i = 0; i < task->n_containers; i++)
		if (task->containers[i].image_digest)
			return true;
	return false;
}

static enum task_status task_reportable(const struct task *task)
{
	if (task->known == TASK_STATUS_STOPPED || task->known == TASK_STATUS_RUNNING)
		return task->known;
	if (task->known >= TASK_STATUS_MANIFEST_PULLED && any_digest(task))
		return TASK_STATUS_MANIFEST_PULLED;
	return TASK_STATUS_NONE;
}

static int copy_bindings(const struct container *c, struct ecs_container_state *state)
{
	struct ecs_network_binding *bindings = calloc(c->n_bindings + 1, sizeof(*bindings));

	if (!bindings)
		return -ENOMEM;
	for (size_t i = 0; i < c->n_bindings; i++)
		bindings[i] = (struct ecs_network_binding){
			.bind_ip = c->bindings[i].bind_ip,
			.container_port = c->bindings[i].container_port,
			.host_port = c->bindings[i].host_port,
			.protocol = c->bindings[i].udp ? "udp" : "tcp",
		};
	state->bindings = bindings;
	state->n_bindings = c->n_bindings;
	return 0;
}

static int container_state(const struct container *c, struct ecs_container_state *ret)
{
	*ret = (struct ecs_container_state){
		.name = c->name,
		.runtime_id = c->known >= TASK_STATUS_CREATED && c->created_realtime_usec
	                              ? c->runtime_id
	                              : NULL,
		.status = task_status_on_wire(reportable(c)),
		.has_exit_code = c->has_exit_code,
		.exit_code = c->exit_code,
		.reason = c->reason,
		.image_digest = c->image_digest,
	};
	return copy_bindings(c, ret);
}

static int put_body(struct engine_task *et, struct ecs_task_state *state)
{
	struct json_object *body = ecs_task_state_to_json(state);
	int r;

	if (!body)
		return -ENOMEM;
	r = outbox_add(et->engine->outbox, et->task->arn, body);
	json_object_put(body);
	return r;
}

static size_t managed_agents(const struct task *task, struct ecs_managed_agent_state *ret)
{
	size_t n = 0;

	for (size_t i = 0; i < task->n_containers; i++) {
		const struct managed_agent *agent = &task->containers[i].managed_agent;

		if (agent->unsent)
			ret[n++] = (struct ecs_managed_agent_state){
				.name = EXECUTE_COMMAND_NAME,
				.container_name = task->containers[i].name,
				.status = managed_agent_status_to_string(agent->status),
				.reason = agent->reason,
			};
	}
	return n;
}

static int add_event(struct engine_task *et)
{
	struct task *task = et->task;
	struct ecs_container_state *containers;
	struct ecs_managed_agent_state *agents;
	struct ecs_task_state state = {
		.cluster = et->engine->o.config->cluster,
		.task_arn = task->arn,
		.status = task_status_on_wire(task->known),
		.reason = task->known == TASK_STATUS_STOPPED ? task->reason : NULL,
		.pull_started_realtime_usec = task->pull_started_realtime_usec,
		.pull_stopped_realtime_usec = task->pull_stopped_realtime_usec,
		.execution_stopped_realtime_usec = task->execution_stopped_realtime_usec,
	};
	int r = 0;

	containers = calloc(task->n_containers + 1, sizeof(*containers));
	agents = calloc(task->n_containers + 1, sizeof(*agents));
	if (!containers || !agents) {
		free(containers);
		free(agents);
		return -ENOMEM;
	}
	state.managed_agents = agents;
	state.n_managed_agents = managed_agents(task, agents);
	for (size_t i = 0; i < task->n_containers && r >= 0; i++)
		if (container_has_event(&task->containers[i]))
			r = container_state(&task->containers[i],
			                    &containers[state.n_containers++]);
	state.containers = containers;
	if (r >= 0)
		r = put_body(et, &state);

	for (size_t i = 0; i < state.n_containers; i++)
		free((void *)(uintptr_t)containers[i].bindings);
	free(containers);
	free(agents);
	return r;
}

static void mark_sent(struct engine_task *et)
{
	struct task *task = et->task;

	for (size_t i = 0; i < task->n_containers; i++) {
		if (container_has_event(&task->containers[i]))
			task->containers[i].sent = reportable(&task->containers[i]);
		managed_agent_mark_sent(&task->containers[i].managed_agent);
	}
	if (task_reportable(task) > task->sent)
		task->sent = task_reportable(task);
	et->unsaved = true;
}

static void report(struct engine_task *et)
{
	int r;

	r = add_event(et);
	if (r < 0) {
		log_err(&et->log, r, "queue a state change; it is tried again");
		engine_changed(et);
		return;
	}
	mark_sent(et);
}

static int on_tick(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct engine *engine = userdata;

	(void)source;
	(void)usec;
	engine->ticker = sd_event_source_disable_unref(engine->ticker);
	for (size_t i = 0; i < engine->n_tasks; i++) {
		struct engine_task *et = engine->tasks[i];

		if (et->task->known == TASK_STATUS_STOPPED || !any_container_has_event(et->task))
			continue;
		report(et);
		engine_changed(et);
	}
	return 0;
}

void events_emit(struct engine_task *et)
{
	struct engine *engine = et->engine;
	uint64_t usec;

	if (task_reportable(et->task) > et->task->sent || managed_agent_is_urgent(et->task)) {
		report(et);
		return;
	}
	if (engine->ticker || et->task->known == TASK_STATUS_STOPPED ||
	    !any_container_has_event(et->task))
		return;
	usec = TICK_MIN_USEC + (uint64_t)(random_fraction() * (double)TICK_SPREAD_USEC);
	(void)loop_add_timer(engine->loop, usec, SECOND_USEC, on_tick, engine, &engine->ticker);
}

int events_refuse(struct engine *engine, const char *arn, const char *reason)
{
	struct ecs_task_state state = {
		.cluster = engine->o.config->cluster,
		.task_arn = arn,
		.status = "STOPPED",
		.reason = reason,
	};
	_cleanup_json_ struct json_object *body = ecs_task_state_to_json(&state);

	return body ? outbox_add(engine->outbox, arn, body) : -ENOMEM;
}
