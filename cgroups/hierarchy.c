/* One cgroup hierarchy: its directories and files, reached from the descriptor of our root in it.
 */
#include "cgroups/hierarchy.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/fd.h"
#include "lib/parse.h"

#define DEPTH_MAX 32        /* of cgroups that a container has made below its own */
#define TEXT_MAX  (1 << 20) /* of a file with a line for each device */

static int path_join(char *buf, size_t n, const char *path, const char *file)
{
	return snprintf(buf, n, "%s/%s", path, file) < (int)n ? 0 : -ENAMETOOLONG;
}

int hierarchy_open(const struct hierarchy *h, const char *path, const char *file, int flags)
{
	char name[PATH_MAX];
	int fd, r;

	r = path_join(name, sizeof(name), path, file);
	if (r < 0)
		return r;
	fd = openat(h->dir_fd, name, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int hierarchy_read(const struct hierarchy *h, const char *path, const char *file, char *buf,
                   size_t n)
{
	_cleanup_close_ int fd = hierarchy_open(h, path, file, O_RDONLY);
	ssize_t k;

	if (fd < 0)
		return fd;
	k = fd_read_all(fd, buf, n - 1);
	if (k < 0)
		return (int)k;
	buf[k] = '\0';
	return 0;
}

int hierarchy_read_text(const struct hierarchy *h, const char *path, const char *file, char **ret)
{
	char name[PATH_MAX];
	int r;

	r = path_join(name, sizeof(name), path, file);
	return r < 0 ? r : file_read(h->dir_fd, name, TEXT_MAX, ret, NULL);
}

int hierarchy_write(const struct hierarchy *h, const char *path, const char *file, const char *text,
                    struct err *err)
{
	_cleanup_close_ int fd = hierarchy_open(h, path, file, O_WRONLY);
	ssize_t k = 0;

	if (fd >= 0)
		k = write(fd, text, strlen(text));
	if (fd < 0 || k < 0)
		return err_set(err, fd < 0 ? fd : -errno, "write \"%s\" to %s/%s/%s", text, h->path,
		               path, file);
	return 0;
}

bool hierarchy_has(const struct hierarchy *h, const char *path, const char *file)
{
	char name[PATH_MAX];

	return path_join(name, sizeof(name), path, file) == 0 &&
	       faccessat(h->dir_fd, name, F_OK, 0) == 0;
}

int hierarchy_read_u64(const struct hierarchy *h, const char *path, const char *file,
                       const char *key, uint64_t *ret)
{
	char buf[8192], *rest = NULL; /* memory.stat has about 2 KiB */
	int r;

	r = hierarchy_read(h, path, file, buf, sizeof(buf));
	if (r < 0)
		return r;

	for (char *line = strtok_r(buf, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		size_t n = key ? strlen(key) : 0;

		if (key && (strncmp(line, key, n) != 0 || line[n++] != ' '))
			continue;
		if (strcmp(line + n, "max") == 0) {
			*ret = UINT64_MAX;
			return 0;
		}
		return parse_u64(line + n, UINT64_MAX, ret);
	}
	return -ENODATA;
}

static int each_process_here(const struct hierarchy *h, const char *path, int (*fn)(pid_t, void *),
                             void *userdata)
{
	_cleanup_fclose_ FILE *file = NULL;
	char line[32];
	int fd, r;

	fd = hierarchy_open(h, path, "cgroup.procs", O_RDONLY);
	if (fd < 0)
		return fd;
	file = fdopen(fd, "re");
	if (!file) {
		fd_close(fd);
		return -ENOMEM;
	}
	while (fgets(line, sizeof(line), file)) {
		uint64_t pid;

		line[strcspn(line, "\n")] = '\0';
		/* A process of an outer pid namespace reads as 0. */
		if (parse_u64(line, INT_MAX, &pid) < 0)
			continue;
		r = fn((pid_t)pid, userdata);
		if (r < 0)
			return r;
	}
	return 0;
}

static int open_dir(const struct hierarchy *h, const char *path, DIR **ret)
{
	int fd = hierarchy_open(h, path, ".", O_RDONLY | O_DIRECTORY);

	if (fd < 0)
		return fd;
	*ret = fdopendir(fd);
	if (!*ret) {
		fd_close(fd);
		return -ENOMEM;
	}
	return 0;
}

/* Does something to path, after (children_first) or before the cgroups below it. */
typedef int (*visit_fn)(const struct hierarchy *h, const char *path, void *userdata);

static int walk(const struct hierarchy *h, const char *path, int depth, bool children_first,
                visit_fn visit, void *userdata)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	const struct dirent *entry;
	int r;

	if (depth > DEPTH_MAX)
		return -ELOOP;
	if (!children_first) {
		r = visit(h, path, userdata);
		if (r < 0)
			return r;
	}
	r = open_dir(h, path, &dir);
	if (r < 0)
		return r;
	while ((entry = readdir(dir))) {
		char child[PATH_MAX];

		if (entry->d_type != DT_DIR || strcmp(entry->d_name, ".") == 0 ||
		    strcmp(entry->d_name, "..") == 0)
			continue;
		r = path_join(child, sizeof(child), path, entry->d_name);
		if (r == 0)
			r = walk(h, child, depth + 1, children_first, visit, userdata);
		if (r < 0 && r != -ENOENT) /* ENOENT: removed meanwhile */
			return r;
	}
	return children_first ? visit(h, path, userdata) : 0;
}

struct each_process {
	int (*fn)(pid_t pid, void *userdata);
	void *userdata;
};

static int visit_processes(const struct hierarchy *h, const char *path, void *userdata)
{
	const struct each_process *each = userdata;

	return each_process_here(h, path, each->fn, each->userdata);
}

int hierarchy_each_process(const struct hierarchy *h, const char *path, int (*fn)(pid_t, void *),
                           void *userdata)
{
	struct each_process each = {.fn = fn, .userdata = userdata};

	return walk(h, path, 0, false, visit_processes, &each);
}

int hierarchy_each_cgroup(const struct hierarchy *h, const char *path,
                          int (*fn)(const struct hierarchy *, const char *, void *), void *userdata)
{
	return walk(h, path, 0, false, fn, userdata);
}

static int found_process(pid_t pid, void *userdata)
{
	(void)pid;
	*(bool *)userdata = true;
	return -ECANCELED; /* one is enough */
}

int hierarchy_has_processes(const struct hierarchy *h, const char *path, bool *ret)
{
	bool found = false;
	int r;

	r = hierarchy_each_process(h, path, found_process, &found);
	if (r < 0 && r != -ECANCELED)
		return r;
	*ret = found;
	return 0;
}

/*
 * A new v1 cpuset is empty, and refuses processes until it has CPUs and memory nodes. Those that
 * are made below this one copy them by themselves.
 */
static int fill_cpuset(const struct hierarchy *h, const char *path, struct err *err)
{
	static const char *const files[] = {"cpuset.cpus", "cpuset.mems"};
	char parent[CGROUP_PATH_MAX + 4], value[4096];
	int r;

	r = hierarchy_read(h, path, files[0], value, sizeof(value));
	if (r == 0 && value[0] != '\n' && value[0] != '\0')
		return 0;

	r = path_join(parent, sizeof(parent), path, "..");
	if (r < 0)
		return err_set(err, r, "path %s", path);
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		r = hierarchy_read(h, parent, files[i], value, sizeof(value));
		if (r < 0)
			return err_set(err, r, "read %s above %s/%s", files[i], h->path, path);
		value[strcspn(value, "\n")] = '\0';
		r = hierarchy_write(h, path, files[i], value, err);
		if (r < 0)
			return r;
	}
	return hierarchy_write(h, path, "cgroup.clone_children", "1", err);
}

int hierarchy_make(const struct hierarchy *h, const char *path, struct err *err)
{
	bool made = mkdirat(h->dir_fd, path, 0755) == 0;
	int r;

	if (!made && errno != EEXIST)
		return err_set(err, -errno, "make %s/%s", h->path, path);
	if (!made && !hierarchy_has(h, path, "cgroup.procs"))
		return err_text(err, -EEXIST,
		                "%s/%s is a file of the kernel's and no name for a cgroup", h->path,
		                path);

	/* Also one that was there: whoever made it may have ended before it was filled. */
	if (!h->unified && (h->controllers & (1u << CONTROLLER_CPUSET))) {
		r = fill_cpuset(h, path, err);
		if (r < 0 && made)
			(void)unlinkat(h->dir_fd, path, AT_REMOVEDIR); /* the first error counts */
		if (r < 0)
			return r;
	}
	return made;
}

static int visit_remove(const struct hierarchy *h, const char *path, void *userdata)
{
	(void)userdata;
	return unlinkat(h->dir_fd, path, AT_REMOVEDIR) < 0 ? -errno : 0;
}

int hierarchy_remove(const struct hierarchy *h, const char *path, struct err *err)
{
	int r = walk(h, path, 0, true, visit_remove, NULL);

	return r < 0 && r != -ENOENT ? err_set(err, r, "remove %s/%s", h->path, path) : 0;
}

static bool has_word(const char *text, const char *word)
{
	size_t n = strlen(word);

	for (const char *p = text; (p = strstr(p, word)); p += n)
		if ((p == text || p[-1] == ' ') && (p[n] == '\0' || p[n] == ' ' || p[n] == '\n'))
			return true;
	return false;
}

/* For messages: the full name of path. */
static const char *name_of(const struct hierarchy *h, const char *path, char *buf, size_t n)
{
	if (strcmp(path, ".") == 0)
		snprintf(buf, n, "%s", h->path);
	else
		snprintf(buf, n, "%s/%s", h->path, path);
	return buf;
}

struct delegation {
	bool has_needed;  /* path itself has cpu, memory and pids */
	char missing[32]; /* "+cpu +io": what it has and does not give to its children yet */
};

static int delegation_read(const struct hierarchy *h, const char *path, struct delegation *ret)
{
	static const char *const wanted[] = {"cpu", "memory", "pids", "io"};
	struct delegation d = {.has_needed = true};
	char has[512], gives[512];
	size_t used = 0;
	int r;

	r = hierarchy_read(h, path, "cgroup.controllers", has, sizeof(has));
	if (r == 0)
		r = hierarchy_read(h, path, "cgroup.subtree_control", gives, sizeof(gives));
	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++) {
		if (!has_word(has, wanted[i]))
			d.has_needed = d.has_needed && strcmp(wanted[i], "io") == 0;
		else if (!has_word(gives, wanted[i]))
			used += (size_t)snprintf(d.missing + used, sizeof(d.missing) - used,
			                         "%s+%s", used > 0 ? " " : "", wanted[i]);
	}
	*ret = d;
	return 0;
}

int unified_delegate(const struct hierarchy *h, const char *path, struct err *err)
{
	char name[MOUNT_PATH_MAX + 2 * CGROUP_PATH_MAX];
	struct delegation d;
	int r;

	name_of(h, path, name, sizeof(name));
	r = delegation_read(h, path, &d);
	if (r < 0)
		return err_set(err, r, "read the controllers of %s", name);
	if (d.missing[0] == '\0')
		return 0;

	/* In one write: each may make the kernel wait for all that is going on in its cgroups. */
	r = hierarchy_write(h, path, "cgroup.subtree_control", d.missing, err);
	if (r == -EBUSY)
		return err_text(err, r,
		                "cgroup %s holds processes itself, so that it cannot limit cgroups "
		                "below it: they must be moved to one of those",
		                name);
	return r;
}

bool unified_delegates(const struct hierarchy *h, const char *path)
{
	struct delegation d;

	return delegation_read(h, path, &d) == 0 && d.has_needed && d.missing[0] == '\0';
}
