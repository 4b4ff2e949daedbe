/* The directories that our programs share, with the owner and mode each must have. */
#pragma once

#include "lib/err.h"

/*
 * Make, or bring into order, everything below the state and the runtime directory that the users
 * ecs-agent, ecs-metadata and ecs-logs and root's programs expect to find. Safe to repeat.
 * -ESRCH (err names it) when a user is missing, -ENOTDIR or -ELOOP when something else stands
 * there.
 */
int directories_create(const char *state_dir, const char *runtime_dir, struct err *err);
