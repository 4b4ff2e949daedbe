/*
 * Is a cgroup the host's own, or a task's? By its place in the cgroup2 tree, since an id that is no
 * container's may be that of a cgroup which a container has made below its own.
 */
#pragma once

#include <stdint.h>

#include "lib/cleanup.h"
#include "lib/err.h"

#define HOST_CGROUPS_DEPTH_MAX 32   /* of those that are looked at */
#define HOST_CGROUPS_MAX       8192 /* the same; those of tasks do not count */

struct host_cgroups;

/* top_fd: the top of a cgroup2 tree, open for reading; taken, also on failure. -ENOMEM. */
int host_cgroups_new(int top_fd, struct host_cgroups **ret);
/* That of this host. -EOPNOTSUPP where neither /sys/fs/cgroup nor /sys/fs/cgroup/unified is one
 * (hosts of cgroup v1). */
int host_cgroups_open(struct host_cgroups **ret, struct err *err);
struct host_cgroups *host_cgroups_free(struct host_cgroups *host);
DEFINE_CLEANUP(struct host_cgroups *, host_cgroups_free)

/* The descriptor at and below which directories are listed; borrowed. */
int host_cgroups_fd(const struct host_cgroups *host);

/*
 * 1 when the cgroup of this id is there and neither one of a task ("ecstasks-...") nor below one; 0
 * when it is not, or is gone. -E2BIG when it is not among HOST_CGROUPS_MAX, or -errno.
 *
 * Searches the tree, which takes some microseconds for each cgroup outside of tasks, and remembers
 * what it has found of the last few. A directory that cannot be read has nothing below it.
 */
int host_cgroups_has(struct host_cgroups *host, uint64_t id, struct err *err);
