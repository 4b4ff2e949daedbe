/*
 * Driver json-file: <state>/logs/<task id>/<container>-json.log (directory of ecs-logs, 0750),
 * lines as Docker writes them, rotated to "-json.log.1", ".2" and so on by max-size and max-file.
 *
 * The files stay when their task has ended, for people to read, until they are among the oldest and
 * all of them together are too many or too large: JSON_FILE_TASKS_KEPT tasks, JSON_FILE_BYTES_KEPT.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "agent/logs/log_config.h"
#include "lib/err.h"

#define JSON_FILE_TASKS_KEPT 1000
#define JSON_FILE_BYTES_KEPT (2ull * 1024 * 1024 * 1024)

struct json_file {
	int logs_fd; /* <state>/logs, borrowed */
	const char *task_id, *container;
	/* The file is as a power loss may have left it, with half a line or zero bytes at its end:
	 * cut it behind its last newline. Else its end is known. */
	bool check_end;
};

/*
 * Open the file at its end, making it and its directory if they are missing. A file that has
 * reached the size is rotated first, but not while something is to be undone: undo: cut it to
 * undo_bytes where it is longer, because a batch was being written when we were killed, or when the
 * disk was full. A file that is full is synced before it gets another name.
 */
int json_file_open(const struct json_file *file, const struct log_config *config, bool undo,
                   uint64_t undo_bytes, int *ret_fd, uint64_t *ret_bytes, struct err *err);

typedef bool (*json_file_is_live_fn)(const char *task_id, void *userdata);

/* Remove the oldest files of tasks that are not live beyond these bounds. Returns how many tasks'
 * or -errno. */
int json_file_prune(int logs_fd, uint64_t max_tasks, uint64_t max_bytes,
                    json_file_is_live_fn is_live, void *userdata);
