/*
 * The file systems of the kernel in a container: /proc, /dev, /sys and the cgroup tree, and what is
 * written or made there. They are mounted on directories of the root itself, never through a link:
 * an image must not choose where they are (CVE-2023-28642).
 */
#include "agent/task/child_steps.h"

#include <errno.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "agent/task/rootfs.h"
#include "lib/fd.h"

#define TTY_GID 5

const char *const child_own_directories[3] = {"proc", "sys", "dev"};

int child_mount_new(const struct child *child, const char *type, const struct mount_option *options,
                    size_t n_options, unsigned int attr)
{
	struct mount_option all[64];

	if (!child->spec->labels.mount_label)
		return mount_new(type, options, n_options, attr);
	if (n_options >= ARRAY_SIZE(all))
		return -E2BIG;
	for (size_t i = 0; i < n_options; i++)
		all[i] = options[i];
	all[n_options] = (struct mount_option){"context", child->spec->labels.mount_label};
	return mount_new(type, all, n_options + 1, attr);
}

int child_make_own_directories(struct child *child)
{
	char root[PATH_MAX];

	snprintf(root, sizeof(root), "%s/root", child->plan->dir);
	child->root_fd = open(root, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (child->root_fd < 0)
		return -errno;

	for (size_t i = 0; i < ARRAY_SIZE(child_own_directories); i++) {
		int fd;

		child->where.item = (int32_t)i;
		fd = rootfs_own_directory(child->root_fd, child_own_directories[i]);
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

/* A copy of what the supervisor has mounted, or the host. */
static int copy_mount(const char *path)
{
	_cleanup_close_ int fd = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 ? -errno : mount_clone(fd, false);
}

/* A new one shows the namespace of the process that mounts it, which need not be the container's.
 */
int child_mount_proc(struct child *child)
{
	const struct child_plan *plan = child->plan;

	child->proc_fd = plan->pid_ns_fd >= 0 ? copy_mount(plan->proc_dir)
	                                      : mount_new("proc", NULL, 0, QUIET);
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

int child_set_oom_score(struct child *child)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", child->spec->oom_score_adj);
	if (child->plan->pid_ns_fd >= 0) /* we are not in the namespace that our /proc shows */
		return file_write(AT_FDCWD, "/proc/self/oom_score_adj", text);
	return write_proc(child, "self/oom_score_adj", text);
}

int child_set_sysctls(struct child *child)
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
	static const char *const directories[] = {"pts", "mqueue"};

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

/* Terminals are of the group tty, as wall(1) and write(1) expect. */
static int new_devpts(const struct child *child)
{
	char group[16];
	const struct mount_option options[] = {
		{"ptmxmode", "0666"}, {"mode", "0620"}, {"gid", group}};
	uid_t uid;
	gid_t gid;
	bool has_group = child_host_ids(child, 0, TTY_GID, &uid, &gid);

	snprintf(group, sizeof(group), "%u", gid);
	return child_mount_new(child, "devpts", options, ARRAY_SIZE(options) - !has_group,
	                       MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC);
}

int child_mount_dev(struct child *child)
{
	static const struct mount_option dev[] = {{"mode", "755"}, {"size", "65536k"}};
	int r;

	child->dev_fd = child_mount_new(child, "tmpfs", dev, ARRAY_SIZE(dev),
	                                MOUNT_ATTR_NOSUID | MOUNT_ATTR_STRICTATIME);
	if (child->dev_fd < 0)
		return child->dev_fd;
	r = fill_dev(child->dev_fd);
	if (r == 0)
		r = attach_on_own(child, child->dev_fd, "dev");
	if (r == 0)
		r = open_null(child);
	if (r == 0)
		r = attach_in_dev(child, "pts", new_devpts(child));
	if (r == 0)
		r = attach_in_dev(child, "mqueue",
		                  child_mount_new(child, "mqueue", NULL, 0, QUIET));
	return r;
}

/* Its files are of the label of the first container that shares it, which is that of all. */
static int copy_shm(const struct child *child, const char *dir)
{
	_cleanup_close_ int fd = copy_mount(dir);
	int r = fd < 0 ? fd : label_file_private(&child->spec->labels, fd);

	return r < 0 ? r : TAKE_FD(fd);
}

int child_mount_shm(struct child *child)
{
	static const struct mount_option shm[] = {{"mode", "1777"}, {"size", "65536k"}};
	const char *dir = child->plan->shm_dir;

	if (child->spec->ipc_mode == IPC_MODE_NONE)
		return 0;
	if (mkdirat(child->dev_fd, "shm", 0755) < 0)
		return -errno;
	return attach_in_dev(child, "shm",
	                     dir ? copy_shm(child, dir)
	                         : child_mount_new(child, "tmpfs", shm, ARRAY_SIZE(shm), QUIET));
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

int child_make_devices(struct child *child)
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

int child_mount_sys(struct child *child)
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

int child_mount_cgroup(struct child *child)
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
