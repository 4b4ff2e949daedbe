/*
 * The set of tasks, and the turn of the loop in which those that something happened to are
 * reconciled and written to the store.
 */
#include "agent/engine/engine.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "agent/engine/engine_internal.h"
#include "agent/engine/progress.h"
#include "lib/loop.h"
#include "lib/lsm.h"

/* A task that keeps changing itself would keep the loop busy, and so would hundreds that have
 * changed at once: the rest is looked at in the next turn. */
#define ROUNDS_PER_TURN 16
#define TURN_USEC       (10 * 1000ull)

/* SubmitTaskStateChange, as the outbox sees it. */

struct submission {
	struct ecs_call *call;
	outbox_done_fn done;
	void *userdata;
};

static void submission_done(int r, const struct err *err, void *userdata)
{
	struct submission *submission = userdata;
	struct submission copy = *submission;
	bool final = r == -EREMOTEIO && ecs_error_is_final(ecs_call_error(submission->call));

	ecs_call_free(submission->call);
	free(submission);
	copy.done(r, err, final, copy.userdata);
}

static int submission_start(struct json_object *body, outbox_done_fn done, void *done_userdata,
                            void **ret_call, struct err *err, void *userdata)
{
	struct engine *engine = userdata;
	struct submission *submission = calloc(1, sizeof(*submission));
	int r;

	if (!submission)
		return err_oom(err);
	submission->done = done;
	submission->userdata = done_userdata;
	r = ecs_submit_task_state_json_start(engine->o.client, body, submission_done, submission,
	                                     &submission->call, err);
	if (r < 0) {
		free(submission);
		return r;
	}
	*ret_call = submission;
	return 0;
}

static void submission_cancel(void *call, void *userdata)
{
	struct submission *submission = call;

	(void)userdata;
	ecs_call_free(submission->call);
	free(submission);
}

static void on_emptied(const char *task_arn, void *userdata)
{
	teardown_accepted(userdata, task_arn);
}

/* Construction. */

static int make_outbox(struct engine *engine)
{
	struct outbox_options options = {
		.loop = engine->loop,
		.state = engine->o.state,
		.emptied = on_emptied,
		.userdata = engine,
	};

	if (engine->o.client)
		options.sender = (struct outbox_sender){
			.start = submission_start, .cancel = submission_cancel, .userdata = engine};
	return outbox_new(&options, &engine->outbox);
}

static int make_host_resources(struct engine *engine, struct err *err)
{
	const struct config *config = engine->o.config;
	struct host_capacity capacity;
	int r;

	r = host_capacity_read(config->reserved_memory_mib, &capacity, err);
	if (r < 0)
		return r;
	capacity.reserved_ports = config->reserved_ports.items;
	capacity.n_reserved_ports = config->reserved_ports.n;
	capacity.reserved_ports_udp = config->reserved_ports_udp.items;
	capacity.n_reserved_ports_udp = config->reserved_ports_udp.n;
	r = host_resources_new(&capacity, &engine->host);
	return r < 0 ? err_oom(err) : 0;
}

/* Look at those that have changed, until the time is over; false when there is none. */
static bool reconcile_round(struct engine *engine, uint64_t end_usec)
{
	bool found = false;

	/* In order of arrival. A task may be removed while it is looked at, never another. */
	for (size_t i = 0; i < engine->n_tasks && !(found && now_usec() >= end_usec);) {
		struct engine_task *et = engine->tasks[i];

		if (et->dirty) {
			et->dirty = false;
			found = true;
			engine_reconcile(et);
		}
		if (i < engine->n_tasks && engine->tasks[i] == et)
			i++;
	}
	return found;
}

static void reconcile_all(struct engine *engine)
{
	uint64_t end = now_usec() + TURN_USEC;
	int rounds = 0;

	while (reconcile_round(engine, end))
		if (++rounds == ROUNDS_PER_TURN || now_usec() >= end) {
			(void)sd_event_source_set_enabled(engine->reconcile, SD_EVENT_ONESHOT);
			return;
		}
}

static int on_reconcile(sd_event_source *source, void *userdata)
{
	struct engine *engine = userdata;

	(void)source;
	engine->reconciling = true;
	reconcile_all(engine);
	engine->reconciling = false;
	return 0;
}

static void set_spec_options(struct engine *engine)
{
	const struct config *config = engine->o.config;

	engine->spec = (struct spec_options){
		.cluster = config->cluster,
		.region = engine->o.region,
		.logs_endpoint = engine->o.logs_endpoint,
		.task_iam_role = config->task_iam_role,
		.task_cgroup_limits = config->task_cpu_mem_limit && !engine->o.no_task_limits,
		.task_memory_inside = config->task_memory_inside,
		.selinux = config->selinux_capable && lsm_has_selinux(),
		.cgroup_cpu_period_usec = config->cgroup_cpu_period_usec,
		.task_pids_limit = config->task_pids_limit,
	};
}

