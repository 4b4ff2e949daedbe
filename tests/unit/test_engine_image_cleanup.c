/* agent/engine/image_cleanup: which images go and when, and what a pull on a full disk makes of it.
 */
#include "tests/unit/engine_world.h"

#include <errno.h>
#include <string.h>
#include <sys/statvfs.h>

#include "agent/engine/image_cleanup.h"
#include "lib/aws_keys.h"
#include "lib/json.h"

#define HOUR_USEC (3600ull * 1000 * 1000)
#define NOW       "2026-01-02T12:00:00Z"

/* --- the choice --- */

static bool is_used(const char *reference, bool by_ended, void *userdata)
{
	(void)userdata;
	return strstr(reference, "/used:") || (by_ended && strstr(reference, "/ended:"));
}

struct row {
	const char *name, *pulled_at;
	bool by_operator;
};

static struct json_object *make_images(const struct row *rows, size_t n)
{
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; i < n; i++) {
		struct json_object *image = json_object_new_object();

		json_add_string(image, "reference", rows[i].name);
		if (rows[i].pulled_at)
			json_add_string(image, "pulledAt", rows[i].pulled_at);
		if (rows[i].by_operator)
			json_add_bool(image, "byOperator", true);
		json_append(list, image);
	}
	return list;
}

/* want: the chosen ones in their order, each followed by a blank. */
static void expect_choice(const struct config *config, bool everything, const char *last_used,
                          struct json_object *images, const char *want)
{
	_cleanup_json_ struct json_object *uses = json_tokener_parse(last_used), *chosen = NULL;
	struct image_choice choice = {
		.config = config,
		.last_used = uses,
		.everything = everything,
		.is_used = is_used,
	};
	char found[1024] = "";

	assert_int_equal(aws_time_parse(NOW, &choice.now_realtime_usec), 0);
	assert_int_equal(image_cleanup_choose(&choice, images, &chosen), 0);
	for (size_t i = 0; i < json_object_array_length(chosen); i++) {
		strcat(found, json_object_get_string(json_object_array_get_idx(chosen, i)));
		strcat(found, " ");
	}
	assert_string_equal(found, want);
}

static void test_old_unused_images_go_least_recently_used_first(void **state)
{
	static const struct row rows[] = {
		{"r/a:1", "2026-01-02T10:00:00Z", false},
		{"r/b:1", "2026-01-02T09:00:00Z", false},
		{"r/new:1", "2026-01-02T11:00:01Z", false},
		{"r/used:1", "2026-01-01T00:00:00Z", false},
		{"r/c:1", "2026-01-02T11:00:00Z", false},
		{"r/d:1", "2026-01-01T00:00:00Z", false},
		{"r/future:1", "2026-01-03T00:00:00Z", false},
		{"r/ended:1", "2026-01-01T12:00:00Z", false},
		{"r/odd:1", NULL, false},
		{"r/odd:2", "yesterday", false},
	};
	const struct config config = {.image_cleanup_age_usec = HOUR_USEC,
	                              .image_cleanup_count = 3};
	_cleanup_json_ struct json_object *images = make_images(rows, ARRAY_SIZE(rows));

	(void)state;
	expect_choice(&config, false, "{}", images, "r/d:1 r/b:1 r/a:1 ");
	/* 11:30, later than the pull of any other that may go; and a time before its pull. */
	expect_choice(&config, false, "{\"r/d:1\":1767353400000000,\"r/b:1\":5}", images,
	              "r/b:1 r/a:1 r/c:1 ");
	expect_choice(&config, true, "{}", images,
	              "r/d:1 r/ended:1 r/b:1 r/a:1 r/c:1 r/new:1 r/future:1 ");
}

