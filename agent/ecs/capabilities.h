/*
 * The attributes a container instance registers with: what this agent can do, each with its
 * condition, in one table. ECS places a task only where all that it requires is registered, so a
 * name here is a promise.
 */
#pragma once

#include <json-c/json.h>
#include <stdio.h>

#include "agent/config/config.h"
#include "lib/err.h"

struct node_facts {
	bool task_cgroups;      /* task-level limits can be set up here */
	bool execute_command;   /* what ECS Exec needs is on this host */
	bool apparmor, selinux; /* this host has them */
	bool efs_utils;         /* mount.efs of amazon-efs-utils is installed */
};

/*
 * Append {"name":...} or {"name":...,"value":...} of each capability that is true to array.
 * Returns 0 or -ENOMEM.
 */
int capabilities_append(const struct config *config, const struct node_facts *facts,
                        struct json_object *array);
