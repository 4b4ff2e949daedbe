/*
 * Reading one stream of the log spool (lib/spool.h) while another process appends to it, and after.
 *
 * A reader stands at a cursor, which its owner may keep and come back to after a restart; reading
 * changes nothing on disk. What can't be read (a record torn by a power loss, damaged bytes) is
 * skipped up to the next whole record and counted, but never before it is certain that no more
 * bytes of it will come.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "lib/cleanup.h"
#include "lib/err.h"
#include "lib/spool.h"

/* Where a record begins: the number of its segment (from 1) and the offset in it. */
struct spool_cursor {
	uint32_t segment;
	uint64_t offset;
};

struct spool_entry {
	struct spool_cursor at;
	enum spool_stream stream;
	uint64_t time_realtime_usec;
	const uint8_t *data; /* borrowed until the next call on the reader */
	size_t len;
	uint64_t dropped_records, dropped_bytes; /* of a gap */
};

enum spool_next {
	SPOOL_NEXT_ENTRY, /* *ret is set */
	SPOOL_NEXT_WAIT,  /* all that is there was read; the writer may add more */
	SPOOL_NEXT_END,   /* all was read, and the writer has ended the stream */
};

struct spool_reader;

/*
 * dir_fd: directory of the stream, borrowed for the life of the reader.
 * from:   where to begin; a segment that is gone means the oldest one after it, at its start.
 */
int spool_reader_new(int dir_fd, struct spool_cursor from, struct spool_reader **ret,
                     struct err *err);
struct spool_reader *spool_reader_free(struct spool_reader *reader);
DEFINE_CLEANUP(struct spool_reader *, spool_reader_free)

/* Returns an enum spool_next, or -errno of reading the directory or a segment, -ENOMEM. */
int spool_reader_next(struct spool_reader *reader, struct spool_entry *ret, struct err *err);

/* Where the next record will begin. */
struct spool_cursor spool_reader_cursor(const struct spool_reader *reader);

/* Bytes skipped so far because they were no whole record. */
uint64_t spool_reader_skipped_bytes(const struct spool_reader *reader);

/* Delete the segments before this number. Returns how many were, or -errno. */
int spool_delete_before(int dir_fd, uint32_t segment);
