/* Maps of ids: what a setting and the files of subordinate ids come to. */
#include "agent/task/idmap.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/fd.h"
#include "tests/unit/cmocka_prelude.h"

/* The same text as both files. */
static int from(const char *setting, const char *lines, struct id_maps *ret, struct err *err)
{
	char path[] = "/tmp/test_task_idmap.XXXXXX";
	int fd = mkstemp(path), r;

	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, lines, strlen(lines)), 0);
	fd_close(fd);
	r = id_maps_from_setting(setting, path, path, ret, err);
	unlink(path);
	return r;
}

static void assert_text(const struct id_map *map, const char *wanted)
{
	char text[ID_MAP_TEXT_MAX];

	id_map_text(map, text);
	assert_string_equal(text, wanted);
}

static void test_settings(void **state)
{
	static const char lines[] = "ecs-remapper:1:1\n"
				    "ecs-remap:100000:65536\n"
				    "# ecs-remap:5:5\n"
				    "other:200000:1000\n"
				    "other:300000:100000\n";
	struct id_maps maps = {};
	uint32_t host = 0;

	(void)state;
	assert_int_equal(from("true", lines, &maps, NULL), 0);
	assert_text(&maps.uids, "0 100000 65536\n");
	assert_int_equal(from("default", lines, &maps, NULL), 0);
	assert_text(&maps.gids, "0 100000 65536\n");
	assert_int_equal(from("700000:65537", lines, &maps, NULL), 0);
	assert_text(&maps.gids, "0 700000 65537\n");
	assert_int_equal(from("other", lines, &maps, NULL), 0);
	assert_text(&maps.uids, "0 200000 1000\n1000 300000 100000\n");

	assert_true(id_map_to_host(&maps.uids, 999, &host) && host == 200999);
	assert_true(id_map_to_host(&maps.uids, 1000, &host) && host == 300000);
	assert_true(id_map_to_host(&maps.uids, 100999, &host) && host == 399999);
	assert_false(id_map_to_host(&maps.uids, 101000, &host));
	assert_false(id_map_to_host(&maps.uids, UINT32_MAX, &host));
}

static void test_what_is_wrong_is_named(void **state)
{
	static const struct {
		const char *setting, *lines, *why;
	} cases[] = {
		{"true", "", "has no range for \"ecs-remap\""},
		{"someone", "ecs-remap:100000:65536\n", "has no range for \"someone\""},
		{"some one", "", "must be true, false, default, FIRST:COUNT or a name"},
		{"100000:65535", "", "65535 ids; there must be 65536 at least"},
		{"0:65536", "", "must begin at 65536"},
		{"1000:65536", "", "must begin at 65536"},
		{"4294967000:65536", "", "none above 4294967294"},
		{"100000:", "", "must be two numbers"},
		{"100000:-1", "", "must be two numbers"},
		{"100000:65536:1", "", "must be two numbers"},
		{"100000:4294967296", "", "must be two numbers"},
		{":65536", "", "must be two numbers"},
		{"a", "a:100000:x\n", "line 1: \"100000:x\""},
		{"a", "b:1:1\na:100000\n", "line 2: \"100000\" is no FIRST:COUNT"},
		{"a", "a:100000:70000\na:120000:70000\n", "are also among"},
		{"a", "a:100000:1000\n", "1000 ids; there must be 65536"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct id_maps maps;
		struct err err = {};

		print_message("%s\n", cases[i].setting);
		assert_int_equal(from(cases[i].setting, cases[i].lines, &maps, &err), -EINVAL);
		assert_memory_equal(err.text, "ECS_USERNS_REMAP is \"", 21);
		assert_non_null(strstr(err.text, cases[i].why));
	}
}

static void test_ranges_that_are_in_each_other_s_way(void **state)
{
	struct id_map map = {};

	(void)state;
	assert_int_equal(id_map_add(&map, (struct id_extent){0, 1000, 10}, NULL), 0);
	assert_int_equal(id_map_add(&map, (struct id_extent){9, 5000, 10}, NULL), -EINVAL);
	assert_int_equal(id_map_add(&map, (struct id_extent){10, 1009, 10}, NULL), -EINVAL);
	assert_int_equal(id_map_add(&map, (struct id_extent){10, 990, 11}, NULL), -EINVAL);
	assert_int_equal(id_map_add(&map, (struct id_extent){10, 990, 0}, NULL), -EINVAL);
	assert_int_equal(id_map_add(&map, (struct id_extent){10, 990, 10}, NULL), 0);
	for (uint32_t i = 2; i < ID_MAP_EXTENTS_MAX; i++)
		assert_int_equal(id_map_add(&map, (struct id_extent){i * 100, i * 10000, 1}, NULL),
		                 0);
	assert_int_equal(id_map_add(&map, (struct id_extent){50, 50, 1}, NULL), -E2BIG);
	assert_text(&(struct id_map){.extents = {{4294967294, 4294967294, 1}}, .n = 1},
	            "4294967294 4294967294 1\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_settings),
		cmocka_unit_test(test_what_is_wrong_is_named),
		cmocka_unit_test(test_ranges_that_are_in_each_other_s_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
