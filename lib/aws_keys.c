/* Keys are shared between the provider, calls under way and whoever passes them on, so that a
 * renewal never changes a key under a request that is being signed. */
#include "lib/aws_keys.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lib/secret.h"

struct aws_keys {
	unsigned n_refs;
	char *access_key_id;
	struct secret *secret_access_key;
	struct secret *session_token;
	uint64_t expires_realtime_usec;
};

struct aws_keys *aws_keys_new(const char *access_key_id, const char *secret_access_key,
                              const char *session_token, uint64_t expires_realtime_usec)
{
	_cleanup_(aws_keys_unrefp) struct aws_keys *keys = calloc(1, sizeof(*keys));

	if (!keys)
		return NULL;
	keys->n_refs = 1;
	keys->expires_realtime_usec = expires_realtime_usec;
	keys->access_key_id = strdup(access_key_id);
	keys->secret_access_key = secret_new(secret_access_key, strlen(secret_access_key));
	if (!keys->access_key_id || !keys->secret_access_key)
		return NULL;
	if (session_token && *session_token) {
		keys->session_token = secret_new(session_token, strlen(session_token));
		if (!keys->session_token)
			return NULL;
	}
	return TAKE_PTR(keys);
}

struct aws_keys *aws_keys_ref(struct aws_keys *keys)
{
	if (keys)
		keys->n_refs++;
	return keys;
}

struct aws_keys *aws_keys_unref(struct aws_keys *keys)
{
	if (keys && --keys->n_refs == 0) {
		free(keys->access_key_id);
		secret_free(keys->secret_access_key);
		secret_free(keys->session_token);
		free(keys);
	}
	return NULL;
}

const char *aws_keys_access_key_id(const struct aws_keys *keys)
{
	return keys->access_key_id;
}

const char *aws_keys_secret_access_key(const struct aws_keys *keys)
{
	return secret_bytes(keys->secret_access_key);
}

const char *aws_keys_session_token(const struct aws_keys *keys)
{
	return keys->session_token ? secret_bytes(keys->session_token) : NULL;
}

uint64_t aws_keys_expires_realtime_usec(const struct aws_keys *keys)
{
	return keys->expires_realtime_usec;
}

bool aws_keys_is_expired(const struct aws_keys *keys, uint64_t now_realtime_usec)
{
	return keys->expires_realtime_usec <= now_realtime_usec;
}

/* "Z" or "+hh:mm": the offset in seconds. */
static int parse_offset(const char *text, int64_t *ret_seconds)
{
	unsigned hours, minutes;
	int end = 0;
	char sign;

	if (strcmp(text, "Z") == 0 || strcmp(text, "z") == 0) {
		*ret_seconds = 0;
		return 0;
	}
	if (sscanf(text, "%c%2u:%2u%n", &sign, &hours, &minutes, &end) != 3 || text[end] != '\0')
		return -EINVAL;
	if ((sign != '+' && sign != '-') || end != 6 || hours > 23 || minutes > 59)
		return -EINVAL;
	*ret_seconds = (int64_t)(hours * 3600 + minutes * 60) * (sign == '-' ? -1 : 1);
	return 0;
}

/* ".123456789" as microseconds; moves *text behind it. */
static uint64_t parse_fraction(const char **text)
{
	uint64_t usec = 0, scale = 100000;

	if (**text != '.')
		return 0;
	for ((*text)++; **text >= '0' && **text <= '9'; (*text)++) {
		usec += (uint64_t)(**text - '0') * scale;
		scale /= 10;
	}
	return usec;
}

int aws_time_parse(const char *text, uint64_t *ret_realtime_usec)
{
	struct tm tm = {0};
	uint64_t fraction_usec;
	const char *rest;
	int64_t offset, seconds;
	int r;

	rest = text ? strptime(text, "%Y-%m-%dT%H:%M:%S", &tm) : NULL;
	if (!rest)
		return -EINVAL;
	fraction_usec = parse_fraction(&rest);
	r = parse_offset(rest, &offset);
	if (r < 0)
		return r;
	seconds = (int64_t)timegm(&tm) - offset;
	if (seconds < 0 || (uint64_t)seconds > UINT64_MAX / 1000000 - 1)
		return -EINVAL;
	*ret_realtime_usec = (uint64_t)seconds * 1000000 + fraction_usec;
	return 0;
}

void aws_time_to_string(uint64_t realtime_usec, char buf[static 21])
{
	time_t seconds = (time_t)(realtime_usec / 1000000);
	struct tm tm;

	gmtime_r(&seconds, &tm);
	if (strftime(buf, 21, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
		memcpy(buf, "9999-12-31T23:59:59Z", 21);
}
