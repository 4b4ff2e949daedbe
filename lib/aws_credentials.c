/*
 * One look-up at a time serves all who wait. Local sources answer at once; the role of the instance
 * takes two requests. Role keys are renewed by a timer well before they end, and a renewal that
 * fails is tried again while the old keys still serve.
 */
#include "lib/aws_credentials.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/aws_credentials_file.h"
#include "lib/backoff.h"
#include "lib/json.h"
#include "lib/loop.h"

#define ROLE_PATH           "meta-data/iam/security-credentials/"
#define ANSWER_MAX          (64 * 1024)
#define FILE_MAX_AGE_USEC   (60 * 1000000ULL)
#define RENEW_LEAD_USEC     (300 * 1000000.0) /* this much, and at random as much again */
#define TIMER_ACCURACY_USEC (1000000ULL)

struct aws_credentials {
	sd_event *loop;
	const struct envfile *file;
	struct imds *imds;
	struct aws_keys *keys;     /* the latest; perhaps ended */
	uint64_t renew_at_usec;    /* monotonic; UINT64_MAX: they stay */
	sd_event_source *renew;    /* for keys of the role only */
	struct imds_request *role; /* a look-up under way */
	struct backoff backoff;
	struct aws_keys_get *waiting;
	aws_credentials_changed_fn changed;
	void *changed_userdata;
	sd_event_source *tell; /* of keys that are there already */
};

struct aws_keys_get {
	struct aws_credentials *credentials; /* NULL once that is freed */
	struct aws_keys_get *next;
	aws_keys_fn done;
	void *userdata;
	sd_event_source *answer; /* deferred */
	bool is_answered;        /* r and err are what answer reports */
	int r;
	struct err err;
};

static void look_up(struct aws_credentials *credentials);

static const char *setting(const struct aws_credentials *credentials, const char *name)
{
	const char *value = getenv(name);

	if ((!value || !*value) && credentials->file)
		value = envfile_get(credentials->file, name);
	return value && *value ? value : NULL;
}

/* ---- answering ---- */

static bool keys_are_good(const struct aws_credentials *credentials)
{
	return credentials->keys && !aws_keys_is_expired(credentials->keys, now_realtime_usec());
}

/* Everyone who waits is answered from a source of his own: whoever is freed meanwhile is not. */
static void answer_all(struct aws_credentials *credentials, int r, const struct err *err)
{
	for (struct aws_keys_get *get = credentials->waiting; get; get = get->next) {
		if (get->is_answered)
			continue;
		get->is_answered = true;
		get->r = r;
		get->err = *err;
		(void)sd_event_source_set_enabled(get->answer, SD_EVENT_ONESHOT);
	}
}

static int on_tell(sd_event_source *source, void *userdata)
{
	struct aws_credentials *credentials = userdata;

	(void)source;
	if (credentials->changed && keys_are_good(credentials))
		credentials->changed(credentials->keys, credentials->changed_userdata);
	return 0;
}

static void have_keys(struct aws_credentials *credentials, struct aws_keys *keys)
{
	static const struct err no_err;

	aws_keys_unref(credentials->keys);
	credentials->keys = keys;
	backoff_reset(&credentials->backoff);
	(void)sd_event_source_set_enabled(credentials->tell, SD_EVENT_ONESHOT);
	answer_all(credentials, 0, &no_err);
}

static void set_renewal(struct aws_credentials *credentials, uint64_t in_usec)
{
	(void)sd_event_source_set_time(credentials->renew, now_usec() + in_usec);
	(void)sd_event_source_set_enabled(credentials->renew, SD_EVENT_ONESHOT);
}

/* ---- local sources ---- */

/* -ENOENT: not set. */
static int keys_of_environment(struct aws_credentials *credentials, struct aws_keys **ret,
                               struct err *err)
{
	const char *id = setting(credentials, "AWS_ACCESS_KEY_ID");
	const char *secret = setting(credentials, "AWS_SECRET_ACCESS_KEY");

	if (!id && !secret)
		return -ENOENT;
	if (!id || !secret)
		return err_text(err, -EINVAL, "%s is set without %s",
		                id ? "AWS_ACCESS_KEY_ID" : "AWS_SECRET_ACCESS_KEY",
		                id ? "AWS_SECRET_ACCESS_KEY" : "AWS_ACCESS_KEY_ID");
	*ret = aws_keys_new(id, secret, setting(credentials, "AWS_SESSION_TOKEN"),
	                    AWS_KEYS_NO_EXPIRY);
	return *ret ? 0 : err_oom(err);
}

static int keys_of_file(struct aws_credentials *credentials, struct aws_keys **ret, struct err *err)
{
	const char *path = setting(credentials, "AWS_SHARED_CREDENTIALS_FILE");
	const char *profile = setting(credentials, "AWS_PROFILE");
	const char *home = getenv("HOME");
	_cleanup_free_ char *own_path = NULL;
	int r;

	if (!path) {
		if (!home || asprintf(&own_path, "%s/.aws/credentials", home) < 0) {
			own_path = NULL;
			return -ENOENT;
		}
		path = own_path;
	}
	r = aws_credentials_file_read(path, profile ? profile : "default", ret, err);
	/* A home that we may not look into holds no keys for us. */
	return own_path && r == -EACCES ? -ENOENT : r;
}