static void test_images_of_an_operator_go_only_when_asked_for_and_last(void **state)
{
	static const struct row rows[] = {
		{"r/hand:1", "2026-01-01T00:00:00Z", true},
		{"r/hand:2", "2026-01-02T10:00:00Z", true},
		{"r/task:1", "2026-01-02T10:00:00Z", false},
		{"r/used:1", "2026-01-01T00:00:00Z", true},
		{"docker.io/r/keep:latest", "2026-01-01T00:00:00Z", false},
	};
	static char *excluded[] = {(char *)(uintptr_t) "bad ref", (char *)(uintptr_t) "r/keep"};
	struct config config = {
		.image_cleanup_age_usec = HOUR_USEC,
		.untracked_image_cleanup_age_usec = 3 * HOUR_USEC,
		.image_cleanup_count = 5,
		.image_cleanup_excluded = {excluded, ARRAY_SIZE(excluded)},
	};
	_cleanup_json_ struct json_object *images = make_images(rows, ARRAY_SIZE(rows));

	(void)state;
	expect_choice(&config, false, "{}", images, "r/task:1 ");
	expect_choice(&config, true, "{}", images, "r/task:1 ");
	config.untracked_image_cleanup = true;
	expect_choice(&config, false, "{}", images, "r/task:1 r/hand:1 ");
	expect_choice(&config, true, "{}", images, "r/task:1 r/hand:1 r/hand:2 ");
	config.image_cleanup_count = 1;
	expect_choice(&config, false, "{}", images, "r/task:1 ");
}

/* --- in the engine --- */

static uint64_t disk_free_mib; /* of 1000, each look finds as much more */
static uint64_t disk_gain_mib;

int __wrap_statvfs(const char *path, struct statvfs *ret);
int __wrap_statvfs(const char *path, struct statvfs *ret)
{
	assert_string_equal(path, "/images");
	*ret = (struct statvfs){.f_frsize = 1 << 20, .f_blocks = 1000, .f_bavail = disk_free_mib};
	disk_free_mib += disk_gain_mib;
	return 0;
}

#define OLD    "2020-01-01T00:00:00Z"
#define UNUSED "{\"reference\":\"docker.io/registry/unused:1\",\"pulledAt\":\"" OLD "\"}"
/* world_container("app") has "registry/app:1". */
#define APP "{\"reference\":\"docker.io/registry/app:1\",\"pulledAt\":\"" OLD "\"}"

static void restart_with_interval(struct world *world, uint64_t usec)
{
	world_stop_engine(world);
	world->config.image_cleanup_interval_usec = usec;
	world_start_engine(world);
}

static void start_task(struct world *world)
{
	world_payload(world, "m-1", 1, world_task("t1", world_container("app", NULL), NULL));
}

static void test_a_cycle_removes_what_no_task_needs_and_sweeps(void **state)
{
	struct world *world = *state;

	world->images = "[" UNUSED "," APP "]";
	start_task(world);
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	restart_with_interval(world, 20000);
	world_wait_word(world, "sweep:", 2); /* and it comes again */
	assert_true(world_count(world, "remove:docker.io/registry/unused:1") > 0);
	assert_int_equal(world_count(world, "remove:docker.io/registry/app:1"), 0);
	assert_true(world_is_before(world, "remove:docker.io/registry/unused:1", "sweep:"));
}

/* The first image frees too little, the second one enough for the third to stay. */
static void test_a_disk_that_is_nearly_full_is_cleaned_until_there_is_room(void **state)
{
	struct world *world = *state;

	world->images_dir = "/images";
	world->images = "[{\"reference\":\"r/a:1\",\"pulledAt\":\"2999-01-01T00:00:00Z\"},"
			"{\"reference\":\"r/b:1\",\"pulledAt\":\"2999-01-02T00:00:00Z\"},"
			"{\"reference\":\"r/c:1\",\"pulledAt\":\"2999-01-03T00:00:00Z\"}]";
	disk_free_mib = 100; /* just enough */
	disk_gain_mib = 0;
	restart_with_interval(world, 20000);
	world_wait_word(world, "sweep:", 2); /* regular cycles, for which they are too young */
	assert_int_equal(world_count(world, "remove:r/a:1"), 0);

	disk_free_mib = 60;
	disk_gain_mib = 30; /* 60 is low, then 90 and 120 before the removals, and 150 */
	world_wait_word(world, "remove:r/b:1", 1);
	world_wait_word(world, "sweep:", 4);
	assert_int_equal(world_count(world, "remove:r/a:1"), 1);
	assert_int_equal(world_count(world, "remove:r/c:1"), 0);
	assert_true(world_is_before(world, "remove:r/a:1", "remove:r/b:1"));
}

