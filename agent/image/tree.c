/*
 * Every operation first gets a descriptor of the parent directory, then works on one name in it
 * without following it. The descriptor of the last parent is kept, since archives list directory
 * by directory; it cannot go stale, because what is removed is always a name in that very parent.
 */
#include "agent/image/tree.h"

#include "lib/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

/*
 * Linux 5.10 knows no "userxattr" mount option for overlayfs, so the mark of an opaque directory
 * has to be a trusted.* attribute; setting it takes CAP_SYS_ADMIN.
 */
#define OPAQUE_XATTR "trusted.overlay.opaque"

struct directory_times {
	char *path;
	struct timespec times[2];
};

struct tree {
	int root_fd; /* borrowed */

	int parent_fd; /* of parent_path, or -EBADF */
	char parent_path[PATH_MAX];

	struct directory_times *directories;
	size_t n_directories;
	size_t n_allocated;
};

int tree_new(int root_fd, struct tree **ret)
{
	struct tree *tree = calloc(1, sizeof(*tree));

	if (!tree)
		return -ENOMEM;
	tree->root_fd = root_fd;
	tree->parent_fd = -EBADF;
	*ret = tree;
	return 0;
}

struct tree *tree_free(struct tree *tree)
{
	if (!tree)
		return NULL;

	fd_close(tree->parent_fd);
	for (size_t i = 0; i < tree->n_directories; i++)
		free(tree->directories[i].path);
	free(tree->directories);
	free(tree);
	return NULL;
}

static int open_directory(struct tree *tree, const char *path)
{
	return fd_open_in_root(tree->root_fd, *path ? path : ".", O_DIRECTORY | O_RDONLY, 0);
}

static bool is_whiteout(const struct stat *st)
{
	return S_ISCHR(st->st_mode) && st->st_rdev == makedev(0, 0);
}

