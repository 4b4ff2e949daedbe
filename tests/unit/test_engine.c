/* The engine among its peers: what is done in which order, what is reported, what a restart or a
 * death changes. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "agent/engine/engine_internal.h"
#include "lib/fd.h"
#include "lib/json.h"
#include "tests/unit/engine_world.h"

static struct json_object *event_at(struct json_object *events, size_t i)
{
	struct json_object *event = json_object_array_get_idx(events, i);

	if (!event)
		fail_msg("no event %zu in %s", i, json_to_text(events, NULL));
	return event;
}

static struct json_object *last_event(struct json_object *events)
{
	return event_at(events, json_object_array_length(events) - 1);
}

static struct json_object *container_of(struct json_object *event, const char *name)
{
	struct json_object *array = json_get(event, "containers");

	for (size_t i = 0; array && i < json_object_array_length(array); i++)
		if (strcmp(json_text(json_object_array_get_idx(array, i), "containerName"), name) ==
		    0)
			return json_object_array_get_idx(array, i);
	fail_msg("no container %s in %s", name, json_to_text(event, NULL));
	return NULL;
}

static int64_t exit_code(struct json_object *container)
{
	int64_t code = -1;

	(void)json_get_i64(container, "exitCode", 0, 255, &code, NULL);
	return code;
}

static void run_one(struct world *world, const char *id)
{
	world_payload(world, "m-1", 1, world_task(id, world_container("app", NULL), NULL));
	world_wait_known(world, id, TASK_STATUS_RUNNING);
}

static void test_task_goes_from_payload_to_stopped(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;
	struct json_object *app;

	run_one(world, "t1");
	assert_true(world_is_before(world, "ack:m-1", "launch:t1"));
	assert_true(world_is_before(world, "create:app", "attach:172.29.0.2"));
	assert_true(world_is_before(world, "attach:172.29.0.2", "serve:app"));
	assert_true(world_is_before(world, "documents", "start:app"));
	assert_true(world_is_before(world, "serve:app", "start:app"));

	world_exit(world, "t1", "app", 3, false);
	world_wait_word(world, "end:t1", 1);
	assert_true(world_is_before(world, "detach", "end:t1"));
	assert_true(world_is_before(world, "release", "end:t1"));
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

static void test_published_ports_are_reported_and_held_by_the_supervisor(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;
	struct json_object *binding;
	int64_t port = 0;

	world_payload(world, "m-1", 1,
	              world_task("t1",
	                         world_container("app", ",\"portMappings\":[{\"containerPort\":80,"
	                                                "\"hostPort\":0,\"protocol\":\"tcp\"}]"),
	                         NULL));
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	assert_int_equal(world_count(world, "port-socket:app"), 1);
	events = world_events(world);
	binding = json_object_array_get_idx(
		json_get(container_of(last_event(events), "app"), "networkBindings"), 0);
	assert_int_equal(json_get_i64(binding, "hostPort", 0, 65535, &port, NULL), 0);
	assert_int_equal(port, 32768);
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

static void test_restarted_agent_takes_up_what_runs_and_starts_nothing_twice(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;

	run_one(world, "t1");
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

static void test_running_task_survives_a_restart_untouched(void **state)
{
	struct world *world = *state;

	run_one(world, "t1");
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

	run_one(world, "t1");
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

static void test_exit_that_a_dead_supervisor_wrote_is_reported(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;

	run_one(world, "t1");
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

	run_one(world, "t1");
	world_settle(world);
	world_stop_engine(world);
	world_start_engine(world);
	world_wait_word(world, "found:t1", 1);
	world_exit(world, "t1", "app", 1, false);
	world_wait_word(world, "reap:t1", 1);
	assert_true(world_is_before(world, "end:t1", "reap:t1"));
}

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
	run_one(world, "t1");
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
	run_one(world, "t1");
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
	run_one(world, "t1");
	assert_int_equal(world_count(world, "pull:registry/app:1"), 1);
}

static void test_once_pulls_an_image_once(void **state)
{
	struct world *world = *state;

	world->config.image_pull_behavior = IMAGE_PULL_ONCE;
	world->image_is_local = true;
	run_one(world, "t1");
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
	run_one(world, "t1");
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

	run_one(world, "t1");
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

	run_one(world, "t1");
	world_payload(world, "m-2", 2, world_task("t1", world_container("app", NULL), NULL));
	world_wait_word(world, "ack:m-2", 1);
	world_settle(world);
	assert_int_equal(world_count(world, "launch:t1"), 1);
}

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

static void test_role_is_not_put_where_task_roles_are_off(void **state)
{
	struct world *world = *state;

	world->config.task_iam_role = false;
	world_payload(world, "m-1", 1, world_task("t1", world_container("app", NULL), roles));
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	assert_int_equal(world_count(world, "put-credentials:c-1"), 0);
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

/* Its release may have come while ecs-metadata was not there. */
static void test_metadata_that_still_has_a_stopped_task_is_told_again(void **state)
{
	struct world *world = *state;

	world_payload(world, "m-1", 1, world_task("t1", world_container("app", NULL), roles));
	world_wait_known(world, "t1", TASK_STATUS_RUNNING);
	world_exit(world, "t1", "app", 0, false);
	world_wait_known(world, "t1", TASK_STATUS_STOPPED);
	world_settle(world);
	assert_int_equal(world_count(world, "release"), 1);
	world_disconnect_metadata(world);
	world_wait_word(world, "complete", 2);
	assert_int_equal(world_count(world, "release"), 2);
	assert_int_equal(world_count(world, "release-all"), 0);
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

static void manifest(struct world *world, const char *id, int64_t timeline, const char *running)
{
	const struct acs_task_identifier task = {
		.task_arn = running, .task_cluster_arn = "", .desired_status = "RUNNING"};
	const struct acs_manifest m = {.message_id = id,
	                               .cluster_arn = "arn:c",
	                               .container_instance_arn = "arn:i",
	                               .timeline = timeline,
	                               .tasks = &task,
	                               .n_tasks = running ? 1 : 0};

	engine_acs_handlers.manifest(NULL, &m, world->engine);
}

static void test_task_that_the_manifest_lacks_stops_once_verified(void **state)
{
	struct world *world = *state;
	const struct acs_task_identifier stop = {
		.task_arn = WORLD_ARN "t1", .task_cluster_arn = "", .desired_status = "STOPPED"};
	struct acs_stop_verification verification = {
		.message_id = "other", .stop_tasks = &stop, .n_stop_tasks = 1};

	run_one(world, "t1");
	manifest(world, "m-7", 7, WORLD_ARN "t1");
	world_wait_word(world, "ack:m-7", 1);
	assert_int_equal(world_count(world, "candidate:t1"), 0);

	manifest(world, "m-8", 8, NULL);
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

	run_one(world, "t1");
	manifest(world, "m-7", 7, WORLD_ARN "t1");
	world_wait_word(world, "ack:m-7", 1);
	world_stop_engine(world);
	world_start_engine(world);
	manifest(world, "m-6", 7, NULL);
	world_settle(world);
	assert_int_equal(world_count(world, "ack:m-6"), 0);
	assert_int_equal(world_count(world, "candidate:t1"), 0);
}

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

	run_one(world, "t1");
	run_one(world, "t2");
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

	run_one(world, "t1");
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

	run_one(world, "t1");
	run_one(world, "t2");
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

	run_one(world, "t1");
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
	run_one(world, "t1");
	stops_it(world);
	assert_int_equal(world_count(world, "record:t1"), 1); /* and is not asked again */
}

