/* lib/json: what is refused, and typed access. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/json.h"

static void test_what_is_not_strict_json_is_refused(void **state)
{
	static const char *const bad[] = {
		"",
		" ",
		"{",
		"[1,]",
		"{\"a\":1,}",
		"{'a':1}",
		"{\"a\":NaN}",
		"[Infinity]",
		"[-]",
		"[01]",
		"[1.]",
		"[1e]",
		"[+1]",
		"{\"a\":1,\"a\":2}",
		"{\"a\":{\"b\":1,\"\\u0062\":2}}",
		"[18446744073709551616]",
		"[-9223372036854775809]",
		"\"\\ud800\"",
		"\"\\udc00x\"",
		"\"\x80\"",
		"\"\xc0\xaf\"",
		"\"\xed\xa0\x80\"",
		"\"\xf5\x80\x80\x80\"",
		"\"a\nb\"",
		"{\"a\\u0000b\":1}",
		"1 2",
		"{} x",
		"nul",
		"True",
		"\"\\x41\"",
		"/**/1",
		"{\"a\" 1}",
		"[1 2]",
		"\"abc",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct json_object *obj = NULL;
		struct err err = {0};
		int r = json_parse(bad[i], strlen(bad[i]), 1000, &obj, &err);

		if (r != -EINVAL)
			print_error("row %zu: %s\n", i, bad[i]);
		assert_int_equal(r, -EINVAL);
		assert_true(err.text[0]);
		assert_null(obj);
	}
}

static void test_strict_json_is_parsed(void **state)
{
	static const char *const good[] = {
		"0",
		"-0",
		"1.5e-3",
		"\"\"",
		"\"\\ud83d\\ude00\"",
		"\"\xf0\x9f\x98\x80\"",
		"[]",
		"{}",
		" [1, 2 , {\"a\" : [ ] } ] ",
		"18446744073709551615",
		"-9223372036854775808",
		"true",
		"{\"Path\":1,\"PATH\":2}",
		"\"\\u0000\"",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		_cleanup_json_ struct json_object *obj = NULL;
		struct err err = {0};
		int r = json_parse(good[i], strlen(good[i]), 1000, &obj, &err);

		if (r < 0)
			print_error("row %zu: %s: %s\n", i, good[i], err.text);
		assert_int_equal(r, 0);
		assert_non_null(obj);
	}
}

static void test_many_members_are_checked_for_duplicates(void **state)
{
	char text[8192];
	size_t n = 0;

	(void)state;
	for (int duplicate = 0; duplicate < 2; duplicate++) {
		struct json_object *obj = NULL;

		n = (size_t)snprintf(text, sizeof(text), "{");
		for (int i = 0; i < 300; i++)
			n += (size_t)snprintf(text + n, sizeof(text) - n, "\"k%d\":%d,", i, i);
		n += (size_t)snprintf(text + n, sizeof(text) - n, "\"%s\":0}",
		                      duplicate ? "k17" : "z");
		assert_int_equal(json_parse(text, n, sizeof(text), &obj, NULL),
		                 duplicate ? -EINVAL : 0);
		json_object_put(obj);
	}
}

static void test_depth_and_size_are_bounded(void **state)
{
	char deep[200];
	struct json_object *obj = NULL;

	(void)state;
	memset(deep, '[', 100);
	memset(deep + 100, ']', 100);
	assert_int_equal(json_parse(deep, 200, 1000, &obj, NULL), -EINVAL);
	assert_int_equal(json_parse(deep + 50, 100, 1000, &obj, NULL), 0);
	json_object_put(obj);
	assert_int_equal(json_parse("[1]", 3, 2, &obj, NULL), -EFBIG);
}

static void test_members_have_types_and_ranges(void **state)
{
	static const char text[] =
		"{\"s\":\"x\",\"z\":\"a\\u0000b\",\"n\":-5,\"big\":18446744073709551615,"
		"\"f\":1.5,\"null\":null,\"Mixed\":1}";
	_cleanup_json_ struct json_object *obj = NULL;
	struct err err = {0};
	const char *s = NULL;
	int64_t i = 0;
	uint64_t u = 0;
	double d = 0;

	(void)state;
	assert_int_equal(json_parse_object(text, strlen(text), 1000, &obj, &err), 0);
	assert_int_equal(json_get_string(obj, "s", &s, &err), 0);
	assert_string_equal(s, "x");
	assert_int_equal(json_get_string(obj, "z", &s, &err), -EINVAL);
	assert_int_equal(json_get_string(obj, "n", &s, &err), -EINVAL);
	assert_int_equal(json_get_string(obj, "null", &s, &err), -ENOENT);
	assert_int_equal(json_optional(json_get_string(obj, "absent", &s, NULL)), 0);
	assert_int_equal(json_get_i64(obj, "n", -5, 5, &i, &err), 0);
	assert_int_equal(i, -5);
	assert_int_equal(json_get_i64(obj, "n", 0, 5, &i, &err), -ERANGE);
	assert_int_equal(json_get_i64(obj, "big", 0, INT64_MAX, &i, &err), -ERANGE);
	assert_int_equal(json_get_u64(obj, "big", UINT64_MAX, &u, &err), 0);
	assert_true(u == UINT64_MAX);
	assert_int_equal(json_get_u64(obj, "n", UINT64_MAX, &u, &err), -ERANGE);
	assert_int_equal(json_get_u64(obj, "f", UINT64_MAX, &u, &err), -EINVAL);
	assert_int_equal(json_get_double(obj, "f", &d, &err), 0);
	assert_int_equal(json_get_i64(obj, "mIXED", 0, 5, &i, &err), 0);
	assert_int_equal(json_parse_object("[]", 2, 10, &obj, &err), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_not_strict_json_is_refused),
		cmocka_unit_test(test_strict_json_is_parsed),
		cmocka_unit_test(test_many_members_are_checked_for_duplicates),
		cmocka_unit_test(test_depth_and_size_are_bounded),
		cmocka_unit_test(test_members_have_types_and_ranges),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
