/*
 * The overlay is mounted in the supervisor's own mount namespace; the namespace of each start is a
 * copy of that. It is mounted "volatile": nothing in upper/ outlives the task, so nothing there is
 * worth a sync of the whole disk, which a plain overlay costs when it is unmounted.
 */
#include "agent/task/rootfs.h"

#include <limits.h>
#include <linux/openat2.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "agent/task/label.h"
#include "agent/task/mount.h"
#include "lib/fd.h"

#define LINKS_MAX 40 /* as the kernel's own path walk */

static int make_base(int tasks_fd, struct err *err)
{
	static const char *const directories[] = {
		".base", ".base/proc", ".base/sys", ".base/dev", ".base/etc", ".private",
	};
	static const char *const files[] = {
		".base/etc/hosts",
		".base/etc/hostname",
		".base/etc/resolv.conf",
	};

	for (size_t i = 0; i < ARRAY_SIZE(directories); i++)
		if (mkdirat(tasks_fd, directories[i], 0755) < 0 && errno != EEXIST)
			return err_set(err, -errno, "create %s", directories[i]);
	/* Programs look there for what is mounted, Java for one, and few images have it. */
	if (symlinkat("/proc/mounts", tasks_fd, ".base/etc/mtab") < 0 && errno != EEXIST)
		return err_set(err, -errno, "create .base/etc/mtab");
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		int fd = openat(tasks_fd, files[i],
		                O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);

		if (fd < 0 && errno != EEXIST)
			return err_set(err, -errno, "create %s", files[i]);
		fd_close(fd);
	}
	return 0;
}

