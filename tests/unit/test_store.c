/* The store of credentials, tasks and documents. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "iam-creds/store.h"
#include "lib/json.h"

static const struct credentials_input input = {
	.id = "id-1",
	.task_id = "t1",
	.task_arn = "arn:aws:ecs:us-west-2:111122223333:task/blue/t1",
	.role_type = ROLE_TASK_APPLICATION,
	.role_arn = "arn:aws:iam::111122223333:role/app",
	.access_key_id = "ASIA1",
	.secret_access_key = "se/cret",
	.session_token = "to\"ken\\\n",
	.expiration = "2026-07-01T10:00:00Z",
};

static int set_up(void **state)
{
	return store_new((struct store **)state);
}

static int tear_down(void **state)
{
	store_free(*state);
	return 0;
}

static void test_credentials_are_the_json_that_sdks_read(void **state)
{
	const struct credentials *c;

	assert_int_equal(store_put_credentials(*state, &input, NULL), 0);
	c = store_find_credentials(*state, "id-1");
	assert_non_null(c);
	assert_string_equal(body_bytes(c->body),
	                    "{\"RoleArn\":\"arn:aws:iam::111122223333:role/app\","
	                    "\"AccessKeyId\":\"ASIA1\",\"SecretAccessKey\":\"se/cret\","
	                    "\"Token\":\"to\\\"ken\\\\\\u000a\","
	                    "\"Expiration\":\"2026-07-01T10:00:00Z\"}");
	assert_int_equal(body_len(c->body), strlen(body_bytes(c->body)));
	assert_int_equal(c->expiration_realtime_usec, 1782900000000000);
	assert_ptr_equal(c->task, store_find_task(*state, "t1"));
}

static void test_new_credentials_replace_those_of_the_same_id(void **state)
{
	struct credentials_input later = input;
	struct body *before;

	assert_int_equal(store_put_credentials(*state, &input, NULL), 0);
	before = body_ref(store_find_credentials(*state, "id-1")->body);
	assert_false(store_find_credentials(*state, "id-1")->for_mounts);
	later.access_key_id = "ASIA2";
	later.for_mounts = true;
	assert_int_equal(store_put_credentials(*state, &later, NULL), 0);
	assert_non_null(strstr(body_bytes(store_find_credentials(*state, "id-1")->body), "ASIA2"));
	assert_true(store_find_credentials(*state, "id-1")->for_mounts);
	assert_null(store_credentials_at(*state, 1));
	/* A connection that still sends the old ones keeps them. */
	assert_non_null(strstr(body_bytes(before), "ASIA1"));
	body_unref(before);
}

static void test_bad_credentials_are_refused_without_their_values(void **state)
{
	static char long_value[STORE_VALUE_MAX + 2], long_id[STORE_ID_MAX + 2];
	struct credentials_input cases[9];
	static const char *const says[] = {"credentialsId",   "credentialsId", "credentialsId",
	                                   "secretAccessKey", "expiration",    "taskId",
	                                   "taskId",          "sessionToken",  "forMounts"};

	memset(long_value, 'x', sizeof(long_value) - 1);
	memset(long_id, 'x', sizeof(long_id) - 1);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		cases[i] = input;
	cases[0].id = "";
	cases[1].id = "a b";
	cases[2].id = long_id;
	cases[3].secret_access_key = "";
	cases[4].expiration = "soon";
	cases[5].task_id = NULL;
	cases[6].role_type = ROLE_INSTANCE;
	cases[7].session_token = long_value;
	cases[8].role_type = ROLE_TASK_EXECUTION;
	cases[8].for_mounts = true;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct err err = {0};

		print_message("row %zu\n", i);
		assert_int_equal(store_put_credentials(*state, &cases[i], &err), -EINVAL);
		assert_non_null(strstr(err.text, says[i]));
		assert_null(strstr(err.text, "se/cret"));
	}
	assert_null(store_credentials_at(*state, 0));
}