static void test_record_of_another_instance_is_not_used(void **state)
{
	struct world *world = *state;

	run_one(world, "t1");
	world->instance_id = "i-2";
	stops_it(world);
}

static void test_record_of_another_cluster_is_not_used(void **state)
{
	struct world *world = *state;

	assert_int_equal(state_set(world->state, "cluster", "green"), 0);
	run_one(world, "t1");
	stops_it(world);
}

static void test_record_that_makes_no_sense_is_not_used(void **state)
{
	struct world *world = *state;

	run_one(world, "t1");
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

	run_one(world, "t1");
	lose_state_and_restart(world);
	world->engine->lost_wait_usec = 300 * 1000;
	manifest(world, "m-9", 9, WORLD_ARN "t7");
	/* Its payload was not acknowledged, and comes again. */
	world_payload(world, "m-10", 10, world_task("t7", world_container("app", NULL), NULL));
	world_wait_known(world, "t7", TASK_STATUS_RUNNING);
	manifest(world, "m-11", 11, WORLD_ARN "t8");
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
	manifest(world, "m-12", 12, WORLD_ARN "t9");
	assert_null(world->engine->lost_timer);
	world_settle(world);
	json_object_put(events);
	events = world_events(world);
	assert_int_equal(json_object_array_length(events), n);
}

