/* File descriptors: owning them, and reading and writing whole small files through them. */
#pragma once

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/err.h"

/* Closes fd if it is one, keeps errno, returns -EBADF to assign back. */
int fd_close(int fd);

static inline void fd_closep(int *fd)
{
	*fd = fd_close(*fd);
}
#define _cleanup_close_ _cleanup_(fd_closep)

#define TAKE_FD(fd)                                                                                \
	({                                                                                         \
		int *_fdp = &(fd);                                                                 \
		int _fd = *_fdp;                                                                   \
		*_fdp = -EBADF;                                                                    \
		_fd;                                                                               \
	})

/* Reads or writes all n bytes, across short transfers and EINTR (blocking descriptors).
 * fd_read_all() returns the number read, less than n at end of file; both return -errno. */
ssize_t fd_read_all(int fd, void *buf, size_t n);
int fd_write_all(int fd, const void *buf, size_t n);

int fd_set_nonblock(int fd, bool nonblock);
int fd_set_cloexec(int fd, bool cloexec);

/*
 * Read a whole file of at most max bytes, below dir_fd (AT_FDCWD for none).
 * *ret is owned by the caller and NUL-terminated beyond its *ret_len bytes.
 * Returns 0, -EFBIG when it is larger, or -errno of openat(2) or read(2).
 */
int file_read(int dir_fd, const char *path, size_t max, char **ret, size_t *ret_len);

/* Write text to an existing file, such as one of cgroupfs or procfs, in one write(2). */
int file_write(int dir_fd, const char *path, const char *text);

/*
 * Replace a file as a whole: write to a temporary name beside it, fsync, rename, fsync the
 * directory. After a crash the old or the new content is there, never a part (and perhaps a
 * "<path>.<16 hex digits>.tmp" that nobody reads). Several processes may do it at once: one wins.
 */
int file_replace(int dir_fd, const char *path, const void *data, size_t len, mode_t mode);

/*
 * Open a directory for readdir(3), below dir_fd ("." for itself): a description of its own, so that
 * each reader begins at the start. A link in the place of path is not followed.
 * *ret is owned by the caller. Returns 0 or -errno of openat(2) or fdopendir(3).
 */
int dir_open(int dir_fd, const char *path, DIR **ret);
DEFINE_CLEANUP(DIR *, closedir)

/* Make a directory and its missing parents, each with the mode. An existing one is left alone. */
int dir_create_all(const char *path, mode_t mode);

/* Remove what is below name in dir_fd and name itself, without following links or crossing mounts.
 * A missing name is no error. */
int dir_remove_all(int dir_fd, const char *name);

/*
 * Open path below the directory root_fd as if that were the root: neither "..", an absolute link
 * nor a magic link leads out. flags as for open(2), O_CLOEXEC is added.
 * Returns the descriptor or -errno of openat2(2).
 */
int fd_open_in_root(int root_fd, const char *path, int flags, mode_t mode);

/* Close every descriptor from lowest up, but the n in keep (ascending). For use after fork(2). */
int fd_close_from(int lowest, const int *keep, size_t n);
