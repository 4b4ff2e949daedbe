/* Docker's rules of who can be remapped, and a way out that root's configuration must allow. */
#include "agent/task/container_userns.h"

#include <errno.h>
#include <linux/capability.h>
#include <sched.h>

#include "agent/task/rootfs.h"
#include "agent/task/spec_userns.h"
#include "lib/fd.h"

/* What it has that belongs to the host; NULL: nothing. */
static const char *host_part(const struct container *container)
{
	const struct container_spec *spec = container->spec;

	if (spec->privileged)
		return "is privileged";
	if (container->task->spec.network_mode == NETWORK_HOST)
		return "has network mode host";
	if (container->task->spec.pid_mode == PID_MODE_HOST)
		return "has pidMode host";
	if (spec->ipc_mode == IPC_MODE_HOST)
		return "has ipcMode host";
	return spec->userns_host ? "has UsernsMode host" : NULL;
}

static int make(struct task *task, const struct container_spec *spec, struct userns **ret,
                struct err *err)
{
	_cleanup_(userns_freep) struct userns *userns = NULL;
	struct id_maps maps;
	int r;

	if (spec->id_maps) /* of the OCI command line: the root file system is as it is */
		return userns_create(spec->id_maps, ret, err);
	r = id_maps_from_setting(task->policy.userns_remap, "/etc/subuid", "/etc/subgid", &maps,
	                         err);
	if (r == 0)
		r = userns_create(&maps, &userns, err);
	if (r == 0)
		r = rootfs_prepare_mapped(task->tasks_dir, task->layers_dir, userns, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(userns);
	return 0;
}

int container_choose_userns(struct container *container, struct err *err)
{
	struct task *task = container->task;
	struct container_spec *spec = container->spec;
	const char *part = host_part(container);
	int r;

	if (!spec->id_maps && (!task->policy.userns_remap || spec->bare))
		return 0;
	if (spec->id_maps && part)
		return err_text(err, -EINVAL,
		                "the container %s, which it cannot have in a user namespace of its "
		                "own",
		                part);
	if (part && task->policy.userns_host_allowed)
		return 0;
	if (part)
		return err_text(err, -EPERM,
		                "container %s %s, which it cannot have in a user namespace "
		                "(ECS_USERNS_REMAP); ECS_USERNS_REMAP_ALLOW_HOST is not true",
		                spec->name, part);
	if (!task->userns) {
		r = make(task, spec, &task->userns, err);
		if (r < 0)
			return r;
	}
	if (spec->ipc_mode == IPC_MODE_TASK && (spec->cap_permitted & 1ull << CAP_IPC_OWNER))
		return err_text(
			err, -EINVAL,
			"container %s: CAP_IPC_OWNER has no effect on the IPC namespace that "
			"the task shares (ipcMode task with ECS_USERNS_REMAP)",
			spec->name);
	container->userns = task->userns;
	return spec_map_ids(spec, task->userns, err);
}

int container_make_owned(struct container *container, int *ret_netns, struct err *err)
{
	struct userns_owned owned;
	bool own_ipc = container->spec->ipc_mode != IPC_MODE_TASK;
	int flags = CLONE_NEWUTS | (own_ipc ? CLONE_NEWIPC : 0) | (ret_netns ? CLONE_NEWNET : 0);
	int r = userns_make_namespaces(container->userns, flags, &owned, err);

	if (r < 0)
		return r;
	fd_close(container->ipc_fd);
	fd_close(container->uts_fd);
	container->ipc_fd = owned.ipc_fd;
	container->uts_fd = owned.uts_fd;
	if (ret_netns)
		*ret_netns = owned.net_fd;
	return 0;
}
