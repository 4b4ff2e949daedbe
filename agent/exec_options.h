/* The command line of "ecs-agent exec". */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "lib/err.h"

#define EXEC_ENV_MAX 256

/* All of it is borrowed from argv. */
struct exec_options {
	bool help, interactive, tty;
	const char *user, *workdir;
	const char *env[EXEC_ENV_MAX];
	size_t n_env;
	const char *task, *container;
	char **args; /* NULL-terminated, of argv */
};

/* What --help prints. */
extern const char exec_options_usage[];

/*
 * argv[0] is "exec"; ret: zeroed. Options stand before, between or after the names of task and
 * container; the command begins at the third word. With help nothing else need be there.
 * Returns 0 or -EINVAL with the words for the operator.
 */
int exec_options_parse(int argc, char **argv, struct exec_options *ret, struct err *err);