/* Containers write to their /etc/hosts, which is in here: it must have an end. */
static int mount_private(int tasks_fd, struct err *err)
{
	static const struct mount_option options[] = {
		{"mode", "700"}, {"size", "4m"}, {"nr_inodes", "32k"}};
	_cleanup_close_ int fd = -EBADF, target = -EBADF;
	int r;

	fd = mount_new("tmpfs", options, ARRAY_SIZE(options),
	               MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
	if (fd < 0)
		return err_set(err, fd, "make a tmpfs for the task");
	target = openat(tasks_fd, ".private", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (target < 0)
		return err_set(err, -errno, "open .private");
	r = mount_attach(fd, target);
	return r < 0 ? err_set(err, r, "mount a tmpfs for the task") : 0;
}

int rootfs_prepare(const char *tasks_dir, struct err *err)
{
	_cleanup_close_ int fd = open(tasks_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r;

	if (fd < 0)
		return err_set(err, -errno, "open %s", tasks_dir);
	r = make_base(fd, err);
	return r < 0 ? r : mount_private(fd, err);
}

/* No container is called so: their names do not begin with '.'. */
static int mount_mapped(const char *tasks_dir, const char *from, const char *name,
                        const struct userns *userns, struct err *err)
{
	char to[PATH_MAX];
	int r = rootfs_private_dir(tasks_dir, name, to, sizeof(to));

	if (r < 0)
		return err_set(err, r, "path of %s", name);
	if (mkdir(to, 0700) < 0 && errno != EEXIST)
		return err_set(err, -errno, "create %s", to);
	return userns_mount_mapped(userns, from, to, err);
}

int rootfs_prepare_mapped(const char *tasks_dir, const char *layers_dir,
                          const struct userns *userns, struct err *err)
{
	char base[PATH_MAX];
	int r;

	if (snprintf(base, sizeof(base), "%s/.base", tasks_dir) >= (int)sizeof(base))
		return err_text(err, -ENAMETOOLONG, "the state directory's path is too long");
	r = mount_mapped(tasks_dir, layers_dir, ".layers", userns, err);
	return r < 0 ? r : mount_mapped(tasks_dir, base, ".base", userns, err);
}

int rootfs_private_dir(const char *tasks_dir, const char *container, char *buf, size_t n)
{
	return snprintf(buf, n, "%s/.private/%s", tasks_dir, container) < (int)n ? 0
	                                                                         : -ENAMETOOLONG;
}

static int make_directories(int disk_fd, int private_fd, struct err *err)
{
	const struct {
		int dir_fd;
		const char *name;
	} directories[] = {
		{disk_fd, "upper"}, {disk_fd, "work"}, {private_fd, "l"}, {private_fd, "root"}};

	for (size_t i = 0; i < ARRAY_SIZE(directories); i++)
		if (mkdirat(directories[i].dir_fd, directories[i].name, 0700) < 0)
			return err_set(err, -errno, "create %s", directories[i].name);
	return 0;
}

/* The overlay takes the attributes of "/" from upper: give it those of the image. */
static int copy_root_attributes(int disk_fd, const char *top_layer, struct err *err)
{
	_cleanup_close_ int upper = -EBADF;
	struct stat st;

	if (stat(top_layer, &st) < 0)
		return err_set(err, -errno, "image layer %s", top_layer);
	if (!S_ISDIR(st.st_mode))
		return err_text(err, -ENOTDIR, "image layer %s is no directory", top_layer);

	upper = openat(disk_fd, "upper", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (upper < 0)
		return err_set(err, -errno, "open upper directory");
	if (fchown(upper, st.st_uid, st.st_gid) < 0 || fchmod(upper, st.st_mode & 07777) < 0)
		return err_set(err, -errno, "set owner and mode of upper directory");
	return 0;
}

__attribute__((format(printf, 4, 5))) static int make_link(int dir_fd, const char *name,
                                                           struct err *err, const char *fmt, ...)
{
	char target[PATH_MAX];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(target, sizeof(target), fmt, ap);
	va_end(ap);
	if (n >= (int)sizeof(target))
		return err_text(err, -ENAMETOOLONG, "the target of link %s is too long", name);
	return symlinkat(target, dir_fd, name) < 0 ? err_set(err, -errno, "link to %s", target) : 0;
}

static int layer_path(const struct rootfs *rootfs, size_t i, char *buf, size_t n)
{
	int len = rootfs->mapped ? snprintf(buf, n, "%s/.private/.layers/%s", rootfs->tasks_dir,
	                                    rootfs->layers[i])
	                         : snprintf(buf, n, "%s/%s", rootfs->layers_dir, rootfs->layers[i]);

	return len < (int)n ? 0 : -ENAMETOOLONG;
}

/* Links for all that the overlay is made of, and the text "l/2:l/1:l/0:l/b", highest first. */
static int make_links(const struct rootfs *rootfs, int private_fd, char *lower, size_t n_lower,
                      struct err *err)
{
	size_t used = 0;
	int r;

	r = make_link(private_fd, "u", err, "%s/upper", rootfs->disk_dir);
	if (r == 0)
		r = make_link(private_fd, "w", err, "%s/work", rootfs->disk_dir);
	if (r == 0)
		r = make_link(private_fd, "l/b", err, "%s%s/.base", rootfs->tasks_dir,
		              rootfs->mapped ? "/.private" : "");
	for (size_t i = rootfs->n_layers; r == 0 && i-- > 0;) {
		char name[32], path[PATH_MAX];

		snprintf(name, sizeof(name), "l/%zu", i);
		used += (size_t)snprintf(lower + used, n_lower - used, "%s:", name);
		if (layer_path(rootfs, i, path, sizeof(path)) < 0)
			return err_text(err, -ENAMETOOLONG, "the path of a layer is too long");
		r = make_link(private_fd, name, err, "%s", path);
		if (r == 0 && faccessat(private_fd, name, F_OK, 0) < 0)
			r = err_set(err, -errno, "image layer %s", rootfs->layers[i]);
	}
	snprintf(lower + used, n_lower - used, "l/b");
	return r;
}

/* Relative names reach overlayfs through the working directory, which is put back. */
static int mount_overlay(int private_fd, const char *lower, const char *mount_label,
                         struct err *err)
{
	char options[2048 + LABEL_MAX];
	int r, n;

	if (fchdir(private_fd) < 0)
		return err_set(err, -errno, "enter the container's directory");

	n = snprintf(options, sizeof(options), "lowerdir=%s,upperdir=u,workdir=w,volatile", lower);
	/* In quotes, for its categories have commas; it has none itself (spec_security.c). */
	if (mount_label)
		snprintf(options + n, sizeof(options) - (size_t)n, ",context=\"%s\"", mount_label);
	r = sys_mount("overlay", "root", "overlay", 0, options);
	if (chdir("/") < 0)
		return err_set(err, -errno, "leave the container's directory");
	return r < 0 ? err_set(err, r, "mount overlay") : 0;
}

/* A directory that somebody else has made, with what is mounted below it. */
static int bind_directory(const struct rootfs *rootfs, int private_fd, struct err *err)
{
	_cleanup_close_ int source = -EBADF, tree = -EBADF, target = -EBADF;
	char path[64];
	int r;

	if (mkdirat(private_fd, "root", 0700) < 0)
		return err_set(err, -errno, "create root");
	source = open(rootfs->directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (source < 0)
		return err_set(err, -errno, "root file system %s", rootfs->directory);
	tree = mount_clone(source, true);
	if (tree < 0)
		return err_set(err, tree, "bind root file system %s", rootfs->directory);
	target = openat(private_fd, "root", O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (target < 0)
		return err_set(err, -errno, "open root");
	r = mount_attach(tree, target);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", tree);
	if (r == 0)
		r = sys_mount(NULL, path, NULL, MS_PRIVATE | MS_REC, NULL);
	return r < 0 ? err_set(err, r, "mount root file system %s", rootfs->directory) : 0;
}

int rootfs_mount(const struct rootfs *rootfs, struct err *err)
{
	_cleanup_close_ int disk_fd = -EBADF, private_fd = -EBADF;
	char lower[(ROOTFS_LAYERS_MAX + 1) * 8] = "";
	char path[PATH_MAX];
	int r;

	if (!rootfs->directory && (rootfs->n_layers == 0 || rootfs->n_layers > ROOTFS_LAYERS_MAX))
		return err_text(err, -EINVAL, "an image of %zu layers; it must have 1 to %d",
		                rootfs->n_layers, ROOTFS_LAYERS_MAX);
	disk_fd = open(rootfs->disk_dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (disk_fd < 0)
		return err_set(err, -errno, "open %s", rootfs->disk_dir);
	r = rootfs_private_dir(rootfs->tasks_dir, rootfs->container, path, sizeof(path));
	if (r < 0)
		return err_set(err, r, "directory of container %s", rootfs->container);
	if (mkdir(path, 0700) < 0)
		return err_set(err, -errno, "create %s", path);
	private_fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (private_fd < 0)
		return err_set(err, -errno, "open %s", path);

	if (rootfs->directory)
		return bind_directory(rootfs, private_fd, err);
	r = make_directories(disk_fd, private_fd, err);
	if (r == 0)
		r = make_links(rootfs, private_fd, lower, sizeof(lower), err);
	if (r < 0)
		return r;
	r = layer_path(rootfs, rootfs->n_layers - 1, path, sizeof(path));
	r = r < 0 ? err_set(err, r, "path of a layer") : copy_root_attributes(disk_fd, path, err);
	if (r == 0)
		r = mount_overlay(private_fd, lower, rootfs->mount_label, err);
	if (r == -EINVAL && rootfs->mapped)
		r = err_prefix(err, r, "overlay of id-mapped layers, which needs Linux 5.19");
	return r;
}

void rootfs_remove(const char *tasks_dir, const char *container)
{
	char path[PATH_MAX], root[PATH_MAX];

	if (rootfs_private_dir(tasks_dir, container, path, sizeof(path)) < 0 ||
	    snprintf(root, sizeof(root), "%s/root", path) >= (int)sizeof(root))
		return;                       /* then it was not made */
	(void)sys_umount(root, MNT_DETACH);   /* EINVAL: nothing was mounted */
	(void)dir_remove_all(AT_FDCWD, path); /* ends with the mount namespace at the latest */
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
