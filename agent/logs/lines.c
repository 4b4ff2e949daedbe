/*
 * A line that lies within one record is handed out where it lies. Only the beginning of a line
 * whose end has not come is copied, to "begun", and the rest added to it. More than one event's
 * worth is never collected: such a line is cut as soon as it is certain that it goes on.
 */
#include "agent/logs/lines.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

enum source {
	SOURCE_NONE,
	SOURCE_RECORD,
	SOURCE_BEGUN,
	SOURCE_GAP,
};

struct lines {
	struct spool_reader *reader;
	struct spool_entry record;
	bool has_record;
	struct lines_state state; /* cursor is that of record while there is one */
	struct line peeked;
	enum source source;
	char gap_text[160];
};

int lines_state_copy(const struct lines_state *state, struct lines_state *ret)
{
	struct lines_state copy = *state;
	int r = 0;

	for (int i = 0; i < 2; i++)
		copy.begun[i] = (struct text){0};
	for (int i = 0; i < 2 && r == 0; i++)
		r = text_copy(&state->begun[i], &copy.begun[i]);
	if (r < 0) {
		lines_state_done(&copy);
		return r;
	}
	*ret = copy;
	return 0;
}

void lines_state_done(struct lines_state *state)
{
	text_done(&state->begun[0]);
	text_done(&state->begun[1]);
	*state = (struct lines_state){0};
}

int lines_new(int dir_fd, const struct lines_state *state, struct lines **ret)
{
	_cleanup_(lines_freep) struct lines *lines = calloc(1, sizeof(*lines));
	int r;

	if (!lines)
		return -ENOMEM;
	r = lines_state_copy(state, &lines->state);
	if (r < 0)
		return r;
	r = spool_reader_new(dir_fd, state->cursor, &lines->reader, NULL);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(lines);
	return 0;
}

struct lines *lines_free(struct lines *lines)
{
	if (!lines)
		return NULL;
	spool_reader_free(lines->reader);
	lines_state_done(&lines->state);
	free(lines);
	return NULL;
}

uint64_t lines_skipped_bytes(const struct lines *lines)
{
	return spool_reader_skipped_bytes(lines->reader);
}

static bool cursor_equal(struct spool_cursor a, struct spool_cursor b)
{
	return a.segment == b.segment && a.offset == b.offset;
}

/* Makes the next record the current one. Returns an enum spool_next or -errno. */
static int take_record(struct lines *lines, struct err *err)
{
	struct lines_state *state = &lines->state;
	int r;

	r = spool_reader_next(lines->reader, &lines->record, err);
	if (r < 0)
		return r;
	if (r != SPOOL_NEXT_ENTRY) {
		struct spool_cursor now = spool_reader_cursor(lines->reader);

		if (now.segment != state->cursor.segment)
			state->byte = 0; /* the record we were in is gone */
		if (state->byte == 0)
			state->cursor = now;
		return r;
	}
	if (!cursor_equal(lines->record.at, state->cursor) || state->byte > lines->record.len)
		state->byte = 0;
	state->cursor = lines->record.at;
	state->time_realtime_usec = lines->record.time_realtime_usec;
	lines->has_record = true;
	return r;
}

static void leave_record(struct lines *lines)
{
	lines->has_record = false;
	lines->state.byte = 0;
	lines->state.cursor = spool_reader_cursor(lines->reader);
}

static int hand_out(struct lines *lines, enum source source, struct line line, struct line *ret)
{
	line.time_realtime_usec = lines->state.time_realtime_usec;
	lines->source = source;
	lines->peeked = *ret = line;
	return LINES_LINE;
}

static int hand_out_begun(struct lines *lines, int i, enum line_end end, struct line *ret)
{
	const struct text *begun = &lines->state.begun[i];

	return hand_out(lines, SOURCE_BEGUN,
	                (struct line){.data = begun->p,
	                              .len = begun->len,
	                              .end = end,
	                              .stream = i ? SPOOL_STDERR : SPOOL_STDOUT},
	                ret);
}

