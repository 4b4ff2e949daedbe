/* A lost or damaged store is rebuilt from the records that supervisors keep, and what had none is
 * reported. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/engine/engine_internal.h"
#include "lib/json.h"
#include "tests/unit/engine_world.h"

static char *saved(struct world *world, const char *key)
{
	char *text = NULL;

	assert_int_equal(state_get(world->state, key, &text, NULL), 0);
	return text;
}

static void lose_state_and_restart(struct world *world)
{
	world_settle(world);
	world_stop_engine(world);
	world_lose_state(world);
	world_start_engine(world);
}

static void test_lost_state_is_rebuilt_from_the_supervisors(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;
	_cleanup_free_ char *before = NULL, *instance = NULL, *address = NULL;
	const struct container *app;

	world_run_one(world, "t1");
	world_run_one(world, "t2");
	app = &world_find(world, "t1")->containers[0];
	before = strdup(app->endpoint_id);
	address = strdup(app->address);
	lose_state_and_restart(world);
	assert_int_equal(world_count(world, "rebuilt:2"), 1);
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	world_wait_known(world, "t2", TASK_STATUS_RUNNING);
	world_settle(world);

	app = &world_find(world, "t1")->containers[0];
	assert_string_equal(app->endpoint_id, before);
	assert_string_equal(app->address, address);
	instance = saved(world, "container-instance-arn");
	assert_string_equal(instance, WORLD_INSTANCE);
	assert_int_equal(world_count(world, "stop:app"), 0);
	assert_int_equal(world_count(world, "start:app"), 2);
	assert_int_equal(world_count(world, "launch:t1"), 1);
	events = world_events(world);
	assert_string_equal(json_text(last_event(events), "status"), "RUNNING");

	world_exit(world, "t1", "app", 7, false);
	world_wait_word(world, "end:t1", 1);
	json_object_put(events);
	events = world_events(world);
	assert_int_equal(exit_code(container_of(last_event(events), "app")), 7);
}

static void test_exit_while_the_state_was_lost_is_reported(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;

	world_run_one(world, "t1");
	world_settle(world);
	world_stop_engine(world);
	world_exit(world, "t1", "app", 9, false);
	world_lose_state(world);
	world_start_engine(world);
	world_wait_word(world, "end:t1", 1);
	events = world_events(world);
	assert_string_equal(json_text(last_event(events), "status"), "STOPPED");
	assert_int_equal(exit_code(container_of(last_event(events), "app")), 9);
}

/* A record may be taken at any step of a start; the reconciler goes on from there. */
static void test_task_that_was_being_started_when_the_state_was_lost_goes_on(void **state)
{
	struct world *world = *state;

	world->start_is_silent = true;
	world_payload(world, "m-1", 1, world_task("t1", world_container("app", NULL), NULL));
	world_wait_word(world, "start:app", 1);
	world_settle(world);
	world->start_is_silent = false;
	lose_state_and_restart(world);
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	assert_int_equal(world_count(world, "launch:t1"), 1);
}

static void damage_row(struct world *world, const char *id, const char *document)
{
	char arn[128];
	struct state_task row = {.arn = arn,
	                         .document = document,
	                         .desired = "RUNNING",
	                         .known = "RUNNING",
	                         .sent = "RUNNING",
	                         .launched = true};

	snprintf(arn, sizeof(arn), WORLD_ARN "%s", id);
	assert_int_equal(state_put_task(world->state, &row), 0);
}

static void test_task_whose_row_cannot_be_read_comes_back_and_costs_no_other(void **state)
{
	static const char *const documents[] = {"\001\002", "{}", "{\"arn\":\"other\"}"};
	struct world *world = *state;

	world_run_one(world, "t1");
	world_run_one(world, "t2");
	for (size_t i = 0; i < ARRAY_SIZE(documents); i++) {
		world_settle(world);
		damage_row(world, "t1", documents[i]);
		world_stop_engine(world);
		world_start_engine(world);
		assert_int_equal(world_count(world, "rebuilt:1"), i + 1);
		world_wait_known(world, "t1", TASK_STATUS_RUNNING);
		world_wait_known(world, "t2", TASK_STATUS_RUNNING);
	}
	assert_int_equal(world_count(world, "stop:app"), 0);
	assert_int_equal(world_count(world, "start:app"), 2);
	assert_true(world->engine->may_have_lost);
}

static void test_rebuild_that_was_interrupted_begins_again(void **state)
{
	struct world *world = *state;
	struct err err = {0};
	char path[128];

	world_run_one(world, "t1");
	world_settle(world);
	world_stop_engine(world);
	world_lose_state(world);
	snprintf(path, sizeof(path), "%s/data", world->dir);
	assert_int_equal(state_open(path, world->loop, &world->state, &err), 0);
	world->state = state_close(world->state); /* begun anew, and the program ends */
	world_start_engine(world);
	assert_int_equal(world_count(world, "rebuilt:1"), 1);
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	assert_int_equal(world_count(world, "stop:app"), 0);
}

