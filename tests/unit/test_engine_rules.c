/* The engine's rules that are functions of what they are given: dependencies, the minimum rule,
 * host resources, addresses, credentials of a pull. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/engine/addresses.h"
#include "agent/engine/host_resources.h"
#include "agent/engine/image_auth.h"
#include "agent/engine/progress.h"
#include "lib/json.h"
#include "netns/protocol.h"

/* Dependencies. */

struct case_ {
	const char *what;
	enum dependency_condition condition;
	enum task_status known, desired;
	int started;       /* seconds ago; 0: never */
	int exit_code;     /* -1: unknown */
	int start_timeout; /* seconds */
	enum dependency_state expected;
	enum health_status health;
	enum task_status target; /* how far the one that waits has got */
	bool created;
	const char *why; /* of DEPENDENCIES_NEVER, where it matters */
};

static const struct case_ cases[] = {
	{"START waits for a start", DEPENDENCY_START, TASK_STATUS_CREATED, TASK_STATUS_RUNNING, 0,
         -1, 0, .expected = DEPENDENCIES_WAIT},
	{"START is met by running", DEPENDENCY_START, TASK_STATUS_RUNNING, TASK_STATUS_RUNNING, 1,
         -1, 0, .expected = DEPENDENCIES_MET},
	{"START is met by having run", DEPENDENCY_START, TASK_STATUS_STOPPED, TASK_STATUS_STOPPED,
         1, 7, 0, .expected = DEPENDENCIES_MET},
	{"START is never met without a start", DEPENDENCY_START, TASK_STATUS_STOPPED,
         TASK_STATUS_STOPPED, 0, -1, 0, .expected = DEPENDENCIES_NEVER},
	{"START is never met by what is to stop", DEPENDENCY_START, TASK_STATUS_CREATED,
         TASK_STATUS_STOPPED, 0, -1, 0, .expected = DEPENDENCIES_NEVER},
	{"START is not met by a command that cannot be run", DEPENDENCY_START, TASK_STATUS_STOPPED,
         TASK_STATUS_STOPPED, 0, 127, 0, .expected = DEPENDENCIES_NEVER, .created = true,
         .why = "container dep, which app depends on, did not start"},
	{"CREATE waits for a start", DEPENDENCY_CREATE, TASK_STATUS_CREATED, TASK_STATUS_RUNNING, 0,
         -1, 0, .expected = DEPENDENCIES_WAIT, .created = true},
	{"CREATE is met by running", DEPENDENCY_CREATE, TASK_STATUS_RUNNING, TASK_STATUS_RUNNING, 1,
         -1, 0, .expected = DEPENDENCIES_MET, .created = true},
	{"CREATE is met by a command that cannot be run", DEPENDENCY_CREATE, TASK_STATUS_STOPPED,
         TASK_STATUS_STOPPED, 0, 127, 0, .expected = DEPENDENCIES_MET, .created = true},
	{"CREATE is not met by what was made and never begun", DEPENDENCY_CREATE,
         TASK_STATUS_STOPPED, TASK_STATUS_STOPPED, 0, -1, 0, .expected = DEPENDENCIES_NEVER,
         .created = true},
	{"CREATE is not met by what was not made", DEPENDENCY_CREATE, TASK_STATUS_STOPPED,
         TASK_STATUS_STOPPED, 0, 143, 0, .expected = DEPENDENCIES_NEVER},
	{"COMPLETE waits while running", DEPENDENCY_COMPLETE, TASK_STATUS_RUNNING,
         TASK_STATUS_RUNNING, 1, -1, 0, .expected = DEPENDENCIES_WAIT},
	{"COMPLETE takes any exit code", DEPENDENCY_COMPLETE, TASK_STATUS_STOPPED,
         TASK_STATUS_STOPPED, 1, 9, 0, .expected = DEPENDENCIES_MET},
	{"COMPLETE needs an exit code", DEPENDENCY_COMPLETE, TASK_STATUS_STOPPED,
         TASK_STATUS_STOPPED, 1, -1, 0, .expected = DEPENDENCIES_NEVER},
	{"COMPLETE waits for one that is stopping", DEPENDENCY_COMPLETE, TASK_STATUS_RUNNING,
         TASK_STATUS_STOPPED, 1, -1, 0, .expected = DEPENDENCIES_WAIT},
	{"SUCCESS takes 0", DEPENDENCY_SUCCESS, TASK_STATUS_STOPPED, TASK_STATUS_STOPPED, 1, 0, 0,
         .expected = DEPENDENCIES_MET},
	{"SUCCESS takes nothing else", DEPENDENCY_SUCCESS, TASK_STATUS_STOPPED, TASK_STATUS_STOPPED,
         1, 1, 0, .expected = DEPENDENCIES_NEVER},
	{"startTimeout is not over", DEPENDENCY_SUCCESS, TASK_STATUS_RUNNING, TASK_STATUS_RUNNING,
         5, -1, 10, .expected = DEPENDENCIES_WAIT},
	{"startTimeout is over", DEPENDENCY_SUCCESS, TASK_STATUS_RUNNING, TASK_STATUS_RUNNING, 10,
         -1, 10, .expected = DEPENDENCIES_NEVER},
	{"startTimeout is not about START", DEPENDENCY_START, TASK_STATUS_CREATED,
         TASK_STATUS_RUNNING, 0, -1, 1, .expected = DEPENDENCIES_WAIT},
	{"startTimeout is not about what is created", DEPENDENCY_SUCCESS, TASK_STATUS_RUNNING,
         TASK_STATUS_RUNNING, 10, -1, 10, .expected = DEPENDENCIES_WAIT,
         .target = TASK_STATUS_CREATED},
	{"startTimeout is over, though the image is here", DEPENDENCY_SUCCESS, TASK_STATUS_RUNNING,
         TASK_STATUS_RUNNING, 10, -1, 10, .expected = DEPENDENCIES_NEVER,
         .target = TASK_STATUS_PULLED},
	{"HEALTHY waits for the first check", DEPENDENCY_HEALTHY, TASK_STATUS_RUNNING,
         TASK_STATUS_RUNNING, 5, -1, 10, .expected = DEPENDENCIES_WAIT},
	{"HEALTHY is met", DEPENDENCY_HEALTHY, TASK_STATUS_RUNNING, TASK_STATUS_RUNNING, 50, -1, 10,
         .expected = DEPENDENCIES_MET, .health = HEALTH_HEALTHY},
	{"HEALTHY waits while unhealthy", DEPENDENCY_HEALTHY, TASK_STATUS_RUNNING,
         TASK_STATUS_RUNNING, 5, -1, 0, .expected = DEPENDENCIES_WAIT, .health = HEALTH_UNHEALTHY},
	{"startTimeout is about HEALTHY", DEPENDENCY_HEALTHY, TASK_STATUS_RUNNING,
         TASK_STATUS_RUNNING, 10, -1, 10, .expected = DEPENDENCIES_NEVER,
         .health = HEALTH_UNHEALTHY},
	{"HEALTHY is never met by what has ended", DEPENDENCY_HEALTHY, TASK_STATUS_STOPPED,
         TASK_STATUS_STOPPED, 5, 0, 0, .expected = DEPENDENCIES_NEVER, .health = HEALTH_HEALTHY},
	{"startTimeout counts from the start", DEPENDENCY_COMPLETE, TASK_STATUS_CREATED,
         TASK_STATUS_RUNNING, 0, -1, 1, .expected = DEPENDENCIES_WAIT},
};