int engine_new(const struct engine_options *options, struct engine **ret, struct err *err)
{
	_cleanup_(engine_freep) struct engine *engine = calloc(1, sizeof(*engine));
	int r;

	if (!engine)
		return err_oom(err);
	engine->loop = sd_event_ref(options->loop);
	engine->o = *options;
	engine->log = (struct log_ctx){.field = "ECS_CLUSTER", .value = options->config->cluster};
	engine->manifest_seq = -1;
	engine->ports_unsure = true; /* an earlier agent may not have come to it */
	engine->lost_wait_usec = MINUTE_USEC;
	engine->port_cursor = options->config->dynamic_port_first - 1;
	set_spec_options(engine);
	if (options->availability_zone) {
		engine->availability_zone = strdup(options->availability_zone);
		if (!engine->availability_zone)
			return err_oom(err);
	}

	r = make_host_resources(engine, err);
	if (r < 0)
		return r;
	engine->credentials = role_credentials_new();
	r = engine->credentials ? make_outbox(engine) : -ENOMEM;
	if (r >= 0)
		r = puller_new(engine->loop, options->runtime_dir, &engine->puller);
	if (r >= 0)
		r = network_client_new(engine->loop, options->runtime_dir, &engine->network);
	if (r >= 0)
		r = metadata_client_new(engine->loop, options->runtime_dir, &engine_metadata_ops,
		                        engine, &engine->metadata);
	if (r >= 0)
		r = heap_trimmer_new(engine->loop, &engine->heap);
	if (r >= 0)
		r = sd_event_add_defer(engine->loop, &engine->reconcile, on_reconcile, engine);
	if (r < 0)
		return err_set(err, r, "set up the engine");
	r = images_start(engine, err);
	if (r < 0)
		return r;
	(void)sd_event_source_set_enabled(engine->reconcile, SD_EVENT_OFF);
	(void)sd_event_source_set_description(engine->reconcile, "reconcile");

	*ret = TAKE_PTR(engine);
	return 0;
}

static void task_destroy(struct engine_task *et)
{
	struct engine *engine = et->engine;

	state_forget(engine->o.state, et);
	engine_containers_done(et);
	mounts_free(et);
	supervisor_done(&et->supervisor);
	sd_event_source_disable_unref(et->wake);
	sd_event_source_disable_unref(et->cleanup);
	if (engine->metadata)
		metadata_forget(engine->metadata, et);
	task_free(et->task);
	free(et);
}

struct engine *engine_free(struct engine *engine)
{
	if (!engine)
		return NULL;
	/* Tasks first: they hold pulls and requests of the clients. */
	for (size_t i = 0; i < engine->n_tasks; i++)
		task_destroy(engine->tasks[i]);
	free(engine->tasks);
	orphans_free(engine);
	acknowledgements_free(engine);
	lost_free(engine);
	state_forget(engine->o.state, engine);
	outbox_free(engine->outbox);
	image_cleanup_free(engine->image_cleanup);
	puller_free(engine->puller);
	network_client_free(engine->network);
	metadata_client_free(engine->metadata);
	role_credentials_free(engine->credentials);
	host_resources_free(engine->host);
	addresses_free(engine->addresses);
	aws_keys_unref(engine->instance_keys);
	heap_trimmer_free(engine->heap);
	sd_event_source_disable_unref(engine->reconcile);
	sd_event_source_disable_unref(engine->ticker);
	sd_event_source_disable_unref(engine->host_retry);
	sd_event_unref(engine->loop);
	free(engine->container_instance_arn);
	free(engine->availability_zone);
	free(engine->manifest_id);
	free(engine);
	return NULL;
}

/* The set of tasks. */

struct engine_task *engine_find(struct engine *engine, const char *arn)
{
	for (size_t i = 0; i < engine->n_tasks; i++)
		if (strcmp(engine->tasks[i]->task->arn, arn) == 0)
			return engine->tasks[i];
	return NULL;
}

struct engine_task *engine_find_id(struct engine *engine, const char *id)
{
	for (size_t i = 0; i < engine->n_tasks; i++)
		if (strcmp(engine->tasks[i]->task->id, id) == 0)
			return engine->tasks[i];
	return NULL;
}

size_t engine_task_count(const struct engine *engine)
{
	return engine->n_tasks;
}

const struct task *engine_task(const struct engine *engine, size_t i)
{
	return i < engine->n_tasks ? engine->tasks[i]->task : NULL;
}

static int make_room(struct engine *engine)
{
	size_t n = engine->tasks_allocated ? 2 * engine->tasks_allocated : 16;
	void *p;

	if (engine->n_tasks < engine->tasks_allocated)
		return 0;
	p = reallocarray(engine->tasks, n, sizeof(*engine->tasks));
	if (!p)
		return -ENOMEM;
	engine->tasks = p;
	engine->tasks_allocated = n;
	return 0;
}

