/*
 * Private to agent/config/: settings that ecs-task reads from ecs.config and refuses tasks for are
 * refused in its words when ecs-agent starts, rather than with the first task.
 */
#pragma once

#include "agent/config/config.h"

/* -EINVAL: a path in it is none. */
int check_host_paths(const char *text, struct err *err);

/* text: what ecs.config has; NULL: nothing. -EINVAL: it is set and empty, which allows nothing at
 * all, not even the task. */
int check_no_host_paths(const char *text, struct err *err);

/* -EINVAL: it is malformed, or /etc/subuid or /etc/subgid has not what it needs; -errno of reading
 * these. Warns of what this kernel cannot do. */
int check_userns_remap(struct config *config, const char *text, struct err *err);
