/*
 * The writing end of one stream of the log spool (spool.h), in ecs-task.
 *
 * Life: spool_writer_open(); then for each read(2) from the container spool_writer_append(), and
 * before it spool_writer_has_room(), whose false means "do not read now, ask again a little later";
 * last spool_writer_end(). Freeing without ending leaves the stream open, as a crash does, for a
 * later spool_writer_open() or spool_end_all() to go on with.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/cleanup.h"
#include "lib/err.h"
#include "lib/spool.h"

struct spool_writer;

struct spool_stream_options {
	const char *task_id; /* one path component each */
	const char *container;
	const void *log_json; /* content of log.json */
	size_t log_json_len;
	uint64_t max_bytes; /* bound on what waits for the reader */
	bool blocking;
};

/*
 * Make the directory of the stream below spool_fd (O_DIRECTORY on <state>/spool, borrowed) and
 * write log.json. Directories and files get the group of spool_fd. An existing stream is gone on
 * with, after its last segment; its "end" is taken back.
 */
int spool_writer_open(int spool_fd, const struct spool_stream_options *options,
                      struct spool_writer **ret, struct err *err);
struct spool_writer *spool_writer_free(struct spool_writer *writer);
DEFINE_CLEANUP(struct spool_writer *, spool_writer_free)

/* In mode non-blocking always true. At the bound it looks at the directory again, at most once in
 * 20 ms, and completes the current segment. */
bool spool_writer_has_room(struct spool_writer *writer);

/*
 * One record of up to SPOOL_RECORD_MAX bytes. Never fails towards the caller: what cannot be
 * written (at the bound in mode non-blocking, disk full, an error) is dropped, counted, and told
 * by a gap record before the next one that can be.
 * beyond: write although the bound is reached (the rest of a container that has exited).
 */
void spool_writer_append(struct spool_writer *writer, enum spool_stream stream,
                         uint64_t time_realtime_usec, const void *data, size_t len, bool beyond);

/* Dropped so far, in total. */
void spool_writer_dropped(const struct spool_writer *writer, uint64_t *ret_records,
                          uint64_t *ret_bytes);

/* The last error that made it drop, as -errno; 0: none. */
int spool_writer_error(const struct spool_writer *writer);

/* Write a gap that is pending and "end". -errno when "end" cannot be made (it is tried again by
 * spool_end_all()). */
int spool_writer_end(struct spool_writer *writer, struct err *err);

/* Make "end" in every stream of a task that has none: for the reaper. Nothing there is no error. */
int spool_end_all(int spool_fd, const char *task_id, struct err *err);
