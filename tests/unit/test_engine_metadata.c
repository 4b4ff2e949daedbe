/* What ecs-metadata is given of roles and endpoints, and given again when it has lost it; no secret
 * is kept anywhere else. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "lib/json.h"
#include "tests/unit/engine_world.h"

static const char roles[] =
	",\"roleCredentials\":{\"credentialsId\":\"c-1\",\"roleArn\":\"arn:r\",\"accessKeyId\":"
	"\"AKIA\",\"secretAccessKey\":\"CANARY-SECRET\",\"sessionToken\":\"CANARY-TOKEN\","
	"\"expiration\":\"2036-01-01T00:00:00Z\"}";

static void test_credentials_are_put_before_the_start_and_acknowledged(void **state)
{
	struct world *world = *state;

	world_payload(world, "m-1", 1, world_task("t1", world_container("app", NULL), roles));
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	assert_true(world_is_before(world, "put-credentials:c-1", "start:app"));
	assert_int_equal(world_count(world, "credentials-ack:c-1"), 1);
}

#define EFS_VOLUME(iam)                                                                            \
	",\"volumes\":[{\"name\":\"v\",\"type\":\"efs\",\"efsVolumeConfiguration\":{"              \
	"\"fileSystemId\":\"fs-01234567\",\"transitEncryption\":\"ENABLED\","                      \
	"\"authorizationConfig\":{\"iam\":\"" iam "\"}}}]"

static void test_role_of_a_task_that_mounts_with_iam_is_put_for_mounts(void **state)
{
	static const char point[] =
		",\"mountPoints\":[{\"sourceVolume\":\"v\",\"containerPath\":\"/v\"}]";
	struct world *world = *state;
	char more[1024];

	snprintf(more, sizeof(more), "%s" EFS_VOLUME("ENABLED"), roles);
	world_payload(world, "m-1", 1, world_task("t1", world_container("app", point), more));
	world_wait_word(world, "volume", 1);
	assert_true(world_is_before(world, "put-credentials:c-1+mounts", "volume"));
	world_restart_metadata(world);
	world_wait_word(world, "put-credentials:c-1+mounts", 2);
	assert_int_equal(world_count(world, "put-credentials:c-1"), 0);
}

static void test_role_of_a_task_that_mounts_without_iam_is_its_own(void **state)
{
	static const char point[] =
		",\"mountPoints\":[{\"sourceVolume\":\"v\",\"containerPath\":\"/v\"}]";
	struct world *world = *state;
	char more[1024];

	snprintf(more, sizeof(more), "%s" EFS_VOLUME("DISABLED"), roles);
	world_payload(world, "m-1", 1, world_task("t1", world_container("app", point), more));
	world_wait_word(world, "put-credentials:c-1", 1);
	assert_int_equal(world_count(world, "put-credentials:c-1+mounts"), 0);
}

/* One that has begun with its role goes on, and gets no more of it. */
static void test_tasks_with_a_role_are_refused_where_task_roles_are_off(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;

	world_payload(world, "m-1", 1, world_task("t1", world_container("app", NULL), roles));
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	world->config.task_iam_role = false;
	world_payload(world, "m-2", 2, world_task("t1", world_container("app", NULL), roles));
	world_wait_word(world, "ack:m-2", 1);
	world_payload(world, "m-3", 3, world_task("t2", world_container("app", NULL), roles));
	world_settle(world);
	assert_int_equal(world_find(world, "t1")->known, TASK_STATUS_RUNNING);
	assert_int_equal(world_count(world, "put-credentials:c-1"), 1);
	assert_null(world_find(world, "t2"));
	events = world_events(world);
	assert_string_equal(json_text(last_event(events), "task"), WORLD_ARN "t2");
	assert_non_null(
		strstr(json_text(last_event(events), "reason"), "ECS_ENABLE_TASK_IAM_ROLE"));
}

static bool file_has(const char *path, const char *text)
{
	static char content[4 << 20];
	FILE *f = fopen(path, "re");
	size_t n;

	if (!f)
		return false;
	n = fread(content, 1, sizeof(content), f);
	fclose(f);
	return memmem(content, n, text, strlen(text)) != NULL;
}

static void test_no_secret_is_in_the_store(void **state)
{
	static const char *const files[] = {"agent.db", "agent.db-wal"};
	struct world *world = *state;
	char path[256];

	world_payload(world, "m-1", 1, world_task("t1", world_container("app", NULL), roles));
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		snprintf(path, sizeof(path), "%s/data/%s", world->dir, files[i]);
		assert_false(file_has(path, "CANARY"));
	}
	/* The file is the one that is written to. */
	snprintf(path, sizeof(path), "%s/data/agent.db-wal", world->dir);
	assert_true(file_has(path, WORLD_ARN "t1"));
}

