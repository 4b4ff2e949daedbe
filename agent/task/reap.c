/* Each part is tried although another failed, so that a repeat has less to do. */
#include "agent/task/reap.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>

#include "agent/task/mount.h"
#include "agent/volume/protocol.h"
#include "cgroups/cgroup.h"
#include "lib/fd.h"
#include "lib/spool_writer.h"

#define UNMOUNT_TRIES 500 /* of 10 ms */

static int reap_cgroups(const char *parent, const char *id, struct err *err)
{
	_cleanup_(cgroup_root_freep) struct cgroup_root *root = NULL;
	_cleanup_(cgroup_freep) struct cgroup *cgroup = NULL;
	char path[128];
	int r;

	r = cgroup_root_open(NULL, parent, &root, err);
	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "ecstasks-%s", id);
	r = cgroup_open(root, path, &cgroup, err);
	if (r == -ENOENT)
		return 0;
	if (r == 0)
		r = cgroup_kill(cgroup, err);
	cgroup = cgroup_free(cgroup);
	return r < 0 ? r : cgroup_remove(root, path, err);
}

static int remove_below(const char *base, const char *name, const char *id, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	char path[PATH_MAX];
	int r;

	if (snprintf(path, sizeof(path), "%s/%s", base, name) >= (int)sizeof(path))
		return err_text(err, -ENAMETOOLONG, "path of %s is too long", name);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : err_set(err, -errno, "open %s", path);
	r = dir_remove_all(fd, id);
	return r < 0 ? err_set(err, r, "remove %s/%s", path, id) : 0;
}

/* The last reference may wait for a server: in a child, which nobody waits for long. */
static void unmount(const char *path)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(sys_umount(path, MNT_DETACH) < 0);
	for (int i = 0; pid > 0 && i < UNMOUNT_TRIES; i++) {
		if (waitpid(pid, NULL, WNOHANG) != 0)
			return;
		(void)poll(NULL, 0, 10);
	}
}

/* As the last process of ecs-volume does it; busy while there is another. */
static int leave_mounts(const char *run_dir, struct err *err)
{
	_cleanup_close_ int lock = open(run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char base[PATH_MAX];
	int r;

	if (lock < 0 || flock(lock, LOCK_EX) < 0)
		return err_set(err, -errno, "lock %s", run_dir);
	if (snprintf(base, sizeof(base), "%s/" VOLUME_MOUNTS_DIR, run_dir) >= PATH_MAX)
		return err_text(err, -ENAMETOOLONG, "path of the mounts is too long");
	r = sys_umount(base, 0);
	return r < 0 && r != -EBUSY && r != -EINVAL ? err_set(err, r, "unmount %s", base) : 0;
}

/* What a process of ecs-volume that was killed left of mount.efs: one that lives has a lock, and
 * unmounts when the task has ended. */
static int reap_mounts(const char *run_dir, const char *id, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	const struct dirent *entry;
	char dir[PATH_MAX], path[PATH_MAX];
	DIR *entries;

	if (snprintf(dir, sizeof(dir), "%s/" VOLUME_MOUNTS_DIR "/%s", run_dir, id) >= PATH_MAX)
		return err_text(err, -ENAMETOOLONG, "path of the mounts is too long");
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : err_set(err, -errno, "open %s", dir);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return 0;
	entries = opendir(dir);
	while (entries && (entry = readdir(entries))) {
		if (entry->d_name[0] == '.' ||
		    snprintf(path, sizeof(path), "%s/%s", dir, entry->d_name) >= PATH_MAX)
			continue;
		unmount(path);
		(void)rmdir(path); /* the directory's own will tell */
	}
	if (entries)
		(void)closedir(entries);
	fd = fd_close(fd);
	return rmdir(dir) < 0 ? err_set(err, -errno, "remove %s", dir) : leave_mounts(run_dir, err);
}

static int end_streams(const char *state_dir, const char *id, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	char path[PATH_MAX];

	if (snprintf(path, sizeof(path), "%s/spool", state_dir) >= (int)sizeof(path))
		return err_text(err, -ENAMETOOLONG, "path of the spool is too long");
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : err_set(err, -errno, "open %s", path);
	return spool_end_all(fd, id, err);
}

int reap_task(const struct options *options, const char *cgroup_parent, const char *task_id,
              struct err *err)
{
	int result, r;

	/* First what runs: it could write to the rest. */
	result = reap_cgroups(cgroup_parent, task_id, err);
	r = end_streams(options->state_dir, task_id, result < 0 ? NULL : err);
	result = result < 0 ? result : r;
	r = reap_mounts(options->runtime_dir, task_id, result < 0 ? NULL : err);
	result = result < 0 ? result : r;
	r = remove_below(options->state_dir, "tasks", task_id, result < 0 ? NULL : err);
	result = result < 0 ? result : r;
	r = remove_below(options->state_dir, "exits", task_id, result < 0 ? NULL : err);
	result = result < 0 ? result : r;
	r = remove_below(options->runtime_dir, "tasks", task_id, result < 0 ? NULL : err);
	return result < 0 ? result : r;
}

int discard_task(const struct options *options, const char *cgroup_parent, const char *task_id,
                 struct err *err)
{
	int result, r;

	result = remove_below(options->state_dir, "spool", task_id, err);
	r = reap_task(options, cgroup_parent, task_id, result < 0 ? NULL : err);
	return result < 0 ? result : r;
}
