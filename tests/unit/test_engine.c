/* The way of a task through the engine: what is done in which order, what is reported, and what
 * payloads and manifests change. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lib/json.h"
#include "tests/unit/engine_world.h"

static void test_task_goes_from_payload_to_stopped(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;
	struct json_object *app;

	world_run_one(world, "t1");
	assert_true(world_is_before(world, "ack:m-1", "launch:t1"));
	assert_true(world_is_before(world, "create:app", "attach:172.29.0.2"));
	assert_true(world_is_before(world, "attach:172.29.0.2", "serve:app"));
	assert_true(world_is_before(world, "documents", "start:app"));
	assert_true(world_is_before(world, "serve:app", "start:app"));

	world_exit(world, "t1", "app", 3, false);
	world_wait_word(world, "end:t1", 1);
	assert_true(world_is_before(world, "detach", "end:t1"));
	assert_true(world_is_before(world, "release-all", "end:t1"));
	assert_int_equal(world_count(world, "start:app"), 1);

	events = world_events(world);
	assert_int_equal(json_object_array_length(events), 3);
	assert_string_equal(json_text(event_at(events, 0), "status"), "PENDING");
	assert_string_equal(json_text(event_at(events, 1), "status"), "RUNNING");
	assert_string_equal(json_text(event_at(events, 2), "status"), "STOPPED");
	app = container_of(event_at(events, 1), "app");
	assert_non_null(json_text(app, "runtimeId"));
	assert_int_equal(strncmp(json_text(app, "imageDigest"), "sha256:", 7), 0);
	assert_int_equal(exit_code(container_of(event_at(events, 2), "app")), 3);
	assert_non_null(json_get(event_at(events, 2), "executionStoppedAt"));
	assert_non_null(json_get(event_at(events, 2), "pullStoppedAt"));
}

static void pay_with_port(struct world *world, const char *message, int64_t seq, const char *id)
{
	world_payload(world, message, seq,
	              world_task(id,
	                         world_container("app", ",\"portMappings\":[{\"containerPort\":80,"
	                                                "\"hostPort\":0,\"protocol\":\"tcp\"}]"),
	                         NULL));
}

static void test_published_ports_are_reported_and_held_by_the_supervisor(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;
	struct json_object *binding;
	int64_t port = 0;

	pay_with_port(world, "m-1", 1, "t1");
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	assert_int_equal(world_count(world, "port-socket:app"), 1);
	events = world_events(world);
	binding = json_object_array_get_idx(
		json_get(container_of(last_event(events), "app"), "networkBindings"), 0);
	assert_int_equal(json_get_i64(binding, "hostPort", 0, 65535, &port, NULL), 0);
	assert_int_equal(port, 32768);
}

/* As after `systemctl reload nftables`: the next attach makes the rules, with its own ports. */
static void test_ports_of_all_are_published_again_when_an_attach_finds_the_rules_gone(void **state)
{
	struct world *world = *state;

	pay_with_port(world, "m-1", 1, "t1");
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	world->start_is_silent = true;
	pay_with_port(world, "m-2", 2, "t2");
	world_wait_word(world, "start:app", 2);
	world_settle(world);
	assert_int_equal(world_count(world, "publish:172.29.0.2"), 0);

	world->rules_are_flushed = true;
	world_payload(world, "m-3", 3, world_task("t3", world_container("app", NULL), NULL));
	world_wait_word(world, "publish:172.29.0.2", 1);
	world_wait_word(world, "publish:172.29.0.3", 1); /* attached, but not running yet */
	assert_int_equal(world_count(world, "publish:172.29.0.4"), 0);

	/* An agent may have ended before it came to that. */
	world_settle(world);
	world_stop_engine(world);
	world_start_engine(world);
	world_wait_word(world, "publish:172.29.0.2", 2);
}

static void test_attach_whose_answer_is_lost_is_detached_with_the_task(void **state)
{
	struct world *world = *state;
	struct engine_counts counts;

	pay_with_port(world, "m-1", 1, "t1");
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	world->attach_is_lost = true;
	pay_with_port(world, "m-2", 2, "t2");
	world_wait_word(world, "attach:172.29.0.3", 1);
	world->attach_is_lost = false;
	world_wait_word(world, "end:t2", 1);
	assert_int_equal(world_count(world, "detach"), 1);
	assert_true(world_is_before(world, "attach:172.29.0.3", "detach"));
	engine_count(world->engine, &counts);
	assert_int_equal(counts.addresses, 1);
	/* ecs-network may have ended just when it had made the rules anew. */
	world_wait_word(world, "publish:172.29.0.2", 1);
}

