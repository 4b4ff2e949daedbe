/*
 * The kernel's mount calls as system calls: glibc has wrappers only from 2.36 on, and its
 * <sys/mount.h> cannot be included beside <linux/mount.h>. Files that mount include this one.
 */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MNT_DETACH
#	define MNT_DETACH 2
#endif

#ifndef UMOUNT_NOFOLLOW
#	define UMOUNT_NOFOLLOW 8
#endif

static inline int sys_mount(const char *source, const char *target, const char *type,
                            unsigned long flags, const char *data)
{
	return syscall(SYS_mount, source, target, type, flags, data) < 0 ? -errno : 0;
}

static inline int sys_umount(const char *target, int flags)
{
	return syscall(SYS_umount2, target, flags) < 0 ? -errno : 0;
}

static inline int sys_pivot_root(const char *new_root, const char *put_old)
{
	return syscall(SYS_pivot_root, new_root, put_old) < 0 ? -errno : 0;
}

/* One option of mount_new(): a NULL value is a flag. */
struct mount_option {
	const char *key;
	const char *value;
};

/*
 * A new mount of a file system, not attached anywhere yet. attr: MOUNT_ATTR_* of this mount.
 * Returns its descriptor (O_CLOEXEC) or -errno of fsopen(2), fsconfig(2) or fsmount(2).
 */
int mount_new(const char *type, const struct mount_option *options, size_t n_options,
              unsigned int attr);

/* A copy of the mount tree at fd (recursive: with what is mounted below), not attached yet. */
int mount_clone(int fd, bool recursive);

/* Attach a mount on the file or directory that target_fd (O_PATH) is. */
int mount_attach(int mount_fd, int target_fd);

/*
 * Make the mount that fd is the root of this process's root, and its working directory. The old
 * root ends up under the new one and is taken away, with all that was mounted there.
 */
int mount_pivot(int fd);

/*
 * Set MOUNT_ATTR_* bits of an attached mount that fd is the root of; bits that are set stay so.
 * recursive: of all mounts below, too (-EOPNOTSUPP before Linux 5.12).
 */
int mount_add_attr(int fd, unsigned int attr, bool recursive);
