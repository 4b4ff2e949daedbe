/*
 * What a task mounts in its container, and what it must not see or write. Every place inside the
 * root is found with openat2(2) and mounted on by descriptor: a link of the image or of a volume
 * must not lead a mount or a mask elsewhere (CVE-2021-30465, CVE-2025-31133, CVE-2025-52881).
 */
#include "agent/task/child_steps.h"

#include <errno.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "agent/task/host_mounts.h"
#include "agent/task/host_path.h"
#include "agent/task/rootfs.h"
#include "agent/task/volume_fill.h"
#include "lib/fd.h"
#include "lib/parse.h"

const char *const child_etc_files[3] = {"hosts", "hostname", "resolv.conf"};

/* --- mounts of the task --- */

static int set_propagation(int fd, unsigned long propagation)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return sys_mount(NULL, path, NULL, propagation, NULL);
}

/* Never on procfs: what reads it believes it (masked paths, CVE-2019-16884). */
static int attach_mount(struct child *child, int mount_fd, const char *path, enum rootfs_kind kind)
{
	_cleanup_close_ int target = rootfs_target(child->root_fd, path, kind);
	struct statfs fs;

	if (target < 0)
		return target;
	if (fstatfs(target, &fs) < 0)
		return -errno;
	if (fs.f_type == PROC_SUPER_MAGIC)
		return -EPERM;
	return mount_attach(mount_fd, target);
}

/* Read-only means all of it, as with Docker; before Linux 5.12 only the mount itself can be. */
static int set_bind_attr(int tree, const struct mount_spec *mount)
{
	bool all = mount->recursive_attr || (mount->recursive && (mount->attr & MOUNT_ATTR_RDONLY));
	int r;

	if (!mount->attr)
		return 0;
	r = mount_add_attr(tree, mount->attr, all);
	if (r == -EOPNOTSUPP && !mount->recursive_attr)
		r = mount_add_attr(tree, mount->attr, false);
	return r;
}

static int clone_source(struct child *child, const struct mount_spec *mount,
                        enum rootfs_kind *ret_kind)
{
	bool refused = false;
	_cleanup_close_ int source = host_path_open(child->plan->policy, mount->source, &refused);
	struct stat st;

	if (refused)
		child->where.step = CHILD_MOUNT_REFUSED;
	if (source < 0)
		return source;
	if (fstat(source, &st) < 0)
		return -errno;
	*ret_kind = S_ISDIR(st.st_mode) ? ROOTFS_DIRECTORY : ROOTFS_FILE;
	return mount_clone(source, mount->recursive);
}

/* As the host has it now. After a failure this process ends, wherever it is then. */
static int clone_source_of_host(struct child *child, const struct mount_spec *mount,
                                enum rootfs_kind *ret_kind)
{
	_cleanup_close_ int own = -EBADF, tree = -EBADF;
	int r = host_mounts_enter(child->plan->host_mounts_fd, &own);

	if (r < 0)
		return r;
	tree = clone_source(child, mount, ret_kind);
	if (tree < 0)
		return tree;
	r = host_mounts_leave(own);
	return r < 0 ? r : TAKE_FD(tree);
}

static int bind_mount(struct child *child, const struct mount_spec *mount)
{
	enum rootfs_kind kind = ROOTFS_DIRECTORY;
	_cleanup_close_ int tree = -EBADF;
	int r;

	child->where.step = CHILD_MOUNT_SOURCE;
	tree = clone_source_of_host(child, mount, &kind);
	if (tree < 0)
		return tree;

	child->where.step = CHILD_MOUNTS;
	r = attach_mount(child, tree, mount->target, kind);
	if (r == 0)
		r = set_propagation(tree, mount->propagation);
	return r < 0 ? r : set_bind_attr(tree, mount);
}

/* The directory itself is root's, as the container counts and so on the disk. */
static int open_volume(struct child *child, const struct mount_spec *mount)
{
	const struct child_plan *plan = child->plan;
	int r = plan->userns ? userns_own_files(NULL) : 0, fd;

	if (r < 0)
		return r;
	fd = volume_open(&mount->volume, &plan->volume_dirs);
	r = plan->userns ? userns_own_files(plan->userns) : 0;
	if (r < 0 && fd >= 0)
		fd_close(fd);
	return r < 0 ? r : fd;
}

