/*
 * One thread, one poll(2). Requests are answered in the order they come; a start is answered when
 * its child has reached execve(2), and other requests are served meanwhile.
 */
#include "agent/task/supervisor_internal.h"

#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "agent/task/execute_command.h"
#include "agent/task/health.h"
#include "agent/task/protocol.h"
#include "agent/task/rootfs.h"
#include "agent/task/stop_order.h"
#include "agent/task/supervisor_containers.h"
#include "agent/task/supervisor_report.h"
#include "agent/task/supervisor_requests.h"
#include "lib/fd.h"
#include "lib/json.h"
#include "lib/log.h"
#include "lib/spool_writer.h"

#define FDS_PER_CONTAINER 3
#define STALL_MSEC        50      /* how often a full spool is looked at again */
#define DROPPED_USEC      1000000 /* at most one event "dropped" in this time */
#define MESSAGES_PER_TURN 16

/* --- connections --- */

static void on_connection(struct supervisor *s)
{
	for (int i = 0; i < MESSAGES_PER_TURN && s->conn && !s->ended; i++) {
		struct ipc_message msg = {};
		struct err err = {};
		int r = ipc_conn_receive(s->conn, &msg, &err);

		if (r == 0)
			return;
		if (r < 0) {
			if (r != -EPIPE && r != -ECONNRESET)
				log_warning(NULL, r, "connection of ecs-agent: %s", err.text);
			supervisor_drop_connection(s);
			return;
		}
		supervisor_handle(s, &msg);
		ipc_message_done(&msg);
	}
}

static int adopt_connection(struct supervisor *s, int fd)
{
	struct ipc_conn *conn;
	int r = ipc_conn_new(fd, 0, true, &conn); /* wiped: environments carry secrets */

	if (r < 0)
		return r;
	supervisor_drop_connection(s);
	s->conn = conn;
	return 0;
}

static void on_listener(struct supervisor *s)
{
	int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	uid_t uid;
	gid_t gid;
	int r;

	if (fd < 0)
		return; /* it went away again, or the loop comes back */
	r = ipc_peer(fd, &uid, &gid, NULL);
	if (r < 0 || (uid != 0 && (s->agent_gid == 0 || gid != s->agent_gid))) {
		log_warning(NULL, r, "refused a connection of uid %d", r < 0 ? -1 : (int)uid);
		fd_close(fd);
		return;
	}
	r = adopt_connection(s, fd);
	if (r < 0)
		log_warning(NULL, r, "take a connection");
}

/* --- signals --- */

static void on_child_exit(struct supervisor *s, pid_t pid, int status)
{
	if (execs_reaped(&s->execs.set, pid, status))
		return;
	if (pid == s->task.namespaces.pause_pid) {
		log_err(NULL, 0, "the process that holds the task's process namespace was killed");
		s->task.namespaces.pause_pid = 0;
		return;
	}
	/* The report that tells who the first process is may still be unread. */
	for (struct container *c = s->containers; c; c = c->next)
		if (c->status == CONTAINER_STARTING && c->is_helper && c->pid != pid)
			supervisor_start_progress(s, c, false);
	for (struct container *c = s->containers; c; c = c->next) {
		if (c->pid != pid)
			continue;
		/* One that prepared the start may have forked: the end of its report tells. */
		if (c->status == CONTAINER_STARTING)
			supervisor_start_progress(s, c, !c->is_helper);
		if (c->status != CONTAINER_RUNNING || c->pid != pid)
			return; /* the start failed, which is answered, or it is another's by now */
		if (c->health)
			health_stop(c->health);
		if (c->execute_command)
			execute_command_stop(c->execute_command);
		container_exited(c, status);
		supervisor_send_dropped(s, c);
		supervisor_send_exited(s, c);
		malloc_trim(0);
		return;
	}
}

static void stop_one(struct supervisor *s, struct container *c)
{
	if (container_stop(c, stop_order_timeout_usec(s->stop_order, c)))
		supervisor_send_exited(s, c);
}

