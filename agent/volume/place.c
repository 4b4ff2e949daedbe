/* Mount points, and the care that nobody else ends up with a copy of what is mounted there. */
#include "agent/volume/place.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "agent/task/mount.h"
#include "agent/volume/protocol.h"
#include "lib/fd.h"
#include "lib/log.h"

#ifndef MNT_FORCE
#	define MNT_FORCE 1
#endif

static bool is_mount_point(const char *path)
{
	struct statx st;

	return statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, 0,
	             &st) == 0 &&
	       (st.stx_attributes & STATX_ATTR_MOUNT_ROOT);
}

static int make_private(struct place *place, struct err *err)
{
	int r;

	if (unshare(CLONE_NEWNS) < 0)
		return err_set(err, -errno, "make a mount namespace");
	/* Slave: what the host unmounts must not live on in here. */
	r = sys_mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL);
	if (r < 0)
		return err_set(err, r, "keep mounts to this namespace");
	r = sys_mount("tmpfs", place->base, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
	              "size=64k,nr_inodes=16,mode=0700");
	if (r < 0)
		return err_set(err, r, "mount a tmpfs at %s", place->base);
	if (snprintf(place->path, sizeof(place->path), "%s/m", place->base) >= PATH_MAX)
		return err_text(err, -ENAMETOOLONG, "the path of %s is too long", place->base);
	return mkdir(place->path, 0700) < 0 ? err_set(err, -errno, "make %s", place->path) : 0;
}

/*
 * Private, so that no supervisor's namespace gets what is mounted below: it would keep it for as
 * long as it lives. Those that are made later drop it themselves (agent/task/mounted.h).
 */
static int make_base(const struct place *place, struct err *err)
{
	int r;

	if (is_mount_point(place->base))
		return 0;
	r = sys_mount(place->base, place->base, NULL, MS_BIND, NULL);
	if (r == 0)
		r = sys_mount(NULL, place->base, NULL, MS_PRIVATE, NULL);
	return r < 0 ? err_set(err, r, "make %s a private mount", place->base) : 0;
}

static int lock_run_dir(const struct place *place)
{
	_cleanup_close_ int fd = open(place->run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 || flock(fd, LOCK_EX) < 0 ? -errno : TAKE_FD(fd);
}

static int make_on_host(struct place *place, const struct volume_request *request, struct err *err)
{
	_cleanup_close_ int lock = lock_run_dir(place);
	char dir[PATH_MAX];
	int r;

	if (lock < 0)
		return err_set(err, lock, "lock %s", place->run_dir);
	r = make_base(place, err);
	if (r < 0)
		return r;
	if (snprintf(dir, sizeof(dir), "%s/%s", place->base, request->task_id) >= PATH_MAX ||
	    snprintf(place->path, sizeof(place->path), "%s/%s/%s", place->base, request->task_id,
	             request->name) >= PATH_MAX)
		return err_text(err, -ENAMETOOLONG, "the path of %s is too long", place->base);
	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return err_set(err, -errno, "make %s", dir);
	place->task_fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (place->task_fd < 0 || flock(place->task_fd, LOCK_SH) < 0)
		return err_set(err, -errno, "lock %s", dir);
	/* One that is left of a holder that was killed. */
	if (is_mount_point(place->path))
		(void)sys_umount(place->path, MNT_DETACH);
	if (mkdir(place->path, 0700) < 0 && errno != EEXIST)
		return err_set(err, -errno, "make %s", place->path);
	return 0;
}

int place_make(const char *run_dir, const struct volume_request *request, bool on_host,
               struct place *ret, struct err *err)
{
	*ret = (struct place){.on_host = on_host, .task_fd = -EBADF};
	if (snprintf(ret->run_dir, sizeof(ret->run_dir), "%s", run_dir) >= PATH_MAX ||
	    snprintf(ret->base, sizeof(ret->base), "%s/" VOLUME_MOUNTS_DIR, run_dir) >= PATH_MAX)
		return err_text(err, -ENAMETOOLONG, "the runtime directory's path is too long");
	return on_host ? make_on_host(ret, request, err) : make_private(ret, err);
}

bool place_is_mounted(const struct place *place)
{
	return is_mount_point(place->path);
}

void place_leave_host(struct place *place)
{
	int r;

	if (place->on_host)
		return;
	/* Where / is the kernel's first file system, which cannot be left, we stay. */
	r = chdir(place->base) < 0 ? -errno : sys_pivot_root(".", ".");
	if (r < 0) {
		log_debug(NULL, "cannot leave the file systems of the host: %s", strerror(-r));
		return;
	}
	r = sys_umount(".", MNT_DETACH);
	if (r < 0 || chdir("/") < 0)
		log_warning(NULL, r, "leave the file systems of the host");
	strcpy(place->path, "/m");
}

void place_abort(const struct place *place)
{
	/* EBUSY for the mount itself, after the requests are dealt with. */
	if (place->path[0] != '\0')
		(void)sys_umount(place->path, MNT_FORCE);
}

static void remove_on_host(struct place *place)
{
	_cleanup_close_ int lock = lock_run_dir(place);

	if (place->path[0] != '\0' && rmdir(place->path) < 0 && errno != ENOENT)
		log_warning(NULL, -errno, "remove %s", place->path);
	*strrchr(place->path, '/') = '\0';
	place->task_fd = fd_close(place->task_fd);
	/* Not empty while the task has another volume here; and the last one out takes the base. */
	if (rmdir(place->path) == 0 && lock >= 0)
		(void)sys_umount(place->base, 0);
}

void place_done(struct place *place)
{
	if (place->path[0] == '\0')
		return;
	(void)sys_umount(place->path, MNT_DETACH); /* EINVAL: it was not mounted */
	if (place->on_host)
		remove_on_host(place);
	place->path[0] = '\0';
}
