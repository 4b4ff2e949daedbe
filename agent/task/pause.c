/*
 * The new process reports as the child of a container's start does (child.h), on a socket, with
 * steps of its own; the two descriptors that only it can make come with the first two. End of file
 * after the last report means that it runs its program, and before that it died.
 */
#include "agent/task/pause.h"

#include <errno.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "agent/task/capability.h"
#include "agent/task/child_steps.h"
#include "agent/task/init_program.h"
#include "lib/fd.h"

#define START_MSEC 10000

enum pause_step {
	PAUSE_NAMESPACE, /* brings pid_ns_fd */
	PAUSE_PROC,      /* brings proc_fd */
	PAUSE_ROOT,
	PAUSE_DESCRIPTORS,
	PAUSE_CAPABILITIES,
	PAUSE_SECCOMP,
	PAUSE_EXEC, /* with error 0: about to */
	_PAUSE_STEP_MAX,
};

static const char *const step_words[_PAUSE_STEP_MAX] = {
	[PAUSE_NAMESPACE] = "open the namespace",
	[PAUSE_PROC] = "mount /proc",
	[PAUSE_ROOT] = "change the root",
	[PAUSE_DESCRIPTORS] = "close descriptors",
	[PAUSE_CAPABILITIES] = "give up capabilities",
	[PAUSE_SECCOMP] = "install the seccomp filter",
	[PAUSE_EXEC] = "execute its program",
};

/* --- in the new process --- */

static int send_report(int fd, enum pause_step step, int error, int with_fd)
{
	const struct child_plan plan = {.report_fd = fd};
	struct child_report report = {.step = (int32_t)step, .error = error, .item = -1};

	return child_send_report(&plan, report, with_fd) ? 0 : -EPIPE;
}

static int send_namespace(int report_fd)
{
	/* /proc is still the host's, where "self" is this process. */
	_cleanup_close_ int fd = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);

	return fd < 0 ? -errno : send_report(report_fd, PAUSE_NAMESPACE, 0, fd);
}

static int send_proc(int report_fd)
{
	_cleanup_close_ int fd = mount_new("proc", NULL, 0, QUIET);

	return fd < 0 ? fd : send_report(report_fd, PAUSE_PROC, 0, fd);
}

static int change_root(const char *empty_dir)
{
	static const struct mount_option empty[] = {{"size", "4k"}, {"mode", "555"}};
	_cleanup_close_ int fd = -EBADF, target = -EBADF;
	int r;

	fd = mount_new("tmpfs", empty, ARRAY_SIZE(empty), QUIET | MOUNT_ATTR_RDONLY);
	if (fd < 0)
		return fd;
	target = open(empty_dir, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (target < 0)
		return -errno;
	r = mount_attach(fd, target);
	return r < 0 ? r : mount_pivot(fd);
}

static int give_up_capabilities(void)
{
	static const struct user_ids root = {.home = "/"};

	return capability_become(&root, 0, 0, 0);
}

static int install_filter(const struct seccomp_filter *filter)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	return seccomp_filter_install(filter);
}

/* Its program waits for them. */
static int block_signals(void)
{
	sigset_t all;

	sigfillset(&all);
	return sigprocmask(SIG_SETMASK, &all, NULL) < 0 ? -errno : 0;
}

static int close_descriptors(int report_fd, const struct init_program *program)
{
	const int keep[] = {report_fd < program->fd ? report_fd : program->fd,
	                    report_fd < program->fd ? program->fd : report_fd};

	return fd_close_from(0, keep, ARRAY_SIZE(keep));
}

static int execute(int report_fd, const struct init_program *program)
{
	char *const no_env[] = {NULL};
	int r = send_report(report_fd, PAUSE_EXEC, 0, -EBADF);

	return r < 0 ? r : init_program_execute(program, 0, no_env);
}

