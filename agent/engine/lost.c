/*
 * Tasks that were lost with the store: ECS has them as running here, nobody knows them, and nothing
 * would ever be said of them again. After a rebuild a manifest tells which they are. A payload that
 * brings such a task may still be on its way (ACS sends again what was not acknowledged), so it
 * gets some time before the task is reported STOPPED.
 */
#include <stdlib.h>
#include <string.h>

#include "agent/engine/engine_internal.h"
#include "agent/engine/rebuild.h"
#include "lib/loop.h"

struct lost_task {
	struct lost_task *next;
	char arn[];
};

static void forget_all(struct engine *engine)
{
	while (engine->lost) {
		struct lost_task *lost = engine->lost;

		engine->lost = lost->next;
		free(lost);
	}
}

void lost_free(struct engine *engine)
{
	forget_all(engine);
	engine->lost_timer = sd_event_source_disable_unref(engine->lost_timer);
}

/* Reports and the end of the search are one transaction. */
static int on_waited(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct engine *engine = userdata;

	(void)source;
	(void)usec;
	for (const struct lost_task *lost = engine->lost; lost; lost = lost->next) {
		if (engine_find(engine, lost->arn))
			continue; /* it has come meanwhile */
		log_warning(&engine->log, 0, "task %s was lost with the state: reported STOPPED",
		            lost->arn);
		if (events_refuse(engine, lost->arn,
		                  "TaskStateError: The agent's state was damaged, and the task was "
		                  "lost with it") < 0) {
			(void)sd_event_source_set_time(engine->lost_timer,
			                               now_usec() + engine->lost_wait_usec);
			(void)sd_event_source_set_enabled(engine->lost_timer, SD_EVENT_ONESHOT);
			return 0;
		}
	}
	(void)state_set(engine->o.state, REBUILD_LOST_KEY, NULL);
	engine->may_have_lost = false;
	lost_free(engine);
	return 0;
}

static void note(struct engine *engine, const char *arn)
{
	struct lost_task *lost = malloc(sizeof(*lost) + strlen(arn) + 1);

	if (!lost)
		return; /* the next manifest names it again */
	strcpy(lost->arn, arn);
	lost->next = engine->lost;
	engine->lost = lost;
}

void lost_check(struct engine *engine, const struct acs_manifest *manifest)
{
	if (!engine->may_have_lost)
		return;
	forget_all(engine);
	for (size_t i = 0; i < manifest->n_tasks; i++)
		if (strcmp(manifest->tasks[i].desired_status, "RUNNING") == 0 &&
		    !engine_find(engine, manifest->tasks[i].task_arn))
			note(engine, manifest->tasks[i].task_arn);
	if (!engine->lost_timer)
		(void)loop_add_timer(engine->loop, engine->lost_wait_usec, SECOND_USEC, on_waited,
		                     engine, &engine->lost_timer);
}

int lost_read(struct engine *engine, struct err *err)
{
	_cleanup_free_ char *text = NULL;
	int r;

	r = state_get(engine->o.state, REBUILD_LOST_KEY, &text, err);
	engine->may_have_lost = r >= 0 && text;
	return r;
}
