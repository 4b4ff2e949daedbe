/*
 * Volumes of a container. What is copied into a new one comes from an image, which may hold
 * anything: it is read through descriptors, no link is followed, and no mount is crossed.
 */
#include "agent/task/volume.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "agent/task/dir_entries.h"
#include "lib/fd.h"

#define DEPTH_MAX   128
#define XATTRS_SIZE 4096
#define XATTR_SIZE  4096

int volume_parse(const char *text, struct volume *ret)
{
	static const struct {
		const char *prefix;
		enum volume_scope scope;
	} scopes[] = {{"task/", VOLUME_TASK},
	              {"anonymous/", VOLUME_ANONYMOUS},
	              {"shared/", VOLUME_SHARED},
	              {"mounted/", VOLUME_MOUNTED}};

	for (size_t i = 0; i < ARRAY_SIZE(scopes); i++) {
		size_t prefix = strlen(scopes[i].prefix), len;

		if (strncmp(text, scopes[i].prefix, prefix) != 0)
			continue;
		len = strspn(text + prefix, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
		                            "0123456789_.-");
		if (len == 0 || len > VOLUME_NAME_MAX || text[prefix + len] != '\0' ||
		    text[prefix] == '.')
			return -EINVAL;
		ret->scope = scopes[i].scope;
		ret->name = text + prefix;
		return 0;
	}
	return -EINVAL;
}

