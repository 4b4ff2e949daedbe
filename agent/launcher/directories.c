/* One table of directories: who may enter which is decided here for all programs. */
#include "agent/launcher/directories.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/confine.h"
#include "lib/fd.h"

static const struct directory {
	bool in_state; /* else below the runtime directory */
	const char *path;
	const char *user, *group; /* NULL: root; the group of a user of that name */
	mode_t mode;
} directories[] = {
	{false, ".", NULL, NULL, 0755},
	{false, "tasks", NULL, "ecs-agent", 0750},
	{false, "metadata", "ecs-metadata", "ecs-metadata", 0755},
	{false, "seccomp", NULL, NULL, 0700},
	{false, "mounts", NULL, NULL, 0700},  /* of mount.efs */
	{false, "volumes", NULL, NULL, 0700}, /* each supervisor has mounts of its own here */
	{true, ".", NULL, NULL, 0755},
	{true, "data", "ecs-agent", "ecs-agent", 0700},
	{true, "images", NULL, NULL, 0711},
	{true, "images/layers", NULL, NULL, 0700},
	{true, "tasks", NULL, "ecs-agent", 0751}, /* it looks for what an unknown task has left */
	{true, "exits", NULL, "ecs-agent", 0750},
	/* Its files have the containers' ids, set-user-ID programs of root's among them, which
         * users of the host must not reach (CVE-2021-41091). */
	{true, "volumes", NULL, NULL, 0700},
	{true, "spool", NULL, "ecs-logs", 0770},
	{true, "logs", "ecs-logs", "ecs-logs", 0750},
};

static int find_owner(const struct directory *d, uid_t *uid, gid_t *gid, struct err *err)
{
	uid_t ignored_uid;
	gid_t ignored_gid;
	int r = 0;

	*uid = 0;
	*gid = 0;
	if (d->user)
		r = user_lookup(d->user, uid, &ignored_gid, err);
	if (r == 0 && d->group)
		r = user_lookup(d->group, &ignored_uid, gid, err);
	return r;
}

/* Each parent is root's alone to write (the table has it before), so that nobody can put a link
 * here between two calls; O_NOFOLLOW refuses one that was there. */
static int create_one(int top_fd, const struct directory *d, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	uid_t uid;
	gid_t gid;
	int r;

	r = find_owner(d, &uid, &gid, err);
	if (r < 0)
		return r;
	if (mkdirat(top_fd, d->path, 0700) < 0 && errno != EEXIST)
		return err_set(err, -errno, "make %s", d->path);
	fd = openat(top_fd, d->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return err_set(err, -errno, "open %s", d->path);
	if (fchown(fd, uid, gid) < 0)
		return err_set(err, -errno, "set the owner of %s", d->path);
	if (fchmod(fd, d->mode) < 0)
		return err_set(err, -errno, "set the mode of %s", d->path);
	return 0;
}

static int create_below(const char *top, bool in_state, struct err *err)
{
	_cleanup_close_ int top_fd = -EBADF;
	int r;

	r = dir_create_all(top, 0755);
	if (r < 0)
		return err_set(err, r, "make %s", top);
	top_fd = open(top, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (top_fd < 0)
		return err_set(err, -errno, "open %s", top);
	for (size_t i = 0; i < ARRAY_SIZE(directories); i++) {
		if (directories[i].in_state != in_state)
			continue;
		r = create_one(top_fd, &directories[i], err);
		if (r < 0)
			return err_prefix(err, r, "directory %s", top);
	}
	return 0;
}

int directories_create(const char *state_dir, const char *runtime_dir, struct err *err)
{
	int r = create_below(runtime_dir, false, err);

	return r < 0 ? r : create_below(state_dir, true, err);
}
