/* When the engine pulls an image, when it takes the local one, and what a failed pull means. */
#include <stdio.h>

#include "lib/json.h"
#include "tests/unit/engine_world.h"

static void test_failed_pull_of_always_stops_the_task(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;

	world->config.image_pull_behavior = IMAGE_PULL_ALWAYS;
	world->pull_error = "CannotPullContainerError";
	world->image_is_local = true;
	world_payload(world, "m-1", 1, world_task("t1", world_container("app", NULL), NULL));
	world_wait_known(world, "t1", TASK_STATUS_STOPPED);
	events = world_events(world);
	assert_string_equal(json_text(container_of(last_event(events), "app"), "reason"),
	                    "CannotPullContainerError: no such image");
	assert_int_equal(world_count(world, "inspect:registry/app:1"), 0);
}

static void test_failed_pull_of_default_uses_the_local_image(void **state)
{
	struct world *world = *state;

	world->pull_error = "CannotPullContainerError";
	world->image_is_local = true;
	world_run_one(world, "t1");
	assert_true(world_is_before(world, "pull:registry/app:1", "inspect:registry/app:1"));
}

static void test_failed_pull_without_a_local_image_keeps_the_first_reason(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;

	world->pull_error = "CannotPullImageManifestError";
	world_payload(world, "m-1", 1, world_task("t1", world_container("app", NULL), NULL));
	world_wait_known(world, "t1", TASK_STATUS_STOPPED);
	events = world_events(world);
	assert_string_equal(json_text(container_of(last_event(events), "app"), "reason"),
	                    "CannotPullImageManifestError: no such image");
}

static void test_prefer_cached_looks_once_into_the_local_store(void **state)
{
	struct world *world = *state;

	world->config.image_pull_behavior = IMAGE_PULL_PREFER_CACHED;
	world->image_is_local = true;
	world_run_one(world, "t1");
	world_payload(world, "m-2", 2, world_task("t2", world_container("app", NULL), NULL));
	world_wait_known(world, "t2", TASK_STATUS_RUNNING);
	assert_int_equal(world_count(world, "inspect:registry/app:1"), 1);
	assert_int_equal(world_count(world, "pull:registry/app:1"), 0);
}

static void test_prefer_cached_pulls_what_is_not_there(void **state)
{
	struct world *world = *state;

	world->config.image_pull_behavior = IMAGE_PULL_PREFER_CACHED;
	world->image_is_local = false;
	world_run_one(world, "t1");
	assert_int_equal(world_count(world, "pull:registry/app:1"), 1);
}

static void test_once_pulls_an_image_once(void **state)
{
	struct world *world = *state;

	world->config.image_pull_behavior = IMAGE_PULL_ONCE;
	world->image_is_local = true;
	world_run_one(world, "t1");
	world_payload(world, "m-2", 2, world_task("t2", world_container("app", NULL), NULL));
	world_wait_known(world, "t2", TASK_STATUS_RUNNING);
	assert_int_equal(world_count(world, "pull:registry/app:1"), 1);
}

static void test_one_pull_serves_all_who_want_the_image(void **state)
{
	struct world *world = *state;
	char tasks[8192];

	world->hold_pulls = true;
	snprintf(tasks, sizeof(tasks), "%s,%s",
	         world_task("t1", world_container("app", NULL), NULL),
	         world_task("t2", world_container("app", NULL), NULL));
	world_payload(world, "m-1", 1, tasks);
	world_wait_word(world, "setup:t2", 1);
	world_settle(world);
	assert_int_equal(world_count(world, "pull:registry/app:1"), 1);
	world_release_pulls(world);
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	world_wait_known(world, "t2", TASK_STATUS_RUNNING);
}

static void test_stop_during_a_pull_cancels_it(void **state)
{
	struct world *world = *state;

	world->hold_pulls = true;
	world_payload(world, "m-1", 1, world_task("t1", world_container("app", NULL), NULL));
	world_wait_word(world, "pull:registry/app:1", 1);
	world_wait_word(world, "setup:t1", 1);
	world_payload(world, "m-2", 2,
	              "{\"arn\":\"" WORLD_ARN "t1\",\"desiredStatus\":\"STOPPED\"}");
	world_wait_word(world, "pull-cancelled", 1);
	world_wait_word(world, "end:t1", 1);
	assert_int_equal(world_count(world, "create:app"), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, world_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_failed_pull_of_always_stops_the_task),
		TEST(test_failed_pull_of_default_uses_the_local_image),
		TEST(test_failed_pull_without_a_local_image_keeps_the_first_reason),
		TEST(test_prefer_cached_looks_once_into_the_local_store),
		TEST(test_prefer_cached_pulls_what_is_not_there),
		TEST(test_once_pulls_an_image_once),
		TEST(test_one_pull_serves_all_who_want_the_image),
		TEST(test_stop_during_a_pull_cancels_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
