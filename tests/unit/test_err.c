/* lib/err: texts are cut, joined, and cannot forge a line. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <string.h>

#include "lib/err.h"

static void test_words_come_before_what_is_there(void **state)
{
	struct err err = {0};

	(void)state;
	assert_int_equal(err_set(&err, -ENOENT, "open %s", "x"), -ENOENT);
	assert_string_equal(err.text, "open x: No such file or directory");
	assert_int_equal(err_prefix(&err, -ENOENT, "task %d", 7), -ENOENT);
	assert_string_equal(err.text, "task 7: open x: No such file or directory");
	assert_int_equal(err_set(NULL, -EIO, "x"), -EIO);
}

static void test_long_and_hostile_texts_stay_one_line(void **state)
{
	char big[2000];
	struct err err = {0};

	(void)state;
	memset(big, 'a', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	err_set(&err, -EIO, "%s", big);
	assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
	err_prefix(&err, -EIO, "%s", big);
	assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
	err_text(&err, 0, "a\nb\x1b[31m");
	assert_string_equal(err.text, "a b [31m");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_words_come_before_what_is_there),
		cmocka_unit_test(test_long_and_hostile_texts_stay_one_line),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
