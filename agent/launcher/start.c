/*
 * fork, reset, exec. Between the two only system calls: the child runs on a copy of our memory. A
 * step that fails is told through a pipe, which a successful exec closes.
 */
#include "agent/launcher/start.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/launcher/protocol.h"
#include "lib/cleanup.h"
#include "lib/fd.h"

enum step {
	STEP_CGROUP,
	STEP_SIGNALS,
	STEP_SESSION,
	STEP_MOUNTS,
	STEP_OOM_SCORE,
	STEP_DESCRIPTORS,
	STEP_EXEC,
	_STEP_MAX,
};

static const char *const step_names[_STEP_MAX] = {
	[STEP_CGROUP] = "enter the cgroup",
	[STEP_SIGNALS] = "reset signals",
	[STEP_SESSION] = "start a session",
	[STEP_MOUNTS] = "keep mounts to itself",
	[STEP_OOM_SCORE] = "set the OOM score",
	[STEP_DESCRIPTORS] = "set up descriptors",
	[STEP_EXEC] = "execute it",
};

struct report {
	int step;
	int error;
};

static int reset_signals(void)
{
	struct sigaction action = {.sa_handler = SIG_DFL};
	sigset_t none;

	/* Those that cannot be changed (SIGKILL, SIGSTOP, libc's own) say EINVAL. */
	for (int i = 1; i < NSIG; i++)
		if (sigaction(i, &action, NULL) < 0 && errno != EINVAL)
			return -errno;
	sigemptyset(&none);
	return sigprocmask(SIG_SETMASK, &none, NULL) < 0 ? -errno : 0;
}

static int reset_session(void)
{
	umask(022);
	if (setsid() < 0)
		return -errno;
	return chdir("/") < 0 ? -errno : 0;
}

/*
 * In its own mount namespace, what the task mounts must not appear on the host. Slave rather than
 * private: what the host unmounts must not live on in here and keep a device busy.
 */
static int isolate_mounts(void)
{
	return mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0 ? -errno : 0;
}

static int set_oom_score(const char *score)
{
	return score ? file_write(AT_FDCWD, "/proc/self/oom_score_adj", score) : 0;
}

/* Descriptors 3 and 4 are taken in this program, so neither of the two below is in the way. */
static int set_descriptors(const struct start *start, int report_fd)
{
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC), keep[3] = {LAUNCHER_MOUNTS_FD};
	bool is_task = start->cgroup != NULL;
	int low, high;

	if (null_fd < 0 || dup2(null_fd, STDIN_FILENO) < 0 || dup2(null_fd, STDOUT_FILENO) < 0 ||
	    dup2(start->connection_fd, LAUNCHER_CONTROL_FD) < 0)
		return -errno;
	low = start->program->fd < report_fd ? start->program->fd : report_fd;
	high = start->program->fd < report_fd ? report_fd : start->program->fd;
	keep[1] = low;
	keep[2] = high;
	/* Both close on exec. */
	if (is_task && fd_set_cloexec(LAUNCHER_MOUNTS_FD, false) < 0)
		return -errno;
	return fd_close_from(LAUNCHER_CONTROL_FD + 1, keep + !is_task, is_task ? 3 : 2);
}

static int run_step(enum step step, const struct start *start, int report_fd)
{
	switch (step) {
	case STEP_CGROUP:
		return start->cgroup ? cgroup_join_cloned(start->cgroup) : 0;
	case STEP_SIGNALS:
		return reset_signals();
	case STEP_SESSION:
		return reset_session();
	case STEP_MOUNTS:
		return start->cgroup ? isolate_mounts() : 0;
	case STEP_OOM_SCORE:
		return set_oom_score(start->oom_score_adj);
	case STEP_DESCRIPTORS:
		return set_descriptors(start, report_fd);
	case STEP_EXEC:
		syscall(SYS_execveat, start->program->fd, "", start->argv, start->env,
		        AT_EMPTY_PATH);
		return -errno;
	case _STEP_MAX:
		break;
	}
	return -EINVAL;
}

static void __attribute__((noreturn)) child(const struct start *start, int report_fd)
{
	struct report report = {0};

	for (int step = 0; step < _STEP_MAX; step++) {
		report.step = step;
		report.error = run_step((enum step)step, start, report_fd);
		if (report.error < 0)
			break;
	}
	(void)!write(report_fd, &report, sizeof(report));
	_exit(127);
}

static pid_t clone_process(const struct start *start)
{
	struct clone_args args = {.exit_signal = SIGCHLD};

	if (start->cgroup) {
		int cgroup_fd = cgroup_clone_fd(start->cgroup);

		args.flags = CLONE_NEWNS | (start->host_pid ? 0 : CLONE_NEWPID);
		if (cgroup_fd >= 0) {
			args.flags |= CLONE_INTO_CGROUP;
			args.cgroup = (uint64_t)cgroup_fd;
		}
	}
	return (pid_t)syscall(SYS_clone3, &args, sizeof(args));
}

int start_program(const struct start *start, pid_t *ret_pid, int *ret_report_fd, struct err *err)
{
	_cleanup_close_ int read_fd = -EBADF, write_fd = -EBADF;
	int pipe_fds[2];
	pid_t pid;

	if (pipe2(pipe_fds, O_CLOEXEC) < 0)
		return err_set(err, -errno, "make a pipe");
	read_fd = pipe_fds[0];
	write_fd = pipe_fds[1];

	pid = clone_process(start);
	if (pid < 0)
		return err_set(err, -errno, "fork for %s", start->program->name);
	if (pid == 0)
		child(start, write_fd);
	*ret_pid = pid;
	*ret_report_fd = TAKE_FD(read_fd);
	return 0;
}

int start_result(int report_fd, struct err *err)
{
	struct report report;
	ssize_t k = fd_read_all(report_fd, &report, sizeof(report));

	if (k == 0)
		return 0;
	if (k != sizeof(report) || report.step < 0 || report.step >= _STEP_MAX || report.error >= 0)
		return err_text(err, -EPROTO, "the new process did not say what failed");
	return err_set(err, report.error, "%s", step_names[report.step]);
}

/* Prefixes; one that ends in '=' is a whole name. */
static const char *const passed_variables[] = {
	"PATH=",         "http_proxy=",      "HTTP_PROXY=",     "https_proxy=", "HTTPS_PROXY=",
	"no_proxy=",     "NO_PROXY=",        "all_proxy=",      "ALL_PROXY=",   "AWS_CA_BUNDLE=",
	"SSL_CERT_",     "AWS_ENDPOINT_URL", "JOURNAL_STREAM=",
#ifdef ECS_SANITIZERS
	"ASAN_OPTIONS=", "UBSAN_OPTIONS=",
#endif
};

static bool is_passed(const char *variable)
{
	for (size_t i = 0; i < ARRAY_SIZE(passed_variables); i++)
		if (strncmp(variable, passed_variables[i], strlen(passed_variables[i])) == 0)
			return true;
	return false;
}

int start_environment(char **env, char ***ret)
{
	size_t n = 0;
	char **kept;

	while (env[n])
		n++;
	kept = calloc(n + 1, sizeof(*kept));
	if (!kept)
		return -ENOMEM;
	n = 0;
	for (; *env; env++)
		if (is_passed(*env))
			kept[n++] = *env;
	*ret = kept;
	return 0;
}
