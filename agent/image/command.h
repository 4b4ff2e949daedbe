/*
 * The operator's commands, "ecs-image pull REF" and so on: a client of the same two halves that
 * serve ecs-agent.
 */
#pragma once

#include "lib/err.h"
#include "lib/options.h"

struct command_options {
	const struct options *options;
	const char *username; /* of "pull"; its password is read from standard input. NULL: none */
};

/* Run the command in argv[0] with its arguments and print what it has to say. 0 or -errno. */
int command_run(const struct command_options *options, int argc, char **argv, struct err *err);
