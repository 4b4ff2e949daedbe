/*
 * The reconciler: looks at a task as a whole and starts whatever can start now. It is called after
 * every change and may be called at any time.
 */
#include <errno.h>
#include <inttypes.h>

#include "agent/engine/engine_internal.h"
#include "agent/engine/image_auth.h"
#include "agent/engine/progress.h"
#include "lib/json.h"
#include "lib/loop.h"

/* Credentials that ACS has not sent again after a restart: the pull is tried without them then,
 * and its error says what is missing. */
#define CREDENTIALS_WAIT_USEC (5 * MINUTE_USEC)

#define WAITING_LOOK_USEC (5 * SECOND_USEC)

/* Host resources. */

static bool is_waiting(const struct engine_task *et)
{
	return !et->admitted && et->task->desired != TASK_STATUS_STOPPED &&
	       et->task->known != TASK_STATUS_STOPPED;
}

void engine_admit_waiting(struct engine *engine)
{
	for (size_t i = 0; i < engine->n_tasks; i++) {
		struct engine_task *et = engine->tasks[i];
		struct err err = {0};
		int r;

		if (!is_waiting(et))
			continue;
		r = host_resources_take(engine->host, et->task, &err);
		if (r == -EAGAIN) {
			log_debug(&et->log, "task %s", err.text);
			return; /* all others wait behind it */
		}
		if (r < 0) {
			engine_fail_task(et, "resource cannot be initialized for task %s: %s",
			                 et->task->arn, err.text);
			continue;
		}
		et->admitted = true;
		et->launched = true; /* about to be: one commit for both */
		engine_save(et);
	}
}

/* What the task is to be. */

static void spread_desired(struct engine_task *et)
{
	struct task *task = et->task;

	for (size_t i = 0; i < task->n_containers; i++) {
		const struct container *c = &task->containers[i];

		if (c->essential &&
		    (c->known == TASK_STATUS_STOPPED || c->desired == TASK_STATUS_STOPPED)) {
			engine_desire_stopped(et);
			return;
		}
	}
	if (task->desired == TASK_STATUS_STOPPED)
		engine_desire_stopped(et);
}

/* Ways up. */

/* Has it waited for less than this, counted from the first call? */
static bool may_wait(uint64_t *since_usec, uint64_t limit_usec)
{
	if (*since_usec == 0)
		*since_usec = now_usec();
	return now_usec() - *since_usec < limit_usec;
}

static bool credentials_are_here(struct engine_container *ec)
{
	const char *id = image_auth_credentials_id(ec->et->task, ec->c);
	struct role_credential *credential;

	if (!id)
		return true;
	credential = role_credentials_find(ec->et->engine->credentials, id);
	if (credential ? credential->is_put : ec->et->execution_credentials_there)
		return true;
	return !may_wait(&ec->waiting_since_usec, CREDENTIALS_WAIT_USEC);
}

/* What ecs-network is to make for all: the bridge, the endpoint of host mode. */
static bool host_is_ready(struct engine_container *ec, bool is_ready, const char *what)
{
	struct engine *engine = ec->et->engine;
	struct err err = {.name = "ContainerNetworkingError"};

	if (is_ready)
		return true;
	host_network_start(engine);
	if (may_wait(&ec->waiting_since_usec, NETWORK_TIMEOUT_USEC))
		return false;
	(void)err_text(&err, 0, "container resource provisioning: %s: %s", what,
	               engine->host_error.text[0] ? engine->host_error.text : "no answer in time");
	container_fail(ec, err.name, &err);
	return false;
}

/* The time to start bounds it, whether ecs-metadata is not there, hangs or refuses. */
static bool may_serve(struct engine_container *ec)
{
	const struct engine *engine = ec->et->engine;
	uint64_t limit = engine->o.config->container_start_timeout_usec;

	if (!may_wait(&ec->serving_since_usec, limit)) {
		container_fail_timeout(ec, "started", limit);
		return false;
	}
	return metadata_is_up(engine->metadata) && now_usec() >= ec->serve_again_usec;
}

