/* The child's story is fetch_layer(); the rest carries it and its end. */
#include "agent/image/fetch.h"

#include "agent/image/inflate.h"
#include "lib/fd.h"
#include "lib/ipc.h"
#include "lib/json.h"
#include "lib/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MESSAGE_MAX         (64 * 1024)
#define PIPE_BYTES          (1024 * 1024) /* what an unprivileged process may ask for */
#define PROGRESS_EVERY_USEC 200000

struct fetch {
	pid_t pid;
	struct ipc_conn *conn;
	uint64_t bytes;
};

struct fetch_child {
	const struct fetch_options *options;
	struct ipc_conn *parent;
	struct ipc_conn *worker;
	struct inflater *inflater;
	int pipe_fd;
	uint64_t bytes;
	uint64_t told_usec;
	struct err inflate_err;
};

static void fetch_child_done(struct fetch_child *child)
{
	child->inflater = inflater_free(child->inflater);
	child->worker = ipc_conn_free(child->worker);
	child->pipe_fd = fd_close(child->pipe_fd);
}

static int wait_for_message(struct ipc_conn *conn, struct ipc_message *ret, struct err *err)
{
	for (;;) {
		struct pollfd pfd = {.fd = ipc_conn_fd(conn), .events = POLLIN};
		int r = ipc_conn_receive(conn, ret, err);

		if (r != 0)
			return r;
		if (poll(&pfd, 1, -1) < 0 && errno != EINTR)
			return -errno;
	}
}

/* The worker's next word: 1 for "unpacked", 0 for "ready", or its error. */
static int hear_worker(struct fetch_child *child, struct err *err)
{
	_cleanup_(ipc_message_done) struct ipc_message msg = {};
	const char *type;
	int r;

	r = wait_for_message(child->worker, &msg, err);
	if (r == -EPIPE)
		return err_text(err, -EIO, "the process that unpacks the layer has died");
	if (r < 0)
		return r;
	type = json_text(msg.body, "type");
	if (strcmp(type, "error") == 0)
		return ipc_message_error(msg.body, err);
	return strcmp(type, "unpacked") == 0;
}

static int write_plain(const void *bytes, size_t n, void *userdata)
{
	struct fetch_child *child = userdata;

	return fd_write_all(child->pipe_fd, bytes, n);
}

static int tell_progress(struct fetch_child *child)
{
	_cleanup_json_ struct json_object *message = NULL;
	uint64_t now = now_usec();

	if (now - child->told_usec < PROGRESS_EVERY_USEC)
		return 0;
	child->told_usec = now;
	message = ipc_message_new("progress", NULL);
	if (!message || json_add_u64(message, "bytes", child->bytes) < 0)
		return -ENOMEM;
	return ipc_conn_send(child->parent, message, NULL, 0);
}

static int take_bytes(const void *bytes, size_t n, void *userdata)
{
	struct fetch_child *child = userdata;
	int r;

	r = inflater_feed(child->inflater, bytes, n, &child->inflate_err);
	if (r < 0)
		return r;
	child->bytes += n;
	return tell_progress(child);
}

static int download(struct fetch_child *child, struct err *err)
{
	const struct fetch_options *options = child->options;
	int r;

	r = inflater_new(options->blob->compression, write_plain, child, &child->inflater);
	if (r < 0)
		return err_oom(err);
	r = registry_get_blob(options->registry, options->blob, take_bytes, child, err);
	if (r < 0 && child->inflate_err.text[0] && err)
		*err = child->inflate_err;
	if (r == 0)
		r = inflater_finish(child->inflater, err);
	return r < 0 ? err_prefix(err, r, "layer sha256:%s", options->blob->digest.hex) : 0;
}

static int fetch_layer(struct fetch_child *child, struct err *err)
{
	int r;

	/* The worker waits for its turn when another pull has the same layer in hand. */
	r = hear_worker(child, err);
	if (r != 0)
		return r < 0 ? r : 0;

	r = download(child, err);
	child->pipe_fd = fd_close(child->pipe_fd);
	/* A worker that gave up closed the pipe, and knows why. */
	if (r < 0 && r != -EPIPE)
		return r;
	r = hear_worker(child, err);
	return r < 0 ? r : 0;
}

