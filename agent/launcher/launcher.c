/*
 * ecs-launcher: the only door to privileged work, and so as small as can be: it links libc alone,
 * parses one line, and what it starts outlives it.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "agent/launcher/directories.h"
#include "agent/launcher/notify.h"
#include "agent/launcher/parent.h"
#include "agent/launcher/protocol.h"
#include "agent/launcher/server.h"
#include "agent/launcher/start.h"
#include "lib/cleanup.h"
#include "lib/confine.h"
#include "lib/envfile.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "lib/options.h"

/* Descriptors 0 to 2 exist, 3 is taken by a placeholder (so that no file of ours lands where a
 * program gets its connection), 4 is what supervisors of tasks get, and nothing else came in. */
static int settle_descriptors(struct err *err)
{
	int fd;

	do
		fd = open("/dev/null", O_RDWR);
	while (fd >= 0 && fd < LAUNCHER_CONTROL_FD);
	if (fd < 0)
		return err_set(err, -errno, "open /dev/null");
	if (dup2(fd, LAUNCHER_CONTROL_FD) < 0)
		return err_set(err, -errno, "reserve descriptor %d", LAUNCHER_CONTROL_FD);
	if (fd_close_from(LAUNCHER_CONTROL_FD + 1, NULL, 0) < 0)
		return err_set(err, -errno, "close what came in");
	/* The next one is the lowest that is free. */
	fd = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	if (fd != LAUNCHER_MOUNTS_FD)
		return err_set(err, fd < 0 ? -errno : -EBADF, "open /proc/self/ns/mnt");
	return 0;
}

/* When memory runs out, whoever may start and end tasks should be the last to go. */
static void protect_from_oom(void)
{
	int r = file_write(AT_FDCWD, "/proc/self/oom_score_adj", "-999");

	if (r < 0)
		log_warning(NULL, r,
		            "cannot protect ecs-launcher from the OOM killer (CAP_SYS_RESOURCE)");
}

static void set_log_level(const char *config)
{
	_cleanup_(envfile_freep) struct envfile *file = NULL;
	struct err err = {0};
	const char *level;

	if (envfile_open(config, &file, &err) < 0) {
		log_warning(NULL, 0, "%s", err.text);
		return;
	}
	level = envfile_get(file, "ECS_LOGLEVEL");
	if (level && log_set_level(level) < 0)
		log_warning(
			NULL, 0,
			"ECS_LOGLEVEL \"%s\" must be crit, error, warn, info or debug; using info",
			level);
}

/* Controllers that are missing are told now, rather than to every task. */
static int check_cgroups(struct parent *parent, struct err *err)
{
	struct cgroup_root *root;
	int r = parent_root(parent, &root, err);

	if (r != -ESHUTDOWN)
		return r;
	log_warning(NULL, 0, "no task can be started: %s", err->text);
	return 0;
}

static int run(const struct options *options, const char *cgroup_parent, struct err *err)
{
	_cleanup_(parent_freep) struct parent *parent = NULL;
	_cleanup_(server_freep) struct server *server = NULL;
	_cleanup_free_ char **env = NULL;
	struct server_config config = {.options = options, .alive_msec = notify_alive_msec()};
	char dir[PATH_MAX];
	int r;

	if (geteuid() != 0)
		return err_text(err, -EPERM, "ecs-launcher must be started as root");
	r = user_lookup("ecs-agent", &config.agent_uid, &config.agent_gid, err);
	if (r == 0)
		r = program_dir(dir, sizeof(dir), err);
	if (r == 0)
		r = directories_create(options->state_dir, options->runtime_dir, err);
	if (r == 0)
		r = parent_new(cgroup_parent, options->runtime_dir, &parent, err);
	if (r == 0)
		r = check_cgroups(parent, err);
	if (r == 0 && start_environment(environ, &env) < 0)
		r = err_oom(err);
	if (r < 0)
		return r;

	protect_from_oom();
	config.program_dir = dir;
	config.parent = parent;
	config.env = env;
	r = server_new(&config, &server, err);
	if (r < 0)
		return r;
	notify_ready();
	log_info(NULL, "ready");
	return server_run(server, err);
}

int main(int argc, char **argv)
{
	const char *cgroup_parent = NULL;
	const struct option_spec specs[] = {
		{"cgroup-parent", "NAME",
	         "cgroup of tasks (what <runtime-dir>/cgroup says, else ecs)", NULL,
	         &cgroup_parent},
	};
	struct options options;
	struct err err = {0};
	int r, first;

	log_init("ecs-launcher");
	r = options_parse(argc, argv, "ecs-launcher [OPTION]...", specs, ARRAY_SIZE(specs),
	                  &options, &first, &err);
	if (r == 0 && first < argc)
		r = err_text(&err, -EINVAL, "ecs-launcher takes no argument: %s", argv[first]);
	if (r == 0)
		r = settle_descriptors(&err);
	if (r == 0) {
		log_init("ecs-launcher"); /* its journal socket was closed with the rest */
		set_log_level(options.config);
		r = run(&options, cgroup_parent, &err);
	}
	if (r < 0) {
		log_err(NULL, 0, "%s", err.text);
		return EXIT_FAILURE;
	}
	return EXIT_SUCCESS;
}
