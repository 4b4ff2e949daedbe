/* What root's configuration forbids. */
#include "agent/task/policy.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/fd.h"
#include "tests/unit/cmocka_prelude.h"

static int read_text(const char *text, struct policy *policy, struct err *err)
{
	char path[] = "/tmp/test_task_policy.XXXXXX";
	int fd = mkstemp(path), r;

	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
	fd_close(fd);
	r = policy_read(path, policy, err);
	unlink(path);
	return r;
}

static void test_without_a_file_everything_is_allowed(void **state)
{
	struct policy policy;

	(void)state;
	assert_int_equal(policy_read("/nonexistent/ecs.config", &policy, NULL), 0);
	assert_false(policy.privileged_disabled);
	assert_true(policy_allows_host_path(&policy, "/etc"));
	policy_done(&policy);
}

static void test_settings_that_are_wrong_are_refused(void **state)
{
	static const char *const texts[] = {
		"ECS_USERNS_REMAP_ALLOW_HOST=2",
		"ECS_DISABLE_PRIVILEGED=yes",
		"ECS_ALLOWED_HOST_PATHS=",
		"ECS_ALLOWED_HOST_PATHS=srv",
		"ECS_ALLOWED_HOST_PATHS=[\"/srv\"]",
		"ECS_ALLOWED_HOST_PATHS=/srv:data",
		"ECS_ALLOWED_HOST_PATHS=/srv::/data",
		"ECS_ALLOWED_HOST_PATHS=/srv/../etc",
		"ECS_ALLOWED_HOST_PATHS=/srv/..",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		struct policy policy;
		struct err err = {};

		print_message("%s\n", texts[i]);
		assert_true(read_text(texts[i], &policy, &err) < 0);
		assert_memory_equal(err.text, "ECS_", 4);
	}
}

static void test_allowed_paths_and_what_is_below(void **state)
{
	static const struct {
		const char *path;
		bool allowed;
	} rows[] = {
		{"/srv", true},
		{"/srv/a/b", true},
		{"/srvx", false},
		{"/data/x", true},
		{"/data", false},
		{"/data/xy", false},
		{"/", false},
		{"/etc", false},
		{"/var/lib/ecs/volumes/v", false},
		{"/var/lib/ecs/data", false},
		{"/var/lib/ecs/images/layers", false},
	};
	struct policy policy;

	(void)state;
	assert_int_equal(read_text("ECS_DISABLE_PRIVILEGED=1\n"
	                           "ECS_ALLOWED_HOST_PATHS=/srv/:/data/x\n",
	                           &policy, NULL),
	                 0);
	assert_true(policy.privileged_disabled);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		print_message("%s\n", rows[i].path);
		assert_int_equal(policy_allows_host_path(&policy, rows[i].path), rows[i].allowed);
	}
	policy_done(&policy);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_without_a_file_everything_is_allowed),
		cmocka_unit_test(test_settings_that_are_wrong_are_refused),
		cmocka_unit_test(test_allowed_paths_and_what_is_below),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
