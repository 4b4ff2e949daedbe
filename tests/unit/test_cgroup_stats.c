/* The texts of cgroup statistics and pressure, as kernels of both hierarchies write them. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cgroups/hierarchy.h"
#include "lib/cleanup.h"

static int parse(int (*fn)(char *, struct cgroup_stats *), const char *text,
                 struct cgroup_stats *stats)
{
	free(stats->text);
	stats->text = strdup(text);
	assert_non_null(stats->text);
	return fn(stats->text, stats);
}

static int parse_bytes(char *text, struct cgroup_stats *stats)
{
	return blkio_stat_parse(text, true, stats);
}

static int parse_requests(char *text, struct cgroup_stats *stats)
{
	return blkio_stat_parse(text, false, stats);
}

static void test_memory_counters_keep_their_names_and_order(void **state)
{
	_cleanup_(cgroup_stats_done) struct cgroup_stats stats = {0};

	(void)state;
	assert_int_equal(parse(memory_stat_parse,
	                       "anon 32768\nfile 0\nworkingset_refault_anon 18446744073709551615\n",
	                       &stats),
	                 0);
	assert_int_equal(stats.n_memory_counters, 3);
	assert_string_equal(stats.memory_counters[0].name, "anon");
	assert_int_equal(stats.memory_counters[0].value, 32768);
	assert_string_equal(stats.memory_counters[2].name, "workingset_refault_anon");
	assert_true(stats.memory_counters[2].value == UINT64_MAX);
}

static void test_io_of_v2_is_found_by_its_words(void **state)
{
	static const char text[] =
		"8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=50331648 dios=8\n"
		"259:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6 cost.usage=7 cost.wait=x\n"
		"7:0 \n"
		"7:1\n";
	_cleanup_(cgroup_stats_done) struct cgroup_stats stats = {0};

	(void)state;
	assert_int_equal(parse(io_stat_parse, text, &stats), 0);
	assert_int_equal(stats.n_io, 2);
	assert_int_equal(stats.io[0].major, 8);
	assert_int_equal(stats.io[0].minor, 16);
	assert_int_equal(stats.io[0].read_bytes, 1459200);
	assert_int_equal(stats.io[0].write_bytes, 314773504);
	assert_int_equal(stats.io[0].reads, 192);
	assert_int_equal(stats.io[0].writes, 353);
	assert_int_equal(stats.io[0].discard_bytes, 50331648);
	assert_int_equal(stats.io[0].discards, 8);
	assert_int_equal(stats.io[1].major, 259);
	assert_int_equal(stats.io[1].discards, 6);
}

static void test_io_of_v1_comes_from_two_files(void **state)
{
	_cleanup_(cgroup_stats_done) struct cgroup_stats stats = {0};

	(void)state;
	assert_int_equal(parse(parse_bytes,
	                       "8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 12288\n8:0 Async 0\n"
	                       "8:0 Discard 0\n8:0 Total 12288\n253:1 Read 512\nTotal 12800\n",
	                       &stats),
	                 0);
	assert_int_equal(parse(parse_requests,
	                       "253:1 Read 9\n8:0 Read 1\n8:0 Write 2\n8:0 Discard 3\nTotal 15\n",
	                       &stats),
	                 0);
	assert_int_equal(stats.n_io, 2);
	assert_int_equal(stats.io[0].read_bytes, 4096);
	assert_int_equal(stats.io[0].write_bytes, 8192);
	assert_int_equal(stats.io[0].reads, 1);
	assert_int_equal(stats.io[0].writes, 2);
	assert_int_equal(stats.io[0].discards, 3);
	assert_int_equal(stats.io[1].major, 253);
	assert_int_equal(stats.io[1].read_bytes, 512);
	assert_int_equal(stats.io[1].reads, 9);
}

static void test_nothing_counted_is_no_error(void **state)
{
	_cleanup_(cgroup_stats_done) struct cgroup_stats stats = {0};

	(void)state;
	assert_int_equal(parse(io_stat_parse, "", &stats), 0);
	assert_int_equal(parse(parse_bytes, "Total 0\n", &stats), 0);
	assert_int_equal(stats.n_io, 0);
}

static void test_what_no_kernel_writes_is_refused(void **state)
{
	static const struct {
		int (*fn)(char *, struct cgroup_stats *);
		const char *text;
	} cases[] = {
		{memory_stat_parse, "anon\n"},
		{memory_stat_parse, "anon -1\n"},
		{memory_stat_parse, "anon 1 2\n"},
		{memory_stat_parse, "anon 18446744073709551616\n"},
		{io_stat_parse, "8 rbytes=1\n"},
		{io_stat_parse, "8:0 rbytes=\n"},
		{io_stat_parse, "8:0 rbytes=1x\n"},
		{io_stat_parse, "4294967296:0 rbytes=1\n"},
		{io_stat_parse, "8:4294967296 rbytes=1\n"},
		{parse_bytes, "8:0 Read\n"},
		{parse_bytes, "8:0\n"},
		{parse_bytes, "sda Read 1\n"},
		{parse_requests, "8:0 Write one\n"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_(cgroup_stats_done) struct cgroup_stats stats = {0};

		print_message("case: %s", cases[i].text);
		assert_int_equal(parse(cases[i].fn, cases[i].text, &stats), -EBADMSG);
	}
}

static void test_a_flood_of_lines_stays_within_bounds(void **state)
{
	_cleanup_(cgroup_stats_done) struct cgroup_stats stats = {0};
	_cleanup_free_ char *text = calloc(1, 64 * 2000);

	(void)state;
	assert_non_null(text);
	for (int i = 0; i < 2000; i++)
		sprintf(text + strlen(text), "8:%d rbytes=1\n", i);
	assert_int_equal(parse(io_stat_parse, text, &stats), -EBADMSG);
	assert_int_equal(parse(memory_stat_parse, text, &stats), -EBADMSG);
}

static int parse_pressure(const char *text, struct cgroup_pressure *ret)
{
	_cleanup_free_ char *copy = strdup(text);

	assert_non_null(copy);
	return pressure_parse(copy, ret);
}

static void test_pressure_is_in_hundredths(void **state)
{
	struct cgroup_pressure p;

	(void)state;
	assert_int_equal(parse_pressure("some avg10=2.93 avg60=1.05 avg300=0.58 total=2297781110\n"
	                                "full avg10=0.00 avg60=100.00 avg300=0.01 total=7\n",
	                                &p),
	                 0);
	assert_int_equal(p.some.avg10, 293);
	assert_int_equal(p.some.avg60, 105);
	assert_int_equal(p.some.avg300, 58);
	assert_int_equal(p.some.total_usec, 2297781110);
	assert_int_equal(p.full.avg60, 10000);
	assert_int_equal(p.full.avg300, 1);
	assert_int_equal(p.full.total_usec, 7);

	assert_int_equal(parse_pressure("some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n", &p), 0);
	assert_int_equal(p.full.total_usec, 0);
}

static void test_bad_pressure_is_refused(void **state)
{
	static const char *const cases[] = {
		"none avg10=0.00 avg60=0.00 avg300=0.00 total=1\n",
		"some avg10=0 avg60=0.00 avg300=0.00 total=1\n",
		"some avg10=-1.00 avg60=0.00 avg300=0.00 total=1\n",
		"some avg10=1.234 avg60=0.00 avg300=0.00 total=1\n",
		"some avg10=101.00 avg60=0.00 avg300=0.00 total=1\n",
		"some avg10=0.00 avg60=0.00 avg300=0.00 total=\n",
		"some total\n",
	};
	struct cgroup_pressure p = {.some.avg10 = 77};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		print_message("case: %s", cases[i]);
		assert_int_equal(parse_pressure(cases[i], &p), -EBADMSG);
		assert_int_equal(p.some.avg10, 77);
	}
}

static void test_weights_cover_the_whole_range(void **state)
{
	(void)state;
	assert_int_equal(io_weight_of_blkio(10), 1);
	assert_int_equal(io_weight_of_blkio(500), 4950);
	assert_int_equal(io_weight_of_blkio(1000), 10000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_memory_counters_keep_their_names_and_order),
		cmocka_unit_test(test_io_of_v2_is_found_by_its_words),
		cmocka_unit_test(test_io_of_v1_comes_from_two_files),
		cmocka_unit_test(test_nothing_counted_is_no_error),
		cmocka_unit_test(test_what_no_kernel_writes_is_refused),
		cmocka_unit_test(test_a_flood_of_lines_stays_within_bounds),
		cmocka_unit_test(test_pressure_is_in_hundredths),
		cmocka_unit_test(test_bad_pressure_is_refused),
		cmocka_unit_test(test_weights_cover_the_whole_range),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
