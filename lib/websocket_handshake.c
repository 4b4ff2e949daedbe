/* Text in and out; no connection here, so that it can be tested with strings. */
#include "lib/websocket_handshake.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>

#include <openssl/evp.h>

#include "lib/cleanup.h"
#include "lib/parse.h"

#define ACCEPT_SIZE 29 /* base64 of 20 bytes, with its NUL */

void websocket_make_key(char key[static WEBSOCKET_KEY_SIZE])
{
	unsigned char bytes[16];

	while (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
		;
	EVP_EncodeBlock((unsigned char *)key, bytes, sizeof(bytes));
}

static int make_accept(const char *key, char accept[static ACCEPT_SIZE])
{
	unsigned char digest[EVP_MAX_MD_SIZE];
	char text[WEBSOCKET_KEY_SIZE + 36];
	unsigned len;

	snprintf(text, sizeof(text), "%s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);
	if (EVP_Digest(text, strlen(text), digest, &len, EVP_sha1(), NULL) != 1)
		return -EIO;
	EVP_EncodeBlock((unsigned char *)accept, digest, (int)len);
	return 0;
}

char *websocket_request(const struct url *url, const struct sigv4_signature *signature,
                        const char *key)
{
	const char *token = signature->security_token;
	char *text;

	if (asprintf(&text,
	             "GET %.*s%s%.*s HTTP/1.1\r\n"
	             "Host: %s\r\n"
	             "Upgrade: websocket\r\n"
	             "Connection: Upgrade\r\n"
	             "Sec-WebSocket-Key: %s\r\n"
	             "Sec-WebSocket-Version: 13\r\n"
	             "X-Amz-Date: %s\r\n"
	             "%s%s%s"
	             "Authorization: %s\r\n\r\n",
	             url->path_len ? (int)url->path_len : 1, url->path_len ? url->path : "/",
	             url->query_len ? "?" : "", (int)url->query_len, url->query, signature->host,
	             key, signature->date, token ? "X-Amz-Security-Token: " : "",
	             token ? token : "", token ? "\r\n" : "", signature->authorization) < 0)
		return NULL;
	return text;
}

/* Value of a header in the head, blanks trimmed; NULL. */
static const char *find_header(const char *head, size_t head_len, const char *name, size_t *ret_len)
{
	size_t name_len = strlen(name);
	const char *end = head + head_len;

	for (const char *line = head; line < end;) {
		const char *stop = memchr(line, '\n', (size_t)(end - line));
		const char *value = line + name_len + 1;

		stop = stop ? stop : end;
		if ((size_t)(stop - line) > name_len && line[name_len] == ':' &&
		    strncasecmp(line, name, name_len) == 0) {
			while (value < stop && isblank((unsigned char)*value))
				value++;
			while (stop > value && isspace((unsigned char)stop[-1]))
				stop--;
			*ret_len = (size_t)(stop - value);
			return value;
		}
		line = stop + 1;
	}
	return NULL;
}

static bool header_is(const char *head, size_t head_len, const char *name, const char *want)
{
	size_t len;
	const char *value = find_header(head, head_len, name, &len);

	return value && len == strlen(want) && strncasecmp(value, want, len) == 0;
}

static int check_upgrade(const char *head, size_t head_len, const char *key, struct err *err)
{
	char accept[ACCEPT_SIZE];
	size_t len;
	const char *value;

	if (!header_is(head, head_len, "Upgrade", "websocket") ||
	    !header_is(head, head_len, "Connection", "upgrade"))
		return err_text(err, -EPROTO, "the answer 101 upgrades to something else");
	if (find_header(head, head_len, "Sec-WebSocket-Extensions", &len) ||
	    find_header(head, head_len, "Sec-WebSocket-Protocol", &len))
		return err_text(err, -EPROTO, "the answer 101 takes up what was not offered");
	if (make_accept(key, accept) < 0)
		return err_text(err, -EIO, "libcrypto cannot compute SHA-1");
	value = find_header(head, head_len, "Sec-WebSocket-Accept", &len);
	if (!value || len != strlen(accept) || strncmp(value, accept, len) != 0)
		return err_text(err, -EPROTO, "the answer 101 is to another handshake");
	return 0;
}

/* A refusal's body ends by its length, by the last chunk, or with the connection. */
static bool body_is_complete(const char *head, size_t head_len, const char *body, size_t body_len)
{
	static const char last_chunk[] = "0\r\n\r\n";
	size_t len, n = sizeof(last_chunk) - 1;
	const char *value = find_header(head, head_len, "Content-Length", &len);
	char digits[16];
	uint64_t length;

	if (value && len < sizeof(digits)) {
		memcpy(digits, value, len);
		digits[len] = '\0';
		return parse_u64(digits, UINT32_MAX, &length) == 0 && body_len >= length;
	}
	return header_is(head, head_len, "Transfer-Encoding", "chunked") && body_len >= n &&
	       memcmp(body + body_len - n, last_chunk, n) == 0;
}

int websocket_read_answer(const char *text, size_t n, const char *key, struct websocket_answer *ret,
                          struct err *err)
{
	const char *end = memmem(text, n, "\r\n\r\n", 4);
	struct websocket_answer answer = {0};
	int r;

	if (n >= 9 && (memcmp(text, "HTTP/1.1 ", 9) != 0 && memcmp(text, "HTTP/1.0 ", 9) != 0))
		return err_text(err, -EPROTO, "the server does not speak HTTP/1.1");
	if (!end)
		return -EAGAIN;
	answer.head_len = (size_t)(end - text) + 4;
	if (answer.head_len < 16 || sscanf(text + 9, "%3u", &answer.status) != 1 ||
	    answer.status < 100)
		return err_text(err, -EPROTO, "the server's answer has no status");
	if (memchr(text, '\0', answer.head_len))
		return err_text(err, -EPROTO, "the server's answer holds a NUL byte");
	if (answer.status == 101) {
		r = check_upgrade(text, answer.head_len, key, err);
		if (r < 0)
			return r;
		answer.is_complete = true;
	} else {
		answer.body = text + answer.head_len;
		answer.body_len = n - answer.head_len;
		answer.is_complete =
			body_is_complete(text, answer.head_len, answer.body, answer.body_len);
	}
	*ret = answer;
	return 0;
}
