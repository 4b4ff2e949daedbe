/*
 * The supervisor's side of an exec. Two processes are ours to collect: the helper, which was cloned
 * and works through child_exec.c, and the process that it forks inside, whose pid the kernel tells
 * us with the report that it is about to run the program.
 */
#include "agent/task/exec.h"

#include <errno.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "agent/task/child.h"
#include "agent/task/environment.h"
#include "agent/task/seccomp.h"
#include "lib/fd.h"
#include "lib/log.h"

#define DRAIN_MAX (1024 * 1024)

struct exec {
	struct exec *next;
	struct exec_set *set;        /* borrowed */
	struct container *container; /* borrowed */
	exec_notify_fn notify;
	void *userdata;

	struct container_spec *spec; /* until the program runs */
	char *program, *cwd;         /* what spec->args and ->cwd point to */
	bool terminal;

	pid_t helper_pid, pid; /* 0: collected, or not there yet */
	int pid_fd;
	int report_fd; /* -EBADF: execve(2) is behind us */
	int console_fd;
	int capture_fd;
	ssize_t poll_index; /* of its two entries; -1: none this turn */
	bool was_ready;
	struct child_report failure;

	char *output;
	size_t output_max;
	uint64_t start_deadline_usec, deadline_usec; /* 0: none */
	struct exec_result result;
};

static uint64_t now_realtime_usec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

/* --- start --- */

static int check_request(const struct container *container, const struct exec_set *set,
                         const struct exec_request *request, struct err *err)
{
	if (container->status != CONTAINER_RUNNING)
		return err_text(err, -ESRCH, "container %s is not running", container->name);
	if (!container->exec_spec)
		return err_text(err, -ESRCH, "container %s: nothing can be executed in it",
		                container->name);
	if (set->n >= EXECS_MAX)
		return err_text(err, -EAGAIN,
		                "%d processes are executed in this task already, the most there "
		                "can be",
		                EXECS_MAX);
	if (!request->args || !request->args[0] || !request->args[0][0])
		return err_text(err, -EINVAL, "exec: no command specified");
	if (request->cwd && request->cwd[0] != '/')
		return err_text(err, -EINVAL,
		                "exec: working directory \"%.200s\" must be an absolute path",
		                request->cwd);
	for (size_t i = 0; request->env && request->env[i]; i++)
		if (request->env[i][0] == '=' || !strchr(request->env[i], '='))
			return err_text(err, -EINVAL, "exec: env[%zu] must be NAME=VALUE", i);
	if (request->capture_bytes > EXEC_CAPTURE_MAX)
		return err_text(err, -EINVAL, "exec: %zu bytes of output; at most %d are kept",
		                request->capture_bytes, EXEC_CAPTURE_MAX);
	return 0;
}

/* The container's own, with what the request puts in its place. */
static int make_spec(struct exec *exec, const struct exec_request *request, struct err *err)
{
	struct container_spec *spec = container_spec_for_exec(exec->container->exec_spec);

	exec->spec = spec;
	exec->program = strdup(request->args[0]);
	exec->cwd = request->cwd ? strdup(request->cwd) : NULL;
	if (!spec || !exec->program || (request->cwd && !exec->cwd))
		return err_oom(err);
	spec->args = calloc(2, sizeof(*spec->args));
	if (!spec->args)
		return err_oom(err);
	spec->args[0] = exec->program;
	if (exec->cwd)
		spec->cwd = exec->cwd;
	spec->terminal = request->terminal;
	spec->console_rows = request->rows;
	spec->console_columns = request->columns;
	return request->user ? container_spec_set_user(spec, request->user, err) : 0;
}

static int clone_helper(struct exec *exec, const struct child_plan *plan, struct err *err)
{
	int cgroup_fd = cgroup_clone_fd(exec->container->cgroup);
	struct clone_args args = {.exit_signal = SIGCHLD};
	long pid;

	if (cgroup_fd >= 0) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (uint64_t)cgroup_fd;
	}
	pid = syscall(SYS_clone3, &args, sizeof(args));
	if (pid < 0)
		return err_set(err, -errno, "clone a process for container %s",
		               exec->container->name);
	if (pid == 0)
		child_exec_run(plan);
	exec->helper_pid = (pid_t)pid;
	return 0;
}

