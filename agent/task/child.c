/*
 * The steps stand in a table, in the order they run: first what needs the host's view (cgroup,
 * namespaces, mounts), then the change of root, then giving up. Those that mount, and those about
 * who the program is, have files of their own (child_steps.h).
 */
#include "agent/task/child.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "agent/task/child_steps.h"
#include "lib/fd.h"

#define DEFAULT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

/* --- cgroup, network, names --- */

static int join_cgroup(struct child *child)
{
	int r = cgroup_join_cloned(child->plan->cgroup);

	if (r < 0)
		return r;
	/* Only now, so that the namespace's root is the container's cgroup. */
	return unshare(CLONE_NEWCGROUP) < 0 ? -errno : 0;
}

static int enter_network(struct child *child)
{
	if (child->plan->netns_fd < 0)
		return 0;
	return setns(child->plan->netns_fd, CLONE_NEWNET) < 0 ? -errno : 0;
}

/* Not for the calling process itself, but for those that it forks from now on. */
static int enter_shared_pids(struct child *child)
{
	if (child->plan->pid_ns_fd < 0)
		return 0;
	return setns(child->plan->pid_ns_fd, CLONE_NEWPID) < 0 ? -errno : 0;
}

static int set_hostname(struct child *child)
{
	const char *name = child->plan->hostname, *domain = child->plan->domainname;

	if (sethostname(name, strlen(name)) < 0)
		return -errno;
	return domain && setdomainname(domain, strlen(domain)) < 0 ? -errno : 0;
}

/* --- the new root, and the process itself --- */

static int pivot(struct child *child)
{
	return mount_pivot(child->root_fd);
}

/* So that a user other than root can open /dev/stdout, which is the pipe or the terminal. */
static int give_stdio(const struct child *child, int fd)
{
	struct stat st;
	uid_t uid;
	gid_t gid;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISFIFO(st.st_mode) && child->console_fd < 0)
		return 0;
	if (!child_host_ids(child, child->ids.uid, child->ids.gid, &uid, &gid))
		return -EDOM;
	return fchown(fd, uid, gid) < 0 ? -errno : 0;
}

static int compare_fds(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

/* Descriptors 0, 1 and 2; nothing else but the report and those of the init process, which close
 * with execve(2), and the user namespace, which closes when it is entered. */
int child_set_stdio(struct child *child)
{
	const struct child_plan *plan = child->plan;
	int keep[] = {plan->report_fd, plan->userns ? plan->userns->fd : plan->report_fd,
	              plan->init_program ? plan->init_program->fd : plan->report_fd,
	              plan->init_program ? child->init_pipe[0] : plan->report_fd,
	              plan->init_program ? child->init_pipe[1] : plan->report_fd};

	qsort(keep, ARRAY_SIZE(keep), sizeof(keep[0]), compare_fds);
	for (int i = STDIN_FILENO; i <= STDERR_FILENO; i++) {
		int fd = child->console_fd >= 0 ? child->console_fd : plan->stdio[i];
		bool given = fd >= 0;
		int r;

		if (dup2(given ? fd : child->null_rdwr_fd, i) < 0)
			return -errno;
		r = given ? give_stdio(child, i) : 0;
		if (r < 0)
			return r;
	}
	return fd_close_from(3, keep, ARRAY_SIZE(keep));
}

/* By the leader of a session, of the one that the program will be in. */
int child_take_terminal(struct child *child)
{
	if (child->console_fd >= 0 && ioctl(STDIN_FILENO, TIOCSCTTY, 0) < 0)
		return -errno;
	return 0;
}

/* CVE-2024-21626: a working directory outside the root would be a way out. The kernel marks one. */
int child_enter_cwd(struct child *child)
{
	char path[PATH_MAX];

	if (chdir(child->spec->cwd) < 0)
		return -errno;
	if (syscall(SYS_getcwd, path, sizeof(path)) < 0)
		return -errno;
	return path[0] == '/' ? 0 : -EXDEV;
}

/* clone(2) rather than fork(3), which has no CLONE_PARENT; its arguments pass Docker's seccomp
 * profile, which is on. */
int child_fork_inside(struct child *child)
{
	long pid = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, NULL, NULL, NULL, NULL);

	(void)child;
	if (pid < 0)
		return -errno;
	if (pid > 0)
		_exit(0);
	(void)setsid(); /* of the new pid namespace; fails only for a leader */
	return 0;
}

static int fork_shared(struct child *child)
{
	int r;

	if (child->plan->pid_ns_fd < 0)
		return 0;
	r = child_fork_inside(child);
	if (r == 0 && !child_send_report(child->plan, child->where, -EBADF))
		r = -EPIPE;
	return r;
}

