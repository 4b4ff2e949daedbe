/* What is known of <run>/cgroup stays true while the file is the same: ecs-keeper replaces it. */
#include "agent/launcher/parent.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"

#define DEFAULT_PARENT "ecs"

struct parent {
	const char *fixed, *runtime_dir; /* borrowed */
	char path[256];
	struct stat read; /* the file whose content path is; st_ino 0: none was there */
	struct cgroup_root *root;
};

int parent_new(const char *fixed, const char *runtime_dir, struct parent **ret, struct err *err)
{
	struct parent *parent = calloc(1, sizeof(*parent));

	if (!parent)
		return err_oom(err);
	parent->fixed = fixed;
	parent->runtime_dir = runtime_dir;
	*ret = parent;
	return 0;
}

struct parent *parent_free(struct parent *parent)
{
	if (parent) {
		cgroup_root_free(parent->root);
		free(parent);
	}
	return NULL;
}

static void set_path(struct parent *parent, const char *path)
{
	snprintf(parent->path, sizeof(parent->path), "%s", path);
	parent->root = cgroup_root_free(parent->root);
}

/* Is it the file that was read last, and unchanged? */
static bool is_known(const struct parent *parent, const struct stat *st)
{
	return parent->path[0] != '\0' && parent->read.st_dev == st->st_dev &&
	       parent->read.st_ino == st->st_ino &&
	       parent->read.st_ctim.tv_sec == st->st_ctim.tv_sec &&
	       parent->read.st_ctim.tv_nsec == st->st_ctim.tv_nsec;
}

static int read_file(struct parent *parent, const char *file, struct err *err)
{
	_cleanup_free_ char *text = NULL;
	struct stat st = {0};
	int r;

	if (stat(file, &st) < 0) {
		if (errno != ENOENT)
			return err_set(err, -errno, "look at %s", file);
		st = (struct stat){0};
	}
	if (is_known(parent, &st))
		return 0;
	if (st.st_ino == 0) {
		set_path(parent, DEFAULT_PARENT);
		parent->read = st;
		return 0;
	}
	r = file_read(AT_FDCWD, file, sizeof(parent->path) - 1, &text, NULL);
	if (r < 0)
		return err_set(err, r, "read %s", file);
	text[strcspn(text, "\n")] = '\0';
	if (text[0] == '\0' || text[0] == '/')
		return err_text(err, -EINVAL,
		                "%s says \"%.64s\"; it must be a cgroup without leading slash",
		                file, text);
	set_path(parent, text);
	parent->read = st;
	return 0;
}

int parent_path(struct parent *parent, const char **ret, struct err *err)
{
	char file[PATH_MAX];
	int r;

	if (parent->fixed) {
		*ret = parent->fixed;
		return 0;
	}
	if (snprintf(file, sizeof(file), "%s/" PARENT_FILE, parent->runtime_dir) >=
	    (int)sizeof(file))
		return err_text(err, -ENAMETOOLONG, "runtime directory %s is too long",
		                parent->runtime_dir);
	r = read_file(parent, file, err);
	if (r == 0)
		*ret = parent->path;
	return r;
}

static int check_not_stopping(const struct parent *parent, struct err *err)
{
	char file[PATH_MAX];

	if (parent->fixed)
		return 0;
	snprintf(file, sizeof(file), "%s/" PARENT_STOPPING, parent->runtime_dir);
	if (access(file, F_OK) == 0)
		return err_text(err, -ESHUTDOWN,
		                "the service that owns all tasks (ecs-tasks) is being stopped");
	return errno == ENOENT ? 0 : err_set(err, -errno, "look for %s", file);
}

int parent_root(struct parent *parent, struct cgroup_root **ret, struct err *err)
{
	const char *path;
	int r;

	r = parent_path(parent, &path, err);
	if (r == 0)
		r = check_not_stopping(parent, err);
	if (r == 0 && !parent->root)
		r = cgroup_root_open(NULL, path, &parent->root, err);
	if (r == 0)
		*ret = parent->root;
	return r;
}
