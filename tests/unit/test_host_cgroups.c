/* A tree of directories in the place of cgroups: there, too, the id is the inode number. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "iam-creds/host_cgroups.h"
#include "lib/fd.h"

struct fixture {
	char dir[64];
	int fd;
	struct host_cgroups *host;
};

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	if (!f)
		return -1;
	snprintf(f->dir, sizeof(f->dir), "/dev/shm/ecs-test-host-cgroups-XXXXXX");
	if (!mkdtemp(f->dir))
		return -1;
	f->fd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*state = f;
	return host_cgroups_new(fcntl(f->fd, F_DUPFD_CLOEXEC, 3), &f->host);
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	host_cgroups_free(f->host);
	close(f->fd);
	(void)dir_remove_all(AT_FDCWD, f->dir);
	free(f);
	return 0;
}

static uint64_t id_of(const struct fixture *f, const char *path)
{
	struct stat st;

	assert_int_equal(fstatat(f->fd, path, &st, 0), 0);
	return st.st_ino;
}

static uint64_t make(const struct fixture *f, const char *path)
{
	assert_int_equal(mkdirat(f->fd, path, 0755), 0);
	return id_of(f, path);
}

static void test_what_is_at_or_below_a_task_is_not_the_hosts(void **state)
{
	static const struct {
		const char *path;
		int has;
	} cases[] = {
		{".", 1},
		{"ecs.slice", 1},
		{"ecs.slice/ecs-launcher.service", 1},
		{"system.slice", 1},
		{"system.slice/ecs-tasks.service", 1},
		{"system.slice/ecs-tasks.service/keeper", 1},
		{"system.slice/ecs-tasks.service/ecstasks-7f3c", 0},
		{"system.slice/ecs-tasks.service/ecstasks-7f3c/app", 0},
		{"system.slice/ecs-tasks.service/ecstasks-7f3c/app/inner", 0},
		{"system.slice/ecs-tasks.service/ecstasks-7f3c/app/inner/system.slice", 0},
		{"system.slice/amazon-efs-mount-watchdog.service", 1},
		{"ecstasks-1", 0},
		{"ecstasks", 1},
	};
	const struct fixture *f = *state;

	for (size_t i = 1; i < ARRAY_SIZE(cases); i++)
		make(f, cases[i].path);
	/* The second time it is remembered. */
	for (size_t i = 0; i < 2 * ARRAY_SIZE(cases); i++) {
		const char *path = cases[i % ARRAY_SIZE(cases)].path;

		print_message("case: %s\n", path);
		assert_int_equal(host_cgroups_has(f->host, id_of(f, path), NULL),
		                 cases[i % ARRAY_SIZE(cases)].has);
	}
}

static void test_files_and_links_are_no_cgroups(void **state)
{
	const struct fixture *f = *state;
	uint64_t task = make(f, "ecstasks-1"), file;

	assert_int_equal(file_replace(f->fd, "file", "x", 1, 0600), 0);
	assert_int_equal(symlinkat("ecstasks-1", f->fd, "link"), 0);
	file = id_of(f, "file");
	assert_int_equal(host_cgroups_has(f->host, file, NULL), 0);
	assert_int_equal(host_cgroups_has(f->host, task, NULL), 0);
	assert_int_equal(host_cgroups_has(f->host, 0, NULL), 0);
}

static void test_what_was_removed_before_it_was_asked_for_is_not_the_hosts(void **state)
{
	const struct fixture *f = *state;
	uint64_t early = make(f, "early"), late = make(f, "late");

	assert_int_equal(host_cgroups_has(f->host, late, NULL), 1);
	assert_int_equal(unlinkat(f->fd, "early", AT_REMOVEDIR), 0);
	assert_int_equal(unlinkat(f->fd, "late", AT_REMOVEDIR), 0);
	assert_int_equal(host_cgroups_has(f->host, early, NULL), 0);
	assert_int_equal(host_cgroups_has(f->host, late, NULL), 1);
}

static void test_the_last_are_remembered_and_the_first_forgotten(void **state)
{
	const struct fixture *f = *state;
	uint64_t id = make(f, "a");

	assert_int_equal(host_cgroups_has(f->host, id, NULL), 1);
	assert_int_equal(unlinkat(f->fd, "a", AT_REMOVEDIR), 0);
	for (uint64_t other = UINT64_MAX; host_cgroups_has(f->host, id, NULL); other--) {
		assert_true(other > UINT64_MAX - 1000);
		assert_int_equal(host_cgroups_has(f->host, other, NULL), 0);
	}
}

static void test_the_ceilings_hold(void **state)
{
	const struct fixture *f = *state;
	char path[4 * HOST_CGROUPS_DEPTH_MAX] = "d";
	struct err err = {0};
	uint64_t last;

	for (int depth = 1; depth < HOST_CGROUPS_DEPTH_MAX; depth++) {
		make(f, path);
		strcat(path, "/d");
	}
	last = make(f, path);
	assert_int_equal(host_cgroups_has(f->host, last, NULL), 1);
	strcat(path, "/d");
	assert_int_equal(host_cgroups_has(f->host, make(f, path), NULL), 0);

	for (int i = 0; i < HOST_CGROUPS_MAX; i++) {
		snprintf(path, sizeof(path), "n%d", i);
		make(f, path);
	}
	assert_int_equal(host_cgroups_has(f->host, UINT64_MAX, &err), -E2BIG);
	assert_non_null(strstr(err.text, "8192"));
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		CASE(test_what_is_at_or_below_a_task_is_not_the_hosts),
		CASE(test_files_and_links_are_no_cgroups),
		CASE(test_what_was_removed_before_it_was_asked_for_is_not_the_hosts),
		CASE(test_the_last_are_remembered_and_the_first_forgotten),
		CASE(test_the_ceilings_hold),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
