/* Percent-encoding as SigV4 wants it (RFC 3986 unreserved characters stay), and query strings. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "lib/err.h"

/* Text with all but A-Z a-z 0-9 - _ . ~ (and '/' if keep_slash) as %XX. Owned by the caller; NULL
 * when out of memory. */
char *url_encode(const char *text, bool keep_slash);

struct url_parameter {
	const char *name;
	const char *value; /* NULL: the parameter is left out */
};

/* base, '?' and the parameters in their order, encoded. Owned by the caller; NULL when out of
 * memory. */
char *url_with_query(const char *base, const struct url_parameter *parameters, size_t n);

/* Parts of an absolute URL, borrowed from it: nothing is decoded. */
struct url {
	const char *scheme;
	size_t scheme_len;
	const char *host; /* an IPv6 address with its brackets */
	size_t host_len;
	unsigned port;    /* 0 when not given */
	const char *path; /* from '/' on, or empty; ends before '?' or '#' */
	size_t path_len;
	const char *query; /* after '?', or empty */
	size_t query_len;
};

/* -EINVAL with what is wrong: no scheme, no host, user information, blanks or control characters.
 */
int url_split(const char *text, struct url *ret, struct err *err);
