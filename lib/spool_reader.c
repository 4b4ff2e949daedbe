/*
 * Reads segments through one window of memory. A segment is complete once a later one or the mark
 * "end" exists: only then are trailing bytes that make no record known to be torn. That question is
 * asked before the last look at the segment, so that what was written in between is not missed.
 */
#include "lib/spool_reader.h"

#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/fd.h"

#define WINDOW_MIN_BYTES (64 * 1024)

struct spool_reader {
	int dir_fd; /* borrowed */
	int fd;     /* of the segment, or -EBADF before it is opened */
	struct spool_cursor next;
	uint8_t *window; /* holds window_len bytes of the segment from window_offset on */
	size_t window_len, window_room;
	uint64_t window_offset;
	uint64_t skipped_bytes;
};

int spool_reader_new(int dir_fd, struct spool_cursor from, struct spool_reader **ret,
                     struct err *err)
{
	struct spool_reader *reader = calloc(1, sizeof(*reader));

	if (!reader)
		return err_oom(err);
	*reader = (struct spool_reader){.dir_fd = dir_fd, .fd = -EBADF, .next = from};
	if (reader->next.segment == 0)
		reader->next = (struct spool_cursor){.segment = 1};
	*ret = reader;
	return 0;
}

struct spool_reader *spool_reader_free(struct spool_reader *reader)
{
	if (!reader)
		return NULL;
	fd_close(reader->fd);
	free(reader->window);
	free(reader);
	return NULL;
}

struct spool_cursor spool_reader_cursor(const struct spool_reader *reader)
{
	return reader->next;
}

uint64_t spool_reader_skipped_bytes(const struct spool_reader *reader)
{
	return reader->skipped_bytes;
}

/* The oldest segment from this number on; 0 if there is none. */
static int find_segment(int dir_fd, uint32_t from, uint32_t *ret)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	struct dirent *entry;
	uint32_t found = 0;
	char name[SPOOL_SEGMENT_NAME_BYTES];
	int r;

	spool_segment_name(from, name);
	if (faccessat(dir_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
		*ret = from;
		return 0;
	}
	r = dir_open(dir_fd, ".", &dir);
	if (r < 0)
		return r;
	while ((errno = 0, entry = readdir(dir))) {
		uint32_t n;

		if (spool_segment_number(entry->d_name, &n) == 0 && n >= from &&
		    (!found || n < found))
			found = n;
	}
	if (errno)
		return -errno;
	*ret = found;
	return 0;
}

int spool_delete_before(int dir_fd, uint32_t segment)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	struct dirent *entry;
	int r, deleted = 0;

	r = dir_open(dir_fd, ".", &dir);
	if (r < 0)
		return r;
	while ((errno = 0, entry = readdir(dir))) {
		uint32_t n;

		if (spool_segment_number(entry->d_name, &n) < 0 || n >= segment)
			continue;
		if (unlinkat(dir_fd, entry->d_name, 0) < 0 && errno != ENOENT)
			return -errno;
		deleted++;
	}
	return errno ? -errno : deleted;
}

static void enter_segment(struct spool_reader *reader, uint32_t segment)
{
	reader->fd = fd_close(reader->fd);
	reader->window_len = 0;
	reader->window_offset = 0;
	reader->next = (struct spool_cursor){.segment = segment};
}

