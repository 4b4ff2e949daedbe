/*
 * The steps stand in a table, in the order they run: first what needs the host's view (cgroup,
 * namespaces, mounts), then the change of root, then giving up. Every place inside the root is
 * found with openat2(2) and mounted on by descriptor, because the image and the volumes are the
 * tenant's: a link must not lead a mount, a write or a mask to the host or past the kernel's own
 * file systems (CVE-2021-30465, CVE-2023-28642, CVE-2025-31133, CVE-2025-52881).
 */
#include "agent/task/child.h"

#include <errno.h>
#include <limits.h>
#include <linux/keyctl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#include "agent/task/capability.h"
#include "agent/task/mount.h"
#include "agent/task/rootfs.h"
#include "agent/task/user.h"
#include "lib/fd.h"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define QUIET        (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)

struct child {
	const struct child_plan *plan;
	const struct container_spec *spec;
	struct child_report where; /* the step it is at */
	int root_fd;               /* of the overlay, O_PATH */
	int proc_fd;               /* of our own procfs */
	int dev_fd;                /* of our own /dev */
	int null_fd;               /* our own /dev/null, O_PATH */
	int null_rdwr_fd;          /* the same, opened */
	struct user_ids ids;
};

static const char *const own_directories[] = {"proc", "sys", "dev"};
static const char *const etc_files[] = {"hosts", "hostname", "resolv.conf"};

/* --- cgroup, network, names --- */

static int join_cgroup(struct child *child)
{
	int r = cgroup_join_cloned(child->plan->cgroup);

	if (r < 0)
		return r;
	/* Only now, so that the namespace's root is the container's cgroup. */
	return unshare(CLONE_NEWCGROUP) < 0 ? -errno : 0;
}

static int enter_network(struct child *child)
{
	if (child->plan->netns_fd < 0)
		return 0;
	return setns(child->plan->netns_fd, CLONE_NEWNET) < 0 ? -errno : 0;
}

static int set_hostname(struct child *child)
{
	const char *name = child->plan->hostname;

	return sethostname(name, strlen(name)) < 0 ? -errno : 0;
}

/* Keys of ours, or of another container, must not be found through the session. */
static int new_keyring(struct child *child)
{
	(void)child;
	if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS)
		return -errno;
	return 0;
}

/* --- file systems of the kernel --- */

static int make_own_directories(struct child *child)
{
	char root[PATH_MAX];

	snprintf(root, sizeof(root), "%s/root", child->plan->dir);
	child->root_fd = open(root, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (child->root_fd < 0)
		return -errno;

	for (size_t i = 0; i < ARRAY_SIZE(own_directories); i++) {
		int fd;

		child->where.item = (int32_t)i;
		fd = rootfs_own_directory(child->root_fd, own_directories[i]);
		if (fd < 0)
			return fd;
		fd_close(fd);
	}
	return 0;
}

/* Mount on a directory of the root that the image could not turn into a link. */
static int attach_on_own(struct child *child, int mount_fd, const char *name)
{
	_cleanup_close_ int target = rootfs_own_directory(child->root_fd, name);

	return target < 0 ? target : mount_attach(mount_fd, target);
}

static int mount_proc(struct child *child)
{
	child->proc_fd = mount_new("proc", NULL, 0, QUIET);
	if (child->proc_fd < 0)
		return child->proc_fd;
	return attach_on_own(child, child->proc_fd, "proc");
}

/* Write below our own procfs: neither a link nor another mount can be on the way. */
static int write_proc(const struct child *child, const char *path, const char *text)
{
	struct open_how how = {
		.flags = O_WRONLY | O_CLOEXEC,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS,
	};
	_cleanup_close_ int fd = -EBADF;

	fd = (int)syscall(SYS_openat2, child->proc_fd, path, &how, sizeof(how));
	if (fd < 0)
		return -errno;
	return write(fd, text, strlen(text)) < 0 ? -errno : 0;
}

static int set_oom_score(struct child *child)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", child->spec->oom_score_adj);
	return write_proc(child, "self/oom_score_adj", text);
}

static int set_sysctls(struct child *child)
{
	for (size_t i = 0; i < child->spec->n_sysctls; i++) {
		char path[256];
		int r;

		child->where.item = (int32_t)i;
		snprintf(path, sizeof(path), "sys/%s", child->spec->sysctls[i].path);
		r = write_proc(child, path, child->spec->sysctls[i].value);
		if (r < 0)
			return r;
	}
	return 0;
}

static int make_node(int dir_fd, const char *name, mode_t mode, dev_t rdev)
{
	return mknodat(dir_fd, name, mode, rdev) < 0 ? -errno : 0;
}

