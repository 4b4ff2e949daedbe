/*
 * A container's life in the supervisor. The slow and hostile part of a start (mounts of the host,
 * paths of the image) happens in the child, which reports through a pipe; nothing here waits for
 * it.
 */
#include "agent/task/container.h"

#include <errno.h>
#include <ftw.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>

#include "agent/task/environment.h"
#include "agent/task/health.h"
#include "agent/task/rootfs.h"
#include "agent/task/seccomp.h"
#include "lib/fd.h"
#include "lib/json.h"
#include "lib/log.h"
#include "netns/netns.h"

#define HOST_DEVICES_MAX 4096

uint64_t now_monotonic_usec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static uint64_t now_realtime_usec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static void close_ports(struct container *container)
{
	for (size_t i = 0; i < container->n_port_fds; i++)
		fd_close(container->port_fds[i]);
	free(container->port_fds);
	container->port_fds = NULL;
	container->n_port_fds = 0;
}

static int exit_file_name(const struct container *container, char *buf, size_t n)
{
	return snprintf(buf, n, "exit-%s.json", container->name) < (int)n ? 0 : -ENAMETOOLONG;
}

/* --- create --- */

/*
 * ecs-task has its cgroup beside those of the containers, and on v1 the kernel its control files;
 * a container may be called as any of these, and gets a '_' before its name then.
 */
static bool cgroup_name_is_taken(const char *name)
{
	static const char *const taken[] = {"supervisor", "tasks", "notify_on_release",
	                                    "release_agent"};

	/* Other control files have a dot, "cgroup.procs"; '_': what another container may have got.
	 */
	if (name[0] == '_' || strchr(name, '.'))
		return true;
	for (size_t i = 0; i < ARRAY_SIZE(taken); i++)
		if (strcmp(name, taken[i]) == 0)
			return true;
	return false;
}

static int make_cgroup(struct container *container, struct err *err)
{
	struct task *task = container->task;
	struct container_spec *spec = container->spec;
	int r;

	snprintf(container->cgroup_path, sizeof(container->cgroup_path), "ecstasks-%s/%s%s",
	         task->id, cgroup_name_is_taken(container->name) ? "_" : "", container->name);
	r = cgroup_create(task->cgroup_root, container->cgroup_path, false, &spec->limits,
	                  &container->cgroup, err);
	if (r < 0)
		return r;
	r = cgroup_set_devices(container->cgroup, spec->privileged, spec->device_rules,
	                       spec->n_device_rules, err);
	if (r < 0)
		return r;
	r = cgroup_id(container->cgroup, &container->cgroup_id);
	if (r < 0 && r != -EOPNOTSUPP)
		return err_set(err, r, "read the id of cgroup %s", container->cgroup_path);
	container->has_cgroup_id = r == 0;
	return 0;
}

static int make_network(struct container *container, struct err *err)
{
	int r;

	if (container->task->spec.network_mode == NETWORK_HOST)
		return 0;
	r = netns_create(&container->netns_fd, err);
	if (r < 0)
		return r;
	if (container->spec->bare)
		return 0;
	return endpoint_open(container->netns_fd, &container->endpoint, err);
}