static int reset_signals(void)
{
	sigset_t none;

	for (int s = 1; s <= SIGRTMAX; s++)
		if (s != SIGKILL && s != SIGSTOP)
			(void)signal(s, SIG_DFL); /* fails for the two that libc keeps */
	sigemptyset(&none);
	return sigprocmask(SIG_SETMASK, &none, NULL) < 0 ? -errno : 0;
}

static const char *env_get(const struct child_plan *plan, const char *name)
{
	size_t len = strlen(name);

	for (size_t i = 0; plan->env[i]; i++)
		if (strncmp(plan->env[i], name, len) == 0 && plan->env[i][len] == '=')
			return plan->env[i] + len + 1;
	return NULL;
}

/* An empty one is none: runtimes under Docker have it so. */
static void add_home(const struct child *child)
{
	static char home[USER_HOME_MAX + 8];
	const char *given = env_get(child->plan, "HOME");
	size_t i = 0;

	if (given && *given)
		return;
	snprintf(home, sizeof(home), "HOME=%s", child->ids.home);
	while (i < child->plan->n_env && strcmp(child->plan->env[i], "HOME=") != 0)
		i++;
	child->plan->env[i] = home;
	if (i == child->plan->n_env)
		child->plan->env[i + 1] = NULL;
}

/* Before a limit or a filter of the container can forbid it. */
static int make_init_pipe(struct child *child)
{
	return child->spec->init && pipe2(child->init_pipe, O_CLOEXEC) < 0 ? -errno : 0;
}

static _Noreturn void become_init(struct child *child, pid_t main_pid)
{
	add_home(child); /* the other process has a copy */
	child->where.error =
		init_program_execute(child->plan->init_program, main_pid, child->plan->env);
	/* Both may have gone. */
	(void)child_send_report(child->plan, child->where, -EBADF);
	(void)!write(child->init_pipe[1], "", 1);
	_exit(1);
}

/* The container's program must not meet a process 1 that is ours still, nor run without one. */
static void wait_for_init(struct child *child)
{
	ssize_t n;
	char failed;

	fd_close(child->init_pipe[1]);
	do
		n = read(child->init_pipe[0], &failed, sizeof(failed));
	while (n < 0 && errno == EINTR);
	if (n != 0)
		_exit(1); /* the other one has reported it */
	fd_close(child->init_pipe[0]);
}

static int start_init(struct child *child)
{
	sigset_t all;
	pid_t pid;

	if (!child->spec->init)
		return 0;
	/* Of itself orphans come only to number 1. */
	if (prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0)
		return -errno;
	sigfillset(&all);
	if (sigprocmask(SIG_SETMASK, &all, NULL) < 0)
		return -errno;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid > 0)
		become_init(child, pid);
	wait_for_init(child);
	if (setpgid(0, 0) < 0)
		return -errno;
	/* All signals are blocked, so the terminal does not stop us for this. */
	if (child->console_fd >= 0 && tcsetpgrp(STDIN_FILENO, getpid()) < 0)
		return -errno;
	return 0;
}

/* Can this file be run: 0, -ENOENT, -EACCES, -EISDIR. */
static int check_program(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0)
		return -errno;
	if (S_ISDIR(st.st_mode))
		return -EISDIR;
	return faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) < 0 ? -errno : 0;
}

/* The first program of that name on PATH. -ENOENT: none; -EACCES: only ones that cannot be run. */
static int find_program(const struct child *child, const char *name, char *path, size_t n)
{
	const char *dirs = env_get(child->plan, "PATH");
	int result = -ENOENT;

	if (strchr(name, '/')) {
		if (snprintf(path, n, "%s", name) >= (int)n)
			return -ENAMETOOLONG;
		return check_program(path);
	}
	for (const char *dir = dirs ? dirs : DEFAULT_PATH; *dir;) {
		size_t len = strcspn(dir, ":");

		/* A relative entry would run what the working directory holds. */
		if (dir[0] == '/' && snprintf(path, n, "%.*s/%s", (int)len, dir, name) < (int)n) {
			int r = check_program(path);

			if (r == 0)
				return 0;
			if (r == -EACCES)
				result = r;
		}
		dir += len + (dir[len] == ':');
	}
	return result;
}

bool child_send_report(const struct child_plan *plan, struct child_report report, int fd)
{
	struct iovec data = {.iov_base = &report, .iov_len = sizeof(report)};
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {};
	struct msghdr msg = {.msg_iov = &data, .msg_iovlen = 1};

	if (fd >= 0) {
		msg.msg_control = &control;
		msg.msg_controllen = sizeof(control);
		control.header = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof(int)),
		                                  .cmsg_level = SOL_SOCKET,
		                                  .cmsg_type = SCM_RIGHTS};
		memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
	}
	return sendmsg(plan->report_fd, &msg, MSG_NOSIGNAL) == (ssize_t)sizeof(report);
}

