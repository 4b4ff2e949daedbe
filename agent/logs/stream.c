/*
 * A stream's life: see the header for its states. Its turn makes one batch from the spool and
 * brings it to the sink; every way out of a turn leads to IDLE, COLLECTING, QUEUED, WAITING or
 * BACKOFF, or to the end. Memory is held for a batch only while it is under way.
 */
#include "agent/logs/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/logs/awslogs.h"
#include "agent/logs/batch.h"
#include "agent/logs/json_file.h"
#include "agent/logs/position.h"
#include "lib/backoff.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "lib/loop.h"
#include "lib/spool.h"

#define TIMER_ACCURACY_USEC (50 * 1000ull)
#define WITHOUT_KEYS_USEC   (6 * 3600 * 1000000ull) /* the life of a role's credentials in ECS */
#define WATCH_GROWTH        (IN_CREATE | IN_MOVED_TO | IN_DELETE_SELF)
#define WATCH_ALL           (WATCH_GROWTH | IN_MODIFY | IN_CLOSE_WRITE)

enum stream_state {
	STREAM_NEW,
	STREAM_IDLE,
	STREAM_COLLECTING,
	STREAM_QUEUED,
	STREAM_SENDING,
	STREAM_WAITING,
	STREAM_BACKOFF,
};

struct log_stream {
	const struct stream_env *env;
	void *userdata; /* of the owner */
	char *task_id, *container;
	int dir_fd;
	struct watch *watch; /* NULL: there was none to be had */
	sd_event_source *timer;
	enum stream_state state;
	struct log_config *config; /* NULL while NEW */

	struct position position;
	bool undo;            /* json-file: the file may hold a part of the batch in flight */
	bool file_is_checked; /* json-file: its end is known */
	enum awslogs_operation next;
	bool made; /* since the last batch that was taken: group or stream */
	struct awslogs_call *call;
	struct batch *batch;  /* under way */
	uint64_t batch_bytes; /* as told to the owner */

	struct backoff backoff;
	uint64_t failures; /* in a row */
	uint64_t rejected;
	struct leftover leftover;
	char *refusal;         /* what the sink says to the leftover; NULL: it is none */
	bool spool_is_damaged; /* was said */

	struct log_ctx task_log, log;
};

static void on_watch(uint32_t mask, const char *name, void *userdata);
static int on_timer(sd_event_source *s, uint64_t usec, void *userdata);
static int load(struct log_stream *stream, struct err *err);
static void look_for_more(struct log_stream *stream);
static void collect(struct log_stream *stream);
static void queue(struct log_stream *stream);
static void run_awslogs(struct log_stream *stream, struct err *err);
static void run_json_file(struct log_stream *stream, struct err *err);
static void call_done(enum awslogs_outcome outcome, const struct err *err, void *userdata);
static void confirm(struct log_stream *stream);
static void back_off(struct log_stream *stream, int r, const struct err *err);
static void refused(struct log_stream *stream, const struct err *err);
static void finish(struct log_stream *stream);

bool log_stream_is_failing(const struct log_stream *stream)
{
	return stream->failures > 1;
}

bool log_stream_writes_files(const struct log_stream *stream)
{
	return stream->config && stream->config->driver == LOG_DRIVER_JSON_FILE;
}

bool log_stream_is_watched(const struct log_stream *stream)
{
	return stream->watch != NULL;
}

const struct leftover *log_stream_leftover(const struct log_stream *stream)
{
	return stream->refusal ? &stream->leftover : NULL;
}

static void forget_refusal(struct log_stream *stream)
{
	free(stream->refusal);
	stream->refusal = NULL;
}

struct log_stream *log_stream_free(struct log_stream *stream)
{
	if (!stream)
		return NULL;
	awslogs_call_free(stream->call);
	batch_free(stream->batch);
	position_done(&stream->position);
	sd_event_source_disable_unref(stream->timer);
	watch_free(stream->watch);
	log_config_free(stream->config);
	fd_close(stream->dir_fd);
	free(stream->task_id);
	free(stream->container);
	free(stream->refusal);
	free(stream);
	return NULL;
}

