/* One container object of a task: see task_parse.h. */
#pragma once

#include "agent/engine/task_parse.h"

/* Fill in ret (zeroed, inside a task) from obj. networkMode of the task is known already; names of
 * other containers are checked by the caller. Errors as task_parse(). */
int container_parse(struct json_object *obj, enum network_mode mode,
                    const struct task_policy *policy, struct container *ret, struct err *err);
