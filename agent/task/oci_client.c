/* The supervisor is started as ecs-launcher starts one, from this same program. */
#include "agent/task/oci_client.h"

#include <errno.h>
#include <limits.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/launcher/protocol.h"
#include "agent/task/protocol.h"
#include "agent/task/reap.h"
#include "cgroups/cgroup.h"
#include "lib/fd.h"
#include "lib/json.h"
#include "lib/options.h"

#define ANSWER_MSEC 120000 /* a start may have to wait for a mount */

int oci_client_path(const struct oci_client *client, const char *name, char *buf, size_t n,
                    struct err *err)
{
	if (snprintf(buf, n, "%s/tasks/%s/%s", client->root, client->id, name) >= (int)n)
		return err_text(err, -ENAMETOOLONG, "the path of container %s is too long",
		                client->id);
	return 0;
}

void oci_client_done(struct oci_client *client)
{
	client->conn = ipc_conn_free(client->conn);
	client->lock_fd = fd_close(client->lock_fd);
}

/* Others of its commands wait, so that none takes the other's connection. */
static int take_lock(struct oci_client *client, int flags, struct err *err)
{
	char path[PATH_MAX];
	int r = oci_client_path(client, "lock", path, sizeof(path), err);

	if (r < 0)
		return r;
	client->lock_fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC | flags, 0600);
	if (client->lock_fd < 0 && errno == ENOENT)
		return err_text(err, -ENOENT, "container %s does not exist", client->id);
	if (client->lock_fd < 0 || flock(client->lock_fd, LOCK_EX) < 0)
		return err_set(err, -errno, "lock container %s", client->id);
	return 0;
}

/* --- create --- */

static int make_directories(const struct oci_client *client, struct err *err)
{
	static const char *const names[] = {"",
	                                    "/tasks",
	                                    "/seccomp",
	                                    "/state",
	                                    "/state/tasks",
	                                    "/state/spool",
	                                    "/state/exits",
	                                    "/state/images",
	                                    "/state/images/layers"};
	char path[PATH_MAX];
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (snprintf(path, sizeof(path), "%s%s", client->root, names[i]) >=
		    (int)sizeof(path))
			return err_text(err, -ENAMETOOLONG, "--root is too long");
		r = dir_create_all(path, 0700);
		if (r < 0)
			return err_set(err, r, "create %s", path);
	}
	snprintf(path, sizeof(path), "%.2000s/tasks/%.100s", client->root, client->id);
	if (mkdir(path, 0700) < 0)
		return errno == EEXIST
		               ? err_text(err, -EEXIST, "container %s exists already", client->id)
		               : err_set(err, -errno, "create %s", path);
	return 0;
}

static int make_cgroup(const struct oci_client *client, struct cgroup_root **ret_root,
                       struct cgroup **ret, struct err *err)
{
	_cleanup_(cgroup_root_freep) struct cgroup_root *root = NULL;
	_cleanup_(cgroup_freep) struct cgroup *top = NULL;
	const struct cgroup_limits none = {};
	char path[256];
	int r;

	r = cgroup_root_open(NULL, client->cgroup_parent, &root, err);
	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "ecstasks-%.100s", client->id);
	r = cgroup_create(root, path, true, &none, &top, err);
	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "ecstasks-%.100s/supervisor", client->id);
	r = cgroup_create(root, path, false, &none, ret, err);
	if (r == 0)
		*ret_root = TAKE_PTR(root);
	return r;
}

