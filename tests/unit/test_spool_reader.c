/* lib/spool_reader: a stream of records while it grows, and what damage does to it. */
#include "tests/unit/spool_fixture.h"

#include <errno.h>
#include <stdlib.h>

#include "lib/spool_reader.h"

static struct spool_reader *open_at(struct spool_fixture *f, uint32_t segment, uint64_t offset)
{
	struct spool_reader *reader = NULL;

	assert_int_equal(
		spool_reader_new(f->dir_fd, (struct spool_cursor){segment, offset}, &reader, NULL),
		0);
	return reader;
}

static void expect_entry(struct spool_reader *reader, enum spool_stream stream, const char *text)
{
	struct spool_entry entry = {0};
	struct err err = {0};
	int r = spool_reader_next(reader, &entry, &err);

	if (r != SPOOL_NEXT_ENTRY)
		print_error("expected \"%s\", got %d %s\n", text, r, err.text);
	assert_int_equal(r, SPOOL_NEXT_ENTRY);
	assert_int_equal(entry.stream, stream);
	assert_int_equal(entry.len, strlen(text));
	assert_memory_equal(entry.data, text, entry.len);
}

static void expect(struct spool_reader *reader, enum spool_next next)
{
	struct spool_entry entry;

	assert_int_equal(spool_reader_next(reader, &entry, NULL), next);
}

static void test_records_come_in_order_across_segments_until_the_end(void **state)
{
	struct spool_fixture *f = *state;
	_cleanup_(spool_reader_freep) struct spool_reader *reader = open_at(f, 0, 0);

	expect(reader, SPOOL_NEXT_WAIT);
	spool_put_text(f, 1, SPOOL_STDOUT, 1, "a");
	expect_entry(reader, SPOOL_STDOUT, "a");
	expect(reader, SPOOL_NEXT_WAIT);
	spool_put_text(f, 1, SPOOL_STDERR, 2, "bc");
	spool_put_text(f, 2, SPOOL_STDOUT, 3, "d");
	expect_entry(reader, SPOOL_STDERR, "bc");
	expect_entry(reader, SPOOL_STDOUT, "d");
	expect(reader, SPOOL_NEXT_WAIT);
	spool_put_text(f, 2, SPOOL_STDOUT, 4, "");
	spool_put_end(f);
	expect_entry(reader, SPOOL_STDOUT, "");
	expect(reader, SPOOL_NEXT_END);
	assert_int_equal(spool_reader_skipped_bytes(reader), 0);
}

static void test_reading_resumes_at_a_cursor(void **state)
{
	struct spool_fixture *f = *state;
	_cleanup_(spool_reader_freep) struct spool_reader *reader = open_at(f, 0, 0), *again = NULL;
	struct spool_cursor at;

	spool_put_text(f, 1, SPOOL_STDOUT, 1, "a");
	spool_put_text(f, 1, SPOOL_STDOUT, 1, "b");
	expect_entry(reader, SPOOL_STDOUT, "a");
	at = spool_reader_cursor(reader);
	again = open_at(f, at.segment, at.offset);
	expect_entry(again, SPOOL_STDOUT, "b");
}

static void test_a_cursor_in_a_deleted_segment_goes_on_with_the_oldest_left(void **state)
{
	struct spool_fixture *f = *state;
	_cleanup_(spool_reader_freep) struct spool_reader *reader = NULL;

	spool_put_text(f, 1, SPOOL_STDOUT, 1, "a");
	spool_put_text(f, 2, SPOOL_STDOUT, 1, "b");
	spool_put_text(f, 7, SPOOL_STDOUT, 1, "c");
	assert_int_equal(spool_delete_before(f->dir_fd, 7), 2);
	assert_int_equal(spool_delete_before(f->dir_fd, 7), 0);
	reader = open_at(f, 1, 25);
	expect_entry(reader, SPOOL_STDOUT, "c");
	expect(reader, SPOOL_NEXT_WAIT);
	spool_put_end(f);
	expect(reader, SPOOL_NEXT_END);
}

