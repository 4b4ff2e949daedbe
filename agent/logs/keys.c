/*
 * One connection to ecs-metadata, made when there is something to ask and kept. Each id has an
 * entry with the keys and the time before which it must not be asked for again.
 */
#include "agent/logs/keys.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "iam-creds/protocol.h"
#include "lib/backoff.h"
#include "lib/fd.h"
#include "lib/ipc_event.h"
#include "lib/json.h"
#include "lib/log.h"
#include "lib/loop.h"

#define MESSAGE_MAX    (64 * 1024)
#define RENEW_BEFORE   (5 * 60 * 1000000ull)
#define RENEW_EVERY    (30 * 1000000ull)
#define ANSWER_MAX     (10 * 1000000ull)
#define TIMER_ACCURACY (100 * 1000ull)
/* Beyond this, entries are dropped that have no valid keys or were not asked for lately. */
#define ENTRIES_KEPT 256
#define UNUSED_USEC  (60 * 1000000ull)

struct entry {
	struct entry *next;
	char *id;
	struct aws_keys *keys;
	uint64_t seq;        /* of the question under way; 0: none */
	uint64_t not_before; /* monotonic: when to ask again */
	uint64_t used_usec;  /* monotonic: when somebody last asked for it */
	bool wanted;         /* somebody waits for it */
	struct backoff backoff;
	bool unknown;      /* to ecs-metadata, by its last answer */
	struct err failed; /* why there are no keys */
};

struct log_keys {
	sd_event *loop; /* borrowed */
	const char *runtime_dir;
	log_keys_changed_fn changed;
	void *userdata;
	struct ipc_event *conn;
	sd_event_source *timer;
	struct entry *entries;
	uint64_t last_seq;
};

static int on_timer(sd_event_source *s, uint64_t usec, void *userdata);

int log_keys_new(sd_event *loop, const char *runtime_dir, log_keys_changed_fn changed,
                 void *userdata, struct log_keys **ret, struct err *err)
{
	_cleanup_(log_keys_freep) struct log_keys *keys = calloc(1, sizeof(*keys));
	int r;

	if (!keys)
		return err_oom(err);
	*keys = (struct log_keys){
		.loop = loop, .runtime_dir = runtime_dir, .changed = changed, .userdata = userdata};
	r = loop_add_timer(loop, 0, TIMER_ACCURACY, on_timer, keys, &keys->timer);
	if (r >= 0)
		r = sd_event_source_set_enabled(keys->timer, SD_EVENT_OFF);
	if (r < 0)
		return err_set(err, r, "make a timer");
	(void)sd_event_source_set_description(keys->timer, "keys");
	*ret = TAKE_PTR(keys);
	return 0;
}

static void entry_free(struct entry *entry)
{
	aws_keys_unref(entry->keys);
	free(entry->id);
	free(entry);
}

struct log_keys *log_keys_free(struct log_keys *keys)
{
	if (!keys)
		return NULL;
	while (keys->entries) {
		struct entry *entry = keys->entries;

		keys->entries = entry->next;
		entry_free(entry);
	}
	ipc_event_free(keys->conn);
	sd_event_source_disable_unref(keys->timer);
	free(keys);
	return NULL;
}

static bool entry_is_valid(const struct entry *entry)
{
	return entry->keys && !aws_keys_is_expired(entry->keys, now_realtime_usec());
}

static bool entry_is_due(const struct entry *entry)
{
	uint64_t expires;

	if (entry->seq)
		return false;
	if (!entry_is_valid(entry))
		return entry->wanted;
	expires = aws_keys_expires_realtime_usec(entry->keys);
	return entry->wanted && expires != AWS_KEYS_NO_EXPIRY &&
	       expires - now_realtime_usec() < RENEW_BEFORE;
}

/* Sets the timer to the next time at which something has to be asked or is overdue. */
static void arm(struct log_keys *keys)
{
	uint64_t next = UINT64_MAX;

	for (struct entry *entry = keys->entries; entry; entry = entry->next)
		if ((entry->seq || entry_is_due(entry)) && entry->not_before < next)
			next = entry->not_before;
	if (next != UINT64_MAX)
		(void)sd_event_source_set_time(keys->timer, next);
	(void)sd_event_source_set_enabled(keys->timer,
	                                  next == UINT64_MAX ? SD_EVENT_OFF : SD_EVENT_ONESHOT);
}

