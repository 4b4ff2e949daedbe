/*
 * Segments are counted, not locked: the writer knows what it wrote, and looks at the directory for
 * what the reader has deleted only when its own count says the bound is reached. The reader owns
 * the directory too (by group), so nothing in it is followed or trusted.
 */
#include "lib/spool_writer.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>

#include "lib/fd.h"

#define RESCAN_USEC   20000
#define SEGMENT_TRIES 16
#define FOLDER_TRIES  16
#define SEGMENT_MIN   4096

struct spool_writer {
	int dir_fd;
	int segment_fd; /* -EBADF: the next record opens one */
	uint32_t segment;
	uint64_t segment_bytes;
	uint64_t segment_max;
	uint64_t used; /* bytes of all segments, as last counted, and what was written since */
	uint64_t max_bytes;
	uint64_t counted_usec;
	bool blocking;
	gid_t gid;
	int error;
	uint64_t dropped_records, dropped_bytes; /* in total */
	uint64_t gap_records, gap_bytes;         /* not told yet */
};

static uint64_t now_usec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

/* A directory for the group of its parent, which may be one that the reader made. */
static int open_directory(int parent_fd, const char *name, gid_t gid, bool create, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;

	if (create && mkdirat(parent_fd, name, 0770) < 0 && errno != EEXIST)
		return err_set(err, -errno, "create spool directory %s", name);
	fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ENOENT
		                       : err_set(err, -errno, "open spool directory %s", name);
	if (create && (fchown(fd, (uid_t)-1, gid) < 0 || fchmod(fd, 0770) < 0))
		return err_set(err, -errno, "set owner and mode of spool directory %s", name);
	return TAKE_FD(fd);
}

static int create_file(const struct spool_writer *writer, const char *name)
{
	int fd = openat(writer->dir_fd, name,
	                O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0640);

	if (fd < 0)
		return -errno;
	if (fchown(fd, (uid_t)-1, writer->gid) < 0 || fchmod(fd, 0640) < 0) {
		int r = -errno;

		fd_close(fd);
		(void)unlinkat(writer->dir_fd, name, 0);
		return r;
	}
	return fd;
}

/* Highest number and bytes of the segments that are there. */
static int count_segments(struct spool_writer *writer)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	struct dirent *entry;
	uint64_t used = 0;
	int r = dir_open(writer->dir_fd, ".", &dir);

	if (r < 0)
		return r;
	while ((errno = 0, entry = readdir(dir))) {
		struct stat st;
		uint32_t number;

		if (spool_segment_number(entry->d_name, &number) < 0)
			continue;
		if (number > writer->segment)
			writer->segment = number;
		if (fstatat(writer->dir_fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0)
			used += (uint64_t)st.st_size; /* else the reader has just deleted it */
	}
	if (errno)
		return -errno;
	writer->used = used;
	writer->counted_usec = now_usec();
	return 0;
}

static int write_log_json(struct spool_writer *writer, const void *data, size_t len)
{
	_cleanup_close_ int fd = -EBADF;
	static const char tmp[] = SPOOL_LOG_FILE ".tmp";
	int r;

	(void)unlinkat(writer->dir_fd, tmp, 0); /* what a crash may have left */
	fd = create_file(writer, tmp);
	if (fd < 0)
		return fd;
	r = fd_write_all(fd, data, len);
	if (r == 0 && renameat(writer->dir_fd, tmp, writer->dir_fd, SPOOL_LOG_FILE) < 0)
		r = -errno;
	if (r < 0)
		(void)unlinkat(writer->dir_fd, tmp, 0); /* the first error counts */
	return r;
}

static uint64_t segment_max(uint64_t max_bytes)
{
	uint64_t bytes = max_bytes / 8; /* several, so that the reader can make room in steps */

	if (bytes < SEGMENT_MIN)
		return SEGMENT_MIN;
	return bytes < SPOOL_SEGMENT_BYTES ? bytes : SPOOL_SEGMENT_BYTES;
}

/* <task id>/<container>. The reader removes the task's directory when it has removed the last one
 * in it: then -ENOENT. */