static int keys_of_local_sources(struct aws_credentials *credentials, struct aws_keys **ret,
                                 struct err *err)
{
	int r = keys_of_environment(credentials, ret, err);

	credentials->renew_at_usec = UINT64_MAX;
	if (r != -ENOENT)
		return r;
	r = keys_of_file(credentials, ret, err);
	if (r == 0)
		credentials->renew_at_usec = now_usec() + FILE_MAX_AGE_USEC;
	return r;
}

/* ---- the role of the instance ---- */

static void role_failed(struct aws_credentials *credentials, int r, struct err *err)
{
	credentials->role = imds_request_free(credentials->role);
	if (credentials->keys) { /* renewal: the old ones serve until they end */
		set_renewal(credentials, backoff_next(&credentials->backoff, random_fraction()));
		if (keys_are_good(credentials))
			return;
		r = err_prefix(err, -EKEYEXPIRED, "the AWS keys of the instance have expired");
	} else if (r == -ENOENT || r == -ENETUNREACH) {
		r = err_prefix(err, -ENOENT,
		               "no AWS keys in AWS_ACCESS_KEY_ID, a shared credentials file or an "
		               "instance role");
	}
	answer_all(credentials, r, err);
}

static int parse_role_keys(const char *text, struct aws_keys **ret, struct err *err)
{
	_cleanup_json_ struct json_object *answer = NULL;
	const char *id, *secret, *token = NULL, *expiration;
	uint64_t expires_usec;
	int r;

	r = json_parse_object(text, strlen(text), ANSWER_MAX, &answer, err);
	if (r < 0)
		return r;
	if (json_text(answer, "Code") && strcmp(json_text(answer, "Code"), "Success") != 0)
		return err_text(err, -EIO, "code %.64s", json_text(answer, "Code"));
	r = json_get_string(answer, "AccessKeyId", &id, err);
	if (r == 0)
		r = json_get_string(answer, "SecretAccessKey", &secret, err);
	if (r == 0)
		r = json_optional(json_get_string(answer, "Token", &token, err));
	if (r == 0)
		r = json_get_string(answer, "Expiration", &expiration, err);
	if (r < 0)
		return r;
	if (aws_time_parse(expiration, &expires_usec) < 0)
		return err_text(err, -EINVAL, "Expiration '%.64s' is no time", expiration);
	if (expires_usec <= now_realtime_usec())
		return err_text(err, -EKEYEXPIRED, "they ended at %.64s", expiration);
	*ret = aws_keys_new(id, secret, token, expires_usec);
	return *ret ? 0 : err_oom(err);
}

/* Before they end by five to ten minutes, or by half of what is left of short-lived ones. */
static uint64_t renewal_wait(const struct aws_keys *keys)
{
	uint64_t left_usec = aws_keys_expires_realtime_usec(keys) - now_realtime_usec();
	double lead = RENEW_LEAD_USEC * (1 + random_fraction());

	if (lead > (double)left_usec / 2)
		lead = (double)left_usec / 2;
	return left_usec - (uint64_t)lead;
}

static void role_keys_done(int r, const struct err *imds_err, const char *text, void *userdata)
{
	struct aws_credentials *credentials = userdata;
	struct aws_keys *keys = NULL;
	struct err err = *imds_err;

	if (r == 0) {
		r = parse_role_keys(text, &keys, &err);
		if (r < 0)
			err_prefix(&err, r, "keys of the instance role");
	}
	if (r < 0) {
		role_failed(credentials, r, &err);
		return;
	}
	credentials->role = imds_request_free(credentials->role);
	set_renewal(credentials, renewal_wait(keys));
	have_keys(credentials, keys);
}

/* The answer is the name of the role on a line; it becomes part of the next path. */
static void role_name_done(int r, const struct err *imds_err, const char *text, void *userdata)
{
	struct aws_credentials *credentials = userdata;
	_cleanup_free_ char *path = NULL;
	struct err err = *imds_err;
	size_t len;

	if (r < 0) {
		role_failed(credentials, r, &err);
		return;
	}
	len = strcspn(text, "\r\n");
	if (len == 0 || len > 128 || strcspn(text, "/?#% ") < len) {
		err_text(&err, 0, "the instance metadata service names no usable role");
		role_failed(credentials, -EIO, &err);
		return;
	}
	r = asprintf(&path, "%s%.*s", ROLE_PATH, (int)len, text);
	if (r < 0)
		path = NULL;
	credentials->role = imds_request_free(credentials->role);
	r = path ? imds_get_start(credentials->imds, path, role_keys_done, credentials,
	                          &credentials->role, &err)
	         : err_oom(&err);
	if (r < 0)
		role_failed(credentials, r, &err);
}

/* ---- looking up ---- */

