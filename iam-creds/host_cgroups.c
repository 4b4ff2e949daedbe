/*
 * The id of a cgroup is the inode number of its directory, and is never used again. To ask for its
 * path (open_by_handle_at(2)) needs a capability; so directories are looked at until one has the
 * number, but for those of tasks: what is found is not theirs. That it must be found counts: of a
 * cgroup that was removed nobody can tell where it was.
 */
#include "iam-creds/host_cgroups.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "lib/fd.h"

#define TASK_PREFIX "ecstasks-"
#define KNOWN_MAX   32

struct host_cgroups {
	int top_fd;
	/* Stays true, since ids do not come again and cgroups do not move. So that a container
	 * cannot keep us busy: it would have to make a cgroup for each search. */
	struct {
		uint64_t id;
		bool has;
	} known[KNOWN_MAX];
	unsigned next_known;
};

int host_cgroups_new(int top_fd, struct host_cgroups **ret)
{
	*ret = calloc(1, sizeof(**ret));
	if (!*ret) {
		fd_close(top_fd);
		return -ENOMEM;
	}
	(*ret)->top_fd = top_fd;
	return 0;
}

int host_cgroups_open(struct host_cgroups **ret, struct err *err)
{
	static const char *const tops[] = {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"};

	for (size_t i = 0; i < ARRAY_SIZE(tops); i++) {
		_cleanup_close_ int fd = open(tops[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		struct statfs st;

		if (fd < 0 || fstatfs(fd, &st) < 0 || (long)st.f_type != CGROUP2_SUPER_MAGIC)
			continue;
		return host_cgroups_new(TAKE_FD(fd), ret) < 0 ? err_oom(err) : 0;
	}
	return err_text(err, -EOPNOTSUPP, "no cgroup2 at %s or %s", tops[0], tops[1]);
}

struct host_cgroups *host_cgroups_free(struct host_cgroups *host)
{
	if (host) {
		fd_close(host->top_fd);
		free(host);
	}
	return NULL;
}

int host_cgroups_fd(const struct host_cgroups *host)
{
	return host->top_fd;
}

struct search {
	uint64_t id;
	unsigned n_seen;
	bool found;
};

static bool is_child(const struct dirent *entry)
{
	return entry->d_type == DT_DIR && strcmp(entry->d_name, ".") != 0 &&
	       strcmp(entry->d_name, "..") != 0 &&
	       strncmp(entry->d_name, TASK_PREFIX, strlen(TASK_PREFIX)) != 0;
}

/* name: of a directory in parent_fd. */
static int search_at(struct search *search, int parent_fd, const char *name, unsigned depth)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	const struct dirent *entry;
	struct stat st;
	int r;

	r = dir_open(parent_fd, name, &dir);
	if (r < 0)
		return r == -EMFILE || r == -ENFILE || r == -ENOMEM ? r : 0;
	if (search->n_seen++ == HOST_CGROUPS_MAX)
		return -E2BIG;
	search->found = fstat(dirfd(dir), &st) == 0 && st.st_ino == search->id;
	while (r == 0 && !search->found && depth < HOST_CGROUPS_DEPTH_MAX && (entry = readdir(dir)))
		if (is_child(entry))
			r = search_at(search, dirfd(dir), entry->d_name, depth + 1);
	return r;
}

int host_cgroups_has(struct host_cgroups *host, uint64_t id, struct err *err)
{
	struct search search = {.id = id};
	int r;

	for (size_t i = 0; i < KNOWN_MAX; i++)
		if (id != 0 && host->known[i].id == id)
			return host->known[i].has;
	r = search_at(&search, host->top_fd, ".", 0);
	if (r == -E2BIG)
		return err_text(err, r, "the host has more than %d cgroups", HOST_CGROUPS_MAX);
	if (r < 0)
		return err_set(err, r, "list the cgroups of the host");
	host->known[host->next_known].id = id;
	host->known[host->next_known].has = search.found;
	host->next_known = (host->next_known + 1) % KNOWN_MAX;
	return search.found;
}