static int open_directory(int dir_fd, const char *path)
{
	int fd = openat(dir_fd, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int volume_open_scope(enum volume_scope scope, const struct volume_dirs *dirs)
{
	bool own = scope == VOLUME_TASK || scope == VOLUME_ANONYMOUS;
	const char *top = own ? dirs->task : scope == VOLUME_SHARED ? dirs->shared : dirs->mounted;
	const char *name = scope == VOLUME_TASK ? ".volumes" : ".anonymous";
	_cleanup_close_ int top_fd = open_directory(AT_FDCWD, top);

	if (top_fd < 0 || !own)
		return TAKE_FD(top_fd);
	if (mkdirat(top_fd, name, 0711) < 0 && errno != EEXIST)
		return -errno;
	return open_directory(top_fd, name);
}

int volume_open(const struct volume *volume, const struct volume_dirs *dirs)
{
	_cleanup_close_ int scope_fd = volume_open_scope(volume->scope, dirs);
	_cleanup_close_ int fd = -EBADF;
	bool made = false;

	if (scope_fd < 0)
		return scope_fd;
	if (!volume->existing && volume->scope != VOLUME_MOUNTED) {
		made = mkdirat(scope_fd, volume->name, 0755) == 0;
		if (!made && errno != EEXIST)
			return -errno;
	}
	if (volume->scope == VOLUME_MOUNTED) {
		fd = openat(scope_fd, volume->name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		return fd < 0 ? -errno : TAKE_FD(fd);
	}
	fd = open_directory(scope_fd, volume->name);
	if (fd < 0)
		return fd;
	if (made && volume->labels &&
	    fsetxattr(fd, VOLUME_XATTR_LABELS, volume->labels, strlen(volume->labels), 0) < 0)
		return -errno;
	if (volume->scope == VOLUME_SHARED && fgetxattr(fd, VOLUME_XATTR_DRIVER, NULL, 0) >= 0)
		return -EMEDIUMTYPE;
	return TAKE_FD(fd);
}

/* Those that a layer can bring: capabilities of files, ACLs, user.*; labels of a security module
 * belong to the place and not to the file. */
static int copy_xattrs(int from, int to)
{
	char names[XATTRS_SIZE], value[XATTR_SIZE];
	ssize_t n = flistxattr(from, names, sizeof(names));

	if (n < 0)
		return errno == EOPNOTSUPP ? 0 : -errno;
	for (const char *name = names; name < names + n; name += strlen(name) + 1) {
		ssize_t k;

		if (strncmp(name, "trusted.", 8) == 0 || strcmp(name, "security.selinux") == 0)
			continue;
		k = fgetxattr(from, name, value, sizeof(value));
		if (k < 0 || fsetxattr(to, name, value, (size_t)k, 0) < 0)
			return -errno;
	}
	return 0;
}

/* Owner before mode, since a change of owner takes the set-user-ID bit away. */
static int put_attributes(int from, int to, const struct stat *st)
{
	const struct timespec times[2] = {st->st_atim, st->st_mtim};
	int r;

	if (fchown(to, st->st_uid, st->st_gid) < 0)
		return -errno;
	r = copy_xattrs(from, to);
	if (r < 0)
		return r;
	return fchmod(to, st->st_mode & 07777) < 0 || futimens(to, times) < 0 ? -errno : 0;
}

static int copy_range(int from, int to, off_t start, off_t end)
{
	char buf[16384];

	while (start < end) {
		size_t want =
			(size_t)(end - start) < sizeof(buf) ? (size_t)(end - start) : sizeof(buf);
		ssize_t n = pread(from, buf, want, start);

		if (n < 0)
			return -errno;
		if (n == 0)
			return 0;
		for (ssize_t done = 0; done < n;) {
			ssize_t k = pwrite(to, buf + done, (size_t)(n - done), start + done);

			if (k < 0)
				return -errno;
			done += k;
		}
		start += n;
	}
	return 0;
}

/* Holes stay holes: an image may hold a file of many terabytes that has none. */
static int copy_data(int from, int to, off_t size)
{
	off_t data = 0, hole;
	int r;

	while (data < size) {
		data = lseek(from, data, SEEK_DATA);
		if (data < 0 && errno == ENXIO)
			break;
		hole = data < 0 ? -1 : lseek(from, data, SEEK_HOLE);
		if (data < 0 || hole < 0)
			return -errno;
		r = copy_range(from, to, data, hole);
		if (r < 0)
			return r;
		data = hole;
	}
	return ftruncate(to, size) < 0 ? -errno : 0;
}

static int copy_file(int from_dir, int to_dir, const char *name)
{
	_cleanup_close_ int from = -EBADF, to = -EBADF;
	struct stat st;
	int r;

	from = openat(from_dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (from < 0 || fstat(from, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EAGAIN; /* it was one a moment ago */
	to = openat(to_dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (to < 0)
		return -errno;
	r = copy_data(from, to, st.st_size);
	return r < 0 ? r : put_attributes(from, to, &st);
}

static int copy_link(int from_dir, int to_dir, const char *name, const struct stat *st)
{
	char target[PATH_MAX];
	ssize_t n = readlinkat(from_dir, name, target, sizeof(target) - 1);

	if (n < 0)
		return -errno;
	target[n] = '\0';
	if (symlinkat(target, to_dir, name) < 0)
		return -errno;
	return fchownat(to_dir, name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

static int copy_node(int to_dir, const char *name, const struct stat *st)
{
	if (mknodat(to_dir, name, st->st_mode & (S_IFMT | 07777), st->st_rdev) < 0)
		return -errno;
	return fchownat(to_dir, name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0 ? -errno : 0;
}

static int copy_directory(int from, int to, int depth);

static int copy_below(int from_dir, int to_dir, const char *name, int depth)
{
	_cleanup_close_ int from = open_directory(from_dir, name), to = -EBADF;

	if (from < 0)
		return from;
	if (mkdirat(to_dir, name, 0700) < 0)
		return -errno;
	to = open_directory(to_dir, name);
	return to < 0 ? to : copy_directory(from, to, depth + 1);
}

struct copy {
	int to;
	int depth;
};

static int copy_entry(int from_dir, const char *name, void *userdata)
{
	const struct copy *copy = userdata;
	struct stat st;

	if (fstatat(from_dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	switch (st.st_mode & S_IFMT) {
	case S_IFDIR:
		return copy_below(from_dir, copy->to, name, copy->depth);
	case S_IFREG:
		return copy_file(from_dir, copy->to, name);
	case S_IFLNK:
		return copy_link(from_dir, copy->to, name, &st);
	case S_IFSOCK:
		return 0; /* nobody listens on a copy */
	default:
		return copy_node(copy->to, name, &st);
	}
}

/* The attributes last: entries change the times of their directory. */
static int copy_directory(int from, int to, int depth)
{
	struct copy copy = {to, depth};
	struct stat st;
	int r;

	if (depth > DEPTH_MAX)
		return -ELOOP;
	if (fstat(from, &st) < 0)
		return -errno;
	r = dir_each_entry(from, copy_entry, &copy);
	return r < 0 ? r : put_attributes(from, to, &st);
}

int volume_copy(int from_fd, int to_fd)
{
	return copy_directory(from_fd, to_fd, 0);
}

int volume_copy_attributes(int from_fd, int to_fd)
{
	struct stat st;

	return fstat(from_fd, &st) < 0 ? -errno : put_attributes(from_fd, to_fd, &st);
}

int volume_open_image(int root_fd, const char *path)
{
	struct open_how how = {
		.flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
	};
	long fd = syscall(SYS_openat2, root_fd, path, &how, sizeof(how));

	return fd < 0 ? -errno : (int)fd;
}
