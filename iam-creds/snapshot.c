/* A writer that cuts back to the last whole record, and a reader that never looks past its end. */
#include "iam-creds/snapshot.h"

#include <errno.h>
#include <string.h>

enum record_type {
	RECORD_SETTINGS = 1,
	RECORD_CREDENTIALS = 2,
	RECORD_ENDPOINT = 3,
	RECORD_CGROUP = 4,
};

#define RECORD_HEAD 8

#define CREDENTIALS_FOR_MOUNTS UINT64_C(1)

/* Writing: a record that runs out of room is cut off again at its end. */

struct record {
	struct snapshot *snapshot;
	size_t begin;
	bool overflow;
};

static void put(struct record *record, const void *data, size_t n)
{
	struct snapshot *s = record->snapshot;

	if (record->overflow || n > s->size - s->len) {
		record->overflow = true;
		return;
	}
	if (n > 0)
		memcpy(s->bytes + s->len, data, n);
	s->len += n;
}

static void put_u64(struct record *record, uint64_t value)
{
	put(record, &value, sizeof(value));
}

static void put_bytes(struct record *record, const char *bytes, size_t n)
{
	uint32_t length = (uint32_t)n;

	put(record, &length, sizeof(length));
	put(record, bytes, n);
	put(record, "", 1);
}

static void put_string(struct record *record, const char *text)
{
	put_bytes(record, text, strlen(text));
}

static struct record record_begin(struct snapshot *snapshot, enum record_type type)
{
	struct record record = {.snapshot = snapshot, .begin = snapshot->len};
	const uint32_t head[2] = {(uint32_t)type, 0};

	put(&record, head, sizeof(head));
	return record;
}

static void record_end(struct record *record)
{
	struct snapshot *s = record->snapshot;
	uint32_t length;

	if (record->overflow) {
		explicit_bzero(s->bytes + record->begin, s->len - record->begin);
		s->len = record->begin;
		s->n_left_out++;
		return;
	}
	length = (uint32_t)(s->len - record->begin - RECORD_HEAD);
	memcpy(s->bytes + record->begin + sizeof(uint32_t), &length, sizeof(length));
}

void snapshot_add_settings(struct snapshot *snapshot, const struct snapshot_settings *settings)
{
	struct record record = record_begin(snapshot, RECORD_SETTINGS);

	put_u64(&record, settings->requests_per_second);
	put_u64(&record, settings->burst);
	put_string(&record, settings->cluster);
	put_string(&record, settings->instance_arn);
	record_end(&record);
}

void snapshot_add_credentials(struct snapshot *snapshot, const struct credentials *c)
{
	struct record record = record_begin(snapshot, RECORD_CREDENTIALS);

	put_u64(&record, (uint64_t)c->role_type);
	put_string(&record, c->id);
	put_string(&record, c->task ? c->task->id : "");
	put_string(&record, c->task_arn);
	put_bytes(&record, body_bytes(c->body), body_len(c->body));
	put_u64(&record, c->for_mounts ? CREDENTIALS_FOR_MOUNTS : 0);
	record_end(&record);
}

void snapshot_add_endpoint(struct snapshot *snapshot, uint64_t cookie,
                           const struct container *container, bool has_link)
{
	struct record record = record_begin(snapshot, RECORD_ENDPOINT);

	put_u64(&record, cookie);
	put_string(&record, container ? container->task->id : "");
	put_string(&record, container ? container->name : has_link ? SNAPSHOT_HOST_LINK : "");
	record_end(&record);
}

void snapshot_add_cgroup(struct snapshot *snapshot, const struct container *container)
{
	struct record record = record_begin(snapshot, RECORD_CGROUP);

	put_u64(&record, container->cgroup_id);
	put_string(&record, container->task->id);
	put_string(&record, container->name);
	record_end(&record);
}

/* Reading */

struct reader {
	const uint8_t *at;
	size_t left;
	bool failed;
};

