/* What a record carries: every column there and back. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <string.h>

#include "agent/engine/record.h"
#include "lib/json.h"

#define ARN "arn:aws:ecs:us-west-2:111122223333:task/blue/aa"

static const struct state_task task_row = {
	.arn = ARN,
	.document = "{\"a\":\"\\u0001 \\\" \303\244\"}",
	.desired = "RUNNING",
	.known = "CREATED",
	.sent = "NONE", /* everything is to be reported again */
	.reason = "why",
	.sequence = 1,
	.stop_sequence = -2,
	.received_usec = 3,
	.pull_started_usec = 4,
	.pull_stopped_usec = 5,
	.execution_stopped_usec = 6,
	.stopped_usec = INT64_MAX,
	.launched = true,
	.admitted = true,
};

static const struct state_container container_row = {
	.task_arn = ARN,
	.name = "app",
	.runtime_id = "r",
	.endpoint_id = "e",
	.desired = "STOPPED",
	.known = "RUNNING",
	.sent = "NONE",
	.has_exit_code = true,
	.exit_code = 255,
	.reason = "x: y",
	.image_digest = "sha256:1",
	.image_id = "sha256:2",
	.address = "172.29.0.2",
	.bindings = "[]",
	.image_config = "{}",
	.layers = "[\"l\"]",
	.managed_agent = "{\"status\":\"RUNNING\"}",
	.cgroup_id = 7,
	.created_usec = 8,
	.started_usec = 9,
	.finished_usec = 10,
	.restart_count = 11,
};

/* A record as it comes back: through text. */
static struct json_object *carry(struct json_object *record)
{
	struct json_object *back = NULL;
	const char *text;
	size_t len;

	text = json_to_text(record, &len);
	assert_int_equal(json_parse_object(text, len, len, &back, NULL), 0);
	json_object_put(record);
	return back;
}

static struct json_object *make_record(void)
{
	struct json_object *record = record_new(42);

	assert_non_null(record);
	assert_int_equal(record_set_task(record, &task_row), 0);
	assert_int_equal(record_add_container(record, &container_row), 0);
	assert_int_equal(record_set_instance(record, "cluster", "blue"), 0);
	return carry(record);
}

static bool same_text(const char *a, const char *b)
{
	return a && b ? strcmp(a, b) == 0 : a == b;
}

static void test_every_column_comes_back(void **state)
{
	_cleanup_json_ struct json_object *record = make_record();
	struct state_container c;
	struct state_task t;

	(void)state;
	assert_int_equal(record_get_task(record, &t, NULL), 0);
	assert_true(same_text(t.arn, task_row.arn) && same_text(t.document, task_row.document) &&
	            same_text(t.desired, task_row.desired) && same_text(t.known, task_row.known) &&
	            same_text(t.sent, task_row.sent) && same_text(t.reason, task_row.reason));
	assert_true(t.sequence == 1 && t.stop_sequence == -2 && t.received_usec == 3 &&
	            t.pull_started_usec == 4 && t.pull_stopped_usec == 5 &&
	            t.execution_stopped_usec == 6 && t.stopped_usec == INT64_MAX && t.launched &&
	            t.admitted);

	assert_int_equal(json_object_array_length(record_containers(record)), 1);
	assert_int_equal(
		record_get_container(json_object_array_get_idx(record_containers(record), 0), t.arn,
	                             &c, NULL),
		0);
	assert_true(same_text(c.task_arn, ARN) && same_text(c.name, "app") &&
	            same_text(c.runtime_id, "r") && same_text(c.endpoint_id, "e") &&
	            same_text(c.desired, "STOPPED") && same_text(c.known, "RUNNING") &&
	            same_text(c.sent, "NONE") && same_text(c.reason, "x: y"));
	assert_true(same_text(c.image_digest, "sha256:1") && same_text(c.image_id, "sha256:2") &&
	            same_text(c.address, "172.29.0.2") && same_text(c.bindings, "[]") &&
	            same_text(c.image_config, "{}") && same_text(c.layers, "[\"l\"]") &&
	            same_text(c.managed_agent, container_row.managed_agent));
	assert_true(c.has_exit_code && c.exit_code == 255 && c.cgroup_id == 7 &&
	            c.created_usec == 8 && c.started_usec == 9 && c.finished_usec == 10 &&
	            c.restart_count == 11);

	assert_string_equal(record_instance(record, "cluster"), "blue");
	assert_null(record_instance(record, "ec2-instance-id"));
	assert_int_equal(record_time(record), 42);
}

static void test_what_is_unknown_stays_unknown(void **state)
{
	struct state_container row = {.name = "app", .desired = "NONE", .known = "NONE"}, back;
	_cleanup_json_ struct json_object *record = record_new(1);

	(void)state;
	assert_int_equal(record_add_container(record, &row), 0);
	record = carry(record);
	assert_int_equal(
		record_get_container(json_object_array_get_idx(record_containers(record), 0), ARN,
	                             &back, NULL),
		0);
	assert_false(back.has_exit_code);
	assert_null(back.reason);
	assert_null(back.image_config);
}

static void test_record_that_is_not_one_of_ours_is_refused(void **state)
{
	static const struct {
		const char *member; /* of the record, or of its task */
		bool of_task;
		const char *value; /* JSON; NULL: removed */
	} cases[] = {
		{"version", false, "2"},
		{"version", false, NULL},
		{"task", false, "[]"},
		{"task", false, NULL},
		{"containers", false, "{}"},
		{"containers", false, NULL},
		{"arn", true, NULL},
		{"arn", true, "1"},
		{"document", true, NULL},
		{"sequence", true, "-1"},
		{"sequence", true, "\"1\""},
		{"launched", true, "1"},
		{"known", true, "\"a\\u0000b\""},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_json_ struct json_object *record = make_record();
		struct json_object *obj = cases[i].of_task ? json_get(record, "task") : record;
		struct json_object *value = NULL;
		struct state_task task;
		struct err err = {0};

		json_object_object_del(obj, cases[i].member);
		if (cases[i].value) {
			value = json_tokener_parse(cases[i].value);
			assert_int_equal(json_object_object_add(obj, cases[i].member, value), 0);
		}
		if (record_get_task(record, &task, &err) != -EINVAL || err.text[0] == '\0')
			fail_msg("%s: %s", cases[i].member, cases[i].value ? cases[i].value : "-");
	}
}

static void test_members_of_a_later_version_are_let_be(void **state)
{
	_cleanup_json_ struct json_object *record = make_record();
	struct state_task task;

	(void)state;
	assert_int_equal(json_add_string(record, "later", "x"), 0);
	assert_int_equal(json_add_string(json_get(record, "task"), "colour", "blue"), 0);
	assert_int_equal(record_get_task(record, &task, NULL), 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_column_comes_back),
		cmocka_unit_test(test_what_is_unknown_stays_unknown),
		cmocka_unit_test(test_record_that_is_not_one_of_ours_is_refused),
		cmocka_unit_test(test_members_of_a_later_version_are_let_be),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
