/* The root: the directory in each hierarchy below which all cgroups of this agent live. */
#include "cgroups/hierarchy.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/fd.h"
#include "lib/parse.h"

#define MOUNTINFO_MAX (16u << 20)

int root_controller(const struct cgroup_root *root, enum controller controller,
                    const struct hierarchy **ret, struct err *err)
{
	const struct hierarchy *h = root->v2 ? root->unified : root->by_controller[controller];

	if (!h)
		return err_text(err, -EOPNOTSUPP, "no cgroup controller %s on this host",
		                controller_to_string(controller));
	*ret = h;
	return 0;
}

/* cgroup2 on the base itself is v2; below it (hybrid) it has no say over resources. */
static bool mounts_are_v2(const struct cgroup_mount *mounts, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (mounts[i].controllers & ~(1u << CONTROLLER_SYSTEMD))
			return false;
	return true;
}

static int check_parent(const char *parent, struct err *err)
{
	char copy[CGROUP_PATH_MAX], *rest = NULL;

	if (snprintf(copy, sizeof(copy), "%s", parent) >= (int)sizeof(copy) || parent[0] == '/' ||
	    parent[0] == '\0')
		goto refuse;
	for (char *name = strtok_r(copy, "/", &rest); name; name = strtok_r(NULL, "/", &rest))
		if (!name_is_component(name, 128))
			goto refuse;
	return 0;

refuse:
	return err_text(
		err, -EINVAL,
		"cgroup parent \"%.64s\" must be names of letters, digits, '_', '-' and '.', joined by '/'",
		parent);
}

/*
 * Make parent below the mount, one component after the other; on v2 each hands on the controllers.
 * What is above a delegated cgroup is its manager's, and touched only if something is missing.
 */
static int make_parent(struct hierarchy *h, const char *parent, bool delegate, struct err *err)
{
	char path[CGROUP_PATH_MAX];
	size_t n = 0;
	int r;

	/* What is there needs no more; of cpusets it has to be looked at. */
	if (delegate ? unified_delegates(h, parent)
	             : !(h->controllers & (1u << CONTROLLER_CPUSET)) &&
	                       hierarchy_has(h, parent, "."))
		return 0;
	if (delegate) {
		r = unified_delegate(h, ".", err);
		if (r < 0)
			return r;
	}
	for (;;) {
		n += strcspn(parent + n, "/");
		snprintf(path, sizeof(path), "%.*s", (int)n, parent);
		r = hierarchy_make(h, path, err);
		if (r >= 0 && delegate)
			r = unified_delegate(h, path, err);
		if (r < 0)
			return r;
		if (parent[n++] == '\0')
			return 0;
	}
}

static int open_hierarchy(const struct cgroup_mount *mount, const char *parent, bool v2,
                          struct hierarchy *h, struct err *err)
{
	_cleanup_close_ int mount_fd = -EBADF;
	int r;

	h->unified = mount->unified;
	h->controllers = mount->controllers;
	h->dir_fd = -EBADF;
	snprintf(h->path, sizeof(h->path), "%s", mount->path);

