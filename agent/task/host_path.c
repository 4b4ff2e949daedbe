/*
 * The deepest directory that exists is opened first, and is asked about with the names that are
 * missing below it. These are made one by one, each below the descriptor of the one before:
 * wherever the directories are moved to meanwhile, nothing is made but inside of what was asked
 * about.
 */
#include "agent/task/host_path.h"

#include <errno.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/fd.h"

/* Where fd is. room: for more after it. */
static int place_of(int fd, char *buf, size_t n)
{
	char link[32];
	ssize_t len;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	len = readlink(link, buf, n);
	if (len < 0)
		return -errno;
	if ((size_t)len == n)
		return -ENAMETOOLONG;
	buf[len] = '\0';
	return 0;
}

int host_path_is_allowed(const struct policy *policy, int fd)
{
	char place[PATH_MAX];
	int r = place_of(fd, place, sizeof(place));

	return r < 0 ? r : policy_allows_host_path(policy, place);
}

/* May the directory names below parent_fd be mounted, once they are there. */
static int is_allowed_below(const struct policy *policy, int parent_fd, const char *names)
{
	char place[2 * PATH_MAX];
	int r = place_of(parent_fd, place, PATH_MAX);

	if (r < 0)
		return r;
	if (strcmp(place, "/") == 0)
		place[0] = '\0';
	snprintf(place + strlen(place), PATH_MAX, "/%s", names);
	return policy_allows_host_path(policy, place);
}

/* The deepest directory of path that exists; *ret_names: what is missing below it, in path. */
static int open_parent(const char *path, const char **ret_names)
{
	char parent[PATH_MAX];
	char *slash;

	if (snprintf(parent, sizeof(parent), "%s", path) >= (int)sizeof(parent))
		return -ENAMETOOLONG;
	while ((slash = strrchr(parent, '/'))) {
		int fd;

		*slash = '\0';
		fd = open(slash == parent ? "/" : parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
		*ret_names = path + (slash - parent) + 1;
		if (fd >= 0)
			return fd;
		if (errno != ENOENT)
			return -errno;
	}
	return -ENOENT;
}

static int make_directory(int parent_fd, const char *name)
{
	struct open_how how = {
		.flags = O_PATH | O_DIRECTORY | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
	};
	int fd;

	if (mkdirat(parent_fd, name, 0755) < 0 && errno != EEXIST)
		return -errno;
	fd = (int)syscall(SYS_openat2, parent_fd, name, &how, sizeof(how));
	return fd < 0 ? -errno : fd;
}

/* Takes parent_fd. */
static int make_directories(int parent_fd, const char *names)
{
	char name[NAME_MAX + 1];
	int fd = parent_fd;

	while (*(names += strspn(names, "/"))) {
		size_t len = strcspn(names, "/");
		int next;

		if (len >= sizeof(name)) {
			fd_close(fd);
			return -ENAMETOOLONG;
		}
		memcpy(name, names, len);
		name[len] = '\0';
		next = make_directory(fd, name);
		fd_close(fd);
		if (next < 0)
			return next;
		fd = next;
		names += len;
	}
	return fd;
}

int host_path_open(const struct policy *policy, const char *path, bool *ret_refused)
{
	_cleanup_close_ int fd = open(path, O_PATH | O_CLOEXEC);
	const char *missing = NULL;
	int r;

	if (fd < 0 && errno != ENOENT)
		return -errno;
	if (fd < 0)
		fd = open_parent(path, &missing);
	if (fd < 0)
		return fd;

	r = missing ? is_allowed_below(policy, fd, missing) : host_path_is_allowed(policy, fd);
	if (r == 0) {
		*ret_refused = true;
		return -EACCES;
	}
	if (r < 0)
		return r;
	return missing ? make_directories(TAKE_FD(fd), missing) : TAKE_FD(fd);
}
