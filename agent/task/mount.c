/*
 * Mounting by descriptor. A path inside a container's root is looked at once, with openat2(2), and
 * everything after works on what was found, so that no link can lead a mount elsewhere.
 */
#include "agent/task/mount.h"

#include <stdio.h>
#include <sys/statvfs.h>

#include "lib/fd.h"

int mount_new(const char *type, const struct mount_option *options, size_t n_options,
              unsigned int attr)
{
	_cleanup_close_ int fs = -EBADF;
	long r;

	fs = (int)syscall(SYS_fsopen, type, FSOPEN_CLOEXEC);
	if (fs < 0)
		return -errno;

	/* What df(1) and /proc/mounts show. */
	if (syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "source", type, 0) < 0)
		return -errno;
	for (size_t i = 0; i < n_options; i++) {
		unsigned int cmd = options[i].value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG;

		r = syscall(SYS_fsconfig, fs, cmd, options[i].key, options[i].value, 0);
		if (r < 0)
			return -errno;
	}
	if (syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return -errno;

	r = syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, attr);
	return r < 0 ? -errno : (int)r;
}

int mount_clone(int fd, bool recursive)
{
	long r = syscall(SYS_open_tree, fd, "",
	                 OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH |
	                         (recursive ? AT_RECURSIVE : 0));

	return r < 0 ? -errno : (int)r;
}

int mount_attach(int mount_fd, int target_fd)
{
	long r = syscall(SYS_move_mount, mount_fd, "", target_fd, "",
	                 MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);

	return r < 0 ? -errno : 0;
}

int mount_pivot(int fd)
{
	int r;

	if (fchdir(fd) < 0)
		return -errno;
	r = sys_pivot_root(".", ".");
	if (r == 0)
		r = sys_umount(".", MNT_DETACH);
	if (r == 0 && chdir("/") < 0)
		r = -errno;
	return r;
}

static const struct {
	unsigned int attr;
	unsigned long mount_flag;
	unsigned long statvfs_flag;
} mount_flags[] = {
	{MOUNT_ATTR_RDONLY, MS_RDONLY, ST_RDONLY},
	{MOUNT_ATTR_NOSUID, MS_NOSUID, ST_NOSUID},
	{MOUNT_ATTR_NODEV, MS_NODEV, ST_NODEV},
	{MOUNT_ATTR_NOEXEC, MS_NOEXEC, ST_NOEXEC},
	{MOUNT_ATTR_NOATIME, MS_NOATIME, ST_NOATIME},
	{MOUNT_ATTR_NODIRATIME, MS_NODIRATIME, ST_NODIRATIME},
	{0, MS_RELATIME, ST_RELATIME},
};

/* Before Linux 5.12 a mount is changed by remounting it, which replaces all of its flags. */
static int remount_add_attr(int fd, unsigned int attr)
{
	unsigned long flags = MS_REMOUNT | MS_BIND;
	char path[32];
	struct statvfs st;

	if (fstatvfs(fd, &st) < 0)
		return -errno;
	for (size_t i = 0; i < ARRAY_SIZE(mount_flags); i++)
		if ((attr & mount_flags[i].attr) || (st.f_flag & mount_flags[i].statvfs_flag))
			flags |= mount_flags[i].mount_flag;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return sys_mount(NULL, path, NULL, flags, NULL);
}

int mount_add_attr(int fd, unsigned int attr, bool recursive)
{
	struct mount_attr set = {
		.attr_set = attr,
		/* The kinds of atime are one number, not bits of their own. */
		.attr_clr = attr & MOUNT_ATTR__ATIME ? MOUNT_ATTR__ATIME : 0,
	};
	unsigned int flags = AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0);

	if (syscall(SYS_mount_setattr, fd, "", flags, &set, sizeof(set)) == 0)
		return 0;
	if (errno != ENOSYS)
		return -errno;
	return recursive ? -EOPNOTSUPP : remount_add_attr(fd, attr);
}