int engine_insert(struct engine *engine, struct task *task, struct engine_task **ret)
{
	struct engine_task *et = calloc(1, sizeof(*et));
	int r;

	r = et ? make_room(engine) : -ENOMEM;
	if (r >= 0) {
		et->engine = engine;
		et->task = task;
		et->log = (struct log_ctx){
			.parent = &engine->log, .field = "ECS_TASK_ARN", .value = task->arn};
		r = engine_containers_init(et);
		if (r >= 0) {
			r = mounts_init(et);
			if (r < 0)
				engine_containers_done(et);
		}
	}
	if (r < 0) {
		free(et);
		task_free(task);
		return r;
	}
	engine->tasks[engine->n_tasks++] = et;
	*ret = et;
	return 0;
}

static void on_durable(void *userdata)
{
	struct engine_task *et = userdata;

	et->durable = true;
	et->launched_durable = et->launched;
	engine_changed(et);
}

int engine_add(struct engine *engine, struct task *task, struct engine_task **ret)
{
	struct engine_task *et;
	struct err err = {0};
	int r;

	r = task_assign_ids(task);
	if (r < 0) {
		task_free(task);
		return r;
	}
	r = engine_insert(engine, task, &et);
	if (r < 0)
		return r;
	et->sequence = ++engine->last_sequence;
	et->received_realtime_usec = now_realtime_usec();
	et->documents_stale = true;
	log_info(&et->log, "new task of %s:%s, desired %s, %zu containers",
	         task->family ? task->family : "?", task->version ? task->version : "?",
	         task_status_to_string(task->desired), task->n_containers);
	if (task->desired == TASK_STATUS_STOPPED)
		engine_desire_stopped(et);
	else if (dependencies_resolve(task, &err) < 0)
		engine_fail_task(et, "%s", err.text);
	engine_admit_waiting(engine);

	r = persist_task(et);
	if (r >= 0)
		r = state_after_commit(engine->o.state, on_durable, et);
	if (r < 0) {
		engine_remove(et);
		return r;
	}
	*ret = et;
	return 0;
}

void engine_remove(struct engine_task *et)
{
	struct engine *engine = et->engine;

	for (size_t i = 0; i < engine->n_tasks; i++)
		if (engine->tasks[i] == et) {
			memmove(&engine->tasks[i], &engine->tasks[i + 1],
			        (engine->n_tasks - i - 1) * sizeof(*engine->tasks));
			engine->n_tasks--;
			break;
		}
	task_destroy(et);
}

/* What happened to a task. */

void engine_changed(struct engine_task *et)
{
	et->dirty = true;
	if (!et->engine->reconciling)
		(void)sd_event_source_set_enabled(et->engine->reconcile, SD_EVENT_ONESHOT);
}

void engine_changed_all(struct engine *engine)
{
	for (size_t i = 0; i < engine->n_tasks; i++)
		engine_changed(engine->tasks[i]);
}

void engine_save(struct engine_task *et)
{
	et->unsaved = true;
	et->documents_stale = true;
	engine_changed(et);
}

void engine_desire_stopped(struct engine_task *et)
{
	struct task *task = et->task;
	bool changed = task->desired != TASK_STATUS_STOPPED;

	task->desired = TASK_STATUS_STOPPED;
	for (size_t i = 0; i < task->n_containers; i++) {
		changed |= task->containers[i].desired != TASK_STATUS_STOPPED;
		task->containers[i].desired = TASK_STATUS_STOPPED;
	}
	if (changed)
		engine_save(et);
}

void engine_fail_task(struct engine_task *et, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	log_err(&et->log, 0, "task fails: %s", text);
	if (!et->task->reason)
		et->task->reason = strdup(text);
	engine_desire_stopped(et);
}

int engine_set_instance(struct engine *engine, const char *container_instance_arn,
                        const char *availability_zone)
{
	char *arn = strdup(container_instance_arn), *zone = NULL;

	if (availability_zone)
		zone = strdup(availability_zone);
	if (!arn || (availability_zone && !zone)) {
		free(arn);
		free(zone);
		return -ENOMEM;
	}
	free(engine->container_instance_arn);
	engine->container_instance_arn = arn;
	if (zone) {
		free(engine->availability_zone);
		engine->availability_zone = zone;
	}
	metadata_configure(engine);
	records_changed_all(engine);
	for (size_t i = 0; i < engine->n_tasks; i++) {
		engine->tasks[i]->documents_stale = true;
		engine_changed(engine->tasks[i]);
	}
	return 0;
}

void engine_set_instance_keys(struct engine *engine, struct aws_keys *keys)
{
	aws_keys_unref(engine->instance_keys);
	engine->instance_keys = aws_keys_ref(keys);
	metadata_put_instance(engine);
}

void engine_set_session(struct engine *engine, struct acs_session *session)
{
	engine->session = session;
}

const struct acs_handlers engine_acs_handlers = {
	.payload = payload_handle,
	.credentials = credentials_handle,
	.manifest = manifest_handle,
	.stop_verification = stop_verification_handle,
};