/* The directory of the container, emptied of what a supervisor that died here has left. */
static int make_directory(struct container *container, const char *path, struct err *err)
{
	_cleanup_close_ int parent = -EBADF;
	const char *task_dir = container->task->state_dir;
	int r;

	if (mkdir(task_dir, 0700) < 0 && errno != EEXIST)
		return err_set(err, -errno, "create %s", task_dir);
	parent = open(task_dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (parent < 0)
		return err_set(err, -errno, "open %s", task_dir);
	r = dir_remove_all(parent, container->name);
	if (r < 0)
		return err_set(err, r, "remove what is left in %s", path);
	if (mkdirat(parent, container->name, 0700) < 0)
		return err_set(err, -errno, "create %s", path);
	return 0;
}

static int make_rootfs(struct container *container, struct err *err)
{
	const struct task *task = container->task;
	char disk_dir[PATH_MAX];
	struct rootfs rootfs = {
		.directory = container->spec->rootfs,
		.tasks_dir = task->tasks_dir,
		.disk_dir = disk_dir,
		.container = container->name,
		.layers_dir = task->layers_dir,
		.layers = container->spec->layers,
		.n_layers = container->spec->n_layers,
	};
	int r;

	if (snprintf(disk_dir, sizeof(disk_dir), "%s/%s", task->state_dir, container->name) >=
	            (int)sizeof(disk_dir) ||
	    rootfs_private_dir(task->tasks_dir, container->name, container->private_dir,
	                       sizeof(container->private_dir)) < 0)
		return err_text(err, -ENAMETOOLONG, "the state directory's path is too long");
	r = layer_locks_take(rootfs.layers_dir, rootfs.layers, rootfs.n_layers,
	                     &container->layer_locks, err);
	if (r == 0)
		r = make_directory(container, disk_dir, err);
	return r < 0 ? r : rootfs_mount(&rootfs, err);
}

static int make_output(struct container *container, struct err *err)
{
	struct container_spec *spec = container->spec;
	struct spool_stream_options options = {
		.task_id = container->task->id,
		.container = container->name,
		.max_bytes = spec->log_max_bytes,
		.blocking = spec->log_blocking,
	};

	if (!spec->log)
		return 0;
	options.log_json = json_to_text(spec->log, &options.log_json_len);
	if (!options.log_json)
		return err_oom(err);
	return spool_writer_open(container->task->spool_fd, &options, &container->output.writer,
	                         err);
}

static int build(struct container *container, struct err *err)
{
	const struct container_spec *spec = container->spec;
	int r;

	container->name = strdup(spec->name);
	container->id = strdup(spec->id);
	if (!container->name || !container->id)
		return err_oom(err);
	if (spec->privileged && container->task->policy.privileged_disabled)
		return err_text(err, -EPERM,
		                "container %s is privileged, which ECS_DISABLE_PRIVILEGED forbids",
		                spec->name);

	r = make_cgroup(container, err);
	if (r == 0)
		r = make_network(container, err);
	if (r == 0)
		r = make_rootfs(container, err);
	if (r == 0)
		r = make_output(container, err);
	return r;
}

int container_create(struct task *task, struct container_spec *spec, struct container **ret,
                     struct err *err)
{
	_cleanup_(container_freep) struct container *container = calloc(1, sizeof(*container));
	int r;

	if (!container)
		return err_oom(err);
	container->task = task;
	container->spec = spec;
	container->stop_signal = spec->stop_signal;
	container->netns_fd = container->pid_fd = container->report_fd = -EBADF;
	container->stdin_fd = container->console_fd = -EBADF;
	for (int i = 0; i < 3; i++)
		container->stdio[i] = -EBADF;
	container->endpoint = ENDPOINT_EMPTY;
	output_init(&container->output);

	r = build(container, err);
	if (r < 0) {
		if (err)
			err->name = "CannotCreateContainerError";
		container_remove(container);
		container->spec = NULL; /* stays the caller's */
		return r;
	}
	*ret = TAKE_PTR(container);
	return 0;
}

/* --- start --- */

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

/* The nodes of the host's /dev, for privileged containers; nftw(3) takes no argument. */
static struct {
	struct host_device *list;
	size_t n;
	bool failed;
} host_devices;

static int add_host_device(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	static const char *const skipped[] = {"/dev/pts",   "/dev/shm",  "/dev/mqueue",
	                                      "/dev/.udev", "/dev/.lxc", "/dev/.lxd-mounts"};
	struct host_device *device;

	(void)ftw;
	for (size_t i = 0; i < ARRAY_SIZE(skipped); i++)
		if (strcmp(path, skipped[i]) == 0)
			return FTW_SKIP_SUBTREE;
	if (type != FTW_F || !(S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode)) ||
	    strcmp(path, "/dev/console") == 0)
		return FTW_CONTINUE;
	if (host_devices.n == HOST_DEVICES_MAX || strlen(path + 5) >= sizeof(device->path))
		return FTW_CONTINUE;

	device = realloc(host_devices.list, (host_devices.n + 1) * sizeof(*device));
	if (!device) {
		host_devices.failed = true;
		return FTW_STOP;
	}
	host_devices.list = device;
	device += host_devices.n++;
	*device = (struct host_device){
		.mode = st->st_mode, .rdev = st->st_rdev, .uid = st->st_uid, .gid = st->st_gid};
	snprintf(device->path, sizeof(device->path), "%s", path + 5);
	return FTW_CONTINUE;
}

static int find_host_devices(struct child_plan *plan, struct err *err)
{
	host_devices.list = NULL;
	host_devices.n = 0;
	host_devices.failed = false;
	(void)nftw("/dev", add_host_device, 8, FTW_PHYS | FTW_MOUNT | FTW_ACTIONRETVAL);
	plan->host_devices = host_devices.list;
	plan->n_host_devices = host_devices.n;
	return host_devices.failed ? err_oom(err) : 0;
}

