/* Rows of the state database: what each change writes, and reading them back. */
#include <errno.h>
#include <string.h>

#include "agent/state/state_internal.h"

static struct state_value text(const char *t)
{
	return t ? (struct state_value){.type = VALUE_TEXT, .text = (char *)t}
	         : (struct state_value){.type = VALUE_NULL};
}

static struct state_value integer(uint64_t n)
{
	return (struct state_value){.type = VALUE_INTEGER, .integer = (int64_t)n};
}

/* Facts about the instance. */

static struct state_fact **find_fact(struct state *state, const char *key)
{
	struct state_fact **p = &state->facts;

	while (*p && strcmp((*p)->key, key) != 0)
		p = &(*p)->next;
	return p;
}

static void remove_fact(struct state_fact **p)
{
	struct state_fact *fact = *p;

	*p = fact->next;
	free(fact->key);
	free(fact->value);
	free(fact);
}

/* *ret: a fact that is in no list yet. */
static int new_fact(const char *key, const char *value, struct state_fact **ret)
{
	struct state_fact *fact = calloc(1, sizeof(*fact));

	if (!fact)
		return -ENOMEM;
	fact->key = strdup(key);
	fact->value = strdup(value);
	if (!fact->key || !fact->value) {
		remove_fact(&fact);
		return -ENOMEM;
	}
	*ret = fact;
	return 0;
}

void state_facts_forget(struct state *state)
{
	while (state->facts)
		remove_fact(&state->facts);
}

int state_facts_read(struct state *state, struct err *err)
{
	_cleanup_(sqlite3_finalizep) sqlite3_stmt *stmt = NULL;
	int r;

	state_facts_forget(state);
	r = sqlite3_prepare_v2(state->db, "SELECT key,value FROM instance", -1, &stmt, NULL);
	if (r != SQLITE_OK)
		return state_error(state->db, r, "read the state database", err);
	while ((r = sqlite3_step(stmt)) == SQLITE_ROW) {
		struct state_fact *fact;
		const char *key = (const char *)sqlite3_column_text(stmt, 0);
		const char *value = (const char *)sqlite3_column_text(stmt, 1);

		if (!key || !value)
			continue;
		if (new_fact(key, value, &fact) < 0)
			return err_oom(err);
		fact->next = state->facts;
		state->facts = fact;
	}
	return r == SQLITE_DONE ? 0 : state_error(state->db, r, "read the state database", err);
}

int state_set(struct state *state, const char *key, const char *value)
{
	struct state_value values[] = {text(key), text(value)};
	struct state_fact **old, *fact = NULL;
	int r;

	r = value ? new_fact(key, value, &fact) : 0;
	if (r < 0)
		return r;
	r = value ? state_queue(state, STATEMENT_SET, 1, values, 2)
	          : state_queue(state, STATEMENT_UNSET, 1, values, 1);
	if (r < 0) {
		if (fact)
			remove_fact(&fact);
		return r;
	}
	old = find_fact(state, key);
	if (*old)
		remove_fact(old);
	if (fact) {
		fact->next = state->facts;
		state->facts = fact;
	}
	return 0;
}

int state_get(struct state *state, const char *key, char **ret, struct err *err)
{
	const struct state_fact *fact = *find_fact(state, key);
	char *value = NULL;

	if (fact) {
		value = strdup(fact->value);
		if (!value)
			return err_oom(err);
	}
	*ret = value;
	return 0;
}

int state_put_task(struct state *state, const struct state_task *task)
{
	struct state_value values[] = {
		text(task->arn),
		text(task->document),
		text(task->desired),
		text(task->known),
		text(task->sent),
		text(task->reason),
		integer(task->sequence),
		integer((uint64_t)task->stop_sequence),
		integer(task->received_usec),
		integer(task->pull_started_usec),
		integer(task->pull_stopped_usec),
		integer(task->execution_stopped_usec),
		integer(task->stopped_usec),
		integer(task->launched),
		integer(task->admitted),
	};

	return state_queue(state, STATEMENT_PUT_TASK, 1, values, ARRAY_SIZE(values));
}

