/* Restart policies: which exits the engine answers with another start, and that nothing (a restart
 * of the agent, a lost answer, a lost store, a stop at any time) makes it forget or do it twice. */
#include <stdio.h>
#include <string.h>

#include "agent/engine/engine_internal.h"
#include "lib/json.h"
#include "tests/unit/engine_world.h"

#define LONG_USEC (60 * SECOND_USEC) /* the attempt period */
#define POLICY                                                                                     \
	",\"restartPolicy\":{\"enabled\":true,\"restartAttemptPeriod\":60,"                        \
	"\"ignoredExitCodes\":[0,42]}"

/* The last event must be that the task has STOPPED, with this exit code of "app" (-1: none). */
static void assert_stopped_with(struct world *world, int code, const char *reason)
{
	_cleanup_json_ struct json_object *events = NULL;
	struct json_object *event, *app;

	world_wait_known(world, "t1", TASK_STATUS_STOPPED);
	events = world_events(world);
	event = last_event(events);
	assert_string_equal(json_text(event, "status"), "STOPPED");
	app = container_of(event, "app");
	assert_int_equal(exit_code(app), code);
	if (!reason)
		assert_null(json_text(app, "reason"));
	else if (!json_text(app, "reason") || !strstr(json_text(app, "reason"), reason))
		fail_msg("%s", json_to_text(app, NULL));
}

static void run(struct world *world, const char *more)
{
	world->ran_usec = LONG_USEC;
	world_payload(world, "m-1", 1, world_task("t1", world_container("app", more), NULL));
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	world_settle(world);
}

static void stop(struct world *world)
{
	world_payload(world, "m-9", 9,
	              "{\"arn\":\"" WORLD_ARN "t1\",\"desiredStatus\":\"STOPPED\"}");
}

static const struct container *app(struct world *world)
{
	return task_container(world_find(world, "t1"), "app");
}

static size_t count_events(struct world *world)
{
	_cleanup_json_ struct json_object *events = world_events(world);

	return json_object_array_length(events);
}

static void test_a_container_is_started_again_and_ecs_is_told_nothing(void **state)
{
	struct world *world = *state;
	uint64_t started;
	size_t events;

	run(world, POLICY ",\"portMappings\":[{\"containerPort\":80,\"hostPort\":0}]");
	started = app(world)->started_realtime_usec;
	events = count_events(world);
	for (unsigned int i = 1; i <= 3; i++) {
		world_exit(world, "t1", "app", 1, i == 2); /* once for want of memory */
		world_wait_word(world, "start:app", i + 1);
		world_settle(world);
		assert_int_equal(app(world)->restart_count, i);
	}
	assert_int_equal(app(world)->known, TASK_STATUS_RUNNING);
	assert_int_equal(app(world)->started_realtime_usec, started);
	assert_int_equal(app(world)->finished_realtime_usec, 0);
	assert_false(app(world)->has_exit_code);
	assert_null(app(world)->reason);
	assert_int_equal(count_events(world), events);
	assert_int_equal(world_count(world, "create:app"), 1);
	assert_int_equal(world_count(world, "serve:app"), 1);
	assert_int_equal(world_count(world, "attach:172.29.0.2"), 1);
	assert_int_equal(world_count(world, "port-socket:app"), 1);

	stop(world);
	assert_stopped_with(world, 143, NULL);
	assert_int_equal(world_count(world, "start:app"), 4);
}

