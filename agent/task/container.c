/* A container's life in the supervisor, but for the start (container_start.c). */
#include "agent/task/container_internal.h"

#include <errno.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "agent/task/container_userns.h"
#include "agent/task/execute_command.h"
#include "agent/task/health.h"
#include "agent/task/host_devices.h"
#include "agent/task/rootfs.h"
#include "agent/task/unprivileged.h"
#include "lib/fd.h"
#include "lib/json.h"
#include "lib/log.h"
#include "netns/netns.h"

uint64_t now_monotonic_usec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

uint64_t now_realtime_usec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

void container_close_ports(struct container *container)
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

/* A sysctl of the network would be the host's own there. */
static int check_not_of_host(const struct container *container, struct err *err)
{
	const struct container_spec *spec = container->spec;
	struct stat own, given;

	if (fstat(container->netns_fd, &given) < 0 || stat("/proc/self/ns/net", &own) < 0)
		return err_set(err, -errno, "look at network namespace %s", spec->netns);
	for (size_t i = 0; i < spec->n_sysctls && own.st_ino == given.st_ino; i++)
		if (strncmp(spec->sysctls[i].path, "net/", 4) == 0)
			return err_text(err, -EINVAL,
			                "sysctl %s is not allowed: network namespace %s is the "
			                "host's",
			                spec->sysctls[i].path, spec->netns);
	return 0;
}

static int open_network(struct container *container, struct err *err)
{
	const char *path = container->spec->netns;

	container->netns_fd = open(path, O_RDONLY | O_CLOEXEC);
	if (container->netns_fd < 0)
		return err_set(err, -errno, "open network namespace %s", path);
	if (ioctl(container->netns_fd, NS_GET_NSTYPE) != CLONE_NEWNET)
		return err_text(err, -EINVAL, "%s is no network namespace", path);
	return check_not_of_host(container, err);
}

