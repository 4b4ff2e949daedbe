/* agent/image/entry_path: names of entries by their text. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "agent/image/entry_path.h"
#include "lib/cleanup.h"

static void test_names_are_made_plain_or_refused(void **state)
{
	static const struct {
		const char *name, *clean; /* NULL: leaves the layer */
	} cases[] = {
		{"a", "a"},
		{"./a/", "a"},
		{"/a//b", "a/b"},
		{"a/./b/.", "a/b"},
		{"", ""},
		{"./", ""},
		{"/", ""},
		{"a/../b", "b"},
		{"a/b/../c", "a/c"},
		{"a/b/../../c", "c"},
		{"a/..", ""},
		{"..a/...", "..a/..."},
		{"..", NULL},
		{"../a", NULL},
		{"a/../../b", NULL},
		{"/..", NULL},
		{"./../a", NULL},
		{"a/b/../../../etc/passwd", NULL},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char buf[PATH_MAX];
		int r = entry_path_clean(cases[i].name, buf, sizeof(buf), NULL);

		if (!cases[i].clean) {
			assert_int_equal(r, -EBADMSG);
			continue;
		}
		assert_int_equal(r, 0);
		assert_string_equal(buf, cases[i].clean);
	}
}

static void test_long_and_deep_names_are_refused(void **state)
{
	char name[3 * PATH_MAX], buf[PATH_MAX];

	(void)state;
	memset(name, 'a', 256);
	name[256] = '\0';
	assert_int_equal(entry_path_clean(name, buf, sizeof(buf), NULL), -ENAMETOOLONG);
	name[255] = '\0';
	assert_int_equal(entry_path_clean(name, buf, sizeof(buf), NULL), 0);

	for (size_t i = 0; i < sizeof(name) - 1; i++)
		name[i] = i % 200 == 199 ? '/' : 'a';
	name[sizeof(name) - 1] = '\0';
	assert_int_equal(entry_path_clean(name, buf, sizeof(buf), NULL), -ENAMETOOLONG);

	for (size_t i = 0; i <= 2 * ENTRY_DEPTH_MAX; i++)
		name[i] = i % 2 ? '/' : 'a';
	name[2 * ENTRY_DEPTH_MAX] = '\0';
	assert_int_equal(entry_path_clean(name, buf, sizeof(buf), NULL), 0);
	strcpy(name + 2 * ENTRY_DEPTH_MAX, "a");
	assert_int_equal(entry_path_clean(name, buf, sizeof(buf), NULL), -ENAMETOOLONG);
	assert_int_equal(entry_path_clean("abc", buf, 4, NULL), -ENAMETOOLONG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names_are_made_plain_or_refused),
		cmocka_unit_test(test_long_and_deep_names_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
