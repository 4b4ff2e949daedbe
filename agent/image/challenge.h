/*
 * The WWW-Authenticate header of a registry: which token server to ask, and for what.
 * Source: RFC 9110, 11.6.1; distribution "Token Authentication Specification".
 */
#pragma once

#include "lib/err.h"

enum challenge_scheme {
	CHALLENGE_NONE, /* nothing that we can answer */
	CHALLENGE_BASIC,
	CHALLENGE_BEARER,
};

struct challenge {
	enum challenge_scheme scheme;
	char realm[2048]; /* Bearer: URL of the token server */
	char service[512];
	char scope[1024]; /* "repository:team/app:pull" */
};

/*
 * Pick what we answer from one header value, which may list several challenges: Bearer before
 * Basic. Returns 0 (also with CHALLENGE_NONE), or -EBADMSG for a value that is cut off or holds a
 * parameter that is too long.
 */
int challenge_parse(const char *header, struct challenge *ret, struct err *err);
