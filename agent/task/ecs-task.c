/*
 * ecs-task: the container runtime. One process for each task, started by ecs-launcher as root, as
 * first process of a pid namespace of its own: when it ends, however it ends, the kernel ends every
 * process of the task. For tasks of pidMode host it stays in the host's (namespaces.h).
 *
 * It is an OCI runtime's command line as well (oci.h), which starts such supervisors by itself.
 */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "agent/launcher/protocol.h"
#include "agent/task/host_mounts.h"
#include "agent/task/mount.h"
#include "agent/task/oci.h"
#include "agent/task/reap.h"
#include "agent/task/supervisor.h"
#include "lib/fd.h"
#include "lib/ipc.h"
#include "lib/json.h"
#include "lib/log.h"
#include "lib/options.h"
#include "lib/parse.h"

static bool is_task_id(const char *id)
{
	size_t len = strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-");

	return len > 0 && len <= LAUNCHER_TASK_ID_MAX && id[len] == '\0' && id[0] != '-';
}

/* Can the file of our program be written through /proc/<pid>/exe? */
static bool is_sealed(void)
{
	_cleanup_close_ int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	struct statvfs st;
	int seals;

	if (fd < 0)
		return false;
	seals = fcntl(fd, F_GET_SEALS);
	if (seals >= 0 && (seals & F_SEAL_WRITE))
		return true; /* ecs-launcher starts us from such a copy */
	return fstatvfs(fd, &st) == 0 && (st.f_flag & ST_RDONLY);
}

/*
 * CVE-2019-5736: a container can run /proc/self/exe (as its command or as the interpreter of a
 * script) and then hold our program's file. Unless it is a sealed copy already, run it from a
 * read-only mount, which exists in this mount namespace only.
 */
static int seal_program(char **argv, struct err *err)
{
	char path[PATH_MAX];
	ssize_t n;
	int fd, r;

	if (is_sealed())
		return 0;
	n = readlink("/proc/self/exe", path, sizeof(path) - 1);
	if (n < 0)
		return err_set(err, -errno, "read /proc/self/exe");
	path[n] = '\0';
	r = sys_mount(path, path, NULL, MS_BIND, NULL);
	if (r < 0)
		return err_set(err, r, "mount %s read-only", path);
	fd = open(path, O_PATH | O_CLOEXEC);
	if (fd < 0)
		return err_set(err, -errno, "open %s", path);
	r = mount_add_attr(fd, MOUNT_ATTR_RDONLY, false);
	fd_close(fd);
	if (r < 0)
		return err_set(err, r, "make %s read-only", path);
	execv(path, argv);
	return err_set(err, -errno, "run %s again", path);
}

/* Nobody reads our memory (environments carry secrets), and memory pressure spares us. */
static int protect(struct err *err)
{
	struct rlimit files;
	int r;

	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return err_set(err, -errno, "switch core dumps off");
	/* Pipes, namespaces and held ports of many containers; each gets limits of its own. */
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &files) < 0)
			return err_set(err, -errno, "raise the limit of open files");
	}
	/* On a host whose root lacks CAP_SYS_RESOURCE (a container) tasks run all the same. */
	r = file_write(AT_FDCWD, "/proc/self/oom_score_adj", "-999");
	if (r < 0)
		log_debug(NULL, "oom_score_adj cannot be lowered: %s", strerror(-r));
	return 0;
}

/* The containers' file systems are mounted here, and must not show on the host. */
static int own_mounts(struct err *err)
{
	struct stat own, host;
	int r;

	/* /proc is the host's, whose process 1 is init(1), which not every root may look at. */
	if (stat("/proc/self/ns/mnt", &own) < 0)
		return err_set(err, -errno, "look at /proc/self/ns/mnt");
	if (stat("/proc/1/ns/mnt", &host) == 0 && own.st_ino == host.st_ino)
		return err_text(err, -EPERM,
		                "ecs-task must be in a mount namespace of its own, as ecs-launcher "
		                "starts it");
	r = sys_mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL);

	return r < 0 ? err_set(err, r, "keep mounts to this namespace") : 0;
}

/* In the host's process namespace orphans of containers come to us, as they do to a first process.
 */
