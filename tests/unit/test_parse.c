/* lib/parse: whole texts or an error, at the edges. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <string.h>

#include "lib/cleanup.h"
#include "lib/parse.h"

static void test_numbers_are_taken_whole_or_refused(void **state)
{
	static const struct {
		const char *text;
		uint64_t max, value;
		int r;
	} cases[] = {
		{"0", 10, 0, 0},
		{"10", 10, 10, 0},
		{"11", 10, 0, -ERANGE},
		{"", 10, 0, -EINVAL},
		{"1x", 10, 0, -EINVAL},
		{" 1", 10, 0, -EINVAL},
		{"-1", 10, 0, -EINVAL},
		{"+1", 10, 0, -EINVAL},
		{"18446744073709551615", UINT64_MAX, UINT64_MAX, 0},
		{"18446744073709551616", UINT64_MAX, 0, -ERANGE},
		{NULL, 1, 0, -EINVAL},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint64_t value = 0;

		assert_int_equal(parse_u64(cases[i].text, cases[i].max, &value), cases[i].r);
		assert_int_equal(value, cases[i].value);
	}
}

static void test_durations_are_gos(void **state)
{
	static const struct {
		const char *text;
		uint64_t usec;
		int r;
	} cases[] = {
		{"300ms", 300000, 0},
		{"1.5h", 5400000000, 0},
		{"2h45m", 9900000000, 0},
		{"1m0.5s", 60500000, 0},
		{"0", 0, 0},
		{"10", 0, -EINVAL},
		{"", 0, -EINVAL},
		{"-1s", 0, -ERANGE},
		{"1d", 0, -EINVAL},
		{".s", 0, -EINVAL},
		{"999999999999h", 0, -ERANGE},
		{"1500us", 1500, 0},
		{"2500ns", 2, 0},
		{"1s ", 0, -EINVAL},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint64_t usec = 0;

		assert_int_equal(parse_duration(cases[i].text, &usec), cases[i].r);
		assert_int_equal(usec, cases[i].usec);
	}
}

static void test_durations_are_printed_as_go_prints_them(void **state)
{
	static const struct {
		uint64_t usec;
		const char *text;
	} cases[] = {{0, "0s"},         {180000000, "3m0s"},    {90000000, "1m30s"},
	             {500000, "500ms"}, {1500, "1.5ms"},        {30000000, "30s"},
	             {1500000, "1.5s"}, {5400000000, "1h30m0s"}};
	char text[64];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		duration_to_string(cases[i].usec, text, sizeof(text));
		assert_string_equal(text, cases[i].text);
	}
}

static void test_names_are_single_harmless_components(void **state)
{
	static const char *const bad[] = {"",        ".",   "..",  "a/b",     "../x",
	                                  ".hidden", "a b", "a\n", "\xc3\xa4"};

	(void)state;
	assert_true(name_is_component("web-1_2.x", 16));
	assert_false(name_is_component("0123456789", 9));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(name_is_component(bad[i], 64));
	assert_true(name_is_hex("00ff", 4));
	assert_false(name_is_hex("00fF", 4));
	assert_false(name_is_hex("00ff0", 4));
}

static void test_the_resource_id_of_an_arn_follows_its_last_slash(void **state)
{
	(void)state;
	assert_string_equal(arn_resource_id("arn:aws:ecs:us-west-2:1:task/blue/70947c"), "70947c");
	assert_null(arn_resource_id("arn:aws:ecs:us-west-2:1:task/"));
	assert_null(arn_resource_id("task/x"));
	assert_null(arn_resource_id(NULL));
}

static void test_booleans_are_gos(void **state)
{
	bool value = false;

	(void)state;
	assert_int_equal(parse_bool("True", &value), 0);
	assert_true(value);
	assert_int_equal(parse_bool("f", &value), 0);
	assert_false(value);
	assert_int_equal(parse_bool("yes", &value), -EINVAL);
	assert_int_equal(parse_bool("", &value), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_numbers_are_taken_whole_or_refused),
		cmocka_unit_test(test_durations_are_gos),
		cmocka_unit_test(test_durations_are_printed_as_go_prints_them),
		cmocka_unit_test(test_names_are_single_harmless_components),
		cmocka_unit_test(test_the_resource_id_of_an_arn_follows_its_last_slash),
		cmocka_unit_test(test_booleans_are_gos),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