/* What has begun and will not go on: first, whatever comes. Returns 0 when there is none. */
static int peek_begun(struct lines *lines, struct line *ret)
{
	for (int i = 0; i < 2; i++)
		if (lines->state.begun[i].len > 0)
			return hand_out_begun(lines, i, LINE_NO_NEWLINE, ret) == LINES_LINE;
	return 0;
}

static int peek_gap(struct lines *lines, struct line *ret)
{
	int n;

	if (peek_begun(lines, ret))
		return LINES_LINE;
	n = snprintf(
		lines->gap_text, sizeof(lines->gap_text),
		"[%llu records (%llu bytes) of output were dropped here: the log buffer was full]",
		(unsigned long long)lines->record.dropped_records,
		(unsigned long long)lines->record.dropped_bytes);
	return hand_out(lines, SOURCE_GAP,
	                (struct line){.data = lines->gap_text,
	                              .len = (size_t)n,
	                              .end = LINE_NO_NEWLINE,
	                              .stream = SPOOL_GAP},
	                ret);
}

/* A line out of the current record: LINES_LINE, or LINES_WAIT once the record is used up. */
static int peek_record(struct lines *lines, struct line *ret)
{
	const struct spool_entry *record = &lines->record;
	int i = record->stream == SPOOL_STDERR, r;
	struct text *begun = &lines->state.begun[i];
	const char *p = (const char *)record->data + lines->state.byte;
	size_t left = record->len - lines->state.byte, len, take;
	const char *newline = left ? memchr(p, '\n', left) : NULL;

	len = newline ? (size_t)(newline - p) : left;
	if (begun->len == 0 && (newline || len > LINE_MAX_BYTES))
		return hand_out(lines, SOURCE_RECORD,
		                (struct line){.data = p,
		                              .len = len,
		                              .end = newline ? LINE_NEWLINE : LINE_CUT,
		                              .stream = record->stream},
		                ret);

	take = LINE_MAX_BYTES + 1 - begun->len;
	if (take > len)
		take = len;
	r = text_append(begun, p, take);
	if (r < 0)
		return r;
	lines->state.byte += take;
	if (newline && take == len)
		return hand_out_begun(lines, i, LINE_NEWLINE, ret);
	if (begun->len > LINE_MAX_BYTES)
		return hand_out_begun(lines, i, LINE_CUT, ret);
	leave_record(lines);
	return LINES_WAIT;
}

int lines_peek(struct lines *lines, struct line *ret, struct err *err)
{
	int r;

	lines->source = SOURCE_NONE;
	for (;;) {
		if (!lines->has_record) {
			r = take_record(lines, err);
			if (r < 0)
				return r;
			if (r == SPOOL_NEXT_WAIT)
				return LINES_WAIT;
			if (r == SPOOL_NEXT_END)
				return peek_begun(lines, ret) ? LINES_LINE : LINES_END;
		}
		if (lines->record.stream == SPOOL_GAP)
			return peek_gap(lines, ret);
		r = peek_record(lines, ret);
		if (r == -ENOMEM)
			return err_oom(err);
		if (r != LINES_WAIT)
			return r;
	}
}

void lines_consume(struct lines *lines, size_t n)
{
	const struct line *line = &lines->peeked;
	bool over_newline = n == line->len && line->end == LINE_NEWLINE;

	switch (lines->source) {
	case SOURCE_NONE:
		return;
	case SOURCE_GAP:
		leave_record(lines);
		break;
	case SOURCE_RECORD:
		lines->state.byte += n + (over_newline ? 1 : 0);
		break;
	case SOURCE_BEGUN:
		text_drop_front(&lines->state.begun[line->stream == SPOOL_STDERR], n);
		lines->state.byte += over_newline ? 1 : 0;
		break;
	}
	if (lines->source != SOURCE_GAP && lines->has_record && lines->record.stream != SPOOL_GAP &&
	    lines->state.byte == lines->record.len)
		leave_record(lines);
	lines->source = SOURCE_NONE;
}

void lines_take_state(struct lines *lines, struct lines_state *ret)
{
	*ret = lines->state;
	lines->state = (struct lines_state){0};
}