static int open_segment(struct spool_reader *reader, struct err *err)
{
	char name[SPOOL_SEGMENT_NAME_BYTES];

	spool_segment_name(reader->next.segment, name);
	reader->fd = openat(reader->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (reader->fd < 0)
		return err_set(err, -errno, "open log segment %s", name);
	reader->window_len = 0;
	reader->window_offset = reader->next.offset;
	return 0;
}

/* Window of room bytes from the next record on, what is known of it kept. */
static int make_room(struct spool_reader *reader)
{
	size_t used = (size_t)(reader->next.offset - reader->window_offset), room;
	struct stat st;
	uint8_t *p;

	if (used > 0) {
		reader->window_len -= used;
		memmove(reader->window, reader->window + used, reader->window_len);
		reader->window_offset = reader->next.offset;
	}
	if (reader->window_len < reader->window_room)
		return 0;

	room = reader->window_room ? reader->window_room * 2 : WINDOW_MIN_BYTES;
	if (fstat(reader->fd, &st) < 0)
		return -errno;
	if ((uint64_t)st.st_size > reader->window_offset + room)
		room = SPOOL_SEGMENT_BYTES;
	if (room > SPOOL_SEGMENT_BYTES)
		room = SPOOL_SEGMENT_BYTES;
	if (room <= reader->window_room)
		return 0;
	p = realloc(reader->window, room);
	if (!p)
		return -ENOMEM;
	reader->window = p;
	reader->window_room = room;
	return 0;
}

/* Read on. Returns whether there were more bytes. */
static int fill(struct spool_reader *reader, struct err *err)
{
	ssize_t k;
	int r;

	r = make_room(reader);
	if (r == -ENOMEM)
		return err_oom(err);
	if (r < 0)
		return err_set(err, r, "look at log segment %u", reader->next.segment);
	if (reader->window_len == reader->window_room)
		return 0;
	do
		k = pread(reader->fd, reader->window + reader->window_len,
		          reader->window_room - reader->window_len,
		          (off_t)(reader->window_offset + reader->window_len));
	while (k < 0 && errno == EINTR);
	if (k < 0)
		return err_set(err, -errno, "read log segment %u", reader->next.segment);
	reader->window_len += (size_t)k;
	return k > 0;
}

enum decoded {
	DECODED,
	DECODED_SHORT, /* what is there may be the start of a record */
	DECODED_DAMAGED,
};

static enum decoded decode(const uint8_t *p, size_t n, struct spool_entry *ret)
{
	const uint32_t magic = htole32(SPOOL_MAGIC);
	struct spool_entry entry = {0};
	struct spool_header header;

	if (memcmp(p, &magic, n < sizeof(magic) ? n : sizeof(magic)) != 0)
		return DECODED_DAMAGED;
	if (n < SPOOL_HEADER_BYTES)
		return DECODED_SHORT;
	if (spool_header_decode(p, &header) < 0)
		return DECODED_DAMAGED;
	if (n < SPOOL_HEADER_BYTES + (size_t)header.length)
		return DECODED_SHORT;
	if (!spool_record_is_intact(&header, p + SPOOL_HEADER_BYTES))
		return DECODED_DAMAGED;

	entry.stream = header.stream;
	entry.time_realtime_usec = header.time_realtime_usec;
	entry.data = p + SPOOL_HEADER_BYTES;
	entry.len = header.length;
	if (entry.stream == SPOOL_GAP &&
	    spool_gap_decode(entry.data, entry.len, &entry.dropped_records, &entry.dropped_bytes) <
	            0)
		return DECODED_DAMAGED;
	*ret = entry;
	return DECODED;
}

/* Looks for a whole record after damaged bytes; steps over these if there is one. */
static bool find_record(struct spool_reader *reader, const uint8_t *p, size_t n)
{
	const uint32_t magic = htole32(SPOOL_MAGIC);
	struct spool_entry entry;

	for (size_t i = 1; i + SPOOL_HEADER_BYTES <= n; i++) {
		const uint8_t *hit = memmem(p + i, n - i, &magic, sizeof(magic));

		if (!hit)
			return false;
		i = (size_t)(hit - p);
		if (decode(hit, n - i, &entry) == DECODED) {
			reader->skipped_bytes += i;
			reader->next.offset += i;
			return true;
		}
	}
	return false;
}

/* A record out of the window: 1, or 0 when it holds none. */
static int take_record(struct spool_reader *reader, struct spool_entry *ret)
{
	for (;;) {
		size_t used = (size_t)(reader->next.offset - reader->window_offset);
		const uint8_t *p = reader->window + used;
		size_t n = reader->window_len - used;

		if (n == 0)
			return 0;
		switch (decode(p, n, ret)) {
		case DECODED:
			ret->at = reader->next;
			reader->next.offset += SPOOL_HEADER_BYTES + ret->len;
			return 1;
		case DECODED_SHORT:
			return 0;
		case DECODED_DAMAGED:
			if (!find_record(reader, p, n))
				return 0;
		}
	}
}

/*
 * The segment holds no whole record where the reader stands. Goes on behind the damage or to the
 * later segment and returns true, else says in *ret_next what the reader has come to.
 */
static bool leave_segment(struct spool_reader *reader, bool ended, uint32_t later, int *ret_next)
{
	uint64_t read_to = reader->window_offset + reader->window_len;

	if (later == 0 && !ended) {
		*ret_next = SPOOL_NEXT_WAIT;
		return false;
	}
	if (read_to > reader->next.offset) {
		const uint8_t *p = reader->window + (reader->next.offset - reader->window_offset);
		size_t n = (size_t)(read_to - reader->next.offset);

		if (find_record(reader, p, n))
			return true; /* it was the length that was damaged */
		reader->skipped_bytes += n;
		reader->next.offset = read_to;
	}
	if (later == 0) {
		*ret_next = SPOOL_NEXT_END;
		return false;
	}
	enter_segment(reader, later);
	return true;
}

int spool_reader_next(struct spool_reader *reader, struct spool_entry *ret, struct err *err)
{
	bool ended = false, asked = false;
	uint32_t later = 0;
	int r, next;

	for (;;) {
		if (reader->fd >= 0 && take_record(reader, ret))
			return SPOOL_NEXT_ENTRY;

		if (reader->fd < 0) {
			r = open_segment(reader, err);
			if (r < 0 && r != -ENOENT)
				return r;
			if (r == 0)
				continue;
		} else {
			r = fill(reader, err);
			if (r < 0)
				return r;
			if (r > 0)
				continue;
		}

		if (asked) {
			if (!leave_segment(reader, ended, later, &next))
				return next;
			asked = false;
			continue;
		}
		ended = faccessat(reader->dir_fd, SPOOL_END_FILE, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
		r = find_segment(reader->dir_fd, reader->next.segment + 1, &later);
		if (r < 0)
			return err_set(err, r, "list log segments");
		asked = true; /* and look at the segment once more */
	}
}