static int try_folder(struct spool_writer *writer, int spool_fd,
                      const struct spool_stream_options *options, struct err *err)
{
	_cleanup_close_ int task_fd =
		open_directory(spool_fd, options->task_id, writer->gid, true, err);

	if (task_fd < 0)
		return task_fd;
	writer->dir_fd = open_directory(task_fd, options->container, writer->gid, true, err);
	return writer->dir_fd;
}

static int open_folder(struct spool_writer *writer, int spool_fd,
                       const struct spool_stream_options *options, struct err *err)
{
	int r = -ENOENT;

	for (int i = 0; i < FOLDER_TRIES && r == -ENOENT; i++)
		r = try_folder(writer, spool_fd, options, err);
	return r == -ENOENT ? err_set(err, r, "create spool directory %s/%s", options->task_id,
	                              options->container)
	                    : r;
}

int spool_writer_open(int spool_fd, const struct spool_stream_options *options,
                      struct spool_writer **ret, struct err *err)
{
	_cleanup_(spool_writer_freep) struct spool_writer *writer = NULL;
	struct stat st;
	int r;

	writer = calloc(1, sizeof(*writer));
	if (!writer)
		return err_oom(err);
	writer->dir_fd = writer->segment_fd = -EBADF;
	writer->max_bytes = options->max_bytes;
	writer->segment_max = segment_max(options->max_bytes);
	writer->blocking = options->blocking;

	if (fstat(spool_fd, &st) < 0)
		return err_set(err, -errno, "stat the spool directory");
	writer->gid = st.st_gid;
	r = open_folder(writer, spool_fd, options, err);
	if (r < 0)
		return r;

	(void)unlinkat(writer->dir_fd, SPOOL_END_FILE, 0); /* goes on, if it had ended */
	r = write_log_json(writer, options->log_json, options->log_json_len);
	if (r < 0)
		return err_set(err, r, "write %s of stream %s", SPOOL_LOG_FILE, options->container);
	r = count_segments(writer);
	if (r < 0)
		return err_set(err, r, "count the segments of stream %s", options->container);

	*ret = TAKE_PTR(writer);
	return 0;
}

struct spool_writer *spool_writer_free(struct spool_writer *writer)
{
	if (!writer)
		return NULL;
	fd_close(writer->dir_fd);
	fd_close(writer->segment_fd);
	free(writer);
	return NULL;
}

static int next_segment(struct spool_writer *writer)
{
	char name[SPOOL_SEGMENT_NAME_BYTES];
	int fd = -EEXIST;

	writer->segment_fd = fd_close(writer->segment_fd);
	for (int i = 0; i < SEGMENT_TRIES && fd == -EEXIST; i++) {
		if (writer->segment == UINT32_MAX)
			return -EOVERFLOW;
		spool_segment_name(++writer->segment, name);
		fd = create_file(writer, name);
	}
	if (fd < 0) {
		writer->segment--; /* the number is still free, unless it was -EEXIST to the end */
		return fd;
	}
	writer->segment_fd = fd;
	writer->segment_bytes = 0;
	return 0;
}

static bool is_full(struct spool_writer *writer)
{
	if (writer->used < writer->max_bytes)
		return false;
	if (now_usec() - writer->counted_usec < RESCAN_USEC)
		return true;

	/* What cannot be counted is taken as it was. */
	if (count_segments(writer) == 0 && writer->used < writer->max_bytes)
		return false;
	/* The reader deletes complete segments only, so this one must become one. */
	if (writer->segment_bytes > 0)
		writer->error = next_segment(writer);
	return true;
}

bool spool_writer_has_room(struct spool_writer *writer)
{
	return !writer->blocking || !is_full(writer);
}