static void test_restarted_metadata_gets_everything_again(void **state)
{
	struct world *world = *state;
	unsigned int sockets;

	world_payload(world, "m-1", 1, world_task("t1", world_container("app", NULL), roles));
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	world_settle(world);
	assert_int_equal(world_count(world, "complete"), 1);
	sockets = world_count(world, "sockets"); /* its first hello may come after the launch */
	world_restart_metadata(world);
	world_wait_word(world, "complete", 2);
	assert_int_equal(world_count(world, "sockets"), sockets + 1);
	assert_int_equal(world_count(world, "serve:app"), 2);
	assert_int_equal(world_count(world, "serve-host"), 2);
	assert_int_equal(world_count(world, "put-credentials:c-1"), 2);
	assert_int_equal(world_find(world, "t1")->known, TASK_STATUS_RUNNING);
}

static void test_metadata_that_kept_its_sockets_gets_none_again(void **state)
{
	struct world *world = *state;
	unsigned int documents;

	world_payload(world, "m-1", 1, world_task("t1", world_container("app", NULL), roles));
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	world_settle(world);
	documents = world_count(world, "documents");
	world_disconnect_metadata(world);
	world_wait_word(world, "complete", 2);
	assert_int_equal(world_count(world, "sockets"), 0);
	assert_int_equal(world_count(world, "serve:app"), 1);
	assert_int_equal(world_count(world, "serve-host"), 1);
	assert_true(world_count(world, "documents") > documents);
}

/* As when it was killed between two messages, or the service manager's store was full. */
static void test_metadata_that_lost_a_socket_of_a_task_gets_it_again(void **state)
{
	struct world *world = *state;

	world_payload(world, "m-1", 1, world_task("t1", world_container("app", NULL), roles));
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	world_settle(world);
	world_lose_served(world, "t1");
	world_disconnect_metadata(world);
	world_wait_word(world, "complete", 2);
	assert_int_equal(world_count(world, "sockets"), 1);
	assert_int_equal(world_count(world, "serve:app"), 2);
}

static const char *const both_roles =
	",\"roleCredentials\":{\"credentialsId\":\"c-1\",\"roleArn\":\"arn:r\",\"accessKeyId\":"
	"\"AKIA\",\"secretAccessKey\":\"s\",\"sessionToken\":\"t\","
	"\"expiration\":\"2036-01-01T00:00:00Z\"},\"executionRoleCredentials\":{\"credentialsId\":"
	"\"x-1\",\"roleArn\":\"arn:x\",\"accessKeyId\":\"AKIA\",\"secretAccessKey\":\"s\","
	"\"sessionToken\":\"t\",\"expiration\":\"2036-01-01T00:00:00Z\"}";

static void test_refused_credentials_hold_up_none_that_were_taken(void **state)
{
	static const char ecr[] = ",\"registryAuthentication\":{\"type\":\"ecr\",\"ecrAuthData\":{"
				  "\"region\":\"us-west-2\",\"registryId\":\"111122223333\","
				  "\"useExecutionRole\":true}}";
	struct world *world = *state;

	world->refused_role = "c-1";
	world_payload(world, "m-1", 1, world_task("t1", world_container("app", ecr), both_roles));
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	assert_true(world_is_before(world, "put-credentials:c-1", "put-credentials:x-1"));
}

/* more: of the container. */
static void run_and_end_with_roles(struct world *world, const char *more)
{
	world_payload(world, "m-1", 1, world_task("t1", world_container("app", more), both_roles));
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	world_exit(world, "t1", "app", 0, false);
	world_wait_word(world, "end:t1", 1);
	world_settle(world);
}

static void test_ended_task_keeps_its_execution_role_for_its_logs_alone(void **state)
{
	struct world *world = *state;
	struct engine_counts counts;

	run_and_end_with_roles(world, ",\"logsAuthStrategy\":\"ExecutionRole\"");
	assert_int_equal(world_count(world, "release"), 1);
	assert_int_equal(world_count(world, "release-all"), 0);
	engine_count(world->engine, &counts);
	assert_int_equal(counts.credentials, 1);

	/* What ecs-metadata has lost is not that of a task that lives when it comes again. */
	world_restart_metadata(world);
	world_wait_word(world, "complete", 2);
	assert_int_equal(world_count(world, "put-credentials:x-1"), 2);
	assert_int_equal(world_count(world, "put-credentials:c-1"), 1);
	assert_int_equal(world_count(world, "release"), 2);
}

static void test_ended_task_whose_logs_do_not_need_its_roles_keeps_none(void **state)
{
	struct world *world = *state;
	struct engine_counts counts;

	run_and_end_with_roles(world, NULL);
	assert_int_equal(world_count(world, "release"), 0);
	assert_int_equal(world_count(world, "release-all"), 1);
	engine_count(world->engine, &counts);
	assert_int_equal(counts.tasks, 1);
	assert_int_equal(counts.ended_tasks, 1);
	assert_int_equal(counts.credentials, 0);
	assert_int_equal(counts.addresses, 0);
	assert_int_equal(counts.acknowledgements, 0);

	world_restart_metadata(world);
	world_wait_word(world, "complete", 2);
	assert_int_equal(world_count(world, "put-credentials:x-1"), 1);
}

