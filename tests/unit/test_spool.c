/* The bytes of spool records: what is written is read back, and damage is seen. */
#include "lib/spool.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void test_crc_is_that_of_zlib(void **state)
{
	static const struct {
		const char *text;
		uint32_t crc;
	} rows[] = {
		{"", 0},
		{"a", 0xe8b7be43u},
		{"123456789", 0xcbf43926u},
		{"The quick brown fox jumps over the lazy dog", 0x414fa339u},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		size_t len = strlen(rows[i].text);

		print_message("row %zu\n", i);
		assert_int_equal(spool_crc32(0, rows[i].text, len), rows[i].crc);
		for (size_t cut = 0; cut <= len; cut++) {
			uint32_t crc = spool_crc32(0, rows[i].text, cut);

			assert_int_equal(spool_crc32(crc, rows[i].text + cut, len - cut),
			                 rows[i].crc);
		}
	}
}

static void test_header_bytes_are_as_documented(void **state)
{
	uint8_t bytes[SPOOL_HEADER_BYTES];
	uint8_t covered[12 + 3];
	uint32_t crc;

	(void)state;
	spool_header_encode(SPOOL_STDERR, 0x0102030405060708u, "abc", 3, bytes);

	assert_memory_equal(bytes, "\x01\x4c\x43\x53\x03\x00\x00\x00", 8);
	assert_memory_equal(bytes + 12, "\x02\x00\x00\x00\x08\x07\x06\x05\x04\x03\x02\x01", 12);

	memcpy(covered, bytes + 12, 12);
	memcpy(covered + 12, "abc", 3);
	crc = spool_crc32(0, covered, sizeof(covered));
	for (int i = 0; i < 4; i++)
		assert_int_equal(bytes[8 + i], crc >> (8 * i) & 0xff);
}

static void test_a_record_is_read_back(void **state)
{
	uint8_t bytes[SPOOL_HEADER_BYTES];
	struct spool_header header;

	(void)state;
	spool_header_encode(SPOOL_STDOUT, 1700000000000000u, "line\n", 5, bytes);
	assert_int_equal(spool_header_decode(bytes, &header), 0);
	assert_int_equal(header.length, 5);
	assert_int_equal(header.stream, SPOOL_STDOUT);
	assert_true(header.time_realtime_usec == 1700000000000000u);
	assert_true(spool_record_is_intact(&header, "line\n"));
	assert_false(spool_record_is_intact(&header, "lime\n"));
}

static void test_every_flipped_bit_is_seen(void **state)
{
	uint8_t record[SPOOL_HEADER_BYTES + 8];

	(void)state;
	spool_header_encode(SPOOL_STDOUT, 1700000000000000u, "12345678", 8, record);
	memcpy(record + SPOOL_HEADER_BYTES, "12345678", 8);

	for (size_t bit = 0; bit < sizeof(record) * 8; bit++) {
		uint8_t damaged[sizeof(record)];
		struct spool_header header;

		memcpy(damaged, record, sizeof(record));
		damaged[bit / 8] ^= (uint8_t)(1 << bit % 8);
		if (spool_header_decode(damaged, &header) < 0)
			continue;
		if (header.length > 8)
			continue; /* the data ends early: torn, as a reader sees it */
		if (spool_record_is_intact(&header, damaged + SPOOL_HEADER_BYTES))
			fail_msg("bit %zu was flipped unseen", bit);
	}
}

static void test_a_length_beyond_the_bound_is_refused(void **state)
{
	uint8_t bytes[SPOOL_HEADER_BYTES];
	struct spool_header header;

	(void)state;
	spool_header_encode(SPOOL_STDOUT, 1, "", 0, bytes);
	bytes[6] = 0x04; /* 256 KiB */
	assert_int_equal(spool_header_decode(bytes, &header), 0);
	bytes[4] = 0x01;
	assert_int_equal(spool_header_decode(bytes, &header), -EBADMSG);
}

static void test_a_gap_is_read_back(void **state)
{
	uint8_t bytes[SPOOL_GAP_BYTES];
	uint64_t records, dropped;

	(void)state;
	spool_gap_encode(7, 1ull << 40, bytes);
	assert_int_equal(spool_gap_decode(bytes, sizeof(bytes), &records, &dropped), 0);
	assert_true(records == 7 && dropped == 1ull << 40);
	assert_int_equal(spool_gap_decode(bytes, sizeof(bytes) - 1, &records, &dropped), -EBADMSG);
}

static void test_segment_names(void **state)
{
	static const struct {
		const char *name;
		uint32_t number; /* 0: refused */
	} rows[] = {
		{"00000001.seg", 1},
		{"99999999.seg", 99999999},
		{"100000000.seg", 100000000},
		{"4294967295.seg", UINT32_MAX},
		{"4294967296.seg", 0},
		{"00000000.seg", 0},
		{"000000001.seg", 0},
		{"1.seg", 0},
		{"0000000a.seg", 0},
		{"00000001.seg.tmp", 0},
		{"00000001", 0},
		{"", 0},
		{"end", 0},
		{"-0000001.seg", 0},
	};
	char name[SPOOL_SEGMENT_NAME_BYTES];

	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint32_t number = 0;

		print_message("%s\n", rows[i].name);
		assert_int_equal(spool_segment_number(rows[i].name, &number),
		                 rows[i].number ? 0 : -EINVAL);
		assert_int_equal(number, rows[i].number);
		if (number) {
			spool_segment_name(number, name);
			assert_string_equal(name, rows[i].name);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_crc_is_that_of_zlib),
		cmocka_unit_test(test_header_bytes_are_as_documented),
		cmocka_unit_test(test_a_record_is_read_back),
		cmocka_unit_test(test_every_flipped_bit_is_seen),
		cmocka_unit_test(test_a_length_beyond_the_bound_is_refused),
		cmocka_unit_test(test_a_gap_is_read_back),
		cmocka_unit_test(test_segment_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