/* Dependencies hold a container back before its image, or only before it is created where images
 * are pulled up front. */
static bool dependencies_allow(struct engine_container *ec)
{
	uint64_t deadline = UINT64_MAX;
	struct err err = {0};

	switch (dependencies_check(ec->et->task, ec->c, now_usec(), &deadline, &err)) {
	case DEPENDENCIES_MET:
		return true;
	case DEPENDENCIES_WAIT:
		return false;
	case DEPENDENCIES_NEVER:
		ec->c->has_exit_code = true;
		ec->c->exit_code = 143;
		container_fail(ec, "CannotStartContainerError", &err);
		return false;
	}
	return false;
}

static void advance_made(struct engine_container *ec)
{
	const struct engine *engine = ec->et->engine;
	enum network_mode mode = container_network_mode(ec->et->task, ec->c);

	if (mode == NETWORK_MODE_BRIDGE && !ec->attached) {
		if (!host_is_ready(ec, engine->host_ready, "bridge"))
			return;
		ec->waiting_since_usec = 0;
		container_attach(ec);
	} else if (!ec->served) {
		if (!may_serve(ec))
			return;
		if (mode == NETWORK_MODE_HOST &&
		    !host_is_ready(ec, !engine->host_endpoint_due, "endpoint of the host"))
			return;
		ec->waiting_since_usec = 0;
		metadata_send_documents(ec->et);
		container_serve(ec);
	} else {
		container_start(ec);
	}
}

static bool has_image(const struct engine_container *ec)
{
	return ec->c->image_config && ec->c->layers && ec->c->known >= TASK_STATUS_PULLED;
}

static void advance(struct engine_container *ec)
{
	struct engine_task *et = ec->et;
	const struct config *config = et->engine->o.config;

	if (ec->op == OP_NONE && ec->restart_due && et->supervisor.status == SUPERVISOR_READY)
		container_restart(ec);
	if (ec->op != OP_NONE || ec->c->known >= TASK_STATUS_RUNNING || !et->admitted)
		return;
	if (!mounts_are_held(et))
		return;
	if (!has_image(ec)) {
		if (!config->pull_dependent_upfront && !dependencies_allow(ec))
			return;
		if (!credentials_are_here(ec))
			return;
		ec->waiting_since_usec = 0;
		container_pull(ec);
		return;
	}
	if (et->supervisor.status != SUPERVISOR_READY || ec->may_run)
		return;
	if (ec->made)
		advance_made(ec);
	else if (dependencies_allow(ec))
		container_create(ec);
}

/* Ways down. */

static void retreat(struct engine_container *ec)
{
	struct engine_task *et = ec->et;
	struct container *c = ec->c;
	char text[640];

	if (c->known == TASK_STATUS_STOPPED)
		return;
	if (ec->op == OP_PULL && !ec->pull_started) {
		snprintf(text, sizeof(text),
		         "Task stopped before image pull could begin for task: %s", et->task->arn);
		container_set_reason(ec, "TaskStoppedBeforePullBeginError", text);
	}
	if (ec->op == OP_PULL) {
		ec->pull = pull_free(ec->pull);
		ec->op = OP_NONE;
	}
	if (ec->op == OP_CREATE || ec->op == OP_ATTACH || ec->op == OP_SERVE || ec->op == OP_SAVE ||
	    ec->op == OP_START || ec->op == OP_STOP)
		return; /* its outcome comes within its deadline */
	if (et->supervisor.status == SUPERVISOR_FINDING)
		return; /* it may run, or have exited: its supervisor tells */
	container_give_up_restart(ec);
	if (c->known == TASK_STATUS_STOPPED)
		return;
	if (c->known < TASK_STATUS_RUNNING && !ec->may_run) {
		int exit_code = c->exit_code;

		if (ec->made && et->supervisor.status == SUPERVISOR_READY)
			container_discard(ec);
		container_stopped(ec, c->has_exit_code ? &exit_code : NULL, 0);
		return;
	}
	if (!dependents_are_stopped(et->task, c))
		return;
	if (et->supervisor.status == SUPERVISOR_READY)
		container_stop(ec);
}

