/* Users of an image: names and numbers as Docker finds them, and files that are hostile. */
#include "agent/task/user.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/fd.h"
#include "tests/unit/cmocka_prelude.h"

static char root[64];
static int root_fd = -EBADF;

static int set_up(void **state)
{
	(void)state;
	snprintf(root, sizeof(root), "/tmp/test_task_user.XXXXXX");
	if (!mkdtemp(root))
		return -1;
	root_fd = open(root, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return mkdirat(root_fd, "etc", 0755);
}

static int tear_down(void **state)
{
	(void)state;
	root_fd = fd_close(root_fd);
	return dir_remove_all(AT_FDCWD, root);
}

static void put(const char *name, const char *text, size_t len)
{
	char path[128];
	FILE *file;

	snprintf(path, sizeof(path), "%s/etc/%s", root, name);
	file = fopen(path, "w");
	assert_non_null(file);
	assert_int_equal(fwrite(text, 1, len, file), len);
	assert_int_equal(fclose(file), 0);
}

static void put_text(const char *name, const char *text)
{
	put(name, text, strlen(text));
}

static const char passwd[] = "root:x:0:0:root:/root:/bin/sh\n"
			     "broken line\n"
			     "app:x:1000:1001::/home/app:/bin/sh\n"
			     "twin:x:1000:7::/home/twin:/bin/sh\n"
			     "77:x:500:501::/home/number:/bin/sh\n"
			     "nohome:x:9:9:::\n"
			     "early:x:88:89::/home/early:/bin/sh\n"
			     "88:x:600:601::/home/late:/bin/sh\n"
			     "huge:x:4294967296:1::/:/bin/sh\n";
static const char group[] = "root:x:0:\n"
			    "extra:x:2000:app,other\n"
			    "other:x:2001:other\n"
			    "web:x:3000:\n"
			    "99:x:0:\n"
			    "again:x:2000:app\n"
			    "last:x:4000:x,app";

static void test_users_and_groups(void **state)
{
	static const struct {
		const char *user, *group, *home;
		int r;
		uid_t uid;
		gid_t gid;
		gid_t groups[4];
		size_t n_groups;
	} rows[] = {
		{NULL, NULL, "/root", 0, 0, 0, {0}, 1},
		{"", "", "/root", 0, 0, 0, {0}, 1},
		{"app", NULL, "/home/app", 0, 1000, 1001, {1001, 2000, 4000}, 3},
		{"1000", NULL, "/home/app", 0, 1000, 1001, {1001, 2000, 4000}, 3},
		{"twin", NULL, "/home/twin", 0, 1000, 7, {7}, 1},
		{"77", NULL, "/", 0, 77, 0, {0}, 1}, /* no name, whatever the image says */
		{"88", NULL, "/home/early", 0, 88, 89, {89}, 1},
		{"app", "99", "/home/app", 0, 1000, 99, {99}, 1},
		{"app", "web", "/home/app", 0, 1000, 3000, {3000}, 1},
		{"app", "55", "/home/app", 0, 1000, 55, {55}, 1},
		{"4242", NULL, "/", 0, 4242, 0, {0}, 1},
		{"4242", "4343", "/", 0, 4242, 4343, {4343}, 1},
		{"nohome", NULL, "/", 0, 9, 9, {9}, 1},
		{"nobody-here", NULL, NULL, -ESRCH, 0, 0, {0}, 0},
		{"huge", NULL, NULL, -ESRCH, 0, 0, {0}, 0},
		{"app", "nogroup", NULL, -ENXIO, 0, 0, {0}, 0},
		{"2147483648", NULL, NULL, -ERANGE, 0, 0, {0}, 0},
		{"0", "99999999999999999999", NULL, -ERANGE, 0, 0, {0}, 0},
		{"-1", NULL, NULL, -ESRCH, 0, 0, {0}, 0},
	};

	(void)state;
	put_text("passwd", passwd);
	put_text("group", group);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct user_ids ids = {};

		print_message("row %zu\n", i);
		assert_int_equal(user_resolve(root_fd, rows[i].user, rows[i].group, &ids),
		                 rows[i].r);
		if (rows[i].r < 0)
			continue;
		assert_int_equal(ids.uid, rows[i].uid);
		assert_int_equal(ids.gid, rows[i].gid);
		assert_int_equal(ids.n_groups, rows[i].n_groups);
		assert_memory_equal(ids.groups, rows[i].groups,
		                    rows[i].n_groups * sizeof(ids.groups[0]));
		assert_string_equal(ids.home, rows[i].home);
	}
}