static void test_what_ends_a_container_for_good(void **state)
{
	static const struct {
		const char *policy;
		int code;
		uint64_t ran_usec;
	} cases[] = {
		{POLICY, 1, LONG_USEC - 1},
		{POLICY, 1, 0}, /* not told: it did not run */
		{POLICY, 0, LONG_USEC},
		{POLICY, 42, 10 * LONG_USEC},
		{",\"restartPolicy\":{\"enabled\":true}", 1, 299 * SECOND_USEC},
		{",\"restartPolicy\":{\"enabled\":false,\"restartAttemptPeriod\":60}", 1,
	         10 * LONG_USEC},
		{NULL, 1, 10 * LONG_USEC},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct world *world;

		if (i > 0) {
			(void)world_teardown(state);
			(void)world_setup(state);
		}
		world = *state;
		print_message("row %zu\n", i);
		run(world, cases[i].policy);
		world->ran_usec = cases[i].ran_usec;
		world_exit(world, "t1", "app", cases[i].code, false);
		assert_stopped_with(world, cases[i].code, NULL);
		assert_int_equal(world_count(world, "start:app"), 1);
	}
}

static void test_an_essential_container_that_is_started_again_stops_nobody(void **state)
{
	struct world *world = *state;
	char containers[3000];

	snprintf(containers, sizeof(containers), "%s,%s", world_container("app", POLICY),
	         world_container("side", NULL));
	world->ran_usec = LONG_USEC;
	world_payload(world, "m-1", 1, world_task("t1", containers, NULL));
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	world_exit(world, "t1", "app", 1, false);
	world_wait_word(world, "start:app", 2);
	world_settle(world);
	assert_int_equal(world_count(world, "stop:side"), 0);

	/* The end of another one is in time to keep it from being started. */
	world_exit(world, "t1", "side", 0, false);
	world_exit(world, "t1", "app", 5, false);
	assert_stopped_with(world, 5, NULL);
	assert_int_equal(world_count(world, "start:app"), 2);
}

static void test_an_exit_while_the_agent_is_away_is_answered_when_it_is_back(void **state)
{
	struct world *world = *state;

	run(world, POLICY);
	world_stop_engine(world);
	world_exit(world, "t1", "app", 1, false);
	world_start_engine(world);
	world_wait_word(world, "start:app", 2);
	world_settle(world);
	assert_int_equal(app(world)->known, TASK_STATUS_RUNNING);
	assert_int_equal(app(world)->restart_count, 1);

	/* The number is in the store, and goes on from there. */
	world_stop_engine(world);
	world_start_engine(world);
	assert_int_equal(app(world)->restart_count, 1);
	world_wait_word(world, "found:t1", 2);
	world_settle(world);
	world_exit(world, "t1", "app", 1, false);
	world_wait_word(world, "start:app", 3);
	world_settle(world);
	assert_int_equal(app(world)->restart_count, 2);

	world_stop_engine(world);
	world_exit(world, "t1", "app", 42, false);
	world_start_engine(world);
	assert_stopped_with(world, 42, NULL);
	assert_int_equal(world_count(world, "start:app"), 3);
}

static void test_an_agent_that_ends_in_the_midst_of_a_restart_counts_it_once(void **state)
{
	struct world *world = *state;

	run(world, POLICY);
	world->start_is_silent = true; /* asked for, and not carried out */
	world_exit(world, "t1", "app", 1, false);
	world_wait_word(world, "start:app", 2);
	world_stop_engine(world);
	world->start_is_silent = false;
	world->start_answer_is_lost = true; /* carried out, and the answer meets nobody */
	world_start_engine(world);
	world_wait_word(world, "start:app", 3);
	world_stop_engine(world);
	world->start_answer_is_lost = false;
	world_start_engine(world);
	world_wait_word(world, "found:t1", 2);
	world_settle(world);
	assert_int_equal(world_count(world, "start:app"), 3);
	assert_int_equal(app(world)->known, TASK_STATUS_RUNNING);
	assert_int_equal(app(world)->restart_count, 1);
}

static void test_a_stop_during_a_restart(void **state)
{
	struct world *world = *state;

	run(world, POLICY);
	world->start_is_silent = true;
	world_exit(world, "t1", "app", 7, false);
	world_wait_word(world, "start:app", 2);
	stop(world);
	world_settle(world);
	assert_int_equal(world_count(world, "stop:app"), 0); /* what comes of the start is open */
	world_stop_engine(world);
	world_start_engine(world);
	assert_stopped_with(world, 7, NULL);
	assert_int_equal(world_count(world, "start:app"), 2);
}

