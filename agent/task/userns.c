/*
 * A namespace is made by a process that is in it, and a process that has entered a user namespace
 * does not come back: so each is made by a child that then waits until its namespaces are opened
 * here, by descriptor, and ends.
 */
#include "agent/task/userns.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/magic.h>
#include <linux/sched.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/task/container.h"
#include "agent/task/mount.h"
#include "lib/fd.h"

struct holder {
	pid_t pid, host_pid;
};

/* --- the child that makes namespaces --- */

/* The kernel takes the limits of whoever makes a user namespace as a bound for all of its processes
 * together; each container gets its own later. A root without CAP_SYS_RESOURCE keeps what it has.
 */
static void lift_limits(void)
{
	static const int counted[] = {RLIMIT_NPROC, RLIMIT_SIGPENDING, RLIMIT_MSGQUEUE,
	                              RLIMIT_MEMLOCK};
	const struct rlimit unlimited = {RLIM_INFINITY, RLIM_INFINITY};

	for (size_t i = 0; i < ARRAY_SIZE(counted); i++)
		(void)setrlimit(counted[i], &unlimited);
}

static int become_root(void)
{
	if (setgroups(0, NULL) < 0 || setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0)
		return -errno;
	return 0;
}

static int make(const struct userns *userns, int flags)
{
	int r = 0;

	if (userns)
		r = setns(userns->fd, CLONE_NEWUSER) < 0 ? -errno : become_root();
	else
		lift_limits();
	return r < 0 ? r : unshare(flags) < 0 ? -errno : 0;
}

static _Noreturn void hold(const struct userns *userns, int flags, int report_fd)
{
	int32_t r = make(userns, flags);

	if (write(report_fd, &r, sizeof(r)) != sizeof(r))
		_exit(1);
	for (;;)
		pause(); /* until it is killed */
}

static void holder_end(struct holder *holder)
{
	(void)kill(holder->pid, SIGKILL); /* it cannot be gone: nobody else collects it */
	while (waitpid(holder->pid, NULL, __WALL) < 0 && errno == EINTR)
		;
}

static int wait_for_report(int fd)
{
	int32_t r;
	ssize_t n;

	do
		n = read(fd, &r, sizeof(r));
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n != sizeof(r) ? -EIO : r;
}

/* No signal comes when it ends, so that nobody waits for it by accident. */
static int holder_start(const struct userns *userns, int flags, struct holder *ret)
{
	_cleanup_close_ int read_fd = -EBADF, write_fd = -EBADF, pid_fd = -EBADF;
	struct clone_args args = {
		.flags = CLONE_PIDFD,
		.pidfd = (uint64_t)(uintptr_t)&pid_fd,
	};
	int fds[2], r;
	long pid;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -errno;
	read_fd = fds[0];
	write_fd = fds[1];
	pid = syscall(SYS_clone3, &args, sizeof(args));
	if (pid < 0)
		return -errno;
	if (pid == 0)
		hold(userns, flags, write_fd);
	write_fd = fd_close(write_fd);
	*ret = (struct holder){.pid = (pid_t)pid, .host_pid = process_host_pid(pid_fd, (pid_t)pid)};
	r = wait_for_report(read_fd);
	if (r < 0)
		holder_end(ret);
	return r;
}

static int holder_open(const struct holder *holder, const char *name, int *ret, struct err *err)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ns/%s", (int)holder->host_pid, name);
	*ret = open(path, O_RDONLY | O_CLOEXEC);
	return *ret < 0 ? err_set(err, -errno, "open %s", path) : 0;
}

/* --- user namespace --- */

static int write_map(const struct holder *holder, const char *name, const struct id_map *map,
                     struct err *err)
{
	char path[64], text[ID_MAP_TEXT_MAX];
	int r;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)holder->host_pid, name);
	id_map_text(map, text);
	r = file_write(AT_FDCWD, path, text);
	return r < 0 ? err_set(err, r, "write %s of the user namespace", name) : 0;
}

static int fill(struct userns *userns, struct err *err)
{
	struct holder holder;
	int r = holder_start(NULL, CLONE_NEWUSER, &holder);

	if (r == -ENOSPC || r == -EUSERS)
		return err_text(err, r,
		                "this host has no more user namespaces to give: see "
		                "/proc/sys/user/max_user_namespaces, which may be 0");
	if (r < 0)
		return err_set(err, r, "create a user namespace");
	r = write_map(&holder, "gid_map", &userns->maps.gids, err);
	if (r == 0)
		r = write_map(&holder, "uid_map", &userns->maps.uids, err);
	if (r == 0)
		r = holder_open(&holder, "user", &userns->fd, err);
	holder_end(&holder);
	return r;
}