static void test_without_cleanup_nothing_is_asked(void **state)
{
	struct world *world = *state;

	world->images = "[" UNUSED "]";
	world->config.image_cleanup_disabled = true;
	restart_with_interval(world, 1000);
	world->full_disk = 1;
	start_task(world);
	world_wait_known(world, "t1", TASK_STATUS_STOPPED);
	assert_int_equal(world_count(world, "list:"), 0);
}

static void test_a_pull_that_meets_a_full_disk_is_tried_again_after_a_cleanup(void **state)
{
	struct world *world = *state;

	world->images =
		"[{\"reference\":\"docker.io/registry/young:1\",\"pulledAt\":\"2999-01-01T00:00:00Z\"}," APP
		"]";
	world->full_disk = 1;
	start_task(world);
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	assert_int_equal(world_count(world, "pull:registry/app:1"), 2);
	assert_int_equal(world_count(world, "remove:docker.io/registry/young:1"), 1);
	assert_int_equal(world_count(world, "remove:docker.io/registry/app:1"), 0);
}

static void test_an_ended_task_keeps_its_image_until_the_disk_is_full(void **state)
{
	struct world *world = *state;

	world->images = "[" APP "]";
	start_task(world);
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	world_exit(world, "t1", "app", 1, false);
	world_wait_known(world, "t1", TASK_STATUS_STOPPED);
	restart_with_interval(world, 20000);
	world_wait_word(world, "sweep:", 2);
	assert_int_equal(world_count(world, "remove:docker.io/registry/app:1"), 0);

	restart_with_interval(world, HOUR_USEC);
	world_settle(world); /* it has ended altogether */
	world->full_disk = 1;
	world_payload(world, "m-2", 2, world_task("t2", world_container("web", NULL), NULL));
	world_wait_known(world, "t2", TASK_STATUS_RUNNING);
	assert_int_equal(world_count(world, "remove:docker.io/registry/app:1"), 1);
}

static void test_layers_without_an_image_make_room_too(void **state)
{
	struct world *world = *state;

	world->sweep_layers = 3;
	world->full_disk = 1;
	start_task(world);
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	assert_int_equal(world_count(world, "pull:registry/app:1"), 2);
}

static void test_a_sweep_waits_for_other_pulls(void **state)
{
	struct world *world = *state;

	world->images = "[" UNUSED "]";
	world->busy_sweeps = 1;
	world->full_disk = 1;
	start_task(world);
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	assert_int_equal(world_count(world, "sweep:"), 2);
}

static void test_a_disk_that_stays_full_ends_the_task_with_the_reason(void **state)
{
	struct world *world = *state;

	world->full_disk = 1; /* and there is nothing to remove */
	start_task(world);
	world_wait_known(world, "t1", TASK_STATUS_STOPPED);
	assert_int_equal(world_count(world, "pull:registry/app:1"), 1);

	world->images = "[" UNUSED "]";
	world->full_disk = 2; /* the second try meets it as well */
	world_payload(world, "m-2", 2, world_task("t2", world_container("app", NULL), NULL));
	world_wait_known(world, "t2", TASK_STATUS_STOPPED);
	assert_int_equal(world_count(world, "pull:registry/app:1"), 3);
	assert_non_null(
		strstr(world_find(world, "t2")->containers[0].reason, "no space left on device"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_old_unused_images_go_least_recently_used_first),
		cmocka_unit_test(test_images_of_an_operator_go_only_when_asked_for_and_last),
#define WORLD_TEST(f) cmocka_unit_test_setup_teardown(f, world_setup, world_teardown)
		WORLD_TEST(test_a_cycle_removes_what_no_task_needs_and_sweeps),
		WORLD_TEST(test_a_disk_that_is_nearly_full_is_cleaned_until_there_is_room),
		WORLD_TEST(test_without_cleanup_nothing_is_asked),
		WORLD_TEST(test_a_pull_that_meets_a_full_disk_is_tried_again_after_a_cleanup),
		WORLD_TEST(test_an_ended_task_keeps_its_image_until_the_disk_is_full),
		WORLD_TEST(test_layers_without_an_image_make_room_too),
		WORLD_TEST(test_a_sweep_waits_for_other_pulls),
		WORLD_TEST(test_a_disk_that_stays_full_ends_the_task_with_the_reason),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