static void test_an_incomplete_record_is_waited_for_at_every_byte(void **state)
{
	struct spool_fixture *f = *state;
	_cleanup_(spool_reader_freep) struct spool_reader *reader = open_at(f, 0, 0);
	uint8_t record[SPOOL_HEADER_BYTES + 3];

	spool_header_encode(SPOOL_STDOUT, 1, "xyz", 3, record);
	memcpy(record + SPOOL_HEADER_BYTES, "xyz", 3);
	for (size_t i = 0; i < sizeof(record); i++) {
		expect(reader, SPOOL_NEXT_WAIT);
		spool_put_bytes(f, "00000001.seg", record + i, 1);
	}
	expect_entry(reader, SPOOL_STDOUT, "xyz");
	expect(reader, SPOOL_NEXT_WAIT);
}

static void test_a_torn_record_is_skipped_once_its_segment_is_complete(void **state)
{
	struct spool_fixture *f = *state;

	for (size_t torn = 1; torn < SPOOL_HEADER_BYTES + 3; torn++) {
		_cleanup_(spool_reader_freep) struct spool_reader *reader = open_at(f, 0, 0);
		uint8_t record[SPOOL_HEADER_BYTES + 3];

		spool_header_encode(SPOOL_STDOUT, 1, "xyz", 3, record);
		memcpy(record + SPOOL_HEADER_BYTES, "xyz", 3);
		spool_put_text(f, 1, SPOOL_STDOUT, 1, "a");
		spool_put_bytes(f, "00000001.seg", record, torn);
		expect_entry(reader, SPOOL_STDOUT, "a");
		expect(reader, SPOOL_NEXT_WAIT);
		assert_int_equal(spool_reader_skipped_bytes(reader), 0);
		spool_put_text(f, 2, SPOOL_STDOUT, 1, "b");
		expect_entry(reader, SPOOL_STDOUT, "b");
		assert_int_equal(spool_reader_skipped_bytes(reader), torn);
		assert_int_equal(spool_delete_before(f->dir_fd, 3), 2);
	}
}

static void test_a_torn_record_does_not_hide_the_end(void **state)
{
	struct spool_fixture *f = *state;
	_cleanup_(spool_reader_freep) struct spool_reader *reader = open_at(f, 0, 0);

	spool_put_text(f, 1, SPOOL_STDOUT, 1, "a");
	spool_put_bytes(f, "00000001.seg", "\0\0\0\0\0\0\0", 7);
	expect_entry(reader, SPOOL_STDOUT, "a");
	expect(reader, SPOOL_NEXT_WAIT);
	spool_put_end(f);
	expect(reader, SPOOL_NEXT_END);
	expect(reader, SPOOL_NEXT_END);
	assert_int_equal(spool_reader_skipped_bytes(reader), 7);
}

/* As file systems leave them that grow a file before its data are there. */
static void test_zero_bytes_in_place_of_records_are_skipped(void **state)
{
	static const size_t sizes[] = {1, SPOOL_HEADER_BYTES, 4096, 100000, 600000};
	static const uint8_t zeros[600000];
	struct spool_fixture *f = *state;
	uint64_t skipped = 0;

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		_cleanup_(spool_reader_freep) struct spool_reader *reader = open_at(f, 0, 0);

		/* All of a segment, a part in the middle, and the end of the last one. */
		spool_put_bytes(f, "00000001.seg", zeros, sizes[i]);
		spool_put_text(f, 2, SPOOL_STDOUT, 1, "a");
		spool_put_bytes(f, "00000002.seg", zeros, sizes[i]);
		spool_put_text(f, 2, SPOOL_STDOUT, 1, "b");
		spool_put_bytes(f, "00000002.seg", zeros, sizes[i]);
		expect_entry(reader, SPOOL_STDOUT, "a");
		expect_entry(reader, SPOOL_STDOUT, "b");
		expect(reader, SPOOL_NEXT_WAIT);
		spool_put_end(f);
		expect(reader, SPOOL_NEXT_END);
		skipped = spool_reader_skipped_bytes(reader);
		if (skipped != 3 * sizes[i])
			print_error("row %zu: %llu bytes were skipped\n", i,
			            (unsigned long long)skipped);
		assert_int_equal(skipped, 3 * sizes[i]);
		assert_int_equal(spool_delete_before(f->dir_fd, 3), 2);
		assert_int_equal(unlinkat(f->dir_fd, SPOOL_END_FILE, 0), 0);
	}
}

