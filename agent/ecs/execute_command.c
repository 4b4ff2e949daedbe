/* The same look as ecs-task's, so that no task is placed here for what that would refuse. */
#include "agent/ecs/execute_command.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>

#include "agent/task/execute_command_paths.h"
#include "lib/cleanup.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "lib/version_dir.h"

static bool is_roots(int dir_fd, const char *name, const char *deps)
{
	struct stat st;

	if (fstatat(dir_fd, name, &st, 0) < 0) {
		log_warning(NULL, -errno, "ECS Exec is not offered: look at %s/%s", deps, name);
		return false;
	}
	if (S_ISDIR(st.st_mode) && st.st_uid == 0 && (st.st_mode & 022) == 0)
		return true;
	log_warning(NULL, 0,
	            "ECS Exec is not offered: %s/%s must be a folder of root that nobody else may "
	            "write to",
	            deps, name);
	return false;
}

bool execute_command_is_installed(const char *state_dir)
{
	static const char *const programs[] = EXECUTE_COMMAND_PROGRAMS;
	_cleanup_close_ int deps_fd = -EBADF, bin_fd = -EBADF;
	char deps[PATH_MAX], version[VERSION_DIR_NAME_MAX + 1];
	struct stat st;
	int r;

	if (snprintf(deps, sizeof(deps), "%s/" EXECUTE_COMMAND_DEPS, state_dir) >=
	    (int)sizeof(deps))
		return false;
	deps_fd = open(deps, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (deps_fd < 0) {
		if (errno != ENOENT) /* else nobody wants it here */
			log_warning(NULL, -errno, "ECS Exec is not offered: open %s", deps);
		return false;
	}
	if (!is_roots(deps_fd, ".", deps) || !is_roots(deps_fd, "bin", deps) ||
	    !is_roots(deps_fd, "certs", deps))
		return false;
	bin_fd = openat(deps_fd, "bin", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	r = bin_fd < 0 ? -errno
	               : version_dir_newest(bin_fd, programs, ARRAY_SIZE(programs), version);
	if (r < 0) {
		log_warning(NULL, r, "ECS Exec is not offered: find the SSM agent in %s/bin", deps);
		return false;
	}
	if (fstatat(deps_fd, EXECUTE_COMMAND_CERTS, &st, 0) < 0 || !S_ISREG(st.st_mode)) {
		log_warning(NULL, 0, "ECS Exec is not offered: there is no %s/%s", deps,
		            EXECUTE_COMMAND_CERTS);
		return false;
	}
	return true;
}