static int open_dir(struct log_stream *stream, struct err *err)
{
	char path[PATH_MAX];

	if (snprintf(path, sizeof(path), "%s/%s", stream->task_id, stream->container) >=
	    (int)sizeof(path))
		return err_text(err, -ENAMETOOLONG, "the name of the stream is too long");
	stream->dir_fd = openat(stream->env->spool_fd, path,
	                        O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return stream->dir_fd < 0 ? err_set(err, -errno, "open %s", path) : 0;
}

/* Without a watch the owner calls log_stream_look() now and then. */
static void start_watch(struct log_stream *stream)
{
	char path[PATH_MAX];
	struct err err = {0};

	if (snprintf(path, sizeof(path), "%s/%s/%s", stream->env->spool_path, stream->task_id,
	             stream->container) >= (int)sizeof(path))
		return;
	if (watch_new(stream->env->watcher, path, WATCH_ALL, on_watch, stream, &stream->watch,
	              &err) < 0)
		log_warning(&stream->log, 0, "%s; looking every few seconds instead", err.text);
}

int log_stream_new(const struct stream_env *env, const char *task_id, const char *container,
                   void *userdata, struct log_stream **ret, struct err *err)
{
	_cleanup_(log_stream_freep) struct log_stream *stream = calloc(1, sizeof(*stream));
	int r;

	if (!stream)
		return err_oom(err);
	*stream = (struct log_stream){
		.env = env,
		.userdata = userdata,
		.dir_fd = -EBADF,
		.backoff = {.min_usec = 200000, .max_usec = 30000000, .multiple = 2, .jitter = 0.5},
		.task_log = {.field = "ECS_TASK_ID"},
		.log = {.field = "ECS_CONTAINER_NAME"},
	};
	stream->task_id = strdup(task_id);
	stream->container = strdup(container);
	if (!stream->task_id || !stream->container)
		return err_oom(err);
	stream->task_log.value = stream->task_id;
	stream->log.parent = &stream->task_log;
	stream->log.value = stream->container;

	r = open_dir(stream, err);
	if (r < 0)
		return r;
	r = loop_add_timer(env->loop, 0, TIMER_ACCURACY_USEC, on_timer, stream, &stream->timer);
	if (r >= 0)
		r = sd_event_source_set_enabled(stream->timer, SD_EVENT_OFF);
	if (r < 0)
		return err_set(err, r, "make a timer");
	(void)sd_event_source_set_description(stream->timer, "stream");
	start_watch(stream);
	*ret = TAKE_PTR(stream);
	return 0;
}

static void set_timer(struct log_stream *stream, uint64_t usec)
{
	(void)sd_event_source_set_time(stream->timer, now_usec() + usec);
	(void)sd_event_source_set_enabled(stream->timer, SD_EVENT_ONESHOT);
}

static bool exists(const struct log_stream *stream, const char *name)
{
	return faccessat(stream->dir_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static bool segment_exists(const struct log_stream *stream, uint32_t segment)
{
	char name[SPOOL_SEGMENT_NAME_BYTES];

	spool_segment_name(segment, name);
	return exists(stream, name);
}

/* Ended, and log.json is not there as a whole: it never will be. */
static void give_up(struct log_stream *stream, const struct err *err)
{
	log_err(&stream->log, 0,
	        "%s: nobody knows where this log goes, as a power loss leaves it; it is removed",
	        err->text);
	finish(stream);
}

/* log.json and the position of an earlier life. */
static int load(struct log_stream *stream, struct err *err)
{
	struct err damage = {0};
	uint32_t segment;
	int r;

	r = log_config_load(stream->dir_fd, &stream->env->defaults, &stream->config, err);
	if (r < 0)
		return r;
	r = position_load(stream->dir_fd, &stream->position, &damage);
	if (r == -EBADMSG) {
		log_err(&stream->log, 0,
		        "%s: what is in the spool is delivered from its beginning, parts of it again",
		        damage.text);
	} else if (r < 0 && r != -ENOENT) {
		stream->config = log_config_free(stream->config);
		*err = damage;
		return r;
	}
	/* Segments go after the position that leads past them was written. So without its segment
	 * this is an older position, which a power loss has brought back: what follows it in the
	 * file was confirmed, and is nowhere else. */
	segment = stream->position.lines.cursor.segment;
	stream->undo =
		stream->position.in_flight > 0 && segment_exists(stream, segment ? segment : 1);
	/* A stream that was never sent from does not exist yet, in all likelihood. */
	stream->next = r == 0 || !stream->config->create_stream ? AWSLOGS_PUT_LOG_EVENTS
	                                                        : AWSLOGS_CREATE_STREAM;
	return 0;
}

void log_stream_look(struct log_stream *stream)
{
	struct err err = {0};
	int r;

	if (stream->state == STREAM_NEW) {
		r = load(stream, &err);
		if ((r == -ENOENT || r == -EBADMSG) && exists(stream, SPOOL_END_FILE)) {
			give_up(stream, &err);
			return;
		}
		if (r == -ENOENT)
			return;
		if (r < 0) {
			log_err(&stream->log, 0, "%s", err.text);
			return; /* until the file changes, or we are replaced by a newer version */
		}
		queue(stream);
	} else if (stream->state == STREAM_IDLE) {
		look_for_more(stream);
	} else if (stream->state == STREAM_COLLECTING) {
		collect(stream);
	}
}

static bool next_segment_exists(const struct log_stream *stream)
{
	uint32_t segment = stream->position.lines.cursor.segment;

	return segment_exists(stream, segment ? segment + 1 : 2);
}

static bool has_more(const struct log_stream *stream)
{
	const struct spool_cursor *at = &stream->position.lines.cursor;
	char name[SPOOL_SEGMENT_NAME_BYTES];
	struct stat st;

	spool_segment_name(at->segment ? at->segment : 1, name);
	if (fstatat(stream->dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	    (uint64_t)st.st_size > at->offset)
		return true;
	return next_segment_exists(stream) || exists(stream, SPOOL_END_FILE);
}

/* All complete lines are delivered. Watches first and looks then, so that nothing is missed. */
static void look_for_more(struct log_stream *stream)
{
	struct err err = {0};

	stream->state = STREAM_IDLE;
	if (stream->watch && watch_set_mask(stream->watch, WATCH_ALL, &err) < 0) {
		log_warning(&stream->log, 0, "%s; looking every few seconds instead", err.text);
		stream->watch = watch_free(stream->watch);
	}
	if (has_more(stream))
		collect(stream);
}

/*
 * There is more. From here on the single writes do not matter any more, only that a segment is full
 * or the stream ended: what does not change the outcome wakes nobody up.
 */
static void collect(struct log_stream *stream)
{
	if (stream->state != STREAM_COLLECTING) {
		stream->state = STREAM_COLLECTING;
		set_timer(stream, stream->config->flush_usec);
		if (stream->watch && watch_set_mask(stream->watch, WATCH_GROWTH, NULL) < 0)
			stream->watch = watch_free(stream->watch); /* the timer goes on without */
	}
	if (next_segment_exists(stream) || exists(stream, SPOOL_END_FILE))
		queue(stream);
}

void log_stream_removed(struct log_stream *stream)
{
	if (stream->state == STREAM_SENDING)
		stream->env->sent(stream->userdata, stream->batch_bytes);
	log_warning(&stream->log, 0, "the spool directory was removed by somebody else");
	stream->env->finished(stream->userdata);
}

static void on_watch(uint32_t mask, const char *name, void *userdata)
{
	struct log_stream *stream = userdata;
	bool is_segment = strstr(name, ".seg") != NULL;

	if (mask & (IN_DELETE_SELF | IN_IGNORED)) {
		log_stream_removed(stream);
		return;
	}
	/* Our own position file moves here as well. */
	if (mask & IN_Q_OVERFLOW || is_segment || strcmp(name, SPOOL_LOG_FILE) == 0 ||
	    strcmp(name, SPOOL_END_FILE) == 0)
		log_stream_look(stream);
}

static int on_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct log_stream *stream = userdata;

	(void)s;
	(void)usec;
	if (stream->state == STREAM_COLLECTING || stream->state == STREAM_BACKOFF)
		queue(stream);
	return 0;
}

static void queue(struct log_stream *stream)
{
	stream->state = STREAM_QUEUED;
	(void)sd_event_source_set_enabled(stream->timer, SD_EVENT_OFF);
	stream->env->wants_turn(stream->userdata);
}

void log_stream_keys_changed(struct log_stream *stream)
{
	if (stream->state == STREAM_WAITING)
		queue(stream);
}

void log_stream_run(struct log_stream *stream)
{
	struct err err = {0};

	if (stream->state != STREAM_QUEUED)
		return;
	if (stream->config->driver == LOG_DRIVER_AWSLOGS)
		run_awslogs(stream, &err);
	else
		run_json_file(stream, &err);
}

static void save_position(struct log_stream *stream)
{
	struct err err = {0};

	/* Delivery goes on: it is what makes room on a full disk. */
	if (position_save(stream->dir_fd, &stream->position, &err) < 0)
		log_err(&stream->log, 0, "%s: a restart now would deliver lines again", err.text);
}

/*
 * Makes the batch that follows the position. Returns 1 with one to be sent; 0 when there is none,
 * and the stream has gone on to another state or its end; or -errno.
 */
static int make_batch(struct log_stream *stream, const struct batch_request *request,
                      struct err *err)
{
	_cleanup_(batch_freep) struct batch *batch = NULL;
	int r;

	r = batch_new(stream->dir_fd, &stream->position.lines, request, &batch, err);
	if (r < 0)
		return r;
	if (batch->skipped_bytes && !stream->spool_is_damaged) {
		stream->spool_is_damaged = true;
		log_err(&stream->log, 0, "%llu bytes of the spool are damaged and were skipped",
		        (unsigned long long)batch->skipped_bytes);
	}
	stream->batch = TAKE_PTR(batch);
	if (stream->batch->n_events > 0)
		return 1;
	stream->position.in_flight = 0;
	confirm(stream); /* nothing to send, but the place has moved on */
	return 0;
}

/* Role credentials live in memory: a restart of the host loses them, and those of a task that has
 * ended are not given again. Those of the instance are, sooner or later. */
static bool keys_are_lost(const struct log_stream *stream)
{
	const uint64_t second = 1000000;
	struct stat st;
	uint64_t now = now_realtime_usec();

	return strcmp(stream->config->credentials_id, LOG_CREDENTIALS_INSTANCE) != 0 &&
	       fstatat(stream->dir_fd, SPOOL_END_FILE, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       st.st_mtim.tv_sec >= 0 &&
	       now > (uint64_t)st.st_mtim.tv_sec * second + WITHOUT_KEYS_USEC;
}

static void run_awslogs(struct log_stream *stream, struct err *err)
{
	const struct text *body = NULL;
	struct aws_keys *keys = NULL;
	uint64_t n_events = 0;
	int r;

	r = log_keys_get(stream->env->keys, stream->config->credentials_id, &keys, err);
	if (r == -ENOENT && keys_are_lost(stream)) {
		log_err(&stream->log, 0,
		        "%s, and the log ended hours ago: what is left of it can be sent by nobody, it is removed",
		        err->text);
		finish(stream);
		return;
	}
	if (r == -EAGAIN || r == -ENOENT) {
		log_debug(&stream->log, "%s", err->text);
		stream->state = STREAM_WAITING;
		return;
	}
	if (r == 0) {
		/* Also before the stream is made: one that has no line yet needs none. */
		r = make_batch(stream,
		               &(struct batch_request){.form = BATCH_PUT_LOG_EVENTS,
		                                       .group = stream->config->group,
		                                       .stream = stream->config->stream,
		                                       .max_lines = stream->position.in_flight},
		               err);
		if (r == 0)
			return;
	}
	if (r > 0 && stream->next == AWSLOGS_PUT_LOG_EVENTS) {
		stream->position.in_flight = stream->batch->n_lines;
		save_position(stream);
		body = &stream->batch->body;
		n_events = stream->batch->n_events;
	}
	if (r > 0)
		r = awslogs_call_start(stream->env->http, stream->config, keys, stream->next, body,
		                       n_events, call_done, stream, &stream->call, err);
	if (r < 0) {
		back_off(stream, r, err);
		return;
	}
	stream->state = STREAM_SENDING;
	stream->batch_bytes = stream->batch->body.len;
	text_done(&stream->batch->body); /* the request has its own copy */
	stream->env->sending(stream->userdata, stream->batch_bytes);
}

/*
 * What comes next after an operation. Whoever may put events need not be allowed to make groups and
 * streams, and somebody else may make them: so after a refusal it goes one step back. Returns
 * whether to go on at once.
 */
static bool next_operation(struct log_stream *stream, enum awslogs_outcome outcome)
{
	bool missing = outcome == AWSLOGS_MISSING;

	switch (stream->next) {
	case AWSLOGS_PUT_LOG_EVENTS:
		if (!missing || !stream->config->create_stream)
			return false;
		stream->next = AWSLOGS_CREATE_STREAM;
		if (stream->made)
			return false; /* once was enough: what is made shows up later */
		stream->made = true;
		return true;
	case AWSLOGS_CREATE_STREAM:
		if (missing && stream->config->create_group) {
			stream->next = AWSLOGS_CREATE_GROUP;
			return true;
		}
		if (!missing)
			stream->next = AWSLOGS_PUT_LOG_EVENTS;
		return outcome == AWSLOGS_DONE;
	case AWSLOGS_CREATE_GROUP:
		stream->next = AWSLOGS_CREATE_STREAM;
		return outcome == AWSLOGS_DONE;
	}
	return false;
}

static void put_done(struct log_stream *stream)
{
	uint64_t rejected = awslogs_call_rejected(stream->call);

	stream->call = awslogs_call_free(stream->call);
	if (rejected) {
		stream->rejected += rejected;
		log_err(&stream->log, 0,
		        "CloudWatch Logs has not taken %llu events (%llu so far): they are too old or too new",
		        (unsigned long long)rejected, (unsigned long long)stream->rejected);
	}
	confirm(stream);
}

static void call_done(enum awslogs_outcome outcome, const struct err *err, void *userdata)
{
	struct log_stream *stream = userdata;
	bool put = stream->next == AWSLOGS_PUT_LOG_EVENTS;

	stream->env->sent(stream->userdata, stream->batch_bytes);
	if (outcome == AWSLOGS_DONE && put) {
		put_done(stream);
		return;
	}
	stream->call = awslogs_call_free(stream->call);
	stream->batch = batch_free(stream->batch);

	/* Nothing of it was taken for certain: the next batch need not be the same. */
	if (put && outcome != AWSLOGS_UNKNOWN && outcome != AWSLOGS_TOO_LARGE)
		stream->position.in_flight = 0;

	if (next_operation(stream, outcome)) {
		queue(stream);
	} else if (outcome == AWSLOGS_TOO_LARGE && stream->position.in_flight > 1) {
		stream->position.in_flight /= 2;
		queue(stream);
	} else {
		if (outcome == AWSLOGS_REFUSED_KEYS)
			log_keys_refused(stream->env->keys, stream->config->credentials_id);
		back_off(stream, -EREMOTEIO, err);
		if (outcome == AWSLOGS_MISSING || outcome == AWSLOGS_DENIED)
			refused(stream, err); /* may free it */
	}
}

static int write_json_file(struct log_stream *stream, struct err *err)
{
	const struct json_file file = {.logs_fd = stream->env->logs_fd,
	                               .task_id = stream->task_id,
	                               .container = stream->container,
	                               .check_end = !stream->file_is_checked};
	struct batch_request request = {.form = BATCH_JSON_FILE,
	                                .max_lines = stream->position.in_flight};
	_cleanup_close_ int fd = -EBADF;
	uint64_t bytes = 0;
	int r;

	if (stream->env->logs_fd < 0)
		return err_set(err, stream->env->logs_fd, "open the directory of log files");
	r = json_file_open(&file, stream->config, stream->undo, stream->position.file_bytes, &fd,
	                   &bytes, err);
	if (r < 0)
		return r;
	stream->undo = false;
	stream->file_is_checked = true;
	if (stream->config->max_size_bytes != UINT64_MAX)
		request.full_bytes = stream->config->max_size_bytes > bytes
		                             ? stream->config->max_size_bytes - bytes
		                             : 1;
	r = make_batch(stream, &request, err);
	if (r <= 0)
		return r;

	stream->position.in_flight = stream->batch->n_lines;
	stream->position.file_bytes = bytes;
	save_position(stream);
	stream->undo = true;
	r = fd_write_all(fd, stream->batch->body.p, stream->batch->body.len);
	if (r < 0)
		return err_set(err, r, "write the log file");
	/* Segments are deleted next, so that this is the only place where their lines are. */
	if ((stream->batch->ended ||
	     stream->batch->after.cursor.segment != stream->position.lines.cursor.segment) &&
	    fdatasync(fd) < 0)
		return err_set(err, -errno, "sync the log file");
	stream->undo = false;
	return 1;
}

static void run_json_file(struct log_stream *stream, struct err *err)
{
	int r = write_json_file(stream, err);

	if (r < 0) {
		back_off(stream, r, err);
	} else if (r > 0) {
		confirm(stream);
	}
}

/* The batch is delivered. The position is written before segments go, since it leads past them. */
static void confirm(struct log_stream *stream)
{
	_cleanup_(batch_freep) struct batch *batch = TAKE_PTR(stream->batch);
	bool moved = batch->n_lines > 0 ||
	             batch->after.cursor.segment != stream->position.lines.cursor.segment;
	int r;

	lines_state_done(&stream->position.lines);
	stream->position.lines = batch->after;
	batch->after = (struct lines_state){0};
	stream->position.in_flight = 0;
	if (batch->n_events > 0 && stream->failures > 0)
		log_info(&stream->log, "logs are delivered again after %llu failures",
		         (unsigned long long)stream->failures);
	if (batch->n_events > 0) {
		stream->failures = 0;
		forget_refusal(stream);
		stream->made = false;
		backoff_reset(&stream->backoff);
	}
	if (batch->ended) {
		log_debug(&stream->log, "all logs are delivered");
		finish(stream);
		return;
	}
	if (moved) {
		save_position(stream);
		r = spool_delete_before(stream->dir_fd, stream->position.lines.cursor.segment);
		if (r < 0)
			log_warning(&stream->log, r, "delivered segments could not be deleted");
	}
	if (batch->more)
		queue(stream);
	else
		look_for_more(stream);
}

static void back_off(struct log_stream *stream, int r, const struct err *err)
{
	stream->batch = batch_free(stream->batch);
	forget_refusal(stream);
	stream->failures++;
	if (r == -EACCES && stream->failures == 1)
		log_debug(&stream->log, "%s",
		          err->text); /* the writer has not given it to us yet */
	else if ((stream->failures & (stream->failures - 1)) == 0) /* 1, 2, 4, 8, ... */
		log_warning(&stream->log, 0,
		            "logs are not delivered (%llu tries, none is lost): %s",
		            (unsigned long long)stream->failures, err->text);
	stream->state = STREAM_BACKOFF;
	set_timer(stream, backoff_next(&stream->backoff, random_fraction()));
}

/* After back_off(). One that has not ended is bounded by its own options. */
static void refused(struct log_stream *stream, const struct err *err)
{
	if (leftover_measure(stream->dir_fd, &stream->leftover) <= 0)
		return;
	stream->refusal = strdup(err->text);
	if (leftover_is_too_old(&stream->leftover))
		log_stream_drop(stream,
		                "it ended 14 days ago, and CloudWatch Logs takes nothing older");
	else
		stream->env->refused(stream->userdata);
}

void log_stream_drop(struct log_stream *stream, const char *why)
{
	if (stream->state == STREAM_SENDING)
		stream->env->sent(stream->userdata, stream->batch_bytes);
	log_err(&stream->log, 0,
	        "%llu bytes of the log for group %s, stream %s are given up: %s; it was refused with: %s",
	        (unsigned long long)stream->leftover.bytes, stream->config->group,
	        stream->config->stream, why, stream->refusal ? stream->refusal : "no words");
	finish(stream);
}

/* Gone under another name at once: half a directory must never be taken for a stream. */
static int remove_dir(struct log_stream *stream, struct err *err)
{
	char name[NAME_MAX + sizeof(STREAM_REMOVING_PREFIX)];
	_cleanup_close_ int task_fd = -EBADF;
	int r;

	task_fd = openat(stream->env->spool_fd, stream->task_id,
	                 O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (task_fd < 0)
		return err_set(err, -errno, "open the spool of task %s", stream->task_id);
	snprintf(name, sizeof(name), STREAM_REMOVING_PREFIX "%s", stream->container);
	if (renameat(task_fd, stream->container, task_fd, name) < 0)
		return err_set(err, -errno, "rename the spool directory");
	if (!exists(stream, SPOOL_END_FILE)) {
		/* The writer has come back in this moment. Under its old name it is found again. */
		(void)position_save(stream->dir_fd, &stream->position, NULL);
		if (renameat(task_fd, name, task_fd, stream->container) < 0)
			return err_set(err, -errno, "rename the spool directory back");
		return 0;
	}
	r = dir_remove_all(task_fd, name);
	if (r < 0)
		return err_set(err, r, "remove the spool directory");
	/* Other containers of the task may still have theirs. */
	(void)unlinkat(stream->env->spool_fd, stream->task_id, AT_REMOVEDIR);
	return 0;
}

static void finish(struct log_stream *stream)
{
	struct err err = {0};

	stream->watch = watch_free(stream->watch);
	if (remove_dir(stream, &err) < 0) {
		log_err(&stream->log, 0, "%s", err.text);
		save_position(stream); /* it must not be sent again */
	}
	stream->env->finished(stream->userdata);
}
