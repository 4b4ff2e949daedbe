/* Tasks as rows of the store, and back. What a row does not have, the task's document says. */
#include <errno.h>
#include <string.h>

#include "agent/engine/engine_internal.h"
#include "agent/engine/record.h"
#include "lib/json.h"
#include "lib/loop.h"

#define DOCUMENT_MAX (4 * 1024 * 1024)

static struct json_object *bindings_to_json(const struct container *c)
{
	struct json_object *array = json_object_new_array();

	for (size_t i = 0; i < c->n_bindings && array; i++) {
		const struct network_binding *b = &c->bindings[i];
		struct json_object *obj = json_object_new_object();

		if (json_add_u64(obj, "containerPort", b->container_port) < 0 ||
		    json_add_u64(obj, "hostPort", b->host_port) < 0 ||
		    json_add_string(obj, "protocol", b->udp ? "udp" : "tcp") < 0 ||
		    json_add_string(obj, "bindIP", b->bind_ip) < 0 || json_append(array, obj) < 0) {
			json_object_put(array);
			return NULL;
		}
	}
	return array;
}

/* *ret borrows from c, et, and from the two that are owned by the caller. */
static int container_row(const struct engine_task *et, const struct container *c,
                         struct state_container *ret, struct json_object **ret_bindings,
                         char **ret_agent)
{
	struct json_object *bindings = bindings_to_json(c);

	*ret_bindings = bindings;
	*ret = (struct state_container){
		.task_arn = et->task->arn,
		.name = c->name,
		.runtime_id = c->runtime_id,
		.endpoint_id = c->endpoint_id,
		.desired = task_status_to_string(c->desired),
		.known = task_status_to_string(c->known),
		.sent = task_status_to_string(c->sent),
		.has_exit_code = c->has_exit_code,
		.exit_code = c->exit_code,
		.reason = c->reason,
		.image_digest = c->image_digest,
		.image_id = c->image_id,
		.address = c->address,
		.bindings = bindings ? json_to_text(bindings, NULL) : NULL,
		.image_config = c->image_config ? json_to_text(c->image_config, NULL) : NULL,
		.layers = c->layers ? json_to_text(c->layers, NULL) : NULL,
		.cgroup_id = c->cgroup_id,
		.restart_count = c->restart_count,
		.created_usec = c->created_realtime_usec,
		.started_usec = c->started_realtime_usec,
		.finished_usec = c->finished_realtime_usec,
	};
	if (managed_agent_to_text(&c->managed_agent, ret_agent) < 0)
		return -ENOMEM;
	ret->managed_agent = *ret_agent;
	return ret->bindings ? 0 : -ENOMEM;
}

static int task_row(const struct engine_task *et, struct state_task *ret)
{
	const struct task *task = et->task;

	*ret = (struct state_task){
		.arn = task->arn,
		.document = json_to_text(task->document, NULL),
		.desired = task_status_to_string(task->desired),
		.known = task_status_to_string(task->known),
		.sent = task_status_to_string(task->sent),
		.reason = task->reason,
		.sequence = et->sequence,
		.stop_sequence = task->stop_sequence,
		.received_usec = et->received_realtime_usec,
		.pull_started_usec = task->pull_started_realtime_usec,
		.pull_stopped_usec = task->pull_stopped_realtime_usec,
		.execution_stopped_usec = task->execution_stopped_realtime_usec,
		.stopped_usec = task->stopped_realtime_usec,
		.launched = et->launched,
		.admitted = et->admitted,
	};
	return ret->document ? 0 : -ENOMEM;
}

int persist_task(struct engine_task *et)
{
	struct state *state = et->engine->o.state;
	const struct task *task = et->task;
	struct state_task row;
	int r;

	if (!task->document)
		return 0; /* shrunk: the store has the last that is to be said of it */
	r = task_row(et, &row);
	if (r >= 0)
		r = state_put_task(state, &row);
	for (size_t i = 0; i < task->n_containers && r >= 0; i++) {
		_cleanup_json_ struct json_object *bindings = NULL;
		_cleanup_free_ char *agent = NULL;
		struct state_container container;

		r = container_row(et, &task->containers[i], &container, &bindings, &agent);
		if (r >= 0)
			r = state_put_container(state, &container);
	}
	if (r < 0)
		log_err(&et->log, r, "write the task to the state");
	else
		records_changed(et);
	return r;
}

