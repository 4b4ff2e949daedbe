/* agent/logs/position: what is known of the delivery survives, and damage is noticed. */
#include "tests/unit/spool_fixture.h"

#include <errno.h>

#include "agent/logs/position.h"

static void test_a_position_is_read_back_as_it_was_written(void **state)
{
	struct spool_fixture *f = *state;
	struct position in = {
		.lines = {.cursor = {7, 4711}, .byte = 13, .time_realtime_usec = 1700000000123456},
		.in_flight = 42,
		.file_bytes = 1000};
	_cleanup_position_ struct position out = {0};

	assert_int_equal(position_load(f->dir_fd, &out, NULL), -ENOENT);
	assert_int_equal(text_append(&in.lines.begun[0], "a\0\n\xff", 4), 0);
	assert_int_equal(text_append(&in.lines.begun[1], "err", 3), 0);
	assert_int_equal(position_save(f->dir_fd, &in, NULL), 0);
	assert_int_equal(position_load(f->dir_fd, &out, NULL), 0);
	assert_int_equal(out.lines.cursor.segment, 7);
	assert_int_equal(out.lines.cursor.offset, 4711);
	assert_int_equal(out.lines.byte, 13);
	assert_int_equal(out.lines.time_realtime_usec, 1700000000123456);
	assert_int_equal(out.lines.begun[0].len, 4);
	assert_memory_equal(out.lines.begun[0].p, "a\0\n\xff", 4);
	assert_int_equal(out.lines.begun[1].len, 3);
	assert_memory_equal(out.lines.begun[1].p, "err", 3);
	assert_int_equal(out.in_flight, 42);
	assert_int_equal(out.file_bytes, 1000);

	in.in_flight = 0;
	assert_int_equal(position_save(f->dir_fd, &in, NULL), 0);
	position_done(&out);
	assert_int_equal(position_load(f->dir_fd, &out, NULL), 0);
	assert_int_equal(out.in_flight, 0);
	position_done(&in);
}

static void test_damaged_positions_are_told_apart_from_missing_ones(void **state)
{
	static const char *const bad[] = {
		"",
		"{}",
		"{}\n",
		"not json\n",
		"{\"segment\":1,\"offset\":0,\"byte\":0,\"timeUsec\":0,\"stdout\":1,\"stderr\":0,"
		"\"inFlight\":0,\"fileBytes\":0}\n",
		"{\"segment\":1,\"offset\":0,\"byte\":0,\"timeUsec\":0,\"stdout\":0,\"stderr\":0,"
		"\"inFlight\":0,\"fileBytes\":0}\nx",
		"{\"segment\":4294967296,\"offset\":0,\"byte\":0,\"timeUsec\":0,\"stdout\":0,"
		"\"stderr\":0,\"inFlight\":0,\"fileBytes\":0}\n",
		"{\"segment\":1,\"offset\":0,\"byte\":0,\"timeUsec\":0,\"stdout\":9999999999,"
		"\"stderr\":0,\"inFlight\":0,\"fileBytes\":0}\n",
	};
	struct spool_fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		_cleanup_position_ struct position out = {0};
		struct err err = {0};
		int r;

		(void)unlinkat(f->dir_fd, "position", 0);
		spool_put_bytes(f, "position", bad[i], strlen(bad[i]));
		r = position_load(f->dir_fd, &out, &err);
		if (r != -EBADMSG)
			print_error("row %zu: %d %s\n", i, r, err.text);
		assert_int_equal(r, -EBADMSG);
		assert_true(err.text[0]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		spool_test(test_a_position_is_read_back_as_it_was_written),
		spool_test(test_damaged_positions_are_told_apart_from_missing_ones),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
