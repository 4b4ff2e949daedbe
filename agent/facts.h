/*
 * What this host has of that which a setting or ECS may ask for: found once, before the engine
 * begins, and without privileges. What is announced must work: a setting alone makes no controller
 * and no security module. What is missing is logged.
 */
#pragma once

#include "agent/config/config.h"
#include "agent/ecs/capabilities.h"
#include "lib/err.h"

/* Where to look. NULL: where the kernel has it (cgroup_check_controllers()). */
struct facts_sources {
	const char *state_dir;
	const char *cgroup_mount, *proc_cgroups;
};

/*
 * Returns 0, or -EOPNOTSUPP: ECS_ENABLE_TASK_CPU_MEM_LIMIT is set to true, and this host cannot
 * limit; where it is not set, task_cgroups is false then. -ENOMEM.
 */
int facts_find(const struct config *config, const struct facts_sources *sources,
               struct node_facts *ret, struct err *err);
