/* One cgroup: made, opened and joined, in each hierarchy that there is. */
#include "cgroups/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cgroups/hierarchy.h"
#include "lib/cleanup.h"
#include "lib/fd.h"

static int check_path(const char *path, struct err *err)
{
	if (strlen(path) < CGROUP_PATH_MAX && path[0] != '/' && path[0] != '.' && path[0] != '\0' &&
	    !strstr(path, "/.") && !strstr(path, "//"))
		return 0;
	return err_text(err, -EINVAL,
	                "cgroup path \"%.64s\" must be 1 to %d bytes of names joined by '/'", path,
	                CGROUP_PATH_MAX - 1);
}

static struct cgroup *cgroup_new(const struct cgroup_root *root, const char *path)
{
	struct cgroup *cgroup = calloc(1, sizeof(*cgroup));

	if (!cgroup)
		return NULL;
	cgroup->root = root;
	cgroup->unified_fd = -EBADF;
	snprintf(cgroup->path, sizeof(cgroup->path), "%s", path);
	return cgroup;
}

struct cgroup *cgroup_free(struct cgroup *cgroup)
{
	if (cgroup) {
		fd_close(cgroup->unified_fd);
		free(cgroup);
	}
	return NULL;
}

static int open_unified(struct cgroup *cgroup, struct err *err)
{
	const struct hierarchy *h = cgroup->root->unified;
	int fd;

	if (!h)
		return 0;
	fd = hierarchy_open(h, cgroup->path, ".", O_RDONLY | O_DIRECTORY);
	if (fd < 0)
		return err_set(err, fd, "open %s/%s", h->path, cgroup->path);
	cgroup->unified_fd = fd;
	return 0;
}

/* Makes the directories; bit i of *made is set for each hierarchy where it was not there. */
static int make_directories(const struct cgroup *cgroup, unsigned *made, struct err *err)
{
	for (size_t i = 0; i < cgroup->root->n_hierarchies; i++) {
		int r = hierarchy_make(&cgroup->root->hierarchies[i], cgroup->path, err);

		if (r < 0)
			return r;
		if (r > 0)
			*made |= 1u << i;
	}
	return 0;
}

static void unmake_directories(const struct cgroup *cgroup, unsigned made)
{
	for (size_t i = 0; i < cgroup->root->n_hierarchies; i++)
		if (made & (1u << i))
			(void)hierarchy_remove(&cgroup->root->hierarchies[i], cgroup->path, NULL);
}

int cgroup_create(struct cgroup_root *root, const char *path, bool inner,
                  const struct cgroup_limits *limits, struct cgroup **ret, struct err *err)
{
	_cleanup_(cgroup_freep) struct cgroup *cgroup = NULL;
	unsigned made = 0;
	int r;

	r = check_path(path, err);
	if (r < 0)
		return r;
	cgroup = cgroup_new(root, path);
	if (!cgroup)
		return err_oom(err);

	r = make_directories(cgroup, &made, err);
	if (r == 0)
		r = open_unified(cgroup, err);
	if (r == 0 && limits)
		r = cgroup_set_limits(cgroup, limits, err);
	if (r == 0 && inner && root->v2)
		r = unified_delegate(root->unified, path, err);
	if (r < 0) {
		unmake_directories(cgroup, made);
		return r;
	}
	*ret = TAKE_PTR(cgroup);
	return 0;
}

static bool exists_somewhere(const struct cgroup_root *root, const char *path)
{
	for (size_t i = 0; i < root->n_hierarchies; i++)
		if (hierarchy_has(&root->hierarchies[i], path, "."))
			return true;
	return false;
}

int cgroup_open(struct cgroup_root *root, const char *path, struct cgroup **ret, struct err *err)
{
	_cleanup_(cgroup_freep) struct cgroup *cgroup = NULL;
	int r;

	r = check_path(path, err);
	if (r < 0)
		return r;
	if (!exists_somewhere(root, path))
		return err_text(err, -ENOENT, "no cgroup %s/%s", root->hierarchies[0].path, path);
	cgroup = cgroup_new(root, path);
	if (!cgroup)
		return err_oom(err);
	r = open_unified(cgroup, err);
	if (r < 0 && r != -ENOENT)
		return r;
	*ret = TAKE_PTR(cgroup);
	return 0;
}

int cgroup_clone_fd(const struct cgroup *cgroup)
{
	return cgroup->was_killed ? -EBADF : cgroup->unified_fd;
}

/* Between fork and exec: openat() and write() on a path put together by hand. */
static int join_hierarchy(const struct hierarchy *h, const char *path)
{
	const char *file = h->unified ? "/cgroup.procs" : "/tasks";
	char name[CGROUP_PATH_MAX + 16];
	size_t n = strlen(path);
	int fd, r;

	memcpy(name, path, n);
	memcpy(name + n, file, strlen(file) + 1);
	fd = openat(h->dir_fd, name, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	r = write(fd, "0", 1) < 0 ? -errno : 0;
	close(fd);
	return r;
}

static int join_hierarchies(const struct cgroup *cgroup, bool unified_too)
{
	for (size_t i = 0; i < cgroup->root->n_hierarchies; i++) {
		const struct hierarchy *h = &cgroup->root->hierarchies[i];
		int r = h->unified && !unified_too ? 0 : join_hierarchy(h, cgroup->path);

		if (r < 0)
			return r;
	}
	return 0;
}

int cgroup_join(const struct cgroup *cgroup)
{
	return join_hierarchies(cgroup, true);
}

int cgroup_join_cloned(const struct cgroup *cgroup)
{
	return join_hierarchies(cgroup, cgroup_clone_fd(cgroup) < 0);
}

int cgroup_id(const struct cgroup *cgroup, uint64_t *ret)
{
	union {
		struct file_handle handle;
		char room[sizeof(struct file_handle) + sizeof(uint64_t)];
	} u = {.handle.handle_bytes = sizeof(uint64_t)};
	int mount_id;

	if (cgroup->unified_fd < 0)
		return -EOPNOTSUPP;
	if (name_to_handle_at(cgroup->unified_fd, "", &u.handle, &mount_id, AT_EMPTY_PATH) < 0)
		return -errno;
	if (u.handle.handle_bytes != sizeof(uint64_t))
		return -EPROTO;
	memcpy(ret, u.handle.f_handle, sizeof(*ret));
	return 0;
}