#define NOW 1000000000000ull

static void test_conditions_are_met_as_ecs_says(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const struct case_ *c = &cases[i];
		struct dependency edge = {.container = (char *)"dep", .condition = c->condition};
		struct container containers[] = {
			{.name = (char *)"app",
		         .known = c->target,
		         .dependencies = &edge,
		         .n_dependencies = 1},
			{.name = (char *)"dep",
		         .health = c->health,
		         .known = c->known,
		         .desired = c->desired,
		         .has_exit_code = c->exit_code >= 0,
		         .exit_code = c->exit_code,
		         .start_timeout_usec = (uint64_t)c->start_timeout * 1000000,
		         .created_realtime_usec = c->created ? 1 : 0,
		         .started_realtime_usec = c->started ? 1 : 0,
		         .started_usec = c->started ? NOW - (uint64_t)c->started * 1000000 : 0},
		};
		struct task task = {.containers = containers, .n_containers = 2};
		uint64_t deadline = UINT64_MAX;
		struct err err = {0};
		enum dependency_state got;

		got = dependencies_check(&task, &containers[0], NOW, &deadline, &err);
		if (got != c->expected)
			fail_msg("%s: %d, not %d", c->what, got, c->expected);
		if (got == DEPENDENCIES_NEVER && strncmp(err.text, "dependency graph: ", 18) != 0)
			fail_msg("%s: '%s'", c->what, err.text);
		if (c->why && !strstr(err.text, c->why))
			fail_msg("%s: '%s'", c->what, err.text);
	}
}

