/*
 * The user namespace of a task's containers, an opt-in (idmap.h has the setting): root in a
 * container is a user of the host that owns nothing there, and its capabilities count for what
 * belongs to the namespace only.
 *
 * There is one for each task, made with its first container, so that containers which share a pid
 * or an ipc namespace can act on each other as without it. Its network, ipc, uts, mount and cgroup
 * namespaces belong to it, so that capabilities have the effect in them that they always have. A
 * pid namespace stays the host's, as no capability of a container is about it, and so does the ipc
 * namespace of ipcMode task, where CAP_IPC_OWNER is refused.
 *
 * What is how owned:
 *
 *   image layers, .base      id-mapped once for each task (rootfs.h): nothing of an image is
 *                            copied or chowned. What a container writes is on the disk with the
 *                            host's ids, in <state>/tasks/<id> (root only).
 *   volumes (volume.h)       id-mapped: on the disk with the container's ids, so that they are the
 *                            same with the setting and without, and for tasks of either kind. The
 *                            container's root makes files there that are the host's root's, among
 *                            them set-user-ID programs: so nobody but root may come there, which
 *                            the modes of <state>/volumes and <state>/tasks/<id> see to
 *                            (CVE-2021-41091).
 *   mounted volumes          never mapped (mounted.h): their ids are the server's, or those of a
 *                            path of the host.
 *   paths of the host        never mapped, as with Docker: the container's root may do there what
 *                            the host's user may that it is, who also owns the files it makes,
 *                            set-user-ID or not. Mapped, root in a container would be root below
 *                            every path that a task names, which is just what the setting is to
 *                            prevent; a directory for a container is given to its user by chown(1).
 *                            Files of users who are not in the map are nobody's (65534). One that
 *                            is missing is made, for the container's root.
 *   ECS Exec's files         id-mapped: the log directory is in one that only root may enter, the
 *                            rest is read-only
 *   tmpfs, /dev, /etc/hosts  the container's root's, from the start; uid= and gid= of a tmpfs and
 *                            the owners of devices are the container's ids.
 *
 * Not for containers that are privileged, or in the host's network, pid or ipc namespace: they act
 * on what belongs to the host, so they are refused or, with ECS_USERNS_REMAP_ALLOW_HOST=true, run
 * in the host's user namespace; as does one that asks for it ("userns":"host"). That both settings
 * are read from root's configuration alone keeps a subverted ecs-agent from switching it off.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "agent/task/idmap.h"
#include "lib/cleanup.h"
#include "lib/err.h"

struct userns {
	struct id_maps maps;
	uid_t root_uid; /* of the host; 0 inside */
	gid_t root_gid;
	int fd; /* O_CLOEXEC */
};

/*
 * Both maps must have id 0 (-EINVAL). -ENOSPC and -EPERM where the host forbids user namespaces.
 * Allocates only the result. Forks, and collects what it forked; no SIGCHLD comes of it.
 */
int userns_create(const struct id_maps *maps, struct userns **ret, struct err *err);
struct userns *userns_free(struct userns *userns);
DEFINE_CLEANUP(struct userns *, userns_free)

struct userns_owned {
	int net_fd, ipc_fd, uts_fd; /* owned by the caller; -EBADF where not asked for */
};

/* New namespaces that belong to it. flags: of CLONE_NEWNET, CLONE_NEWIPC and CLONE_NEWUTS. */
int userns_make_namespaces(const struct userns *userns, int flags, struct userns_owned *ret,
                           struct err *err);

/*
 * Attach at the directory to a mount of the directory from in which the container's ids stand for
 * themselves. -EOPNOTSUPP, with err: the file system or the kernel has no such mounts.
 */
int userns_mount_mapped(const struct userns *userns, const char *from, const char *to,
                        struct err *err);

/* "ext4", "nfs"; a file system that is not known by its number in hexadecimal. */
void userns_file_system_name(long type, char *buf, size_t n);

/* --- in the child; allocate nothing --- */

/*
 * What this process makes from here on belongs to the container's root (or, without userns, to
 * root again), and it keeps its capabilities.
 */
int userns_own_files(const struct userns *userns);

/* Make a mount that is attached nowhere yet show the ids in it as the container's. -errno of
 * mount_setattr(2). */
int userns_map_mount(const struct userns *userns, int tree_fd, bool recursive);

/* Become the container's root. All capabilities, in the new namespace only; nobody can trace us. */
int userns_enter(const struct userns *userns);