static int check_pid_namespace(bool host_pid, struct err *err)
{
	if (!host_pid && getpid() != 1)
		return err_text(
			err, -EPERM,
			"ecs-task must be the first process of a pid namespace of its own, as "
			"ecs-launcher starts it");
	if (host_pid && prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
		return err_set(err, -errno, "become a reaper of orphans");
	return 0;
}

/* What the host unmounts must not live on in our copy. */
static int prune_mounts(const struct options *options, struct err *err)
{
	/* Each may be a link to another disk. */
	static const char *const below[] = {"",       "/images", "/images/layers",
	                                    "/tasks", "/spool",  "/volumes",
	                                    "/exits", "/data",   "/deps/execute-command"};
	char paths[ARRAY_SIZE(below) + 4][PATH_MAX];
	const char *needed[ARRAY_SIZE(paths)];
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(below); i++) {
		char path[PATH_MAX];

		if (snprintf(path, sizeof(path), "%s%s", options->state_dir, below[i]) >=
		    (int)sizeof(path))
			return err_text(err, -ENAMETOOLONG, "--state-dir is too long");
		if (realpath(path, paths[n]))
			n++;
	}
	/* What is not there needs no mount. */
	n += realpath(options->runtime_dir, paths[n]) != NULL;
	n += realpath(options->config, paths[n]) != NULL;
	n += realpath("/var/log", paths[n]) != NULL; /* EXECUTE_COMMAND_LOGS may not be there yet */
	n += realpath("/proc/self/exe", paths[n]) != NULL;
	for (size_t i = 0; i < n; i++)
		needed[i] = paths[i];
	return host_mounts_prune(needed, n, err);
}

static int run_supervisor(struct supervisor_config *config, char **argv, struct err *err)
{
	int r;

	r = check_pid_namespace(config->host_pid, err);
	if (r == 0)
		r = own_mounts(err);
	if (r == 0)
		r = seal_program(argv, err);
	config->host_mounts_fd = host_mounts_take(LAUNCHER_MOUNTS_FD);
	if (r == 0 && config->host_mounts_fd >= 0)
		r = prune_mounts(config->options, err);
	if (r == 0)
		r = protect(err);
	if (r == 0)
		r = fd_set_cloexec(LAUNCHER_CONTROL_FD, true);
	if (r == -EBADF)
		return err_text(err, r, "descriptor %d must be the connection of ecs-agent",
		                LAUNCHER_CONTROL_FD);
	return r < 0 ? r : supervisor_run(config, err);
}

/* Tell ecs-agent, if it is there: an operator may reap by hand. */
static void answer_reap(int r, const struct err *err)
{
	_cleanup_(ipc_conn_freep) struct ipc_conn *conn = NULL;
	_cleanup_json_ struct json_object *answer = NULL;

	if (fd_set_cloexec(LAUNCHER_CONTROL_FD, true) < 0 ||
	    ipc_conn_new(LAUNCHER_CONTROL_FD, 0, false, &conn) < 0)
		return;
	if (r < 0) {
		(void)ipc_conn_send_error(conn, NULL, r, err); /* it may have gone */
		return;
	}
	answer = ipc_message_new("reaped", NULL);
	if (answer)
		(void)ipc_conn_send(conn, answer, NULL, 0); /* the same */
}

int main(int argc, char **argv)
{
	const char *cgroup_parent = "ecs";
	bool reap = false, discard = false, oci = false, host_pid = false;
	const struct option_spec specs[] = {
		{"cgroup-parent", "NAME", "cgroup below which tasks live (ecs)", NULL,
	         &cgroup_parent},
		{"reap", NULL, "remove what a dead supervisor of the task left", &reap, NULL},
		{"discard", NULL, "the same, with output that is not shipped yet", &discard, NULL},
		{"oci", NULL, "supervise a container of the OCI command line", &oci, NULL},
		{"host-pid", NULL, "supervise a task of pidMode host", &host_pid, NULL},
	};
	struct options options;
	struct err err = {};
	int first, r;

	if (oci_is_command(argc, argv))
		return oci_main(argc, argv);
	log_init("ecs-task");
	(void)prctl(PR_SET_NAME, "ecs-task");
	r = options_parse(argc, argv, "ecs-task [OPTION]... TASK-ID", specs, ARRAY_SIZE(specs),
	                  &options, &first, &err);
	if (r > 0)
		return EXIT_SUCCESS;
	if (r == 0 && first != argc - 1)
		r = err_text(&err, -EINVAL, "ecs-task takes one argument, the id of the task");
	if (r == 0 &&
	    !(oci ? name_is_component(argv[first], LAUNCHER_TASK_ID_MAX) : is_task_id(argv[first])))
		r = err_text(&err, -EINVAL,
		             "\"%.80s\" is no task id; it must be 1 to %d letters, digits and '-'",
		             argv[first], LAUNCHER_TASK_ID_MAX);
	if (r < 0) {
		log_err(NULL, 0, "%s", err.text);
		return EXIT_FAILURE;
	}

	if (reap || discard) {
		r = (discard ? discard_task : reap_task)(&options, cgroup_parent, argv[first],
		                                         &err);
		answer_reap(r, &err);
	} else {
		struct supervisor_config config = {
			.options = &options,
			.cgroup_parent = cgroup_parent,
			.task_id = argv[first],
			.control_fd = LAUNCHER_CONTROL_FD,
			.oci = oci,
			.host_pid = host_pid,
		};

		r = run_supervisor(&config, argv, &err);
	}
	if (r < 0)
		log_err(NULL, 0, "task %s: %s", argv[first], err.text);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