/* Docker's devices and links. The umask is 0 here. */
static int fill_dev(int dev_fd)
{
	static const struct {
		const char *name;
		unsigned int major, minor;
	} nodes[] = {
		{"null", 1, 3},   {"zero", 1, 5},    {"full", 1, 7},
		{"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
	};
	static const struct {
		const char *name, *target;
	} links[] = {
		{"fd", "/proc/self/fd"},       {"stdin", "/proc/self/fd/0"},
		{"stdout", "/proc/self/fd/1"}, {"stderr", "/proc/self/fd/2"},
		{"core", "/proc/kcore"},       {"ptmx", "pts/ptmx"},
	};
	static const char *const directories[] = {"pts", "shm", "mqueue"};

	for (size_t i = 0; i < ARRAY_SIZE(nodes); i++) {
		int r = make_node(dev_fd, nodes[i].name, S_IFCHR | 0666,
		                  makedev(nodes[i].major, nodes[i].minor));

		if (r < 0)
			return r;
	}
	for (size_t i = 0; i < ARRAY_SIZE(links); i++)
		if (symlinkat(links[i].target, dev_fd, links[i].name) < 0)
			return -errno;
	for (size_t i = 0; i < ARRAY_SIZE(directories); i++)
		if (mkdirat(dev_fd, directories[i], 0755) < 0)
			return -errno;
	return 0;
}

/* Our /dev/null hides paths from the container: be sure that it is the kernel's. */
static int open_null(struct child *child)
{
	struct stat st;

	child->null_fd = openat(child->dev_fd, "null", O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (child->null_fd < 0 || fstat(child->null_fd, &st) < 0)
		return -errno;
	if (!S_ISCHR(st.st_mode) || st.st_rdev != makedev(1, 3))
		return -ENODEV;
	child->null_rdwr_fd = openat(child->dev_fd, "null", O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	return child->null_rdwr_fd < 0 ? -errno : 0;
}

static int attach_in_dev(const struct child *child, const char *name, int mount_fd)
{
	_cleanup_close_ int fd = mount_fd, target = -EBADF;

	if (fd < 0)
		return fd;
	target = openat(child->dev_fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return target < 0 ? -errno : mount_attach(fd, target);
}

static int mount_dev(struct child *child)
{
	static const struct mount_option dev[] = {{"mode", "755"}, {"size", "65536k"}};
	static const struct mount_option pts[] = {
		{"ptmxmode", "0666"}, {"mode", "0620"}, {"gid", "5"}};
	static const struct mount_option shm[] = {{"mode", "1777"}, {"size", "65536k"}};
	int r;

	child->dev_fd = mount_new("tmpfs", dev, ARRAY_SIZE(dev),
	                          MOUNT_ATTR_NOSUID | MOUNT_ATTR_STRICTATIME);
	if (child->dev_fd < 0)
		return child->dev_fd;
	r = fill_dev(child->dev_fd);
	if (r == 0)
		r = attach_on_own(child, child->dev_fd, "dev");
	if (r == 0)
		r = open_null(child);
	if (r == 0)
		r = attach_in_dev(child, "pts",
		                  mount_new("devpts", pts, ARRAY_SIZE(pts),
		                            MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC));
	if (r == 0)
		r = attach_in_dev(child, "shm", mount_new("tmpfs", shm, ARRAY_SIZE(shm), QUIET));
	if (r == 0)
		r = attach_in_dev(child, "mqueue", mount_new("mqueue", NULL, 0, QUIET));
	return r;
}

/* A node at an absolute path; one that is there already must be the same device. */
static int make_device(const struct child *child, const char *path,
                       const struct device_spec *device)
{
	_cleanup_close_ int dir_fd = -EBADF;
	const char *name = strrchr(path, '/') + 1;
	char dir[PATH_MAX];
	struct stat st;

	snprintf(dir, sizeof(dir), "%.*s", (int)(name - path), path);
	dir_fd = rootfs_target(child->root_fd, dir, ROOTFS_DIRECTORY);
	if (dir_fd < 0)
		return dir_fd;
	if (mknodat(dir_fd, name, device->mode, device->rdev) < 0) {
		if (errno != EEXIST || fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return -errno;
		if ((st.st_mode & S_IFMT) != (device->mode & S_IFMT) || st.st_rdev != device->rdev)
			return -EEXIST;
	}
	if (fchownat(dir_fd, name, device->uid, device->gid, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	return 0;
}

static int make_devices(struct child *child)
{
	const struct child_plan *plan = child->plan;
	int r;

	child->where.item = -1;
	for (size_t i = 0; i < plan->n_host_devices; i++) {
		const struct host_device *host = &plan->host_devices[i];
		struct device_spec device = {
			.mode = host->mode, .rdev = host->rdev, .uid = host->uid, .gid = host->gid};
		char path[80];

		snprintf(path, sizeof(path), "/dev/%s", host->path);
		r = make_device(child, path, &device);
		if (r < 0 && r != -EEXIST)
			return r;
	}
	for (size_t i = 0; i < child->spec->n_devices; i++) {
		child->where.item = (int32_t)i;
		r = make_device(child, child->spec->devices[i].path, &child->spec->devices[i]);
		if (r < 0)
			return r;
	}
	return 0;
}

static int mount_sys(struct child *child)
{
	unsigned int attr = QUIET | (child->spec->privileged ? 0 : MOUNT_ATTR_RDONLY);
	_cleanup_close_ int fd = mount_new("sysfs", NULL, 0, attr);

	return fd < 0 ? fd : attach_on_own(child, fd, "sys");
}

/* One hierarchy of v1, such as "cpu,cpuacct" or "name=systemd". */
static int new_cgroup1(const char *hierarchy, unsigned int attr)
{
	struct mount_option options[16];
	size_t n = 0;
	char names[128];
	char *save = NULL;

	if (strncmp(hierarchy, "name=", 5) == 0) {
		options[n++] = (struct mount_option){"none", NULL};
		options[n++] = (struct mount_option){"name", hierarchy + 5};
		return mount_new("cgroup", options, n, attr);
	}
	snprintf(names, sizeof(names), "%s", hierarchy);
	for (char *name = strtok_r(names, ",", &save); name && n < ARRAY_SIZE(options);
	     name = strtok_r(NULL, ",", &save))
		options[n++] = (struct mount_option){name, NULL};
	return mount_new("cgroup", options, n, attr);
}

static int mount_hierarchy(int dir_fd, const char *name, int mount_fd)
{
	_cleanup_close_ int fd = mount_fd, target = -EBADF;

	if (fd < 0)
		return fd;
	if (mkdirat(dir_fd, name, 0755) < 0)
		return -errno;
	target = openat(dir_fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return target < 0 ? -errno : mount_attach(fd, target);
}

/* "cpu" beside "cpu,cpuacct", as programs look for them. */
static int link_controllers(int dir_fd, const char *hierarchy)
{
	char names[128];
	char *save = NULL;

	if (!strchr(hierarchy, ','))
		return 0;
	snprintf(names, sizeof(names), "%s", hierarchy);
	for (char *name = strtok_r(names, ",", &save); name; name = strtok_r(NULL, ",", &save))
		if (symlinkat(hierarchy, dir_fd, name) < 0)
			return -errno;
	return 0;
}

static int fill_cgroup1(const struct child *child, int dir_fd, unsigned int attr)
{
	for (size_t i = 0; child->plan->cgroup_hierarchies[i]; i++) {
		const char *hierarchy = child->plan->cgroup_hierarchies[i];
		const char *name = hierarchy;
		int r;

		if (hierarchy[0] == '\0') {
			r = mount_hierarchy(dir_fd, "unified", mount_new("cgroup2", NULL, 0, attr));
		} else {
			if (strncmp(hierarchy, "name=", 5) == 0)
				name += 5;
			r = mount_hierarchy(dir_fd, name, new_cgroup1(hierarchy, attr));
			if (r == 0)
				r = link_controllers(dir_fd, hierarchy);
		}
		if (r < 0)
			return r;
	}
	return 0;
}

static int mount_cgroup(struct child *child)
{
	static const struct mount_option options[] = {{"mode", "755"}, {"size", "64k"}};
	unsigned int attr = QUIET | (child->spec->privileged ? 0 : MOUNT_ATTR_RDONLY);
	_cleanup_close_ int target = -EBADF, fd = -EBADF;
	int r;

	/* A directory of the sysfs that was just mounted: no image has a say. */
	target = fd_open_in_root(child->root_fd, "sys/fs/cgroup", O_PATH | O_DIRECTORY, 0);
	if (target < 0)
		return target;
	if (!child->plan->cgroup_hierarchies) {
		fd = mount_new("cgroup2", NULL, 0, attr);
		return fd < 0 ? fd : mount_attach(fd, target);
	}

	fd = mount_new("tmpfs", options, ARRAY_SIZE(options), QUIET);
	if (fd < 0)
		return fd;
	r = mount_attach(fd, target);
	if (r == 0)
		r = fill_cgroup1(child, fd, attr);
	if (r == 0)
		r = mount_add_attr(fd, MOUNT_ATTR_RDONLY, false);
	return r;
}

/* --- mounts of the task --- */

/* Docker makes the host directory of a bind mount that is not there. */
static int open_source(struct child *child, const char *path)
{
	int fd = open(path, O_PATH | O_CLOEXEC);
	char parent[PATH_MAX];
	int r;

	if (fd >= 0 || errno != ENOENT)
		return fd < 0 ? -errno : fd;

	/* Nothing is made where nothing may be mounted from: ask for the part that exists. */
	snprintf(parent, sizeof(parent), "%s", path);
	for (char *slash; (slash = strrchr(parent, '/'));) {
		char real[PATH_MAX];

		*(slash == parent ? slash + 1 : slash) = '\0';
		if (realpath(parent, real)) {
			size_t len = strlen(real);

			snprintf(real + len, sizeof(real) - len, "%s", path + strlen(parent));
			if (!policy_allows_host_path(child->plan->policy, real)) {
				child->where.step = CHILD_MOUNT_REFUSED;
				return -EACCES;
			}
			break;
		}
		if (errno != ENOENT)
			return -errno;
	}
	r = dir_create_all(path, 0755);
	if (r < 0)
		return r;
	fd = open(path, O_PATH | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* The policy is about the place itself, wherever links of the host led. */
static int check_source(struct child *child, int fd)
{
	char link[32], path[PATH_MAX];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	if (n < 0)
		return -errno;
	path[n] = '\0';
	if (policy_allows_host_path(child->plan->policy, path))
		return 0;
	child->where.step = CHILD_MOUNT_REFUSED;
	return -EACCES;
}

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

static int bind_mount(struct child *child, const struct mount_spec *mount)
{
	_cleanup_close_ int source = -EBADF, tree = -EBADF;
	struct stat st;
	int r;

	child->where.step = CHILD_MOUNT_SOURCE;
	source = open_source(child, mount->source);
	if (source < 0)
		return source;
	r = check_source(child, source);
	if (r < 0)
		return r;
	if (fstat(source, &st) < 0)
		return -errno;
	tree = mount_clone(source, mount->recursive);
	if (tree < 0)
		return tree;

	child->where.step = CHILD_MOUNTS;
	r = attach_mount(child, tree, mount->target,
	                 S_ISDIR(st.st_mode) ? ROOTFS_DIRECTORY : ROOTFS_FILE);
	if (r == 0)
		r = set_propagation(tree, mount->propagation);
	return r < 0 ? r : set_bind_attr(tree, mount);
}

static int tmpfs_mount(struct child *child, const struct mount_spec *mount)
{
	_cleanup_close_ int fd = mount_new("tmpfs", mount->options, mount->n_options, mount->attr);

	return fd < 0 ? fd : attach_mount(child, fd, mount->target, ROOTFS_DIRECTORY);
}

static int make_mounts(struct child *child)
{
	for (size_t i = 0; i < child->spec->n_mounts; i++) {
		const struct mount_spec *mount = &child->spec->mounts[i];
		int r;

		child->where.step = CHILD_MOUNTS;
		child->where.item = (int32_t)i;
		r = mount->type == MOUNT_BIND ? bind_mount(child, mount)
		                              : tmpfs_mount(child, mount);
		if (r < 0)
			return r;
	}
	return 0;
}

static bool is_mounted_by_task(const struct child *child, const char *path)
{
	for (size_t i = 0; i < child->spec->n_mounts; i++)
		if (strcmp(child->spec->mounts[i].target, path) == 0)
			return true;
	return false;
}

static int mount_etc_files(struct child *child)
{
	for (size_t i = 0; i < ARRAY_SIZE(etc_files); i++) {
		_cleanup_close_ int source = -EBADF, tree = -EBADF;
		char from[PATH_MAX], to[32];
		int r;

		child->where.item = (int32_t)i;
		snprintf(from, sizeof(from), "%s/%s", child->plan->dir, etc_files[i]);
		snprintf(to, sizeof(to), "/etc/%s", etc_files[i]);
		if (is_mounted_by_task(child, to))
			continue;
		source = open(from, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		if (source < 0)
			return -errno;
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

static int make_cwd(struct child *child)
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

static int make_readonly_paths(struct child *child)
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
	cover = S_ISDIR(st.st_mode)
	                ? mount_new("tmpfs", empty, ARRAY_SIZE(empty), QUIET | MOUNT_ATTR_RDONLY)
	                : mount_clone(child->null_fd, false);
	return cover < 0 ? cover : mount_attach(cover, target);
}

static int mask_paths(struct child *child)
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

static int find_user(struct child *child)
{
	return user_resolve(child->root_fd, child->spec->user, child->spec->group, &child->ids);
}

static int make_root_readonly(struct child *child)
{
	if (!child->spec->readonly_root)
		return 0;
	return mount_add_attr(child->root_fd, MOUNT_ATTR_RDONLY, false);
}

/* The old root ends up under the new one and is taken away, with all that was mounted there. */
static int pivot(struct child *child)
{
	int r;

	if (fchdir(child->root_fd) < 0)
		return -errno;
	r = sys_pivot_root(".", ".");
	if (r == 0)
		r = sys_umount(".", MNT_DETACH);
	if (r == 0 && chdir("/") < 0)
		r = -errno;
	return r;
}

/* --- the process itself --- */

/* What a limit is that nobody set: those of a process that the kernel and init(1) start; open files
 * as on Amazon's container hosts, so that an image finds what it was tried with. */
static const struct rlimit_spec default_rlimits[] = {
	{RLIMIT_AS, {RLIM_INFINITY, RLIM_INFINITY}},
	{RLIMIT_CORE, {RLIM_INFINITY, RLIM_INFINITY}},
	{RLIMIT_CPU, {RLIM_INFINITY, RLIM_INFINITY}},
	{RLIMIT_DATA, {RLIM_INFINITY, RLIM_INFINITY}},
	{RLIMIT_FSIZE, {RLIM_INFINITY, RLIM_INFINITY}},
	{RLIMIT_LOCKS, {RLIM_INFINITY, RLIM_INFINITY}},
	{RLIMIT_MEMLOCK, {8 << 20, 8 << 20}},
	{RLIMIT_MSGQUEUE, {819200, 819200}},
	{RLIMIT_NICE, {0, 0}},
	{RLIMIT_NOFILE, {32768, 65536}},
	{RLIMIT_NPROC, {RLIM_INFINITY, RLIM_INFINITY}},
	{RLIMIT_RSS, {RLIM_INFINITY, RLIM_INFINITY}},
	{RLIMIT_RTPRIO, {0, 0}},
	{RLIMIT_RTTIME, {RLIM_INFINITY, RLIM_INFINITY}},
	{RLIMIT_STACK, {8 << 20, RLIM_INFINITY}},
};

/* As near to the default as a root without CAP_SYS_RESOURCE comes. */
static int set_default_rlimit(const struct rlimit_spec *wanted)
{
	struct rlimit now, limit = wanted->limit;

	if (setrlimit(wanted->resource, &limit) == 0)
		return 0;
	if (errno != EPERM || getrlimit(wanted->resource, &now) < 0)
		return -errno;
	limit.rlim_max = now.rlim_max;
	if (limit.rlim_cur > limit.rlim_max)
		limit.rlim_cur = limit.rlim_max;
	return setrlimit(wanted->resource, &limit) < 0 ? -errno : 0;
}

static int set_rlimits(struct child *child)
{
	int r;

	child->where.item = -1;
	for (size_t i = 0; i < ARRAY_SIZE(default_rlimits); i++) {
		r = set_default_rlimit(&default_rlimits[i]);
		if (r < 0)
			return r;
	}
	for (size_t i = 0; i < child->spec->n_rlimits; i++) {
		const struct rlimit_spec *rlimit = &child->spec->rlimits[i];

		child->where.item = (int32_t)i;
		if (setrlimit(rlimit->resource, &rlimit->limit) < 0)
			return -errno;
	}
	return 0;
}

/* Descriptors 0, 1 and 2; nothing else but the report, which closes with execve(2). */
static int set_stdio(struct child *child)
{
	const struct child_plan *plan = child->plan;
	int out = plan->stdout_fd >= 0 ? plan->stdout_fd : child->null_rdwr_fd;
	int error = plan->stderr_fd >= 0 ? plan->stderr_fd : child->null_rdwr_fd;

	if (dup2(child->null_rdwr_fd, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 ||
	    dup2(error, STDERR_FILENO) < 0)
		return -errno;
	/* So that a user other than root can open /dev/stdout, which is the pipe. */
	if ((plan->stdout_fd >= 0 && fchown(STDOUT_FILENO, child->ids.uid, child->ids.gid) < 0) ||
	    (plan->stderr_fd >= 0 && fchown(STDERR_FILENO, child->ids.uid, child->ids.gid) < 0))
		return -errno;
	return fd_close_from(3, &plan->report_fd, 1);
}

/* CVE-2024-21626: a working directory outside the root would be a way out. The kernel marks one. */
static int enter_cwd(struct child *child)
{
	char path[PATH_MAX];

	if (chdir(child->spec->cwd) < 0)
		return -errno;
	if (syscall(SYS_getcwd, path, sizeof(path)) < 0)
		return -errno;
	return path[0] == '/' ? 0 : -EXDEV;
}

/* Without no_new_privs a filter needs CAP_SYS_ADMIN, so it comes before the drop. */
static int early_seccomp(struct child *child)
{
	if (!child->plan->seccomp || child->spec->no_new_privs)
		return 0;
	return seccomp_filter_install(child->plan->seccomp);
}

static int drop_privileges(struct child *child)
{
	return capability_become(&child->ids, child->spec->cap_bounding, child->spec->cap_permitted,
	                         child->spec->cap_effective);
}

static int no_new_privs(struct child *child)
{
	if (!child->spec->no_new_privs)
		return 0;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	return child->plan->seccomp ? seccomp_filter_install(child->plan->seccomp) : 0;
}

static int reset_signals(void)
{
	sigset_t none;

	for (int s = 1; s <= SIGRTMAX; s++)
		if (s != SIGKILL && s != SIGSTOP)
			(void)signal(s, SIG_DFL); /* fails for the two that libc keeps */
	sigemptyset(&none);
	return sigprocmask(SIG_SETMASK, &none, NULL) < 0 ? -errno : 0;
}

/* init: process 1 of the container, which passes signals on and collects orphans. */
static _Noreturn void init_loop(pid_t main_pid)
{
	sigset_t all;

	sigfillset(&all);
	for (;;) {
		int status, signal = sigwaitinfo(&all, NULL);
		pid_t pid;

		if (signal > 0 && signal != SIGCHLD)
			(void)kill(main_pid, signal); /* it may just have ended */
		while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
			if (pid == main_pid)
				_exit(WIFEXITED(status) ? WEXITSTATUS(status)
				                        : 128 + WTERMSIG(status));
	}
}

static int start_init(struct child *child)
{
	sigset_t all;
	pid_t pid;

	if (!child->spec->init)
		return 0;
	sigfillset(&all);
	if (sigprocmask(SIG_SETMASK, &all, NULL) < 0)
		return -errno;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid > 0) {
		fd_close(child->plan->report_fd);
		(void)prctl(PR_SET_NAME, "init");
		init_loop(pid);
	}
	return setpgid(0, 0) < 0 ? -errno : 0;
}

static const char *env_get(const struct child_plan *plan, const char *name)
{
	size_t len = strlen(name);

	for (size_t i = 0; plan->env[i]; i++)
		if (strncmp(plan->env[i], name, len) == 0 && plan->env[i][len] == '=')
			return plan->env[i] + len + 1;
	return NULL;
}

static void add_home(const struct child *child)
{
	static char home[USER_HOME_MAX + 8];

	if (env_get(child->plan, "HOME"))
		return;
	snprintf(home, sizeof(home), "HOME=%s", child->ids.home);
	child->plan->env[child->plan->n_env] = home;
	child->plan->env[child->plan->n_env + 1] = NULL;
}

/* Can this file be run: 0, -ENOENT, -EACCES, -EISDIR. */
static int check_program(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return -errno;
	if (S_ISDIR(st.st_mode))
		return -EISDIR;
	return faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) < 0 ? -errno : 0;
}

/* The first program of that name on PATH. -ENOENT: none; -EACCES: only ones that cannot be run. */
static int find_program(const struct child *child, const char *name, char *path, size_t n)
{
	const char *dirs = env_get(child->plan, "PATH");
	int result = -ENOENT;

	if (strchr(name, '/')) {
		if (snprintf(path, n, "%s", name) >= (int)n)
			return -ENAMETOOLONG;
		return check_program(path);
	}
	for (const char *dir = dirs ? dirs : DEFAULT_PATH; *dir;) {
		size_t len = strcspn(dir, ":");

		/* A relative entry would run what the working directory holds. */
		if (dir[0] == '/' && snprintf(path, n, "%.*s/%s", (int)len, dir, name) < (int)n) {
			int r = check_program(path);

			if (r == 0)
				return 0;
			if (r == -EACCES)
				result = r;
		}
		dir += len + (dir[len] == ':');
	}
	return result;
}

static bool send_report(const struct child_plan *plan, struct child_report report)
{
	return write(plan->report_fd, &report, sizeof(report)) == (ssize_t)sizeof(report);
}

/* Is the difference between "not found" and "found, but its interpreter is not". */
#define ITEM_FOUND 1

static int execute(struct child *child)
{
	char path[PATH_MAX];
	int r;

	add_home(child);
	r = find_program(child, child->spec->args[0], path, sizeof(path));
	if (r < 0)
		return r;
	r = reset_signals();
	if (r < 0)
		return r;

	child->where.step = CHILD_READY;
	if (!send_report(child->plan, child->where))
		return -EPIPE;
	child->where.step = CHILD_EXEC;
	child->where.item = ITEM_FOUND;
	execve(path, (char **)child->spec->args, child->plan->env);
	return -errno;
}

static const struct {
	enum child_step step;
	int (*run)(struct child *child);
} steps[] = {
	{CHILD_CGROUP, join_cgroup},
	{CHILD_NETWORK, enter_network},
	{CHILD_HOSTNAME, set_hostname},
	{CHILD_KEYRING, new_keyring},
	{CHILD_OWN_DIRECTORIES, make_own_directories},
	{CHILD_PROC, mount_proc},
	{CHILD_OOM_SCORE, set_oom_score},
	{CHILD_SYSCTLS, set_sysctls},
	{CHILD_DEV, mount_dev},
	{CHILD_DEVICES, make_devices},
	{CHILD_SYS, mount_sys},
	{CHILD_CGROUP_MOUNT, mount_cgroup},
	{CHILD_MOUNTS, make_mounts},
	{CHILD_ETC, mount_etc_files},
	{CHILD_MAKE_CWD, make_cwd},
	{CHILD_READONLY_PATHS, make_readonly_paths},
	{CHILD_MASKED_PATHS, mask_paths},
	{CHILD_USER, find_user},
	{CHILD_READONLY_ROOT, make_root_readonly},
	{CHILD_PIVOT, pivot},
	{CHILD_RLIMITS, set_rlimits},
	{CHILD_STDIO, set_stdio},
	{CHILD_CWD, enter_cwd},
	{CHILD_SECCOMP, early_seccomp},
	{CHILD_CAPABILITIES, drop_privileges},
	{CHILD_NO_NEW_PRIVS, no_new_privs},
	{CHILD_INIT, start_init},
	{CHILD_EXEC, execute},
};

_Noreturn void child_run(const struct child_plan *plan)
{
	struct child child = {
		.plan = plan,
		.spec = plan->spec,
		.root_fd = -EBADF,
		.proc_fd = -EBADF,
		.dev_fd = -EBADF,
		.null_fd = -EBADF,
		.null_rdwr_fd = -EBADF,
	};

	(void)setsid(); /* fails only for a leader, which a new process is not */
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		int r;

		/* Nodes and mount points get exactly the modes written above. */
		umask(steps[i].step < CHILD_MOUNTS && steps[i].step >= CHILD_DEV ? 0 : 022);
		child.where = (struct child_report){.step = (int32_t)steps[i].step, .item = -1};
		r = steps[i].run(&child);
		if (r < 0) {
			child.where.error = r;
			(void)send_report(plan, child.where); /* the parent may have gone */
			_exit(1);
		}
	}
	_exit(1); /* not reached: execute() returns errors only */
}

/* --- in the parent --- */

static void describe_rlimit(const struct container_spec *spec, int item, int r, struct err *err)
{
	const struct rlimit_spec *rlimit = item >= 0 ? &spec->rlimits[item] : NULL;

	if (rlimit && r == -EPERM)
		err_text(err, r, "rlimit %s: hard limit %llu is more than this host allows",
		         rlimit_name(rlimit->resource), (unsigned long long)rlimit->limit.rlim_max);
	else
		err_set(err, r, "set rlimit %s",
		        rlimit ? rlimit_name(rlimit->resource) : "defaults");
}

static int describe_exec(const char *program, const struct child_report *report, struct err *err)
{
	int r = report->error;

	if (r == -ENOENT && !strchr(program, '/') && report->item != ITEM_FOUND) {
		err_text(err, r, "exec: \"%.200s\": executable file not found in $PATH", program);
		return 127;
	}
	if (r == -ENOENT && report->item != ITEM_FOUND)
		err_text(err, r, "exec: \"%.200s\": stat %.200s: no such file or directory",
		         program, program);
	else if (r == -EACCES)
		err_text(err, r, "exec: \"%.200s\": permission denied", program);
	else if (r == -EISDIR)
		err_text(err, r, "exec: \"%.200s\": is a directory", program);
	else if (r == -ENOEXEC)
		err_text(err, r, "exec %.200s: exec format error", program);
	else
		err_set(err, r, "exec %.200s", program);
	return r == -ENOENT ? 127 : 126;
}

static void describe_user(const struct container_spec *spec, int r, struct err *err)
{
	if (r == -ESRCH)
		err_text(err, r, "unable to find user %.100s: no matching entries in passwd file",
		         spec->user);
	else if (r == -ENXIO)
		err_text(err, r, "unable to find group %.100s: no matching entries in group file",
		         spec->group);
	else if (r == -ERANGE)
		err_text(err, r, "user \"%.100s:%.100s\": ids must be in range 0 to 2147483647",
		         spec->user ? spec->user : "", spec->group ? spec->group : "");
	else
		err_set(err, r, "read the image's /etc/passwd and /etc/group");
}

static void describe_mount(const struct container_spec *spec, const struct child_report *report,
                           struct err *err)
{
	const struct mount_spec *mount = &spec->mounts[report->item];
	int r = report->error;

	if (report->step == CHILD_MOUNT_REFUSED)
		err_text(err, r, "host path %.200s is not one of ECS_ALLOWED_HOST_PATHS",
		         mount->source);
	else if (report->step == CHILD_MOUNT_SOURCE)
		err_set(err, r, "host path %.200s", mount->source);
	else if (r == -EPERM)
		err_text(err, r, "mount at %.200s: nothing can be mounted inside /proc",
		         mount->target);
	else
		err_set(err, r, "mount at %.200s", mount->target);
}

static const char *const step_words[_CHILD_STEP_MAX] = {
	[CHILD_CGROUP] = "enter the container's cgroup",
	[CHILD_NETWORK] = "enter the network namespace",
	[CHILD_HOSTNAME] = "set the host name",
	[CHILD_KEYRING] = "make a session keyring",
	[CHILD_PROC] = "mount /proc",
	[CHILD_OOM_SCORE] = "set oom_score_adj",
	[CHILD_DEV] = "make /dev",
	[CHILD_SYS] = "mount /sys",
	[CHILD_CGROUP_MOUNT] = "mount /sys/fs/cgroup",
	[CHILD_READONLY_ROOT] = "make the root file system read-only",
	[CHILD_PIVOT] = "change the root",
	[CHILD_STDIO] = "set standard input and output",
	[CHILD_SECCOMP] = "install the seccomp filter",
	[CHILD_CAPABILITIES] = "set user and capabilities",
	[CHILD_NO_NEW_PRIVS] = "set no_new_privs",
	[CHILD_INIT] = "start the init process",
	[CHILD_READY] = "start the program",
};

/* Is item an index that this step can have; the report crossed a pipe from a process of root. */
static bool item_is_valid(const struct container_spec *spec, const struct child_report *report)
{
	size_t n = 0, i = (size_t)report->item;

	switch (report->step) {
	case CHILD_OWN_DIRECTORIES:
		n = ARRAY_SIZE(own_directories);
		break;
	case CHILD_SYSCTLS:
		n = spec->n_sysctls;
		break;
	case CHILD_MOUNTS:
	case CHILD_MOUNT_SOURCE:
	case CHILD_MOUNT_REFUSED:
		n = spec->n_mounts;
		break;
	case CHILD_ETC:
		n = ARRAY_SIZE(etc_files);
		break;
	case CHILD_READONLY_PATHS:
		while (spec->readonly_paths && spec->readonly_paths[n])
			n++;
		break;
	case CHILD_MASKED_PATHS:
		while (spec->masked_paths && spec->masked_paths[n])
			n++;
		break;
	case CHILD_DEVICES:
		return report->item == -1 || i < spec->n_devices;
	case CHILD_RLIMITS:
		return report->item == -1 || i < spec->n_rlimits;
	default:
		return true;
	}
	return report->item >= 0 && i < n;
}

int child_report_describe(const struct container_spec *spec, const struct child_report *report,
                          struct err *err)
{
	int r = report->error < 0 ? report->error : -EIO;

	err->name = "CannotStartContainerError";
	if (report->step < 0 || report->step >= _CHILD_STEP_MAX || !item_is_valid(spec, report)) {
		err_set(err, r, "start the container (step %d)", report->step);
		return -1;
	}
	switch ((enum child_step)report->step) {
	case CHILD_EXEC:
		return describe_exec(spec->args[0], report, err);
	case CHILD_OWN_DIRECTORIES:
		if (r == -ELOOP)
			err_text(err, r,
			         "the image's /%s is a symbolic link; it must be a directory",
			         own_directories[report->item]);
		else
			err_set(err, r, "make /%s", own_directories[report->item]);
		break;
	case CHILD_SYSCTLS:
		err_set(err, r, "set sysctl %s to \"%.100s\"", spec->sysctls[report->item].path,
		        spec->sysctls[report->item].value);
		break;
	case CHILD_DEVICES:
		err_set(err, r, "make device %.200s",
		        report->item >= 0 ? spec->devices[report->item].path : "of the host");
		break;
	case CHILD_MOUNTS:
	case CHILD_MOUNT_SOURCE:
	case CHILD_MOUNT_REFUSED:
		describe_mount(spec, report, err);
		break;
	case CHILD_ETC:
		err_set(err, r, "mount /etc/%s", etc_files[report->item]);
		break;
	case CHILD_MAKE_CWD:
	case CHILD_CWD:
		if (r == -EXDEV)
			err_text(err, r, "working directory %.200s is outside the container",
			         spec->cwd);
		else
			err_set(err, r, "working directory %.200s", spec->cwd);
		break;
	case CHILD_READONLY_PATHS:
		err_set(err, r, "make %.200s read-only", spec->readonly_paths[report->item]);
		break;
	case CHILD_MASKED_PATHS:
		err_set(err, r, "mask %.200s", spec->masked_paths[report->item]);
		break;
	case CHILD_USER:
		describe_user(spec, r, err);
		break;
	case CHILD_RLIMITS:
		describe_rlimit(spec, report->item, r, err);
		break;
	default:
		err_set(err, r, "%s", step_words[report->step]);
	}
	return -1;
}
