/*
 * One stream: the output of one container on its way from the spool to where its log driver says.
 *
 *   NEW         there is no log.json yet
 *   IDLE        all complete lines are delivered; inotify tells when more comes
 *   COLLECTING  there is more: a batch is due when the flush interval is over, a segment is full,
 * or the container has ended QUEUED      wants a turn SENDING     has it: a batch is under way
 * (json-file: never seen from outside) WAITING     for AWS keys BACKOFF     the last try has failed
 *
 * Each stream has one batch under way at most, which keeps its lines in order. What is known of the
 * delivery is in its position file, so a stream can be freed at any time and made anew; a batch
 * under way at that moment may be delivered again then, and nothing else.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "agent/logs/keys.h"
#include "agent/logs/leftover.h"
#include "agent/logs/log_config.h"
#include "agent/logs/watch.h"
#include "lib/cleanup.h"
#include "lib/err.h"
#include "lib/http.h"

/* What is left of a stream's directory while it is removed. */
#define STREAM_REMOVING_PREFIX ".removing-"

struct log_stream;

/* What all streams share. Borrowed, as long as there are streams. */
struct stream_env {
	sd_event *loop;
	struct watcher *watcher;
	struct http_client *http;
	struct log_keys *keys;
	struct log_defaults defaults;
	const char *spool_path;
	int spool_fd;
	int logs_fd; /* of the json-file driver; or the negative errno of opening it */

	/* Calls to the owner of a stream, with what it gave to log_stream_new(): the stream wants a
	 * turn, which is log_stream_run() later, from the loop; a request of so many bytes is under
	 * way; it has been answered or given up; it is a leftover now or still, one more that may
	 * be too many, so that streams may be dropped in this call, this one too; all is delivered
	 * and the directory removed, so that the stream is to be freed (its last call). */
	void (*wants_turn)(void *userdata);
	void (*sending)(void *userdata, uint64_t bytes);
	void (*sent)(void *userdata, uint64_t bytes);
	void (*refused)(void *userdata);
	void (*finished)(void *userdata);
};

/* Opens <spool>/<task_id>/<container>; log_stream_look() starts it, what is there is sent without
 * delay. -ENOENT when it is gone, -errno. */
int log_stream_new(const struct stream_env *env, const char *task_id, const char *container,
                   void *userdata, struct log_stream **ret, struct err *err);
struct log_stream *log_stream_free(struct log_stream *stream);
DEFINE_CLEANUP(struct log_stream *, log_stream_free)

/* Its turn. The stream may have finished when this returns. */
void log_stream_run(struct log_stream *stream);

/* Failed more than once in a row: others come first. */
bool log_stream_is_failing(const struct log_stream *stream);

/* Its driver is json-file. */
bool log_stream_writes_files(const struct log_stream *stream);

/* There may be keys now. */
void log_stream_keys_changed(struct log_stream *stream);

/* Somebody else has removed the directory. The stream finishes. */
void log_stream_removed(struct log_stream *stream);

/* Borrowed; NULL unless it has ended and its sink has refused it for good at the last try. */
const struct leftover *log_stream_leftover(const struct log_stream *stream);

/* Remove it undelivered, and say how much that is of which log and why. The stream finishes. */
void log_stream_drop(struct log_stream *stream, const char *why);

/* Look whether there is more: at the start, and every few seconds where it could not be watched.
 * The stream may have finished when this returns. */
void log_stream_look(struct log_stream *stream);
bool log_stream_is_watched(const struct log_stream *stream);