static int clone_child(struct container *container, const struct child_plan *plan, struct err *err)
{
	int cgroup_fd = cgroup_clone_fd(container->cgroup);
	struct clone_args args = {
		.flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_PIDFD,
		.pidfd = (uint64_t)(uintptr_t)&container->pid_fd,
		.exit_signal = SIGCHLD,
	};
	long pid;

	if (cgroup_fd >= 0) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (uint64_t)cgroup_fd;
	}
	pid = syscall(SYS_clone3, &args, sizeof(args));
	if (pid < 0)
		return err_set(err, -errno, "clone the container's first process");
	if (pid == 0)
		child_run(plan);
	container->pid = (pid_t)pid;
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
	fd_close(container->console_fd);
	for (int i = 0; i < 3; i++)
		fd_close(container->stdio[i]);
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

	plan->report_fd = report_write;
	plan->stdio[0] = stdin_read;
	plan->stdio[1] = container->output.write_fds[0];
	plan->stdio[2] = container->output.write_fds[1];
	for (int i = 0; i < 3; i++)
		if (container->stdio[i] >= 0)
			plan->stdio[i] = container->stdio[i];
	r = clone_child(container, plan, err);
	output_close_write_ends(&container->output);
	for (int i = 0; i < 3; i++)
		container->stdio[i] = fd_close(container->stdio[i]);
	if (r < 0)
		return r;
	container->report_fd = TAKE_FD(report_read);
	container->host_pid = process_host_pid(container->pid_fd, container->pid);
	return 0;
}

static int prepare_and_start(struct container *container, const struct network_address *address,
                             struct child_plan *plan, struct environment *environment,
                             struct seccomp_filter *filter, struct err *err)
{
	struct task *task = container->task;
	const struct container_spec *spec = container->spec;
	bool host_mode = task->spec.network_mode == NETWORK_HOST;
	_cleanup_close_ int dir_fd = -EBADF;
	const char *hostname = container->hostname;
	int r;

	choose_hostname(container, container->hostname, sizeof(container->hostname));
	plan->hostname = hostname;
	dir_fd = open(container->private_dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir_fd < 0)
		return err_set(err, -errno, "open %s", container->private_dir);
	r = spec->bare ? 0 : etc_files_write(dir_fd, spec, hostname, address, host_mode, err);
	if (r == 0)
		r = environment_make(spec, hostname, NULL, environment, err);
	plan->env = environment->list;
	plan->n_env = environment->n;
	if (r == 0 && spec->seccomp)
		r = seccomp_filter_get(task->seccomp_dir, &seccomp_default, spec->cap_bounding,
		                       filter, err);
	if (r == 0 && spec->privileged)
		r = find_host_devices(plan, err);
	if (r == 0 && !spec->terminal)
		r = output_open_pipes(&container->output, err);
	if (r == 0)
		r = start_child(container, plan, err);
	return r;
}

/* Unless it may be started again, its log is complete. */
static void settle(struct container *container)
{
	struct err err = {};

	if (container->spec && container->spec->restart)
		return;
	if (container->output.writer && spool_writer_end(container->output.writer, &err) < 0)
		log_warning(NULL, 0, "container %s: %s", container->name, err.text);
}

static void forget_last_exit(struct container *container)
{
	char name[NAME_MAX];

	if (container->has_exit_code && exit_file_name(container, name, sizeof(name)) == 0)
		(void)unlinkat(container->task->run_fd, name, 0);
	container->has_exit_code = container->oom_killed = container->kill_sent = false;
	container->exit_code = container->exit_signal = 0;
	container->exit_realtime_usec = container->started_realtime_usec = 0;
	container->was_ready = container->held = false;
	container->failure = (struct child_report){};
	container->stop_deadline_usec = 0;
}

static bool is_startable(const struct container *container)
{
	if (container->status == CONTAINER_CREATED)
		return true;
	return container->status == CONTAINER_STOPPED && container->spec &&
	       container->spec->restart && container->has_exit_code;
}