int userns_create(const struct id_maps *maps, struct userns **ret, struct err *err)
{
	_cleanup_(userns_freep) struct userns *userns = calloc(1, sizeof(*userns));
	int r;

	if (!userns)
		return err_oom(err);
	userns->maps = *maps;
	userns->fd = -EBADF;
	if (!id_map_to_host(&maps->uids, 0, &userns->root_uid) ||
	    !id_map_to_host(&maps->gids, 0, &userns->root_gid))
		return err_text(err, -EINVAL,
		                "the maps of the user namespace have no id 0, which a container "
		                "starts as");
	r = fill(userns, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(userns);
	return 0;
}

struct userns *userns_free(struct userns *userns)
{
	if (!userns)
		return NULL;
	fd_close(userns->fd);
	free(userns);
	return NULL;
}

/* --- what belongs to it --- */

int userns_make_namespaces(const struct userns *userns, int flags, struct userns_owned *ret,
                           struct err *err)
{
	struct userns_owned owned = {-EBADF, -EBADF, -EBADF};
	struct holder holder;
	int r = holder_start(userns, flags, &holder);

	if (r < 0)
		return err_set(err, r, "create namespaces in the user namespace");
	if (flags & CLONE_NEWNET)
		r = holder_open(&holder, "net", &owned.net_fd, err);
	if (r == 0 && (flags & CLONE_NEWIPC))
		r = holder_open(&holder, "ipc", &owned.ipc_fd, err);
	if (r == 0 && (flags & CLONE_NEWUTS))
		r = holder_open(&holder, "uts", &owned.uts_fd, err);
	holder_end(&holder);
	if (r < 0) {
		fd_close(owned.net_fd);
		fd_close(owned.ipc_fd);
		fd_close(owned.uts_fd);
		return r;
	}
	*ret = owned;
	return 0;
}

/* --- mounts --- */

static const struct {
	long type;
	const char *name;
} file_systems[] = {
	{EXT4_SUPER_MAGIC, "ext4"}, {XFS_SUPER_MAGIC, "xfs"},   {BTRFS_SUPER_MAGIC, "btrfs"},
	{F2FS_SUPER_MAGIC, "f2fs"}, {TMPFS_MAGIC, "tmpfs"},     {OVERLAYFS_SUPER_MAGIC, "overlay"},
	{NFS_SUPER_MAGIC, "nfs"},   {FUSE_SUPER_MAGIC, "fuse"}, {SQUASHFS_MAGIC, "squashfs"},
	{RAMFS_MAGIC, "ramfs"},     {0xff534d42, "cifs"},       {0x2fc12fc1, "zfs"},
};

void userns_file_system_name(long type, char *buf, size_t n)
{
	for (size_t i = 0; i < ARRAY_SIZE(file_systems); i++)
		if (file_systems[i].type == type) {
			snprintf(buf, n, "%s", file_systems[i].name);
			return;
		}
	snprintf(buf, n, "%#lx", (unsigned long)type);
}

static int describe_unmapped(int fd, const char *path, int r, struct err *err)
{
	struct statfs fs = {};
	char name[32];

	if (r != -EINVAL && r != -ENOSYS && r != -EPERM)
		return err_set(err, r, "map the ids of %s", path);
	if (fstatfs(fd, &fs) < 0)
		return err_set(err, -errno, "file system of %s", path);
	userns_file_system_name(fs.f_type, name, sizeof(name));
	return err_text(err, -EOPNOTSUPP,
	                "the file system of %s (%s) has no id-mapped mounts with this kernel, "
	                "which ECS_USERNS_REMAP needs",
	                path, name);
}

int userns_mount_mapped(const struct userns *userns, const char *from, const char *to,
                        struct err *err)
{
	_cleanup_close_ int source = -EBADF, tree = -EBADF, target = -EBADF;
	int r;

	source = open(from, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (source < 0)
		return err_set(err, -errno, "open %s", from);
	tree = mount_clone(source, false);
	if (tree < 0)
		return err_set(err, tree, "clone the mount of %s", from);
	r = userns_map_mount(userns, tree, false);
	if (r < 0)
		return describe_unmapped(source, from, r, err);
	target = open(to, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (target < 0)
		return err_set(err, -errno, "open %s", to);
	r = mount_attach(tree, target);
	return r < 0 ? err_set(err, r, "mount %s at %s", from, to) : 0;
}

/* --- in the child --- */

int userns_own_files(const struct userns *userns)
{
	uid_t uid = userns ? userns->root_uid : 0;
	gid_t gid = userns ? userns->root_gid : 0;

	/* Else the capabilities about files go with the user id. Entering the user namespace puts
	 * the bits back. */
	if (prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0) < 0)
		return -errno;
	(void)setfsgid(gid); /* they tell success only by a second call */
	(void)setfsuid(uid);
	return setfsgid((gid_t)-1) == (int)gid && setfsuid((uid_t)-1) == (int)uid ? 0 : -EPERM;
}

int userns_map_mount(const struct userns *userns, int tree_fd, bool recursive)
{
	struct mount_attr attr = {
		.attr_set = MOUNT_ATTR_IDMAP,
		.userns_fd = (uint64_t)userns->fd,
	};
	unsigned int flags = AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0);

	return syscall(SYS_mount_setattr, tree_fd, "", flags, &attr, sizeof(attr)) < 0 ? -errno : 0;
}

int userns_enter(const struct userns *userns)
{
	int r;

	if (setns(userns->fd, CLONE_NEWUSER) < 0)
		return -errno;
	r = become_root();
	/* With fs.suid_dumpable=1 a change of user would undo it. */
	if (r == 0 && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		r = -errno;
	return r;
}