static int make_network(struct container *container, struct err *err)
{
	int r;

	if (container->spec->netns)
		return open_network(container, err);
	if (container->task->spec.network_mode == NETWORK_HOST)
		return 0;
	if (container->userns)
		r = container_make_owned(container, &container->netns_fd, err);
	else
		r = netns_create(&container->netns_fd, err);
	if (r == 0 && container->userns)
		r = netns_fill(container->netns_fd, err);
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
		.mapped = container->userns != NULL,
		.mount_label = container->spec->labels.mount_label,
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

/* Now, so that the task learns of a bad profile before anything else of it is made, and a file that
 * changes later counts for no start and no exec of this container. */
static int make_filter(struct container *container, struct err *err)
{
	const struct container_spec *spec = container->spec;

	if (!spec->seccomp || (!spec->seccomp_source.text && !spec->seccomp_source.path))
		return 0;
	return seccomp_task_filter(container->task->seccomp_dir, &container->task->policy,
	                           &spec->seccomp_source, spec->cap_bounding, &container->filter,
	                           err);
}

/* On the OCI command line there are no defaults, and root of the host asks. */
static int check_privileges(const struct container *container, struct err *err)
{
	const struct container_spec *spec = container->spec;

	if (!container->task->policy.privileged_disabled || (spec->bare && !spec->privileged))
		return 0;
	return unprivileged_check(spec, err);
}

static int build(struct container *container, struct err *err)
{
	const struct container_spec *spec = container->spec;
	int r;

	container->name = strdup(spec->name);
	container->id = strdup(spec->id);
	if (!container->name || !container->id)
		return err_oom(err);
	r = check_privileges(container, err);
	if (r == 0)
		r = host_devices_add(container->spec, err);
	if (r == 0)
		r = container_choose_userns(container, err);
	if (r == 0)
		r = label_check(&spec->labels, err);
	if (r == 0)
		r = make_filter(container, err);
	if (r == 0)
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
	container->ipc_fd = container->uts_fd = -EBADF;
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

/* --- stop --- */

void container_send_signal(struct container *container, int signal)
{
	if (container->pid_fd >= 0 &&
	    syscall(SYS_pidfd_send_signal, container->pid_fd, signal, NULL, 0) < 0 &&
	    errno != ESRCH)
		log_warning(NULL, -errno, "container %s: send signal %d", container->name, signal);
}

int container_signal(const struct container *container, int signal)
{
	if (container->pid_fd < 0)
		return -ESRCH;
	return syscall(SYS_pidfd_send_signal, container->pid_fd, signal, NULL, 0) < 0 ? -errno : 0;
}

bool container_stop(struct container *container, uint64_t timeout_usec)
{
	uint64_t deadline = now_monotonic_usec() + timeout_usec;

	if (container->status == CONTAINER_STOPPED)
		return false;
	if (container->status == CONTAINER_CREATED) {
		container->status = CONTAINER_STOPPED;
		container->exit_realtime_usec = now_realtime_usec();
		container_settle(container);
		return true;
	}
	if (container->stop_deadline_usec == 0 && container->status == CONTAINER_RUNNING)
		container_send_signal(container, container->stop_signal);
	if (container->stop_deadline_usec == 0 || deadline < container->stop_deadline_usec)
		container->stop_deadline_usec = deadline;
	return false;
}

/* A process that came in from outside (an exec) is in the cgroup, too. */
static void empty_cgroup(struct container *container)
{
	struct err err = {};
	bool populated = false;

	if (cgroup_is_populated(container->cgroup, &populated) == 0 && populated &&
	    cgroup_kill(container->cgroup, &err) < 0)
		log_err(NULL, 0, "container %s: %s", container->name, err.text);
}

/* The first process takes its whole pid namespace along, if that is its own. */
void container_kill(struct container *container)
{
	container->kill_sent = true;
	container->stop_deadline_usec = UINT64_MAX;
	container_send_signal(container, SIGKILL);
	if (container->task->spec.pid_mode != PID_MODE_PRIVATE)
		empty_cgroup(container);
}

/* --- exit --- */

/* Unless it may be started again, its log is complete. */
void container_settle(struct container *container)
{
	struct err err = {};

	if (container->spec && container->spec->restart)
		return;
	if (container->output.writer && spool_writer_end(container->output.writer, &err) < 0)
		log_warning(NULL, 0, "container %s: %s", container->name, err.text);
}

void container_forget_exit(struct container *container)
{
	char name[NAME_MAX];

	if (container->has_exit_code && exit_file_name(container, name, sizeof(name)) == 0)
		(void)unlinkat(container->task->run_fd, name, 0);
	container->has_exit_code = container->oom_killed = container->kill_sent = false;
	container->exit_code = container->exit_signal = 0;
	container->exit_realtime_usec = container->started_realtime_usec = 0;
	container->started_usec = container->ran_usec = 0;
	container->was_ready = container->held = container->is_helper = false;
	container->failure = (struct child_report){};
	container->stop_deadline_usec = 0;
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
	container->ran_usec = now_monotonic_usec() - container->started_usec;

	empty_cgroup(container);
	/* With an init process the program's SIGKILL arrives as its exit code. */
	killed = container->exit_signal == SIGKILL || container->exit_code == 128 + SIGKILL;
	if (cgroup_oom_kills(container->cgroup, &oom_kills) == 0 &&
	    oom_kills > container->oom_kills) {
		container->oom_killed = killed;
		log_warning(NULL, 0,
		            "container %s: %llu of its processes were killed for want of memory",
		            container->name,
		            (unsigned long long)(oom_kills - container->oom_kills));
	}

	output_drain(&container->output);
	container_settle(container);
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
	if (container->ran_usec && json_add_u64(event, "ranUsec", container->ran_usec) < 0)
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
	container->health = NULL;
	container->execute_command = execute_command_free(container->execute_command);
	output_done(&container->output);
	endpoint_close(&container->endpoint);
	container->endpoint = ENDPOINT_EMPTY;
	container->netns_fd = fd_close(container->netns_fd);
	container_close_ports(container);
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
	fd_close(container->ipc_fd);
	fd_close(container->uts_fd);
	fd_close(container->pid_fd);
	fd_close(container->report_fd);
	fd_close(container->stdin_fd);
	fd_close(container->console_fd);
	for (int i = 0; i < 3; i++)
		fd_close(container->stdio[i]);
	health_free(container->health);
	execute_command_free(container->execute_command);
	container_close_ports(container);
	seccomp_filter_done(&container->filter);
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
