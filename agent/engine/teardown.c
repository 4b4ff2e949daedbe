/*
 * After STOPPED: the network is given back, ecs-metadata forgets the task, the supervisor ends (and
 * with it the host port sockets it holds), waiting tasks are looked at. The record stays until the
 * cleanup time is over and ECS has accepted STOPPED; in memory there is no more of it than it takes
 * to know the task again.
 */
#include <string.h>

#include "agent/engine/engine_internal.h"
#include "lib/json.h"
#include "lib/loop.h"

#define DETACH_TRIES_MAX 3

static void remove_task(struct engine_task *et)
{
	struct engine *engine = et->engine;

	log_info(&et->log, "task is removed from the state");
	metadata_release(et, true);
	role_credentials_remove(engine->credentials, et->task->id, true);
	(void)state_remove_task(engine->o.state, et->task->arn);
	engine_remove(et);
	heap_trim_soon(engine->heap);
}

static bool may_be_removed(const struct engine_task *et)
{
	return et->cleanup_due && et->teardown == TEARDOWN_DONE &&
	       et->task->sent == TASK_STATUS_STOPPED &&
	       !outbox_has(et->engine->outbox, et->task->arn);
}

static int on_cleanup(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct engine_task *et = userdata;

	(void)source;
	(void)usec;
	et->cleanup = sd_event_source_disable_unref(et->cleanup);
	et->cleanup_due = true;
	if (may_be_removed(et))
		remove_task(et);
	return 0;
}

void teardown_accepted(struct engine *engine, const char *arn)
{
	struct engine_task *et = engine_find(engine, arn);

	if (et && may_be_removed(et))
		remove_task(et);
}

void teardown_arm_cleanup(struct engine_task *et)
{
	const struct config *config = et->engine->o.config;
	uint64_t now = now_realtime_usec(), all, end, wait;

	if (et->cleanup || et->cleanup_due)
		return;
	all = config->task_cleanup_wait_usec +
	      (uint64_t)((double)config->task_cleanup_wait_jitter_usec * random_fraction());
	end = et->task->stopped_realtime_usec + all;
	wait = end > now ? end - now : 0;
	if (wait > all)
		wait = all; /* the clock has been set back since */
	(void)loop_add_timer(et->engine->loop, wait, SECOND_USEC, on_cleanup, et, &et->cleanup);
}

/* The network. */

static bool needs_detach(const struct engine_container *ec)
{
	return container_network_mode(ec->et->task, ec->c) == NETWORK_MODE_BRIDGE &&
	       ec->may_be_attached && !ec->detached;
}

static void give_address(struct engine_container *ec)
{
	struct engine *engine = ec->et->engine;

	ec->detached = true;
	if (engine->addresses)
		addresses_give(engine->addresses, ec->c->address);
	ec->c->address[0] = '\0';
	ec->et->unsaved = true;
}

static int on_detach_again(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct engine_task *et = userdata;

	(void)source;
	(void)usec;
	et->cleanup = sd_event_source_disable_unref(et->cleanup);
	engine_changed(et);
	return 0;
}

static void on_detached(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct engine_container *ec = userdata;
	struct engine_task *et = ec->et;

	(void)msg;
	et->detaching--;
	if (r == 0) {
		give_address(ec);
	} else if (et->detach_tries < DETACH_TRIES_MAX) {
		log_warning(&ec->log, 0, "detach from the bridge: %s; trying again", err->text);
		if (!et->cleanup)
			(void)loop_add_timer(et->engine->loop, SECOND_USEC, SECOND_USEC / 10,
			                     on_detach_again, et, &et->cleanup);
		return;
	} else {
		/* Its address is not given again before the next start has pruned the bridge. */
		log_err(&ec->log, 0, "detach from the bridge: %s; given up", err->text);
		ec->detached = true;
	}
	engine_changed(et);
}

static void detach(struct engine_container *ec)
{
	struct json_object *body = ipc_message_new("detach", NULL);

	if (body && json_add_string(body, "id", ec->c->runtime_id) < 0) {
		json_object_put(body);
		body = NULL;
	}
	if (network_request(ec->et->engine->network, body, NULL, 0, NETWORK_TIMEOUT_USEC,
	                    on_detached, ec) == 0)
		ec->et->detaching++;
}

static bool detach_all(struct engine_task *et)
{
	bool all = true;

	if (et->detaching > 0 || et->cleanup)
		return false;
	for (size_t i = 0; i < et->task->n_containers; i++)
		if (needs_detach(&et->containers[i])) {
			if (all)
				et->detach_tries++;
			all = false;
			detach(&et->containers[i]);
		}
	return all;
}

/* The supervisor. */

static void on_stopped_durable(void *userdata)
{
	struct engine_task *et = userdata;

	et->stopped_waits = false;
	et->stopped_durable = true;
	engine_changed(et);
}

/* With the supervisor go the exits that it has written: the store must have them first. */
static bool exits_are_durable(struct engine_task *et)
{
	if (!et->stopped_durable && !et->stopped_waits && !et->unsaved &&
	    state_after_commit(et->engine->o.state, on_stopped_durable, et) == 0)
		et->stopped_waits = true;
	return et->stopped_durable;
}

static bool end_supervisor(struct engine_task *et)
{
	if (!exits_are_durable(et))
		return false;
	switch (et->supervisor.status) {
	case SUPERVISOR_NONE:
		return true;
	case SUPERVISOR_READY:
		supervisor_end(et);
		return false;
	default:
		return false; /* comes to an end by itself, within its deadline */
	}
}

static void finish(struct engine_task *et)
{
	et->teardown = TEARDOWN_DONE;
	et->launched = et->launched_durable = false;
	if (et->admitted)
		host_resources_give(et->engine->host, et->task);
	et->admitted = false;
	if (persist_task(et) == 0)
		et->unsaved = false;
	role_credentials_remove(et->engine->credentials, et->task->id,
	                        !metadata_keeps_role(et->task));
	teardown_arm_cleanup(et);
	engine_admit_waiting(et->engine);
	heap_trim_soon(et->engine->heap);
}

void teardown_progress(struct engine_task *et)
{
	if (et->teardown == TEARDOWN_DETACH) {
		if (et->detach_tries == 0)
			metadata_release(et, false);
		if (!detach_all(et))
			return;
		et->teardown = TEARDOWN_END;
	}
	if (et->teardown == TEARDOWN_END && end_supervisor(et))
		finish(et);
	if (et->teardown == TEARDOWN_DONE && et->task->sent == TASK_STATUS_STOPPED && !et->unsaved)
		task_shrink(et->task);
}
