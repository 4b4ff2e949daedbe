/*
 * Framed JSON with descriptors over AF_UNIX streams. A reader takes the header and the body by
 * exact sizes, never beyond the message, so descriptors of the next message are not mixed up with
 * those of this one: recvmsg(2) does not cross a message that carries descriptors.
 */
#include "lib/ipc.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include "lib/fd.h"
#include "lib/json.h"

#define IPC_QUEUE_MAX (64u * 1024 * 1024)
#define IPC_HEADER    4

struct outgoing {
	struct outgoing *next;
	size_t len, sent;
	int fds[IPC_FDS_MAX];
	size_t n_fds;
	char bytes[];
};

struct ipc_conn {
	int fd;
	size_t max_bytes;
	bool wiped;
	/* the message being read */
	unsigned char header[IPC_HEADER];
	char *body;
	size_t have, want; /* want is 0 while the header is read */
	int fds[IPC_FDS_MAX];
	size_t n_fds;
	/* what waits to be sent, oldest first */
	struct outgoing *head, **tail;
	size_t queued;
};

static void close_all(int *fds, size_t n)
{
	for (size_t i = 0; i < n; i++)
		fds[i] = fd_close(fds[i]);
}

void ipc_message_done(struct ipc_message *msg)
{
	json_object_put(msg->body);
	msg->body = NULL;
	close_all(msg->fds, msg->n_fds);
	msg->n_fds = 0;
}

static void release_body(struct ipc_conn *conn)
{
	if (conn->body && conn->wiped)
		explicit_bzero(conn->body, conn->want);
	free(conn->body);
	conn->body = NULL;
	conn->have = conn->want = 0;
}

static void outgoing_free(struct ipc_conn *conn, struct outgoing *out)
{
	close_all(out->fds, out->n_fds);
	if (conn->wiped)
		explicit_bzero(out->bytes, out->len);
	free(out);
}

int ipc_conn_new(int fd, size_t max_bytes, bool wiped, struct ipc_conn **ret)
{
	struct ipc_conn *conn = calloc(1, sizeof(*conn));
	int r;

	if (!conn) {
		fd_close(fd);
		return -ENOMEM;
	}
	conn->fd = fd;
	conn->max_bytes = max_bytes ? max_bytes : IPC_MESSAGE_MAX;
	conn->wiped = wiped;
	conn->tail = &conn->head;
	r = fd_set_nonblock(fd, true);
	if (r < 0) {
		ipc_conn_free(conn);
		return r;
	}
	*ret = conn;
	return 0;
}

struct ipc_conn *ipc_conn_free(struct ipc_conn *conn)
{
	if (!conn)
		return NULL;
	release_body(conn);
	close_all(conn->fds, conn->n_fds);
	while (conn->head) {
		struct outgoing *out = conn->head;

		conn->head = out->next;
		outgoing_free(conn, out);
	}
	fd_close(conn->fd);
	free(conn);
	return NULL;
}

int ipc_conn_fd(const struct ipc_conn *conn)
{
	return conn->fd;
}

/* Descriptors that came with these bytes. More than a message may carry, or a truncated list, is a
 * broken peer. */
static int take_fds(struct ipc_conn *conn, struct msghdr *hdr)
{
	int r = hdr->msg_flags & MSG_CTRUNC ? -EPROTO : 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(hdr); c; c = CMSG_NXTHDR(hdr, c)) {
		size_t n;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (conn->n_fds < IPC_FDS_MAX) {
				conn->fds[conn->n_fds++] = fd;
			} else {
				fd_close(fd);
				r = -EPROTO;
			}
		}
	}
	return r;
}

/* Up to n bytes. 1 with *ret_n > 0, 0 when none are there now, -EPIPE at end, -errno. */
static int receive_bytes(struct ipc_conn *conn, void *buf, size_t n, size_t *ret_n)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(IPC_FDS_MAX * sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = buf, .iov_len = n};
	struct msghdr hdr = {.msg_iov = &iov,
	                     .msg_iovlen = 1,
	                     .msg_control = &control,
	                     .msg_controllen = sizeof(control)};
	ssize_t k;
	int r;

	do
		k = recvmsg(conn->fd, &hdr, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	while (k < 0 && errno == EINTR);
	if (k < 0)
		return errno == EAGAIN ? 0 : errno == ECONNRESET ? -EPIPE : -errno;
	r = take_fds(conn, &hdr);
	if (r < 0)
		return r;
	if (k == 0)
		return -EPIPE;
	*ret_n = (size_t)k;
	return 1;
}