static void test_start_timeout_says_when_it_ends(void **state)
{
	struct dependency edge = {.container = (char *)"dep", .condition = DEPENDENCY_COMPLETE};
	struct container containers[] = {
		{.name = (char *)"app", .dependencies = &edge, .n_dependencies = 1},
		{.name = (char *)"dep",
	         .known = TASK_STATUS_RUNNING,
	         .desired = TASK_STATUS_RUNNING,
	         .start_timeout_usec = 10,
	         .started_usec = NOW - 4},
	};
	struct task task = {.containers = containers, .n_containers = 2};
	uint64_t deadline = UINT64_MAX;

	(void)state;
	(void)dependencies_check(&task, &containers[0], NOW, &deadline, NULL);
	assert_int_equal(deadline, NOW + 6);
}

static void test_missing_and_circular_dependencies_do_not_resolve(void **state)
{
	struct dependency to_b = {.container = (char *)"b"}, to_a = {.container = (char *)"a"};
	struct dependency to_nobody = {.container = (char *)"nobody"};
	struct container containers[] = {
		{.name = (char *)"a", .dependencies = &to_b, .n_dependencies = 1},
		{.name = (char *)"b"},
	};
	struct task task = {.arn = (char *)"arn:x", .containers = containers, .n_containers = 2};
	struct err err = {0};

	(void)state;
	assert_int_equal(dependencies_resolve(&task, &err), 0);
	containers[1] = (struct container){
		.name = (char *)"b", .dependencies = &to_nobody, .n_dependencies = 1};
	assert_int_equal(dependencies_resolve(&task, &err), -ENOENT);
	assert_string_equal(err.text, "Task dependencies cannot be resolved, taskArn: arn:x");
	containers[1].dependencies = &to_a;
	assert_int_equal(dependencies_resolve(&task, &err), -ELOOP);
	containers[1].dependencies = &to_b; /* itself */
	assert_int_equal(dependencies_resolve(&task, &err), -ELOOP);
}

/* The minimum rule. */

static void test_task_is_where_the_container_furthest_behind_is(void **state)
{
	static const struct {
		enum task_status app, side, before, expected;
	} rows[] = {
		/* app is essential, side is not */
		{TASK_STATUS_RUNNING, TASK_STATUS_PULLED, TASK_STATUS_NONE, TASK_STATUS_PULLED},
		{TASK_STATUS_RUNNING, TASK_STATUS_RUNNING, TASK_STATUS_CREATED,
	         TASK_STATUS_RUNNING},
		{TASK_STATUS_RUNNING, TASK_STATUS_STOPPED, TASK_STATUS_CREATED,
	         TASK_STATUS_RUNNING},
		{TASK_STATUS_STOPPED, TASK_STATUS_RUNNING, TASK_STATUS_CREATED,
	         TASK_STATUS_CREATED},
		{TASK_STATUS_STOPPED, TASK_STATUS_STOPPED, TASK_STATUS_CREATED,
	         TASK_STATUS_STOPPED},
		{TASK_STATUS_NONE, TASK_STATUS_NONE, TASK_STATUS_PULLED, TASK_STATUS_PULLED},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct container containers[] = {
			{.name = (char *)"app", .essential = true, .known = rows[i].app},
			{.name = (char *)"side", .known = rows[i].side},
		};
		struct task task = {
			.containers = containers, .n_containers = 2, .known = rows[i].before};

		if (task_status_reached(&task) != rows[i].expected)
			fail_msg("row %zu: %s", i,
			         task_status_to_string(task_status_reached(&task)));
	}
}

/* Host resources. */

static struct host_resources *make_host(void)
{
	static const uint16_t reserved[] = {22};
	const struct host_capacity capacity = {.cpu_units = 2048,
	                                       .memory_mib = 1000,
	                                       .reserved_ports = reserved,
	                                       .n_reserved_ports = 1};
	struct host_resources *host = NULL;

	assert_int_equal(host_resources_new(&capacity, &host), 0);
	return host;
}