static void test_container_without_network_is_started_without_an_address(void **state)
{
	static const char empty[] = "\"config\":\"{}\"";
	const char *container = world_container("app", NULL), *config = strstr(container, empty);
	struct world *world = *state;
	char text[4096];

	assert_non_null(config);
	snprintf(text, sizeof(text), "%.*s\"config\":\"{\\\"NetworkDisabled\\\":true}\"%s",
	         (int)(config - container), container, config + strlen(empty));
	world_payload(world, "m-1", 1, world_task("t1", text, NULL));
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	assert_int_equal(world_count(world, "attach:172.29.0.2"), 0);
	assert_true(world_is_before(world, "serve:app", "start:app"));
	assert_string_equal(world_find(world, "t1")->containers[0].address, "");
	world_exit(world, "t1", "app", 0, false);
	world_wait_word(world, "end:t1", 1);
	assert_int_equal(world_count(world, "detach"), 0);
}

static void test_waiting_tasks_get_room_in_order_when_one_has_ended(void **state)
{
	static const char half[] = ",\"memory\":64,\"cpu\":%g";
	struct world *world = *state;
	double cpus = (double)sysconf(_SC_NPROCESSORS_ONLN);
	char all[64], few[64];

	snprintf(all, sizeof(all), half, cpus);
	snprintf(few, sizeof(few), half, 0.25);
	world_payload(world, "m-1", 1, world_task("t1", world_container("app", NULL), all));
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	world_payload(world, "m-2", 2, world_task("t2", world_container("app", NULL), few));
	world_payload(world, "m-3", 3, world_task("t3", world_container("app", NULL), few));
	world_settle(world);
	assert_int_equal(world_count(world, "launch:t2"), 0);

	world_exit(world, "t1", "app", 0, false);
	world_wait_known(world, "t3", TASK_STATUS_RUNNING);
	assert_true(world_is_before(world, "reap:t1", "launch:t2"));
	assert_true(world_is_before(world, "launch:t2", "launch:t3"));
}

static void test_waiting_task_that_is_to_stop_stops_at_once(void **state)
{
	struct world *world = *state;
	char all[64];

	snprintf(all, sizeof(all), ",\"cpu\":%ld", sysconf(_SC_NPROCESSORS_ONLN));
	world_payload(world, "m-1", 1, world_task("t1", world_container("app", NULL), all));
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	world_payload(world, "m-2", 2, world_task("t2", world_container("app", NULL), all));
	world_settle(world);
	world_payload(world, "m-3", 3,
	              "{\"arn\":\"" WORLD_ARN "t2\",\"desiredStatus\":\"STOPPED\"}");
	world_wait_known(world, "t2", TASK_STATUS_STOPPED);
	assert_int_equal(world_count(world, "launch:t2"), 0);
}

static void test_task_that_can_never_fit_fails_and_blocks_nobody(void **state)
{
	struct world *world = *state;

	world_payload(world, "m-1", 1,
	              world_task("t1", world_container("app", NULL), ",\"cpu\":128"));
	world_wait_known(world, "t1", TASK_STATUS_STOPPED);
	world_payload(world, "m-2", 2, world_task("t2", world_container("app", NULL), NULL));
	world_wait_known(world, "t2", TASK_STATUS_RUNNING);
}

static void test_failed_start_has_its_exit_code_and_reason(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;
	struct json_object *app;

	world->start_exit_code = 127;
	world_payload(world, "m-1", 1, world_task("t1", world_container("app", NULL), NULL));
	world_wait_word(world, "end:t1", 1);
	events = world_events(world);
	app = container_of(last_event(events), "app");
	assert_int_equal(exit_code(app), 127);
	assert_string_equal(json_text(app, "reason"), "CannotStartContainerError: exec: not found");
}

static void test_start_without_an_answer_times_out_and_is_stopped(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;

	world->config.container_start_timeout_usec = 50 * 1000;
	world->start_is_silent = true;
	world_payload(world, "m-1", 1, world_task("t1", world_container("app", NULL), NULL));
	world_wait_word(world, "end:t1", 1);
	assert_true(world_is_before(world, "start:app", "stop:app"));
	events = world_events(world);
	assert_string_equal(json_text(container_of(last_event(events), "app"), "reason"),
	                    "DockerTimeoutError: Could not transition to started; timed out after "
	                    "waiting 50ms");
}