static int begin_body(struct ipc_conn *conn, struct err *err)
{
	size_t len = (size_t)conn->header[0] | (size_t)conn->header[1] << 8 |
	             (size_t)conn->header[2] << 16 | (size_t)conn->header[3] << 24;

	if (len > conn->max_bytes)
		return err_text(err, -EMSGSIZE, "message of %zu bytes is over the limit of %zu",
		                len, conn->max_bytes);
	if (len < 2)
		return err_text(err, -EPROTO, "message of %zu bytes is no JSON object", len);
	conn->body = malloc(len);
	if (!conn->body)
		return err_oom(err);
	conn->want = len;
	conn->have = 0;
	return 0;
}

static int finish_message(struct ipc_conn *conn, struct ipc_message *msg, struct err *err)
{
	int r;

	r = json_parse_object(conn->body, conn->want, conn->max_bytes, &msg->body, err);
	if (r == 0 && !json_text(msg->body, "type")) {
		json_object_put(msg->body);
		msg->body = NULL;
		r = err_text(err, -EPROTO, "message without \"type\"");
	}
	release_body(conn);
	if (r < 0)
		return r == -ENOMEM ? r : -EPROTO;

	memcpy(msg->fds, conn->fds, conn->n_fds * sizeof(int));
	msg->n_fds = conn->n_fds;
	conn->n_fds = 0;
	return 1;
}

int ipc_conn_receive(struct ipc_conn *conn, struct ipc_message *msg, struct err *err)
{
	size_t n;
	int r;

	for (;;) {
		bool in_header = conn->want == 0;
		void *to =
			in_header ? (void *)(conn->header + conn->have) : conn->body + conn->have;

		r = receive_bytes(conn, to, (in_header ? IPC_HEADER : conn->want) - conn->have, &n);
		if (r == 0)
			return 0;
		if (r == -EPIPE && (!in_header || conn->have > 0))
			return err_text(err, -EPROTO,
			                "the peer closed the connection within a message");
		if (r < 0)
			return err_set(err, r, "receive");
		conn->have += n;
		if (in_header && conn->have == IPC_HEADER) {
			r = begin_body(conn, err);
			if (r < 0)
				return r;
		} else if (!in_header && conn->have == conn->want) {
			return finish_message(conn, msg, err);
		}
	}
}

static int outgoing_new(struct json_object *body, const int *fds, size_t n_fds,
                        struct outgoing **ret)
{
	size_t len;
	const char *text = json_to_text(body, &len);
	struct outgoing *out;

	if (!text)
		return -ENOMEM;
	if (len > UINT32_MAX || n_fds > IPC_FDS_MAX)
		return -EMSGSIZE;
	out = malloc(sizeof(*out) + IPC_HEADER + len);
	if (!out)
		return -ENOMEM;
	*out = (struct outgoing){.len = IPC_HEADER + len};
	for (size_t i = 0; i < IPC_HEADER; i++)
		out->bytes[i] = (char)(len >> (8 * i));
	memcpy(out->bytes + IPC_HEADER, text, len);

	for (size_t i = 0; i < n_fds; i++) {
		int fd = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);

		if (fd < 0) {
			int r = -errno;

			close_all(out->fds, out->n_fds);
			free(out);
			return r;
		}
		out->fds[out->n_fds++] = fd;
	}
	*ret = out;
	return 0;
}

int ipc_conn_send(struct ipc_conn *conn, struct json_object *body, const int *fds, size_t n_fds)
{
	struct outgoing *out = NULL;
	int r;

	if (!body)
		return -ENOMEM;
	r = outgoing_new(body, fds, n_fds, &out);
	if (r < 0)
		return r;
	if (conn->queued + out->len > IPC_QUEUE_MAX) {
		outgoing_free(conn, out);
		return -ENOBUFS;
	}
	conn->queued += out->len;
	*conn->tail = out;
	conn->tail = &out->next;
	return ipc_conn_flush(conn);
}