int container_start(struct container *container, const struct network_address *address,
                    const int *port_fds, size_t n_port_fds, struct err *err)
{
	struct child_plan plan = {
		.spec = container->spec,
		.policy = &container->task->policy,
		.dir = container->private_dir,
		.task_dir = container->task->state_dir,
		.volumes_dir = container->task->volumes_dir,
		.netns_fd = container->netns_fd,
		.cgroup = container->cgroup,
		.cgroup_hierarchies = container->task->hierarchies,
		.stdio = {-EBADF, -EBADF, -EBADF},
		.init_fd = -EBADF,
	};
	struct environment environment = {};
	struct seccomp_filter filter = {};
	int *ports = NULL;
	int r;

	if (!is_startable(container))
		return err_text(err, -EBUSY, "container %s is started already", container->name);
	if (n_port_fds > 0) {
		ports = malloc(n_port_fds * sizeof(*ports));
		if (!ports)
			return err_oom(err);
		memcpy(ports, port_fds, n_port_fds * sizeof(*ports));
	}

	forget_last_exit(container);
	if (cgroup_oom_kills(container->cgroup, &container->oom_kills) < 0)
		container->oom_kills = 0;
	if (container->spec->seccomp)
		plan.seccomp = &filter;
	r = prepare_and_start(container, address, &plan, &environment, &filter, err);
	environment_done(&environment);
	free((void *)plan.host_devices);
	seccomp_filter_done(&filter);
	if (r < 0) {
		free(ports);
		container->failure.error = r;
		container->status = CONTAINER_STOPPED;
		container->exit_realtime_usec = now_realtime_usec();
		output_drain(&container->output);
		settle(container);
		return r;
	}
	if (n_port_fds > 0) { /* a restart without any keeps those it has */
		close_ports(container);
		container->port_fds = ports;
		container->n_port_fds = n_port_fds;
	}
	container->status = CONTAINER_STARTING;
	container->start_deadline_usec = now_monotonic_usec() + CONTAINER_START_USEC;
	return 0;
}

static void send_signal(struct container *container, int signal)
{
	if (container->pid_fd >= 0 &&
	    syscall(SYS_pidfd_send_signal, container->pid_fd, signal, NULL, 0) < 0 &&
	    errno != ESRCH)
		log_warning(NULL, -errno, "container %s: send signal %d", container->name, signal);
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
	settle(container);
}

static void start_succeeded(struct container *container)
{
	container->report_fd = fd_close(container->report_fd);
	container->start_deadline_usec = 0;
	container->status = CONTAINER_RUNNING;
	if (container->stop_deadline_usec > 0) /* it was asked for meanwhile */
		send_signal(container, container->stop_signal);
	container_spec_free(container->exec_spec);
	container->exec_spec = container_spec_for_exec(container->spec);
	if (!container->exec_spec)
		log_warning(NULL, 0, "container %s: no memory: nothing can be executed in it",
		            container->name);
	if (!container->spec->restart)
		container->spec = container_spec_free(container->spec);
}