static void test_record_of_a_stopped_task_is_kept_until_ecs_has_accepted_it(void **state)
{
	struct world *world = *state;

	world->config.task_cleanup_wait_usec = 0;
	world_run_one(world, "t1");
	world_exit(world, "t1", "app", 0, false);
	world_wait_word(world, "reap:t1", 1);
	world_settle(world);
	assert_non_null(world_find(world, "t1")); /* nothing was sent, so nothing was accepted */
	world_stop_engine(world);
	world_start_engine(world);
	world_settle(world);
	assert_non_null(world_find(world, "t1"));
	assert_int_equal(world_count(world, "found:t1"), 0);
}

static void test_oom_kill_is_the_reason(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;

	world_run_one(world, "t1");
	world_exit(world, "t1", "app", 137, true);
	world_wait_known(world, "t1", TASK_STATUS_STOPPED);
	events = world_events(world);
	assert_string_equal(json_text(container_of(last_event(events), "app"), "reason"),
	                    "OutOfMemoryError: Container killed due to memory usage");
}

static void test_non_essential_container_ends_alone(void **state)
{
	struct world *world = *state;

	world_payload(world, "m-1", 1,
	              world_task("t1",
	                         "{\"name\":\"app\",\"image\":\"a\",\"essential\":true},"
	                         "{\"name\":\"side\",\"image\":\"b\",\"essential\":false}",
	                         NULL));
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	world_exit(world, "t1", "side", 0, false);
	world_settle(world);
	assert_int_equal(world_find(world, "t1")->known, TASK_STATUS_RUNNING);
	assert_int_equal(world_count(world, "stop:app"), 0);
	world_exit(world, "t1", "app", 0, false);
	world_wait_known(world, "t1", TASK_STATUS_STOPPED);
}

static void test_unknown_task_that_is_to_stop_is_reported_stopped(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;

	world_payload(world, "m-1", 1,
	              "{\"arn\":\"" WORLD_ARN "t9\",\"desiredStatus\":\"STOPPED\"}");
	world_wait_word(world, "ack:m-1", 1);
	world_wait_known(world, "t9", TASK_STATUS_STOPPED);
	events = world_events(world);
	assert_string_equal(json_text(last_event(events), "status"), "STOPPED");
	assert_string_equal(json_text(last_event(events), "task"), WORLD_ARN "t9");
	assert_int_equal(world_count(world, "launch:t9"), 0);
}

static void test_invalid_task_is_reported_and_the_payload_not_acknowledged(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;
	char tasks[8192];

	snprintf(tasks, sizeof(tasks),
	         "{\"arn\":\"" WORLD_ARN
	         "bad\",\"desiredStatus\":\"SIDEWAYS\",\"containers\":[]},%s",
	         world_task("good", world_container("app", NULL), NULL));
	world_payload(world, "m-1", 1, tasks);
	world_wait_known(world, "good", TASK_STATUS_RUNNING);
	world_settle(world);
	assert_int_equal(world_count(world, "ack:m-1"), 0);
	events = world_events(world);
	assert_string_equal(json_text(event_at(events, 0), "status"), "STOPPED");
	assert_int_equal(strncmp(json_text(event_at(events, 0), "reason"),
	                         "UnrecogniedTaskError: Error loading task - ", 43),
	                 0);
}

static void test_repeated_payload_is_acknowledged_and_starts_nothing(void **state)
{
	struct world *world = *state;

	world_run_one(world, "t1");
	world_payload(world, "m-2", 2, world_task("t1", world_container("app", NULL), NULL));
	world_wait_word(world, "ack:m-2", 1);
	world_settle(world);
	assert_int_equal(world_count(world, "launch:t1"), 1);
}

