/*
 * The log spool: what a container writes, on disk, from ecs-task (writer) to ecs-logs (reader).
 * One directory per stream, <state>/spool/<task id>/<container>/ (root:ecs-logs 0770):
 *
 *   log.json     written once by ecs-task before the first record: what to do with the stream,
 *                {"taskId","taskArn","cluster","containerName","containerId","driver":"awslogs",
 *                 "options":{"awslogs-group":...,...},"credentialsId":"instance"|"<execution id>",
 *                 "maxBytes":67108864,"mode":"blocking"|"non-blocking"}
 *   00000001.seg segments of at most SPOOL_SEGMENT_BYTES, numbered from 1, append-only, 0640. A
 *                segment is complete once a higher-numbered one or "end" exists; the reader deletes
 *                complete ones only. Numbers may have gaps.
 *   end          made when the last record is written (by ecs-task, or by the reaper after a crash)
 *   position.json and whatever else ecs-logs keeps (ecs-task never reads it)
 *
 * A record is a header of 24 bytes, little-endian, then the bytes of one read(2):
 *   u32 magic SPOOL_MAGIC, u32 length of the data, u32 crc32 (that of zlib) of the 12 bytes that
 *   follow it in the header and of the data, u8 stream, u8[3] zero, u64 time in realtime
 *   microseconds
 * The data of a gap record is two u64: records and bytes that were dropped there because the bound
 * was reached or the disk was full.
 * A record that is not whole is skipped by the reader and said in the log.
 *
 * The spool survives every process; it is not synced to disk record by record. A power loss takes
 * what the kernel has not written back yet (by default the last half minute at most), and leaves
 * segments that are shorter, missing, torn or filled up with zero bytes: what was on disk is
 * delivered. It may also leave no log.json, or an empty one; once "end" is there too such a stream
 * is removed, since nobody knows where it was to go.
 *
 * The writer counts the bytes of existing segments against the bound (the reader deletes segments
 * it has delivered): mode blocking stops reading the container's pipe until there is room,
 * non-blocking drops and leaves one gap record. At the bound it completes the segment it is at, so
 * that the reader can always make room. A full disk drops in both modes.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SPOOL_MAGIC         0x53434c01u
#define SPOOL_SEGMENT_BYTES (1024 * 1024)
#define SPOOL_MAX_BYTES     (64ull * 1024 * 1024)
#define SPOOL_RECORD_MAX    (256 * 1024) /* bytes of data in one record, for readers to check */

#define SPOOL_HEADER_BYTES 24
#define SPOOL_GAP_BYTES    16

#define SPOOL_LOG_FILE "log.json"
#define SPOOL_END_FILE "end"

enum spool_stream {
	SPOOL_STDOUT = 1,
	SPOOL_STDERR = 2,
	SPOOL_GAP = 3,
};

struct spool_header {
	uint32_t length; /* of the data, at most SPOOL_RECORD_MAX */
	uint32_t crc;
	enum spool_stream stream;
	uint64_t time_realtime_usec;
};

/* Fill in the header of a record with these len bytes of data. */
void spool_header_encode(enum spool_stream stream, uint64_t time_realtime_usec, const void *data,
                         size_t len, uint8_t ret[SPOOL_HEADER_BYTES]);

/* -EBADMSG when magic, length, stream or padding are not those of a record. */
int spool_header_decode(const uint8_t bytes[SPOOL_HEADER_BYTES], struct spool_header *ret);

/* Does the checksum of a decoded header fit itself and its header->length bytes of data. */
bool spool_record_is_intact(const struct spool_header *header, const void *data);

void spool_gap_encode(uint64_t records, uint64_t bytes, uint8_t ret[SPOOL_GAP_BYTES]);
/* -EBADMSG when len is not SPOOL_GAP_BYTES. */
int spool_gap_decode(const void *data, size_t len, uint64_t *ret_records, uint64_t *ret_bytes);

/* "00000001.seg" and back; -EINVAL for any other name. */
#define SPOOL_SEGMENT_NAME_BYTES 16
void spool_segment_name(uint32_t number, char ret[SPOOL_SEGMENT_NAME_BYTES]);
int spool_segment_number(const char *name, uint32_t *ret);

/* CRC-32 as zlib's crc32() counts it: start with 0 and feed the result back. */
uint32_t spool_crc32(uint32_t crc, const void *data, size_t len);