/* Header and data in one write; a part of them is taken back. */
static int write_record(struct spool_writer *writer, enum spool_stream stream, uint64_t time,
                        const void *data, size_t len)
{
	uint8_t header[SPOOL_HEADER_BYTES];
	struct iovec iov[2] = {
		{.iov_base = header, .iov_len = sizeof(header)},
		{.iov_base = (void *)data, .iov_len = len},
	};
	size_t total = sizeof(header) + len;
	ssize_t n;
	int r = 0;

	if (writer->segment_fd < 0 ||
	    (writer->segment_bytes > 0 && writer->segment_bytes + total > writer->segment_max))
		r = next_segment(writer);
	if (r < 0)
		return r;

	spool_header_encode(stream, time, data, len, header);
	do
		n = writev(writer->segment_fd, iov, 2);
	while (n < 0 && errno == EINTR);
	if (n == (ssize_t)total) {
		writer->segment_bytes += total;
		writer->used += total;
		return 0;
	}
	r = n < 0 ? -errno : -ENOSPC;
	/* Should that fail, the reader skips a torn record: begin the next one in a new segment. */
	if (n > 0 && ftruncate(writer->segment_fd, (off_t)writer->segment_bytes) < 0)
		writer->segment_fd = fd_close(writer->segment_fd);
	return r;
}

static int write_gap(struct spool_writer *writer, uint64_t time)
{
	uint8_t gap[SPOOL_GAP_BYTES];
	int r;

	if (writer->gap_records == 0)
		return 0;
	spool_gap_encode(writer->gap_records, writer->gap_bytes, gap);
	r = write_record(writer, SPOOL_GAP, time, gap, sizeof(gap));
	if (r == 0)
		writer->gap_records = writer->gap_bytes = 0;
	return r;
}

static void drop(struct spool_writer *writer, size_t len)
{
	writer->dropped_records++;
	writer->dropped_bytes += len;
	writer->gap_records++;
	writer->gap_bytes += len;
}

void spool_writer_append(struct spool_writer *writer, enum spool_stream stream,
                         uint64_t time_realtime_usec, const void *data, size_t len, bool beyond)
{
	int r;

	if (!beyond && !writer->blocking && is_full(writer)) {
		drop(writer, len);
		return;
	}
	r = write_gap(writer, time_realtime_usec);
	if (r == 0)
		r = write_record(writer, stream, time_realtime_usec, data, len);
	if (r < 0) {
		writer->error = r;
		drop(writer, len);
	}
}

void spool_writer_dropped(const struct spool_writer *writer, uint64_t *ret_records,
                          uint64_t *ret_bytes)
{
	*ret_records = writer->dropped_records;
	*ret_bytes = writer->dropped_bytes;
}

int spool_writer_error(const struct spool_writer *writer)
{
	return writer->error;
}

static int make_end(int dir_fd, gid_t gid)
{
	int fd = openat(dir_fd, SPOOL_END_FILE,
	                O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0640);
	int r;

	if (fd < 0)
		return errno == EEXIST ? 0 : -errno;
	r = fchown(fd, (uid_t)-1, gid) < 0 ? -errno : 0;
	fd_close(fd);
	return r;
}

int spool_writer_end(struct spool_writer *writer, struct err *err)
{
	struct timespec ts;
	int r;

	clock_gettime(CLOCK_REALTIME, &ts);
	r = write_gap(writer, (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000);
	if (r < 0)
		writer->error = r;
	r = make_end(writer->dir_fd, writer->gid);
	return r < 0 ? err_set(err, r, "end a log stream") : 0;
}

int spool_end_all(int spool_fd, const char *task_id, struct err *err)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	_cleanup_close_ int fd = -EBADF;
	struct dirent *entry;
	struct stat st;
	int result = 0;

	if (fstat(spool_fd, &st) < 0)
		return err_set(err, -errno, "stat the spool directory");
	fd = open_directory(spool_fd, task_id, st.st_gid, false, err);
	if (fd < 0)
		return fd == -ENOENT ? 0 : fd;
	dir = fdopendir(fd);
	if (!dir)
		return err_set(err, -errno, "read the spool directory of %s", task_id);
	TAKE_FD(fd);

	while ((errno = 0, entry = readdir(dir))) {
		_cleanup_close_ int stream_fd = -EBADF;
		int r;

		if (entry->d_name[0] == '.')
			continue;
		stream_fd = openat(dirfd(dir), entry->d_name,
		                   O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (stream_fd < 0)
			continue; /* no stream, or deleted by the reader */
		r = make_end(stream_fd, st.st_gid);
		if (r < 0 && r != -ENOENT)
			result = err_set(err, r, "end log stream %s", entry->d_name);
	}
	return result;
}
