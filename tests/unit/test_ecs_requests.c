/* agent/ecs: the bodies of requests, and the reading of errors. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/ecs/ecs.h"
#include "agent/ecs/registration_request.h"
#include "lib/json.h"

static bool has_attribute(struct json_object *body, const char *name)
{
	struct json_object *attributes = json_get(body, "attributes");

	for (size_t i = 0; i < json_object_array_length(attributes); i++)
		if (strcmp(json_text(json_object_array_get_idx(attributes, i), "name"), name) == 0)
			return true;
	return false;
}

/* The request of a node whose settings change may touch first. */
static struct json_object *registration(void (*change)(struct config *config),
                                        struct node_facts facts, const char *arn, int want)
{
	static const struct instance no_instance;
	const struct node_resources resources = {.cpus = 3, .memory_bytes = 2048ULL << 20};
	_cleanup_(config_freep) struct config *config = NULL;
	struct registration_request request = {.instance = &no_instance,
	                                       .facts = &facts,
	                                       .resources = &resources,
	                                       .container_instance_arn = arn,
	                                       .client_token = "token"};
	struct json_object *body = NULL;

	assert_int_equal(config_load("/nonexistent/ecs.config", &config, NULL), 0);
	if (change)
		change(config);
	request.config = config;
	assert_int_equal(registration_request_to_json(&request, &body, NULL), want);
	return body;
}

static void turn_everything_on(struct config *config)
{
	config->task_iam_role = config->task_iam_role_network_host = true;
	config->awslogs_execution_role = true;
	config->apparmor_capable = config->selinux_capable = true;
}

static void turn_everything_off(struct config *config)
{
	config->privileged_disabled = true;
	config->task_cpu_mem_limit = false;
}

static void reserve_too_much(struct config *config)
{
	config->reserved_memory_mib = 2049;
}

static void test_capabilities_follow_settings_and_facts(void **state)
{
	static const char *const conditional[] = {
		"com.amazonaws.ecs.capability.task-iam-role",
		"com.amazonaws.ecs.capability.task-iam-role-network-host",
		"ecs.capability.execution-role-awslogs",
		"ecs.capability.task-cpu-mem-limit",
		"ecs.capability.increased-task-cpu-limit",
		"com.amazonaws.ecs.capability.privileged-container",
		"ecs.capability.execute-command",
		"com.amazonaws.ecs.capability.apparmor",
		"com.amazonaws.ecs.capability.selinux",
	};
	static const char *const never[] = {
		"ecs.capability.task-eni",
		"ecs.capability.secrets.ssm.environment-variables",
		"ecs.capability.efsAuth",
		"com.amazonaws.ecs.capability.docker-remote-api.1.26",
		"com.amazonaws.ecs.capability.logging-driver.syslog",
	};
	_cleanup_json_ struct json_object *on =
		registration(turn_everything_on,
	                     (struct node_facts){.task_cgroups = true,
	                                         .execute_command = true,
	                                         .apparmor = true,
	                                         .selinux = true},
	                     NULL, 0);
	_cleanup_json_ struct json_object *off = registration(
		turn_everything_off,
		(struct node_facts){.task_cgroups = true, .apparmor = true, .selinux = true}, NULL,
		0);
	_cleanup_json_ struct json_object *efs_utils =
		registration(NULL, (struct node_facts){.efs_utils = true}, NULL, 0);
	_cleanup_json_ struct json_object *no_cgroups =
		registration(turn_everything_on, (struct node_facts){0}, NULL, 0);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(conditional); i++)
		if (!has_attribute(on, conditional[i]) || has_attribute(off, conditional[i]))
			fail_msg("%s", conditional[i]);
	for (size_t i = 0; i < ARRAY_SIZE(never); i++)
		if (has_attribute(on, never[i]) || has_attribute(off, never[i]))
			fail_msg("%s", never[i]);
	assert_false(has_attribute(no_cgroups, "ecs.capability.task-cpu-mem-limit"));
	assert_true(has_attribute(efs_utils, "ecs.capability.efsAuth"));
	assert_true(has_attribute(on, "ecs.capability.efs"));
	assert_false(has_attribute(no_cgroups, "com.amazonaws.ecs.capability.apparmor"));
	assert_true(has_attribute(on, "com.amazonaws.ecs.capability.docker-remote-api.1.32"));
	assert_true(has_attribute(on, "ecs.capability.container-restart-policy"));
	assert_true(has_attribute(on, "com.amazonaws.ecs.capability.logging-driver.awslogs"));
}

static void test_resources_are_shares_and_mebibytes(void **state)
{
	_cleanup_json_ struct json_object *body =
		registration(NULL, (struct node_facts){0}, "arn:x", 0);
	struct json_object *resources = json_get(body, "totalResources");
	int64_t value = 0;

	(void)state;
	assert_int_equal(json_get_i64(json_object_array_get_idx(resources, 0), "integerValue", 0,
	                              INT64_MAX, &value, NULL),
	                 0);
	assert_int_equal(value, 3 * 1024);
	assert_int_equal(json_get_i64(json_object_array_get_idx(resources, 1), "integerValue", 0,
	                              INT64_MAX, &value, NULL),
	                 0);
	assert_int_equal(value, 2048);
	assert_string_equal(json_text(body, "containerInstanceArn"), "arn:x");
	assert_string_equal(json_text(body, "cluster"), "default");
	assert_string_equal(json_text(body, "instanceIdentityDocument"), "");
	assert_null(registration(reserve_too_much, (struct node_facts){0}, NULL, -ERANGE));
}