static int hold(struct child *child)
{
	ssize_t n;
	char go;

	if (!child->spec->hold)
		return 0;
	if (!child_send_report(child->plan, child->where, -EBADF))
		return -EPIPE;
	do
		n = read(child->plan->report_fd, &go, sizeof(go));
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n == 0 ? -EPIPE : 0;
}

int child_execute(struct child *child)
{
	char path[PATH_MAX];
	int r;

	add_home(child);
	r = find_program(child, child->spec->args[0], path, sizeof(path));
	if (r < 0)
		return r;
	r = reset_signals();
	if (r < 0)
		return r;

	child->where.step = CHILD_READY;
	if (!child_send_report(child->plan, child->where, -EBADF))
		return -EPIPE;
	child->where.step = CHILD_EXEC;
	child->where.item = CHILD_ITEM_FOUND;
	execve(path, (char **)child->spec->args, child->plan->env);
	return -errno;
}

static const struct child_step_entry start_steps[] = {
	{CHILD_CGROUP, join_cgroup},
	{CHILD_OWNED_NAMESPACES, child_join_owned},
	{CHILD_NETWORK, enter_network},
	{CHILD_NAMESPACES, enter_shared_pids},
	{CHILD_HOSTNAME, set_hostname},
	{CHILD_LABEL, child_set_label},
	{CHILD_KEYRING, child_new_keyring},
	{CHILD_OWN_DIRECTORIES, child_make_own_directories},
	{CHILD_PROC, child_mount_proc},
	{CHILD_OOM_SCORE, child_set_oom_score},
	{CHILD_SYSCTLS, child_set_sysctls},
	{CHILD_DEV, child_mount_dev},
	{CHILD_SHM, child_mount_shm},
	{CHILD_CONSOLE, child_make_console},
	{CHILD_DEVICES, child_make_devices},
	{CHILD_SYS, child_mount_sys},
	{CHILD_CGROUP_MOUNT, child_mount_cgroup},
	{CHILD_MOUNTS, child_make_mounts},
	{CHILD_EXECUTE_COMMAND, child_mount_execute_command},
	{CHILD_ETC, child_mount_etc_files},
	{CHILD_MAKE_CWD, child_make_cwd},
	{CHILD_READONLY_PATHS, child_make_readonly_paths},
	{CHILD_MASKED_PATHS, child_mask_paths},
	{CHILD_USER, child_find_user},
	{CHILD_READONLY_ROOT, child_make_root_readonly},
	{CHILD_PIVOT, pivot},
	{CHILD_INIT, make_init_pipe},
	{CHILD_RLIMITS, child_set_rlimits},
	{CHILD_STDIO, child_set_stdio},
	{CHILD_USERNS, child_enter_userns},
	{CHILD_USERNS, child_own_mounts},
	{CHILD_CWD, child_enter_cwd},
	{CHILD_SECCOMP, child_early_seccomp},
	{CHILD_CAPABILITIES, child_drop_privileges},
	{CHILD_NO_NEW_PRIVS, child_no_new_privs},
	{CHILD_FORK, fork_shared},
	{CHILD_STDIO, child_take_terminal},
	{CHILD_INIT, start_init},
	{CHILD_HOLD, hold},
	{CHILD_EXEC, child_execute},
};

struct child child_init(const struct child_plan *plan)
{
	return (struct child){
		.plan = plan,
		.spec = plan->spec,
		.root_fd = -EBADF,
		.proc_fd = -EBADF,
		.dev_fd = -EBADF,
		.null_fd = -EBADF,
		.null_rdwr_fd = -EBADF,
		.console_fd = -EBADF,
		.init_pipe = {-EBADF, -EBADF},
	};
}

_Noreturn void child_run_steps(struct child *child, const struct child_step_entry *steps, size_t n)
{
	(void)setsid(); /* fails only for a leader, which a new process is not */
	for (size_t i = 0; i < n; i++) {
		int r;

		/* Nodes and mount points get exactly the modes written above. */
		umask(steps[i].step < CHILD_MOUNTS && steps[i].step >= CHILD_DEV ? 0 : 022);
		child->where = (struct child_report){.step = (int32_t)steps[i].step, .item = -1};
		r = steps[i].run(child);
		if (r < 0) {
			child->where.error = r;
			/* the parent may have gone */
			(void)child_send_report(child->plan, child->where, -EBADF);
			_exit(1);
		}
	}
	_exit(1); /* not reached: child_execute() returns errors only */
}

_Noreturn void child_run(const struct child_plan *plan)
{
	struct child child = child_init(plan);

	child_run_steps(&child, start_steps, ARRAY_SIZE(start_steps));
}