/* Descriptor of a new directory that takes the place of nothing or of a whiteout. */
static int make_missing_directory(int parent_fd, const char *name, mode_t mode)
{
	_cleanup_close_ int fd = -EBADF;
	bool opaque = false;
	struct stat st;

	if (mkdirat(parent_fd, name, mode) < 0) {
		if (errno != EEXIST)
			return -errno;
		if (fstatat(parent_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return -errno;
		if (!is_whiteout(&st))
			return S_ISLNK(st.st_mode) ? -ELOOP : -ENOTDIR;
		if (unlinkat(parent_fd, name, 0) < 0 || mkdirat(parent_fd, name, mode) < 0)
			return -errno;
		opaque = true;
	}
	fd = openat(parent_fd, name, O_DIRECTORY | O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (opaque && fsetxattr(fd, OPAQUE_XATTR, "y", 1, 0) < 0)
		return -errno;
	return TAKE_FD(fd);
}

/* Open a directory, making what is missing on the way: top-down, one component at a time. */
static int open_or_make_directory(struct tree *tree, const char *path)
{
	char prefix[PATH_MAX];
	int fd = open_directory(tree, path);

	if (fd != -ENOENT && fd != -ENOTDIR)
		return fd;

	fd = open_directory(tree, "");
	for (const char *p = path; fd >= 0 && *p;) {
		_cleanup_close_ int parent_fd = fd;
		size_t end;
		const char *name;

		p += strcspn(p, "/");
		end = (size_t)(p - path);
		if (*p)
			p++;
		memcpy(prefix, path, end);
		prefix[end] = '\0';
		fd = open_directory(tree, prefix);
		if (fd != -ENOENT && fd != -ENOTDIR)
			continue;
		name = strrchr(prefix, '/');
		fd = make_missing_directory(parent_fd, name ? name + 1 : prefix, 0755);
	}
	return fd;
}

/* The directory of path (kept by the tree), and path's last component. */
static int get_parent(struct tree *tree, const char *path, int *ret_fd, const char **ret_name,
                      struct err *err)
{
	const char *slash = strrchr(path, '/');
	size_t n = slash ? (size_t)(slash - path) : 0;
	int fd;

	if (tree->parent_fd < 0 || strlen(tree->parent_path) != n ||
	    memcmp(tree->parent_path, path, n) != 0) {
		tree->parent_fd = fd_close(tree->parent_fd);
		memcpy(tree->parent_path, path, n);
		tree->parent_path[n] = '\0';
		fd = open_or_make_directory(tree, tree->parent_path);
		if (fd < 0)
			return err_set(err, fd, "open directory %s", tree->parent_path);
		tree->parent_fd = fd;
	}
	*ret_fd = tree->parent_fd;
	*ret_name = slash ? slash + 1 : path;
	return 0;
}

static int set_xattrs(int fd, const struct tree_meta *meta, struct err *err)
{
	for (size_t i = 0; i < meta->n_xattrs; i++) {
		const struct tree_xattr *x = &meta->xattrs[i];

		if (fsetxattr(fd, x->name, x->value, x->size, 0) == 0)
			continue;
		/* A comment is lost where the file system keeps none; a capability must not be. */
		if (errno == EOPNOTSUPP && strncmp(x->name, "user.", 5) == 0)
			continue;
		return err_set(err, -errno, "set attribute %.64s", x->name);
	}
	return 0;
}

/* chown(2) clears setuid bits and file capabilities, so it goes first. */
static int apply_meta(int fd, const struct tree_meta *meta, struct err *err)
{
	if (fchown(fd, meta->uid, meta->gid) < 0)
		return err_set(err, -errno, "set owner %u:%u", meta->uid, meta->gid);
	if (fchmod(fd, meta->mode) < 0)
		return err_set(err, -errno, "set mode %04o", meta->mode);
	return set_xattrs(fd, meta, err);
}

static int remember_times(struct tree *tree, const char *path, const struct tree_meta *meta)
{
	struct directory_times *entry;

	if (tree->n_directories == tree->n_allocated) {
		size_t n = tree->n_allocated ? 2 * tree->n_allocated : 64;
		void *grown = reallocarray(tree->directories, n, sizeof(*tree->directories));

		if (!grown)
			return -ENOMEM;
		tree->directories = grown;
		tree->n_allocated = n;
	}
	entry = &tree->directories[tree->n_directories];
	entry->path = strdup(path);
	if (!entry->path)
		return -ENOMEM;
	memcpy(entry->times, meta->times, sizeof(entry->times));
	tree->n_directories++;
	return 0;
}

static int open_new_directory(struct tree *tree, const char *path, int *ret_fd, struct err *err)
{
	const char *name;
	int parent_fd, fd, r;

	if (!*path) {
		fd = open_directory(tree, "");
		if (fd < 0)
			return err_set(err, fd, "open the layer's root");
		*ret_fd = fd;
		return 0;
	}

	r = get_parent(tree, path, &parent_fd, &name, err);
	if (r < 0)
		return r;
	fd = openat(parent_fd, name, O_DIRECTORY | O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		fd = make_missing_directory(parent_fd, name, 0700);
	if (fd == -ENOTDIR || fd == -ELOOP) {
		r = dir_remove_all(parent_fd, name);
		fd = r < 0 ? r : make_missing_directory(parent_fd, name, 0700);
	}
	if (fd < 0)
		return err_set(err, fd, "make directory");
	*ret_fd = fd;
	return 0;
}

int tree_make_directory(struct tree *tree, const char *path, const struct tree_meta *meta,
                        struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	int r;

	r = open_new_directory(tree, path, &fd, err);
	if (r < 0)
		return r;
	r = apply_meta(fd, meta, err);
	if (r < 0)
		return r;
	r = remember_times(tree, path, meta);
	return r < 0 ? err_oom(err) : 0;
}

int tree_open_file(struct tree *tree, const char *path, int *ret_fd, struct err *err)
{
	const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
	const char *name;
	int parent_fd, fd, r;

	r = get_parent(tree, path, &parent_fd, &name, err);
	if (r < 0)
		return r;
	fd = openat(parent_fd, name, flags, 0600);
	if (fd < 0 && errno == EEXIST) {
		r = dir_remove_all(parent_fd, name);
		if (r < 0)
			return err_set(err, r, "replace");
		fd = openat(parent_fd, name, flags, 0600);
	}
	if (fd < 0)
		return err_set(err, -errno, "create");
	*ret_fd = fd;
	return 0;
}

int tree_finish_file(int fd, const struct tree_meta *meta, struct err *err)
{
	int r;

	r = apply_meta(fd, meta, err);
	if (r < 0)
		return r;
	if (futimens(fd, meta->times) < 0)
		return err_set(err, -errno, "set times");
	return 0;
}

/* Makes room for a name that is no directory and runs make() on it. */
struct new_name {
	int parent_fd;
	const char *name;
	const char *target; /* of a symbolic link */
	mode_t mode;        /* of a node */
	dev_t device;
	int target_fd; /* directory of a hard link's target */
};

typedef int (*make_fn)(const struct new_name *new);

static int make_name(struct tree *tree, const char *path, make_fn make, struct new_name *new,
                     const char *what, struct err *err)
{
	int r;

	r = get_parent(tree, path, &new->parent_fd, &new->name, err);
	if (r < 0)
		return r;
	r = make(new);
	if (r == -EEXIST) {
		r = dir_remove_all(new->parent_fd, new->name);
		if (r == 0)
			r = make(new);
	}
	return r < 0 ? err_set(err, r, "%s", what) : 0;
}

static int make_symlink(const struct new_name *new)
{
	return symlinkat(new->target, new->parent_fd, new->name) < 0 ? -errno : 0;
}

static int make_node(const struct new_name *new)
{
	return mknodat(new->parent_fd, new->name, new->mode, new->device) < 0 ? -errno : 0;
}

static int make_link(const struct new_name *new)
{
	return linkat(new->target_fd, new->target, new->parent_fd, new->name, 0) < 0 ? -errno : 0;
}

static int apply_meta_by_name(const struct new_name *new, const struct tree_meta *meta,
                              struct err *err)
{
	if (fchownat(new->parent_fd, new->name, meta->uid, meta->gid, AT_SYMLINK_NOFOLLOW) < 0)
		return err_set(err, -errno, "set owner %u:%u", meta->uid, meta->gid);
	/* A name that was made a moment ago and is no link: nothing is followed. */
	if (!new->target && fchmodat(new->parent_fd, new->name, meta->mode, 0) < 0)
		return err_set(err, -errno, "set mode %04o", meta->mode);
	if (utimensat(new->parent_fd, new->name, meta->times, AT_SYMLINK_NOFOLLOW) < 0)
		return err_set(err, -errno, "set times");
	return 0;
}

int tree_make_symlink(struct tree *tree, const char *path, const char *target,
                      const struct tree_meta *meta, struct err *err)
{
	struct new_name new = {.target = target, .target_fd = -EBADF};
	int r;

	r = make_name(tree, path, make_symlink, &new, "make symbolic link", err);
	if (r == 0)
		r = apply_meta_by_name(&new, meta, err);
	return r;
}

int tree_make_node(struct tree *tree, const char *path, mode_t type, dev_t device,
                   const struct tree_meta *meta, struct err *err)
{
	struct new_name new = {.mode = type | 0600, .device = device, .target_fd = -EBADF};
	int r;

	r = make_name(tree, path, make_node, &new, "make device node", err);
	if (r == 0)
		r = apply_meta_by_name(&new, meta, err);
	return r;
}

int tree_make_link(struct tree *tree, const char *path, const char *target, struct err *err)
{
	_cleanup_close_ int target_fd = -EBADF;
	struct new_name new = {};
	char directory[PATH_MAX];
	const char *slash = strrchr(target, '/');
	size_t n = slash ? (size_t)(slash - target) : 0;
	struct stat st;

	if (strcmp(path, target) == 0)
		return 0;
	memcpy(directory, target, n);
	directory[n] = '\0';
	target_fd = open_directory(tree, directory);
	if (target_fd < 0)
		return err_set(err, target_fd, "open directory of hard link target %.200s", target);
	new.target_fd = target_fd;
	new.target = slash ? slash + 1 : target;
	/* Looked for first: the name must not be removed for a link that cannot be made. */
	if (fstatat(target_fd, new.target, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return err_set(err, -errno, "find hard link target %.200s in this layer", target);
	if (S_ISDIR(st.st_mode))
		return err_text(err, -EBADMSG, "hard link target %.200s is a directory", target);
	return make_name(tree, path, make_link, &new, "make hard link", err);
}

static int set_opaque(int parent_fd, const char *name)
{
	_cleanup_close_ int fd =
		openat(parent_fd, name, O_DIRECTORY | O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0 || fsetxattr(fd, OPAQUE_XATTR, "y", 1, 0) < 0)
		return -errno;
	return 0;
}

int tree_make_whiteout(struct tree *tree, const char *path, struct err *err)
{
	const char *name;
	struct stat st;
	int parent_fd, r;

	r = get_parent(tree, path, &parent_fd, &name, err);
	if (r < 0)
		return r;
	if (mknodat(parent_fd, name, S_IFCHR, makedev(0, 0)) == 0)
		return 0;
	if (errno != EEXIST)
		return err_set(err, -errno, "make whiteout");

	/* This layer has an entry of that name: a whiteout speaks of the layers below only. */
	if (fstatat(parent_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return err_set(err, -errno, "make whiteout");
	if (!S_ISDIR(st.st_mode))
		return 0;
	r = set_opaque(parent_fd, name);
	return r < 0 ? err_set(err, r, "make directory opaque") : 0;
}

int tree_make_opaque(struct tree *tree, const char *path, struct err *err)
{
	_cleanup_close_ int fd = open_or_make_directory(tree, path);

	if (fd < 0)
		return err_set(err, fd, "open directory");
	if (fsetxattr(fd, OPAQUE_XATTR, "y", 1, 0) < 0)
		return err_set(err, -errno, "make directory opaque");
	return 0;
}

int tree_finish(struct tree *tree, struct err *err)
{
	for (size_t i = 0; i < tree->n_directories; i++) {
		const struct directory_times *entry = &tree->directories[i];
		_cleanup_close_ int fd = open_directory(tree, entry->path);

		/* A later entry may have taken its place. */
		if (fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP)
			continue;
		if (fd < 0)
			return err_set(err, fd, "open directory %s", entry->path);
		if (futimens(fd, entry->times) < 0)
			return err_set(err, -errno, "set times of %s", entry->path);
	}
	return 0;
}