static void test_attributes_must_come_back_as_they_were_sent(void **state)
{
	static const struct {
		const char *answer;
		int want;
	} cases[] = {
		{"{\"attributes\":[{\"name\":\"b\",\"value\":\"1\"},{\"name\":\"a\"},{\"name\":\"z\"}]}",
	         0},
		{"{\"attributes\":[{\"name\":\"a\"},{\"name\":\"b\",\"value\":\"2\"}]}", -EBADMSG},
		{"{\"attributes\":[{\"name\":\"a\"}]}", -EBADMSG},
		{"{\"attributes\":[null,7,{}]}", -EBADMSG},
		{"{}", -EBADMSG},
	};
	static const char sent[] =
		"{\"attributes\":[{\"name\":\"a\"},{\"name\":\"b\",\"value\":\"1\"}]}";
	_cleanup_json_ struct json_object *request = NULL;

	(void)state;
	assert_int_equal(json_parse_object(sent, strlen(sent), 1024, &request, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_json_ struct json_object *answer = NULL;

		assert_int_equal(json_parse_object(cases[i].answer, strlen(cases[i].answer), 1024,
		                                   &answer, NULL),
		                 0);
		if (registration_check_attributes(request, answer, NULL) != cases[i].want)
			fail_msg("row %zu", i);
	}
}

static void test_task_state_has_the_members_that_are_known(void **state)
{
	const struct ecs_network_binding binding = {"0.0.0.0", 80, 32768, "tcp"};
	const struct ecs_container_state container = {.name = "app",
	                                              .runtime_id = "ff",
	                                              .status = "STOPPED",
	                                              .has_exit_code = true,
	                                              .exit_code = 137,
	                                              .reason = "OutOfMemoryError: x",
	                                              .bindings = &binding,
	                                              .n_bindings = 1};
	const struct ecs_managed_agent_state agent = {.name = "ExecuteCommandAgent",
	                                              .container_name = "app",
	                                              .status = "STOPPED",
	                                              .reason = "why"};
	const struct ecs_task_state task = {.cluster = "c",
	                                    .task_arn = "t",
	                                    .status = "STOPPED",
	                                    .pull_started_realtime_usec = 1782864000123456ULL,
	                                    .containers = &container,
	                                    .n_containers = 1,
	                                    .managed_agents = &agent,
	                                    .n_managed_agents = 1};
	_cleanup_json_ struct json_object *body = ecs_task_state_to_json(&task);

	(void)state;
	assert_string_equal(
		json_to_text(body, NULL),
		"{\"cluster\":\"c\",\"task\":\"t\",\"status\":\"STOPPED\",\"reason\":\"\","
		"\"pullStartedAt\":1782864000.123,\"containers\":[{\"containerName\":\"app\","
		"\"runtimeId\":\"ff\",\"status\":\"STOPPED\",\"networkBindings\":[{\"bindIP\":"
		"\"0.0.0.0\",\"containerPort\":80,\"hostPort\":32768,\"protocol\":\"tcp\"}],"
		"\"exitCode\":137,\"reason\":\"OutOfMemoryError: x\"}],\"managedAgents\":["
		"{\"managedAgentName\":\"ExecuteCommandAgent\",\"containerName\":\"app\","
		"\"status\":\"STOPPED\",\"reason\":\"why\"}]}");
}

static void test_long_reasons_are_cut_between_characters(void **state)
{
	char reason[4 * 1100 + 1] = "";
	const struct ecs_task_state task = {
		.cluster = "c", .task_arn = "t", .status = "STOPPED", .reason = reason};
	_cleanup_json_ struct json_object *body = NULL;
	const char *sent;

	(void)state;
	for (size_t i = 0; i < 1100; i++)
		memcpy(reason + 4 * i, "\xf0\x9f\x98\x80", 5);
	body = ecs_task_state_to_json(&task);
	sent = json_text(body, "reason");
	assert_int_equal(strlen(sent), 4 * 1024);
	assert_memory_equal(sent, reason, 4 * 1024);
}

static void test_error_answers_are_classified(void **state)
{
	static const struct {
		unsigned status;
		const char *header, *body, *code;
		enum aws_error_class class;
	} cases[] = {
		{400, NULL, "{\"__type\":\"ThrottlingException\",\"message\":\"Rate exceeded\"}",
	         "ThrottlingException", AWS_ERROR_THROTTLING},
		{400, NULL, "{\"__type\":\"com.amazonaws.ecs#ClusterNotFoundException:http://x\"}",
	         "ClusterNotFoundException", AWS_ERROR_CLIENT},
		{400, "InvalidParameterException:http://x", "", "InvalidParameterException",
	         AWS_ERROR_CLIENT},
		{400, NULL, "{\"__type\":\"ExpiredTokenException\"}", "ExpiredTokenException",
	         AWS_ERROR_EXPIRED},
		{503, NULL, "<html>", "HTTP503", AWS_ERROR_SERVER},
		{400, NULL, "{\"__type\":\"ServerException\"}", "ServerException",
	         AWS_ERROR_SERVER},
		{429, NULL, "", "HTTP429", AWS_ERROR_THROTTLING},
		{403, NULL, "[1]", "HTTP403", AWS_ERROR_CLIENT},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct aws_error error;

		aws_error_parse(cases[i].status, cases[i].header, cases[i].body,
		                strlen(cases[i].body), &error);
		if (strcmp(error.code, cases[i].code) != 0 || error.class != cases[i].class)
			fail_msg("row %zu: %s %d", i, error.code, error.class);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_capabilities_follow_settings_and_facts),
		cmocka_unit_test(test_resources_are_shares_and_mebibytes),
		cmocka_unit_test(test_attributes_must_come_back_as_they_were_sent),
		cmocka_unit_test(test_task_state_has_the_members_that_are_known),
		cmocka_unit_test(test_long_reasons_are_cut_between_characters),
		cmocka_unit_test(test_error_answers_are_classified),
	};

	clearenv();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
