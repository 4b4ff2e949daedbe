/* The position file: see the header for what it promises. */
#include "agent/logs/position.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "lib/fd.h"
#include "lib/json.h"

#define POSITION_FILE "position"
#define POSITION_TEMP "position.tmp"
#define HEAD_MAX      512
#define FILE_MAX      (HEAD_MAX + 2 * (LINE_MAX_BYTES + 1))

void position_done(struct position *position)
{
	lines_state_done(&position->lines);
	*position = (struct position){0};
}

static int parse_head(const char *head, size_t len, struct position *ret, uint64_t begun[2],
                      struct err *err)
{
	_cleanup_json_ struct json_object *obj = NULL;
	struct lines_state *lines = &ret->lines;
	uint64_t segment = 0;
	int r;

	r = json_parse_object(head, len, HEAD_MAX, &obj, err);
	if (r == 0)
		r = json_get_u64(obj, "segment", UINT32_MAX, &segment, err);
	if (r == 0)
		r = json_get_u64(obj, "offset", INT64_MAX, &lines->cursor.offset, err);
	if (r == 0)
		r = json_get_u64(obj, "byte", SPOOL_SEGMENT_BYTES, &lines->byte, err);
	if (r == 0)
		r = json_get_u64(obj, "timeUsec", UINT64_MAX, &lines->time_realtime_usec, err);
	if (r == 0)
		r = json_get_u64(obj, "stdout", LINE_MAX_BYTES + 1, &begun[0], err);
	if (r == 0)
		r = json_get_u64(obj, "stderr", LINE_MAX_BYTES + 1, &begun[1], err);
	if (r == 0)
		r = json_get_u64(obj, "inFlight", UINT64_MAX, &ret->in_flight, err);
	if (r == 0)
		r = json_get_u64(obj, "fileBytes", INT64_MAX, &ret->file_bytes, err);
	lines->cursor.segment = (uint32_t)segment;
	return r;
}

int position_load(int dir_fd, struct position *ret, struct err *err)
{
	_cleanup_position_ struct position position = {0};
	_cleanup_free_ char *bytes = NULL;
	uint64_t begun[2] = {0};
	size_t len = 0, head;
	const char *newline;
	int r;

	r = file_read(dir_fd, POSITION_FILE, FILE_MAX, &bytes, &len);
	if (r == -EFBIG)
		return err_text(err, -EBADMSG, "the position file is larger than %d bytes",
		                FILE_MAX);
	if (r < 0)
		return err_set(err, r, "read the position file");

	newline = memchr(bytes, '\n', len);
	if (!newline)
		return err_text(err, -EBADMSG, "the position file is cut short");
	head = (size_t)(newline - bytes);
	r = parse_head(bytes, head, &position, begun, err);
	if (r == -ENOMEM)
		return r;
	if (r < 0)
		return err_prefix(err, -EBADMSG, "position file");
	if (len != head + 1 + begun[0] + begun[1])
		return err_text(err, -EBADMSG, "the position file has %zu bytes and says %" PRIu64,
		                len, (uint64_t)head + 1 + begun[0] + begun[1]);

	r = text_append(&position.lines.begun[0], newline + 1, begun[0]);
	if (r == 0)
		r = text_append(&position.lines.begun[1], newline + 1 + begun[0], begun[1]);
	if (r < 0)
		return err_oom(err);
	*ret = position;
	position = (struct position){0};
	return 0;
}

int position_save(int dir_fd, const struct position *position, struct err *err)
{
	const struct lines_state *lines = &position->lines;
	_cleanup_close_ int fd = -EBADF;
	char head[HEAD_MAX];
	int n, r;

	n = snprintf(head, sizeof(head),
	             "{\"segment\":%" PRIu32 ",\"offset\":%" PRIu64 ",\"byte\":%" PRIu64
	             ",\"timeUsec\":%" PRIu64 ",\"stdout\":%zu,\"stderr\":%zu,\"inFlight\":%" PRIu64
	             ",\"fileBytes\":%" PRIu64 "}\n",
	             lines->cursor.segment, lines->cursor.offset, lines->byte,
	             lines->time_realtime_usec, lines->begun[0].len, lines->begun[1].len,
	             position->in_flight, position->file_bytes);

	fd = openat(dir_fd, POSITION_TEMP, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC,
	            0640);
	if (fd < 0)
		return err_set(err, -errno, "create %s", POSITION_TEMP);
	r = fd_write_all(fd, head, (size_t)n);
	for (int i = 0; i < 2 && r == 0; i++)
		r = fd_write_all(fd, lines->begun[i].p, lines->begun[i].len);
	if (r < 0)
		return err_set(err, r, "write %s", POSITION_TEMP);
	if (renameat(dir_fd, POSITION_TEMP, dir_fd, POSITION_FILE) < 0)
		return err_set(err, -errno, "rename %s", POSITION_TEMP);
	return 0;
}
