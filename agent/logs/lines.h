/*
 * Lines out of the records of one stream directory. A record is what one read(2) of the container's
 * pipe gave, so lines are put together again here, those of stdout and those of stderr each for
 * themselves; a line is due when its newline has come, whatever the other pipe said in between.
 *
 * Where a reader of lines stands is a struct lines_state: a place in the spool and the beginnings
 * of lines that lie before it. That makes it possible to stop after any line, and to begin again
 * there after a restart, while the segments before that place are deleted.
 *
 * A line longer than LINE_MAX_BYTES comes in pieces of at most that much. The beginning of a line
 * that never gets its newline comes as it is at the end of the stream and before a gap.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/logs/text.h"
#include "lib/err.h"
#include "lib/spool_reader.h"

/* One event of CloudWatch Logs is at most 256 KiB with 26 bytes of overhead. */
#define LINE_MAX_BYTES (256 * 1024 - 26)

struct lines_state {
	struct spool_cursor cursor;  /* segment 0: the very beginning */
	uint64_t byte;               /* bytes of the record there that are dealt with */
	uint64_t time_realtime_usec; /* of the last record before */
	struct text begun[2];        /* of stdout and of stderr */
};
int lines_state_copy(const struct lines_state *state, struct lines_state *ret); /* 0, -ENOMEM */
void lines_state_done(struct lines_state *state);

enum line_end {
	LINE_NEWLINE,
	LINE_CUT,        /* too long: the rest follows */
	LINE_NO_NEWLINE, /* nothing follows */
};

struct line {
	const char *data; /* borrowed until the next call; without its newline */
	size_t len;       /* more than LINE_MAX_BYTES where end is LINE_CUT */
	enum line_end end;
	enum spool_stream stream; /* SPOOL_GAP: a sentence of ours about a gap */
	uint64_t time_realtime_usec;
};

enum lines_next {
	LINES_LINE,
	LINES_WAIT, /* no further complete line yet */
	LINES_END,  /* the stream has ended and all was consumed */
};

struct lines;

/* dir_fd is borrowed for the life of the object, state is copied. -ENOMEM. */
int lines_new(int dir_fd, const struct lines_state *state, struct lines **ret);
struct lines *lines_free(struct lines *lines);
DEFINE_CLEANUP(struct lines *, lines_free)

/* The next line, without moving on. Returns an enum lines_next or -errno (with err). */
int lines_peek(struct lines *lines, struct line *ret, struct err *err);

/* Move over the first n bytes of the line that lines_peek() has returned; over its end too if that
 * is all of it. Of a line with LINE_CUT at least one byte must be left. */
void lines_consume(struct lines *lines, size_t n);

/* Moves the state out; lines is good for lines_free() only then. */
void lines_take_state(struct lines *lines, struct lines_state *ret);

/* Bytes of the spool that could not be read since lines_new(). */
uint64_t lines_skipped_bytes(const struct lines *lines);
