/* SHA-256 content digests: the name of everything that a registry or the store hands out. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "lib/cleanup.h"
#include "lib/err.h"

#define DIGEST_HEX_LEN 64

struct digest {
	char hex[DIGEST_HEX_LEN + 1]; /* lower case; empty: none */
};

/*
 * Parse "sha256:<64 lower-case hex digits>". Other algorithms are refused by name.
 * Returns 0 or -EINVAL.
 * Source: OCI image-spec, descriptor.md, "Digests".
 */
int digest_parse(const char *text, struct digest *ret, struct err *err);

bool digest_equal(const struct digest *a, const struct digest *b);

/* The digest of n bytes. -EIO when libcrypto fails. */
int digest_of(const void *bytes, size_t n, struct digest *ret);

/* A digest of bytes that come piece by piece. */
struct digester;

int digester_new(struct digester **ret);
struct digester *digester_free(struct digester *digester);
DEFINE_CLEANUP(struct digester *, digester_free)
int digester_update(struct digester *digester, const void *bytes, size_t n);
/* The digest of all that was put in; the digester is of no further use but to be freed. */
int digester_finish(struct digester *digester, struct digest *ret);