/* Those whose turn it is; all that are left, should the order have no beginning. */
static void stop_next(struct supervisor *s)
{
	bool waiting = false, under_way = false;

	for (struct container *c = s->containers; c; c = c->next) {
		if (c->status != CONTAINER_STOPPED && c->stop_deadline_usec == 0 &&
		    stop_order_allows(s->stop_order, s->containers, c))
			stop_one(s, c);
		under_way |= c->stop_deadline_usec != 0;
		waiting |= c->status != CONTAINER_STOPPED && c->stop_deadline_usec == 0;
	}
	for (struct container *c = s->containers; c && waiting && !under_way; c = c->next)
		if (c->status != CONTAINER_STOPPED)
			stop_one(s, c);
}

static void start_stopping(struct supervisor *s)
{
	struct err err = {};

	s->stopping = true;
	s->task.exits_fd = exits_create(s->exits_dir, s->task.id, &err);
	if (s->task.exits_fd < 0)
		log_err(NULL, 0, "exits will not outlive the host: %s", err.text);
	for (struct container *c = s->containers; c; c = c->next)
		container_save_exit(c);
}

static void on_signal(struct supervisor *s)
{
	struct signalfd_siginfo info;
	int status;
	pid_t pid;

	while (read(s->signal_fd, &info, sizeof(info)) == sizeof(info))
		if (info.ssi_signo == SIGTERM && !s->stopping)
			start_stopping(s);
	/* Signals of one kind merge, and orphans of ours are collected too. */
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		on_child_exit(s, pid, status);
}

/* --- the loop --- */

static bool all_stopped(const struct supervisor *s)
{
	for (const struct container *c = s->containers; c; c = c->next)
		if (c->status != CONTAINER_STOPPED)
			return false;
	return true;
}

static void check_deadlines(struct supervisor *s)
{
	uint64_t now = now_monotonic_usec();

	for (struct container *c = s->containers; c; c = c->next) {
		struct err err = {};

		if (c->start_deadline_usec && now >= c->start_deadline_usec) {
			container_start_abort(c, &err);
			supervisor_answer_start_failed(s, c, &err);
		}
		if (c->stop_deadline_usec && now >= c->stop_deadline_usec && !c->kill_sent)
			container_kill(c);
		if (c->health)
			health_check_due(c->health, now);
		if (c->execute_command)
			execute_command_due(c->execute_command, now);
	}
	execs_check_deadlines(&s->execs.set);
	mounted_check_stuck(&s->mounted, s->containers, now);
	if (now - s->dropped_usec < DROPPED_USEC)
		return;
	s->dropped_usec = now;
	for (struct container *c = s->containers; c; c = c->next)
		supervisor_send_dropped(s, c);
}

static void earlier(uint64_t *deadline, uint64_t other)
{
	if (other && other < *deadline)
		*deadline = other;
}

/* Milliseconds until something is due, rounded up; -1: nothing is. */
static int next_timeout(const struct supervisor *s, bool stalled)
{
	uint64_t due = UINT64_MAX, now = now_monotonic_usec();

	for (const struct container *c = s->containers; c; c = c->next) {
		uint64_t records = 0, bytes;

		earlier(&due, c->start_deadline_usec);
		if (!c->kill_sent)
			earlier(&due, c->stop_deadline_usec);
		if (c->health)
			earlier(&due, health_deadline(c->health));
		if (c->execute_command)
			earlier(&due, execute_command_deadline(c->execute_command));
		if (c->output.writer)
			spool_writer_dropped(c->output.writer, &records, &bytes);
		if (records != c->dropped_told)
			earlier(&due, s->dropped_usec + DROPPED_USEC);
	}
	earlier(&due, execs_deadline(&s->execs.set));
	earlier(&due, mounted_deadline(&s->mounted, s->containers));
	if (stalled)
		earlier(&due, now + STALL_MSEC * 1000);
	if (due == UINT64_MAX)
		return -1;
	if (due <= now)
		return 0;
	due = (due - now + 999) / 1000;
	return due < 3600000 ? (int)due : 3600000;
}

