/* What an engine finds when it comes back: supervisors that live or died meanwhile, exits, and a
 * host that was restarted. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "lib/fd.h"
#include "lib/json.h"
#include "tests/unit/engine_world.h"

static void test_restarted_agent_takes_up_what_runs_and_starts_nothing_twice(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;

	world_run_one(world, "t1");
	world_settle(world);
	world_stop_engine(world);
	world_exit(world, "t1", "app", 7, false); /* nobody listens */
	world_start_engine(world);
	world_wait_word(world, "found:t1", 1);
	world_wait_word(world, "end:t1", 1);
	assert_int_equal(world_count(world, "start:app"), 1);
	assert_int_equal(world_count(world, "launch:t1"), 1);
	events = world_events(world);
	assert_string_equal(json_text(last_event(events), "status"), "STOPPED");
	assert_int_equal(exit_code(container_of(last_event(events), "app")), 7);
}

static void test_container_made_before_a_restart_is_asked_for_again_and_started(void **state)
{
	struct world *world = *state;

	world->start_is_silent = true;
	world_payload(world, "m-1", 1, world_task("t1", world_container("app", NULL), NULL));
	world_wait_word(world, "start:app", 1);
	world_stop_engine(world); /* the start was never carried out */
	world->start_is_silent = false;
	world_start_engine(world);
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	assert_int_equal(world_count(world, "create:app"), 2);
	assert_int_equal(world_count(world, "start:app"), 2);
	assert_int_equal(world_count(world, "stop:app"), 0);
	assert_int_equal(world_count(world, "launch:t1"), 1);
}

/* The store has neither RUNNING nor the exit: what the supervisor says counts. */
static void test_start_that_ended_while_the_agent_was_away_is_stopped_not_denied(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;

	world->start_answer_is_lost = true;
	world_payload(world, "m-1", 1, world_task("t1", world_container("app", NULL), NULL));
	world_wait_word(world, "start:app", 1);
	world_payload(world, "m-2", 2,
	              "{\"arn\":\"" WORLD_ARN "t1\",\"desiredStatus\":\"STOPPED\"}");
	world_settle(world);
	assert_int_equal(world_count(world, "stop:app"), 0);
	world_stop_engine(world);
	world_start_engine(world);
	world_wait_word(world, "end:t1", 1);
	assert_int_equal(world_count(world, "stop:app"), 1);
	assert_true(world_is_before(world, "stop:app", "end:t1"));
	events = world_events(world);
	assert_string_equal(json_text(last_event(events), "status"), "STOPPED");
	assert_int_equal(exit_code(container_of(last_event(events), "app")), 143);
}

static void test_running_task_survives_a_restart_untouched(void **state)
{
	struct world *world = *state;

	world_run_one(world, "t1");
	world_settle(world);
	world_stop_engine(world);
	world_start_engine(world);
	world_wait_word(world, "found:t1", 1);
	world_settle(world);
	assert_int_equal(world_find(world, "t1")->known, TASK_STATUS_RUNNING);
	assert_int_equal(world_count(world, "stop:app"), 0);
	assert_int_equal(world_count(world, "prune:1"), 1);
}

static void test_dead_supervisor_is_reaped_and_its_containers_have_vanished(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;
	struct json_object *app;

	world_run_one(world, "t1");
	world_settle(world);
	world_kill_supervisor(world, "t1");
	world_wait_known(world, "t1", TASK_STATUS_STOPPED);
	assert_int_equal(world_count(world, "reap:t1"), 1);
	events = world_events(world);
	app = container_of(last_event(events), "app");
	assert_null(json_get(app, "exitCode"));
	assert_string_equal(
		json_text(app, "reason"),
		"ContainerVanishedError: The supervisor of the task ended unexpectedly");
	assert_null(strstr(json_text(last_event(events), "reason"), "host"));
	assert_int_equal(world_count(world, "launch:t1"), 1);
}

#define PORT ",\"portMappings\":[{\"containerPort\":80,\"hostPort\":0}]"

