/* The command line that all our programs share. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "lib/err.h"

#define OPTIONS_CONFIG_DEFAULT      "/etc/ecs/ecs.config"
#define OPTIONS_STATE_DIR_DEFAULT   "/var/lib/ecs"
#define OPTIONS_RUNTIME_DIR_DEFAULT "/run/ecs"

struct options {
	const char *config;      /* --config */
	const char *state_dir;   /* --state-dir */
	const char *runtime_dir; /* --runtime-dir */
};

/* One option of a program's own. Exactly one of flag and value is set. */
struct option_spec {
	const char *name;     /* without "--" */
	const char *argument; /* placeholder in --help; NULL for a flag */
	const char *help;
	bool *flag;         /* set to true */
	const char **value; /* set to the argument, borrowed from argv */
};

/*
 * Parse argv. --help prints usage (synopsis and the table) and --version "name version (hash)",
 * both to standard output, and return 1: the program then exits 0. Returns 0 with *ret_first the
 * index of the first argument that is no option, or -EINVAL with err naming the bad one.
 */
int options_parse(int argc, char **argv, const char *synopsis, const struct option_spec *specs,
                  size_t n_specs, struct options *ret, int *ret_first, struct err *err);

/* Directory of the running program, where its siblings are: no trailing slash. */
int program_dir(char *buf, size_t n, struct err *err);

/* The path of a program of the host that is not one of ours: what PATH has first, or /usr/sbin or
 * /sbin. -ENOENT when it is not installed. */
int program_find(const char *name, char *buf, size_t n);
