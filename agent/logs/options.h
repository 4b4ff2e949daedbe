/*
 * The options of the log drivers: which there are, and what they may be. The engine asks before a
 * container is made, so that a task with an option that would not work never starts; ecs-logs takes
 * the same names.
 *
 * Driver awslogs:
 *   awslogs-group (required), awslogs-region (default: the region of the agent),
 *   awslogs-stream, or awslogs-stream-prefix for <prefix>/<container>/<task id>; with neither the
 *   stream is named by the container id,
 *   awslogs-create-group (false), awslogs-create-stream (true), awslogs-endpoint (a URL),
 *   awslogs-force-flush-interval-seconds (5), awslogs-format (json/emf)
 * Driver json-file: max-size ("10m"; "-1" for no bound), max-file (3)
 * Driver none: no options
 * Every driver but none: mode (blocking, non-blocking), max-buffer-size (with non-blocking;
 * default SPOOL_MAX_BYTES, more than the 10m of ECS)
 *
 * Source: Amazon ECS Developer Guide, "Send Amazon ECS logs to CloudWatch"; Docker documentation,
 * "Amazon CloudWatch Logs logging driver" and "JSON File logging driver".
 */
#pragma once

#include <json-c/json.h>
#include <stdint.h>

#include "lib/err.h"

#define LOG_FLUSH_SECONDS_DEFAULT 5
#define LOG_FLUSH_SECONDS_MAX     3600
#define LOG_MAX_SIZE_DEFAULT      (10ull * 1024 * 1024)
#define LOG_MAX_FILE_DEFAULT      3
#define LOG_MAX_FILE_MAX          100

/*
 * options: an object of strings; NULL is an empty one. Returns 0, or -EOPNOTSUPP when the driver or
 * an option is not supported, -EINVAL when a value is wrong or a required option is missing. err
 * names it, its value and what would be right.
 */
int log_options_check(const char *driver, struct json_object *options, struct err *err);

/* Sizes as Docker writes them: "512", "10k", "10m", "1g", also "10mb" and "10MiB". -EINVAL,
 * -ERANGE. */
int log_size_parse(const char *text, uint64_t *ret_bytes);