int state_put_container(struct state *state, const struct state_container *c)
{
	struct state_value values[] = {
		text(c->task_arn),
		text(c->name),
		text(c->runtime_id),
		text(c->endpoint_id),
		text(c->desired),
		text(c->known),
		text(c->sent),
		c->has_exit_code ? integer((uint64_t)c->exit_code) : text(NULL),
		text(c->reason),
		text(c->image_digest),
		text(c->image_id),
		text(c->address),
		text(c->bindings),
		text(c->image_config),
		text(c->layers),
		integer(c->cgroup_id),
		integer(c->created_usec),
		integer(c->started_usec),
		integer(c->finished_usec),
		integer(c->restart_count),
		text(c->managed_agent),
	};

	return state_queue(state, STATEMENT_PUT_CONTAINER, 2, values, ARRAY_SIZE(values));
}

int state_remove_task(struct state *state, const char *arn)
{
	struct state_value values[] = {text(arn)};
	int r;

	r = state_queue(state, STATEMENT_REMOVE_CONTAINERS, 0, values, 1);
	if (r < 0)
		return r;
	return state_queue(state, STATEMENT_REMOVE_TASK, 0, values, 1);
}

int state_add_event(struct state *state, const char *task_arn, const char *body, uint64_t *ret_id)
{
	struct state_value values[] = {integer(state->last_event_id + 1), text(task_arn),
	                               text(body)};
	int r;

	r = state_queue(state, STATEMENT_ADD_EVENT, 0, values, ARRAY_SIZE(values));
	if (r < 0)
		return r;
	*ret_id = ++state->last_event_id;
	return 0;
}

int state_remove_event(struct state *state, uint64_t id)
{
	struct state_value values[] = {integer(id)};

	return state_queue(state, STATEMENT_REMOVE_EVENT, 0, values, 1);
}

int state_put_image(struct state *state, const char *reference, const char *digest)
{
	struct state_value values[] = {text(reference), text(digest)};

	return state_queue(state, STATEMENT_PUT_IMAGE, 1, values, 2);
}

int state_has_image(struct state *state, const char *reference, bool *ret, struct err *err)
{
	_cleanup_(sqlite3_finalizep) sqlite3_stmt *stmt = NULL;
	int r;

	state_wait_for_thread(state);
	for (size_t i = 0; i < state->n_batch + state->n_changes; i++) {
		const struct state_change *change =
			i < state->n_batch ? state->batch[i] : state->changes[i - state->n_batch];

		if (change->statement == STATEMENT_PUT_IMAGE &&
		    strcmp(change->values[0].text, reference) == 0) {
			*ret = true;
			return 0;
		}
	}

	r = sqlite3_prepare_v2(state->db, "SELECT 1 FROM images WHERE reference=?", -1, &stmt,
	                       NULL);
	if (r == SQLITE_OK)
		r = sqlite3_bind_text(stmt, 1, reference, -1, SQLITE_STATIC);
	if (r == SQLITE_OK)
		r = sqlite3_step(stmt);
	if (r != SQLITE_ROW && r != SQLITE_DONE)
		return state_error(state->db, r, "read the state database", err);
	*ret = r == SQLITE_ROW;
	return 0;
}

/* Reading. */

static const char *column_text(sqlite3_stmt *stmt, int column)
{
	return (const char *)sqlite3_column_text(stmt, column);
}

static uint64_t column_u64(sqlite3_stmt *stmt, int column)
{
	return (uint64_t)sqlite3_column_int64(stmt, column);
}

