/*
 * The overlay is mounted in the supervisor's own mount namespace; the namespace of each start is a
 * copy of that. It is mounted "volatile": nothing in upper/ outlives the task, so nothing there is
 * worth a sync of the whole disk, which a plain overlay costs when it is unmounted.
 */
#include "agent/task/rootfs.h"

#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/task/mount.h"
#include "lib/fd.h"

#define LINKS_MAX 40 /* as the kernel's own path walk */

static int make_directories(int dir_fd, struct err *err)
{
	static const char *const names[] = {"upper", "work", "l", "root"};
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		r = dir_remove_all(dir_fd, names[i]);
		if (r < 0)
			return err_set(err, r, "remove old %s", names[i]);
		if (mkdirat(dir_fd, names[i], 0700) < 0)
			return err_set(err, -errno, "create %s", names[i]);
	}
	return 0;
}

/* The overlay takes the attributes of "/" from upper: give it those of the image. */
static int copy_root_attributes(int dir_fd, const char *top_layer, struct err *err)
{
	_cleanup_close_ int upper = -EBADF;
	struct stat st;

	if (stat(top_layer, &st) < 0)
		return err_set(err, -errno, "image layer %s", top_layer);
	if (!S_ISDIR(st.st_mode))
		return err_text(err, -ENOTDIR, "image layer %s is no directory", top_layer);

	upper = openat(dir_fd, "upper", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (upper < 0)
		return err_set(err, -errno, "open upper directory");
	if (fchown(upper, st.st_uid, st.st_gid) < 0 || fchmod(upper, st.st_mode & 07777) < 0)
		return err_set(err, -errno, "set owner and mode of upper directory");
	return 0;
}

/* l/<i> for layer i, and the text "l/2:l/1:l/0", highest first. */
static int link_layers(int dir_fd, const struct rootfs_layers *layers, char *lower, size_t n_lower,
                       struct err *err)
{
	size_t used = 0;

	for (size_t i = layers->n; i-- > 0;) {
		char target[PATH_MAX], name[32];
		struct stat st;

		snprintf(name, sizeof(name), "l/%zu", i);
		if (snprintf(target, sizeof(target), "%s/%s", layers->layers_dir,
		             layers->names[i]) >= (int)sizeof(target))
			return err_text(err, -ENAMETOOLONG, "path of layer %s is too long",
			                layers->names[i]);
		if (stat(target, &st) < 0)
			return err_set(err, -errno, "image layer %s", target);
		if (symlinkat(target, dir_fd, name) < 0)
			return err_set(err, -errno, "link to layer %s", layers->names[i]);
		used += (size_t)snprintf(lower + used, n_lower - used, "%s%s", used ? ":" : "",
		                         name);
	}
	return 0;
}

/* Relative names reach overlayfs through the working directory, which is put back. */
static int mount_overlay(int dir_fd, const char *lower, struct err *err)
{
	char options[2048];
	int r;

	if (fchdir(dir_fd) < 0)
		return err_set(err, -errno, "enter the container's directory");

	snprintf(options, sizeof(options), "lowerdir=%s,upperdir=upper,workdir=work,volatile",
	         lower);
	r = sys_mount("overlay", "root", "overlay", 0, options);
	if (chdir("/") < 0)
		return err_set(err, -errno, "leave the container's directory");
	return r < 0 ? err_set(err, r, "mount overlay") : 0;
}

int rootfs_mount(int dir_fd, const char *dir, const struct rootfs_layers *layers, struct err *err)
{
	char lower[ROOTFS_LAYERS_MAX * 8] = "";
	char top[PATH_MAX];
	int r;

	if (layers->n == 0 || layers->n > ROOTFS_LAYERS_MAX)
		return err_text(err, -EINVAL, "an image of %zu layers; it must have 1 to %d",
		                layers->n, ROOTFS_LAYERS_MAX);

	rootfs_unmount(dir);
	r = make_directories(dir_fd, err);
	if (r < 0)
		return r;
	r = link_layers(dir_fd, layers, lower, sizeof(lower), err);
	if (r < 0)
		return r;
	snprintf(top, sizeof(top), "%s/%s", layers->layers_dir, layers->names[layers->n - 1]);
	r = copy_root_attributes(dir_fd, top, err);
	if (r < 0)
		return r;
	return mount_overlay(dir_fd, lower, err);
}

void rootfs_unmount(const char *dir)
{
	char root[PATH_MAX];

	if (snprintf(root, sizeof(root), "%s/root", dir) < (int)sizeof(root))
		(void)sys_umount(root, MNT_DETACH); /* EINVAL: nothing was mounted */
}

static int open_plain(int root_fd, const char *path, int flags)
{
	struct open_how how = {
		.flags = (uint64_t)(unsigned int)(flags | O_PATH | O_NOFOLLOW | O_CLOEXEC),
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS,
	};
	long fd = syscall(SYS_openat2, root_fd, path, &how, sizeof(how));

	return fd < 0 ? -errno : (int)fd;
}

/* A walk through a root: the part that is found, free of links, and the part still to go. */
struct walk {
	int root_fd;
	char done[PATH_MAX];
	char todo[PATH_MAX];
	int links;
};

/* Move the first component of todo into name; false when there is none. */
static bool walk_take(struct walk *walk, char *name, size_t n_name, int *ret_error)
{
	char *start = walk->todo + strspn(walk->todo, "/");
	size_t len = strcspn(start, "/");

	*ret_error = 0;
	if (len == 0)
		return false;
	if (len >= n_name) {
		*ret_error = -ENAMETOOLONG;
		return false;
	}
	memcpy(name, start, len);
	name[len] = '\0';
	memmove(walk->todo, start + len, strlen(start + len) + 1);
	return true;
}

static int walk_follow(struct walk *walk, int link_fd)
{
	char target[PATH_MAX];
	size_t rest = strlen(walk->todo) + 1;
	ssize_t n;

	if (++walk->links > LINKS_MAX)
		return -ELOOP;
	n = readlinkat(link_fd, "", target, sizeof(target) - 1);
	if (n < 0)
		return -errno;

	/* What is left of todo begins with '/' or is empty. */
	if ((size_t)n + rest > sizeof(walk->todo))
		return -ENAMETOOLONG;
	memmove(walk->todo + n, walk->todo, rest);
	memcpy(walk->todo, target, (size_t)n);
	if (target[0] == '/')
		walk->done[0] = '\0';
	return 0;
}

static int walk_make(const struct walk *walk, const char *name, enum rootfs_kind kind)
{
	_cleanup_close_ int parent = -EBADF;
	bool last = walk->todo[strspn(walk->todo, "/")] == '\0';
	int fd;

	parent = open_plain(walk->root_fd, walk->done[0] ? walk->done : ".", O_DIRECTORY);
	if (parent < 0)
		return parent;
	if (!last || kind == ROOTFS_DIRECTORY)
		return mkdirat(parent, name, 0755) < 0 ? -errno : 0;

	fd = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;
	fd_close(fd);
	return 0;
}

static int walk_step(struct walk *walk, const char *name, enum rootfs_kind kind)
{
	_cleanup_close_ int fd = -EBADF;
	size_t len = strlen(walk->done);
	struct stat st;
	int r;

	if (strcmp(name, ".") == 0)
		return 0;
	if (strcmp(name, "..") == 0) {
		char *slash = strrchr(walk->done, '/');

		*(slash ? slash : walk->done) = '\0';
		return 0;
	}
	if (len + strlen(name) + 2 > sizeof(walk->done))
		return -ENAMETOOLONG;

	snprintf(walk->done + len, sizeof(walk->done) - len, "%s%s", len ? "/" : "", name);
	fd = open_plain(walk->root_fd, walk->done, 0);
	if (fd == -ENOENT) {
		walk->done[len] = '\0';
		r = walk_make(walk, name, kind);
		if (r < 0)
			return r;
		snprintf(walk->done + len, sizeof(walk->done) - len, "%s%s", len ? "/" : "", name);
		return 0;
	}
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISLNK(st.st_mode))
		return 0;

	walk->done[len] = '\0';
	return walk_follow(walk, fd);
}

