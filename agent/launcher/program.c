/* Copying a program into a memfd that nothing can change any more. */
#include "agent/launcher/program.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/sendfile.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/fd.h"
#include "lib/memfd.h"

static bool is_same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
	       a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
	       a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

static int copy_all(int from, int to, off_t size)
{
	while (size > 0) {
		ssize_t k = sendfile(to, from, NULL, (size_t)size);

		if (k < 0 && errno != EINTR)
			return -errno;
		if (k == 0)
			return -EIO; /* it became shorter */
		if (k > 0)
			size -= k;
	}
	return 0;
}

static int make_copy(const char *path, int from, const struct program *program, off_t size,
                     struct err *err)
{
	_cleanup_close_ int fd = memfd_program_new(program->name);
	int r;

	if (fd < 0)
		return err_set(err, fd, "make a memory file for %s", program->name);
	r = copy_all(from, fd, size);
	if (r < 0)
		return err_set(err, r, "copy %s", path);
	r = memfd_program_seal(fd);
	if (r < 0)
		return err_set(err, r, "seal the copy of %s", path);
	return TAKE_FD(fd);
}

int program_refresh(struct program *program, const char *dir, struct err *err)
{
	_cleanup_close_ int from = -EBADF;
	char path[PATH_MAX];
	struct stat st;
	int fd;

	if (snprintf(path, sizeof(path), "%s/%s", dir, program->name) >= (int)sizeof(path))
		return err_text(err, -ENAMETOOLONG, "the path of %s is too long", program->name);
	from = open(path, O_RDONLY | O_CLOEXEC);
	if (from < 0)
		return err_set(err, -errno, "open %s", path);
	if (fstat(from, &st) < 0)
		return err_set(err, -errno, "look at %s", path);
	if (program->fd >= 0 && is_same_file(&st, &program->copied))
		return 0;
	if (!S_ISREG(st.st_mode) || st.st_uid != 0 || (st.st_mode & (S_IWGRP | S_IWOTH)) != 0)
		return err_text(err, -EPERM, "%s must be a file that only root can write", path);

	fd = make_copy(path, from, program, st.st_size, err);
	if (fd < 0)
		return fd;
	fd_close(program->fd);
	program->fd = fd;
	program->copied = st;
	return 0;
}
