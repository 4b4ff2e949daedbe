/*
 * PayloadMessage and IAMRoleCredentialsMessage. A task is known by its ARN: a new one is added, of
 * one that is known only the desired status changes. It runs by what was accepted once, so it is
 * neither parsed again, perhaps more strictly, nor refused. The message is acknowledged when all of
 * it is durable, and not at all if a part of it could not be loaded.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/engine/engine_internal.h"
#include "lib/json.h"
#include "lib/parse.h"

/* Credentials. */

static void keep_credential(struct engine *engine, const struct role_credentials_values *values)
{
	struct role_credential *credential = NULL;

	if (role_credentials_put(engine->credentials, values, &credential) < 0) {
		log_err(&engine->log, -ENOMEM, "keep credentials");
		return;
	}
	metadata_put_credentials(engine, credential);
}

static int keep_role(struct engine *engine, const struct task *task, struct json_object *obj,
                     bool execution)
{
	struct role_credentials_values values = {
		.id = json_text(obj, "credentialsId"),
		.task_id = task->id,
		.task_arn = task->arn,
		.execution = execution,
		.role_arn = json_text(obj, "roleArn"),
		.access_key_id = json_text(obj, "accessKeyId"),
		.secret_access_key = json_text(obj, "secretAccessKey"),
		.session_token = json_text(obj, "sessionToken"),
		.expiration = json_text(obj, "expiration"),
	};

	if (!obj)
		return 0;
	if (!values.id || !name_is_component(values.id, TASK_CREDENTIALS_ID_MAX)) {
		log_warning(&engine->log, 0,
		            "task %s: credentials without a valid credentialsId are left out",
		            task->arn);
		return -EINVAL;
	}
	keep_credential(engine, &values);
	return 0;
}

static int keep_credentials(struct engine *engine, const struct task *task, struct json_object *obj)
{
	int r, r_execution;

	if (task->known == TASK_STATUS_STOPPED)
		return 0;
	r = keep_role(engine, task, json_get(obj, "roleCredentials"), false);
	r_execution = keep_role(engine, task, json_get(obj, "executionRoleCredentials"), true);
	return r < 0 ? r : r_execution;
}

/* Tasks. */

static void refuse(struct engine *engine, struct json_object *obj, const struct err *why)
{
	const char *arn = json_text(obj, "arn");
	char reason[700];

	snprintf(reason, sizeof(reason), "UnrecogniedTaskError: Error loading task - %s",
	         why->text);
	log_err(&engine->log, 0, "task %s of a payload is refused: %s", arn ? arn : "without ARN",
	        why->text);
	if (arn && arn[0] && events_refuse(engine, arn, reason) < 0)
		log_err(&engine->log, -ENOMEM, "report the refusal of task %s", arn);
}

static bool is_stop(struct json_object *obj)
{
	enum task_status desired;

	return task_parse_desired(obj, &desired, NULL) == 0 && desired == TASK_STATUS_STOPPED;
}

static int handle_known(struct engine_task *et, struct json_object *obj, int64_t seq_num)
{
	enum task_status desired;
	struct err err = {0};
	int r = task_parse_desired(obj, &desired, &err);

	if (r < 0) {
		log_err(&et->log, 0, "a payload says nothing of use, and the task goes on: %s",
		        err.text);
		return r;
	}
	if (desired == TASK_STATUS_STOPPED && et->task->desired != TASK_STATUS_STOPPED) {
		log_info(&et->log, "ECS wants the task to stop");
		et->task->stop_sequence = seq_num;
		engine_desire_stopped(et);
	}
	r = keep_credentials(et->engine, et->task, obj);
	return desired == TASK_STATUS_STOPPED ? 0 : r; /* it stops without them */
}

static int parse_new(struct engine *engine, struct json_object *obj, struct task **ret,
                     struct err *err)
{
	const struct config *config = engine->o.config;
	const struct task_policy policy = {
		.privileged_disabled = config->privileged_disabled,
		.task_roles_are_off = !config->task_iam_role,
		.host_task_roles_are_off = !config->task_iam_role_network_host,
	};
	_cleanup_(task_freep) struct task *task = NULL;
	int r;

	r = task_parse(obj, &policy, &task, err);
	if (r >= 0 && engine_find_id(engine, task->id))
		r = err_text(err, -EEXIST, "task id %s is that of another task", task->id);
	if (r >= 0)
		*ret = TAKE_PTR(task);
	return r;
}

static int handle_new(struct engine *engine, struct json_object *obj)
{
	struct engine_task *et;
	struct task *task;
	struct err err = {0};
	int r;

	r = parse_new(engine, obj, &task, &err);
	if (r < 0) {
		if (r != -ENOMEM)
			refuse(engine, obj, &err);
		return r;
	}
	r = engine_add(engine, task, &et);
	if (r >= 0)
		(void)keep_credentials(engine, et->task, obj);
	return r;
}

static int handle_task(struct engine *engine, struct json_object *obj, int64_t seq_num)
{
	const char *arn = json_text(obj, "arn");
	struct engine_task *et = arn ? engine_find(engine, arn) : NULL;

	return et ? handle_known(et, obj, seq_num) : handle_new(engine, obj);
}

/* Those that are to stop come first: they make room. */
static bool handle_tasks(struct engine *engine, const struct acs_payload *payload, bool stops)
{
	bool all = true;

	for (size_t i = 0; i < json_object_array_length(payload->tasks); i++) {
		struct json_object *obj = json_object_array_get_idx(payload->tasks, i);

		if (!json_object_is_type(obj, json_type_object)) {
			all = false;
			continue;
		}
		if (is_stop(obj) == stops && handle_task(engine, obj, payload->seq_num) < 0)
			all = false;
	}
	return all;
}

void payload_handle(struct acs_session *session, const struct acs_payload *payload, void *userdata)
{
	struct engine *engine = userdata;
	bool all;

	(void)session;
	all = handle_tasks(engine, payload, true);
	all = handle_tasks(engine, payload, false) && all;
	manifest_note_seq(engine, payload->seq_num);
	if (all)
		acknowledge_when_durable(engine, payload->cluster_arn,
		                         payload->container_instance_arn, payload->message_id,
		                         payload->message);
}

void credentials_handle(struct acs_session *session, const struct acs_role_credentials *c,
                        void *userdata)
{
	struct engine *engine = userdata;
	struct engine_task *et = engine_find(engine, c->task_arn);
	bool execution = strcmp(c->role_type, "TaskExecution") == 0;
	struct role_credentials_values values = {
		.id = c->credentials_id,
		.task_arn = c->task_arn,
		.execution = execution,
		.role_arn = c->role_arn,
		.access_key_id = c->access_key_id,
		.secret_access_key = c->secret_access_key,
		.session_token = c->session_token,
		.expiration = c->expiration,
	};
	char **id, *copy;

	if (!et) {
		log_warning(&engine->log, 0, "credentials for task %s, which is not known",
		            c->task_arn);
		return;
	}
	id = execution ? &et->task->execution_credentials_id : &et->task->credentials_id;
	copy = strdup(c->credentials_id);
	if (!copy)
		return;
	free(*id);
	*id = copy;
	values.task_id = et->task->id;
	if (et->task->known != TASK_STATUS_STOPPED || (execution && metadata_keeps_role(et->task)))
		keep_credential(engine, &values);
	engine_changed(et);
	(void)acs_credentials_ack(session, c->message_id, c->expiration, c->credentials_id);
}
