/* Rows of the store to JSON and back, by tables of their columns. */
#include "agent/engine/record.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "lib/json.h"

enum kind {
	KIND_TEXT, /* may be absent */
	KIND_NAME, /* text that must be there */
	KIND_U64,
	KIND_I64,
	KIND_BOOL,
};

struct column {
	const char *name;
	enum kind kind;
	size_t offset;
};

#define TASK(column_name, column_kind)                                                             \
	{                                                                                          \
#		column_name, column_kind, offsetof(struct state_task, column_name)                \
	}
#define CONTAINER(column_name, column_kind)                                                        \
	{                                                                                          \
#		column_name, column_kind, offsetof(struct state_container, column_name)           \
	}

static const struct column task_columns[] = {
	TASK(arn, KIND_NAME),
	TASK(document, KIND_NAME),
	TASK(desired, KIND_NAME),
	TASK(known, KIND_NAME),
	TASK(reason, KIND_TEXT),
	TASK(sequence, KIND_U64),
	TASK(stop_sequence, KIND_I64),
	TASK(received_usec, KIND_U64),
	TASK(pull_started_usec, KIND_U64),
	TASK(pull_stopped_usec, KIND_U64),
	TASK(execution_stopped_usec, KIND_U64),
	TASK(stopped_usec, KIND_U64),
	TASK(launched, KIND_BOOL),
	TASK(admitted, KIND_BOOL),
};

/* "exit_code" is there only when it is known. */
static const struct column container_columns[] = {
	CONTAINER(name, KIND_NAME),          CONTAINER(runtime_id, KIND_TEXT),
	CONTAINER(endpoint_id, KIND_TEXT),   CONTAINER(desired, KIND_NAME),
	CONTAINER(known, KIND_NAME),         CONTAINER(reason, KIND_TEXT),
	CONTAINER(image_digest, KIND_TEXT),  CONTAINER(image_id, KIND_TEXT),
	CONTAINER(address, KIND_TEXT),       CONTAINER(bindings, KIND_TEXT),
	CONTAINER(image_config, KIND_TEXT),  CONTAINER(layers, KIND_TEXT),
	CONTAINER(managed_agent, KIND_TEXT), CONTAINER(cgroup_id, KIND_U64),
	CONTAINER(created_usec, KIND_U64),   CONTAINER(started_usec, KIND_U64),
	CONTAINER(finished_usec, KIND_U64),
};

const char *const record_instance_keys[] = {
	"cluster",       "container-instance-arn", "ec2-instance-id", "machine-id",
	"agent-version", "task-manifest-seq-num",  "port-cursor",
};
const size_t record_n_instance_keys = ARRAY_SIZE(record_instance_keys);

#define FIELD(type, row, column) (*(type *)((char *)(row) + (column)->offset))

static int columns_add(struct json_object *obj, const struct column *columns, size_t n,
                       const void *row)
{
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++) {
		const struct column *column = &columns[i];
		const char *text;

		switch (column->kind) {
		case KIND_TEXT:
		case KIND_NAME:
			text = FIELD(const char *const, row, column);
			r = text ? json_add_string(obj, column->name, text) : 0;
			break;
		case KIND_U64:
			r = json_add_u64(obj, column->name, FIELD(const uint64_t, row, column));
			break;
		case KIND_I64:
			r = json_add_i64(obj, column->name, FIELD(const int64_t, row, column));
			break;
		case KIND_BOOL:
			r = json_add_bool(obj, column->name, FIELD(const bool, row, column));
			break;
		}
	}
	return r;
}

static int columns_get(struct json_object *obj, const struct column *columns, size_t n, void *row,
                       struct err *err)
{
	int r = 0;