static void stops_it(struct world *world)
{
	lose_state_and_restart(world);
	assert_int_equal(world_count(world, "rebuilt:0"), 2); /* also at the very first start */
	world_wait_word(world, "reap:t1", 1);
	assert_true(world_is_before(world, "stop:app", "end:t1"));
	assert_true(world_is_before(world, "end:t1", "reap:t1"));
}

static void test_task_without_a_record_is_stopped_and_ended(void **state)
{
	struct world *world = *state;

	world->keep_no_records = true;
	world_run_one(world, "t1");
	stops_it(world);
	assert_int_equal(world_count(world, "record:t1"), 1); /* and is not asked again */
}

static void test_record_of_another_instance_is_not_used(void **state)
{
	struct world *world = *state;

	world_run_one(world, "t1");
	world->instance_id = "i-2";
	stops_it(world);
}

static void test_record_of_another_cluster_is_not_used(void **state)
{
	struct world *world = *state;

	assert_int_equal(state_set(world->state, "cluster", "green"), 0);
	world_run_one(world, "t1");
	stops_it(world);
}

static void test_record_that_makes_no_sense_is_not_used(void **state)
{
	struct world *world = *state;

	world_run_one(world, "t1");
	world_settle(world);
	json_object_object_del(json_get(world_record(world, "t1"), "task"), "document");
	stops_it(world);
}

static void test_record_holds_no_secret(void **state)
{
	struct world *world = *state;
	const char *text;

	world_payload(world, "m-1", 1,
	              world_task("t1", world_container("app", NULL),
	                         ",\"roleCredentials\":{\"credentialsId\":\"c-1\","
	                         "\"accessKeyId\":\"AKIACANARY\","
	                         "\"secretAccessKey\":\"SECRETCANARY\","
	                         "\"sessionToken\":\"TOKENCANARY\",\"roleArn\":\"r\","
	                         "\"expiration\":\"2030-01-01T00:00:00Z\"}"));
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	world_settle(world);
	text = json_to_text(world_record(world, "t1"), NULL);
	assert_non_null(text);
	assert_non_null(strstr(text, "c-1"));
	assert_null(strstr(text, "CANARY"));
}

static void test_task_that_was_lost_before_it_had_a_supervisor_is_reported_stopped(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;
	_cleanup_free_ char *flag = NULL;
	unsigned int n;

	world_run_one(world, "t1");
	lose_state_and_restart(world);
	world_manifest(world, "m-9", 9, WORLD_ARN "t7");
	assert_non_null(world->engine->lost_timer);
	/* Its payload was not acknowledged, and comes again. */
	world_payload(world, "m-10", 10, world_task("t7", world_container("app", NULL), NULL));
	world_wait_known(world, "t7", TASK_STATUS_RUNNING);
	world_manifest(world, "m-11", 11, WORLD_ARN "t8");
	assert_int_equal(sd_event_source_set_time(world->engine->lost_timer, 0), 0);
	for (n = 0; n < 500 && world->engine->may_have_lost; n++)
		(void)sd_event_run(world->loop, 10 * 1000);
	world_settle(world);
	events = world_events(world);
	assert_string_equal(json_text(last_event(events), "task"), WORLD_ARN "t8");
	assert_string_equal(json_text(last_event(events), "status"), "STOPPED");
	assert_non_null(strstr(json_text(last_event(events), "reason"), "lost"));
	assert_int_equal(world_find(world, "t7")->known, TASK_STATUS_RUNNING);
	flag = saved(world, "tasks-may-be-lost");
	assert_null(flag);

	/* Once is enough: what the next manifest names comes by a payload. */
	n = (unsigned int)json_object_array_length(events);
	world_manifest(world, "m-12", 12, WORLD_ARN "t9");
	assert_null(world->engine->lost_timer);
	world_settle(world);
	json_object_put(events);
	events = world_events(world);
	assert_int_equal(json_object_array_length(events), n);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, world_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_lost_state_is_rebuilt_from_the_supervisors),
		TEST(test_exit_while_the_state_was_lost_is_reported),
		TEST(test_task_that_was_being_started_when_the_state_was_lost_goes_on),
		TEST(test_task_whose_row_cannot_be_read_comes_back_and_costs_no_other),
		TEST(test_rebuild_that_was_interrupted_begins_again),
		TEST(test_task_without_a_record_is_stopped_and_ended),
		TEST(test_record_of_another_instance_is_not_used),
		TEST(test_record_of_another_cluster_is_not_used),
		TEST(test_record_that_makes_no_sense_is_not_used),
		TEST(test_record_holds_no_secret),
		TEST(test_task_that_was_lost_before_it_had_a_supervisor_is_reported_stopped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