static const void *get(struct reader *reader, size_t n)
{
	const void *at = reader->at;

	if (reader->failed || n > reader->left) {
		reader->failed = true;
		return NULL;
	}
	reader->at += n;
	reader->left -= n;
	return at;
}

static uint32_t get_u32(struct reader *reader)
{
	const void *at = get(reader, sizeof(uint32_t));
	uint32_t value = 0;

	if (at)
		memcpy(&value, at, sizeof(value));
	return value;
}

static uint64_t get_u64(struct reader *reader)
{
	const void *at = get(reader, sizeof(uint64_t));
	uint64_t value = 0;

	if (at)
		memcpy(&value, at, sizeof(value));
	return value;
}

/* "" once the reader has failed, so that callers need not ask after each. */
static const char *get_bytes(struct reader *reader, size_t *ret_len)
{
	uint32_t length = get_u32(reader);
	const char *text = get(reader, (size_t)length + 1);

	if (!text || text[length] != '\0' || memchr(text, '\0', length)) {
		reader->failed = true;
		*ret_len = 0;
		return "";
	}
	*ret_len = length;
	return text;
}

static const char *get_string(struct reader *reader)
{
	size_t len;

	return get_bytes(reader, &len);
}

static void read_settings(struct reader *reader, const struct snapshot_handlers *handlers,
                          void *userdata)
{
	struct snapshot_settings s;

	s.requests_per_second = get_u64(reader);
	s.burst = get_u64(reader);
	s.cluster = get_string(reader);
	s.instance_arn = get_string(reader);
	if (!reader->failed)
		handlers->settings(&s, userdata);
}

static void read_credentials(struct reader *reader, const struct snapshot_handlers *handlers,
                             void *userdata)
{
	struct snapshot_credentials c;
	uint64_t role_type = get_u64(reader);

	c.role_type = (enum role_type)role_type;
	c.id = get_string(reader);
	c.task_id = get_string(reader);
	c.task_arn = get_string(reader);
	c.body = get_bytes(reader, &c.body_len);
	c.for_mounts = reader->left > 0 && (get_u64(reader) & CREDENTIALS_FOR_MOUNTS);
	if (role_type >= _ROLE_MAX)
		reader->failed = true;
	if (!reader->failed)
		handlers->credentials(&c, userdata);
}

static void read_endpoint(struct reader *reader, const struct snapshot_handlers *handlers,
                          void *userdata)
{
	uint64_t cookie = get_u64(reader);
	const char *task_id = get_string(reader), *container = get_string(reader);

	if (!reader->failed)
		handlers->endpoint(cookie, task_id, container, userdata);
}

static void read_cgroup(struct reader *reader, const struct snapshot_handlers *handlers,
                        void *userdata)
{
	uint64_t id = get_u64(reader);
	const char *task_id = get_string(reader), *container = get_string(reader);

	if (!reader->failed)
		handlers->cgroup(id, task_id, container, userdata);
}

int snapshot_read(const void *bytes, size_t len, const struct snapshot_handlers *handlers,
                  void *userdata, struct err *err)
{
	struct reader all = {.at = bytes, .left = len};

	while (all.left > 0) {
		size_t offset = len - all.left;
		uint32_t type = get_u32(&all), length = get_u32(&all);
		struct reader record = {.at = get(&all, length), .left = length};

		if (all.failed)
			return err_text(err, -EBADMSG, "record at byte %zu runs past the end %zu",
			                offset, len);
		switch (type) {
		case RECORD_SETTINGS:
			read_settings(&record, handlers, userdata);
			break;
		case RECORD_CREDENTIALS:
			read_credentials(&record, handlers, userdata);
			break;
		case RECORD_ENDPOINT:
			read_endpoint(&record, handlers, userdata);
			break;
		case RECORD_CGROUP:
			read_cgroup(&record, handlers, userdata);
			break;
		}
		if (record.failed)
			return err_text(err, -EBADMSG, "record %u at byte %zu is malformed", type,
			                offset);
	}
	return 0;
}