static void test_resources_are_taken_and_given_back(void **state)
{
	_cleanup_(host_resources_freep) struct host_resources *host = make_host();
	struct container c = {.cpu_shares = 1500, .memory_mib = 10};
	struct task by_container = {.containers = &c, .n_containers = 1};
	struct task by_task = {.cpu = 1.0, .memory_mib = 500};
	struct task too_large = {.cpu = 1.0, .memory_mib = 1001};

	(void)state;
	assert_int_equal(host_resources_take(host, &by_container, NULL), 0);
	assert_int_equal(host_resources_take(host, &by_task, NULL), -EAGAIN);
	assert_int_equal(host_resources_take(host, &too_large, NULL), -EINVAL);
	host_resources_give(host, &by_container);
	assert_int_equal(host_resources_take(host, &by_task, NULL), 0);
	assert_int_equal(host_resources_take(host, &by_task, NULL), 0);
	assert_int_equal(host_resources_take(host, &by_task, NULL), -EAGAIN);
}

static void test_reservation_counts_instead_of_the_hard_limit(void **state)
{
	_cleanup_(host_resources_freep) struct host_resources *host = make_host();
	_cleanup_json_ struct json_object *host_config = json_object_new_object();
	struct container c = {.memory_mib = 900, .host_config = host_config};
	struct task task = {.containers = &c, .n_containers = 1};

	(void)state;
	assert_int_equal(json_add_i64(host_config, "MemoryReservation", 400 << 20), 0);
	assert_int_equal(host_resources_take(host, &task, NULL), 0);
	assert_int_equal(host_resources_take(host, &task, NULL), 0);
	assert_int_equal(host_resources_take(host, &task, NULL), -EAGAIN);
}

static void test_fixed_ports_are_taken_per_protocol(void **state)
{
	_cleanup_(host_resources_freep) struct host_resources *host = make_host();
	struct port_mapping tcp = {.container_port = 80, .host_port = 8080};
	struct port_mapping udp = {.container_port = 80, .host_port = 8080, .udp = true};
	struct port_mapping dynamic = {.container_port = 80};
	struct port_mapping reserved = {.container_port = 22, .host_port = 22};
	struct container c = {.ports = &tcp, .n_ports = 1};
	struct task task = {.containers = &c, .n_containers = 1};

	(void)state;
	assert_int_equal(host_resources_take(host, &task, NULL), 0);
	assert_int_equal(host_resources_take(host, &task, NULL), -EAGAIN);
	c.ports = &udp;
	assert_int_equal(host_resources_take(host, &task, NULL), 0);
	c.ports = &dynamic;
	assert_int_equal(host_resources_take(host, &task, NULL), 0);
	assert_int_equal(host_resources_take(host, &task, NULL), 0);
	c.ports = &reserved;
	assert_int_equal(host_resources_take(host, &task, NULL), -EAGAIN);
	task.network_mode = NETWORK_MODE_HOST; /* the container's port is the host's */
	c.ports = &dynamic;
	assert_int_equal(host_resources_take(host, &task, NULL), 0);
	assert_int_equal(host_resources_take(host, &task, NULL), -EAGAIN);
}

/* Addresses. */

static void test_addresses_are_unique_and_rest_before_they_come_again(void **state)
{
	_cleanup_(addresses_freep) struct addresses *addresses = NULL;
	char address[16];

	(void)state;
	assert_int_equal(addresses_new("10.0.0.1", 29, &addresses, NULL), 0);
	assert_int_equal(addresses_take(addresses, address), 0);
	assert_string_equal(address, "10.0.0.2");
	addresses_give(addresses, address);
	addresses_mark(addresses, "10.0.0.4");
	addresses_mark(addresses, "192.168.0.1"); /* of another subnet: nothing */
	assert_int_equal(addresses_take(addresses, address), 0);
	assert_string_equal(address, "10.0.0.5");
	assert_int_equal(addresses_take(addresses, address), 0);
	assert_string_equal(address, "10.0.0.6");
	assert_int_equal(addresses_take(addresses, address), 0);
	assert_string_equal(address, "10.0.0.2");
	assert_int_equal(addresses_take(addresses, address), 0);
	assert_string_equal(address, "10.0.0.3");
	assert_int_equal(addresses_take(addresses, address), -ENOSPC);
}

static void test_the_widest_subnet_has_all_of_its_addresses(void **state)
{
	_cleanup_(addresses_freep) struct addresses *addresses = NULL;
	char address[16];

	(void)state;
	assert_int_equal(addresses_new("10.0.0.1", NETWORK_BRIDGE_PREFIX_MIN, &addresses, NULL), 0);
	addresses_mark(addresses, "10.255.255.253");
	assert_int_equal(addresses_take(addresses, address), 0);
	assert_string_equal(address, "10.255.255.254");
	assert_int_equal(addresses_take(addresses, address), 0);
	assert_string_equal(address, "10.0.0.2");
	assert_int_equal(addresses_count(addresses), 3);
}

