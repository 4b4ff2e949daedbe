/* Is what ECS Exec needs on this host (agent/task/execute_command_paths.h)? */
#pragma once

#include <stdbool.h>

/* Looks at the files below the state directory, which containers are given: all must be there, in
 * folders that only root can write to. What is missing is logged, unless nothing was put there. */
bool execute_command_is_installed(const char *state_dir);
