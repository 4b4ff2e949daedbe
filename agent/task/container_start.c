/*
 * The start of a container. The slow and hostile part of it (mounts of the host, paths of the
 * image) happens in the child (child.c), which reports through a pipe; nothing here waits for it.
 */
#include "agent/task/container_internal.h"

#include <errno.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>

#include "agent/task/container_userns.h"
#include "agent/task/environment.h"
#include "agent/task/execute_command.h"
#include "agent/task/host_devices.h"
#include "agent/task/seccomp.h"
#include "lib/fd.h"
#include "lib/log.h"

static void choose_hostname(const struct container *container, char *buf, size_t n)
{
	const struct container_spec *spec = container->spec;
	struct utsname host;

	if (spec->hostname)
		snprintf(buf, n, "%s", spec->hostname);
	else if (container->task->spec.network_mode == NETWORK_HOST && uname(&host) == 0)
		snprintf(buf, n, "%s", host.nodename);
	else
		snprintf(buf, n, "%.12s", spec->id);
}

static int clone_child(struct container *container, const struct child_plan *plan, struct err *err)
{
	int cgroup_fd = cgroup_clone_fd(container->cgroup);
	struct clone_args args = {
		.flags = CLONE_PIDFD | namespaces_clone_flags(container->task->spec.pid_mode,
	                                                      plan->spec->ipc_mode),
		.pidfd = (uint64_t)(uintptr_t)&container->pid_fd,
		.exit_signal = SIGCHLD,
	};
	long pid;

	if (cgroup_fd >= 0) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (uint64_t)cgroup_fd;
	}
	if (plan->userns) /* it enters those that belong to it */
		args.flags &= ~(uint64_t)(CLONE_NEWIPC | CLONE_NEWUTS);
	pid = syscall(SYS_clone3, &args, sizeof(args));
	if (pid < 0)
		return err_set(err, -errno, "clone the container's first process");
	if (pid == 0)
		child_run(plan);
	container->pid = (pid_t)pid;
	container->is_helper = plan->pid_ns_fd >= 0;
	return 0;
}

/*
 * The pid as the host counts, which is what others can use: /proc here is still the host's, and
 * shows a pidfd in its own numbers.
 */
pid_t process_host_pid(int pid_fd, pid_t pid)
{
	_cleanup_free_ char *text = NULL;
	char path[48], *line;
	int host_pid;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pid_fd);
	if (file_read(AT_FDCWD, path, 4096, &text, NULL) < 0)
		return pid;
	line = strstr(text, "\nPid:");
	return line && sscanf(line, "\nPid: %d", &host_pid) == 1 && host_pid > 0 ? host_pid : pid;
}

/* Standard input of an interactive container: open, and silent. */
static int open_stdin(struct container *container, int *ret_read, struct err *err)
{
	int fds[2];

	if (!container->spec->interactive || container->spec->terminal)
		return 0;
	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_set(err, -errno, "make a pipe for the input");
	*ret_read = fds[0];
	fd_close(container->stdin_fd);
	container->stdin_fd = fds[1];
	return 0;
}

static int start_child(struct container *container, struct child_plan *plan, struct err *err)
{
	_cleanup_close_ int report_read = -EBADF, report_write = -EBADF, stdin_read = -EBADF;
	int fds[2], r;

	r = open_stdin(container, &stdin_read, err);
	if (r < 0)
		return r;
	r = child_report_open(fds, err);
	if (r < 0)
		return r;
	report_read = fds[0];
	report_write = fds[1];

	if (container->userns && container->uts_fd < 0) { /* not the first start */
		r = container_make_owned(container, NULL, err);
		if (r < 0)
			return r;
	}
	plan->ipc_fd = container->ipc_fd;
	plan->uts_fd = container->uts_fd;
	plan->report_fd = report_write;
	plan->stdio[0] = stdin_read;
	plan->stdio[1] = container->output.write_fds[0];
	plan->stdio[2] = container->output.write_fds[1];
	for (int i = 0; i < 3; i++)
		if (container->stdio[i] >= 0)
			plan->stdio[i] = container->stdio[i];
	r = clone_child(container, plan, err);
	container->ipc_fd = fd_close(container->ipc_fd);
	container->uts_fd = fd_close(container->uts_fd);
	output_close_write_ends(&container->output);
	for (int i = 0; i < 3; i++)
		container->stdio[i] = fd_close(container->stdio[i]);
	if (r < 0)
		return r;
	container->report_fd = TAKE_FD(report_read);
	container->host_pid = process_host_pid(container->pid_fd, container->pid);
	return 0;
}