static int open_capture(struct exec *exec, const struct exec_request *request, int *ret_write,
                        struct err *err)
{
	int fds[2], r;

	if (request->capture_bytes == 0 || request->terminal)
		return 0;
	exec->output_max = request->capture_bytes;
	exec->output = malloc(exec->output_max + 1);
	if (!exec->output)
		return err_oom(err);
	exec->output[0] = '\0';
	exec->result.output = exec->output;
	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_set(err, -errno, "make a pipe for the output");
	exec->capture_fd = fds[0];
	*ret_write = fds[1];
	r = fd_set_nonblock(fds[0], true);
	return r < 0 ? err_set(err, r, "make the pipe non-blocking") : 0;
}

static int start_helper(struct exec *exec, const struct exec_request *request,
                        const struct environment *environment, const struct seccomp_filter *filter,
                        struct err *err)
{
	_cleanup_close_ int report_read = -EBADF, report_write = -EBADF, capture = -EBADF;
	struct container_spec spec = *exec->spec; /* with all of args for this moment */
	struct child_plan plan = {
		.spec = &spec,
		.env = environment->list,
		.n_env = environment->n,
		.cgroup = exec->container->cgroup,
		.init_fd = exec->container->pid_fd,
		.userns = exec->container->userns,
		.seccomp = filter,
	};
	int fds[2], r;

	spec.args = (const char **)request->args;
	r = open_capture(exec, request, &capture, err);
	if (r < 0)
		return r;
	for (int i = 0; i < 3; i++)
		plan.stdio[i] = i > 0 && capture >= 0 ? capture : request->stdio[i];
	r = child_report_open(fds, err);
	if (r < 0)
		return r;
	report_read = fds[0];
	plan.report_fd = report_write = fds[1];
	r = clone_helper(exec, &plan, err);
	if (r < 0)
		return r;
	exec->report_fd = TAKE_FD(report_read);
	return 0;
}

static int prepare_and_start(struct exec *exec, const struct exec_request *request, struct err *err)
{
	struct seccomp_filter own = {};
	const struct seccomp_filter *filter = NULL;
	struct environment environment = {};
	int r;

	r = make_spec(exec, request, err);
	if (r == 0)
		r = environment_make(exec->spec, exec->container->hostname, request->env,
		                     &environment, err);
	if (r == 0)
		r = container_filter(exec->container, exec->spec, &own, &filter, err);
	if (r == 0)
		r = start_helper(exec, request, &environment, filter, err);
	environment_done(&environment);
	seccomp_filter_done(&own);
	return r;
}

int exec_start(struct exec_set *set, struct container *container,
               const struct exec_request *request, exec_notify_fn notify, void *userdata,
               struct exec **ret, struct err *err)
{
	struct exec *exec;
	int r;

	r = check_request(container, set, request, err);
	if (r < 0)
		return r;
	exec = calloc(1, sizeof(*exec));
	if (!exec)
		return err_oom(err);
	*exec = (struct exec){
		.container = container,
		.notify = notify,
		.userdata = userdata,
		.terminal = request->terminal,
		.pid_fd = -EBADF,
		.report_fd = -EBADF,
		.console_fd = -EBADF,
		.capture_fd = -EBADF,
		.poll_index = -1,
	};
	exec->result.exit_code = -1;
	r = prepare_and_start(exec, request, err);
	if (r < 0) {
		exec_free(exec);
		return r;
	}
	exec->start_deadline_usec = now_monotonic_usec() + EXEC_START_USEC;
	if (request->timeout_usec > 0)
		exec->deadline_usec = now_monotonic_usec() + request->timeout_usec;
	exec->set = set;
	exec->next = set->first;
	set->first = exec;
	set->n++;
	*ret = exec;
	return 0;
}

/* --- what became of it --- */