/* What would be refused today, of a task that runs by what was accepted once. */
static void test_known_task_is_never_refused(void **state)
{
	static const char *const privileged =
		"{\"name\":\"app\",\"image\":\"registry/app:1\",\"essential\":true,"
		"\"dockerConfig\":{\"hostConfig\":\"{\\\"Privileged\\\":true}\"}}";
	static const char *const stop =
		"{\"arn\":\"" WORLD_ARN "t1\",\"desiredStatus\":\"STOPPED\","
		"\"roleCredentials\":{\"credentialsId\":\"\"}}";
	struct world *world = *state;
	_cleanup_json_ struct json_object *before = NULL, *events = NULL;

	world_payload(world, "m-1", 1, world_task("t1", privileged, NULL));
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	world_settle(world);
	before = world_events(world);

	world_stop_engine(world);
	world->config.privileged_disabled = true;
	world_start_engine(world);
	world_payload(world, "m-2", 2, world_task("t1", privileged, NULL));
	world_wait_word(world, "ack:m-2", 1);
	world_payload(world, "m-3", 3,
	              "{\"arn\":\"" WORLD_ARN "t1\",\"desiredStatus\":\"SIDEWAYS\"}");
	world_payload(world, "m-4", 4,
	              world_task("t1", privileged, ",\"roleCredentials\":{\"roleArn\":\"r\"}"));
	world_settle(world);
	events = world_events(world);
	assert_int_equal(json_object_array_length(events), json_object_array_length(before));
	assert_int_equal(world_count(world, "ack:m-3"), 0);
	assert_int_equal(world_count(world, "ack:m-4"), 0);
	assert_int_equal(world_find(world, "t1")->desired, TASK_STATUS_RUNNING);

	world_payload(world, "m-5", 5, stop);
	world_wait_word(world, "ack:m-5", 1);
	world_wait_known(world, "t1", TASK_STATUS_STOPPED);
}

static void test_task_that_the_manifest_lacks_stops_once_verified(void **state)
{
	struct world *world = *state;
	const struct acs_task_identifier stop = {
		.task_arn = WORLD_ARN "t1", .task_cluster_arn = "", .desired_status = "STOPPED"};
	struct acs_stop_verification verification = {
		.message_id = "other", .stop_tasks = &stop, .n_stop_tasks = 1};

	world_run_one(world, "t1");
	world_manifest(world, "m-7", 7, WORLD_ARN "t1");
	world_wait_word(world, "ack:m-7", 1);
	assert_int_equal(world_count(world, "candidate:t1"), 0);

	world_manifest(world, "m-8", 8, NULL);
	world_wait_word(world, "ack:m-8", 1);
	assert_int_equal(world_count(world, "candidate:t1"), 1);
	engine_acs_handlers.stop_verification(NULL, &verification, world->engine);
	world_settle(world);
	assert_int_equal(world_find(world, "t1")->known, TASK_STATUS_RUNNING);

	verification.message_id = "m-8";
	engine_acs_handlers.stop_verification(NULL, &verification, world->engine);
	world_wait_known(world, "t1", TASK_STATUS_STOPPED);
}

static void test_old_manifest_is_ignored_also_after_a_restart(void **state)
{
	struct world *world = *state;

	world_run_one(world, "t1");
	world_manifest(world, "m-7", 7, WORLD_ARN "t1");
	world_wait_word(world, "ack:m-7", 1);
	world_stop_engine(world);
	world_start_engine(world);
	world_manifest(world, "m-6", 7, NULL);
	world_settle(world);
	assert_int_equal(world_count(world, "ack:m-6"), 0);
	assert_int_equal(world_count(world, "candidate:t1"), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, world_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_task_goes_from_payload_to_stopped),
		TEST(test_published_ports_are_reported_and_held_by_the_supervisor),
		TEST(test_ports_of_all_are_published_again_when_an_attach_finds_the_rules_gone),
		TEST(test_attach_whose_answer_is_lost_is_detached_with_the_task),
		TEST(test_container_without_network_is_started_without_an_address),
		TEST(test_waiting_tasks_get_room_in_order_when_one_has_ended),
		TEST(test_waiting_task_that_is_to_stop_stops_at_once),
		TEST(test_task_that_can_never_fit_fails_and_blocks_nobody),
		TEST(test_failed_start_has_its_exit_code_and_reason),
		TEST(test_start_without_an_answer_times_out_and_is_stopped),
		TEST(test_record_of_a_stopped_task_is_kept_until_ecs_has_accepted_it),
		TEST(test_oom_kill_is_the_reason),
		TEST(test_non_essential_container_ends_alone),
		TEST(test_unknown_task_that_is_to_stop_is_reported_stopped),
		TEST(test_invalid_task_is_reported_and_the_payload_not_acknowledged),
		TEST(test_repeated_payload_is_acknowledged_and_starts_nothing),
		TEST(test_known_task_is_never_refused),
		TEST(test_task_that_the_manifest_lacks_stops_once_verified),
		TEST(test_old_manifest_is_ignored_also_after_a_restart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
