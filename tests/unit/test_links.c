/* Links: order, /etc/hosts and the variables that Docker makes of them. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/engine/links.h"
#include "agent/engine/spec.h"
#include "agent/engine/task_parse.h"
#include "lib/json.h"

#define ARN "arn:aws:ecs:us-west-2:111122223333:task/blue/70947c96f64e483a612a3fd4303546e7"

static const struct spec_options options = {.cluster = "blue"};

static struct json_object *parse(const char *text)
{
	struct json_object *obj = NULL;
	struct err err = {0};

	if (json_parse_object(text, strlen(text), 100000, &obj, &err) < 0)
		fail_msg("%s in %s", err.text, text);
	return obj;
}

/* "web" with these members, and "db", which runs at 172.29.0.5 and has these. */
static struct task *make_task(const char *web, const char *db, const char *db_image)
{
	static const struct task_policy policy = {0};
	_cleanup_json_ struct json_object *obj = NULL;
	struct task *task = NULL;
	struct err err = {0};
	char text[4000];

	snprintf(text, sizeof(text),
	         "{\"arn\":\"" ARN "\",\"family\":\"shop\",\"version\":\"7\",\"containers\":["
	         "{%s\"name\":\"web\",\"image\":\"w\"},{%s\"name\":\"d_b\",\"image\":\"d\"}]}",
	         web, db);
	obj = parse(text);
	if (task_parse(obj, &policy, &task, &err) < 0)
		fail_msg("%s in %s", err.text, text);
	for (size_t i = 0; i < 2; i++) {
		struct container *c = &task->containers[i];

		memset(c->runtime_id, i == 0 ? 'a' : 'b', 64);
		c->image_config = parse(i == 0 ? "{\"Cmd\":[\"x\"]}" : db_image);
		c->layers = json_object_new_array();
	}
	task->containers[1].known = TASK_STATUS_RUNNING;
	strcpy(task->containers[1].address, "172.29.0.5");
	return task;
}

static struct json_object *spec(const struct task *task)
{
	struct json_object *obj = NULL;
	struct err err = {0};

	if (spec_container(task, &task->containers[0], &options, &obj, &err) < 0)
		fail_msg("%s", err.text);
	return obj;
}

/* The value of a variable of the process, NULL if there is none of it. */
static const char *variable(struct json_object *obj, const char *name)
{
	struct json_object *env = json_get(json_get(json_get(obj, "config"), "process"), "env");

	for (size_t i = 0; i < json_object_array_length(env); i++) {
		const char *entry = json_object_get_string(json_object_array_get_idx(env, i));

		if (strncmp(entry, name, strlen(name)) == 0 && entry[strlen(name)] == '=')
			return entry + strlen(name) + 1;
	}
	return NULL;
}

static void test_a_link_is_a_dependency_unless_there_is_one(void **state)
{
	static const struct {
		const char *members;
		enum dependency_condition condition;
	} cases[] = {
		{"\"links\":[\"d_b\"],", DEPENDENCY_START},
		{"\"links\":[\"d_b:x\",\"d_b:y\"],", DEPENDENCY_START},
		{"\"links\":[\"d_b\"],\"dependsOn\":[{\"containerName\":\"d_b\","
	         "\"condition\":\"COMPLETE\"}],",
	         DEPENDENCY_COMPLETE},
		{"\"links\":[\"d_b\"],\"volumesFrom\":[{\"sourceContainer\":\"d_b\"}],",
	         DEPENDENCY_START},
		{"\"volumesFrom\":[{\"sourceContainer\":\"d_b\"}],", DEPENDENCY_CREATE},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_(task_freep) struct task *task = make_task(cases[i].members, "", "{}");

		assert_int_equal(task->containers[0].n_dependencies, 1);
		assert_string_equal(task->containers[0].dependencies[0].container, "d_b");
		assert_int_equal(task->containers[0].dependencies[0].condition, cases[i].condition);
	}
}

static void test_hosts_have_alias_host_name_and_name(void **state)
{
	_cleanup_(task_freep) struct task *plain =
		make_task("\"links\":[\"d_b\",\"d_b:data-base\"],", "", "{}");
	_cleanup_(task_freep) struct task *named = make_task(
		"\"links\":[\"d_b:x\"],",
		"\"dockerConfig\":{\"config\":\"{\\\"Hostname\\\":\\\"store\\\"}\"},", "{}");
	_cleanup_(task_freep) struct task *none = make_task("", "", "{}");
	_cleanup_json_ struct json_object *plain_spec = spec(plain), *named_spec = spec(named),
					  *none_spec = spec(none);

	(void)state;
	assert_string_equal(
		json_to_text(json_get(plain_spec, "linkedHosts"), NULL),
		"[\"172.29.0.5 d_b bbbbbbbbbbbb ecs-shop-7-db-bbbbbbbbbbbbbbbbbbbb\","
		"\"172.29.0.5 data-base bbbbbbbbbbbb ecs-shop-7-db-bbbbbbbbbbbbbbbbbbbb\"]");
	assert_string_equal(json_to_text(json_get(named_spec, "linkedHosts"), NULL),
	                    "[\"172.29.0.5 x store ecs-shop-7-db-bbbbbbbbbbbbbbbbbbbb\"]");
	assert_null(json_get(none_spec, "linkedHosts"));
}

