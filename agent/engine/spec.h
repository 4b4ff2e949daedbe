/*
 * What ecs-task is asked to make: the "setup" and "create" messages of agent/task/protocol.h, from
 * a task, its image and the agent's configuration. Docker's defaults (capabilities, masked paths,
 * rlimits, environment) are set here, as the OCI runtime-spec 1.0.2 words them.
 */
#pragma once

#include <json-c/json.h>

#include "agent/engine/task.h"
#include "lib/err.h"

struct spec_options {
	const char *cluster;       /* configured cluster, for labels and log.json */
	const char *region;        /* AWS_REGION of the containers */
	const char *logs_endpoint; /* awslogs-endpoint where the task gives none; NULL: none */
	bool task_iam_role;        /* ECS_ENABLE_TASK_IAM_ROLE (and _NETWORK_HOST for host mode) */
	bool task_cgroup_limits;   /* ECS_ENABLE_TASK_CPU_MEM_LIMIT */
	bool task_memory_inside;   /* ECS_PROPAGATE_TASK_MEMORY_LIMIT_CGROUPV2 */
	bool selinux;              /* ECS_SELINUX_CAPABLE, on a host with SELinux: label all */
	uint64_t cgroup_cpu_period_usec; /* ECS_CGROUP_CPU_PERIOD */
	uint64_t task_pids_limit;        /* ECS_TASK_PIDS_LIMIT, 0: none */
};

/* The "task" object of "setup". *ret is owned by the caller. -EINVAL when the limits contradict
 * each other (a container's memory above the task's), -ENOMEM. */
int spec_task(const struct task *task, const struct spec_options *options, struct json_object **ret,
              struct err *err);

/* The "container" object of "create". container->image_config and ->layers must be known.
 * -EINVAL with err->name CannotCreateContainerError when image and definition give no command, or
 * an option cannot be honoured; -ENOMEM. */
int spec_container(const struct task *task, const struct container *container,
                   const struct spec_options *options, struct json_object **ret, struct err *err);