/* On a copy of our memory, with one thread: it may do what it likes, but must not come back. */
static _Noreturn void run_supervisor(const struct oci_client *client, const struct cgroup *cgroup,
                                     int socket_fd)
{
	char state_dir[PATH_MAX];
	const char *argv[] = {
		"ecs-task", "--oci",         "--config",   "/dev/null",       "--state-dir",
		state_dir,  "--runtime-dir", client->root, "--cgroup-parent", client->cgroup_parent,
		"--",       client->id,      NULL};
	sigset_t none;
	int null_fd;

	snprintf(state_dir, sizeof(state_dir), "%s/state", client->root);
	for (int i = 1; i < NSIG; i++)
		(void)signal(i, SIG_DFL); /* fails for those that cannot be changed */
	sigemptyset(&none);
	null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	umask(022);
	if (cgroup_join_cloned(cgroup) < 0 || setsid() < 0 || chdir("/") < 0 || null_fd < 0 ||
	    sigprocmask(SIG_SETMASK, &none, NULL) < 0 || dup2(null_fd, 0) < 0 ||
	    dup2(null_fd, 1) < 0 || dup2(null_fd, 2) < 0)
		_exit(127);
	if (socket_fd == LAUNCHER_CONTROL_FD ? fd_set_cloexec(socket_fd, false) < 0
	                                     : dup2(socket_fd, LAUNCHER_CONTROL_FD) < 0)
		_exit(127);
	if (fd_close_from(LAUNCHER_CONTROL_FD + 1, NULL, 0) < 0)
		_exit(127);
	execv("/proc/self/exe", (char **)argv);
	_exit(127);
}

static int start_supervisor(struct oci_client *client, struct err *err)
{
	_cleanup_(cgroup_root_freep) struct cgroup_root *root = NULL;
	_cleanup_(cgroup_freep) struct cgroup *cgroup = NULL;
	_cleanup_close_ int ours = -EBADF, theirs = -EBADF;
	struct clone_args args = {.flags = CLONE_NEWPID | CLONE_NEWNS, .exit_signal = SIGCHLD};
	int fds[2], r, cgroup_fd;
	long pid;

	r = make_cgroup(client, &root, &cgroup, err);
	if (r < 0)
		return r;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return err_set(err, -errno, "make a socket for the supervisor");
	ours = fds[0];
	theirs = fds[1];
	cgroup_fd = cgroup_clone_fd(cgroup);
	if (cgroup_fd >= 0) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (uint64_t)cgroup_fd;
	}
	pid = syscall(SYS_clone3, &args, sizeof(args));
	if (pid < 0)
		return err_set(err, -errno, "clone the supervisor");
	if (pid == 0)
		run_supervisor(client, cgroup, theirs);
	r = ipc_conn_new(TAKE_FD(ours), 0, true, &client->conn);
	return r < 0 ? err_set(err, r, "connect to the supervisor") : 0;
}

int oci_client_create(struct oci_client *client, struct err *err)
{
	int r = make_directories(client, err);

	if (r == 0)
		r = take_lock(client, O_CREAT, err);
	return r < 0 ? r : start_supervisor(client, err);
}

/* --- open, call --- */

int oci_client_open(struct oci_client *client, struct err *err)
{
	char path[PATH_MAX];
	int fd, r = take_lock(client, 0, err);

	if (r == 0)
		r = oci_client_path(client, TASK_SOCKET, path, sizeof(path), err);
	if (r < 0)
		return r;
	fd = ipc_connect(path, err);
	if (fd < 0) /* also when there is none yet, or none any more */
		return err_text(err, -ECONNREFUSED, "the supervisor of container %s has died",
		                client->id);
	r = ipc_conn_new(fd, 0, true, &client->conn);
	return r < 0 ? err_set(err, r, "connect to the supervisor of container %s", client->id) : 0;
}

static int wait_for_answer(struct oci_client *client, struct ipc_message *msg, struct err *err)
{
	for (;;) {
		struct pollfd fd = {.fd = ipc_conn_fd(client->conn),
		                    .events = POLLIN |
		                              (ipc_conn_wants_write(client->conn) ? POLLOUT : 0)};
		int n = poll(&fd, 1, ANSWER_MSEC), r;

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return err_text(err, -ETIMEDOUT,
			                "the supervisor of container %s does not answer",
			                client->id);
		if ((fd.revents & POLLOUT) && (r = ipc_conn_flush(client->conn)) < 0)
			return err_set(err, r, "write to the supervisor");
		r = ipc_conn_receive(client->conn, msg, err);
		if (r < 0)
			return err_text(err, -ECONNREFUSED,
			                "the supervisor of container %s has died", client->id);
		if (r > 0 && (json_get(msg->body, "seq") ||
		              strcmp(json_text(msg->body, "type"), "error") == 0))
			return 0;
		ipc_message_done(msg); /* an event, if anything */
	}
}

