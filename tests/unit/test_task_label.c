/* Labels of security modules: what is refused where the host has none of them. */
#include "agent/task/label.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/fd.h"
#include "lib/lsm.h"
#include "tests/unit/cmocka_prelude.h"

static void test_categories_are_the_container_s(void **state)
{
	static const struct {
		const char *label, *without;
	} rows[] = {
		{"system_u:object_r:container_file_t:s0:c1,c2",
	         "system_u:object_r:container_file_t:s0"},
		{"system_u:object_r:container_file_t:s0-s1:c0.c1023",
	         "system_u:object_r:container_file_t:s0-s1"},
		{"a:b:c:s0", "a:b:c:s0"},
		{"a:b:c", NULL},
		{"", NULL},
	};
	char buf[LABEL_MAX + 1];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		int r = label_without_categories(rows[i].label, buf, sizeof(buf));

		assert_int_equal(r, rows[i].without ? 0 : -EINVAL);
		if (rows[i].without)
			assert_string_equal(buf, rows[i].without);
	}
	assert_int_equal(label_without_categories("a:b:c:s0", buf, 8), -ENAMETOOLONG);
}

static void test_what_the_host_has_not_is_refused(void **state)
{
	static const char label[] = "system_u:system_r:container_t:s0:c1,c2";
	static const struct {
		struct labels labels;
		const char *words; /* NULL: accepted */
		bool (*has)(void);
	} rows[] = {
		{{}, NULL, NULL},
		{{.no_default = true}, NULL, NULL},
		{{.apparmor_profile = "unconfined"}, NULL, NULL},
		{{.apparmor_profile = "mine"}, "AppArmor profile \"mine\"", lsm_has_apparmor},
		{{.selinux_label = label}, "SELinux label", lsm_has_selinux},
		{{.mount_label = label}, "SELinux label", lsm_has_selinux},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct err err = {};
		int r;

		if (rows[i].has && rows[i].has())
			continue; /* then the start says what is missing */
		r = label_check(&rows[i].labels, &err);
		assert_int_equal(r, rows[i].words ? -EOPNOTSUPP : 0);
		if (rows[i].words)
			assert_non_null(strstr(err.text, rows[i].words));
	}
}

static void test_a_profile_is_found_by_its_whole_name(void **state)
{
	char longer[8192];
	const struct {
		const char *list;
		int listed;
	} rows[] = {
		{"", 0},
		{"ecs-default (enforce)\n", 1},
		{"docker-default (enforce)\necs-default (complain)\n", 1},
		{"ecs-default-too (enforce)\n", 0},
		{"my-ecs-default (enforce)\n/usr/bin/man (enforce)\n", 0},
		{"a//ecs-default (enforce)\n", 0},
		{"ecs-default\n", 0},
		{"ecs-\necs-default (enforce)\n", 1},
		{longer, 1}, /* across the end of what is read at once */
	};

	(void)state;
	memset(longer, 'x', sizeof(longer));
	strcpy(longer + 4090, "\necs-default (enforce)\n");
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		_cleanup_close_ int fd = memfd_create("list", MFD_CLOEXEC);

		assert_true(fd >= 0);
		assert_int_equal(fd_write_all(fd, rows[i].list, strlen(rows[i].list)), 0);
		assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
		if (label_profile_is_listed(fd, "ecs-default") != rows[i].listed)
			fail_msg("row %zu: %s", i, rows[i].list);
	}
	assert_int_equal(label_profile_is_listed(-1, "ecs-default"), -EBADF);
}

static void test_without_any_label_nothing_is_done(void **state)
{
	const struct labels none = {.no_default = true};

	(void)state;
	assert_int_equal(label_prepare_exec(&none), 0);
	assert_int_equal(label_file_shared(&none, -1), 0);
	assert_int_equal(label_file_private(&none, -1), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_categories_are_the_container_s),
		cmocka_unit_test(test_what_the_host_has_not_is_refused),
		cmocka_unit_test(test_a_profile_is_found_by_its_whole_name),
		cmocka_unit_test(test_without_any_label_nothing_is_done),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