/* What poll(2) watches: three of the supervisor's own, then three of each container, then execs. */
enum {
	AT_SIGNALS,
	AT_LISTENER,
	AT_CONNECTION,
	AT_CONTAINERS,
};

static size_t fill_pollfds(struct supervisor *s, struct pollfd *fds, bool *ret_stalled)
{
	size_t n = AT_CONTAINERS;

	*ret_stalled = false;
	fds[AT_SIGNALS] = (struct pollfd){.fd = s->signal_fd, .events = POLLIN};
	fds[AT_LISTENER] = (struct pollfd){.fd = s->listen_fd, .events = POLLIN};
	fds[AT_CONNECTION] = (struct pollfd){.fd = -1};
	if (s->conn)
		fds[AT_CONNECTION] = (struct pollfd){
			.fd = ipc_conn_fd(s->conn),
			.events = POLLIN | (ipc_conn_wants_write(s->conn) ? POLLOUT : 0),
		};
	for (struct container *c = s->containers; c; c = c->next) {
		bool has_pipes = c->output.read_fds[0] >= 0 || c->output.read_fds[1] >= 0;
		bool room = has_pipes && output_has_room(&c->output);

		*ret_stalled |= has_pipes && !room;
		fds[n++] = (struct pollfd){.fd = c->report_fd, .events = POLLIN};
		for (int i = 0; i < 2; i++)
			fds[n++] = (struct pollfd){.fd = room ? c->output.read_fds[i] : -1,
			                           .events = POLLIN};
	}
	return n;
}

/* Output first, so that nothing a container wrote before it ended comes after its end. */
static void serve_containers(struct supervisor *s, const struct pollfd *fds)
{
	size_t at = AT_CONTAINERS;

	for (struct container *c = s->containers; c; c = c->next, at += FDS_PER_CONTAINER) {
		for (int i = 0; i < 2; i++)
			if (fds[at + 1 + (size_t)i].revents)
				output_read(&c->output, i);
		if (fds[at].revents && c->status == CONTAINER_STARTING)
			supervisor_start_progress(s, c, false);
	}
}

static int turn(struct supervisor *s, struct err *err)
{
	struct pollfd
		fds[AT_CONTAINERS + CONTAINERS_MAX * FDS_PER_CONTAINER + EXEC_REQUESTS_FDS_MAX];
	bool stalled;
	size_t n = fill_pollfds(s, fds, &stalled);
	size_t n_execs = exec_requests_poll(&s->execs, fds + n);

	if (poll(fds, n + n_execs, next_timeout(s, stalled)) < 0)
		return errno == EINTR ? 0 : err_set(err, -errno, "poll");

	serve_containers(s, fds); /* before anything that changes the list */
	exec_requests_serve(&s->execs, fds + n);
	if (fds[AT_SIGNALS].revents)
		on_signal(s);
	check_deadlines(s);
	if (s->stopping)
		stop_next(s);
	supervisor_send_health(s);
	supervisor_send_managed_agents(s);
	if (s->conn && (fds[AT_CONNECTION].revents & POLLOUT) && ipc_conn_flush(s->conn) < 0)
		supervisor_drop_connection(s);
	if (s->conn && (fds[AT_CONNECTION].revents & ~POLLOUT))
		on_connection(s);
	if (!s->ended && fds[AT_LISTENER].revents)
		on_listener(s);
	return 0;
}

static bool is_over(const struct supervisor *s)
{
	if (s->ended)
		return !s->conn || !ipc_conn_wants_write(s->conn);
	if (s->stopping)
		return all_stopped(s);
	/* Nobody has asked for anything, and nobody can come back for it. */
	return !s->was_set_up && !s->conn;
}

/* --- the start of it all --- */

