/*
 * The task object of a PayloadMessage, checked and taken apart. What this agent cannot do yet is
 * refused by name: a parameter must never be accepted and ignored. Unknown members are ignored, as
 * the protocol asks; unknown keys of dockerConfig are refused, since they would change the
 * container.
 */
#pragma once

#include <json-c/json.h>

#include "agent/engine/task.h"
#include "lib/err.h"

#define TASK_CREDENTIALS_ID_MAX 256

/* The administrator's limits on what a task may ask for. */
struct task_policy {
	bool privileged_disabled;     /* ECS_DISABLE_PRIVILEGED */
	bool task_roles_are_off;      /* ECS_ENABLE_TASK_IAM_ROLE */
	bool host_task_roles_are_off; /* ECS_ENABLE_TASK_IAM_ROLE_NETWORK_HOST */
	bool was_accepted;            /* by task_parse(), perhaps of another version */
};

/*
 * obj: borrowed; what the task keeps is copied, without credentials. A task whose desiredStatus is
 * STOPPED needs an arn only.
 * Returns 0 or -EINVAL / -EOPNOTSUPP (err says which member and why, as it goes into the reason
 * "UnrecogniedTaskError: Error loading task - ..."), -ENOMEM.
 */
int task_parse(struct json_object *obj, const struct task_policy *policy, struct task **ret,
               struct err *err);

/* Its desiredStatus alone: RUNNING or STOPPED. -EINVAL */
int task_parse_desired(struct json_object *obj, enum task_status *ret, struct err *err);

/* The same as task_parse() for a document that task_parse() has accepted before and the store has
 * kept. */
int task_parse_stored(struct json_object *document, struct task **ret, struct err *err);

/* New random ids for all containers (runtime_id, endpoint_id); not done by task_parse(), so that a
 * stored task keeps its own. */
int task_assign_ids(struct task *task);
