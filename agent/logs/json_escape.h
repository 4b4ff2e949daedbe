/*
 * Container output as the inside of a JSON string. Output is bytes in whatever encoding; JSON and
 * CloudWatch Logs want UTF-8. What is not UTF-8 becomes U+FFFD, one for each maximal part of a
 * sequence that could not be completed, as the Unicode standard recommends (chapter 3.9) and
 * decoders of other languages do.
 */
#pragma once

#include <stddef.h>

#include "agent/logs/text.h"

/*
 * Append the escaped form of in[0..n) to out, as much of it as makes at most max bytes of UTF-8
 * (before escaping); characters are not split. *ret_consumed: bytes of in that this took;
 * *ret_utf8: bytes of UTF-8 they make. An incomplete character at the end of in is damaged.
 * Returns 0 or -ENOMEM.
 */
int json_escape(struct text *out, const char *in, size_t n, size_t max, size_t *ret_consumed,
                size_t *ret_utf8);

/* A whole C string with its quotes, for names. */
int json_append_quoted(struct text *out, const char *string);