static void take_report(struct container *container, struct child_message *message)
{
	struct err err = {};

	if (message->report.error < 0 && container->failure.error == 0)
		container->failure = message->report;
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

int container_signal(const struct container *container, int signal)
{
	if (container->pid_fd < 0)
		return -ESRCH;
	return syscall(SYS_pidfd_send_signal, container->pid_fd, signal, NULL, 0) < 0 ? -errno : 0;
}

void container_start_abort(struct container *container, struct err *err)
{
	err->name = "CannotStartContainerError";
	err_text(err, -ETIMEDOUT, "the container did not start within %llu seconds",
	         CONTAINER_START_USEC / 1000000);
	start_failed(container, -1);
}

/* --- stop --- */

bool container_stop(struct container *container, uint64_t timeout_usec)
{
	uint64_t deadline = now_monotonic_usec() + timeout_usec;

	if (container->status == CONTAINER_STOPPED)
		return false;
	if (container->status == CONTAINER_CREATED) {
		container->status = CONTAINER_STOPPED;
		container->exit_realtime_usec = now_realtime_usec();
		settle(container);
		return true;
	}
	if (container->stop_deadline_usec == 0 && container->status == CONTAINER_RUNNING)
		send_signal(container, container->stop_signal);
	if (container->stop_deadline_usec == 0 || deadline < container->stop_deadline_usec)
		container->stop_deadline_usec = deadline;
	return false;
}

/* The first process takes its whole pid namespace along. */
void container_kill(struct container *container)
{
	container->kill_sent = true;
	container->stop_deadline_usec = UINT64_MAX;
	send_signal(container, SIGKILL);
}

/* --- exit --- */

/* A process that came in from outside (an exec) is in the cgroup, too. */
static void empty_cgroup(struct container *container)
{
	struct err err = {};
	bool populated = false;

	if (cgroup_is_populated(container->cgroup, &populated) == 0 && populated &&
	    cgroup_kill(container->cgroup, &err) < 0)
		log_err(NULL, 0, "container %s: %s", container->name, err.text);
}

static void write_exit_file(const struct container *container, int dir_fd)
{
	_cleanup_json_ struct json_object *event = container_exit_event(container);
	char name[NAME_MAX];
	const char *text;
	size_t len;
	int r;

	text = event ? json_to_text(event, &len) : NULL;
	r = text ? exit_file_name(container, name, sizeof(name)) : -ENOMEM;
	if (r == 0)
		r = file_replace(dir_fd, name, text, len, 0640);
	if (r < 0)
		log_err(NULL, r, "container %s: write its exit", container->name);
}

void container_save_exit(const struct container *container)
{
	if (container->task->exits_fd >= 0 && container->status == CONTAINER_STOPPED &&
	    container->has_exit_code)
		write_exit_file(container, container->task->exits_fd);
}

void container_exited(struct container *container, int wait_status)
{
	uint64_t oom_kills = 0;
	bool killed;

	container->exit_realtime_usec = now_realtime_usec();
	container->exit_signal = WIFSIGNALED(wait_status) ? WTERMSIG(wait_status) : 0;
	container->exit_code =
		WIFSIGNALED(wait_status) ? 128 + WTERMSIG(wait_status) : WEXITSTATUS(wait_status);
	container->has_exit_code = true;

	empty_cgroup(container);
	/* With an init process the program's SIGKILL arrives as its exit code. */
	killed = container->exit_signal == SIGKILL || container->exit_code == 128 + SIGKILL;
	if (killed && cgroup_oom_kills(container->cgroup, &oom_kills) == 0)
		container->oom_killed = oom_kills > container->oom_kills;

	output_drain(&container->output);
	settle(container);
	container->stdin_fd = fd_close(container->stdin_fd);
	container->exec_spec = container_spec_free(container->exec_spec);
	container->pid = 0;
	container->pid_fd = fd_close(container->pid_fd);
	container->stop_deadline_usec = 0;
	container->status = CONTAINER_STOPPED;
	write_exit_file(container, container->task->run_fd);
	container_save_exit(container);
}

struct json_object *container_exit_event(const struct container *container)
{
	_cleanup_json_ struct json_object *event = json_object_new_object();

	if (!event || json_add_string(event, "type", "exited") < 0 ||
	    json_add_string(event, "container", container->name) < 0)
		return NULL;
	if (container->has_exit_code &&
	    (json_add_i64(event, "exitCode", container->exit_code) < 0 ||
	     (container->exit_signal &&
	      json_add_i64(event, "signal", container->exit_signal) < 0) ||
	     json_add_bool(event, "oomKilled", container->oom_killed) < 0))
		return NULL;
	if (json_add_u64(event, "time", container->exit_realtime_usec) < 0)
		return NULL;
	return TAKE_PTR(event);
}

/* --- end --- */

static void remove_directory(struct container *container)
{
	_cleanup_close_ int parent = -EBADF;
	int r;

	if (!container->private_dir[0])
		return;
	rootfs_remove(container->task->tasks_dir, container->name);
	parent = open(container->task->state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (parent < 0)
		return; /* it was not made */
	r = dir_remove_all(parent, container->name);
	if (r < 0)
		log_warning(NULL, r, "remove %s/%s", container->task->state_dir, container->name);
}

void container_remove(struct container *container)
{
	struct err err = {};

	health_free(container->health);
	output_done(&container->output);
	endpoint_close(&container->endpoint);
	container->endpoint = ENDPOINT_EMPTY;
	container->netns_fd = fd_close(container->netns_fd);
	close_ports(container);
	remove_directory(container);
	if (container->cgroup) {
		empty_cgroup(container);
		container->cgroup = cgroup_free(container->cgroup);
		if (cgroup_remove(container->task->cgroup_root, container->cgroup_path, &err) < 0)
			log_warning(NULL, 0, "container %s: %s", container->name, err.text);
	}
	/* Last: with the cgroup's processes the last mount of the layers has gone. */
	layer_locks_drop(&container->layer_locks);
}

struct container *container_free(struct container *container)
{
	if (!container)
		return NULL;

	output_done(&container->output);
	endpoint_close(&container->endpoint);
	fd_close(container->netns_fd);
	fd_close(container->pid_fd);
	fd_close(container->report_fd);
	fd_close(container->stdin_fd);
	close_ports(container);
	layer_locks_drop(&container->layer_locks);
	cgroup_free(container->cgroup);
	container_spec_free(container->spec);
	container_spec_free(container->exec_spec);
	json_object_put(container->start_request);
	free(container->name);
	free(container->id);
	free(container);
	return NULL;
}
