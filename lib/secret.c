/* Wiped memory. A program holding secrets also calls confine_no_dumps(). */
#include "lib/secret.h"

#include <string.h>

struct secret {
	size_t len;
	char bytes[];
};

struct secret *secret_new(const char *bytes, size_t n)
{
	struct secret *secret = calloc(1, sizeof(*secret) + n + 1);

	if (!secret)
		return NULL;
	secret->len = n;
	if (n)
		memcpy(secret->bytes, bytes, n);
	return secret;
}

struct secret *secret_free(struct secret *secret)
{
	if (secret) {
		explicit_bzero(secret, sizeof(*secret) + secret->len);
		free(secret);
	}
	return NULL;
}

const char *secret_bytes(const struct secret *secret)
{
	return secret->bytes;
}

size_t secret_len(const struct secret *secret)
{
	return secret->len;
}

char *secret_string_free(char *text)
{
	if (text) {
		explicit_bzero(text, strlen(text));
		free(text);
	}
	return NULL;
}
