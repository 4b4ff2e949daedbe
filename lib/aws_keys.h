/*
 * One set of AWS keys. Shared by reference, never changed, wiped with the last reference; nothing
 * here prints them.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/cleanup.h"

#define AWS_KEYS_NO_EXPIRY UINT64_MAX

struct aws_keys;

/*
 * session_token: NULL or "" for long-term keys. expires_realtime_usec: AWS_KEYS_NO_EXPIRY if never.
 * All strings are copied. NULL when out of memory.
 */
struct aws_keys *aws_keys_new(const char *access_key_id, const char *secret_access_key,
                              const char *session_token, uint64_t expires_realtime_usec);
struct aws_keys *aws_keys_ref(struct aws_keys *keys);
struct aws_keys *aws_keys_unref(struct aws_keys *keys);
DEFINE_CLEANUP(struct aws_keys *, aws_keys_unref)

const char *aws_keys_access_key_id(const struct aws_keys *keys);
const char *aws_keys_secret_access_key(const struct aws_keys *keys);
const char *aws_keys_session_token(const struct aws_keys *keys); /* NULL if none */
uint64_t aws_keys_expires_realtime_usec(const struct aws_keys *keys);

/* An expired key must never be used: a request signed with it says nothing but "expired". */
bool aws_keys_is_expired(const struct aws_keys *keys, uint64_t now_realtime_usec);

/*
 * RFC 3339 time as AWS writes it ("2026-07-01T10:00:00Z", a fraction and an offset are understood),
 * in realtime microseconds; and the reverse in the form of the example. -EINVAL.
 */
int aws_time_parse(const char *text, uint64_t *ret_realtime_usec);
void aws_time_to_string(uint64_t realtime_usec, char buf[static 21]);