/* By way of a mount, so that ids are the same in the image and in the volume. */
static int copy_image(struct child *child, const struct volume_fill *fill, int image, int volume)
{
	_cleanup_close_ int tree = -EBADF, place = -EBADF;
	int r;

	if (fill->copy_fd < 0)
		return volume_copy(image, volume);
	tree = mount_clone(fill->copy_fd, false);
	r = tree < 0 ? tree : child_map_tree(child, tree, false, fill->copy_fd);
	if (r < 0)
		return r;
	place = openat(tree, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return place < 0 ? -errno : volume_copy(image, place);
}

/* What is made to fill a volume is root's, as the volumes are. */
static int begin_fill(struct child *child, const struct volume *volume, int volume_fd, int image,
                      struct volume_fill *fill)
{
	const struct child_plan *plan = child->plan;
	int r = plan->userns ? userns_own_files(NULL) : 0, own;

	if (r < 0)
		return r;
	r = volume_fill_begin(volume, &plan->volume_dirs, volume_fd, image, fill);
	own = plan->userns ? userns_own_files(plan->userns) : 0;
	return own < 0 ? own : r;
}

/* source: the volume itself; tree: its mount for the container. */
static int fill_volume(struct child *child, const struct mount_spec *mount, int source, int tree)
{
	bool mounted = mount->volume.scope == VOLUME_MOUNTED;
	_cleanup_close_ int volume = -EBADF, image = -EBADF;
	struct volume_fill fill = VOLUME_FILL_EMPTY;
	int r;

	if (mounted && mount->nocopy)
		return 0;
	volume = openat(tree, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	/* A server that gives root no rights: it is for the container's user to use. */
	if (volume < 0)
		return mounted && errno == EACCES ? 0 : -errno;
	image = mount->nocopy ? -ENOENT : volume_open_image(child->root_fd, mount->target);
	if (image < 0 && image != -ENOENT && image != -ENOTDIR && image != -EXDEV)
		return image;

	r = begin_fill(child, &mount->volume, mounted ? volume : source, image, &fill);
	if (r > 0) {
		r = copy_image(child, &fill, image, volume);
		if (r == 0)
			r = volume_fill_commit(&fill);
	}
	volume_fill_done(&fill);
	return r;
}

/* A volume is ours: ECS_ALLOWED_HOST_PATHS is not about it. */
static int volume_mount(struct child *child, const struct mount_spec *mount)
{
	_cleanup_close_ int volume = -EBADF, tree = -EBADF;
	bool own = mount->volume.scope != VOLUME_MOUNTED;
	int r = 0;

	child->where.step = CHILD_VOLUME;
	volume = open_volume(child, mount);
	if (volume < 0)
		return volume;
	/* What is mounted has labels and ids of its own: a server's, or the host's. */
	if (own)
		r = label_file_shared(&child->spec->labels, volume);
	if (r < 0)
		return r;
	tree = mount_clone(volume, mount->recursive);
	if (tree < 0)
		return tree;
	if (own)
		r = child_map_tree(child, tree, mount->recursive, volume);
	if (r == 0)
		r = fill_volume(child, mount, volume, tree);
	if (r < 0)
		return r;

	child->where.step = CHILD_MOUNTS;
	r = attach_mount(child, tree, mount->target, ROOTFS_DIRECTORY);
	if (r == 0)
		r = set_propagation(tree, mount->propagation);
	return r < 0 ? r : set_bind_attr(tree, mount);
}

static bool has_option(const struct mount_spec *mount, const char *key)
{
	for (size_t i = 0; i < mount->n_options; i++)
		if (strcmp(mount->options[i].key, key) == 0)
			return true;
	return false;
}

/* A directory that the image has keeps its mode, /tmp for one; a new one gets that of the kernel,
 * 1777. Both as with Docker. */
static int tmpfs_mount(struct child *child, const struct mount_spec *mount)
{
	_cleanup_close_ int fd = -EBADF, place = -EBADF;
	struct mount_option options[SPEC_MOUNT_OPTIONS_MAX + 1];
	size_t n = 0;
	char mode[8];
	struct stat st;

	for (; n < mount->n_options; n++)
		options[n] = mount->options[n];
	place = has_option(mount, "mode")
	                ? -ENOENT
	                : fd_open_in_root(child->root_fd, mount->target, O_PATH | O_DIRECTORY, 0);
	if (place >= 0 && fstat(place, &st) == 0) {
		snprintf(mode, sizeof(mode), "%o", st.st_mode & 07777);
		options[n++] = (struct mount_option){"mode", mode};
	}
	fd = child_mount_new(child, "tmpfs", options, n, mount->attr);
	return fd < 0 ? fd : attach_mount(child, fd, mount->target, ROOTFS_DIRECTORY);
}

int child_make_mounts(struct child *child)
{
	for (size_t i = 0; i < child->spec->n_mounts; i++) {
		const struct mount_spec *mount = &child->spec->mounts[i];
		int r;

		child->where.step = CHILD_MOUNTS;
		child->where.item = (int32_t)i;
		if (mount->type == MOUNT_BIND)
			r = bind_mount(child, mount);
		else if (mount->type == MOUNT_VOLUME)
			r = volume_mount(child, mount);
		else
			r = tmpfs_mount(child, mount);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ECS Exec must not keep a container from running: what fails is told, and left out. */
int child_mount_execute_command(struct child *child)
{
	const struct execute_command_mount *mounts = child->plan->execute_command;

	for (int i = 0; mounts && i < EXECUTE_COMMAND_MOUNTS; i++) {
		const struct execute_command_mount *mount = &mounts[i];
		int r = child->plan->userns
		                ? userns_map_mount(child->plan->userns, mount->fd, false)
		                : 0;

		if (r == 0)
			r = attach_mount(child, mount->fd, mount->target,
			                 mount->is_directory ? ROOTFS_DIRECTORY : ROOTFS_FILE);
		if (r == 0)
			r = set_propagation(mount->fd, MS_PRIVATE);
		if (r == 0)
			r = mount_add_attr(mount->fd, mount->attr, false);
		if (r == 0)
			continue;
		child->where.item = i;
		child->where.error = r;
		return child_send_report(child->plan, child->where, -EBADF) ? 0 : -EPIPE;
	}
	return 0;
}

static bool is_mounted_by_task(const struct child *child, const char *path)
{
	for (size_t i = 0; i < child->spec->n_mounts; i++)
		if (path_is_same(child->spec->mounts[i].target, path))
			return true;
	return false;
}

static int give_to_root(const struct child *child, int fd)
{
	const struct userns *userns = child->plan->userns;

	if (!userns)
		return 0;
	return fchownat(fd, "", userns->root_uid, userns->root_gid, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

int child_mount_etc_files(struct child *child)
{
	for (size_t i = 0; i < ARRAY_SIZE(child_etc_files) && !child->spec->bare; i++) {
		_cleanup_close_ int source = -EBADF, tree = -EBADF;
		char from[PATH_MAX], to[32];
		int r;

		child->where.item = (int32_t)i;
		snprintf(from, sizeof(from), "%s/%s", child->plan->dir, child_etc_files[i]);
		snprintf(to, sizeof(to), "/etc/%s", child_etc_files[i]);
		if (is_mounted_by_task(child, to))
			continue;
		source = open(from, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		if (source < 0)
			return -errno;
		r = give_to_root(child, source);
		if (r == 0)
			r = label_file_private(&child->spec->labels, source);
		if (r < 0)
			return r;
		tree = mount_clone(source, false);
		if (tree < 0)
			return tree;
		r = attach_mount(child, tree, to, ROOTFS_FILE);
		if (r == 0)
			r = set_propagation(tree, MS_PRIVATE);
		if (r == 0 && child->spec->readonly_root)
			r = mount_add_attr(tree, MOUNT_ATTR_RDONLY, false);
		if (r < 0)
			return r;
	}
	return 0;
}

int child_make_cwd(struct child *child)
{
	_cleanup_close_ int fd = rootfs_target(child->root_fd, child->spec->cwd, ROOTFS_DIRECTORY);

	return fd < 0 ? fd : 0;
}

/* --- what the container must not see or write --- */

static int make_path_readonly(const struct child *child, const char *path)
{
	_cleanup_close_ int target = -EBADF, tree = -EBADF;
	int r;

	target = fd_open_in_root(child->root_fd, path, O_PATH, 0);
	if (target < 0)
		return target == -ENOENT ? 0 : target;
	tree = mount_clone(target, true);
	if (tree < 0)
		return tree;
	r = mount_attach(tree, target);
	return r < 0 ? r : mount_add_attr(tree, MOUNT_ATTR_RDONLY, false);
}

int child_make_readonly_paths(struct child *child)
{
	const char **paths = child->spec->readonly_paths;

	for (size_t i = 0; paths && paths[i]; i++) {
		int r;

		child->where.item = (int32_t)i;
		r = make_path_readonly(child, paths[i]);
		if (r < 0)
			return r;
	}
	return 0;
}

static int mask_path(const struct child *child, const char *path)
{
	static const struct mount_option empty[] = {{"size", "0k"}, {"mode", "755"}};
	_cleanup_close_ int target = -EBADF, cover = -EBADF;
	struct stat st;

	target = fd_open_in_root(child->root_fd, path, O_PATH, 0);
	if (target < 0)
		return target == -ENOENT || target == -ENOTDIR ? 0 : target;
	if (fstat(target, &st) < 0)
		return -errno;
	cover = S_ISDIR(st.st_mode) ? child_mount_new(child, "tmpfs", empty, ARRAY_SIZE(empty),
	                                              QUIET | MOUNT_ATTR_RDONLY)
	                            : mount_clone(child->null_fd, false);
	return cover < 0 ? cover : mount_attach(cover, target);
}

int child_mask_paths(struct child *child)
{
	const char **paths = child->spec->masked_paths;

	for (size_t i = 0; paths && paths[i]; i++) {
		int r;

		child->where.item = (int32_t)i;
		r = mask_path(child, paths[i]);
		if (r < 0)
			return r;
	}
	return 0;
}

int child_make_root_readonly(struct child *child)
{
	if (!child->spec->readonly_root)
		return 0;
	return mount_add_attr(child->root_fd, MOUNT_ATTR_RDONLY, false);
}