/* For hours, and there may be thousands of them. */
static void test_ended_task_is_remembered_without_its_documents(void **state)
{
	struct world *world = *state;
	const struct task *task;

	run_and_end_with_roles(world, NULL);
	for (int i = 0; i < 2; i++) { /* and by the next agent, which has it from the store */
		task = world_find(world, "t1");
		assert_int_equal(task->known, TASK_STATUS_STOPPED);
		assert_null(task->document);
		assert_null(task->containers[0].document);
		assert_null(task->containers[0].host_config);
		assert_null(task->containers[0].image_config);
		assert_string_equal(task->containers[0].name, "app");
		assert_true(task->containers[0].has_exit_code);
		world_stop_engine(world);
		world_start_engine(world);
	}
	/* Whatever comes to it then. */
	world_payload(world, "m-2", 2, world_task("t1", world_container("app", NULL), both_roles));
	world_restart_metadata(world);
	world_wait_word(world, "ack:m-2", 1);
	world_settle(world);
	assert_int_equal(world_count(world, "launch:t1"), 1);
	world_stop_engine(world);
	world_start_engine(world);
	assert_int_equal(world_find(world, "t1")->known, TASK_STATUS_STOPPED);
}

/* Its release may have come while ecs-metadata was not there. */
static void test_metadata_that_still_has_a_stopped_task_is_told_again(void **state)
{
	struct world *world = *state;

	run_and_end_with_roles(world, ",\"logsAuthStrategy\":\"ExecutionRole\"");
	assert_int_equal(world_count(world, "release"), 1);
	world_disconnect_metadata(world);
	world_wait_word(world, "complete", 2);
	assert_int_equal(world_count(world, "release"), 2);
	assert_int_equal(world_count(world, "release-all"), 0);
}

static void test_endpoint_that_was_refused_is_asked_for_again(void **state)
{
	struct world *world = *state;

	world->refuse_serve = 1;
	world_run_one(world, "t1");
	assert_int_equal(world_count(world, "serve:app"), 2);
	assert_int_equal(world_count(world, "create:app"), 1);
}

static void test_endpoint_is_refused_no_longer_than_a_start_may_take(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;

	world->config.container_start_timeout_usec = 500 * 1000;
	world->refuse_serve = UINT_MAX;
	world_wait_word(world, "complete", 1);
	world_payload(world, "m-1", 1, world_task("t1", world_container("app", NULL), NULL));
	world_wait_known(world, "t1", TASK_STATUS_STOPPED);
	assert_int_equal(world_count(world, "serve:app"), 1);
	assert_int_equal(world_count(world, "start:app"), 0);
	events = world_events(world);
	assert_string_equal(json_text(container_of(last_event(events), "app"), "reason"),
	                    "DockerTimeoutError: Could not transition to started; timed out after "
	                    "waiting 500ms");
}

static void test_host_endpoint_is_asked_for_though_the_bridge_is_slower_than_metadata(void **state)
{
	struct world *world = *state;
	unsigned int hellos;

	world_wait_word(world, "complete", 1);
	hellos = world_count(world, "hello");
	world_stop_engine(world);
	world_restart_metadata(world);
	world->hold_host = true;
	world_start_engine(world);
	world_wait_word(world, "host-held", 1);
	world_wait_word(world, "hello", hellos + 1);
	world_settle(world);
	world_release_host(world);
	world_wait_word(world, "serve-host", 2);
	world_wait_word(world, "complete", 2);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, world_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_credentials_are_put_before_the_start_and_acknowledged),
		TEST(test_role_of_a_task_that_mounts_with_iam_is_put_for_mounts),
		TEST(test_role_of_a_task_that_mounts_without_iam_is_its_own),
		TEST(test_tasks_with_a_role_are_refused_where_task_roles_are_off),
		TEST(test_no_secret_is_in_the_store),
		TEST(test_restarted_metadata_gets_everything_again),
		TEST(test_metadata_that_kept_its_sockets_gets_none_again),
		TEST(test_metadata_that_lost_a_socket_of_a_task_gets_it_again),
		TEST(test_refused_credentials_hold_up_none_that_were_taken),
		TEST(test_ended_task_keeps_its_execution_role_for_its_logs_alone),
		TEST(test_ended_task_whose_logs_do_not_need_its_roles_keeps_none),
		TEST(test_ended_task_is_remembered_without_its_documents),
		TEST(test_metadata_that_still_has_a_stopped_task_is_told_again),
		TEST(test_endpoint_that_was_refused_is_asked_for_again),
		TEST(test_endpoint_is_refused_no_longer_than_a_start_may_take),
		TEST(test_host_endpoint_is_asked_for_though_the_bridge_is_slower_than_metadata),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