/* The task as a whole. */

static void want_supervisor(struct engine_task *et)
{
	if (et->supervisor.status == SUPERVISOR_NONE && et->admitted)
		supervisor_launch(et);
}

static void update_known(struct engine_task *et)
{
	struct task *task = et->task;
	enum task_status reached = task_status_reached(task);

	if (reached <= task->known)
		return;
	task->known = reached;
	log_info(&et->log, "task is %s%s%s", task_status_to_string(reached),
	         task->reason && reached == TASK_STATUS_STOPPED ? ": " : "",
	         task->reason && reached == TASK_STATUS_STOPPED ? task->reason : "");
	if (reached == TASK_STATUS_STOPPED) {
		task->stopped_realtime_usec = now_realtime_usec();
		et->teardown = TEARDOWN_DETACH;
	}
	engine_save(et);
}

static int on_wake(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct engine_task *et = userdata;

	(void)source;
	(void)usec;
	et->wake = sd_event_source_disable_unref(et->wake);
	engine_changed(et);
	return 0;
}

/* UINT64_MAX: for nothing. */
static uint64_t waits_usec(const struct engine_container *ec, uint64_t now)
{
	if (ec->serve_again_usec > now)
		return ec->serve_again_usec - now;
	return ec->waiting_since_usec || ec->serving_since_usec ? WAITING_LOOK_USEC : UINT64_MAX;
}

/* When to look again though nothing happens: at the end of a startTimeout, and every few seconds
 * while something is waited for that has a limit. */
static uint64_t next_look_usec(struct engine_task *et)
{
	uint64_t now = now_usec(), wait = UINT64_MAX;

	for (size_t i = 0; i < et->task->n_containers; i++) {
		struct engine_container *ec = &et->containers[i];
		uint64_t deadline = UINT64_MAX;

		if (ec->c->known >= TASK_STATUS_RUNNING || ec->op != OP_NONE)
			continue;
		if (waits_usec(ec, now) < wait)
			wait = waits_usec(ec, now);
		(void)dependencies_check(et->task, ec->c, now, &deadline, NULL);
		if (deadline != UINT64_MAX && deadline - now < wait)
			wait = deadline > now ? deadline - now : 0;
	}
	return wait;
}

static void arm_wake(struct engine_task *et)
{
	uint64_t wait = et->task->known == TASK_STATUS_STOPPED ? UINT64_MAX : next_look_usec(et);

	et->wake = sd_event_source_disable_unref(et->wake);
	if (wait != UINT64_MAX)
		(void)loop_add_timer(et->engine->loop, wait + 1000, 10 * 1000, on_wake, et,
		                     &et->wake);
}

void engine_reconcile(struct engine_task *et)
{
	struct task *task = et->task;

	if (!et->durable)
		return;
	spread_desired(et);
	if (task->known != TASK_STATUS_STOPPED) {
		if (task->desired != TASK_STATUS_STOPPED)
			want_supervisor(et);
		else
			mounts_cancel(et);
		for (size_t i = 0; i < task->n_containers; i++)
			if (task->containers[i].desired == TASK_STATUS_STOPPED)
				retreat(&et->containers[i]);
			else
				advance(&et->containers[i]);
		spread_desired(et);
	}
	update_known(et);
	metadata_sync_task(et);
	events_emit(et);
	if (et->documents_stale)
		metadata_send_documents(et);
	if (et->unsaved && persist_task(et) == 0)
		et->unsaved = false;
	arm_wake(et);
	if (task->known == TASK_STATUS_STOPPED)
		teardown_progress(et); /* may remove the task: always the last statement */
}