int container_filter(const struct container *container, const struct container_spec *spec,
                     struct seccomp_filter *own, const struct seccomp_filter **ret, struct err *err)
{
	*ret = NULL;
	if (!spec->seccomp)
		return 0;
	*ret = container->filter.program.filter ? &container->filter : own;
	if (*ret != own)
		return 0;
	return seccomp_filter_get(container->task->seccomp_dir, &seccomp_default,
	                          spec->cap_bounding, own, err);
}

static int prepare_and_start(struct container *container, const struct network_address *address,
                             struct child_plan *plan, struct environment *environment,
                             struct seccomp_filter *filter, struct init_program *init,
                             struct err *err)
{
	const struct container_spec *spec = container->spec;
	bool host_mode = container->task->spec.network_mode == NETWORK_HOST;
	_cleanup_close_ int dir_fd = -EBADF;
	const char *hostname = container->hostname;
	char full[2 * sizeof(container->hostname)];
	int r;

	choose_hostname(container, container->hostname, sizeof(container->hostname));
	snprintf(full, sizeof(full), "%s%s%s", hostname, spec->domainname ? "." : "",
	         spec->domainname ? spec->domainname : "");
	plan->hostname = full;
	plan->domainname = spec->domainname;
	dir_fd = open(container->private_dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir_fd < 0)
		return err_set(err, -errno, "open %s", container->private_dir);
	r = spec->bare ? 0 : etc_files_write(dir_fd, spec, hostname, address, host_mode, err);
	if (r == 0)
		r = environment_make(spec, hostname, NULL, environment, err);
	plan->env = environment->list;
	plan->n_env = environment->n;
	if (r == 0)
		r = container_filter(container, spec, filter, &plan->seccomp, err);
	if (r == 0 && spec->init)
		r = init_program_open(spec->args, NULL, &spec->labels, init, err);
	if (r == 0 && spec->init)
		plan->init_program = init;
	if (r == 0 && spec->privileged)
		r = host_devices_all(&plan->host_devices, &plan->n_host_devices, err);
	if (r == 0 && !spec->terminal)
		r = output_open_pipes(&container->output, err);
	if (r == 0)
		r = start_child(container, plan, err);
	return r;
}

static bool is_startable(const struct container *container)
{
	if (container->status == CONTAINER_CREATED)
		return true;
	return container->status == CONTAINER_STOPPED && container->spec &&
	       container->spec->restart && container->has_exit_code;
}

/* The namespace keeps its address when it is started again, and only a new one is told. */
static int keep_address(struct container *container, const struct network_address *given,
                        struct network_address *ret, struct err *err)
{
	if (given->address) {
		if (strlen(given->address) >= sizeof(container->address) || !given->gateway ||
		    strlen(given->gateway) >= sizeof(container->gateway))
			return err_text(err, -EINVAL, "network: address or gateway is no address");
		strcpy(container->address, given->address);
		strcpy(container->gateway, given->gateway);
	}
	*ret = (struct network_address){};
	if (container->address[0])
		*ret = (struct network_address){container->address, container->gateway};
	return 0;
}

