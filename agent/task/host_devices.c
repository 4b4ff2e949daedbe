/* Links are followed for the path that was asked for, not for what is found in a directory. */
#include "agent/task/host_devices.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "agent/task/child.h"
#include "lib/cleanup.h"

#define DEPTH_MAX        8
#define HOST_DEVICES_MAX 4096

static bool is_device(const struct stat *st)
{
	return S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode);
}

/* Takes path. */
static int add_device(struct container_spec *spec, const struct host_device_spec *wanted,
                      char *path, const struct stat *st, struct err *err)
{
	_cleanup_free_ char *own = path;
	struct device_spec *devices;
	struct cgroup_device *rules;

	if (spec->n_devices >= SPEC_DEVICES_MAX)
		return err_text(err, -E2BIG, "device %.200s: a container can have %d devices",
		                wanted->host_path, SPEC_DEVICES_MAX);
	devices = reallocarray(spec->devices, spec->n_devices + 1, sizeof(*devices));
	if (devices)
		spec->devices = devices;
	rules = reallocarray(spec->device_rules, spec->n_device_rules + 1, sizeof(*rules));
	if (rules)
		spec->device_rules = rules;
	if (!devices || !rules || !own)
		return err_oom(err);

	rules[spec->n_device_rules++] = (struct cgroup_device){
		.type = S_ISBLK(st->st_mode) ? 'b' : 'c',
		.major = major(st->st_rdev),
		.minor = minor(st->st_rdev),
		.access = wanted->access,
	};
	devices[spec->n_devices++] = (struct device_spec){
		.path = own,
		.own_path = own,
		.mode = st->st_mode & (S_IFMT | 0777),
		.rdev = st->st_rdev,
		.uid = st->st_uid,
		.gid = st->st_gid,
	};
	TAKE_PTR(own);
	return 0;
}

static char *join(const char *dir, const char *name)
{
	char *path;

	return asprintf(&path, "%s/%s", dir, name) < 0 ? NULL : path;
}

static int add_directory(struct container_spec *spec, const struct host_device_spec *wanted,
                         const char *host_dir, const char *dir, int depth, struct err *err)
{
	DIR *entries = depth > DEPTH_MAX ? NULL : opendir(host_dir);
	int r = 0;

	if (!entries)
		return err_set(err, depth > DEPTH_MAX ? -ELOOP : -errno, "device directory %.200s",
		               host_dir);
	for (struct dirent *entry; r == 0 && (entry = readdir(entries));) {
		_cleanup_free_ char *host_path = join(host_dir, entry->d_name);
		char *path = join(dir, entry->d_name);
		struct stat st;

		if (!host_path || !path)
			r = err_oom(err);
		else if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
		         lstat(host_path, &st) < 0)
			r = 0; /* none, or gone again */
		else if (is_device(&st))
			r = add_device(spec, wanted, TAKE_PTR(path), &st, err);
		else if (S_ISDIR(st.st_mode))
			r = add_directory(spec, wanted, host_path, path, depth + 1, err);
		free(path);
	}
	closedir(entries);
	return r;
}

static int add_wanted(struct container_spec *spec, const struct host_device_spec *wanted,
                      struct err *err)
{
	size_t before = spec->n_devices;
	char real[PATH_MAX];
	struct stat st;
	int r;

	if (!realpath(wanted->host_path, real) || lstat(real, &st) < 0)
		return err_set(err, -errno, "device %.200s", wanted->host_path);
	if (is_device(&st))
		return add_device(spec, wanted, strdup(wanted->path), &st, err);
	if (!S_ISDIR(st.st_mode))
		return err_text(err, -EINVAL,
		                "device %.200s is neither a device nor a directory of devices",
		                wanted->host_path);
	r = add_directory(spec, wanted, real, wanted->path, 0, err);
	if (r == 0 && spec->n_devices == before)
		r = err_text(err, -EINVAL, "device %.200s is a directory without devices",
		             wanted->host_path);
	return r;
}

int host_devices_add(struct container_spec *spec, struct err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < spec->n_host_devices; i++)
		r = add_wanted(spec, &spec->host_devices[i], err);
	return r;
}

/* --- all of them --- */

/* nftw(3) takes no argument. */
static struct {
	struct host_device *list;
	size_t n;
	bool failed;
} found;

static int add_host_device(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	static const char *const skipped[] = {"/dev/pts",   "/dev/shm",  "/dev/mqueue",
	                                      "/dev/.udev", "/dev/.lxc", "/dev/.lxd-mounts"};
	struct host_device *device;

	(void)ftw;
	for (size_t i = 0; i < ARRAY_SIZE(skipped); i++)
		if (strcmp(path, skipped[i]) == 0)
			return FTW_SKIP_SUBTREE;
	if (type != FTW_F || !is_device(st) || strcmp(path, "/dev/console") == 0)
		return FTW_CONTINUE;
	if (found.n == HOST_DEVICES_MAX || strlen(path + 5) >= sizeof(device->path))
		return FTW_CONTINUE;

	device = realloc(found.list, (found.n + 1) * sizeof(*device));
	if (!device) {
		found.failed = true;
		return FTW_STOP;
	}
	found.list = device;
	device += found.n++;
	*device = (struct host_device){
		.mode = st->st_mode, .rdev = st->st_rdev, .uid = st->st_uid, .gid = st->st_gid};
	snprintf(device->path, sizeof(device->path), "%s", path + 5);
	return FTW_CONTINUE;
}

int host_devices_all(struct host_device **ret, size_t *ret_n, struct err *err)
{
	found.list = NULL;
	found.n = 0;
	found.failed = false;
	(void)nftw("/dev", add_host_device, 8, FTW_PHYS | FTW_MOUNT | FTW_ACTIONRETVAL);
	if (found.failed) {
		free(found.list);
		return err_oom(err);
	}
	*ret = found.list;
	*ret_n = found.n;
	return 0;
}
