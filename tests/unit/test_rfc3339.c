/* Times of credentials. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>

#include "iam-creds/rfc3339.h"

static void test_times_are_read(void **state)
{
	static const struct {
		const char *text;
		uint64_t usec;
	} cases[] = {{"1970-01-01T00:00:00Z", 0},
	             {"2026-07-01T10:00:00Z", 1782900000000000},
	             {"2026-07-01t10:00:00z", 1782900000000000},
	             {"2026-07-01T12:00:00+02:00", 1782900000000000},
	             {"2026-07-01T03:30:00-06:30", 1782900000000000},
	             {"2026-07-01T10:00:00.5Z", 1782900000500000},
	             {"2026-07-01T10:00:00.123456789Z", 1782900000123456},
	             {"2024-02-29T23:59:59Z", 1709251199000000},
	             {"9999-12-31T23:59:59Z", 253402300799000000}};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t usec = 1;

		print_message("case: %s\n", cases[i].text);
		assert_int_equal(rfc3339_parse(cases[i].text, &usec), 0);
		assert_int_equal(usec, cases[i].usec);
	}
}

static void test_anything_else_is_refused(void **state)
{
	static const char *const cases[] = {"",
	                                    "tomorrow",
	                                    "2026-07-01",
	                                    "2026-07-01T10:00:00",
	                                    "2026-07-01 10:00:00Z",
	                                    "2026-07-01T10:00Z",
	                                    "2026-13-01T10:00:00Z",
	                                    "2026-04-31T10:00:00Z",
	                                    "2025-02-29T10:00:00Z",
	                                    "2026-07-01T24:00:00Z",
	                                    "2026-07-01T10:00:00.Z",
	                                    "2026-07-01T10:00:00Zx",
	                                    "2026-07-01T10:00:00+0200",
	                                    "2026-07-01T10:00:00+25:00",
	                                    " 2026-07-01T10:00:00Z",
	                                    "+2026-07-01T10:00:00Z",
	                                    "1970-01-01T00:00:00+01:00",
	                                    "1969-12-31T23:59:59Z",
	                                    "1782900000"};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint64_t usec = 1;

		print_message("case: %s\n", cases[i]);
		assert_int_equal(rfc3339_parse(cases[i], &usec), -EINVAL);
		assert_int_equal(usec, 1);
	}
}

static void test_times_are_written(void **state)
{
	char text[32];

	(void)state;
	rfc3339_format(1782900000999999, text, sizeof(text));
	assert_string_equal(text, "2026-07-01T10:00:00Z");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_times_are_read),
		cmocka_unit_test(test_anything_else_is_refused),
		cmocka_unit_test(test_times_are_written),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