static void test_each_of_many_credentials_is_found(void **state)
{
	struct credentials_input in = input;
	struct err err = {0};
	char id[16];

	in.id = id;
	for (int i = 0; i < STORE_CREDENTIALS_MAX; i++) {
		/* 1597 has no factor in common with the count: every id once, in no order. */
		snprintf(id, sizeof(id), "id%d", i * 1597 % STORE_CREDENTIALS_MAX);
		assert_int_equal(store_put_credentials(*state, &in, NULL), 0);
	}
	assert_int_equal(store_put_credentials(*state, &in, NULL), 0); /* replaces */
	snprintf(id, sizeof(id), "more");
	assert_int_equal(store_put_credentials(*state, &in, &err), -ENOSPC);
	assert_non_null(strstr(err.text, "credentials"));
	for (int i = 0; i < STORE_CREDENTIALS_MAX; i += 2) {
		snprintf(id, sizeof(id), "id%d", i);
		assert_int_equal(store_remove_credentials(*state, id, NULL), 0);
	}
	for (int i = 0; i < STORE_CREDENTIALS_MAX; i++) {
		const struct credentials *c;

		snprintf(id, sizeof(id), "id%d", i);
		c = store_find_credentials(*state, id);
		if (i % 2 == 0)
			assert_null(c);
		else
			assert_string_equal(c->id, id);
	}
}

static void test_removed_credentials_are_unknown(void **state)
{
	assert_int_equal(store_put_credentials(*state, &input, NULL), 0);
	assert_int_equal(store_remove_credentials(*state, "id-1", NULL), 0);
	assert_null(store_find_credentials(*state, "id-1"));
	assert_int_equal(store_remove_credentials(*state, "id-1", NULL), -ENOENT);
}

static void test_release_keeps_the_execution_role_unless_all_is_asked(void **state)
{
	struct credentials_input execution = input;
	struct container *container;
	struct task *task;

	execution.id = "id-2";
	execution.role_type = ROLE_TASK_EXECUTION;
	assert_int_equal(store_put_credentials(*state, &input, NULL), 0);
	assert_int_equal(store_put_credentials(*state, &execution, NULL), 0);
	assert_int_equal(store_get_container(*state, "t1", "app", &container, NULL), 0);
	assert_int_equal(store_set_cgroup(*state, container, 77, NULL), 0);
	container_ref(container); /* a connection */
	task = container->task;

	store_release(*state, "t1", false);
	assert_true(task->released);
	assert_null(store_find_cgroup(*state, 77));
	assert_null(store_find_credentials(*state, "id-1"));
	assert_non_null(store_find_credentials(*state, "id-2"));
	assert_ptr_not_equal(store_find_credentials(*state, "id-2")->task, task);
	container_unref(container);

	store_release(*state, "t1", true);
	assert_null(store_find_credentials(*state, "id-2"));
	assert_null(store_find_task(*state, "t1"));
	store_release(*state, "t1", true); /* safe to repeat */
}

static int put_execution_role(struct store *store, const char *task)
{
	struct credentials_input execution = input;
	struct err err = {0};
	char id[64];
	int r;

	snprintf(id, sizeof(id), "role-of-%s", task);
	execution.id = id;
	execution.task_id = task;
	execution.role_type = ROLE_TASK_EXECUTION;
	r = store_put_credentials(store, &execution, &err);
	assert_true(r == 0 || strstr(err.text, "tasks"));
	return r;
}

/* Those that wait for their logs to be delivered, when there are as many as there may be tasks. */
static void test_ended_tasks_make_room_for_new_ones_the_first_ended_first(void **state)
{
	char name[32];

	for (int i = 0; i < STORE_TASKS_MAX; i++) {
		snprintf(name, sizeof(name), "task%d", i);
		assert_int_equal(put_execution_role(*state, name), 0);
	}
	assert_int_equal(put_execution_role(*state, "new"), -ENOSPC); /* all of them live */

	store_release(*state, "task9", false);
	store_release(*state, "task0", false);
	store_release(*state, "task7", false);
	assert_int_equal(put_execution_role(*state, "new"), 0);
	assert_null(store_find_task(*state, "task9"));
	assert_null(store_find_credentials(*state, "role-of-task9"));
	assert_non_null(store_find_credentials(*state, "role-of-new"));

	store_release(*state, "task0", false); /* it counts from its last release */
	assert_int_equal(put_execution_role(*state, "other"), 0);
	assert_null(store_find_credentials(*state, "role-of-task7"));
	assert_non_null(store_find_credentials(*state, "role-of-task0"));
	assert_int_equal(put_execution_role(*state, "last"), 0);
	assert_int_equal(put_execution_role(*state, "more"), -ENOSPC);
	for (int i = 1; i < STORE_TASKS_MAX; i++) {
		snprintf(name, sizeof(name), "role-of-task%d", i);
		assert_true(i == 7 || i == 9 || store_find_credentials(*state, name));
	}
}

static int put_documents(struct store *store, const char *task, const char *json, struct err *err)
{
	_cleanup_json_ struct json_object *object = NULL;

	assert_int_equal(json_parse_object(json, strlen(json), strlen(json), &object, NULL), 0);
	return store_set_documents(store, task, object, err);
}

