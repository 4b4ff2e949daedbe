/* Bytes that grow at the end: request bodies, lines of output that are not complete yet. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct text {
	char *p; /* owned; not NUL-terminated */
	size_t len, room;
};

/* Room for n more bytes after those there are. 0 or -ENOMEM, which leaves all as it was. */
int text_reserve(struct text *text, size_t n);
int text_append(struct text *text, const void *bytes, size_t n);
int text_append_string(struct text *text, const char *string);
/* Take n bytes away at the front. A large buffer that becomes empty is released. */
void text_drop_front(struct text *text, size_t n);
/* A copy in *ret, which must be empty. */
int text_copy(const struct text *text, struct text *ret);
/* Releases the bytes and leaves it empty; an all-zero struct is an empty text. */
void text_done(struct text *text);
