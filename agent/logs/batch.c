/*
 * Each line is written to the body at once. Whether it was one too many is known only then, since
 * damaged UTF-8 grows when it is mended: in that case it is taken off again.
 */
#include "agent/logs/batch.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "agent/logs/json_escape.h"

struct builder {
	const struct batch_request *request;
	struct batch *batch;
	uint64_t first_msec, last_msec;
};

struct batch *batch_free(struct batch *batch)
{
	if (!batch)
		return NULL;
	text_done(&batch->body);
	lines_state_done(&batch->after);
	free(batch);
	return NULL;
}

static int begin_body(struct builder *b)
{
	struct text *body = &b->batch->body;
	int r;

	if (b->request->form != BATCH_PUT_LOG_EVENTS)
		return 0;
	r = text_append_string(body, "{\"logGroupName\":");
	if (r == 0)
		r = json_append_quoted(body, b->request->group);
	if (r == 0)
		r = text_append_string(body, ",\"logStreamName\":");
	if (r == 0)
		r = json_append_quoted(body, b->request->stream);
	return r < 0 ? r : text_append_string(body, ",\"logEvents\":[");
}

static int end_body(struct builder *b)
{
	return b->request->form == BATCH_PUT_LOG_EVENTS ? text_append_string(&b->batch->body, "]}")
	                                                : 0;
}

/* Could an event of this time stand behind those there are? They have to be in order. */
static bool time_fits(const struct builder *b, uint64_t msec)
{
	if (b->batch->n_events == 0)
		return true;
	return msec >= b->last_msec && msec - b->first_msec <= BATCH_MAX_SPAN_MSEC;
}

static int append_event_head(struct text *body, bool first, uint64_t msec)
{
	char head[64];
	int n = snprintf(head, sizeof(head), "%s{\"timestamp\":%" PRIu64 ",\"message\":\"",
	                 first ? "" : ",", msec);

	return text_append(body, head, (size_t)n);
}

static int append_json_file_tail(struct text *body, const struct line *line, bool whole)
{
	time_t seconds = (time_t)(line->time_realtime_usec / 1000000);
	char tail[128], date[32];
	struct tm tm;
	int n;

	gmtime_r(&seconds, &tm);
	strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &tm);
	n = snprintf(tail, sizeof(tail), "%s\",\"stream\":\"%s\",\"time\":\"%s.%06u000Z\"}\n",
	             whole && line->end != LINE_CUT &&
	                             (line->end == LINE_NEWLINE || line->stream == SPOOL_GAP)
	                     ? "\\n"
	                     : "",
	             line->stream == SPOOL_STDOUT ? "stdout" : "stderr", date,
	             (unsigned int)(line->time_realtime_usec % 1000000));
	return text_append(body, tail, (size_t)n);
}

/* Writes as much of the line as one event takes. *ret_bytes: what it counts against the limit. */
static int append_line(struct builder *b, const struct line *line, size_t *ret_consumed,
                       size_t *ret_bytes)
{
	struct text *body = &b->batch->body;
	bool first = b->batch->n_events == 0, put = b->request->form == BATCH_PUT_LOG_EVENTS;
	size_t utf8;
	int r;

	r = put ? append_event_head(body, first, line->time_realtime_usec / 1000)
	        : text_append_string(body, "{\"log\":\"");
	if (r == 0)
		r = json_escape(body, line->data, line->len, LINE_MAX_BYTES, ret_consumed, &utf8);
	if (r < 0)
		return r;
	*ret_bytes = utf8 + BATCH_EVENT_OVERHEAD;
	return put ? text_append_string(body, "\"}")
	           : append_json_file_tail(body, line, *ret_consumed == line->len);
}

/* Returns 1 when the line was taken, 0 when it belongs to the next batch. */
static int take_line(struct builder *b, struct lines *lines, const struct line *line)
{
	struct batch *batch = b->batch;
	uint64_t msec = line->time_realtime_usec / 1000;
	size_t consumed = 0, bytes = 0, body_len = batch->body.len;
	int r;

	if (b->request->form == BATCH_PUT_LOG_EVENTS && line->len == 0) {
		lines_consume(lines, 0);
		batch->n_lines++;
		return 1;
	}
	if (batch->n_events == BATCH_MAX_EVENTS ||
	    (b->request->form == BATCH_PUT_LOG_EVENTS && !time_fits(b, msec)))
		return 0;
	r = append_line(b, line, &consumed, &bytes);
	if (r < 0)
		return r;
	if (batch->bytes + bytes > BATCH_MAX_BYTES) {
		batch->body.len = body_len;
		return 0;
	}
	if (batch->n_events == 0)
		b->first_msec = msec;
	b->last_msec = msec;
	lines_consume(lines, consumed);
	batch->bytes += bytes;
	batch->n_events++;
	batch->n_lines++;
	return 1;
}

static bool is_full(const struct builder *b)
{
	const struct batch_request *request = b->request;
	const struct batch *batch = b->batch;

	return batch->n_lines == (request->max_lines ? request->max_lines : BATCH_MAX_LINES) ||
	       (request->full_bytes && batch->body.len >= request->full_bytes);
}

static int take_lines(struct builder *b, struct lines *lines, struct err *err)
{
	struct batch *batch = b->batch;
	struct line line;
	int r;

	for (;;) {
		r = lines_peek(lines, &line, err);
		if (r < 0)
			return r;
		if (r != LINES_LINE) {
			batch->ended = r == LINES_END;
			return 0;
		}
		if (is_full(b)) {
			batch->more = true;
			return 0;
		}
		r = take_line(b, lines, &line);
		if (r < 0)
			return err_oom(err);
		if (r == 0) {
			batch->more = true;
			return 0;
		}
	}
}

int batch_new(int dir_fd, const struct lines_state *state, const struct batch_request *request,
              struct batch **ret, struct err *err)
{
	_cleanup_(lines_freep) struct lines *lines = NULL;
	_cleanup_(batch_freep) struct batch *batch = calloc(1, sizeof(*batch));
	struct builder b = {.request = request, .batch = batch};
	int r;

	if (!batch || lines_new(dir_fd, state, &lines) < 0 || begin_body(&b) < 0)
		return err_oom(err);
	r = take_lines(&b, lines, err);
	if (r < 0)
		return r;
	if (end_body(&b) < 0)
		return err_oom(err);
	batch->skipped_bytes = lines_skipped_bytes(lines);
	lines_take_state(lines, &batch->after);
	*ret = TAKE_PTR(batch);
	return 0;
}