	mount_fd = open(mount->path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (mount_fd < 0)
		return err_set(err, -errno, "open %s", mount->path);
	h->dir_fd = mount_fd; /* for the time of make_parent() */
	r = make_parent(h, parent, v2, err);
	h->dir_fd = -EBADF;
	if (r < 0)
		return r;

	h->dir_fd = openat(mount_fd, parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (h->dir_fd < 0)
		return err_set(err, -errno, "open %s/%s", mount->path, parent);
	snprintf(h->path, sizeof(h->path), "%s/%s", mount->path, parent);

	/* Before Linux 5.11, limits bind what is below only where this says so; later it cannot be
	 * switched off, and before, not once there are children. */
	if (h->controllers & (1u << CONTROLLER_MEMORY))
		(void)hierarchy_write(h, ".", "memory.use_hierarchy", "1", NULL);
	return 0;
}

static void index_hierarchies(struct cgroup_root *root)
{
	for (size_t i = 0; i < root->n_hierarchies; i++) {
		const struct hierarchy *h = &root->hierarchies[i];

		if (h->unified)
			root->unified = h;
		for (size_t c = 0; c < _CONTROLLER_MAX; c++)
			if (h->controllers & (1u << c))
				root->by_controller[c] = h;
	}
}

/* The three that nothing works without. */
static int check_controllers(const struct cgroup_root *root, struct err *err)
{
	static const struct {
		enum controller controller;
		const char *v2_file;
	} needed[] = {{CONTROLLER_MEMORY, "memory.max"},
	              {CONTROLLER_CPU, "cpu.max"},
	              {CONTROLLER_PIDS, "pids.max"}};

	for (size_t i = 0; i < ARRAY_SIZE(needed); i++) {
		const struct hierarchy *h = NULL;
		int r = root_controller(root, needed[i].controller, &h, err);

		if (r < 0)
			return r;
		if (root->v2 && !hierarchy_has(h, ".", needed[i].v2_file))
			return err_text(
				err, -EOPNOTSUPP,
				"cgroup controller %s is not available in %s: the kernel has it "
				"switched off or bound to cgroup v1, or it is not delegated "
				"to this cgroup",
				controller_to_string(needed[i].controller), h->path);
	}
	return 0;
}

static int read_mounts(const char *base, struct cgroup_mount *mounts, struct err *err)
{
	_cleanup_free_ char *text = NULL;
	int r;

	r = file_read(AT_FDCWD, "/proc/self/mountinfo", MOUNTINFO_MAX, &text, NULL);
	if (r < 0)
		return err_set(err, r, "read /proc/self/mountinfo");
	r = cgroup_mounts_parse(text, base, mounts, err);
	if (r == 0)
		return err_text(err, -EOPNOTSUPP, "no cgroup file system is mounted at or below %s",
		                base);
	return r;
}

int cgroup_root_open(const char *mount, const char *parent, struct cgroup_root **ret,
                     struct err *err)
{
	_cleanup_(cgroup_root_freep) struct cgroup_root *root = NULL;
	struct cgroup_mount mounts[HIERARCHIES_MAX];
	int n, r;

	r = check_parent(parent, err);
	if (r < 0)
		return r;
	n = read_mounts(mount ? mount : "/sys/fs/cgroup", mounts, err);
	if (n < 0)
		return n;

	root = calloc(1, sizeof(*root));
	if (!root)
		return err_oom(err);
	root->v2 = mounts_are_v2(mounts, (size_t)n);
	for (int i = 0; i < n; i++) {
		if (root->v2 && !mounts[i].unified)
			continue; /* name=systemd beside a cgroup2 that has all controllers */
		r = open_hierarchy(&mounts[i], parent, root->v2,
		                   &root->hierarchies[root->n_hierarchies++], err);
		if (r < 0)
			return r;
	}
	index_hierarchies(root);
	r = check_controllers(root, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(root);
	return 0;
}

struct cgroup_root *cgroup_root_free(struct cgroup_root *root)
{
	if (root) {
		for (size_t i = 0; i < root->n_hierarchies; i++)
			fd_close(root->hierarchies[i].dir_fd);
		free(root);
	}
	return NULL;
}

bool cgroup_root_is_v2(const struct cgroup_root *root)
{
	return root->v2;
}

/* A growing list of distinct names. */
struct names {
	char **names;
	size_t n;
};

static void names_done(struct names *list)
{
	for (size_t i = 0; i < list->n; i++)
		free(list->names[i]);
	free(list->names);
}

static int names_add(struct names *list, const char *name)
{
	char **grown;

	for (size_t i = 0; i < list->n; i++)
		if (strcmp(list->names[i], name) == 0)
			return 0;
	grown = reallocarray(list->names, list->n + 2, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	list->names = grown;
	grown[list->n] = strdup(name);
	if (!grown[list->n])
		return -ENOMEM;
	grown[++list->n] = NULL;
	return 0;
}

static int list_hierarchy(const struct hierarchy *h, const char *prefix, struct names *list)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	const struct dirent *entry;
	int fd, r;

	fd = hierarchy_open(h, ".", ".", O_RDONLY | O_DIRECTORY);
	if (fd < 0)
		return fd;
	dir = fdopendir(fd);
	if (!dir) {
		fd_close(fd);
		return -ENOMEM;
	}
	while ((entry = readdir(dir))) {
		if (entry->d_type != DT_DIR || entry->d_name[0] == '.' ||
		    strncmp(entry->d_name, prefix, strlen(prefix)) != 0)
			continue;
		r = names_add(list, entry->d_name);
		if (r < 0)
			return r;
	}
	return 0;
}

int cgroup_list(struct cgroup_root *root, const char *prefix, char ***ret)
{
	_cleanup_(names_done) struct names list = {.names = calloc(1, sizeof(char *))};
	int r;

	if (!list.names)
		return -ENOMEM;
	/* A crash may have come between the hierarchies: one of them is enough. */
	for (size_t i = 0; i < root->n_hierarchies; i++) {
		r = list_hierarchy(&root->hierarchies[i], prefix, &list);
		if (r < 0)
			return r;
	}
	*ret = list.names;
	list = (struct names){0};
	return 0;
}

int cgroup_remove(struct cgroup_root *root, const char *path, struct err *err)
{
	int r, first = 0;

	/* The others go also when one refuses; what is said is the first failure. */
	for (size_t i = 0; i < root->n_hierarchies; i++) {
		r = hierarchy_remove(&root->hierarchies[i], path, first < 0 ? NULL : err);
		if (r < 0 && first == 0)
			first = r;
	}
	return first;
}