/* v1: the hierarchies to mount in containers, from "4:memory:/..." lines. */
static int read_hierarchies(struct task *task, struct err *err)
{
	_cleanup_free_ const char **list = NULL;
	char *save = NULL;
	size_t n = 0;
	int r;

	if (cgroup_root_is_v2(task->cgroup_root))
		return 0;
	r = file_read(AT_FDCWD, "/proc/self/cgroup", 65536, &task->hierarchies_text, NULL);
	if (r < 0)
		return err_set(err, r, "read /proc/self/cgroup");
	list = calloc(CONTAINER_HIERARCHIES_MAX + 1, sizeof(*list));
	if (!list)
		return err_oom(err);

	for (char *line = strtok_r(task->hierarchies_text, "\n", &save);
	     line && n < CONTAINER_HIERARCHIES_MAX; line = strtok_r(NULL, "\n", &save)) {
		char *name = strchr(line, ':');
		char *end = name ? strchr(name + 1, ':') : NULL;

		if (!end)
			return err_text(err, -EBADMSG, "/proc/self/cgroup has the line \"%.100s\"",
			                line);
		*end = '\0';
		list[n++] = name + 1;
	}
	task->hierarchies = TAKE_PTR(list);
	return 0;
}

static int open_directories(struct supervisor *s, const struct options *options, const char *id,
                            struct err *err)
{
	_cleanup_close_ int tasks_fd = -EBADF;
	char path[PATH_MAX];
	struct stat st;
	int n[8];

	n[0] = snprintf(s->task.state_dir, PATH_MAX, "%s/tasks/%s", options->state_dir, id);
	n[1] = snprintf(s->task.layers_dir, PATH_MAX, "%s/images/layers", options->state_dir);
	n[2] = snprintf(s->task.seccomp_dir, PATH_MAX, "%s/seccomp", options->runtime_dir);
	n[3] = snprintf(s->run_dir, PATH_MAX, "%s/tasks/%s", options->runtime_dir, id);
	n[4] = snprintf(s->task.tasks_dir, PATH_MAX, "%s/tasks", options->state_dir);
	n[5] = snprintf(s->task.volumes_dir, PATH_MAX, "%s/volumes", options->state_dir);
	n[6] = snprintf(s->exits_dir, PATH_MAX, "%s/exits", options->state_dir);
	n[7] = snprintf(s->task.mounted_dir, PATH_MAX, "%s/volumes", options->runtime_dir);
	for (size_t i = 0; i < ARRAY_SIZE(n); i++)
		if (n[i] >= PATH_MAX)
			return err_text(err, -ENAMETOOLONG, "the directories' paths are too long");

	snprintf(path, sizeof(path), "%.4000s/spool", options->state_dir);
	s->task.spool_fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (s->task.spool_fd < 0)
		return err_set(err, -errno, "open %s", path);

	snprintf(path, sizeof(path), "%.4000s/tasks", options->runtime_dir);
	tasks_fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (tasks_fd < 0 || fstat(tasks_fd, &st) < 0)
		return err_set(err, -errno, "open %s", path);
	s->agent_gid = st.st_gid;
	if (mkdirat(tasks_fd, id, 0750) < 0 && errno != EEXIST)
		return err_set(err, -errno, "create %s", s->run_dir);
	s->task.run_fd = openat(tasks_fd, id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (s->task.run_fd < 0)
		return err_set(err, -errno, "open %s", s->run_dir);
	/* set-group-ID: what is made inside belongs to ecs-agent's group as well. */
	if (fchown(s->task.run_fd, 0, st.st_gid) < 0 || fchmod(s->task.run_fd, 02750) < 0)
		return err_set(err, -errno, "set owner and mode of %s", s->run_dir);
	return 0;
}

static int listen_for_agent(struct supervisor *s, struct err *err)
{
	char path[PATH_MAX];

	if (snprintf(path, sizeof(path), "%s/" TASK_SOCKET, s->run_dir) >= (int)sizeof(path))
		return err_text(err, -ENAMETOOLONG, "the path of the control socket is too long");
	s->listen_fd = ipc_listen(path, 0660, s->agent_gid, err);
	return s->listen_fd < 0 ? s->listen_fd : 0;
}

static int catch_signals(struct supervisor *s, struct err *err)
{
	sigset_t mask;

	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);
	sigaddset(&mask, SIGTERM);
	if (sigprocmask(SIG_BLOCK, &mask, NULL) < 0)
		return err_set(err, -errno, "block signals");
	(void)signal(SIGPIPE, SIG_IGN);
	s->signal_fd = signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC);
	return s->signal_fd < 0 ? err_set(err, -errno, "signalfd") : 0;
}