static void test_missing_files_are_empty_ones(void **state)
{
	struct user_ids ids;

	(void)state;
	assert_int_equal(user_resolve(root_fd, "12", "13", &ids), 0);
	assert_int_equal(ids.uid, 12);
	assert_int_equal(ids.gid, 13);
	assert_int_equal(user_resolve(root_fd, "app", NULL, &ids), -ESRCH);
}

static void test_a_line_that_is_too_long_is_passed_over(void **state)
{
	size_t len = 200000;
	_cleanup_free_ char *text = malloc(len + 100);
	struct user_ids ids;
	int n;

	(void)state;
	assert_non_null(text);
	memset(text, 'a', len);
	memcpy(text, "app:x:1:1::", 11);
	n = sprintf(text + len, "\napp:x:1000:1001::/home/app:/bin/sh\n");
	put("passwd", text, len + (size_t)n);
	assert_int_equal(user_resolve(root_fd, "app", NULL, &ids), 0);
	assert_int_equal(ids.uid, 1000);
}

static void test_more_groups_than_fit_are_left_out(void **state)
{
	size_t used = 0, room = 5000 * 24;
	_cleanup_free_ char *text = malloc(room);
	struct user_ids ids;

	(void)state;
	assert_non_null(text);
	for (int i = 0; i < 4000; i++)
		used += (size_t)snprintf(text + used, room - used, "g%d:x:%d:app\n", i, 10000 + i);
	put("group", text, used);
	put_text("passwd", passwd);
	assert_int_equal(user_resolve(root_fd, "app", NULL, &ids), 0);
	assert_int_equal(ids.n_groups, USER_GROUPS_MAX);
}

static void test_files_that_are_none_are_refused(void **state)
{
	struct user_ids ids;
	char path[128];

	(void)state;
	assert_int_equal(mkfifoat(root_fd, "etc/passwd", 0644), 0);
	assert_int_equal(user_resolve(root_fd, "app", NULL, &ids), -EINVAL);
	assert_int_equal(unlinkat(root_fd, "etc/passwd", 0), 0);

	put_text("passwd", "");
	snprintf(path, sizeof(path), "%s/etc/passwd", root);
	assert_int_equal(truncate(path, 1LL << 32), 0);
	assert_int_equal(user_resolve(root_fd, "app", NULL, &ids), -EFBIG);
	assert_int_equal(unlinkat(root_fd, "etc/passwd", 0), 0);

	/* A link leads to the container's own tree, where there is no such file. */
	assert_int_equal(symlinkat("/../../etc/passwd-of-the-host", root_fd, "etc/passwd"), 0);
	assert_int_equal(user_resolve(root_fd, "root", NULL, &ids), -ESRCH);
	assert_int_equal(unlinkat(root_fd, "etc/passwd", 0), 0);
	assert_int_equal(symlinkat("/proc/self/fd/0", root_fd, "etc/passwd"), 0);
	assert_int_equal(user_resolve(root_fd, "root", NULL, &ids), -ESRCH);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_users_and_groups),
		TEST(test_missing_files_are_empty_ones),
		TEST(test_a_line_that_is_too_long_is_passed_over),
		TEST(test_more_groups_than_fit_are_left_out),
		TEST(test_files_that_are_none_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
