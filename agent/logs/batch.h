/*
 * A batch: the next lines of one stream in the form in which the sink takes them, at once and
 * whole.
 *
 * Batches are made from the spool when they can be sent and dropped when that fails, so that a sink
 * that is down costs no memory; the same lines make the same batch again.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "agent/logs/lines.h"
#include "agent/logs/text.h"
#include "lib/err.h"

/* Limits of PutLogEvents. Source: Amazon CloudWatch Logs API Reference, PutLogEvents. */
#define BATCH_MAX_BYTES      (1024 * 1024) /* UTF-8 of all messages and 26 bytes for each event */
#define BATCH_MAX_EVENTS     10000
#define BATCH_MAX_SPAN_MSEC  (24ull * 3600 * 1000)
#define BATCH_EVENT_OVERHEAD 26

#define BATCH_MAX_LINES 100000 /* of ours: bounds the work of one turn where lines are empty */

enum batch_form {
	/* Body of a PutLogEvents request. Events have no newline at their end, and lines without
	 * any byte are left out, since the API takes no empty message. */
	BATCH_PUT_LOG_EVENTS,
	/* Lines of Docker's json-file driver: {"log":"...\n","stream":"stdout","time":"<RFC
	 * 3339>"}. */
	BATCH_JSON_FILE,
};

struct batch_request {
	enum batch_form form;
	const char *group, *stream; /* for BATCH_PUT_LOG_EVENTS */
	uint64_t max_lines;         /* 0: what the limits allow */
	uint64_t full_bytes; /* take no further line once the body is this long; 0: no such bound */
};

struct batch {
	struct text body;
	uint64_t n_lines;  /* taken from the stream, also those left out */
	uint64_t n_events; /* in body */
	uint64_t bytes;    /* as BATCH_MAX_BYTES counts */
	struct lines_state after;
	bool more;              /* a limit was reached: there may be further lines */
	bool ended;             /* the stream has ended and this is the last of it */
	uint64_t skipped_bytes; /* of the spool, unreadable */
};

/*
 * Make a batch of what follows state in the spool directory. One with n_lines == 0 says that no
 * complete line is there; one with n_events == 0 has nothing to send but moves on.
 * Returns 0, or -errno of reading the spool, -ENOMEM.
 */
int batch_new(int dir_fd, const struct lines_state *state, const struct batch_request *request,
              struct batch **ret, struct err *err);
struct batch *batch_free(struct batch *batch);
DEFINE_CLEANUP(struct batch *, batch_free)
