/*
 * The steps of a container in a user namespace (userns.h). Everything is mounted as the host's
 * root, in a mount namespace of the host; what is made for the container belongs to its root from
 * the start, by the file system ids of this process. When nothing is left to do that needs the
 * host's root, the process becomes the container's, and leaves the mount namespace for a copy that
 * belongs to the user namespace: there the kernel has locked every mount, so that the container can
 * neither take a cover away nor make writable what is read-only, whatever its capabilities.
 */
#include "agent/task/child_steps.h"

#include <errno.h>
#include <sched.h>
#include <sys/vfs.h>

#include "agent/task/userns.h"
#include "lib/fd.h"

int child_join_owned(struct child *child)
{
	const struct child_plan *plan = child->plan;

	if (!plan->userns)
		return 0;
	if (setns(plan->uts_fd, CLONE_NEWUTS) < 0)
		return -errno;
	if (plan->ipc_fd >= 0 && setns(plan->ipc_fd, CLONE_NEWIPC) < 0)
		return -errno;
	return userns_own_files(plan->userns);
}

int child_enter_userns(struct child *child)
{
	const struct child_plan *plan = child->plan;
	int r;

	if (!plan->userns)
		return 0;
	r = userns_enter(plan->userns);
	if (r < 0)
		return r;
	fd_close(plan->userns->fd);
	return child_new_keyring(child); /* the other one is root's */
}

int child_own_mounts(struct child *child)
{
	if (!child->plan->userns)
		return 0;
	return unshare(CLONE_NEWNS | CLONE_NEWCGROUP) < 0 ? -errno : 0;
}

int child_map_tree(struct child *child, int tree, bool recursive, int source)
{
	struct statfs fs;
	int r;

	if (!child->plan->userns)
		return 0;
	r = userns_map_mount(child->plan->userns, tree, recursive);
	if (r < 0) {
		child->where.step = CHILD_MAP_IDS;
		if (fstatfs(source, &fs) == 0)
			child->where.detail = (uint32_t)fs.f_type;
	}
	return r;
}

bool child_host_ids(const struct child *child, uid_t uid, gid_t gid, uid_t *ret_uid, gid_t *ret_gid)
{
	const struct userns *userns = child->plan->userns;

	*ret_uid = uid;
	*ret_gid = gid;
	return !userns || (id_map_to_host(&userns->maps.uids, uid, ret_uid) &&
	                   id_map_to_host(&userns->maps.gids, gid, ret_gid));
}

int child_check_user(const struct child *child)
{
	const struct user_ids *ids = &child->ids;
	uid_t uid;
	gid_t gid;

	if (!child_host_ids(child, ids->uid, ids->gid, &uid, &gid))
		return -EDOM;
	for (size_t i = 0; i < ids->n_groups; i++)
		if (!child_host_ids(child, 0, ids->groups[i], &uid, &gid))
			return -EDOM;
	return 0;
}
