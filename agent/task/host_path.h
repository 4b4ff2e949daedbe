/*
 * Host paths that tasks name as sources of bind mounts. What containers can write to may change at
 * any moment, so the policy is asked about what is open, never about a name that is looked up
 * again.
 */
#pragma once

#include <stdbool.h>

#include "agent/task/policy.h"

/* Is the file or directory that fd is in one of the policy's paths: 1, 0, or -errno. */
int host_path_is_allowed(const struct policy *policy, int fd);

/*
 * Open path (absolute, without ".."), links of the host followed. What is missing is made, as
 * Docker does it: directories, 0755 but for the umask. No link is followed among those, and nothing
 * is made where nothing may be mounted from.
 *
 * Returns an O_PATH descriptor, or
 *   -EACCES   with *ret_refused: the policy does not allow it
 *   -ELOOP    a link that leads to nothing stands where a directory would be made
 *   -errno    of open(2), mkdirat(2) or openat2(2)
 * Allocates nothing.
 */
int host_path_open(const struct policy *policy, const char *path, bool *ret_refused);
