/*
 * Removing what a supervisor left that died: processes that are still in its cgroups (a host-pid
 * process, or one the kernel has not finished with), the cgroups, overlay and runtime directories.
 * Its log streams get their "end". Safe to repeat, and with nothing there.
 *
 * discard_task() removes the log streams as well: another host ships them.
 */
#pragma once

#include "lib/err.h"
#include "lib/options.h"

int reap_task(const struct options *options, const char *cgroup_parent, const char *task_id,
              struct err *err);
int discard_task(const struct options *options, const char *cgroup_parent, const char *task_id,
                 struct err *err);