static _Noreturn void run_child(const struct fetch_options *options, int parent_fd, int worker_fd,
                                int pipe_fd)
{
	_cleanup_(fetch_child_done) struct fetch_child child = {.options = options,
	                                                        .pipe_fd = pipe_fd};
	_cleanup_json_ struct json_object *done = NULL;
	struct err err = {};
	int r;

	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
		_exit(EXIT_FAILURE);
	options->limits->cancel_fd = -EBADF; /* the parent looks at it, and kills */
	if (ipc_conn_new(parent_fd, MESSAGE_MAX, false, &child.parent) < 0 ||
	    ipc_conn_new(worker_fd, MESSAGE_MAX, false, &child.worker) < 0)
		_exit(EXIT_FAILURE);

	r = fetch_layer(&child, &err);
	if (r < 0) {
		/* ETIME is a word among ourselves, for a limit of the request's. */
		r = ipc_conn_send_error(child.parent, NULL, r == -ETIME ? -ETIMEDOUT : r, &err);
	} else {
		done = ipc_message_new("done", NULL);
		r = done ? ipc_conn_send(child.parent, done, NULL, 0) : -ENOMEM;
	}
	_exit(r < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
}

static int ask_for_worker(const struct fetch_options *options, int pipe_fd, int socket_fd,
                          struct err *err)
{
	_cleanup_json_ struct json_object *request = ipc_message_new("unpack", NULL);
	_cleanup_(ipc_conn_freep) struct ipc_conn *conn = NULL;
	const int fds[] = {pipe_fd, socket_fd};
	int copy, r;

	if (!request || json_add_string(request, "layer", options->diff_id->hex) < 0)
		return err_oom(err);
	copy = fcntl(options->unpack_fd, F_DUPFD_CLOEXEC, 3);
	if (copy < 0)
		return err_set(err, -errno, "duplicate the connection to the unpack half");
	r = ipc_conn_new(copy, MESSAGE_MAX, false, &conn);
	if (r == 0)
		r = ipc_conn_send(conn, request, fds, 2);
	return r < 0 ? err_set(err, r, "ask for a worker") : 0;
}

int fetch_start(const struct fetch_options *options, struct fetch **ret, struct err *err)
{
	_cleanup_(fetch_freep) struct fetch *fetch = calloc(1, sizeof(*fetch));
	_cleanup_close_ int pipe_read = -EBADF, pipe_write = -EBADF, worker_ours = -EBADF,
			    worker_theirs = -EBADF, child_ours = -EBADF, child_theirs = -EBADF;
	int fds[2], r;

	if (!fetch)
		return err_oom(err);
	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_set(err, -errno, "make a pipe");
	pipe_read = fds[0];
	pipe_write = fds[1];
	(void)fcntl(pipe_write, F_SETPIPE_SZ, PIPE_BYTES); /* a smaller one is slower */
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return err_set(err, -errno, "make a socket");
	worker_ours = fds[0];
	worker_theirs = fds[1];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return err_set(err, -errno, "make a socket");
	child_ours = fds[0];
	child_theirs = fds[1];

	r = ask_for_worker(options, pipe_read, worker_theirs, err);
	if (r < 0)
		return r;
	fetch->pid = fork();
	if (fetch->pid < 0)
		return err_set(err, -errno, "start the download of a layer");
	if (fetch->pid == 0) {
		fd_close(pipe_read); /* else the end of the worker would not be seen */
		fd_close(worker_theirs);
		fd_close(child_ours);
		run_child(options, child_theirs, worker_ours, pipe_write);
	}

	r = ipc_conn_new(TAKE_FD(child_ours), MESSAGE_MAX, false, &fetch->conn);
	if (r < 0)
		return err_set(err, r, "watch the download of a layer");
	*ret = TAKE_PTR(fetch);
	return 0;
}

struct fetch *fetch_free(struct fetch *fetch)
{
	if (!fetch)
		return NULL;

	fetch->conn = ipc_conn_free(fetch->conn);
	if (fetch->pid > 0) {
		(void)kill(fetch->pid, SIGKILL); /* it may have ended, but nobody waited for it */
		(void)waitpid(fetch->pid, NULL, 0);
	}
	free(fetch);
	return NULL;
}

int fetch_fd(const struct fetch *fetch)
{
	return ipc_conn_fd(fetch->conn);
}

uint64_t fetch_bytes(const struct fetch *fetch)
{
	return fetch->bytes;
}

int fetch_receive(struct fetch *fetch, struct err *err)
{
	for (;;) {
		_cleanup_(ipc_message_done) struct ipc_message msg = {};
		const char *type;
		int r = ipc_conn_receive(fetch->conn, &msg, err);

		if (r == -EPIPE)
			return err_text(err, -EIO, "the process that downloads the layer has died");
		if (r <= 0)
			return r;
		type = json_text(msg.body, "type");
		if (strcmp(type, "error") == 0)
			return ipc_message_error(msg.body, err);
		if (strcmp(type, "done") == 0)
			return 1;
		(void)json_get_u64(msg.body, "bytes", UINT64_MAX, &fetch->bytes, NULL);
	}
}
