/* Which user namespace a container is in: that of its task (userns.h), or the host's. */
#pragma once

#include "agent/task/container.h"

/*
 * Decide, from the policy and the specification, and make the task's with its first container:
 * container->userns, which stays NULL for the host's; ids in the specification are the host's then.
 * -EPERM names what keeps a container from being remapped; -EINVAL what is wrong with the setting;
 * -EOPNOTSUPP what this host has not got.
 */
int container_choose_userns(struct container *container, struct err *err);

/*
 * The namespaces of the next start that belong to the user namespace: ipc and uts, and *ret_netns
 * if that is not NULL. They are in container->ipc_fd and ->uts_fd until the child has them.
 */
int container_make_owned(struct container *container, int *ret_netns, struct err *err);
