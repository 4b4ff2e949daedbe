/* Finding and making places inside a root that wants to lead elsewhere. */
#include "agent/task/rootfs.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/fd.h"
#include "tests/unit/cmocka_prelude.h"

static char base[64];
static int root_fd = -EBADF;

/* <base>/root is the container's root, <base>/outside must stay as it is. */
static int set_up(void **state)
{
	char path[128];

	(void)state;
	snprintf(base, sizeof(base), "/tmp/test_task_rootfs.XXXXXX");
	if (!mkdtemp(base))
		return -1;
	snprintf(path, sizeof(path), "%s/outside", base);
	if (mkdir(path, 0755) < 0)
		return -1;
	snprintf(path, sizeof(path), "%s/root", base);
	if (mkdir(path, 0755) < 0)
		return -1;
	root_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return root_fd < 0;
}

static int tear_down(void **state)
{
	(void)state;
	root_fd = fd_close(root_fd);
	return dir_remove_all(AT_FDCWD, base);
}

/* Where fd is, below <base>. */
static void place_of(int fd, char *buf, size_t n)
{
	char link[32], path[PATH_MAX];
	ssize_t len;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	len = readlink(link, path, sizeof(path) - 1);
	assert_true(len > 0);
	path[len] = '\0';
	assert_memory_equal(path, base, strlen(base));
	snprintf(buf, n, "%s", path + strlen(base));
}

static void make_link(const char *target, const char *name)
{
	assert_int_equal(symlinkat(target, root_fd, name), 0);
}

static void test_targets_stay_inside_the_root(void **state)
{
	static const struct {
		const char *path;
		enum rootfs_kind kind;
		const char *place; /* NULL: refused with r */
		int r;
	} rows[] = {
		{"/new/deep/dir", ROOTFS_DIRECTORY, "/root/new/deep/dir", 0},
		{"/new/deep/dir", ROOTFS_DIRECTORY, "/root/new/deep/dir", 0},
		{"new/file", ROOTFS_FILE, "/root/new/file", 0},
		{"/", ROOTFS_DIRECTORY, "/root", 0},
		{"/a/../b", ROOTFS_DIRECTORY, "/root/b", 0},
		{"/../../up", ROOTFS_DIRECTORY, "/root/up", 0},
		{"//x//./y", ROOTFS_DIRECTORY, "/root/x/y", 0},
		{"/absolute/in", ROOTFS_DIRECTORY, "/root/outside/in", 0},
		{"/relative/in", ROOTFS_DIRECTORY, "/root/outside/in", 0},
		{"/dangling/file", ROOTFS_FILE, "/root/no/where/file", 0},
		{"/chain", ROOTFS_DIRECTORY, "/root/outside", 0},
		{"/etc/resolv.conf", ROOTFS_FILE, "/root/run/stub.conf", 0},
		{"/loop/x", ROOTFS_DIRECTORY, NULL, -ELOOP},
		{"/file/x", ROOTFS_DIRECTORY, NULL, -ENOTDIR},
		{"/file", ROOTFS_DIRECTORY, NULL, -ENOTDIR},
		{"/new", ROOTFS_FILE, NULL, -EISDIR},
	};

	(void)state;
	make_link("/outside", "absolute");
	make_link("../../../outside", "relative");
	make_link("/no/where", "dangling");
	make_link("absolute", "chain");
	make_link("loop", "loop");
	assert_int_equal(mkdirat(root_fd, "etc", 0755), 0);
	make_link("../run/stub.conf", "etc/resolv.conf");
	assert_int_equal(fd_close(openat(root_fd, "file", O_CREAT | O_WRONLY, 0644)), -EBADF);

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		_cleanup_close_ int fd = rootfs_target(root_fd, rows[i].path, rows[i].kind);
		char place[PATH_MAX];

		print_message("%s\n", rows[i].path);
		if (!rows[i].place) {
			assert_int_equal(fd, rows[i].r);
			continue;
		}
		assert_true(fd >= 0);
		place_of(fd, place, sizeof(place));
		assert_string_equal(place, rows[i].place);
	}
	/* The directory of that name beside the root is as it was: empty. */
	char outside[128];

	snprintf(outside, sizeof(outside), "%s/outside", base);
	assert_int_equal(rmdir(outside), 0);
}

static void test_long_paths_are_refused(void **state)
{
	static char path[PATH_MAX * 2];

	(void)state;
	memset(path, 'a', sizeof(path) - 1);
	path[0] = '/';
	assert_int_equal(rootfs_target(root_fd, path, ROOTFS_DIRECTORY), -ENAMETOOLONG);
	path[300] = '\0';
	assert_int_equal(rootfs_target(root_fd, path, ROOTFS_DIRECTORY), -ENAMETOOLONG);
}

static void test_links_that_grow_are_refused(void **state)
{
	static char target[PATH_MAX];
	int fd;

	(void)state;
	/* Each step makes the way longer: "x" is "x/aaaa..." */
	memset(target, 'a', 200);
	memcpy(target, "x/", 2);
	make_link(target, "x");
	fd = rootfs_target(root_fd, "/x", ROOTFS_DIRECTORY);
	assert_true(fd == -ELOOP || fd == -ENAMETOOLONG);
}

static void test_own_directories_are_no_links(void **state)
{
	_cleanup_close_ int fd = -EBADF;

	(void)state;
	fd = rootfs_own_directory(root_fd, "proc");
	assert_true(fd >= 0);
	make_link("proc", "sys");
	assert_int_equal(rootfs_own_directory(root_fd, "sys"), -ELOOP);
	assert_int_equal(fd_close(openat(root_fd, "dev", O_CREAT | O_WRONLY, 0644)), -EBADF);
	assert_int_equal(rootfs_own_directory(root_fd, "dev"), -ENOTDIR);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_targets_stay_inside_the_root),
		TEST(test_long_paths_are_refused),
		TEST(test_links_that_grow_are_refused),
		TEST(test_own_directories_are_no_links),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