static int run_step(enum pause_step step, int report_fd, const struct pause_config *config,
                    const struct init_program *program)
{
	switch (step) {
	case PAUSE_NAMESPACE:
		return unshare(CLONE_NEWCGROUP) < 0 ? -errno : send_namespace(report_fd);
	case PAUSE_PROC:
		return send_proc(report_fd);
	case PAUSE_ROOT:
		return change_root(config->empty_dir);
	case PAUSE_DESCRIPTORS:
		return close_descriptors(report_fd, program);
	case PAUSE_CAPABILITIES:
		return give_up_capabilities();
	case PAUSE_SECCOMP:
		return install_filter(config->filter);
	case PAUSE_EXEC:
		return execute(report_fd, program);
	case _PAUSE_STEP_MAX:
		break;
	}
	return -EINVAL;
}

static _Noreturn void run(int report_fd, const struct pause_config *config,
                          const struct init_program *program)
{
	int r = setsid() < 0 ? -errno : block_signals();

	for (int step = 0; r == 0 && step < _PAUSE_STEP_MAX; step++) {
		r = run_step((enum pause_step)step, report_fd, config, program);
		if (r < 0)
			(void)send_report(report_fd, (enum pause_step)step, r, -EBADF);
	}
	_exit(1);
}

/* --- in the supervisor --- */

/* 1, or 0 at the end of file. */
static int receive(int fd, struct child_message *ret, struct err *err)
{
	struct pollfd pollfd = {.fd = fd, .events = POLLIN};
	int r;

	do {
		r = poll(&pollfd, 1, START_MSEC);
		if (r == 0)
			return err_text(err, -ETIMEDOUT, "it does not start");
		if (r < 0 && errno != EINTR)
			return err_set(err, -errno, "poll");
		r = child_report_receive(fd, ret);
	} while (r == -EAGAIN);
	return r < 0 ? err_set(err, r, "receive its report") : r;
}

static int follow(int fd, struct pause_process *pause_process, struct err *err)
{
	int step = PAUSE_NAMESPACE;

	for (;;) {
		struct child_message message;
		int r = receive(fd, &message, err);

		if (r == 0 && step != PAUSE_EXEC)
			r = err_text(err, -EIO, "it was killed");
		if (r <= 0)
			return r;
		r = 0;
		step = message.report.step;
		if (message.report.error < 0)
			r = err_set(err, message.report.error, "%s",
			            step >= 0 && step < _PAUSE_STEP_MAX ? step_words[step]
			                                                : "start");
		else if (step == PAUSE_NAMESPACE && pause_process->pid_ns_fd < 0)
			pause_process->pid_ns_fd = TAKE_FD(message.console_fd);
		else if (step == PAUSE_PROC && pause_process->proc_fd < 0)
			pause_process->proc_fd = TAKE_FD(message.console_fd);
		fd_close(message.console_fd);
		if (r < 0)
			return r;
	}
}

static int start_and_follow(const struct pause_config *config, const struct init_program *program,
                            struct pause_process *ret, struct err *err)
{
	struct clone_args args = {
		.flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC,
		.exit_signal = SIGCHLD,
	};
	struct pause_process started = {.pid_ns_fd = -EBADF, .proc_fd = -EBADF};
	_cleanup_close_ int ours = -EBADF, theirs = -EBADF;
	int fds[2], r;

	r = child_report_open(fds, err);
	if (r < 0)
		return r;
	ours = fds[0];
	theirs = fds[1];
	started.pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	if (started.pid < 0)
		return err_set(err, -errno, "clone the process that holds the task's namespace");
	if (started.pid == 0)
		run(theirs, config, program);
	theirs = fd_close(theirs);

	r = follow(ours, &started, err);
	if (r < 0) {
		(void)kill(started.pid, SIGKILL); /* ours, and not collected */
		(void)waitpid(started.pid, NULL, 0);
		fd_close(started.pid_ns_fd);
		fd_close(started.proc_fd);
		return err_prefix(err, r, "the process that holds the task's namespace");
	}
	*ret = started;
	return 0;
}

int pause_process_start(const struct pause_config *config, struct pause_process *ret,
                        struct err *err)
{
	static const struct labels none = {.no_default = true};
	struct init_program program;
	int r;

	r = init_program_open(NULL, "/pause", &none, &program, err);
	if (r < 0)
		return r;
	r = start_and_follow(config, &program, ret, err);
	init_program_done(&program);
	return r;
}
