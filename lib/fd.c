/* Descriptors and small files. Everything here is O_CLOEXEC and reports -errno. */
#include "lib/fd.h"

#include <dirent.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>

int fd_close(int fd)
{
	int saved = errno;

	if (fd >= 0)
		close(fd);
	errno = saved;
	return -EBADF;
}

ssize_t fd_read_all(int fd, void *buf, size_t n)
{
	size_t done = 0;

	while (done < n) {
		ssize_t k = read(fd, (char *)buf + done, n - done);

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return -errno;
		if (k == 0)
			break;
		done += (size_t)k;
	}
	return (ssize_t)done;
}

int fd_write_all(int fd, const void *buf, size_t n)
{
	size_t done = 0;

	while (done < n) {
		ssize_t k = write(fd, (const char *)buf + done, n - done);

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return -errno;
		done += (size_t)k;
	}
	return 0;
}

int fd_set_nonblock(int fd, bool nonblock)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return -errno;
	flags = nonblock ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
	return fcntl(fd, F_SETFL, flags) < 0 ? -errno : 0;
}

int fd_set_cloexec(int fd, bool cloexec)
{
	return fcntl(fd, F_SETFD, cloexec ? FD_CLOEXEC : 0) < 0 ? -errno : 0;
}

int file_read(int dir_fd, const char *path, size_t max, char **ret, size_t *ret_len)
{
	_cleanup_close_ int fd = -EBADF;
	_cleanup_free_ char *buf = NULL;
	size_t size = 0, room = 0;

	fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return -errno;

	/* The size of a file in procfs or cgroupfs is not known beforehand. */
	for (;;) {
		ssize_t k;
		char *p;

		if (room - size < 2) {
			room = room ? room * 2 : 4096;
			p = realloc(buf, room);
			if (!p)
				return -ENOMEM;
			buf = p;
		}
		k = fd_read_all(fd, buf + size, room - size - 1);
		if (k < 0)
			return (int)k;
		if (k == 0)
			break;
		size += (size_t)k;
		if (size > max)
			return -EFBIG;
	}

	buf[size] = '\0';
	*ret = TAKE_PTR(buf);
	if (ret_len)
		*ret_len = size;
	return 0;
}

