/* The environment of a process in a container: what Docker sets, the container's, an exec's. */
#pragma once

#include <stddef.h>

#include "agent/task/spec.h"
#include "lib/err.h"

struct environment {
	char **list; /* owned, NULL-terminated, with one more free place, for HOME; strings borrowed
	              */
	size_t n;
	char hostname[80]; /* "HOSTNAME=..." */
};

/*
 * PATH, HOSTNAME and, on a terminal, TERM where spec->env has none; then additions (NULL for none,
 * else NULL-terminated NAME=VALUE), which replace what is there of that name. HOME is added by the
 * child, who knows the user. A bare spec gets none of these defaults. ret, spec and additions must
 * stay where they are while list is used.
 */
int environment_make(const struct container_spec *spec, const char *hostname,
                     const char *const *additions, struct environment *ret, struct err *err);
void environment_done(struct environment *environment);
