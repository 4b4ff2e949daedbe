/*
 * The cgroup below which tasks are started: the one that --cgroup-parent names; else the one that
 * ecs-keeper has written to <run>/cgroup (under systemd, the delegated cgroup of the service that
 * owns all tasks); else "ecs".
 *
 * While <run>/stopping exists that service is being stopped or is stopped, and no task may start:
 * it would be killed, or nobody would stop it at shutdown.
 */
#pragma once

#include "cgroups/cgroup.h"
#include "lib/cleanup.h"
#include "lib/err.h"

#define PARENT_FILE     "cgroup"   /* below the runtime directory: a path without leading slash */
#define PARENT_STOPPING "stopping" /* the same: an empty file */

struct parent;

/* fixed: what --cgroup-parent says, or NULL. Both are borrowed. -ENOMEM is the only failure. */
int parent_new(const char *fixed, const char *runtime_dir, struct parent **ret, struct err *err);
struct parent *parent_free(struct parent *parent);
DEFINE_CLEANUP(struct parent *, parent_free)

/*
 * The path as it is now, borrowed until the next call. A service that was started anew may have
 * another cgroup, so it is asked for each time. -EINVAL when <run>/cgroup holds no path.
 */
int parent_path(struct parent *parent, const char **ret, struct err *err);

/* The cgroup itself, opened anew when it has been made anew; borrowed until the next call.
 * -ESHUTDOWN while no task may start; else as parent_path() and cgroup_root_open(). */
int parent_root(struct parent *parent, struct cgroup_root **ret, struct err *err);
