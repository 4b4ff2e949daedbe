/* The first filling of a volume: copied beside it, then moved in entry by entry. */
#include "agent/task/volume_fill.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "agent/task/dir_entries.h"
#include "lib/fd.h"

#define FILLS      ".fill" /* no name of a volume begins with '.' */
#define COPY       "new"
#define COMPLETE   "done"
#define LABEL      "security.selinux"
#define LABEL_SIZE 1024

static int open_directory(int dir_fd, const char *name)
{
	int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

static bool exists(int dir_fd, const char *name)
{
	return faccessat(dir_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* --- the lock --- */

static int choose_key(struct volume_fill *fill, const struct volume *volume)
{
	struct stat st;

	if (volume->scope != VOLUME_MOUNTED) {
		snprintf(fill->key, sizeof(fill->key), "%s", volume->name);
		return 0;
	}
	if (fstat(fill->volume_fd, &st) < 0)
		return -errno;
	snprintf(fill->key, sizeof(fill->key), ".%x:%x-%llx", major(st.st_dev), minor(st.st_dev),
	         (unsigned long long)st.st_ino);
	return 0;
}

/* <volumes>/.fill; -ENOENT: it is not there, and not to be made. */
static int open_fills(const struct volume *volume, const struct volume_dirs *dirs, bool make)
{
	enum volume_scope scope = volume->scope == VOLUME_MOUNTED ? VOLUME_SHARED : volume->scope;
	_cleanup_close_ int volumes_fd = volume_open_scope(scope, dirs);

	if (volumes_fd < 0)
		return volumes_fd;
	if (make && mkdirat(volumes_fd, FILLS, 0700) < 0 && errno != EEXIST)
		return -errno;
	return open_directory(volumes_fd, FILLS);
}

/* Whoever had the lock has removed what it was on. */
static int lock(struct volume_fill *fill)
{
	for (;;) {
		_cleanup_close_ int fd = -EBADF;
		struct stat ours, named;

		if (mkdirat(fill->fills_fd, fill->key, 0700) < 0 && errno != EEXIST)
			return -errno;
		fd = open_directory(fill->fills_fd, fill->key);
		if (fd == -ENOENT)
			continue;
		if (fd < 0)
			return fd;
		if (flock(fd, LOCK_EX) < 0 || fstat(fd, &ours) < 0)
			return -errno;
		if (fstatat(fill->fills_fd, fill->key, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
		    named.st_ino == ours.st_ino && named.st_dev == ours.st_dev) {
			fill->own_fd = TAKE_FD(fd);
			return 0;
		}
	}
}

/* --- moving in --- */

struct move {
	int to;
	bool moved;
};

/* One that a container has made meanwhile stays. */
static int move_entry(int from_dir, const char *name, void *userdata)
{
	struct move *move = userdata;
	int r = renameat2(from_dir, name, move->to, name, RENAME_NOREPLACE) < 0 ? -errno : 0;

	if (r == -EINVAL) { /* the file system knows no flags */
		r = exists(move->to, name) ? -EEXIST : 0;
		if (r == 0 && renameat(from_dir, name, move->to, name) < 0)
			r = -errno;
	}
	if (r == 0)
		move->moved = true;
	return r == -EEXIST ? 0 : r;
}

/* The attributes last: entries change the times of their directory. */
static int move_in(struct volume_fill *fill)
{
	_cleanup_close_ int from = open_directory(fill->own_fd, COMPLETE);
	struct move move = {.to = fill->volume_fd};
	int r;

	if (from < 0)
		return from == -ENOENT ? 0 : from;
	do { /* again for what was left out */
		move.moved = false;
		r = dir_each_entry(from, move_entry, &move);
	} while (r == 0 && move.moved);
	if (r == 0)
		r = volume_copy_attributes(from, fill->volume_fd);
	return r < 0 ? r : dir_remove_tree(fill->own_fd, COMPLETE);
}

/* --- the copy --- */

/* What is made in a directory gets its label, and keeps it when it is moved. */
static int copy_label(int from, int to)
{
	char label[LABEL_SIZE];
	ssize_t n = fgetxattr(from, LABEL, label, sizeof(label));

	if (n < 0)
		return errno == ENODATA || errno == EOPNOTSUPP ? 0 : -errno;
	return fsetxattr(to, LABEL, label, (size_t)n, 0) < 0 ? -errno : 0;
}

static int make_place(struct volume_fill *fill)
{
	if (mkdirat(fill->own_fd, COPY, 0700) < 0)
		return -errno;
	fill->copy_fd = open_directory(fill->own_fd, COPY);
	return fill->copy_fd < 0 ? fill->copy_fd : copy_label(fill->volume_fd, fill->copy_fd);
}

/* Nothing is moved to another mount, nor into a directory with a disk quota of its own. */
static bool can_move_in(const struct volume_fill *fill)
{
	struct fsxattr volume, here;
	struct statx st;

	if (statx(fill->volume_fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, 0, &st) < 0 ||
	    (st.stx_attributes & STATX_ATTR_MOUNT_ROOT))
		return false;
	return ioctl(fill->volume_fd, FS_IOC_FSGETXATTR, &volume) < 0 ||
	       ioctl(fill->own_fd, FS_IOC_FSGETXATTR, &here) < 0 ||
	       !(volume.fsx_xflags & FS_XFLAG_PROJINHERIT) || volume.fsx_projid == here.fsx_projid;
}

/* An image with an empty directory there gives its attributes alone, start for start. */
static int prepare_copy(struct volume_fill *fill, const struct volume *volume, int image_fd)
{
	int r = dir_has_entries(image_fd);

	if (r <= 0 || volume->scope == VOLUME_MOUNTED || !can_move_in(fill))
		return r < 0 ? r : 1;
	r = make_place(fill);
	return r < 0 ? r : 1;
}

/* 1 if somebody works on the volume, or has left something to do; with make, or will. */
static int find_work(struct volume_fill *fill, const struct volume *volume,
                     const struct volume_dirs *dirs, bool make)
{
	int r = choose_key(fill, volume);

	if (r < 0)
		return r;
	fill->fills_fd = open_fills(volume, dirs, make);
	if (fill->fills_fd < 0)
		return fill->fills_fd == -ENOENT && !make ? 0 : fill->fills_fd;
	return make || exists(fill->fills_fd, fill->key);
}

/* What another has left. */
static int finish_work(struct volume_fill *fill)
{
	int r = move_in(fill);

	return r < 0 ? r : dir_remove_tree(fill->own_fd, COPY);
}

int volume_fill_begin(const struct volume *volume, const struct volume_dirs *dirs, int volume_fd,
                      int image_fd, struct volume_fill *ret)
{
	int r;

	ret->volume_fd = volume_fd;
	ret->durable = volume->scope == VOLUME_SHARED;
	/* In this order: entries without a lock are not of a copy that goes on. */
	r = dir_has_entries(volume_fd);
	if (r < 0)
		return r;
	r = find_work(ret, volume, dirs, r == 0 && image_fd >= 0);
	if (r <= 0)
		return r;

	r = lock(ret);
	if (r == 0)
		r = finish_work(ret);
	if (r == 0)
		r = dir_has_entries(volume_fd);
	if (r != 0 || image_fd < 0)
		return r < 0 ? r : 0;
	return prepare_copy(ret, volume, image_fd);
}

/* Its data is on the disk before the name that says so. */
static int mark_complete(struct volume_fill *fill)
{
	if (fill->durable && syncfs(fill->copy_fd) < 0)
		return -errno;
	if (renameat(fill->own_fd, COPY, fill->own_fd, COMPLETE) < 0)
		return -errno;
	return fill->durable && fsync(fill->own_fd) < 0 ? -errno : 0;
}

int volume_fill_commit(struct volume_fill *fill)
{
	int r;

	if (fill->copy_fd < 0)
		return 0;
	r = mark_complete(fill);
	return r < 0 ? r : move_in(fill);
}

void volume_fill_done(struct volume_fill *fill)
{
	fill->copy_fd = fd_close(fill->copy_fd);
	if (fill->own_fd >= 0) {
		(void)dir_remove_tree(fill->own_fd, COPY);
		/* Not empty: there is something for a later start to finish. */
		(void)unlinkat(fill->fills_fd, fill->key, AT_REMOVEDIR);
	}
	fill->own_fd = fd_close(fill->own_fd);
	fill->fills_fd = fd_close(fill->fills_fd);
}