/* The output that is there; more than a bound is not waited for, since others may hold the pipe. */
static void take_output(struct exec *exec, size_t most)
{
	static char buffer[16384];

	for (size_t taken = 0; exec->capture_fd >= 0 && taken < most;) {
		ssize_t n = read(exec->capture_fd, buffer, sizeof(buffer));
		size_t room = exec->output_max - exec->result.output_len, keep;

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0) {
			exec->capture_fd = fd_close(exec->capture_fd);
			return;
		}
		taken += (size_t)n;
		keep = (size_t)n < room ? (size_t)n : room;
		memcpy(exec->output + exec->result.output_len, buffer, keep);
		exec->result.output_len += keep;
		exec->output[exec->result.output_len] = '\0';
		exec->result.output_cut |= keep < (size_t)n;
	}
}

static void drop_start(struct exec *exec)
{
	exec->report_fd = fd_close(exec->report_fd);
	exec->start_deadline_usec = 0;
	exec->spec = container_spec_free(exec->spec);
}

static void kill_all(struct exec *exec)
{
	if (exec->helper_pid > 0)
		(void)kill(exec->helper_pid, SIGKILL); /* not collected, so it is still that one */
	if (exec->pid > 0)
		(void)exec_signal(exec, SIGKILL); /* it may just have ended */
}

static void fail(struct exec *exec)
{
	kill_all(exec);
	drop_start(exec);
	exec->pid = 0; /* whoever is left of it is collected as an orphan */
	exec->deadline_usec = 0;
	exec->result.status = EXEC_FAILED;
	exec->result.ended_realtime_usec = now_realtime_usec();
	exec->notify(exec, exec->userdata);
}

static void take_report(struct exec *exec, struct child_message *message)
{
	if (message->report.error < 0) {
		if (exec->failure.error == 0)
			exec->failure = message->report;
	} else if (message->report.step == CHILD_CONSOLE && exec->terminal &&
	           exec->console_fd < 0) {
		exec->console_fd = TAKE_FD(message->console_fd);
	} else if (message->report.step == CHILD_READY && !exec->was_ready && message->pid > 0) {
		exec->was_ready = true;
		exec->pid = message->pid;
		exec->pid_fd = (int)syscall(SYS_pidfd_open, exec->pid, 0);
		exec->result.started_realtime_usec = now_realtime_usec();
		/* Its time was over before it was known whom to kill. */
		if (exec->result.timed_out)
			(void)exec_signal(exec, SIGKILL);
	}
	fd_close(message->console_fd);
}

/* ended: the process is gone, so nothing more can come. The exec may be freed afterwards. */
static void progress(struct exec *exec, bool ended)
{
	struct child_message message;
	int r;

	while ((r = child_report_receive(exec->report_fd, &message)) > 0)
		take_report(exec, &message);
	if (r == -EAGAIN && !ended)
		return;

	if (exec->failure.error < 0) {
		exec->result.error = exec->failure.error;
		exec->result.exit_code =
			child_report_describe(exec->spec, &exec->failure, &exec->result.err);
		exec->result.err.name = NULL; /* the container has started long ago */
		fail(exec);
		return;
	}
	if (!exec->was_ready) {
		exec->result.error = err_text(&exec->result.err, -EIO,
		                              "the process was killed before it ran the program");
		fail(exec);
		return;
	}
	drop_start(exec);
	exec->result.host_pid = process_host_pid(exec->pid_fd, exec->pid);
	exec->result.status = EXEC_RUNNING;
	exec->notify(exec, exec->userdata);
}

static bool is_in_set(const struct exec_set *set, const struct exec *exec)
{
	for (const struct exec *e = set->first; e; e = e->next)
		if (e == exec)
			return true;
	return false;
}

bool execs_reaped(struct exec_set *set, pid_t pid, int wait_status)
{
	struct exec *exec, *next;

	for (exec = set->first; exec; exec = exec->next)
		if (exec->helper_pid == pid) {
			exec->helper_pid = 0;
			return true;
		}
	/* The report that tells the pid may still be unread. */
	for (exec = set->first; exec; exec = next) {
		next = exec->next;
		if (exec->report_fd >= 0)
			progress(exec, false);
	}
	for (exec = set->first; exec; exec = exec->next)
		if (exec->pid == pid)
			break;
	if (!exec)
		return false;
	if (exec->report_fd >= 0) {
		progress(exec, true);
		if (!is_in_set(set, exec) || exec->result.status != EXEC_RUNNING)
			return true;
	}

	take_output(exec, DRAIN_MAX);
	exec->capture_fd = fd_close(exec->capture_fd);
	exec->pid_fd = fd_close(exec->pid_fd);
	exec->pid = 0;
	exec->deadline_usec = 0;
	exec->result.exit_signal = WIFSIGNALED(wait_status) ? WTERMSIG(wait_status) : 0;
	exec->result.exit_code =
		WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
	exec->result.status = EXEC_EXITED;
	exec->result.ended_realtime_usec = now_realtime_usec();
	exec->notify(exec, exec->userdata);
	return true;
}

