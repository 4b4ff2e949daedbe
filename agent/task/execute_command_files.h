/*
 * The files of the host that ECS Exec's agent needs in a container (execute_command_paths.h):
 *
 *   /ecs-execute-command-<uuid>/amazon-ssm-agent, ssm-agent-worker, ssm-session-worker
 *                              /configuration/amazon-ssm-agent.json, seelog.xml
 *                              /certs/amazon-ssm-agent.crt
 *   /var/log/amazon/ssm        the one that can be written
 *
 * All of it is chosen here: whoever asks says only that it is wanted, so ECS_ALLOWED_HOST_PATHS is
 * not about it. Folders of the host that another user than root could change are refused, since
 * their files would run as root in the container. Links that root has put there are followed.
 *
 * Configuration is made where it is missing, under names that hash the content, so that all
 * containers which want the same share it. Log directories of tasks that have ended are removed
 * after the time for which ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION keeps a task, when the next one is
 * made; the lock that each task holds on its own says which have ended. A child process does that,
 * whose end the caller's loop collects like that of any orphan.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/err.h"

#define EXECUTE_COMMAND_MOUNTS       7
#define EXECUTE_COMMAND_SESSIONS_MAX 1000

struct execute_command_mount {
	char target[112]; /* in the container */
	int fd;           /* of the file or directory on the host, or of a mount of it */
	bool is_directory;
	unsigned int attr; /* MOUNT_ATTR_* */
};

struct execute_command_request {
	const char *state_dir, *task_id, *container;
	unsigned int session_limit;
	uint64_t keep_logs_usec;
};

struct execute_command_files {
	struct execute_command_mount mounts[EXECUTE_COMMAND_MOUNTS];
	char program[112]; /* in the container */
	int log_fd;        /* the task's log directory, locked */
};

/* What execute_command_files_done() copes with. */
void execute_command_files_init(struct execute_command_files *files);

/* Find, make and open all of them. -errno, with what is missing or wrong in err, by its path;
 * done() is called in either case. */
int execute_command_files_open(struct execute_command_files *files,
                               const struct execute_command_request *request, struct err *err);
void execute_command_files_done(struct execute_command_files *files);

/* For one start: mounts of them that are attached nowhere yet, in the same order. */
int execute_command_mounts_make(const struct execute_command_files *files,
                                struct execute_command_mount ret[EXECUTE_COMMAND_MOUNTS],
                                struct err *err);
void execute_command_mounts_done(struct execute_command_mount mounts[EXECUTE_COMMAND_MOUNTS]);
