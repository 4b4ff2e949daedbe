/* agent/facts: what a host has, played by a folder of control files. */
#include "tests/unit/cmocka_prelude.h"

#include "agent/facts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TABLE(memory)                                                                              \
	"#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t3\t1\t1\ncpu\t1\t1\t1\n" memory    \
	"pids\t8\t1\t1\n"

static void write_file(const char *path, const char *text)
{
	FILE *f = text ? fopen(path, "we") : NULL;

	if (!text)
		return;
	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

static void test_limits_of_tasks_need_the_controllers(void **state)
{
	static const struct {
		const char *v2, *v1; /* cgroup.controllers, /proc/cgroups; NULL: none */
		const char *missing; /* NULL: task_cgroups */
	} cases[] = {
		{"cpuset cpu io memory pids\n", TABLE(""), NULL},
		{"cpuset cpu io pids\n", TABLE("memory\t4\t9\t1\n"), "controller memory"},
		{"cpuset io memory pids\n", NULL, "controller cpu"},
		{"", NULL, "controller cpu"},
		{NULL, TABLE("memory\t4\t9\t1\n"), NULL},
		{NULL, TABLE("memory\t4\t9\t0\n"), "controller memory"},
		{NULL, TABLE("memory\t0\t9\t1\n"), "controller memory"},
		{NULL, TABLE(""), "controller memory"},
		{NULL, NULL, "can be read"},
	};
	char dir[] = "/tmp/test_facts.XXXXXX", v2[64], v1[64];
	const struct facts_sources host = {
		.state_dir = dir, .cgroup_mount = dir, .proc_cgroups = v1};

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(v2, sizeof(v2), "%s/cgroup.controllers", dir);
	snprintf(v1, sizeof(v1), "%s/cgroups", dir);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct config config = {.task_cpu_mem_limit = true};
		struct node_facts facts = {0};
		struct err err = {0};
		int unset, set;

		write_file(v2, cases[i].v2);
		write_file(v1, cases[i].v1);
		unset = facts_find(&config, &host, &facts, &err);
		config.task_cpu_mem_limit_is_set = true;
		set = facts_find(&config, &host, &(struct node_facts){0}, &err);
		(void)unlink(v2);
		(void)unlink(v1);
		if (unset != 0 || facts.task_cgroups != !cases[i].missing)
			fail_msg("row %zu, unset: %d", i, unset);
		if (set != (cases[i].missing ? -EOPNOTSUPP : 0))
			fail_msg("row %zu, set: %d", i, set);
		if (set < 0 && (!strstr(err.text, cases[i].missing) ||
		                !strstr(err.text, "ECS_ENABLE_TASK_CPU_MEM_LIMIT")))
			fail_msg("row %zu: %s", i, err.text);
	}
	assert_int_equal(rmdir(dir), 0);
}

static void test_limits_of_tasks_that_are_off_need_nothing(void **state)
{
	const struct facts_sources nowhere = {.state_dir = "/nonexistent",
	                                      .cgroup_mount = "/nonexistent",
	                                      .proc_cgroups = "/nonexistent"};
	const struct config config = {.task_cpu_mem_limit_is_set = true};
	struct node_facts facts;

	(void)state;
	assert_int_equal(facts_find(&config, &nowhere, &facts, NULL), 0);
	assert_false(facts.task_cgroups);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_limits_of_tasks_need_the_controllers),
		cmocka_unit_test(test_limits_of_tasks_that_are_off_need_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