static ssize_t send_some(struct ipc_conn *conn, struct outgoing *out)
{
	union {
		struct cmsghdr align;
		char room[CMSG_SPACE(IPC_FDS_MAX * sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = out->bytes + out->sent, .iov_len = out->len - out->sent};
	struct msghdr hdr = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t k;

	if (out->n_fds) {
		struct cmsghdr *c = &control.align;

		memset(&control, 0, sizeof(control));
		hdr.msg_control = &control;
		hdr.msg_controllen = CMSG_SPACE(out->n_fds * sizeof(int));
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(out->n_fds * sizeof(int));
		memcpy(CMSG_DATA(c), out->fds, out->n_fds * sizeof(int));
	}
	do
		k = sendmsg(conn->fd, &hdr, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (k < 0 && errno == EINTR);
	return k < 0 ? -errno : k;
}

int ipc_conn_flush(struct ipc_conn *conn)
{
	while (conn->head) {
		struct outgoing *out = conn->head;
		ssize_t k = send_some(conn, out);

		if (k == -EAGAIN)
			return 0;
		if (k < 0)
			return (int)k;
		close_all(out->fds, out->n_fds); /* they went with the first byte */
		out->n_fds = 0;
		out->sent += (size_t)k;
		if (out->sent < out->len)
			continue;
		conn->queued -= out->len;
		conn->head = out->next;
		if (!conn->head)
			conn->tail = &conn->head;
		outgoing_free(conn, out);
	}
	return 0;
}

bool ipc_conn_wants_write(const struct ipc_conn *conn)
{
	return conn->head != NULL;
}

struct json_object *ipc_message_new(const char *type, struct json_object *request)
{
	_cleanup_json_ struct json_object *body = json_object_new_object();
	struct json_object *seq = json_get(request, "seq");

	if (!body || json_add_string(body, "type", type) < 0)
		return NULL;
	if (seq && json_add(body, "seq", json_object_get(seq)) < 0)
		return NULL;
	return TAKE_PTR(body);
}

/* strerrorname_np() needs glibc 2.32, which Amazon Linux 2 lacks; these are the codes we send. */
static const struct {
	int code;
	const char *name;
} errno_names[] = {
	{EACCES, "EACCES"},
	{EADDRINUSE, "EADDRINUSE"},
	{EAGAIN, "EAGAIN"},
	{EBADMSG, "EBADMSG"},
	{EBUSY, "EBUSY"},
	{ECANCELED, "ECANCELED"},
	{ECONNREFUSED, "ECONNREFUSED"},
	{EEXIST, "EEXIST"},
	{EFBIG, "EFBIG"},
	{EINVAL, "EINVAL"},
	{EIO, "EIO"},
	{EKEYEXPIRED, "EKEYEXPIRED"},
	{ENOENT, "ENOENT"},
	{ENOMEM, "ENOMEM"},
	{ENOSPC, "ENOSPC"},
	{ENOTSUP, "ENOTSUP"},
	{EPERM, "EPERM"},
	{EPROTO, "EPROTO"},
	{ERANGE, "ERANGE"},
	{ESRCH, "ESRCH"},
	{ETIMEDOUT, "ETIMEDOUT"},
	{EHOSTUNREACH, "EHOSTUNREACH"},
	{ENOEXEC, "ENOEXEC"},
	{ENOTDIR, "ENOTDIR"},
	{EPIPE, "EPIPE"},
};

int ipc_conn_send_error(struct ipc_conn *conn, struct json_object *request, int code,
                        const struct err *err)
{
	_cleanup_json_ struct json_object *body = ipc_message_new("error", request);
	const char *name = "EIO";

	if (!body)
		return -ENOMEM;
	for (size_t i = 0; i < ARRAY_SIZE(errno_names); i++)
		if (errno_names[i].code == -code)
			name = errno_names[i].name;
	if (json_add_string(body, "code", name) < 0 ||
	    json_add_string(body, "message", err && err->text[0] ? err->text : strerror(-code)) < 0)
		return -ENOMEM;
	if (err && err->name && json_add_string(body, "name", err->name) < 0)
		return -ENOMEM;
	return ipc_conn_send(conn, body, NULL, 0);
}

const char *ecs_reason_name(const char *name)
{
	static const char *const names[] = {
		"CannotPullContainerError",
		"CannotPullImageManifestError",
		"CannotPullECRContainerError",
		"CannotPullContainerAuthError",
		"CannotCreateContainerError",
		"CannotStartContainerError",
		"CannotStopContainerError",
		"CannotInspectContainerError",
		"ContainerNetworkingError",
		"ContainerVanishedError",
		"DockerTimeoutError",
		"DockerStateError",
		"DockerClientConfigError",
		"HostConfigError",
		"OutOfMemoryError",
		"ResourceInitializationError",
		"TaskStoppedBeforePullBeginError",
	};

	for (size_t i = 0; name && i < ARRAY_SIZE(names); i++)
		if (strcmp(name, names[i]) == 0)
			return names[i];
	return NULL;
}

int ipc_message_error(struct json_object *body, struct err *err)
{
	const char *code = json_text(body, "code"), *message = json_text(body, "message");

	err_text(err, 0, "%s", message ? message : "the peer gave no reason");
	if (err)
		err->name = ecs_reason_name(json_text(body, "name"));
	for (size_t i = 0; code && i < ARRAY_SIZE(errno_names); i++)
		if (strcmp(code, errno_names[i].name) == 0)
			return -errno_names[i].code;
	return -EIO;
}

static uint64_t monotonic_usec(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* Of a send. The last message of a peer that has closed may say why: reading tells. */
static bool is_gone(int r)
{
	return r == -EPIPE || r == -ECONNRESET;
}

/* Wait until conn can be read, sending meanwhile what is queued. */
static int wait_for_answer(struct ipc_conn *conn, uint64_t deadline)
{
	for (;;) {
		struct pollfd p = {.fd = conn->fd, .events = POLLIN | (conn->head ? POLLOUT : 0)};
		uint64_t now = monotonic_usec();
		int r;

		if (now >= deadline)
			return -ETIMEDOUT;
		r = poll(&p, 1, (int)((deadline - now + 999) / 1000));
		if (r < 0 && errno != EINTR)
			return -errno;
		if (r > 0 && p.revents & POLLOUT) {
			r = ipc_conn_flush(conn);
			if (r < 0 && !is_gone(r))
				return r;
		}
		if (p.revents & (POLLIN | POLLHUP | POLLERR))
			return 0;
	}
}

int ipc_call(int fd, struct json_object *body, const int *fds, size_t n_fds,
             unsigned long timeout_usec, struct ipc_message *ret, struct err *err)
{
	_cleanup_(ipc_conn_freep) struct ipc_conn *conn = NULL;
	uint64_t deadline = monotonic_usec() + timeout_usec;
	int copy, r;

	copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (copy < 0)
		return err_set(err, -errno, "duplicate the connection");
	r = ipc_conn_new(copy, 0, true, &conn);
	if (r < 0)
		return err_set(err, r, "use the connection");
	r = ipc_conn_send(conn, body, fds, n_fds);
	if (r < 0 && !is_gone(r))
		return err_set(err, r, "send");

	*ret = (struct ipc_message){0};
	for (;;) {
		r = ipc_conn_receive(conn, ret, err);
		if (r != 0)
			break;
		r = wait_for_answer(conn, deadline);
		if (r < 0)
			return err_set(err, r, "wait for the answer");
	}
	if (r == -EPIPE)
		return err_text(err, r, "the peer closed the connection without an answer");
	if (r < 0)
		return r;
	if (strcmp(json_text(ret->body, "type"), "error") == 0) {
		r = ipc_message_error(ret->body, err);
		ipc_message_done(ret);
		return r;
	}
	return 0;
}

static int unix_address(const char *path, struct sockaddr_un *ret, struct err *err)
{
	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(ret->sun_path))
		return err_text(err, -ENAMETOOLONG, "socket path %s is longer than %zu bytes", path,
		                sizeof(ret->sun_path) - 1);
	memcpy(ret->sun_path, path, strlen(path));
	return 0;
}

int ipc_connect(const char *path, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	struct sockaddr_un address;
	int r;

	r = unix_address(path, &address, err);
	if (r < 0)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_set(err, -errno, "make a socket");
	if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
		return err_set(err, -errno, "connect to %s", path);
	return TAKE_FD(fd);
}

/* Whether someone accepts connections at path. */
static bool is_alive(const char *path)
{
	_cleanup_close_ int fd = ipc_connect(path, NULL);

	return fd >= 0;
}

int ipc_listen(const char *path, mode_t mode, gid_t gid, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	struct sockaddr_un address;
	mode_t mask;
	int r;

	r = unix_address(path, &address, err);
	if (r < 0)
		return r;
	if (is_alive(path))
		return err_text(err, -EADDRINUSE, "another process listens at %s", path);
	if (unlink(path) < 0 && errno != ENOENT)
		return err_set(err, -errno, "remove the old socket %s", path);

	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_set(err, -errno, "make a socket");
	mask = umask(0777); /* nobody gets in before owner and mode are right */
	r = bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
	umask(mask);
	if (r < 0)
		return err_set(err, r, "bind %s", path);
	if (gid != (gid_t)-1 && chown(path, (uid_t)-1, gid) < 0)
		return err_set(err, -errno, "give %s to group %u", path, (unsigned int)gid);
	if (chmod(path, mode) < 0)
		return err_set(err, -errno, "set the mode of %s", path);
	if (listen(fd, 64) < 0)
		return err_set(err, -errno, "listen at %s", path);
	return TAKE_FD(fd);
}

int ipc_peer(int fd, uid_t *ret_uid, gid_t *ret_gid, pid_t *ret_pid)
{
	struct ucred peer;
	socklen_t len = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
		return -errno;
	if (ret_uid)
		*ret_uid = peer.uid;
	if (ret_gid)
		*ret_gid = peer.gid;
	if (ret_pid)
		*ret_pid = peer.pid;
	return 0;
}
