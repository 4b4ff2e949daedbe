/* A reference count over lib/secret. One thread, so the count is a plain number. */
#include "iam-creds/body.h"

#include "lib/secret.h"

struct body {
	unsigned refs;
	struct secret *secret;
};

struct body *body_new(const char *bytes, size_t n)
{
	_cleanup_free_ struct body *body = calloc(1, sizeof(*body));

	if (!body)
		return NULL;
	body->refs = 1;
	body->secret = secret_new(bytes, n);
	if (!body->secret)
		return NULL;
	return TAKE_PTR(body);
}

struct body *body_ref(struct body *body)
{
	if (body)
		body->refs++;
	return body;
}

struct body *body_unref(struct body *body)
{
	if (body && --body->refs == 0) {
		secret_free(body->secret);
		free(body);
	}
	return NULL;
}

const char *body_bytes(const struct body *body)
{
	return secret_bytes(body->secret);
}

size_t body_len(const struct body *body)
{
	return secret_len(body->secret);
}