static void test_a_restart_that_was_carried_out_during_a_stop_is_stopped(void **state)
{
	struct world *world = *state;

	run(world, POLICY);
	world->start_answer_is_lost = true;
	world_exit(world, "t1", "app", 7, false);
	world_wait_word(world, "start:app", 2);
	stop(world);
	world_settle(world);
	world_stop_engine(world);
	world_start_engine(world);
	assert_stopped_with(world, 143, NULL);
	assert_int_equal(world_count(world, "stop:app"), 1);
}

static void test_a_restart_that_fails_leaves_the_exit_before_it(void **state)
{
	struct world *world = *state;

	run(world, POLICY);
	world->start_exit_code = 127;
	world_exit(world, "t1", "app", 7, false);
	assert_stopped_with(world, 7, "CannotStartContainerError: exec: not found");
	assert_int_equal(world_count(world, "start:app"), 2);
	assert_int_equal(app(world)->restart_count, 1);
}

static void test_an_exit_at_the_end_of_the_host_is_no_failure(void **state)
{
	struct world *world = *state;

	run(world, POLICY);
	world->host_ends = true;
	world_exit(world, "t1", "app", 143, false);
	assert_stopped_with(world, 143, NULL);
	assert_int_equal(app(world)->restart_count, 0);
}

static void test_nothing_is_started_again_without_its_supervisor(void **state)
{
	struct world *world = *state;

	run(world, POLICY);
	world_stop_engine(world);
	world_write_exit(world, "t1", "app", 5);
	world_kill_supervisor(world, "t1");
	world_start_engine(world);
	assert_stopped_with(world, 5, NULL);
	assert_int_equal(world_count(world, "start:app"), 1);
}

static void test_a_supervisor_that_dies_in_the_midst_of_a_restart(void **state)
{
	struct world *world = *state;

	run(world, POLICY);
	world->start_is_silent = true;
	world_exit(world, "t1", "app", 5, false);
	world_wait_word(world, "start:app", 2);
	world_kill_supervisor(world, "t1");
	assert_stopped_with(world, -1, "ContainerVanishedError");
}

static void test_the_number_of_restarts_is_rebuilt_with_the_store(void **state)
{
	struct world *world = *state;

	run(world, POLICY);
	world_exit(world, "t1", "app", 1, false);
	world_wait_word(world, "start:app", 2);
	world_settle(world);
	world_stop_engine(world);
	world_lose_state(world);
	world_exit(world, "t1", "app", 1, false);
	world_start_engine(world);
	world_wait_word(world, "start:app", 3);
	world_settle(world);
	assert_int_equal(app(world)->known, TASK_STATUS_RUNNING);
	assert_int_equal(app(world)->restart_count, 2);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, world_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_a_container_is_started_again_and_ecs_is_told_nothing),
		TEST(test_what_ends_a_container_for_good),
		TEST(test_an_essential_container_that_is_started_again_stops_nobody),
		TEST(test_an_exit_while_the_agent_is_away_is_answered_when_it_is_back),
		TEST(test_an_agent_that_ends_in_the_midst_of_a_restart_counts_it_once),
		TEST(test_a_stop_during_a_restart),
		TEST(test_a_restart_that_was_carried_out_during_a_stop_is_stopped),
		TEST(test_a_restart_that_fails_leaves_the_exit_before_it),
		TEST(test_an_exit_at_the_end_of_the_host_is_no_failure),
		TEST(test_nothing_is_started_again_without_its_supervisor),
		TEST(test_a_supervisor_that_dies_in_the_midst_of_a_restart),
		TEST(test_the_number_of_restarts_is_rebuilt_with_the_store),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
