/*
 * pidMode and ipcMode of a task, and what hostConfig may say of them for one container. The ECS
 * agent has hostConfig overruled by the task; here a contradiction is refused, so that nothing is
 * asked for in vain:
 *
 *   PidMode       "" or the task's
 *   IpcMode       "" or the task's; of a task that says nothing also private, shareable (nobody can
 *                 share it, so that is private, too), none and host
 *   ShmSize       not with ipcMode host and none, whose containers have no /dev/shm of their own;
 *                 with ipcMode task the largest of all containers counts. (Docker passes it over.)
 *   UTSMode       ""
 *   CgroupnsMode  "" or private
 *
 * A task of pidMode or ipcMode task has one more container in its metadata, of type
 * NAMESPACE_PAUSE, as with the ECS agent, although what holds the namespaces is ecs-task
 * (agent/task/namespaces.h).
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>

#include "agent/engine/task.h"
#include "lib/err.h"

/* Set pid_mode and ipc_mode of the task from its document. -EINVAL: no such mode. */
int namespaces_parse(struct json_object *obj, struct task *task, struct err *err);

/* Do the container's settings go with the task's: 0, -EINVAL or -EOPNOTSUPP. */
int namespaces_check(const struct task *task, const struct container *c, struct err *err);

/* Members of "setup" and of "create" (agent/task/protocol.h): 0 or -ENOMEM. */
int namespaces_add_to_task(const struct task *task, struct json_object *obj);
int namespaces_add_to_container(const struct container *c, struct json_object *obj);

/* Does the container have a /dev/shm of its own, with a size of its own. */
bool namespaces_own_shm(const struct task *task, const struct container *c);

/* Fill in what metadata shows of the pausing container; borrows from the task. false: it has none.
 */
bool namespaces_pause_container(const struct task *task, struct container *ret);
bool namespaces_is_pause_container(const struct container *c);