int persist_to_record(const struct engine_task *et, struct json_object *record)
{
	const struct task *task = et->task;
	struct state_task row;
	int r;

	r = task_row(et, &row);
	if (r >= 0)
		r = record_set_task(record, &row);
	for (size_t i = 0; i < task->n_containers && r >= 0; i++) {
		_cleanup_json_ struct json_object *bindings = NULL;
		_cleanup_free_ char *agent = NULL;
		struct state_container container;

		r = container_row(et, &task->containers[i], &container, &bindings, &agent);
		if (r >= 0)
			r = record_add_container(record, &container);
	}
	return r;
}

/* Back. */

static int read_status(const char *word, enum task_status *ret)
{
	return word ? task_status_from_string(word, ret) : -EINVAL;
}

static int dup_text(const char *text, char **ret)
{
	free(*ret);
	*ret = text ? strdup(text) : NULL;
	return text && !*ret ? -ENOMEM : 0;
}

static int copy_text(const char *text, char *buf, size_t n)
{
	if (!text)
		text = "";
	if (strlen(text) >= n)
		return -EBADMSG;
	strcpy(buf, text);
	return 0;
}

static int read_json(const char *text, struct json_object **ret)
{
	return text ? json_parse(text, strlen(text), DOCUMENT_MAX, ret, NULL) : 0;
}

static int read_bindings(const char *text, struct container *c)
{
	_cleanup_json_ struct json_object *array = NULL;
	size_t n;
	int r;

	r = read_json(text, &array);
	if (r < 0 || !array)
		return r;
	if (!json_object_is_type(array, json_type_array))
		return -EBADMSG;
	n = json_object_array_length(array);
	c->bindings = calloc(n + 1, sizeof(*c->bindings));
	if (!c->bindings)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		struct json_object *obj = json_object_array_get_idx(array, i);
		struct network_binding *b = &c->bindings[i];
		uint64_t container_port = 0, host_port = 0;
		const char *protocol = json_text(obj, "protocol");

		r = json_get_u64(obj, "containerPort", UINT16_MAX, &container_port, NULL);
		if (r >= 0)
			r = json_get_u64(obj, "hostPort", UINT16_MAX, &host_port, NULL);
		if (r >= 0)
			r = copy_text(json_text(obj, "bindIP"), b->bind_ip, sizeof(b->bind_ip));
		if (r < 0)
			return r;
		b->container_port = (uint16_t)container_port;
		b->host_port = (uint16_t)host_port;
		b->udp = protocol && strcmp(protocol, "udp") == 0;
		c->n_bindings = i + 1;
	}
	return 0;
}

static int read_container(const struct state_container *row, void *userdata)
{
	struct engine_task *et = userdata;
	struct container *c = task_container(et->task, row->name);
	int r;

	if (!c)
		return 0; /* the document knows no such container: nothing to go on with */
	r = read_status(row->known, &c->known);
	if (r >= 0)
		r = read_status(row->desired, &c->desired);
	if (r >= 0)
		r = read_status(row->sent, &c->sent);
	if (r >= 0)
		r = copy_text(row->runtime_id, c->runtime_id, sizeof(c->runtime_id));
	if (r >= 0)
		r = copy_text(row->endpoint_id, c->endpoint_id, sizeof(c->endpoint_id));
	if (r >= 0)
		r = copy_text(row->address, c->address, sizeof(c->address));
	if (r >= 0)
		r = dup_text(row->reason, &c->reason);
	if (r >= 0)
		r = dup_text(row->image_digest, &c->image_digest);
	if (r >= 0)
		r = dup_text(row->image_id, &c->image_id);
	if (r >= 0)
		r = read_json(row->image_config, &c->image_config);
	if (r >= 0)
		r = read_json(row->layers, &c->layers);
	if (r >= 0)
		r = read_bindings(row->bindings, c);
	if (r >= 0)
		r = managed_agent_from_text(row->managed_agent, &c->managed_agent);
	c->has_exit_code = row->has_exit_code;
	c->exit_code = (int)row->exit_code;
	c->cgroup_id = row->cgroup_id;
	c->restart_count = row->restart_count;
	c->created_realtime_usec = row->created_usec;
	container_set_started(c, row->started_usec);
	c->finished_realtime_usec = row->finished_usec;
	return r;
}

