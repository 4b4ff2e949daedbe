/* The HTTP side of a WebSocket: the request that asks for it and the answer (RFC 6455 section 4).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "lib/err.h"
#include "lib/sigv4.h"
#include "lib/url.h"

#define WEBSOCKET_KEY_SIZE 25 /* base64 of 16 bytes, with its NUL */

void websocket_make_key(char key[static WEBSOCKET_KEY_SIZE]);

/* The request with its signature; owned by the caller, who wipes it. NULL when out of memory. */
char *websocket_request(const struct url *url, const struct sigv4_signature *signature,
                        const char *key);

struct websocket_answer {
	unsigned status;
	size_t head_len;  /* with the empty line */
	const char *body; /* of a refusal: what is there of it so far */
	size_t body_len;
	bool is_complete;
};

/*
 * Look at what has arrived (n bytes, NUL-terminated beyond them). Returns 0 with *ret, -EAGAIN: the
 * head is not complete; -EPROTO: it is no answer to this request, or a 101 without the right accept
 * value; err says what is wrong.
 */
int websocket_read_answer(const char *text, size_t n, const char *key, struct websocket_answer *ret,
                          struct err *err);
