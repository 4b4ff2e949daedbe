/* In which order the containers of a task start and stop: dependencies, links, the stop order. */
#include <stdio.h>
#include <string.h>

#include "lib/json.h"
#include "lib/loop.h"
#include "tests/unit/engine_world.h"

#define HOUR_USEC (3600ll * 1000 * 1000)

static int64_t clock_step_usec;

uint64_t __real_now_realtime_usec(void);
uint64_t __wrap_now_realtime_usec(void);
uint64_t __wrap_now_realtime_usec(void)
{
	return __real_now_realtime_usec() + (uint64_t)clock_step_usec;
}

static int set_clock_right(void **state)
{
	clock_step_usec = 0;
	return world_teardown(state);
}

static void test_dependencies_order_starts_and_reverse_order_stops(void **state)
{
	struct world *world = *state;
	char containers[4096];

	snprintf(containers, sizeof(containers),
	         "{\"name\":\"app\",\"image\":\"a\",\"essential\":true,\"dependsOn\":["
	         "{\"containerName\":\"init\",\"condition\":\"SUCCESS\"},"
	         "{\"containerName\":\"side\",\"condition\":\"START\"}]},"
	         "{\"name\":\"init\",\"image\":\"b\",\"essential\":false},"
	         "{\"name\":\"side\",\"image\":\"c\",\"essential\":true}");
	world_payload(world, "m-1", 1, world_task("t1", containers, NULL));
	world_wait_word(world, "start:side", 1);
	world_wait_word(world, "start:init", 1);
	world_settle(world);
	assert_int_equal(world_count(world, "create:app"), 0);

	world_exit(world, "t1", "init", 0, false);
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	assert_true(world_is_before(world, "start:side", "start:app"));

	world_payload(world, "m-2", 2,
	              "{\"arn\":\"" WORLD_ARN "t1\",\"desiredStatus\":\"STOPPED\"}");
	world_wait_word(world, "end:t1", 1);
	assert_true(world_is_before(world, "stop:app", "stop:side"));
}

static void test_dependency_that_fails_ends_its_dependents_with_143(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;
	struct json_object *app;

	world_payload(
		world, "m-1", 1,
		world_task("t1",
	                   "{\"name\":\"app\",\"image\":\"a\",\"essential\":true,\"dependsOn\":["
	                   "{\"containerName\":\"init\",\"condition\":\"SUCCESS\"}]},"
	                   "{\"name\":\"init\",\"image\":\"b\",\"essential\":false}",
	                   NULL));
	world_wait_word(world, "start:init", 1);
	world_settle(world);
	world_exit(world, "t1", "init", 9, false);
	world_wait_known(world, "t1", TASK_STATUS_STOPPED);
	events = world_events(world);
	app = container_of(last_event(events), "app");
	assert_int_equal(exit_code(app), 143);
	assert_int_equal(strncmp(json_text(app, "reason"),
	                         "CannotStartContainerError: dependency graph: ", 45),
	                 0);
	assert_int_equal(world_count(world, "create:app"), 0);
}

static void test_dependency_that_takes_longer_than_its_start_timeout(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;
	struct json_object *app;

	world_payload(
		world, "m-1", 1,
		world_task("t1",
	                   "{\"name\":\"app\",\"image\":\"a\",\"essential\":true,\"dependsOn\":["
	                   "{\"containerName\":\"init\",\"condition\":\"COMPLETE\"}]},"
	                   "{\"name\":\"init\",\"image\":\"b\",\"essential\":false,"
	                   "\"startTimeout\":1}",
	                   NULL));
	world_wait_word(world, "stop:init",
	                1); /* with the task, whose essential part cannot start */
	world_wait_known(world, "t1", TASK_STATUS_STOPPED);
	events = world_events(world);
	app = container_of(last_event(events), "app");
	assert_int_equal(exit_code(app), 143);
	assert_non_null(
		strstr(json_text(app, "reason"), "CannotStartContainerError: dependency graph: "));
	assert_non_null(strstr(json_text(app, "reason"), "has timed out"));
	assert_int_equal(exit_code(container_of(last_event(events), "init")), 143);
	assert_int_equal(world_count(world, "create:app"), 0);
}

/* Two containers, the second of which waits for the end of the first: is its image pulled? */
static unsigned int pulls_before_dependency(struct world *world)
{
	char containers[3000];

	snprintf(containers, sizeof(containers), "%s,%s", world_container("init", NULL),
	         world_container("app", ",\"dependsOn\":[{\"containerName\":\"init\","
	                                "\"condition\":\"SUCCESS\"}]"));
	world_payload(world, "m-1", 1, world_task("t1", containers, NULL));
	world_wait_word(world, "start:init", 1);
	world_settle(world);
	assert_int_equal(world_count(world, "create:app"), 0);
	return world_count(world, "pull:registry/app:1");
}

static void test_start_timeout_is_not_over_because_the_clock_is_set(void **state)
{
	struct world *world = *state;

	world_payload(
		world, "m-1", 1,
		world_task("t1",
	                   "{\"name\":\"app\",\"image\":\"a\",\"essential\":true,\"dependsOn\":["
	                   "{\"containerName\":\"init\",\"condition\":\"SUCCESS\"}]},"
	                   "{\"name\":\"init\",\"image\":\"b\",\"essential\":false,"
	                   "\"startTimeout\":600},"
	                   "{\"name\":\"side\",\"image\":\"c\",\"essential\":false}",
	                   NULL));
	world_wait_word(world, "start:init", 1);
	world_wait_word(world, "start:side", 1);
	world_settle(world);
	clock_step_usec = HOUR_USEC;
	world_exit(world, "t1", "side", 0, false); /* all of the task is looked at */
	world_settle(world);
	world_exit(world, "t1", "init", 0, false);
	world_wait_word(world, "start:app", 1);
}