static void test_variables_are_those_of_docker(void **state)
{
	static const struct {
		const char *name, *value;
	} cases[] = {
		{"DATA_BASE_NAME", "/ecs-shop-7-web-aaaaaaaaaaaaaaaaaaaa/data-base"},
		{"DATA_BASE_PORT", "tcp://172.29.0.5:53"},
		{"DATA_BASE_PORT_53_TCP", "tcp://172.29.0.5:53"},
		{"DATA_BASE_PORT_53_UDP", "udp://172.29.0.5:53"},
		{"DATA_BASE_PORT_53_UDP_PROTO", "udp"},
		{"DATA_BASE_PORT_5432_TCP", "tcp://172.29.0.5:5432"},
		{"DATA_BASE_PORT_5432_TCP_ADDR", "172.29.0.5"},
		{"DATA_BASE_PORT_5432_TCP_PORT", "5432"},
		{"DATA_BASE_PORT_5432_TCP_PROTO", "tcp"},
		{"DATA_BASE_PORT_8080_TCP", "tcp://172.29.0.5:8080"}, /* of its definition */
		{"DATA_BASE_PORT_99_TCP", NULL},
		{"DATA_BASE_ENV_A", "definition"},
		{"DATA_BASE_ENV_B", "image=2"},
		{"DATA_BASE_ENV_PATH", NULL},
		{"DATA_BASE_ENV_HOME", NULL},
		{"DATA_BASE_ENV_ECS_CONTAINER_METADATA_URI", NULL},
		{"DATA_BASE_ENV_C", "own"}, /* what the definition sets itself counts */
	};
	_cleanup_(task_freep) struct task *task = make_task(
		"\"links\":[\"d_b:data-base\"],\"environment\":{\"DATA_BASE_ENV_C\":\"own\"},",
		"\"environment\":{\"A\":\"definition\",\"C\":\"its\",\"HOME\":\"/h\"},"
		"\"portMappings\":[{\"containerPort\":5432}],"
		"\"dockerConfig\":{\"config\":\"{\\\"ExposedPorts\\\":{\\\"8080/tcp\\\":{}}}\"},",
		"{\"Env\":[\"A=image\",\"B=image=1\",\"B=image=2\",\"PATH=/p\"],"
		"\"ExposedPorts\":{\"5432/tcp\":{},\"53/udp\":{},\"53\":{},\"99/x\":{},\"0\":{},"
		"\"70000/tcp\":{},\"\":{},\"x/tcp\":{}}}");
	_cleanup_json_ struct json_object *obj = spec(task);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const char *value = variable(obj, cases[i].name);

		if (!value != !cases[i].value || (value && strcmp(value, cases[i].value) != 0))
			fail_msg("%s is '%s', not '%s'", cases[i].name, value ? value : "(none)",
			         cases[i].value ? cases[i].value : "(none)");
	}
}

static void test_what_does_not_run_cannot_be_linked_to(void **state)
{
	_cleanup_(task_freep) struct task *task = make_task("\"links\":[\"d_b\"],", "", "{}");
	struct json_object *obj = NULL;
	struct err err = {0};

	(void)state;
	task->containers[1].known = TASK_STATUS_STOPPED;
	assert_int_equal(spec_container(task, &task->containers[0], &options, &obj, &err),
	                 -ENOTCONN);
	assert_string_equal(err.name, "CannotStartContainerError");
	assert_non_null(strstr(err.text, "cannot link to container d_b"));
}

static void test_an_image_cannot_make_more_variables_than_fit(void **state)
{
	_cleanup_(task_freep) struct task *task = make_task("\"links\":[\"d_b\"],", "", "{}");
	struct json_object *obj = NULL, *ports = json_object_new_object();
	struct err err = {0};
	char key[16];

	(void)state;
	for (int i = 1; i <= 257; i++) {
		snprintf(key, sizeof(key), "%d/tcp", i);
		assert_int_equal(json_add(ports, key, json_object_new_object()), 0);
	}
	assert_int_equal(json_add(task->containers[1].image_config, "ExposedPorts", ports), 0);
	assert_int_equal(spec_container(task, &task->containers[0], &options, &obj, &err), -E2BIG);
	assert_non_null(strstr(err.text, "256"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_link_is_a_dependency_unless_there_is_one),
		cmocka_unit_test(test_hosts_have_alias_host_name_and_name),
		cmocka_unit_test(test_variables_are_those_of_docker),
		cmocka_unit_test(test_what_does_not_run_cannot_be_linked_to),
		cmocka_unit_test(test_an_image_cannot_make_more_variables_than_fit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