static int start(struct supervisor *s, const struct supervisor_config *config, struct err *err)
{
	const struct options *options = config->options;
	int r;

	r = policy_read(options->config, &s->task.policy, err);
	if (r == 0)
		r = cgroup_root_open(NULL, config->cgroup_parent, &s->task.cgroup_root, err);
	if (r == 0)
		r = read_hierarchies(&s->task, err);
	if (r == 0)
		r = open_directories(s, options, config->task_id, err);
	if (r == 0)
		r = rootfs_prepare(s->task.tasks_dir, err);
	if (r == 0)
		r = mounted_init(&s->mounted, options->runtime_dir, s->task.mounted_dir, err);
	if (r == 0)
		r = catch_signals(s, err);
	if (r == 0)
		r = listen_for_agent(s, err);
	if (r == 0)
		r = exec_requests_listen(&s->execs, s->run_dir, err);
	return r;
}

static void done(struct supervisor *s)
{
	exec_requests_done(&s->execs);
	mounted_done(&s->mounted);
	while (s->containers) {
		struct container *c = s->containers;

		/* The kernel does it where our end is that of a process namespace. */
		if (s->host_pid && c->status != CONTAINER_STOPPED)
			container_kill(c);
		s->containers = c->next;
		container_free(c);
	}
	namespaces_close(&s->task.namespaces);
	supervisor_drop_connection(s);
	fd_close(s->listen_fd);
	fd_close(s->signal_fd);
	fd_close(s->task.run_fd);
	fd_close(s->task.exits_fd);
	fd_close(s->task.spool_fd);
	fd_close(s->task.host_mounts_fd);
	task_spec_done(&s->task.spec);
	policy_done(&s->task.policy);
	s->task.userns = userns_free(s->task.userns);
	free(s->record);
	json_object_put(s->stop_order);
	free(s->task.hierarchies);
	free(s->task.hierarchies_text);
	cgroup_root_free(s->task.cgroup_root);
}

int supervisor_run(const struct supervisor_config *config, struct err *err)
{
	struct supervisor s = {
		.task = {.id = config->task_id,
	                 .run_fd = -EBADF,
	                 .exits_fd = -EBADF,
	                 .spool_fd = -EBADF,
	                 .host_mounts_fd = config->host_mounts_fd,
	                 .namespaces = NAMESPACES_EMPTY},
		.state_dir = config->options->state_dir,
		.signal_fd = -EBADF,
		.listen_fd = -EBADF,
		.oci = config->oci,
		.host_pid = config->host_pid,
	};
	const struct exec_requests_calls calls = {
		.get_container = supervisor_container_for_exec,
		.send_to_agent = supervisor_send_for_exec,
		.userdata = &s,
	};
	int r;

	exec_requests_init(&s.execs, &calls);
	r = adopt_connection(&s, config->control_fd);
	if (r < 0)
		return err_set(err, r, "take the connection on descriptor %d", config->control_fd);
	r = start(&s, config, err);
	if (r < 0)
		supervisor_send_error(&s, NULL, r, err);
	while (r == 0 && !is_over(&s))
		r = turn(&s, err);
	if (r == 0 && !s.was_set_up && !s.ended)
		supervisor_remove_runtime_directory(&s); /* nothing to come back for */
	done(&s);
	return r;
}