static int accept_event(uint64_t id, const char *task_arn, const char *body, void *userdata)
{
	(void)task_arn;
	(void)body;
	return state_remove_event(userdata, id);
}

static void test_a_clock_that_is_set_back_keeps_no_record_for_longer(void **state)
{
	struct world *world = *state;

	world->config.task_cleanup_wait_usec = 1000;
	world_run_one(world, "t1");
	world_exit(world, "t1", "app", 0, false);
	world_wait_word(world, "reap:t1", 1);
	world_settle(world);
	assert_int_equal(state_read_events(world->state, accept_event, world->state, NULL), 0);
	clock_step_usec = -HOUR_USEC;
	world_stop_engine(world);
	world_start_engine(world);
	world_wait_known(world, "t1", TASK_STATUS_NONE);
}

static void test_dependents_are_pulled_up_front_where_asked_for(void **state)
{
	struct world *world = *state;

	assert_int_equal(pulls_before_dependency(world), 0);
	(void)world_teardown(state);
	(void)world_setup(state);
	world = *state;
	world->config.pull_dependent_upfront = true;
	assert_int_equal(pulls_before_dependency(world), 1);
}

/* The linked container runs before the one that links, and is stopped after it. */
static void test_links_order_starts_and_stops(void **state)
{
	struct world *world = *state;
	char containers[3000];

	snprintf(containers, sizeof(containers), "%s,%s",
	         world_container("app", ",\"links\":[\"db:store\"]"), world_container("db", NULL));
	world_payload(world, "m-1", 1, world_task("t1", containers, NULL));
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	assert_true(world_is_before(world, "start:db", "create:app"));
	world_payload(world, "m-2", 2,
	              "{\"arn\":\"" WORLD_ARN "t1\",\"desiredStatus\":\"STOPPED\"}");
	world_wait_word(world, "end:t1", 1);
	assert_true(world_is_before(world, "stop:app", "stop:db"));
}

static void test_circular_links_stop_the_task_at_once(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;
	char containers[3000];

	snprintf(containers, sizeof(containers), "%s,%s",
	         world_container("a", ",\"links\":[\"b\"]"),
	         world_container("b", ",\"dependsOn\":[{\"containerName\":\"a\","
	                              "\"condition\":\"START\"}]"));
	world_payload(world, "m-1", 1, world_task("t1", containers, NULL));
	world_wait_known(world, "t1", TASK_STATUS_STOPPED);
	events = world_events(world);
	assert_string_equal(json_text(last_event(events), "status"), "STOPPED");
	assert_string_equal(json_text(last_event(events), "reason"),
	                    "Task dependencies cannot be resolved, taskArn: " WORLD_ARN "t1");
	assert_int_equal(world_count(world, "launch:t1"), 0);
}

static void test_circular_dependencies_stop_the_task_at_once(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;

	world_payload(
		world, "m-1", 1,
		world_task("t1",
	                   "{\"name\":\"a\",\"image\":\"a\",\"essential\":true,\"dependsOn\":["
	                   "{\"containerName\":\"b\",\"condition\":\"START\"}]},"
	                   "{\"name\":\"b\",\"image\":\"b\",\"essential\":true,\"dependsOn\":["
	                   "{\"containerName\":\"a\",\"condition\":\"START\"}]}",
	                   NULL));
	world_wait_known(world, "t1", TASK_STATUS_STOPPED);
	events = world_events(world);
	assert_string_equal(json_text(last_event(events), "status"), "STOPPED");
	assert_non_null(json_text(last_event(events), "reason"));
	assert_int_equal(world_count(world, "launch:t1"), 0);
}

static void test_supervisor_is_told_in_which_order_to_stop(void **state)
{
	struct world *world = *state;
	char containers[2048];

	snprintf(containers, sizeof(containers), "%s", world_container("db", ",\"stopTimeout\":7"));
	strcat(containers, ",");
	strcat(containers, world_container("app", ",\"dependsOn\":[{\"containerName\":\"db\","
	                                          "\"condition\":\"START\"}]"));
	world_payload(world, "m-1", 1, world_task("t1", containers, NULL));
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	assert_int_equal(
		world_count(
			world,
			"stop-order:[{\"name\":\"db\",\"timeoutUsec\":7000000,\"after\":[\"app\"]},"
			"{\"name\":\"app\",\"timeoutUsec\":30000000,\"after\":[]}]"),
		1);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, world_setup, world_teardown)

#define CLOCK_TEST(f) cmocka_unit_test_setup_teardown(f, world_setup, set_clock_right)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_dependencies_order_starts_and_reverse_order_stops),
		TEST(test_dependency_that_fails_ends_its_dependents_with_143),
		TEST(test_dependency_that_takes_longer_than_its_start_timeout),
		CLOCK_TEST(test_start_timeout_is_not_over_because_the_clock_is_set),
		CLOCK_TEST(test_a_clock_that_is_set_back_keeps_no_record_for_longer),
		TEST(test_dependents_are_pulled_up_front_where_asked_for),
		TEST(test_links_order_starts_and_stops),
		TEST(test_circular_links_stop_the_task_at_once),
		TEST(test_circular_dependencies_stop_the_task_at_once),
		TEST(test_supervisor_is_told_in_which_order_to_stop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
