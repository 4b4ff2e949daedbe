/*
 * TaskManifestMessage: which tasks ECS believes are here. Those that it does not name and that
 * still are to run become stop candidates, and stop once ECS has verified that. Tasks that it names
 * and that are not here are lost.c's.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "agent/engine/engine_internal.h"
#include "lib/parse.h"

#define SEQ_KEY "task-manifest-seq-num"

int manifest_read(struct engine *engine, struct err *err)
{
	_cleanup_free_ char *text = NULL;
	int r;

	r = state_get(engine->o.state, SEQ_KEY, &text, err);
	if (r >= 0 && text)
		(void)parse_i64(text, -1, INT64_MAX, &engine->manifest_seq);
	return r;
}

void manifest_note_seq(struct engine *engine, int64_t seq)
{
	char text[24];

	if (seq <= engine->manifest_seq)
		return;
	engine->manifest_seq = seq;
	snprintf(text, sizeof(text), "%" PRId64, seq);
	(void)state_set(engine->o.state, SEQ_KEY, text);
}

static bool names_as_running(const struct acs_manifest *manifest, const char *arn)
{
	for (size_t i = 0; i < manifest->n_tasks; i++)
		if (strcmp(manifest->tasks[i].task_arn, arn) == 0 &&
		    strcmp(manifest->tasks[i].desired_status, "RUNNING") == 0)
			return true;
	return false;
}

static void send_candidates(struct engine *engine, const struct acs_manifest *manifest)
{
	struct acs_task_identifier *candidates;
	size_t n = 0;

	candidates = calloc(engine->n_tasks + 1, sizeof(*candidates));
	if (!candidates)
		return;
	for (size_t i = 0; i < engine->n_tasks; i++) {
		const struct task *task = engine->tasks[i]->task;

		if (task->desired == TASK_STATUS_STOPPED || names_as_running(manifest, task->arn))
			continue;
		candidates[n++] = (struct acs_task_identifier){
			.task_arn = task->arn,
			.task_cluster_arn = task->cluster_arn && task->cluster_arn[0]
		                                    ? task->cluster_arn
		                                    : manifest->cluster_arn,
			.desired_status = "STOPPED",
		};
		log_warning(&engine->tasks[i]->log, 0,
		            "ECS does not name the task: asking whether it is to stop");
	}
	if (n > 0)
		(void)acs_stop_candidates(engine->session, manifest->message_id, candidates, n);
	free(candidates);
}

void manifest_handle(struct acs_session *session, const struct acs_manifest *manifest,
                     void *userdata)
{
	struct engine *engine = userdata;
	char *id;

	(void)session;
	lost_check(engine, manifest);
	if (manifest->timeline <= engine->manifest_seq) {
		log_debug(&engine->log, "manifest %s is older than what is known",
		          manifest->message_id);
		return;
	}
	id = strdup(manifest->message_id);
	if (!id)
		return;
	free(engine->manifest_id);
	engine->manifest_id = id;
	manifest_note_seq(engine, manifest->timeline);
	acknowledge_when_durable(engine, manifest->cluster_arn, manifest->container_instance_arn,
	                         manifest->message_id, NULL);
	if (engine->session)
		send_candidates(engine, manifest);
}

void stop_verification_handle(struct acs_session *session,
                              const struct acs_stop_verification *verification, void *userdata)
{
	struct engine *engine = userdata;

	(void)session;
	if (!engine->manifest_id || strcmp(engine->manifest_id, verification->message_id) != 0) {
		log_debug(&engine->log,
		          "stop verification for a manifest that is not the current one");
		return;
	}
	free(engine->manifest_id);
	engine->manifest_id = NULL;
	for (size_t i = 0; i < verification->n_stop_tasks; i++) {
		struct engine_task *et = engine_find(engine, verification->stop_tasks[i].task_arn);

		if (!et)
			continue;
		log_info(&et->log, "ECS has verified that the task is to stop");
		engine_desire_stopped(et);
	}
}