int rootfs_target(int root_fd, const char *path, enum rootfs_kind kind)
{
	struct walk walk = {.root_fd = root_fd};
	char name[NAME_MAX + 1];
	struct stat st;
	int fd, r;

	if (strlen(path) >= sizeof(walk.todo))
		return -ENAMETOOLONG;
	strncpy(walk.todo, path, sizeof(walk.todo) - 1);

	while (walk_take(&walk, name, sizeof(name), &r)) {
		r = walk_step(&walk, name, kind);
		if (r < 0)
			return r;
	}
	if (r < 0)
		return r;

	fd = open_plain(root_fd, walk.done[0] ? walk.done : ".", 0);
	if (fd < 0)
		return fd;
	r = fstat(fd, &st) < 0 ? -errno : 0;
	if (r == 0 && kind == ROOTFS_DIRECTORY && !S_ISDIR(st.st_mode))
		r = -ENOTDIR;
	if (r == 0 && kind == ROOTFS_FILE && S_ISDIR(st.st_mode))
		r = -EISDIR;
	if (r == 0 && S_ISLNK(st.st_mode))
		r = -ELOOP;
	if (r < 0)
		fd_close(fd);
	return r < 0 ? r : fd;
}

int rootfs_own_directory(int root_fd, const char *name)
{
	_cleanup_close_ int fd = -EBADF;
	struct stat st;

	if (mkdirat(root_fd, name, 0755) < 0 && errno != EEXIST)
		return -errno;
	fd = open_plain(root_fd, name, 0);
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (S_ISLNK(st.st_mode))
		return -ELOOP;
	if (!S_ISDIR(st.st_mode))
		return -ENOTDIR;
	return TAKE_FD(fd);
}