/* The next supervisor is there; what the first one's container was to get has come since. */
static void lose_supervisor(struct world *world, void (*release)(struct world *world))
{
	world_kill_supervisor(world, "t1");
	world_wait_word(world, "launch:t1", 2);
	release(world);
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	assert_int_equal(world_count(world, "create:app"), 2);
	assert_int_equal(world_count(world, "attach:172.29.0.2"), 2);
	assert_int_equal(world_count(world, "start:app"), 1);
	assert_int_equal(world_count(world, "port-socket:app"), 1);
}

static void test_link_of_a_dead_supervisor_is_not_that_of_the_next(void **state)
{
	struct world *world = *state;

	world->hold_attach = true;
	world_payload(world, "m-1", 1, world_task("t1", world_container("app", PORT), NULL));
	world_wait_word(world, "attach-held", 1);
	lose_supervisor(world, world_release_attach);
	assert_int_equal(world_count(world, "serve:app"), 1);
}

static void test_endpoint_of_a_dead_supervisor_is_not_that_of_the_next(void **state)
{
	struct world *world = *state;

	world->hold_serve = true;
	world_payload(world, "m-1", 1, world_task("t1", world_container("app", PORT), NULL));
	world_wait_word(world, "serve:app", 1);
	lose_supervisor(world, world_release_serve);
	assert_int_equal(world_count(world, "serve:app"), 2);
}

static void test_exit_that_a_dead_supervisor_wrote_is_reported(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;

	world_run_one(world, "t1");
	world_settle(world);
	world_stop_engine(world);
	world_write_exit(world, "t1", "app", 5);
	world_kill_supervisor(world, "t1");
	world_start_engine(world);
	world_wait_known(world, "t1", TASK_STATUS_STOPPED);
	events = world_events(world);
	assert_int_equal(exit_code(container_of(last_event(events), "app")), 5);
}

static void test_broken_connection_to_a_living_supervisor_changes_nothing(void **state)
{
	struct world *world = *state;

	world_run_one(world, "t1");
	world_settle(world);
	world_stop_engine(world);
	world_start_engine(world);
	world_wait_word(world, "found:t1", 1);
	world_exit(world, "t1", "app", 1, false);
	world_wait_word(world, "reap:t1", 1);
	assert_true(world_is_before(world, "end:t1", "reap:t1"));
}

static void test_exits_of_an_orderly_shutdown_are_reported_after_it(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;

	world_run_one(world, "t1");
	world_settle(world);
	world_stop_engine(world);
	world_save_exit(world, "t1", "app", 42);
	world_restart_host(world, "boot-2");
	world_start_engine(world);
	world_wait_known(world, "t1", TASK_STATUS_STOPPED);
	world_wait_word(world, "reap:t1", 1);
	events = world_events(world);
	assert_int_equal(exit_code(container_of(last_event(events), "app")), 42);
	assert_string_equal(json_text(last_event(events), "reason"),
	                    "The host was restarted while the task was running");
	assert_int_equal(world_count(world, "launch:t1"), 1);
}

static void test_task_that_ran_when_the_power_failed_is_stopped_with_that_reason(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;

	world_run_one(world, "t1");
	world_settle(world);
	world_stop_engine(world);
	world_restart_host(world, "boot-2");
	world_start_engine(world);
	/* What became of it is durable with the new boot id, or not at all. */
	assert_int_equal(state_commit(world->state, NULL), 0);
	world_stop_engine(world);
	world_start_engine(world);
	world_wait_known(world, "t1", TASK_STATUS_STOPPED);
	events = world_events(world);
	assert_null(json_get(container_of(last_event(events), "app"), "exitCode"));
	assert_string_equal(
		json_text(container_of(last_event(events), "app"), "reason"),
		"ContainerVanishedError: The host was restarted while the container was running");
	assert_string_equal(json_text(last_event(events), "reason"),
	                    "The host was restarted while the task was running");
}

static void test_task_that_had_not_started_before_a_reboot_starts_after_it(void **state)
{
	struct world *world = *state;

	world->hold_pulls = true;
	world_payload(world, "m-1", 1, world_task("t1", world_container("app", NULL), NULL));
	world_wait_word(world, "setup:t1", 1);
	world_settle(world);
	world_stop_engine(world);
	world_restart_host(world, "boot-2");
	world->hold_pulls = false;
	world_start_engine(world);
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	assert_int_equal(world_count(world, "launch:t1"), 2);
	assert_int_equal(world_count(world, "start:app"), 1);
}