static void test_documents_are_answered_as_they_came(void **state)
{
	struct body *body;

	assert_int_equal(
		put_documents(*state, "t1",
	                      "{\"/v4/b\":{\"z\":1,\"a\":\"x/y\",\"n\":0.10},\"/v4/a\":null}",
	                      NULL),
		0);
	body = task_find_document(store_find_task(*state, "t1"), "/v4/b");
	assert_non_null(body);
	assert_string_equal(body_bytes(body), "{\"z\":1,\"a\":\"x/y\",\"n\":0.10}");
	assert_string_equal(body_bytes(task_find_document(store_find_task(*state, "t1"), "/v4/a")),
	                    "null");
	assert_null(task_find_document(store_find_task(*state, "t1"), "/v4/"));
	assert_int_equal(put_documents(*state, "t1", "{\"/v4/c\":{}}", NULL), 0);
	assert_null(task_find_document(store_find_task(*state, "t1"), "/v4/b"));
}

static void test_documents_with_bad_paths_or_too_many_bytes_leave_the_earlier_ones(void **state)
{
	_cleanup_free_ char *big = malloc(STORE_DOCUMENT_BYTES_MAX + 64);
	struct err err = {0};

	assert_non_null(big);
	assert_int_equal(put_documents(*state, "t1", "{\"/v4/c\":{}}", NULL), 0);
	assert_int_equal(put_documents(*state, "t1", "{\"/ok\":{},\"v4/c\":{}}", &err), -EINVAL);
	assert_non_null(strstr(err.text, "v4/c"));

	strcpy(big, "{\"/x\":\"");
	memset(big + 7, 'x', STORE_DOCUMENT_BYTES_MAX);
	strcpy(big + 7 + STORE_DOCUMENT_BYTES_MAX, "\"}");
	assert_int_equal(put_documents(*state, "t1", big, &err), -ENOSPC);
	assert_non_null(task_find_document(store_find_task(*state, "t1"), "/v4/c"));
}

static void test_each_ceiling_is_named(void **state)
{
	struct container *container;
	struct err err = {0};
	char name[32];

	for (int i = 0; i < STORE_CONTAINERS_MAX; i++) {
		snprintf(name, sizeof(name), "c%d", i);
		assert_int_equal(store_get_container(*state, "t1", name, &container, NULL), 0);
	}
	assert_int_equal(store_get_container(*state, "t1", "more", &container, &err), -ENOSPC);
	assert_non_null(strstr(err.text, "containers"));
	assert_int_equal(store_get_container(*state, "t1", "c0", &container, NULL), 0);

	for (int i = 1; i < STORE_TASKS_MAX; i++) {
		snprintf(name, sizeof(name), "task%d", i);
		assert_int_equal(store_get_container(*state, name, "c", &container, NULL), 0);
	}
	assert_int_equal(store_get_container(*state, "more", "c", &container, &err), -ENOSPC);
	assert_non_null(strstr(err.text, "tasks"));
}

static void test_a_cgroup_belongs_to_the_container_that_was_named_last(void **state)
{
	struct container *a, *b;

	assert_int_equal(store_get_container(*state, "t1", "a", &a, NULL), 0);
	assert_int_equal(store_get_container(*state, "t2", "b", &b, NULL), 0);
	assert_int_equal(store_set_cgroup(*state, a, 7, NULL), 0);
	assert_int_equal(store_set_cgroup(*state, b, 7, NULL), 0);
	assert_ptr_equal(store_find_cgroup(*state, 7), b);
	assert_int_equal(store_set_cgroup(*state, b, 0, NULL), -EINVAL);
	assert_null(store_find_cgroup(*state, 0));
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		CASE(test_credentials_are_the_json_that_sdks_read),
		CASE(test_new_credentials_replace_those_of_the_same_id),
		CASE(test_bad_credentials_are_refused_without_their_values),
		CASE(test_each_of_many_credentials_is_found),
		CASE(test_removed_credentials_are_unknown),
		CASE(test_release_keeps_the_execution_role_unless_all_is_asked),
		CASE(test_ended_tasks_make_room_for_new_ones_the_first_ended_first),
		CASE(test_documents_are_answered_as_they_came),
		CASE(test_documents_with_bad_paths_or_too_many_bytes_leave_the_earlier_ones),
		CASE(test_each_ceiling_is_named),
		CASE(test_a_cgroup_belongs_to_the_container_that_was_named_last),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