	for (size_t i = 0; i < n && r == 0; i++) {
		const struct column *column = &columns[i];
		const char *name = column->name;

		switch (column->kind) {
		case KIND_TEXT:
			r = json_optional(
				json_get_string(obj, name, &FIELD(const char *, row, column), err));
			break;
		case KIND_NAME:
			r = json_get_string(obj, name, &FIELD(const char *, row, column), err);
			break;
		case KIND_U64:
			r = json_get_u64(obj, name, INT64_MAX, &FIELD(uint64_t, row, column), err);
			break;
		case KIND_I64:
			r = json_get_i64(obj, name, INT64_MIN, INT64_MAX,
			                 &FIELD(int64_t, row, column), err);
			break;
		case KIND_BOOL:
			r = json_get_bool(obj, name, &FIELD(bool, row, column), err);
			break;
		}
	}
	return r < 0 ? -EINVAL : 0;
}

struct json_object *record_new(uint64_t time_realtime_usec)
{
	_cleanup_json_ struct json_object *record = json_object_new_object();

	if (!record || json_add_i64(record, "version", RECORD_VERSION) < 0 ||
	    json_add_u64(record, "time", time_realtime_usec) < 0 ||
	    json_add(record, "instance", json_object_new_object()) < 0 ||
	    json_add(record, "containers", json_object_new_array()) < 0)
		return NULL;
	return TAKE_PTR(record);
}

int record_set_instance(struct json_object *record, const char *key, const char *value)
{
	return json_add_string(json_get(record, "instance"), key, value);
}

int record_set_task(struct json_object *record, const struct state_task *row)
{
	struct json_object *task = json_object_new_object();

	if (!task || columns_add(task, task_columns, ARRAY_SIZE(task_columns), row) < 0) {
		json_object_put(task);
		return -ENOMEM;
	}
	return json_add(record, "task", task);
}

int record_add_container(struct json_object *record, const struct state_container *row)
{
	struct json_object *container = json_object_new_object();

	if (!container ||
	    columns_add(container, container_columns, ARRAY_SIZE(container_columns), row) < 0 ||
	    (row->has_exit_code && json_add_i64(container, "exit_code", row->exit_code) < 0) ||
	    json_add_u64(container, "restart_count", row->restart_count) < 0) {
		json_object_put(container);
		return -ENOMEM;
	}
	return json_append(json_get(record, "containers"), container);
}

int record_get_task(struct json_object *record, struct state_task *ret, struct err *err)
{
	struct json_object *containers, *task;
	struct state_task row = {.sent = "NONE"};
	int64_t version = 0;
	int r;

	r = json_get_i64(record, "version", 0, INT64_MAX, &version, err);
	if (r == 0 && version != RECORD_VERSION)
		return err_text(err, -EINVAL, "it is of version %lld", (long long)version);
	if (r == 0)
		r = json_get_array(record, "containers", &containers, err);
	if (r == 0)
		r = json_get_object(record, "task", &task, err);
	if (r == 0)
		r = columns_get(task, task_columns, ARRAY_SIZE(task_columns), &row, err);
	if (r < 0)
		return -EINVAL;
	*ret = row;
	return 0;
}

struct json_object *record_containers(struct json_object *record)
{
	return json_get(record, "containers");
}

int record_get_container(struct json_object *element, const char *task_arn,
                         struct state_container *ret, struct err *err)
{
	struct state_container row = {.task_arn = task_arn, .sent = "NONE"};
	int r;

	if (!json_object_is_type(element, json_type_object))
		return err_text(err, -EINVAL, "a container is no object");
	r = columns_get(element, container_columns, ARRAY_SIZE(container_columns), &row, err);
	if (r < 0)
		return r;
	r = json_get_i64(element, "exit_code", 0, 255, &row.exit_code, err);
	if (r < 0 && r != -ENOENT)
		return -EINVAL;
	row.has_exit_code = r == 0;
	/* Older versions have restarted nothing. */
	r = json_get_u64(element, "restart_count", INT64_MAX, &row.restart_count, err);
	if (r < 0 && r != -ENOENT)
		return -EINVAL;
	*ret = row;
	return 0;
}

const char *record_instance(struct json_object *record, const char *key)
{
	return json_text(json_get(record, "instance"), key);
}

uint64_t record_time(struct json_object *record)
{
	uint64_t time = 0;

	(void)json_get_u64(record, "time", INT64_MAX, &time, NULL);
	return time;
}