static struct child_plan make_plan(const struct container *container)
{
	const struct task *task = container->task;
	struct child_plan plan = {
		.spec = container->spec,
		.policy = &task->policy,
		.dir = container->private_dir,
		.volume_dirs = {.task = task->state_dir,
	                        .shared = task->volumes_dir,
	                        .mounted = task->mounted_dir},
		.host_mounts_fd = task->host_mounts_fd,
		.netns_fd = container->netns_fd,
		.pid_ns_fd = task->namespaces.pid_ns_fd,
		.proc_dir = task->namespaces.proc_dir,
		.cgroup = container->cgroup,
		.cgroup_hierarchies = task->hierarchies,
		.stdio = {-EBADF, -EBADF, -EBADF},
		.init_fd = -EBADF,
		.userns = container->userns,
	};

	if (container->spec->ipc_mode == IPC_MODE_TASK)
		plan.shm_dir = task->namespaces.shm_dir;
	if (container->spec->ipc_mode == IPC_MODE_HOST && !container->spec->bare)
		plan.shm_dir = "/dev/shm";
	return plan;
}

int container_start(struct container *container, const struct network_address *address,
                    const int *port_fds, size_t n_port_fds, struct err *err)
{
	struct execute_command_mount mounts[EXECUTE_COMMAND_MOUNTS];
	struct environment environment = {};
	struct seccomp_filter filter = {};
	struct init_program init = INIT_PROGRAM_EMPTY;
	struct network_address kept;
	struct child_plan plan;
	int *ports = NULL;
	int r;

	if (!is_startable(container))
		return err_text(err, -EBUSY, "container %s is started already", container->name);
	plan = make_plan(container);
	if (n_port_fds > 0) {
		ports = malloc(n_port_fds * sizeof(*ports));
		if (!ports)
			return err_oom(err);
		memcpy(ports, port_fds, n_port_fds * sizeof(*ports));
	}

	container_forget_exit(container);
	container->starts++;
	if (cgroup_oom_kills(container->cgroup, &container->oom_kills) < 0)
		container->oom_kills = 0;
	r = keep_address(container, address, &kept, err);
	if (container->execute_command &&
	    execute_command_get_mounts(container->execute_command, mounts))
		plan.execute_command = mounts;
	if (r == 0)
		r = prepare_and_start(container, &kept, &plan, &environment, &filter, &init, err);
	if (plan.execute_command)
		execute_command_mounts_done(mounts);
	environment_done(&environment);
	free(plan.host_devices);
	seccomp_filter_done(&filter);
	init_program_done(&init);
	if (r < 0) {
		free(ports);
		container->failure.error = r;
		container->status = CONTAINER_STOPPED;
		container->exit_realtime_usec = now_realtime_usec();
		output_drain(&container->output);
		container_settle(container);
		return r;
	}
	if (n_port_fds > 0) { /* a restart without any keeps those it has */
		container_close_ports(container);
		container->port_fds = ports;
		container->n_port_fds = n_port_fds;
	}
	container->status = CONTAINER_STARTING;
	container->start_deadline_usec = now_monotonic_usec() + CONTAINER_START_USEC;
	return 0;
}

static void start_failed(struct container *container, int exit_code)
{
	container->report_fd = fd_close(container->report_fd);
	container->start_deadline_usec = 0;
	container->status = CONTAINER_STOPPED;
	container->has_exit_code = exit_code >= 0;
	container->exit_code = exit_code >= 0 ? exit_code : 0;
	container->exit_realtime_usec = now_realtime_usec();
	container_kill(container);
	container->stop_deadline_usec = 0;
	container->pid = 0; /* whoever is left of it is collected as an orphan */
	container->pid_fd = fd_close(container->pid_fd);
	output_drain(&container->output);
	container_settle(container);
}