static void entry_failed(struct entry *entry, const struct err *err)
{
	entry->seq = 0;
	entry->unknown = false;
	entry->not_before = now_usec() + backoff_next(&entry->backoff, random_fraction());
	entry->failed = *err;
}

static void all_failed(struct log_keys *keys, const struct err *err)
{
	for (struct entry *entry = keys->entries; entry; entry = entry->next)
		if (entry->seq)
			entry_failed(entry, err);
}

static int parse_keys(struct json_object *body, struct aws_keys **ret, struct err *err)
{
	const char *id, *secret, *token = NULL, *expiration = NULL;
	uint64_t expires = AWS_KEYS_NO_EXPIRY;
	int r;

	r = json_get_string(body, "accessKeyId", &id, err);
	if (r == 0)
		r = json_get_string(body, "secretAccessKey", &secret, err);
	if (r == 0)
		r = json_optional(json_get_string(body, "sessionToken", &token, err));
	if (r == 0)
		r = json_optional(json_get_string(body, "expiration", &expiration, err));
	if (r < 0)
		return r;
	if (expiration && *expiration && aws_time_parse(expiration, &expires) < 0)
		return err_text(err, -EINVAL, "expiration \"%.40s\" is no RFC 3339 time",
		                expiration);
	*ret = aws_keys_new(id, secret, token, expires);
	return *ret ? 0 : err_oom(err);
}

static void take_answer(struct entry *entry, struct json_object *body)
{
	struct aws_keys *fresh = NULL;
	struct err err = {0};
	const char *type = json_text(body, "type");
	int r;

	if (strcmp(type, "credentials") == 0)
		r = parse_keys(body, &fresh, &err);
	else if (strcmp(type, "error") == 0)
		r = ipc_message_error(body, &err);
	else
		r = err_text(&err, -EPROTO, "ecs-metadata answers with \"%.32s\"", type);
	if (r == 0 && aws_keys_is_expired(fresh, now_realtime_usec()))
		r = err_text(&err, -EKEYEXPIRED, "the credentials have expired");
	if (r < 0) {
		aws_keys_unref(fresh);
		entry_failed(entry, &err);
		entry->unknown = r == -ENOENT && strcmp(type, "error") == 0;
		return;
	}
	aws_keys_unref(entry->keys);
	entry->keys = fresh;
	entry->seq = 0;
	entry->wanted = false;
	entry->not_before = now_usec() + RENEW_EVERY;
	entry->failed = (struct err){0};
	backoff_reset(&entry->backoff);
}

static void on_message(struct ipc_event *conn, struct ipc_message *msg, void *userdata)
{
	struct log_keys *keys = userdata;
	uint64_t seq = 0;

	(void)conn;
	if (json_get_u64(msg->body, "seq", UINT64_MAX, &seq, NULL) < 0 || seq == 0)
		return;
	for (struct entry *entry = keys->entries; entry; entry = entry->next)
		if (entry->seq == seq) {
			take_answer(entry, msg->body);
			arm(keys);
			keys->changed(keys->userdata);
			return;
		}
}

static void on_end(struct ipc_event *conn, int r, const struct err *err, void *userdata)
{
	struct log_keys *keys = userdata;
	struct err gone = {0};

	(void)conn;
	(void)err;
	err_set(&gone, r, "the connection to ecs-metadata has ended");
	keys->conn = ipc_event_free(keys->conn);
	all_failed(keys, &gone);
	arm(keys);
}

/* Without waiting: a socket whose backlog is full is as good as one that is not there yet. */
static int connect_metadata(struct log_keys *keys, struct err *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	_cleanup_close_ int fd = -EBADF;
	struct ipc_conn *conn;
	int n, r;

	n = snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", keys->runtime_dir,
	             METADATA_SOCKET);
	if (n >= (int)sizeof(address.sun_path))
		return err_text(err, -ENAMETOOLONG, "%s/%s is too long for a socket",
		                keys->runtime_dir, METADATA_SOCKET);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_set(err, -errno, "make a socket");
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return err_set(err, -errno, "connect to %s", address.sun_path);
	r = ipc_conn_new(TAKE_FD(fd), MESSAGE_MAX, true, &conn);
	if (r == 0)
		r = ipc_event_new(keys->loop, conn, on_message, on_end, keys, &keys->conn);
	return r < 0 ? err_set(err, r, "connect to %s", address.sun_path) : 0;
}