/* Every bit of a record in turn: its neighbours are read, and it never is as another one. */
static void test_damage_costs_the_damaged_record_only(void **state)
{
	struct spool_fixture *f = *state;

	for (size_t bit = 0; bit < (SPOOL_HEADER_BYTES + 3) * 8; bit++) {
		_cleanup_(spool_reader_freep) struct spool_reader *reader = open_at(f, 0, 0);
		uint8_t record[SPOOL_HEADER_BYTES + 3];

		spool_header_encode(SPOOL_STDERR, 1, "xyz", 3, record);
		memcpy(record + SPOOL_HEADER_BYTES, "xyz", 3);
		record[bit / 8] ^= (uint8_t)(1 << bit % 8);
		spool_put_text(f, 1, SPOOL_STDOUT, 1, "a");
		spool_put_bytes(f, "00000001.seg", record, sizeof(record));
		spool_put_text(f, 1, SPOOL_STDOUT, 1, "b");
		spool_put_end(f);
		expect_entry(reader, SPOOL_STDOUT, "a");
		expect_entry(reader, SPOOL_STDOUT, "b");
		assert_int_equal(spool_reader_skipped_bytes(reader), sizeof(record));
		expect(reader, SPOOL_NEXT_END);
		assert_int_equal(spool_delete_before(f->dir_fd, 2), 1);
		assert_int_equal(unlinkat(f->dir_fd, SPOOL_END_FILE, 0), 0);
	}
}

static void test_a_segment_larger_than_the_window_is_read_whole(void **state)
{
	struct spool_fixture *f = *state;
	_cleanup_(spool_reader_freep) struct spool_reader *reader = open_at(f, 0, 0);
	_cleanup_free_ char *data = malloc(100000);
	struct spool_entry entry;
	size_t n = 0;

	memset(data, 'x', 100000);
	for (int i = 0; i < 30; i++)
		spool_put(f, 1, SPOOL_STDOUT, 1, data, (size_t)(100000 - i));
	while (spool_reader_next(reader, &entry, NULL) == SPOOL_NEXT_ENTRY) {
		assert_int_equal(entry.len, 100000 - n);
		n++;
	}
	assert_int_equal(n, 30);
}

static void test_gaps_carry_their_counts(void **state)
{
	struct spool_fixture *f = *state;
	_cleanup_(spool_reader_freep) struct spool_reader *reader = open_at(f, 0, 0);
	struct spool_entry entry;

	spool_put_gap(f, 1, 5, 17, 4242);
	assert_int_equal(spool_reader_next(reader, &entry, NULL), SPOOL_NEXT_ENTRY);
	assert_int_equal(entry.stream, SPOOL_GAP);
	assert_int_equal(entry.dropped_records, 17);
	assert_int_equal(entry.dropped_bytes, 4242);
	assert_int_equal(entry.time_realtime_usec, 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		spool_test(test_records_come_in_order_across_segments_until_the_end),
		spool_test(test_reading_resumes_at_a_cursor),
		spool_test(test_a_cursor_in_a_deleted_segment_goes_on_with_the_oldest_left),
		spool_test(test_an_incomplete_record_is_waited_for_at_every_byte),
		spool_test(test_a_torn_record_is_skipped_once_its_segment_is_complete),
		spool_test(test_a_torn_record_does_not_hide_the_end),
		spool_test(test_zero_bytes_in_place_of_records_are_skipped),
		spool_test(test_damage_costs_the_damaged_record_only),
		spool_test(test_a_segment_larger_than_the_window_is_read_whole),
		spool_test(test_gaps_carry_their_counts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
