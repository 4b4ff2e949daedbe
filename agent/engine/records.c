/*
 * What each supervisor is given to keep: the order in which to stop its containers should the host
 * shut down, told once; and what the store has of its task (record.h), so that a lost store can be
 * rebuilt: sent when the store has it, once for all changes of a transaction. A supervisor of an
 * older version keeps none; its task is then stopped should the store be lost.
 */
#include "agent/engine/engine_internal.h"
#include "agent/engine/progress.h"
#include "agent/engine/record.h"
#include "agent/task/protocol.h"
#include "lib/json.h"
#include "lib/loop.h"

static struct json_object *make_record(const struct engine_task *et)
{
	_cleanup_json_ struct json_object *record = record_new(now_realtime_usec());
	struct state *state = et->engine->o.state;

	if (!record || persist_to_record(et, record) < 0)
		return NULL;
	for (size_t i = 0; i < record_n_instance_keys; i++) {
		_cleanup_free_ char *value = NULL;

		if (state_get(state, record_instance_keys[i], &value, NULL) < 0 ||
		    (value && record_set_instance(record, record_instance_keys[i], value) < 0))
			return NULL;
	}
	return TAKE_PTR(record);
}

static void on_recorded(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct engine_task *et = userdata;

	(void)msg;
	if (r == 0 || !peer_error(et->supervisor.peer))
		return;
	et->supervisor.keeps_no_records = true;
	log_debug(&et->log, "the supervisor keeps no record: %s", err->text);
}

static void send_record(struct engine_task *et)
{
	struct json_object *record, *body;
	size_t len = 0;

	if (!et->record_stale || et->record_waits || !et->durable || !et->supervisor.peer ||
	    et->supervisor.status != SUPERVISOR_READY || et->supervisor.keeps_no_records)
		return;
	record = make_record(et);
	if (!record)
		return; /* the next change sends it */
	et->record_stale = false;
	if (!json_to_text(record, &len) || len > TASK_RECORD_MAX) {
		log_warning(&et->log, 0,
		            "the task is too large (%zu bytes) for a record with its supervisor",
		            len);
		json_object_put(record);
		return;
	}
	body = ipc_message_new("record", NULL);
	if (!body || json_add(body, "record", record) < 0) {
		json_object_put(body ? body : record);
		return;
	}
	(void)peer_request(et->supervisor.peer, body, NULL, 0, STATE_TIMEOUT_USEC, on_recorded, et);
}

static void on_durable(void *userdata)
{
	struct engine_task *et = userdata;

	et->record_waits = false;
	send_record(et);
}

void records_changed(struct engine_task *et)
{
	et->record_stale = true;
	if (!et->record_waits && state_after_commit(et->engine->o.state, on_durable, et) == 0)
		et->record_waits = true;
}

void records_changed_all(struct engine *engine)
{
	for (size_t i = 0; i < engine->n_tasks; i++)
		records_changed(engine->tasks[i]);
}

/* Those that depend on it come first. */
static struct json_object *stop_rule(struct engine_container *ec)
{
	const struct task *task = ec->et->task;
	_cleanup_json_ struct json_object *rule = json_object_new_object();
	_cleanup_json_ struct json_object *after = json_object_new_array();

	if (!rule || !after || json_add_string(rule, "name", ec->c->name) < 0 ||
	    json_add_u64(rule, "timeoutUsec", container_stop_timeout_usec(ec)) < 0)
		return NULL;
	for (size_t i = 0; i < task->n_containers; i++)
		if (container_depends_on(&task->containers[i], ec->c->name) &&
		    json_append(after, json_object_new_string(task->containers[i].name)) < 0)
			return NULL;
	if (json_add(rule, "after", TAKE_PTR(after)) < 0)
		return NULL;
	return TAKE_PTR(rule);
}

static void on_stop_ordered(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct engine_task *et = userdata;

	(void)msg;
	if (r < 0 && peer_error(et->supervisor.peer))
		log_debug(&et->log, "the supervisor takes no stop order: %s", err->text);
}

static void send_stop_order(struct engine_task *et)
{
	_cleanup_json_ struct json_object *body = ipc_message_new("stop-order", NULL);
	_cleanup_json_ struct json_object *list = json_object_new_array();

	if (!body || !list)
		return; /* told again with the next connection */
	for (size_t i = 0; i < et->task->n_containers; i++)
		if (json_append(list, stop_rule(&et->containers[i])) < 0)
			return;
	if (json_add(body, "containers", TAKE_PTR(list)) < 0)
		return;
	(void)peer_request(et->supervisor.peer, TAKE_PTR(body), NULL, 0, STATE_TIMEOUT_USEC,
	                   on_stop_ordered, et);
}

void records_connected(struct engine_task *et)
{
	send_stop_order(et);
	et->supervisor.keeps_no_records = false;
	send_record(et);
}