int file_write(int dir_fd, const char *path, const char *text)
{
	_cleanup_close_ int fd = -EBADF;
	ssize_t k;

	fd = openat(dir_fd, path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return -errno;
	do
		k = write(fd, text, strlen(text));
	while (k < 0 && errno == EINTR);
	if (k < 0)
		return -errno;
	return (size_t)k == strlen(text) ? 0 : -EIO;
}

static int sync_parent(int dir_fd, const char *path)
{
	char dir[PATH_MAX];
	_cleanup_close_ int fd = -EBADF;
	const char *slash = strrchr(path, '/');

	if (!slash)
		snprintf(dir, sizeof(dir), ".");
	else if (slash == path)
		snprintf(dir, sizeof(dir), "/");
	else if ((size_t)(slash - path) < sizeof(dir))
		snprintf(dir, sizeof(dir), "%.*s", (int)(slash - path), path);
	else
		return -ENAMETOOLONG;

	fd = openat(dir_fd, dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return fsync(fd) < 0 ? -errno : 0;
}

int file_replace(int dir_fd, const char *path, const void *data, size_t len, mode_t mode)
{
	_cleanup_close_ int fd = -EBADF;
	char tmp[PATH_MAX];
	uint64_t id;
	int r;

	/* Others may be replacing the same file now; a pid would not tell us apart, since every
	 * ecs-task is process 1 of its own namespace. */
	if (getrandom(&id, sizeof(id), 0) != sizeof(id))
		return -EIO;
	if (snprintf(tmp, sizeof(tmp), "%s.%016" PRIx64 ".tmp", path, id) >= (int)sizeof(tmp))
		return -ENAMETOOLONG;

	fd = openat(dir_fd, tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
	if (fd < 0)
		return -errno;

	r = fchmod(fd, mode) < 0 ? -errno : fd_write_all(fd, data, len);
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	if (r == 0 && renameat(dir_fd, tmp, dir_fd, path) < 0)
		r = -errno;
	if (r < 0) {
		(void)unlinkat(dir_fd, tmp, 0); /* the first error counts */
		return r;
	}
	return sync_parent(dir_fd, path);
}

int dir_open(int dir_fd, const char *path, DIR **ret)
{
	_cleanup_close_ int fd =
		openat(dir_fd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	*ret = fdopendir(fd);
	if (!*ret)
		return -errno;
	TAKE_FD(fd);
	return 0;
}

int dir_create_all(const char *path, mode_t mode)
{
	char buf[PATH_MAX];

	if (snprintf(buf, sizeof(buf), "%s", path) >= (int)sizeof(buf))
		return -ENAMETOOLONG;

	for (char *p = buf + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		if (mkdir(buf, mode) < 0 && errno != EEXIST)
			return -errno;
		*p = '/';
	}
	return mkdir(buf, mode) < 0 && errno != EEXIST ? -errno : 0;
}

#define REMOVE_DEPTH_MAX 32 /* two descriptors and some stack each */
#define REMOVE_NAMES_MAX 100000

/* A tree that is being removed. Whoever filled it may have nested directories by the ten thousand:
 * what lies too deep is moved up to its top and removed from there. */
struct removal {
	int top_fd;
	dev_t dev;
	unsigned int n_moved;
};

static int remove_children(struct removal *removal, int dir_fd, unsigned int depth);

static int move_to_top(struct removal *removal, int dir_fd, const char *name)
{
	for (; removal->n_moved < REMOVE_NAMES_MAX; removal->n_moved++) {
		char moved[32];

		snprintf(moved, sizeof(moved), ".removed-%u", removal->n_moved);
		if (renameat2(dir_fd, name, removal->top_fd, moved, RENAME_NOREPLACE) == 0) {
			removal->n_moved++;
			return 0;
		}
		if (errno != EEXIST)
			return errno == ENOENT ? 0 : -errno;
	}
	return -ELOOP;
}

static int remove_entry(struct removal *removal, int dir_fd, const char *name, unsigned int depth)
{
	_cleanup_close_ int fd = -EBADF;
	struct stat st;
	int r;

	if (unlinkat(dir_fd, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return -errno;

	fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (st.st_dev != removal->dev)
		return -EXDEV; /* a mount: not ours to empty */
	if (depth == REMOVE_DEPTH_MAX)
		return move_to_top(removal, dir_fd, name);

	if (removal->top_fd < 0)
		removal->top_fd = fd;
	do {
		removal->n_moved = depth == 0 ? 0 : removal->n_moved;
		r = remove_children(removal, fd, depth + 1);
	} while (r == 0 && depth == 0 && removal->n_moved > 0);
	if (r < 0)
		return r;
	return unlinkat(dir_fd, name, AT_REMOVEDIR) < 0 && errno != ENOENT ? -errno : 0;
}

static int remove_children(struct removal *removal, int dir_fd, unsigned int depth)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	struct dirent *entry;
	int r;

	r = dir_open(dir_fd, ".", &dir);
	if (r < 0)
		return r;
	while ((errno = 0, entry = readdir(dir))) {
		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		r = remove_entry(removal, dir_fd, entry->d_name, depth);
		if (r < 0)
			return r;
	}
	return -errno;
}

int dir_remove_all(int dir_fd, const char *name)
{
	struct removal removal = {.top_fd = -EBADF};
	struct stat st;

	if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	removal.dev = st.st_dev;
	return remove_entry(&removal, dir_fd, name, 0);
}

int fd_open_in_root(int root_fd, const char *path, int flags, mode_t mode)
{
	struct open_how how = {
		.flags = (uint64_t)(unsigned int)flags | O_CLOEXEC,
		.mode = (flags & (O_CREAT | O_TMPFILE)) ? mode : 0,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
	};
	long fd;

	/* EAGAIN: a rename elsewhere raced with "..", so that the kernel could not be sure. */
	for (int tries = 0; tries < 128; tries++) {
		fd = syscall(SYS_openat2, root_fd, path, &how, sizeof(how));
		if (fd >= 0)
			return (int)fd;
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
	}
	return -EAGAIN;
}

int fd_close_from(int lowest, const int *keep, size_t n)
{
	unsigned int from = (unsigned int)lowest;

	for (size_t i = 0; i < n; i++) {
		unsigned int kept = (unsigned int)keep[i];

		if (kept > from && syscall(SYS_close_range, from, kept - 1, 0) < 0)
			return -errno;
		if (kept >= from)
			from = kept + 1;
	}
	return syscall(SYS_close_range, from, UINT_MAX, 0) < 0 ? -errno : 0;
}
