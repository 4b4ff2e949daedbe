/* lib/envfile: the rules by which ecs.config has always been read. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <string.h>

#include "lib/envfile.h"

static void test_lines_split_at_the_first_equals_and_the_last_wins(void **state)
{
	static const char text[] = "A=1\n  B = x=y \r\n#C=3\nnonsense\nA=2\nD=\nE=\"q\"";
	_cleanup_(envfile_freep) struct envfile *file = NULL;
	const char *value = NULL;

	(void)state;
	assert_int_equal(envfile_parse(text, strlen(text), &file, NULL), 0);
	assert_string_equal(envfile_get(file, "A"), "2");
	assert_string_equal(envfile_get(file, "B "), " x=y");
	assert_null(envfile_get(file, "C"));
	assert_string_equal(envfile_get(file, "D"), "");
	assert_string_equal(envfile_get(file, "E"), "\"q\"");
	assert_string_equal(envfile_key(file, 0, &value), "A");
	assert_string_equal(value, "2");
	assert_int_equal(envfile_line(file, "A"), 5);
	assert_int_equal(envfile_line(file, "Z"), 0);
	assert_null(envfile_key(file, 4, &value));
}

static void test_a_missing_file_is_empty_and_a_binary_one_refused(void **state)
{
	_cleanup_(envfile_freep) struct envfile *file = NULL, *bad = NULL;
	struct err err = {0};

	(void)state;
	assert_int_equal(envfile_open("/nonexistent/ecs.config", &file, &err), 0);
	assert_null(envfile_key(file, 0, NULL));
	assert_int_equal(envfile_parse("A=\0b", 4, &bad, &err), -EINVAL);
	assert_int_equal(envfile_open("/", &bad, &err), -EISDIR);
	assert_non_null(strstr(err.text, "read /"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lines_split_at_the_first_equals_and_the_last_wins),
		cmocka_unit_test(test_a_missing_file_is_empty_and_a_binary_one_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