static void start_succeeded(struct container *container)
{
	container->report_fd = fd_close(container->report_fd);
	container->start_deadline_usec = 0;
	container->status = CONTAINER_RUNNING;
	if (container->stop_deadline_usec > 0) /* it was asked for meanwhile */
		container_send_signal(container, container->stop_signal);
	container_spec_free(container->exec_spec);
	container->exec_spec = container_spec_for_exec(container->spec);
	if (!container->exec_spec)
		log_warning(NULL, 0, "container %s: no memory: nothing can be executed in it",
		            container->name);
	if (!container->spec->restart)
		container->spec = container_spec_free(container->spec);
}

/* The first process has been forked. It is ours to collect, so its number cannot be another's. */
static void take_first_process(struct container *container, pid_t pid)
{
	container->is_helper = false;
	fd_close(container->pid_fd);
	container->pid = pid;
	container->pid_fd = (int)syscall(SYS_pidfd_open, pid, 0);
	container->host_pid = process_host_pid(container->pid_fd, pid);
}

static void take_report(struct container *container, struct child_message *message)
{
	struct err err = {};

	if (message->report.error < 0 && message->report.step == CHILD_EXECUTE_COMMAND) {
		if (container->execute_command)
			execute_command_mount_failed(container->execute_command,
			                             message->report.error, message->report.item);
	} else if (message->report.error < 0 && container->failure.error == 0)
		container->failure = message->report;
	else if (message->report.step == CHILD_FORK && container->is_helper && message->pid > 0)
		take_first_process(container, message->pid);
	else if (message->report.step == CHILD_HOLD)
		container->held = container->spec->hold;
	else if (message->report.step == CHILD_CONSOLE && container->spec->bare &&
	         container->console_fd < 0)
		container->console_fd = TAKE_FD(message->console_fd);
	else if (message->report.step == CHILD_CONSOLE && message->console_fd >= 0 &&
	         container->spec->terminal && !container->output.terminal &&
	         output_set_terminal(&container->output, TAKE_FD(message->console_fd), &err) < 0)
		log_warning(NULL, 0, "container %s: %s", container->name, err.text);
	else if (message->report.step == CHILD_READY) {
		container->was_ready = true;
		container->started_realtime_usec = now_realtime_usec();
		container->started_usec = now_monotonic_usec();
	}
	fd_close(message->console_fd);
}

enum container_progress container_start_progress(struct container *container, bool ended,
                                                 struct err *err)
{
	struct child_message message;
	int r;

	while ((r = child_report_receive(container->report_fd, &message)) > 0)
		take_report(container, &message);
	if (r == -EAGAIN && !ended) {
		if (!container->held || container->start_deadline_usec == 0)
			return CONTAINER_WAITS;
		container->start_deadline_usec = 0; /* it waits as long as it likes */
		return CONTAINER_HELD;
	}
	container->held = false;

	if (container->failure.error < 0) {
		start_failed(container,
		             child_report_describe(container->spec, &container->failure, err));
		return CONTAINER_FAILED;
	}
	if (!container->was_ready) {
		err->name = "CannotStartContainerError";
		err_text(err, -EIO,
		         "the container's first process was killed before it ran the program");
		start_failed(container, -1);
		return CONTAINER_FAILED;
	}
	start_succeeded(container);
	return CONTAINER_STARTED;
}

int container_release(struct container *container, struct err *err)
{
	static const char go = 1;

	if (container->status != CONTAINER_STARTING || !container->held)
		return err_text(err, -EBUSY, "container %s is started already", container->name);
	if (send(container->report_fd, &go, sizeof(go), MSG_NOSIGNAL) != sizeof(go))
		return err_set(err, -errno, "let container %s run", container->name);
	container->held = false;
	container->start_deadline_usec = now_monotonic_usec() + CONTAINER_START_USEC;
	return 0;
}

void container_start_abort(struct container *container, struct err *err)
{
	err->name = "CannotStartContainerError";
	err_text(err, -ETIMEDOUT, "the container did not start within %llu seconds",
	         CONTAINER_START_USEC / 1000000);
	start_failed(container, -1);
}
