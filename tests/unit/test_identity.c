/* Whose state it is. */
#include "tests/unit/cmocka_prelude.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/identity.h"
#include "lib/cleanup.h"
#include "lib/fd.h"

static void test_instance_id_decides_then_the_machine_id(void **state)
{
	static const struct {
		struct identity saved, now;
		enum identity_match match;
	} cases[] = {
		{{"i-1", "m1"}, {"i-1", "m1"}, IDENTITY_SAME},
		{{"i-1", "m1"}, {"i-1", "m2"}, IDENTITY_SAME},  /* the machine id was made anew */
		{{"i-1", "m1"}, {"i-2", "m1"}, IDENTITY_OTHER}, /* an AMI with everything in it */
		{{"i-1", NULL}, {"i-2", NULL}, IDENTITY_OTHER},
		{{NULL, "m1"}, {NULL, "m1"}, IDENTITY_SAME},
		{{NULL, "m1"}, {NULL, "m2"}, IDENTITY_OTHER},  /* a copy outside of EC2 */
		{{NULL, "m1"}, {"i-1", "m2"}, IDENTITY_OTHER}, /* or imported into it */
		{{NULL, "m1"}, {"i-1", "m1"}, IDENTITY_SAME},
		{{NULL, NULL}, {"i-1", "m1"}, IDENTITY_SAME}, /* nothing was saved yet */
		{{NULL, "m1"}, {NULL, NULL}, IDENTITY_SAME},
		{{"i-1", "m1"}, {NULL, "m1"}, IDENTITY_UNSURE}, /* no instance metadata */
		{{"i-1", NULL}, {NULL, "m1"}, IDENTITY_UNSURE},
		{{"i-1", "m1"}, {NULL, "m2"}, IDENTITY_OTHER},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		if (identity_compare(&cases[i].saved, &cases[i].now) != cases[i].match)
			fail_msg("case %zu", i);
}

static void test_machine_id_counts_only_when_it_is_one_and_lasts(void **state)
{
	static const struct {
		const char *content;
		bool is_one;
	} cases[] = {
		{"0123456789abcdef0123456789abcdef\n", true},
		{"0123456789abcdef0123456789abcdef", true},
		{"uninitialized\n", false},
		{"", false},
		{"0123456789abcdef0123456789abcde\n", false},
		{"0123456789ABCDEF0123456789abcdef\n", false},
	};
	char dir[] = "/tmp/test-identity-XXXXXX", path[64];

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/machine-id", dir);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_free_ char *id = NULL, *transient = NULL;

		assert_int_equal(file_replace(AT_FDCWD, path, cases[i].content,
		                              strlen(cases[i].content), 0644),
		                 0);
		id = identity_read_machine_id(path, dir);
		if (!!id != cases[i].is_one)
			fail_msg("'%s'", cases[i].content);
		/* On another file system than its directory: gone with the next boot. */
		transient = identity_read_machine_id(path, "/proc");
		assert_null(transient);
	}
	assert_null(identity_read_machine_id("/nonexistent", dir));
	assert_int_equal(dir_remove_all(AT_FDCWD, dir), 0);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_instance_id_decides_then_the_machine_id),
		cmocka_unit_test(test_machine_id_counts_only_when_it_is_one_and_lasts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