static void test_exits_of_an_orderly_shutdown_are_reported_after_it(void **state)
{
	struct world *world = *state;
	_cleanup_json_ struct json_object *events = NULL;

	run_one(world, "t1");
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

	run_one(world, "t1");
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

	run_one(world, "t1");
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

	run_one(world, "t1");
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

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_task_goes_from_payload_to_stopped),
		TEST(test_published_ports_are_reported_and_held_by_the_supervisor),
		TEST(test_container_without_network_is_started_without_an_address),
		TEST(test_dependencies_order_starts_and_reverse_order_stops),
		TEST(test_dependency_that_fails_ends_its_dependents_with_143),
		TEST(test_dependency_that_takes_longer_than_its_start_timeout),
		TEST(test_dependents_are_pulled_up_front_where_asked_for),
		TEST(test_links_order_starts_and_stops),
		TEST(test_circular_links_stop_the_task_at_once),
		TEST(test_circular_dependencies_stop_the_task_at_once),
		TEST(test_waiting_tasks_get_room_in_order_when_one_has_ended),
		TEST(test_waiting_task_that_is_to_stop_stops_at_once),
		TEST(test_task_that_can_never_fit_fails_and_blocks_nobody),
		TEST(test_restarted_agent_takes_up_what_runs_and_starts_nothing_twice),
		TEST(test_container_made_before_a_restart_is_asked_for_again_and_started),
		TEST(test_running_task_survives_a_restart_untouched),
		TEST(test_dead_supervisor_is_reaped_and_its_containers_have_vanished),
		TEST(test_exit_that_a_dead_supervisor_wrote_is_reported),
		TEST(test_broken_connection_to_a_living_supervisor_changes_nothing),
		TEST(test_failed_pull_of_always_stops_the_task),
		TEST(test_failed_pull_of_default_uses_the_local_image),
		TEST(test_failed_pull_without_a_local_image_keeps_the_first_reason),
		TEST(test_prefer_cached_looks_once_into_the_local_store),
		TEST(test_prefer_cached_pulls_what_is_not_there),
		TEST(test_once_pulls_an_image_once),
		TEST(test_one_pull_serves_all_who_want_the_image),
		TEST(test_stop_during_a_pull_cancels_it),
		TEST(test_failed_start_has_its_exit_code_and_reason),
		TEST(test_start_without_an_answer_times_out_and_is_stopped),
		TEST(test_record_of_a_stopped_task_is_kept_until_ecs_has_accepted_it),
		TEST(test_oom_kill_is_the_reason),
		TEST(test_non_essential_container_ends_alone),
		TEST(test_unknown_task_that_is_to_stop_is_reported_stopped),
		TEST(test_invalid_task_is_reported_and_the_payload_not_acknowledged),
		TEST(test_repeated_payload_is_acknowledged_and_starts_nothing),
		TEST(test_credentials_are_put_before_the_start_and_acknowledged),
		TEST(test_role_of_a_task_that_mounts_with_iam_is_put_for_mounts),
		TEST(test_role_of_a_task_that_mounts_without_iam_is_its_own),
		TEST(test_role_is_not_put_where_task_roles_are_off),
		TEST(test_no_secret_is_in_the_store),
		TEST(test_restarted_metadata_gets_everything_again),
		TEST(test_metadata_that_kept_its_sockets_gets_none_again),
		TEST(test_metadata_that_lost_a_socket_of_a_task_gets_it_again),
		TEST(test_metadata_that_still_has_a_stopped_task_is_told_again),
		TEST(test_host_endpoint_is_asked_for_though_the_bridge_is_slower_than_metadata),
		TEST(test_task_that_the_manifest_lacks_stops_once_verified),
		TEST(test_old_manifest_is_ignored_also_after_a_restart),
		TEST(test_exits_of_an_orderly_shutdown_are_reported_after_it),
		TEST(test_task_that_ran_when_the_power_failed_is_stopped_with_that_reason),
		TEST(test_task_that_had_not_started_before_a_reboot_starts_after_it),
		TEST(test_supervisor_keeps_an_exit_until_the_store_has_it),
		TEST(test_nothing_is_reaped_before_the_store_has_its_exits),
		TEST(test_left_directories_of_unknown_tasks_are_reaped),
		TEST(test_supervisor_is_told_in_which_order_to_stop),
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
