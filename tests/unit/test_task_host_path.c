/* Sources of bind mounts, below directories that others change. */
#include "agent/task/host_path.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/fd.h"
#include "tests/unit/cmocka_prelude.h"

#define TRIES 3000

static char base[64];
static struct policy policy;

static const char *at(const char *name)
{
	static char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", base, name);
	return path;
}

/* <base>/ok is allowed, and so is <base>/later/x, which is not there; <base>/outside must stay
 * empty.
 */
static int set_up(void **state)
{
	static const char *const dirs[] = {"ok", "ok/dir", "ok/flip", "outside"};

	(void)state;
	snprintf(base, sizeof(base), "/tmp/test_task_host_path.XXXXXX");
	if (!mkdtemp(base))
		return -1;
	for (size_t i = 0; i < ARRAY_SIZE(dirs); i++)
		if (mkdir(at(dirs[i]), 0755) < 0)
			return -1;
	policy = (struct policy){.host_paths_limited = true, .n_host_paths = 2};
	policy.host_paths[0] = strdup(at("ok"));
	policy.host_paths[1] = strdup(at("later/x"));
	if (symlink("../outside", at("ok/out")) < 0 || symlink("dir", at("ok/in")) < 0 ||
	    symlink("nowhere", at("ok/dangling")) < 0)
		return -1;
	return !policy.host_paths[0] || !policy.host_paths[1];
}

static int tear_down(void **state)
{
	(void)state;
	policy_done(&policy);
	return dir_remove_all(AT_FDCWD, base);
}

static void test_what_is_missing_is_made_where_it_is_allowed(void **state)
{
	static const struct {
		const char *path, *place; /* NULL: refused, or r */
		int r;
	} rows[] = {
		{"ok/dir", "ok/dir", 0},
		{"ok/new/a/b", "ok/new/a/b", 0},
		{"ok//slashes/./c/", "ok/slashes/c", 0},
		{"ok/in/new", "ok/dir/new", 0},
		{"later/x/y", "later/x/y", 0},
		{"later/z", NULL, -EACCES},
		{"ok-not/new", NULL, -EACCES},
		{"outside", NULL, -EACCES},
		{"ok/out", NULL, -EACCES},
		{"ok/out/new", NULL, -EACCES},
		{"ok/dangling/new", NULL, -ELOOP},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		bool refused = false;
		_cleanup_close_ int fd = host_path_open(&policy, at(rows[i].path), &refused);
		struct stat found, wanted;

		print_message("%s\n", rows[i].path);
		assert_int_equal(fd < 0 ? fd : 0, rows[i].r);
		assert_int_equal(refused, rows[i].r == -EACCES);
		if (fd < 0)
			continue;
		assert_int_equal(fstat(fd, &found), 0);
		assert_int_equal(stat(at(rows[i].place), &wanted), 0);
		assert_true(found.st_ino == wanted.st_ino && S_ISDIR(found.st_mode));
	}
	assert_int_not_equal(access(at("later/z"), F_OK), 0);
	assert_int_not_equal(access(at("ok-not"), F_OK), 0);
	assert_int_equal(rmdir(at("outside")), 0);
	assert_int_equal(mkdir(at("outside"), 0755), 0);
}

/* Another container, with ok/flip in turns a directory and a link out. */
static _Noreturn void flip(void)
{
	int dir = open(at("ok"), O_PATH | O_DIRECTORY | O_CLOEXEC);

	for (;;)
		if (renameat2(dir, "flip", dir, "out", RENAME_EXCHANGE) < 0)
			_exit(1);
}

static void test_nothing_is_made_outside_while_links_change(void **state)
{
	size_t made = 0, refused = 0;
	pid_t pid = fork();
	int status;

	(void)state;
	assert_true(pid >= 0);
	if (pid == 0)
		flip();
	for (int i = 0; i < TRIES; i++) {
		char name[64];
		bool no = false;
		int fd;

		snprintf(name, sizeof(name), "ok/flip/new-%d/x", i);
		fd = host_path_open(&policy, at(name), &no);
		made += fd >= 0;
		refused += no;
		fd_close(fd);
	}
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	print_message("%zu made, %zu refused\n", made, refused);
	assert_int_equal(rmdir(at("outside")), 0); /* it is empty */
	assert_int_equal(mkdir(at("outside"), 0755), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_missing_is_made_where_it_is_allowed),
		cmocka_unit_test(test_nothing_is_made_outside_while_links_change),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
