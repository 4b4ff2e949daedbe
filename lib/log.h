/*
 * The log: one line on standard error (logfmt), or one entry with fields in the journal where
 * standard error is the journal. Contexts add fields: the agent gives ECS_CLUSTER, a task
 * ECS_TASK_ARN, a container ECS_CONTAINER_NAME. Untrusted text is escaped and cut.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <syslog.h>

struct log_ctx {
	const struct log_ctx *parent; /* borrowed; NULL at the top */
	const char *field;            /* such as "ECS_TASK_ARN"; upper case, digits and '_' */
	const char *value;            /* borrowed */
};

/* Call once. program: the name in each line. */
void log_init(const char *program);
/* Words of ECS_LOGLEVEL: crit, error, warn, info, debug. -EINVAL for another. */
int log_set_level(const char *word);
bool log_is_on(int level);

/* error: 0 or a negative errno, whose text is appended. ctx may be NULL. */
void log_write(const struct log_ctx *ctx, int level, int error, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

#define log_err(ctx, error, ...)     log_write((ctx), LOG_ERR, (error), __VA_ARGS__)
#define log_warning(ctx, error, ...) log_write((ctx), LOG_WARNING, (error), __VA_ARGS__)
#define log_info(ctx, ...)           log_write((ctx), LOG_INFO, 0, __VA_ARGS__)
#define log_debug(ctx, ...)                                                                        \
	do {                                                                                       \
		if (log_is_on(LOG_DEBUG))                                                          \
			log_write((ctx), LOG_DEBUG, 0, __VA_ARGS__);                               \
	} while (0)