int oci_client_call(struct oci_client *client, struct json_object *body, const int *fds, size_t n,
                    struct ipc_message *ret, struct err *err)
{
	_cleanup_json_ struct json_object *owned = body;
	struct ipc_message msg = {};
	int r;

	if (!body || json_add_i64(body, "seq", 1) < 0)
		return err_oom(err);
	r = ipc_conn_send(client->conn, body, fds, n);
	if (r < 0)
		return err_set(err, r, "write to the supervisor of container %s", client->id);
	r = wait_for_answer(client, &msg, err);
	if (r == 0 && strcmp(json_text(msg.body, "type"), "error") == 0)
		r = ipc_message_error(msg.body, err);
	if (r < 0 || !ret)
		ipc_message_done(&msg);
	else
		*ret = msg;
	return r;
}

int oci_client_state(struct oci_client *client, struct oci_state *ret, struct err *err)
{
	static const struct {
		const char *ours, *oci;
	} words[] = {{"held", "created"},
	             {"created", "creating"},
	             {"starting", "created"},
	             {"running", "running"},
	             {"stopped", "stopped"}};
	struct oci_state state = {.status = "stopped", .exit_code = -1};
	struct ipc_message msg = {};
	struct json_object *container;
	int64_t number;
	int r;

	r = oci_client_call(client, ipc_message_new("state", NULL), NULL, 0, &msg, err);
	if (r < 0)
		return r;
	container = json_get(msg.body, "containers");
	container = container && json_object_array_length(container) > 0
	                    ? json_object_array_get_idx(container, 0)
	                    : NULL;
	for (size_t i = 0; container && i < ARRAY_SIZE(words); i++)
		if (strcmp(words[i].ours, json_text(container, "status")) == 0)
			state.status = words[i].oci;
	if (json_get_i64(container, "pid", 1, INT32_MAX, &number, NULL) == 0)
		state.pid = (pid_t)number;
	if (json_get_i64(container, "exitCode", 0, 255, &number, NULL) == 0)
		state.exit_code = (int)number;
	ipc_message_done(&msg);
	*ret = state;
	return 0;
}

/* --- oci.json --- */

int oci_client_save(const struct oci_client *client, struct json_object *obj, struct err *err)
{
	char path[PATH_MAX];
	const char *text;
	size_t len;
	int r = oci_client_path(client, "oci.json", path, sizeof(path), err);

	if (r < 0)
		return r;
	text = json_to_text(obj, &len);
	r = text ? file_replace(AT_FDCWD, path, text, len, 0600) : -ENOMEM;
	return r < 0 ? err_set(err, r, "write %s", path) : 0;
}

int oci_client_load(const struct oci_client *client, struct json_object **ret, struct err *err)
{
	_cleanup_free_ char *text = NULL;
	char path[PATH_MAX];
	size_t len;
	int r = oci_client_path(client, "oci.json", path, sizeof(path), err);

	if (r == 0)
		r = file_read(AT_FDCWD, path, IPC_MESSAGE_MAX, &text, &len);
	if (r == -ENOENT)
		return err_text(err, r, "container %s is not created yet", client->id);
	if (r < 0)
		return err_set(err, r, "read %s", path);
	return json_parse_object(text, len, IPC_MESSAGE_MAX, ret, err);
}

/* --- remove --- */

int oci_client_remove(struct oci_client *client, struct err *err)
{
	struct options options = {.runtime_dir = client->root};
	char state_dir[PATH_MAX];
	int r = 0;

	if (client->conn)
		r = oci_client_call(client, ipc_message_new("end", NULL), NULL, 0, NULL, err);
	if (r < 0 && r != -ECONNREFUSED)
		return r;
	if (snprintf(state_dir, sizeof(state_dir), "%s/state", client->root) >=
	    (int)sizeof(state_dir))
		return err_text(err, -ENAMETOOLONG, "--root is too long");
	options.state_dir = state_dir;
	return reap_task(&options, client->cgroup_parent, client->id, err);
}