static int parse_task(const struct state_task *row, struct task **ret, struct err *err)
{
	_cleanup_json_ struct json_object *document = NULL;
	int r;

	r = json_parse_object(row->document, strlen(row->document), DOCUMENT_MAX, &document, err);
	return r < 0 ? r : task_parse_stored(document, ret, err);
}

static int fill_task(struct engine_task *et, const struct state_task *row)
{
	struct task *task = et->task;
	int r;

	r = read_status(row->known, &task->known);
	if (r >= 0)
		r = read_status(row->desired, &task->desired);
	if (r >= 0)
		r = read_status(row->sent, &task->sent);
	if (r >= 0)
		r = dup_text(row->reason, &task->reason);
	task->stop_sequence = row->stop_sequence;
	task->pull_started_realtime_usec = row->pull_started_usec;
	task->pull_stopped_realtime_usec = row->pull_stopped_usec;
	task->execution_stopped_realtime_usec = row->execution_stopped_usec;
	task->stopped_realtime_usec = row->stopped_usec;
	et->sequence = row->sequence;
	et->received_realtime_usec = row->received_usec;
	et->launched = et->launched_durable = row->launched;
	et->admitted = row->admitted;
	et->durable = true;
	et->documents_stale = true;
	return r;
}

struct unreadable {
	struct unreadable *next;
	char arn[];
};

struct reading {
	struct engine *engine;
	struct unreadable *unreadable;
};

/* A row that cannot be read costs its task, not all the others. */
static void note_unreadable(struct reading *reading, const char *arn, const char *why)
{
	const struct log_ctx ctx = {.field = "ECS_TASK_ARN", .value = arn};
	struct unreadable *u = malloc(sizeof(*u) + strlen(arn) + 1);

	log_err(&ctx, 0, "task of an earlier run cannot be read and is given up: %s", why);
	if (!u)
		return;
	strcpy(u->arn, arn);
	u->next = reading->unreadable;
	reading->unreadable = u;
}

static int read_task(const struct state_task *row, void *userdata)
{
	struct reading *reading = userdata;
	struct engine *engine = reading->engine;
	struct engine_task *et = NULL;
	struct task *task = NULL;
	struct err err = {0};
	int r;

	if (row->sequence > engine->last_sequence)
		engine->last_sequence = row->sequence;
	r = parse_task(row, &task, &err);
	if (r < 0) {
		note_unreadable(reading, row->arn, err.text);
		return r == -ENOMEM ? r : 0;
	}
	r = engine_insert(engine, task, &et);
	if (r < 0)
		return r;
	r = fill_task(et, row);
	if (r >= 0)
		r = state_read_containers(engine->o.state, row->arn, read_container, et, &err);
	if (r < 0) {
		note_unreadable(reading, row->arn, "its columns do not fit its document");
		engine_remove(et);
		return r == -ENOMEM ? r : 0;
	}
	if (task->known == TASK_STATUS_STOPPED && task->sent == TASK_STATUS_STOPPED &&
	    !et->launched && !et->admitted)
		task_shrink(task); /* there may be thousands of them */
	return 0;
}

static void give_up_unreadable(struct reading *reading)
{
	while (reading->unreadable) {
		struct unreadable *u = reading->unreadable;

		reading->unreadable = u->next;
		(void)state_remove_task(reading->engine->o.state, u->arn);
		(void)events_refuse(
			reading->engine, u->arn,
			"TaskStateError: Agent could not progress task's state to stopped");
		free(u);
	}
}

int persist_read(struct engine *engine, struct err *err)
{
	struct reading reading = {.engine = engine};
	int r;

	r = state_read_tasks(engine->o.state, read_task, &reading, err);
	give_up_unreadable(&reading);
	return r;
}
