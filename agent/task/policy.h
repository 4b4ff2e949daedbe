/*
 * What root's own configuration (ecs.config, which ecs-agent cannot write) lets containers have:
 *
 *   ECS_DISABLE_PRIVILEGED=true                  no privileged containers (unprivileged.h)
 *   ECS_DISABLE_HOST_PID_IPC=true                no pidMode host, no ipcMode host
 *   ECS_ALLOWED_HOST_PATHS=/srv:/data/x          bind mounts and seccomp profiles only of these and
 *                                                what is below;
 *                                                not set: of any path
 *   ECS_USERNS_REMAP=...                         user namespaces for containers: idmap.h
 *   ECS_USERNS_REMAP_ALLOW_HOST=true             containers that cannot have one are not refused
 *
 * and how long what is left of a task is kept, ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION.
 *
 * The agent's own directories are host paths like any other.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

#define POLICY_PATHS_MAX 128

struct policy {
	bool privileged_disabled;
	bool host_pid_ipc_disabled;
	char *userns_remap; /* owned; NULL: off. What it says is looked into where it is needed */
	bool userns_host_allowed;
	bool host_paths_limited;
	char *host_paths[POLICY_PATHS_MAX]; /* owned, absolute, without a slash at the end */
	size_t n_host_paths;
	uint64_t task_cleanup_wait_usec;
};

/* A missing file is an empty one. -EINVAL names the setting that is wrong: nothing is guessed. */
int policy_read(const char *config, struct policy *ret, struct err *err);
void policy_done(struct policy *policy);

/* What policy_read() says of this value of ECS_ALLOWED_HOST_PATHS. */
int policy_check_host_paths(const char *text, struct err *err);

/* path: absolute and resolved (no link, no ".."). Allocates nothing. */
bool policy_allows_host_path(const struct policy *policy, const char *path);
