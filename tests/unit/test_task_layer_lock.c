/* Locks on layer directories against one who wants to remove them. */
#include "agent/task/layer_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/fd.h"
#include "tests/unit/cmocka_prelude.h"

static char base[64];
static const char *const layers[] = {"aa", "bb", "cc"};

static int set_up(void **state)
{
	(void)state;
	snprintf(base, sizeof(base), "/tmp/test_task_layer_lock.XXXXXX");
	if (!mkdtemp(base))
		return -1;
	for (size_t i = 0; i < ARRAY_SIZE(layers); i++) {
		char path[80];

		snprintf(path, sizeof(path), "%s/%s", base, layers[i]);
		if (mkdir(path, 0755) < 0)
			return -1;
	}
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	return dir_remove_all(AT_FDCWD, base);
}

/* Locked exclusively, or -errno. */
static int lock_to_remove(const char *layer)
{
	_cleanup_close_ int fd = -EBADF;
	char path[80];

	snprintf(path, sizeof(path), "%s/%s", base, layer);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	return flock(fd, LOCK_EX | LOCK_NB) < 0 ? -errno : TAKE_FD(fd);
}

static bool can_be_removed(const char *layer)
{
	_cleanup_close_ int fd = lock_to_remove(layer);

	return fd >= 0;
}

static void test_taken_layers_are_locked_until_they_are_dropped(void **state)
{
	struct layer_locks one = {}, two = {};

	(void)state;
	assert_int_equal(layer_locks_take(base, layers, 2, &one, NULL), 0);
	assert_int_equal(layer_locks_take(base, layers, 1, &two, NULL), 0);
	assert_false(can_be_removed("aa"));
	assert_false(can_be_removed("bb"));
	assert_true(can_be_removed("cc"));
	for (size_t i = 0; i < one.n; i++)
		assert_int_equal(fcntl(one.fds[i], F_GETFD), FD_CLOEXEC);

	layer_locks_drop(&one);
	assert_false(can_be_removed("aa"));
	assert_true(can_be_removed("bb"));
	layer_locks_drop(&two);
	layer_locks_drop(&two);
	assert_true(can_be_removed("aa"));
}

static void test_locks_taken_again_replace_those_before(void **state)
{
	struct layer_locks locks = {};

	(void)state;
	assert_int_equal(layer_locks_take(base, layers, 1, &locks, NULL), 0);
	assert_int_equal(layer_locks_take(base, layers + 1, 1, &locks, NULL), 0);
	assert_true(can_be_removed("aa"));
	assert_false(can_be_removed("bb"));
	layer_locks_drop(&locks);
}

static void test_a_layer_that_is_gone_is_named_and_nothing_stays_locked(void **state)
{
	static const char *const names[] = {"aa", "dd"};
	struct layer_locks locks = {};
	struct err err = {};

	(void)state;
	assert_int_equal(layer_locks_take(base, names, 2, &locks, &err), -ENOENT);
	assert_non_null(strstr(err.text, "image layer dd"));
	assert_true(can_be_removed("aa"));
	assert_int_equal(locks.n, 0);
	assert_null(locks.fds);
}

static void test_a_layer_that_is_being_removed_is_named(void **state)
{
	_cleanup_close_ int removing = lock_to_remove("bb");
	struct layer_locks locks = {};
	struct err err = {};

	(void)state;
	assert_true(removing >= 0);
	assert_int_equal(layer_locks_take(base, layers, 3, &locks, &err), -ENOENT);
	assert_string_equal(err.text, "image layer bb is being removed");
	assert_true(can_be_removed("aa"));
}

static void test_what_is_no_directory_is_named(void **state)
{
	static const char *const names[] = {"file"};
	struct layer_locks locks = {};
	struct err err = {};
	char path[80];

	(void)state;
	snprintf(path, sizeof(path), "%s/file", base);
	assert_int_equal(fd_close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644)), -EBADF);
	assert_int_equal(layer_locks_take(base, names, 1, &locks, &err), -ENOTDIR);
	assert_non_null(strstr(err.text, "image layer file"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_taken_layers_are_locked_until_they_are_dropped),
		TEST(test_locks_taken_again_replace_those_before),
		TEST(test_a_layer_that_is_gone_is_named_and_nothing_stays_locked),
		TEST(test_a_layer_that_is_being_removed_is_named),
		TEST(test_what_is_no_directory_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
