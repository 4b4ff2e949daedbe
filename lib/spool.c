/* Records of the log spool as bytes. */
#include "lib/spool.h"

#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/parse.h"

/* Where the fields of a header are. */
enum {
	AT_MAGIC = 0,
	AT_LENGTH = 4,
	AT_CRC = 8,
	AT_STREAM = 12,
	AT_TIME = 16,
};

static void put_u32(uint8_t *at, uint32_t value)
{
	value = htole32(value);
	memcpy(at, &value, sizeof(value));
}

static void put_u64(uint8_t *at, uint64_t value)
{
	value = htole64(value);
	memcpy(at, &value, sizeof(value));
}

static uint32_t get_u32(const uint8_t *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return le32toh(value);
}

static uint64_t get_u64(const uint8_t *at)
{
	uint64_t value;

	memcpy(&value, at, sizeof(value));
	return le64toh(value);
}

/* Eight bytes at a time: table[k][b] is the crc of byte b followed by k zero bytes. */
static uint32_t crc_table[8][256];

static void crc_table_fill(void)
{
	for (uint32_t b = 0; b < 256; b++) {
		uint32_t crc = b;

		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
		crc_table[0][b] = crc;
	}
	for (int k = 1; k < 8; k++)
		for (uint32_t b = 0; b < 256; b++) {
			uint32_t crc = crc_table[k - 1][b];

			crc_table[k][b] = crc >> 8 ^ crc_table[0][crc & 0xff];
		}
}

uint32_t spool_crc32(uint32_t crc, const void *data, size_t len)
{
	const uint8_t *p = data;

	if (!crc_table[0][1])
		crc_table_fill();

	crc = ~crc;
	for (; len >= 8; p += 8, len -= 8) {
		uint32_t low = get_u32(p) ^ crc, high = get_u32(p + 4);

		crc = crc_table[7][low & 0xff] ^ crc_table[6][low >> 8 & 0xff] ^
		      crc_table[5][low >> 16 & 0xff] ^ crc_table[4][low >> 24] ^
		      crc_table[3][high & 0xff] ^ crc_table[2][high >> 8 & 0xff] ^
		      crc_table[1][high >> 16 & 0xff] ^ crc_table[0][high >> 24];
	}
	for (; len > 0; p++, len--)
		crc = crc >> 8 ^ crc_table[0][(crc ^ *p) & 0xff];
	return ~crc;
}

static uint32_t record_crc(const uint8_t bytes[SPOOL_HEADER_BYTES], const void *data, size_t len)
{
	uint32_t crc = spool_crc32(0, bytes + AT_STREAM, SPOOL_HEADER_BYTES - AT_STREAM);

	return spool_crc32(crc, data, len);
}

void spool_header_encode(enum spool_stream stream, uint64_t time_realtime_usec, const void *data,
                         size_t len, uint8_t ret[SPOOL_HEADER_BYTES])
{
	memset(ret, 0, SPOOL_HEADER_BYTES);
	put_u32(ret + AT_MAGIC, SPOOL_MAGIC);
	put_u32(ret + AT_LENGTH, (uint32_t)len);
	ret[AT_STREAM] = (uint8_t)stream;
	put_u64(ret + AT_TIME, time_realtime_usec);
	put_u32(ret + AT_CRC, record_crc(ret, data, len));
}

int spool_header_decode(const uint8_t bytes[SPOOL_HEADER_BYTES], struct spool_header *ret)
{
	struct spool_header header = {
		.length = get_u32(bytes + AT_LENGTH),
		.crc = get_u32(bytes + AT_CRC),
		.stream = bytes[AT_STREAM],
		.time_realtime_usec = get_u64(bytes + AT_TIME),
	};

	if (get_u32(bytes + AT_MAGIC) != SPOOL_MAGIC || header.length > SPOOL_RECORD_MAX)
		return -EBADMSG;
	if (header.stream < SPOOL_STDOUT || header.stream > SPOOL_GAP)
		return -EBADMSG;
	if (bytes[AT_STREAM + 1] || bytes[AT_STREAM + 2] || bytes[AT_STREAM + 3])
		return -EBADMSG;

	*ret = header;
	return 0;
}

bool spool_record_is_intact(const struct spool_header *header, const void *data)
{
	uint8_t bytes[SPOOL_HEADER_BYTES] = {};

	bytes[AT_STREAM] = (uint8_t)header->stream;
	put_u64(bytes + AT_TIME, header->time_realtime_usec);
	return record_crc(bytes, data, header->length) == header->crc;
}

void spool_gap_encode(uint64_t records, uint64_t bytes, uint8_t ret[SPOOL_GAP_BYTES])
{
	put_u64(ret, records);
	put_u64(ret + sizeof(uint64_t), bytes);
}

int spool_gap_decode(const void *data, size_t len, uint64_t *ret_records, uint64_t *ret_bytes)
{
	const uint8_t *p = data;

	if (len != SPOOL_GAP_BYTES)
		return -EBADMSG;
	*ret_records = get_u64(p);
	*ret_bytes = get_u64(p + sizeof(uint64_t));
	return 0;
}

void spool_segment_name(uint32_t number, char ret[SPOOL_SEGMENT_NAME_BYTES])
{
	snprintf(ret, SPOOL_SEGMENT_NAME_BYTES, "%08u.seg", number);
}

int spool_segment_number(const char *name, uint32_t *ret)
{
	char digits[SPOOL_SEGMENT_NAME_BYTES];
	size_t n = strcspn(name, ".");
	uint64_t number;

	if (n < 8 || n > 10 || strcmp(name + n, ".seg") != 0)
		return -EINVAL;
	memcpy(digits, name, n);
	digits[n] = '\0';
	if (parse_u64(digits, UINT32_MAX, &number) < 0 || number == 0)
		return -EINVAL;
	if (n > 8 && digits[0] == '0')
		return -EINVAL; /* not how spool_segment_name() writes it */
	*ret = (uint32_t)number;
	return 0;
}