static int send_question(struct log_keys *keys, struct entry *entry, struct err *err)
{
	_cleanup_json_ struct json_object *body = ipc_message_new("get-credentials", NULL);
	uint64_t seq = keys->last_seq + 1;
	int r;

	if (!body || json_add_u64(body, "seq", seq) < 0 ||
	    json_add_string(body, "credentialsId", entry->id) < 0)
		return err_oom(err);
	if (!keys->conn) {
		r = connect_metadata(keys, err);
		if (r < 0)
			return r;
	}
	r = ipc_event_send(keys->conn, body, NULL, 0);
	if (r < 0) {
		keys->conn = ipc_event_free(keys->conn);
		err_set(err, r, "ask ecs-metadata");
		all_failed(keys, err);
		return r;
	}
	keys->last_seq = entry->seq = seq;
	entry->not_before = now_usec() + ANSWER_MAX;
	return 0;
}

static void ask(struct log_keys *keys, struct entry *entry)
{
	struct err err = {0};

	if (send_question(keys, entry, &err) < 0) {
		log_debug(NULL, "credentials %s: %s", entry->id, err.text);
		entry_failed(entry, &err);
	}
}

static int on_timer(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct log_keys *keys = userdata;
	uint64_t now = now_usec();

	(void)s;
	(void)usec;
	for (struct entry *entry = keys->entries; entry; entry = entry->next) {
		struct err err = {0};

		if (entry->not_before > now)
			continue;
		if (entry->seq) {
			err_text(&err, -ETIMEDOUT, "ecs-metadata does not answer");
			keys->conn = ipc_event_free(keys->conn);
			all_failed(keys, &err);
		} else if (entry_is_due(entry)) {
			ask(keys, entry);
		}
	}
	arm(keys);
	return 0;
}

static void drop_stale(struct log_keys *keys)
{
	uint64_t now = now_usec();
	size_t n = 0;

	for (struct entry **p = &keys->entries; *p;) {
		struct entry *entry = *p;
		bool is_used = entry_is_valid(entry) && now - entry->used_usec < UNUSED_USEC;

		if (++n > ENTRIES_KEPT && !entry->seq && !is_used) {
			*p = entry->next;
			entry_free(entry);
		} else {
			p = &entry->next;
		}
	}
}

static struct entry *entry_find(struct log_keys *keys, const char *id)
{
	for (struct entry *entry = keys->entries; entry; entry = entry->next)
		if (strcmp(entry->id, id) == 0)
			return entry;
	return NULL;
}

static struct entry *entry_new(struct log_keys *keys, const char *id)
{
	struct entry *entry = calloc(1, sizeof(*entry));

	if (!entry)
		return NULL;
	entry->backoff = (struct backoff){
		.min_usec = 100000, .max_usec = 30000000, .multiple = 2, .jitter = 0.5};
	entry->id = strdup(id);
	if (!entry->id) {
		free(entry);
		return NULL;
	}
	drop_stale(keys);
	entry->next = keys->entries;
	keys->entries = entry;
	return entry;
}

int log_keys_get(struct log_keys *keys, const char *id, struct aws_keys **ret, struct err *err)
{
	struct entry *entry = entry_find(keys, id);

	if (!entry)
		entry = entry_new(keys, id);
	if (!entry)
		return err_oom(err);
	entry->wanted = true;
	entry->used_usec = now_usec();
	if (entry_is_due(entry) && entry->not_before <= now_usec())
		ask(keys, entry);
	arm(keys);
	if (entry_is_valid(entry)) {
		*ret = entry->keys;
		return 0;
	}
	return err_text(err, entry->unknown ? -ENOENT : -EAGAIN, "credentials %.64s: %s", id,
	                entry->failed.text[0] ? entry->failed.text : "asked for");
}

void log_keys_refused(struct log_keys *keys, const char *id)
{
	struct entry *entry = entry_find(keys, id);

	if (!entry || !entry->keys)
		return;
	aws_keys_unref(entry->keys);
	entry->keys = NULL;
	entry->not_before = 0;
}