static void test_bridges_that_cannot_be_are_refused(void **state)
{
	struct addresses *addresses = NULL;

	(void)state;
	assert_int_equal(addresses_new("10.0.0.1", 30, &addresses, NULL), -EINVAL);
	assert_int_equal(addresses_new("10.0.0.1", 7, &addresses, NULL), -EINVAL);
	assert_int_equal(addresses_new("10.0.0", 24, &addresses, NULL), -EINVAL);
}

/* Credentials of a pull. */

static void test_registry_of_a_reference(void **state)
{
	static const char *const rows[][3] = {
		{"busybox", "docker.io", "busybox"},
		{"library/busybox:1", "docker.io", "library/busybox:1"},
		{"docker.io/a", "docker.io", "a"},
		{"index.docker.io/a/b", "docker.io", "a/b"},
		{"registry-1.docker.io/a", "docker.io", "a"},
		{"registry.example/app", "registry.example", "app"},
		{"localhost/app", "localhost", "app"},
		{"localhost:5000/a/b@sha256:1", "localhost:5000", "a/b@sha256:1"},
		{"registry:5000", "docker.io", "registry:5000"},
	};
	char registry[64];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		assert_string_equal(image_registry(rows[i][0], registry, sizeof(registry)),
		                    rows[i][2]);
		assert_string_equal(registry, rows[i][1]);
	}
}

static int auth_of(const char *document, char *execution_id, struct json_object **ret,
                   struct err *err)
{
	struct container container = {.image = (char *)"1.dkr.ecr.us-west-2.amazonaws.com/a"};
	struct task task = {.execution_credentials_id = execution_id};
	int r;

	assert_int_equal(
		json_parse_object(document, strlen(document), 4096, &container.document, err), 0);
	r = image_auth(&task, &container, NULL, "https://node", "eu-west-1", ret, err);
	json_object_put(container.document);
	return r;
}

static void test_ecr_pull_uses_the_role_that_the_task_names(void **state)
{
	_cleanup_json_ struct json_object *instance = NULL, *execution = NULL;
	struct json_object *none = NULL, *ecr;
	struct err err = {0};

	(void)state;
	assert_int_equal(auth_of("{\"registryAuthentication\":{\"type\":\"ecr\",\"ecrAuthData\":{"
	                         "\"registryId\":\"1\",\"region\":\"us-west-2\"}}}",
	                         NULL, &instance, &err),
	                 0);
	ecr = json_get(instance, "ecr");
	assert_string_equal(json_text(ecr, "credentialsId"), "instance");
	assert_string_equal(json_text(ecr, "region"), "us-west-2");
	assert_string_equal(json_text(ecr, "endpoint"), "https://node");

	assert_int_equal(
		auth_of("{\"registryAuthentication\":{\"type\":\"ecr\",\"ecrAuthData\":{"
	                "\"useExecutionRole\":true,\"endpointOverride\":\"https://own\"}}}",
	                (char *)"c-2", &execution, &err),
		0);
	ecr = json_get(execution, "ecr");
	assert_string_equal(json_text(ecr, "credentialsId"), "c-2");
	assert_string_equal(json_text(ecr, "region"), "eu-west-1");
	assert_string_equal(json_text(ecr, "endpoint"), "https://own");

	assert_int_equal(auth_of("{\"registryAuthentication\":{\"type\":\"ecr\",\"ecrAuthData\":{"
	                         "\"useExecutionRole\":true}}}",
	                         NULL, &none, &err),
	                 -EINVAL);
	assert_string_equal(err.name, "CannotPullECRContainerError");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_conditions_are_met_as_ecs_says),
		cmocka_unit_test(test_start_timeout_says_when_it_ends),
		cmocka_unit_test(test_missing_and_circular_dependencies_do_not_resolve),
		cmocka_unit_test(test_task_is_where_the_container_furthest_behind_is),
		cmocka_unit_test(test_resources_are_taken_and_given_back),
		cmocka_unit_test(test_reservation_counts_instead_of_the_hard_limit),
		cmocka_unit_test(test_fixed_ports_are_taken_per_protocol),
		cmocka_unit_test(test_addresses_are_unique_and_rest_before_they_come_again),
		cmocka_unit_test(test_the_widest_subnet_has_all_of_its_addresses),
		cmocka_unit_test(test_bridges_that_cannot_be_are_refused),
		cmocka_unit_test(test_registry_of_a_reference),
		cmocka_unit_test(test_ecr_pull_uses_the_role_that_the_task_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
