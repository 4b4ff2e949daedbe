/*
 * After a restart: what the store says, then what the supervisors say. From there on the reconciler
 * does the same as ever.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/engine/engine_internal.h"
#include "lib/parse.h"

static void resume(struct engine_task *et)
{
	if (et->admitted)
		host_resources_take_anyway(et->engine->host, et->task);
	if (et->task->known == TASK_STATUS_STOPPED && !et->launched) {
		et->teardown = TEARDOWN_DONE;
		teardown_arm_cleanup(et);
		return;
	}
	/* Addresses of ended containers go with the links that are pruned. */
	if (et->task->known == TASK_STATUS_STOPPED) {
		et->teardown = TEARDOWN_DETACH;
		et->stopped_durable = true;
	}
	for (size_t i = 0; i < et->task->n_containers; i++)
		et->containers[i].may_be_attached = et->launched;
	if (et->launched)
		supervisor_find(et);
	engine_changed(et);
}

static int read_port_cursor(struct engine *engine, struct err *err)
{
	_cleanup_free_ char *text = NULL;
	uint64_t cursor = 0;
	int r;

	r = state_get(engine->o.state, "port-cursor", &text, err);
	if (r >= 0 && text && parse_u64(text, UINT16_MAX, &cursor) == 0)
		engine->port_cursor = (int)cursor;
	return r;
}

/* What became of the tasks at a restart of the host is queued before the new boot id is, in one
 * transaction: a crash between the two would make it an unexpected end. */
static int resume_all(struct engine *engine, struct err *err)
{
	const char *current = engine->o.boot_id;
	_cleanup_free_ char *saved = NULL;
	int r;

	r = state_get(engine->o.state, "boot-id", &saved, err);
	if (r < 0)
		return r;
	engine->host_restarted = saved && current && strcmp(saved, current) != 0;
	for (size_t i = 0; i < engine->n_tasks; i++)
		resume(engine->tasks[i]);
	engine->host_restarted = false;
	if (current && (!saved || strcmp(saved, current) != 0))
		r = state_set(engine->o.state, "boot-id", current);
	return r < 0 ? err_set(err, r, "keep the boot id") : 0;
}

int engine_recover(struct engine *engine, struct err *err)
{
	int r;

	r = read_port_cursor(engine, err);
	if (r >= 0)
		r = manifest_read(engine, err);
	if (r >= 0)
		r = lost_read(engine, err);
	if (r >= 0)
		r = outbox_read(engine->outbox, err);
	if (r >= 0)
		r = persist_read(engine, err);
	if (r < 0)
		return r;

	if (engine->n_tasks > 0)
		log_info(&engine->log, "%zu tasks of an earlier run", engine->n_tasks);
	r = resume_all(engine, err);
	if (r < 0)
		return r;
	engine_admit_waiting(engine);
	host_network_start(engine);
	host_network_prune(engine);
	orphans_start(engine);
	return 0;
}
