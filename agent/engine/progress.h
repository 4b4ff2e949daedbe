/*
 * The rules by which a task's containers depend on each other and a task's status follows from
 * theirs. Nothing here changes anything: the reconciler asks.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "agent/engine/task.h"
#include "lib/err.h"

/* Every dependency names a container of the task and none leads back to itself; otherwise -ELOOP
 * or -ENOENT with the reason that ECS shows for the task. */
int dependencies_resolve(const struct task *task, struct err *err);

enum dependency_state {
	DEPENDENCIES_MET,
	DEPENDENCIES_WAIT,  /* look again when a container of the task has changed */
	DEPENDENCIES_NEVER, /* they cannot be met any more; err says why */
};

/*
 * May the container go on past its image?
 *   CREATE    the dependency has started, or its command could not be run: on the way there its
 *             volumes were filled with what its image has in them
 *   START     the dependency runs, or has run
 *   COMPLETE  it has ended with an exit code
 *   SUCCESS   it has ended with exit code 0
 * A startTimeout of the dependency counts from its start, for COMPLETE and SUCCESS; *ret_deadline
 * is lowered to when it ends (monotonic as now_usec, UINT64_MAX: never).
 */
enum dependency_state dependencies_check(const struct task *task, const struct container *container,
                                         uint64_t now_usec, uint64_t *ret_deadline,
                                         struct err *err);

/* Containers stop in reverse: is every container that depends on this one STOPPED? */
/* Does a dependency of the first name the second? */
bool container_depends_on(const struct container *container, const char *name);
bool dependents_are_stopped(const struct task *task, const struct container *container);

/*
 * The status that the task has reached: that of the container which is the furthest behind, and
 * never less than task->known. It stays as it is while an essential container is STOPPED and the
 * one furthest behind is RUNNING, since the rest is about to stop.
 */
enum task_status task_status_reached(const struct task *task);

/* "RUNNING" and "STOPPED" as they are; everything before them is "PENDING". */
const char *task_status_on_wire(enum task_status status);
