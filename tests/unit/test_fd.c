/* lib/fd: whole files, replacement, removal, and paths that try to leave a root. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "lib/fd.h"

struct fixture {
	char path[32];
	int fd;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->path, "/tmp/test-fd-XXXXXX");
	assert_non_null(mkdtemp(f->path));
	f->fd = open(f->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(f->fd >= 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	fd_close(f->fd);
	assert_int_equal(dir_remove_all(AT_FDCWD, f->path), 0);
	free(f);
	return 0;
}

static size_t count_entries(int dir_fd, const char *path)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	const struct dirent *entry;
	size_t n = 0;

	assert_int_equal(dir_open(dir_fd, path, &dir), 0);
	while ((entry = readdir(dir)))
		n += entry->d_name[0] != '.';
	return n;
}

static void test_each_reader_of_a_directory_begins_at_its_start(void **state)
{
	struct fixture *f = *state;
	DIR *dir = NULL;

	assert_int_equal(mkdirat(f->fd, "one", 0700), 0);
	assert_int_equal(mkdirat(f->fd, "two", 0700), 0);
	assert_int_equal(symlinkat("one", f->fd, "link"), 0);
	assert_int_equal(count_entries(f->fd, "."), 3);
	assert_int_equal(count_entries(f->fd, "."), 3);
	assert_int_equal(count_entries(f->fd, "one"), 0);
	assert_int_equal(dir_open(f->fd, "link", &dir), -ENOTDIR);
	assert_int_equal(dir_open(f->fd, "absent", &dir), -ENOENT);
	assert_null(dir);
}

static void test_a_file_is_replaced_as_a_whole(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *text = NULL;
	struct stat st;
	size_t len;

	assert_int_equal(file_replace(f->fd, "f", "one", 3, 0600), 0);
	assert_int_equal(file_replace(f->fd, "f", "second", 6, 0640), 0);
	assert_int_equal(file_read(f->fd, "f", 100, &text, &len), 0);
	assert_int_equal(len, 6);
	assert_string_equal(text, "second");
	assert_int_equal(fstatat(f->fd, "f", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0640);
	assert_int_equal(faccessat(f->fd, "f.tmp", F_OK, 0), -1);
}

static void test_replacing_at_once_leaves_one_whole_file(void **state)
{
	struct fixture *f = *state;
	_cleanup_free_ char *text = NULL;
	size_t len;
	int status;

	for (int i = 0; i < 8; i++) {
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (pid == 0) {
			char data[8192];
			int r = 0;

			memset(data, 'a' + i, sizeof(data));
			for (int k = 0; k < 50 && r == 0; k++)
				r = file_replace(f->fd, "f", data, sizeof(data), 0600);
			_exit(r == 0 ? 0 : 1);
		}
	}
	for (int i = 0; i < 8; i++) {
		assert_true(wait(&status) > 0);
		assert_int_equal(status, 0);
	}
	assert_int_equal(file_read(f->fd, "f", 10000, &text, &len), 0);
	assert_int_equal(len, 8192);
	assert_int_equal(strspn(text, (char[]){text[0], '\0'}), 8192);
}

static void test_reading_is_bounded(void **state)
{
	struct fixture *f = *state;
	char *text = NULL;
	size_t len;

	assert_int_equal(file_replace(f->fd, "f", "12345", 5, 0600), 0);
	assert_int_equal(file_read(f->fd, "f", 4, &text, &len), -EFBIG);
	assert_int_equal(file_read(f->fd, "f", 5, &text, &len), 0);
	free(text);
	assert_int_equal(file_read(f->fd, "absent", 5, &text, &len), -ENOENT);
}

static void test_removal_does_not_follow_links(void **state)
{
	struct fixture *f = *state;
	char path[64];

	snprintf(path, sizeof(path), "%s/tree/a/b", f->path);
	assert_int_equal(dir_create_all(path, 0700), 0);
	assert_int_equal(file_replace(f->fd, "kept", "x", 1, 0600), 0);
	assert_int_equal(symlinkat("../kept", f->fd, "tree/link"), 0);
	assert_int_equal(symlinkat("/tmp", f->fd, "tree/a/out"), 0);
	assert_int_equal(dir_remove_all(f->fd, "tree"), 0);
	assert_int_equal(dir_remove_all(f->fd, "tree"), 0);
	assert_int_equal(faccessat(f->fd, "tree", F_OK, 0), -1);
	assert_int_equal(faccessat(f->fd, "kept", F_OK, 0), 0);
}

static void test_a_path_stays_in_its_root(void **state)
{
	struct fixture *f = *state;
	int fd;

	assert_int_equal(symlinkat("/etc", f->fd, "absolute"), 0);
	assert_int_equal(symlinkat("/proc/self/root", f->fd, "magic"), 0);
	assert_int_equal(fd_open_in_root(f->fd, "absolute/passwd", O_RDONLY, 0), -ENOENT);
	assert_int_equal(fd_open_in_root(f->fd, "magic/etc/passwd", O_RDONLY, 0), -ENOENT);
	assert_int_equal(fd_open_in_root(f->fd, "../../../etc/passwd", O_RDONLY, 0), -ENOENT);
	fd = fd_open_in_root(f->fd, "/../new", O_WRONLY | O_CREAT, 0600);
	assert_true(fd >= 0);
	fd_close(fd);
	assert_int_equal(faccessat(f->fd, "new", F_OK, 0), 0);
}

/* What a container may leave: deeper than any path, wider than any descriptor table. */
static void test_a_very_deep_tree_is_removed_with_few_descriptors(void **state)
{
	struct fixture *f = *state;
	struct rlimit before, few;
	int fd = dup(f->fd);

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	assert_int_equal(mkdirat(f->fd, "deep", 0700), 0);
	for (int i = 0; i < 5000; i++) {
		const char *name = i == 0 ? "deep" : i % 7 == 0 ? ".removed-0" : "d";
		int next;

		assert_true(mkdirat(fd, name, 0700) == 0 || i == 0);
		assert_true(mkdirat(fd, "side", 0700) == 0 || errno == EEXIST);
		next = openat(fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		assert_true(next >= 0);
		fd_close(fd);
		fd = next;
	}
	fd_close(fd);

	few = (struct rlimit){100, before.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	assert_int_equal(dir_remove_all(f->fd, "deep"), 0);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	assert_int_equal(faccessat(f->fd, "deep", F_OK, 0), -1);
	assert_int_equal(faccessat(f->fd, "side", F_OK, 0), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			test_a_very_deep_tree_is_removed_with_few_descriptors, setup, teardown),
		cmocka_unit_test_setup_teardown(test_each_reader_of_a_directory_begins_at_its_start,
	                                        setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_file_is_replaced_as_a_whole, setup,
	                                        teardown),
		cmocka_unit_test_setup_teardown(test_replacing_at_once_leaves_one_whole_file, setup,
	                                        teardown),
		cmocka_unit_test_setup_teardown(test_reading_is_bounded, setup, teardown),
		cmocka_unit_test_setup_teardown(test_removal_does_not_follow_links, setup,
	                                        teardown),
		cmocka_unit_test_setup_teardown(test_a_path_stays_in_its_root, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