int state_read_tasks(struct state *state, state_task_fn fn, void *userdata, struct err *err)
{
	_cleanup_(sqlite3_finalizep) sqlite3_stmt *stmt = NULL;
	int r, result;

	state_wait_for_thread(state);
	r = sqlite3_prepare_v2(
		state->db,
		"SELECT arn,document,desired,known,sent,reason,sequence,stop_sequence,"
		"received_usec,pull_started_usec,pull_stopped_usec,"
		"execution_stopped_usec,stopped_usec,launched,admitted FROM tasks ORDER BY sequence",
		-1, &stmt, NULL);
	if (r != SQLITE_OK)
		return state_error(state->db, r, "read the tasks", err);

	while ((r = sqlite3_step(stmt)) == SQLITE_ROW) {
		struct state_task task = {
			.arn = column_text(stmt, 0),
			.document = column_text(stmt, 1),
			.desired = column_text(stmt, 2),
			.known = column_text(stmt, 3),
			.sent = column_text(stmt, 4),
			.reason = column_text(stmt, 5),
			.sequence = column_u64(stmt, 6),
			.stop_sequence = sqlite3_column_int64(stmt, 7),
			.received_usec = column_u64(stmt, 8),
			.pull_started_usec = column_u64(stmt, 9),
			.pull_stopped_usec = column_u64(stmt, 10),
			.execution_stopped_usec = column_u64(stmt, 11),
			.stopped_usec = column_u64(stmt, 12),
			.launched = sqlite3_column_int(stmt, 13),
			.admitted = sqlite3_column_int(stmt, 14),
		};

		result = fn(&task, userdata);
		if (result < 0)
			return result;
	}
	return r == SQLITE_DONE ? 0 : state_error(state->db, r, "read the tasks", err);
}

static void read_container(sqlite3_stmt *stmt, const char *task_arn, struct state_container *ret)
{
	*ret = (struct state_container){
		.task_arn = task_arn,
		.name = column_text(stmt, 0),
		.runtime_id = column_text(stmt, 1),
		.endpoint_id = column_text(stmt, 2),
		.desired = column_text(stmt, 3),
		.known = column_text(stmt, 4),
		.sent = column_text(stmt, 5),
		.has_exit_code = sqlite3_column_type(stmt, 6) != SQLITE_NULL,
		.exit_code = sqlite3_column_int64(stmt, 6),
		.reason = column_text(stmt, 7),
		.image_digest = column_text(stmt, 8),
		.image_id = column_text(stmt, 9),
		.address = column_text(stmt, 10),
		.bindings = column_text(stmt, 11),
		.image_config = column_text(stmt, 12),
		.layers = column_text(stmt, 13),
		.cgroup_id = column_u64(stmt, 14),
		.created_usec = column_u64(stmt, 15),
		.started_usec = column_u64(stmt, 16),
		.finished_usec = column_u64(stmt, 17),
		.restart_count = column_u64(stmt, 18),
		.managed_agent = column_text(stmt, 19),
	};
}

int state_read_containers(struct state *state, const char *task_arn, state_container_fn fn,
                          void *userdata, struct err *err)
{
	_cleanup_(sqlite3_finalizep) sqlite3_stmt *stmt = NULL;
	int r, result;

	state_wait_for_thread(state);
	r = sqlite3_prepare_v2(
		state->db,
		"SELECT name,runtime_id,endpoint_id,desired,known,sent,exit_code,reason,"
		"image_digest,image_id,address,bindings,image_config,layers,cgroup_id,"
		"created_usec,started_usec,finished_usec,restart_count,managed_agent FROM containers"
		" WHERE task_arn=? ORDER BY name",
		-1, &stmt, NULL);
	if (r == SQLITE_OK)
		r = sqlite3_bind_text(stmt, 1, task_arn, -1, SQLITE_STATIC);
	if (r != SQLITE_OK)
		return state_error(state->db, r, "read the containers", err);

	while ((r = sqlite3_step(stmt)) == SQLITE_ROW) {
		struct state_container container;

		read_container(stmt, task_arn, &container);
		result = fn(&container, userdata);
		if (result < 0)
			return result;
	}
	return r == SQLITE_DONE ? 0 : state_error(state->db, r, "read the containers", err);
}

int state_read_events(struct state *state, state_event_fn fn, void *userdata, struct err *err)
{
	_cleanup_(sqlite3_finalizep) sqlite3_stmt *stmt = NULL;
	int r, result;

	state_wait_for_thread(state);
	r = sqlite3_prepare_v2(state->db, "SELECT id,task_arn,body FROM outbox ORDER BY id", -1,
	                       &stmt, NULL);
	if (r != SQLITE_OK)
		return state_error(state->db, r, "read the outbox", err);

	while ((r = sqlite3_step(stmt)) == SQLITE_ROW) {
		result = fn(column_u64(stmt, 0), column_text(stmt, 1), column_text(stmt, 2),
		            userdata);
		if (result < 0)
			return result;
	}
	return r == SQLITE_DONE ? 0 : state_error(state->db, r, "read the outbox", err);
}
