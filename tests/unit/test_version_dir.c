/* lib/version_dir: the order of versions, and which of them are complete. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/fd.h"
#include "lib/version_dir.h"

static int sign(int n)
{
	return (n > 0) - (n < 0);
}

static void test_versions_are_ordered_by_their_numbers(void **state)
{
	/* Ascending. */
	static const char *const ordered[] = {
		"latest",
		"0.9",
		"1",
		"1.0",
		"1.2",
		"1.10",
		"3.2.9999",
		"3.10.0.0",
		"3.10.0.0.1",
		"99999999999999999999998.1",
		"99999999999999999999999",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(ordered); i++)
		for (size_t k = 0; k < ARRAY_SIZE(ordered); k++)
			if (sign(version_compare(ordered[i], ordered[k])) != sign((int)i - (int)k))
				fail_msg("%s and %s", ordered[i], ordered[k]);
	assert_int_equal(version_compare("1.02", "1.2"), 0);
	for (size_t i = 0; i < 4; i++) {
		static const char *const none[] = {"", "1.", ".1", "1..2"};

		assert_true(version_compare(none[i], "0") < 0);
	}
}

static void make_file(int dir_fd, const char *path, mode_t mode)
{
	_cleanup_close_ int fd = openat(dir_fd, path, O_WRONLY | O_CREAT | O_CLOEXEC, mode);

	assert_true(fd >= 0);
}

static void test_the_newest_complete_one_is_found(void **state)
{
	static const char *const files[] = {"a", "b"};
	char path[] = "/tmp/test-version-XXXXXX", name[VERSION_DIR_NAME_MAX + 1] = "";
	_cleanup_close_ int fd = -EBADF;

	(void)state;
	assert_non_null(mkdtemp(path));
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(version_dir_newest(fd, files, 2, name), -ENOENT);

	for (size_t i = 0; i < 6; i++) {
		static const char *const names[] = {"1.9", "1.10", "1.11", "1.12", "1.13", "x2"};
		char file[32];

		assert_int_equal(mkdirat(fd, names[i], 0755), 0);
		snprintf(file, sizeof(file), "%s/a", names[i]);
		make_file(fd, file, 0755);
		snprintf(file, sizeof(file), "%s/b", names[i]);
		if (i == 2) /* nobody may execute it */
			make_file(fd, file, 0644);
		else if (i == 3)
			assert_int_equal(mkdirat(fd, file, 0755), 0);
		else if (i != 4)
			make_file(fd, file, 0755);
	}
	assert_int_equal(version_dir_newest(fd, files, 2, name), 0);
	assert_string_equal(name, "1.10");
	assert_int_equal(version_dir_newest(fd, files, 1, name), 0);
	assert_string_equal(name, "1.13");
	assert_int_equal(dir_remove_all(AT_FDCWD, path), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_versions_are_ordered_by_their_numbers),
		cmocka_unit_test(test_the_newest_complete_one_is_found),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
