/*
 * Shared locks on layer directories. A directory that was opened may be moved away before it is
 * locked, so the name is looked up again once the lock is held: what still bears its name then
 * keeps it until the lock is dropped.
 */
#include "agent/task/layer_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/fd.h"

static int lock_layer(int layers_fd, const char *layer, int *ret_fd, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	struct stat locked, named;

	fd = openat(layers_fd, layer, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_set(err, -errno, "image layer %s", layer);
	while (flock(fd, LOCK_SH | LOCK_NB) < 0) {
		if (errno == EWOULDBLOCK)
			return err_text(err, -ENOENT, "image layer %s is being removed", layer);
		if (errno != EINTR)
			return err_set(err, -errno, "lock image layer %s", layer);
	}
	if (fstat(fd, &locked) < 0 || fstatat(layers_fd, layer, &named, 0) < 0)
		return err_set(err, -errno, "image layer %s", layer);
	if (locked.st_dev != named.st_dev || locked.st_ino != named.st_ino)
		return err_text(err, -ENOENT, "image layer %s was removed", layer);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int layer_locks_take(const char *layers_dir, const char *const *layers, size_t n,
                     struct layer_locks *ret, struct err *err)
{
	_cleanup_(layer_locks_drop) struct layer_locks locks = {};
	_cleanup_close_ int layers_fd = -EBADF;

	layers_fd = open(layers_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (layers_fd < 0)
		return err_set(err, -errno, "open %s", layers_dir);
	locks.fds = calloc(n ? n : 1, sizeof(*locks.fds));
	if (!locks.fds)
		return err_oom(err);
	for (; locks.n < n; locks.n++) {
		int r = lock_layer(layers_fd, layers[locks.n], &locks.fds[locks.n], err);

		if (r < 0)
			return r;
	}
	layer_locks_drop(ret);
	*ret = locks;
	locks = (struct layer_locks){};
	return 0;
}

void layer_locks_drop(struct layer_locks *locks)
{
	for (size_t i = 0; i < locks->n; i++)
		fd_close(locks->fds[i]);
	free(locks->fds);
	*locks = (struct layer_locks){};
}
