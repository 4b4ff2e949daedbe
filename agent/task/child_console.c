/*
 * The terminal of a container or of an exec: made in the container's own devpts, so that its name
 * means something inside. Only the master side leaves, through the report. The other side is had
 * from the master (TIOCGPTPEER), never by a name that the container could have changed
 * (CVE-2025-52565).
 */
#include "agent/task/child_steps.h"

#include <errno.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include "lib/fd.h"

/* A pair of the devpts at pts_fd: child->console_fd, and the master sent to the parent. */
static int make_pair(struct child *child, int pts_fd)
{
	struct open_how how = {
		.flags = O_RDWR | O_NOCTTY | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV,
	};
	struct winsize size = {.ws_row = child->spec->console_rows,
	                       .ws_col = child->spec->console_columns};
	_cleanup_close_ int master = -EBADF;
	struct stat st;
	int unlocked = 0;

	master = (int)syscall(SYS_openat2, pts_fd, "ptmx", &how, sizeof(how));
	if (master < 0)
		return -errno;
	if (fstat(master, &st) < 0)
		return -errno;
	if (!S_ISCHR(st.st_mode) || st.st_rdev != makedev(5, 2))
		return -ENODEV;
	if (ioctl(master, TIOCSPTLCK, &unlocked) < 0)
		return -errno;
	child->console_fd = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (child->console_fd < 0)
		return -errno;
	if (size.ws_row > 0 && size.ws_col > 0 && ioctl(master, TIOCSWINSZ, &size) < 0)
		return -errno;
	return child_send_report(child->plan, child->where, master) ? 0 : -EPIPE;
}

/* The terminal is /dev/console as well, as programs that want the console expect. */
static int mount_console(const struct child *child)
{
	_cleanup_close_ int target = -EBADF, tree = -EBADF;
	struct stat st;

	target = openat(child->dev_fd, "console",
	                O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (target < 0 || fstat(child->console_fd, &st) < 0)
		return -errno;
	tree = mount_clone(child->console_fd, false);
	return tree < 0 ? tree : mount_attach(tree, target);
}

/* Right after /dev was made: nobody else has been here. */
int child_make_console(struct child *child)
{
	_cleanup_close_ int pts_fd = -EBADF;
	int r;

	if (!child->spec->terminal)
		return 0;
	pts_fd = openat(child->dev_fd, "pts", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (pts_fd < 0)
		return -errno;
	r = make_pair(child, pts_fd);
	return r < 0 ? r : mount_console(child);
}

/* What is at /dev/pts may be whatever the container put there: it must be a devpts. */
int child_make_exec_console(struct child *child)
{
	struct open_how how = {
		.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS,
	};
	_cleanup_close_ int pts_fd = -EBADF;
	struct statfs fs;

	if (!child->spec->terminal)
		return 0;
	pts_fd = (int)syscall(SYS_openat2, child->root_fd, "dev/pts", &how, sizeof(how));
	if (pts_fd < 0)
		return -errno;
	if (fstatfs(pts_fd, &fs) < 0)
		return -errno;
	if (fs.f_type != DEVPTS_SUPER_MAGIC)
		return -ENODEV;
	return make_pair(child, pts_fd);
}