static void look_up(struct aws_credentials *credentials)
{
	struct aws_keys *keys = NULL;
	struct err err = {0};
	int r;

	if (credentials->role)
		return; /* under way */
	r = keys_of_local_sources(credentials, &keys, &err);
	if (r == 0) {
		have_keys(credentials, keys);
		return;
	}
	if (r != -ENOENT || !credentials->imds) {
		if (r == -ENOENT)
			err_text(&err, r,
			         "no AWS keys in AWS_ACCESS_KEY_ID or a shared credentials file");
		answer_all(credentials, r, &err);
		return;
	}
	r = imds_get_start(credentials->imds, ROLE_PATH, role_name_done, credentials,
	                   &credentials->role, &err);
	if (r < 0)
		role_failed(credentials, r, &err);
}

static int on_renew(sd_event_source *source, uint64_t usec, void *userdata)
{
	(void)source;
	(void)usec;
	look_up(userdata);
	return 0;
}

int aws_credentials_new(sd_event *loop, const struct envfile *file, struct imds *imds,
                        struct aws_credentials **ret, struct err *err)
{
	_cleanup_(aws_credentials_freep) struct aws_credentials *credentials =
		calloc(1, sizeof(*credentials));
	int r;

	if (!credentials)
		return err_oom(err);
	credentials->loop = sd_event_ref(loop);
	credentials->file = file;
	credentials->imds = imds;
	credentials->backoff = (struct backoff){
		.min_usec = 1000000, .max_usec = 60000000, .multiple = 2, .jitter = 0.5};
	r = loop_add_timer(loop, 0, TIMER_ACCURACY_USEC, on_renew, credentials,
	                   &credentials->renew);
	if (r >= 0)
		r = sd_event_source_set_enabled(credentials->renew, SD_EVENT_OFF);
	if (r >= 0)
		r = sd_event_add_defer(loop, &credentials->tell, on_tell, credentials);
	if (r >= 0)
		r = sd_event_source_set_enabled(credentials->tell, SD_EVENT_OFF);
	if (r < 0)
		return err_set(err, r, "watch AWS keys");
	*ret = TAKE_PTR(credentials);
	return 0;
}

struct aws_credentials *aws_credentials_free(struct aws_credentials *credentials)
{
	if (!credentials)
		return NULL;
	for (struct aws_keys_get *get = credentials->waiting; get; get = get->next) {
		get->answer = sd_event_source_disable_unref(get->answer);
		get->credentials = NULL;
	}
	imds_request_free(credentials->role);
	sd_event_source_disable_unref(credentials->renew);
	sd_event_source_disable_unref(credentials->tell);
	aws_keys_unref(credentials->keys);
	sd_event_unref(credentials->loop);
	free(credentials);
	return NULL;
}

static int on_answer(sd_event_source *source, void *userdata)
{
	struct aws_keys_get *get = userdata;
	struct aws_credentials *credentials = get->credentials;

	(void)source;
	/* What was good when the answer was due may have ended since. */
	if (get->r == 0 && !keys_are_good(credentials))
		get->r = err_text(&get->err, -EKEYEXPIRED,
		                  "the AWS keys of the instance have expired");
	get->done(get->r, &get->err, get->r == 0 ? credentials->keys : NULL, get->userdata);
	return 0;
}

int aws_credentials_get_start(struct aws_credentials *credentials, aws_keys_fn done, void *userdata,
                              struct aws_keys_get **ret, struct err *err)
{
	struct aws_keys_get *get = calloc(1, sizeof(*get));
	int r;

	if (!get)
		return err_oom(err);
	get->done = done;
	get->userdata = userdata;
	r = sd_event_add_defer(credentials->loop, &get->answer, on_answer, get);
	if (r < 0) {
		free(get);
		return err_set(err, r, "get AWS keys");
	}
	get->credentials = credentials;
	get->next = credentials->waiting;
	credentials->waiting = get;

	if (keys_are_good(credentials) && now_usec() < credentials->renew_at_usec) {
		get->is_answered = true;
	} else {
		(void)sd_event_source_set_enabled(get->answer, SD_EVENT_OFF);
		look_up(credentials);
	}
	*ret = get;
	return 0;
}

struct aws_keys_get *aws_keys_get_free(struct aws_keys_get *get)
{
	if (!get)
		return NULL;
	if (get->credentials) {
		struct aws_keys_get **link = &get->credentials->waiting;

		while (*link != get)
			link = &(*link)->next;
		*link = get->next;
	}
	sd_event_source_disable_unref(get->answer);
	free(get);
	return NULL;
}

void aws_credentials_refused(struct aws_credentials *credentials, const struct aws_keys *keys)
{
	if (credentials->keys != keys)
		return; /* renewed since */
	credentials->keys = aws_keys_unref(credentials->keys);
	(void)sd_event_source_set_enabled(credentials->renew, SD_EVENT_OFF);
}

void aws_credentials_watch(struct aws_credentials *credentials, aws_credentials_changed_fn changed,
                           void *userdata)
{
	credentials->changed = changed;
	credentials->changed_userdata = userdata;
	if (changed && credentials->keys)
		(void)sd_event_source_set_enabled(credentials->tell, SD_EVENT_ONESHOT);
}
