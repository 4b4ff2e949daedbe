/*
 * Files of KEY=VALUE lines, as /etc/ecs/ecs.config is one: split at the first '=', blanks around
 * the line trimmed, no quotes, no expansion, a later line wins. Lines that start with '#' and
 * lines without '=' say nothing. Source: how the ECS agent's service has always read ecs.config.
 */
#pragma once

#include <stddef.h>

#include "lib/cleanup.h"
#include "lib/err.h"

struct envfile;

/* A missing file is an empty one. Returns 0, or -errno of reading it (at most 1 MiB). */
int envfile_open(const char *path, struct envfile **ret, struct err *err);
/* The same over text that was read already. */
int envfile_parse(const char *text, size_t len, struct envfile **ret, struct err *err);
struct envfile *envfile_free(struct envfile *file);
DEFINE_CLEANUP(struct envfile *, envfile_free)

/* Borrowed; NULL when the file does not set it. */
const char *envfile_get(const struct envfile *file, const char *key);

/* Number of the line that set it last, from 1; 0 when the file does not set it. */
size_t envfile_line(const struct envfile *file, const char *key);

/* Entry i in file order with each key once, or NULL past the end. */
const char *envfile_key(const struct envfile *file, size_t i, const char **ret_value);