const struct exec_result *exec_result(const struct exec *exec)
{
	return &exec->result;
}

const char *exec_container_name(const struct exec *exec)
{
	return exec->container->name;
}

int exec_take_console(struct exec *exec)
{
	return TAKE_FD(exec->console_fd);
}

int exec_signal(struct exec *exec, int signal)
{
	if (exec->pid <= 0)
		return -ESRCH;
	/* It leads a session and with it a process group, unless it has gone another way. */
	if (kill(-exec->pid, signal) == 0)
		return 0;
	return kill(exec->pid, signal) < 0 ? -errno : 0;
}

struct exec *exec_free(struct exec *exec)
{
	if (!exec)
		return NULL;
	kill_all(exec);
	for (struct exec **at = exec->set ? &exec->set->first : NULL; at && *at; at = &(*at)->next)
		if (*at == exec) {
			*at = exec->next;
			exec->set->n--;
			break;
		}
	fd_close(exec->pid_fd);
	fd_close(exec->report_fd);
	fd_close(exec->console_fd);
	fd_close(exec->capture_fd);
	container_spec_free(exec->spec);
	free(exec->program);
	free(exec->cwd);
	free(exec->output);
	free(exec);
	return NULL;
}

/* --- the loop --- */

size_t execs_poll(struct exec_set *set, struct pollfd *fds)
{
	size_t n = 0;

	for (struct exec *exec = set->first; exec; exec = exec->next) {
		exec->poll_index = (ssize_t)n;
		fds[n++] = (struct pollfd){.fd = exec->report_fd, .events = POLLIN};
		fds[n++] = (struct pollfd){.fd = exec->capture_fd, .events = POLLIN};
	}
	return n;
}

void execs_serve(struct exec_set *set, const struct pollfd *fds)
{
	struct exec *next;

	for (struct exec *exec = set->first; exec; exec = next) {
		ssize_t at = exec->poll_index;

		next = exec->next;
		if (at < 0)
			continue; /* came after poll(2) */
		if (fds[at + 1].revents)
			take_output(exec, 1);
		if (fds[at].revents && exec->report_fd >= 0)
			progress(exec, false); /* the exec may be gone */
	}
}

static void earlier(uint64_t *deadline, uint64_t other)
{
	if (other && (*deadline == 0 || other < *deadline))
		*deadline = other;
}

uint64_t execs_deadline(const struct exec_set *set)
{
	uint64_t deadline = 0;

	for (const struct exec *exec = set->first; exec; exec = exec->next) {
		earlier(&deadline, exec->start_deadline_usec);
		earlier(&deadline, exec->deadline_usec);
	}
	return deadline;
}

void execs_check_deadlines(struct exec_set *set)
{
	uint64_t now = now_monotonic_usec();
	struct exec *next;

	for (struct exec *exec = set->first; exec; exec = next) {
		next = exec->next;
		if (exec->deadline_usec && now >= exec->deadline_usec) {
			exec->deadline_usec = 0;
			exec->result.timed_out = true;
			kill_all(exec); /* what becomes of it comes the usual way */
		} else if (exec->start_deadline_usec && now >= exec->start_deadline_usec) {
			exec->result.error =
				err_text(&exec->result.err, -ETIMEDOUT,
			                 "the program did not start within %llu seconds",
			                 EXEC_START_USEC / 1000000);
			fail(exec);
		}
	}
}

void execs_end(struct exec_set *set, const struct container *container)
{
	struct exec *next;

	for (struct exec *exec = set->first; exec; exec = next) {
		next = exec->next;
		if (exec->container != container || exec->result.status >= EXEC_EXITED)
			continue;
		exec->result.error = err_text(&exec->result.err, -ESRCH, "the container has ended");
		fail(exec);
	}
}