/* Files cannot grow: every commit fails as on a full disk. */
static void fill_disk(bool is_full)
{
	struct rlimit limit;

	(void)signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
	limit.rlim_cur = is_full ? 1 : limit.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void test_supervisor_keeps_an_exit_until_the_store_has_it(void **state)
{
	struct world *world = *state;

	world_run_one(world, "t1");
	world_settle(world);
	fill_disk(true);
	world_exit(world, "t1", "app", 7, false);
	world_wait_known(world, "t1", TASK_STATUS_STOPPED);
	world_settle(world);
	assert_int_equal(world_count(world, "end:t1"), 0);
	fill_disk(false);
	world_wait_word(world, "end:t1", 1);
}

static void test_nothing_is_reaped_before_the_store_has_its_exits(void **state)
{
	struct world *world = *state;

	world_run_one(world, "t1");
	world_settle(world);
	world_write_exit(world, "t1", "app", 5);
	fill_disk(true);
	world_kill_supervisor(world, "t1");
	world_wait_known(world, "t1", TASK_STATUS_STOPPED);
	world_settle(world);
	assert_int_equal(world_count(world, "reap:t1"), 0);
	fill_disk(false);
	world_wait_word(world, "reap:t1", 1);
}

/* ecs-network has carried it out; the agent is killed before the address is in the store. */
static void test_attach_that_the_store_knows_nothing_of_is_undone(void **state)
{
	struct world *world = *state;

	world_payload(world, "m-1", 1, world_task("t1", world_container("app", NULL), NULL));
	world_wait_word(world, "create:app", 1);
	fill_disk(true);
	world_wait_word(world, "attach:172.29.0.2", 1);
	world_stop_engine(world);
	fill_disk(false);
	world_start_engine(world);
	assert_string_equal(world_find(world, "t1")->containers[0].address, "");
	world_payload(world, "m-2", 2,
	              "{\"arn\":\"" WORLD_ARN "t1\",\"desiredStatus\":\"STOPPED\"}");
	world_wait_known(world, "t1", TASK_STATUS_STOPPED);
	world_wait_word(world, "detach", 1);
	assert_int_equal(world_count(world, "attach:172.29.0.2"), 1);
	assert_int_equal(world_count(world, "prune:0"), 2);
	assert_int_equal(world_count(world, "prune:1"), 0);
}

static void test_left_directories_of_unknown_tasks_are_reaped(void **state)
{
	struct world *world = *state;
	char path[128];

	world_stop_engine(world);
	world_save_exit(world, "t8", "app", 1);
	snprintf(path, sizeof(path), "%s/tasks/t9", world->state_dir);
	assert_int_equal(dir_create_all(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/tasks/.empty", world->state_dir);
	assert_int_equal(dir_create_all(path, 0700), 0);
	world_start_engine(world);
	world_wait_word(world, "reap:t8", 1);
	world_wait_word(world, "reap:t9", 1);
	assert_int_equal(world_count(world, "reap:.empty"), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, world_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_restarted_agent_takes_up_what_runs_and_starts_nothing_twice),
		TEST(test_container_made_before_a_restart_is_asked_for_again_and_started),
		TEST(test_start_that_ended_while_the_agent_was_away_is_stopped_not_denied),
		TEST(test_running_task_survives_a_restart_untouched),
		TEST(test_dead_supervisor_is_reaped_and_its_containers_have_vanished),
		TEST(test_link_of_a_dead_supervisor_is_not_that_of_the_next),
		TEST(test_endpoint_of_a_dead_supervisor_is_not_that_of_the_next),
		TEST(test_exit_that_a_dead_supervisor_wrote_is_reported),
		TEST(test_broken_connection_to_a_living_supervisor_changes_nothing),
		TEST(test_exits_of_an_orderly_shutdown_are_reported_after_it),
		TEST(test_task_that_ran_when_the_power_failed_is_stopped_with_that_reason),
		TEST(test_task_that_had_not_started_before_a_reboot_starts_after_it),
		TEST(test_supervisor_keeps_an_exit_until_the_store_has_it),
		TEST(test_nothing_is_reaped_before_the_store_has_its_exits),
		TEST(test_attach_that_the_store_knows_nothing_of_is_undone),
		TEST(test_left_directories_of_unknown_tasks_are_reaped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
