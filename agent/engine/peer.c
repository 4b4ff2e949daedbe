/* Requests and answers over lib/ipc; see the header. Open requests are a list, since a connection
 * has a handful of them at most. */
#include "agent/engine/peer.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/launcher/protocol.h"
#include "lib/fd.h"
#include "lib/json.h"
#include "lib/loop.h"

struct request {
	struct request *next;
	struct peer *peer;
	int64_t seq;
	sd_event_source *timer; /* NULL: no deadline */
	peer_answer_fn fn;      /* NULL: forgotten */
	void *userdata;
};

struct peer {
	sd_event *loop;
	struct ipc_event *conn;
	struct peer_ops ops;
	void *userdata;
	struct request *requests; /* newest first */
	struct json_object *error;
	int64_t last_seq;
	unsigned int depth; /* callbacks on the stack: freed when they have returned */
	bool ended;
	bool dead;
};

static struct request *request_free(struct request *request)
{
	sd_event_source_disable_unref(request->timer);
	free(request);
	return NULL;
}

static struct request *take_request(struct peer *peer, int64_t seq)
{
	for (struct request **p = &peer->requests; *p; p = &(*p)->next) {
		struct request *request = *p;

		if (request->seq != seq)
			continue;
		*p = request->next;
		return request;
	}
	return NULL;
}

static void destroy(struct peer *peer)
{
	while (peer->requests) {
		struct request *request = peer->requests;

		peer->requests = request->next;
		request_free(request);
	}
	ipc_event_free(peer->conn);
	sd_event_unref(peer->loop);
	free(peer);
}

static void enter(struct peer *peer)
{
	peer->depth++;
}

static void leave(struct peer *peer)
{
	if (--peer->depth == 0 && peer->dead)
		destroy(peer);
}

struct peer *peer_free(struct peer *peer)
{
	if (!peer)
		return NULL;
	peer->dead = true;
	peer->conn = ipc_event_free(peer->conn);
	if (peer->depth == 0)
		destroy(peer);
	return NULL;
}

/* Takes the request off its owner's hands; the caller holds the peer with enter(). */
static void answer(struct request *request, int r, struct ipc_message *msg, const struct err *err)
{
	peer_answer_fn fn = request->peer->dead ? NULL : request->fn;
	void *userdata = request->userdata;

	request_free(request);
	if (fn)
		fn(r, msg, err, userdata);
}

static int on_deadline(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct request *request = userdata;
	struct peer *peer = request->peer;
	struct err err = {0};

	(void)source;
	(void)usec;
	enter(peer);
	(void)take_request(peer, request->seq);
	(void)err_text(&err, -ETIMEDOUT, "no answer in time");
	answer(request, -ETIMEDOUT, NULL, &err);
	leave(peer);
	return 0;
}

static void end_all(struct peer *peer, int r, const struct err *err)
{
	while (peer->requests && !peer->dead) {
		/* Oldest first, as they would have been answered. */
		struct request *request = peer->requests;

		while (request->next)
			request = request->next;
		answer(take_request(peer, request->seq), r, NULL, err);
	}
}

static void answer_error(struct peer *peer, struct request *request, struct json_object *body)
{
	struct err err = {0};
	int r;

	r = ipc_message_error(body, &err);
	peer->error = body;
	if (request)
		answer(request, r, NULL, &err);
	else
		end_all(peer, r, &err); /* a refusal of the launcher, before the program has run */
	if (!peer->dead)
		peer->error = NULL;
}

static void on_message(struct ipc_event *conn, struct ipc_message *msg, void *userdata)
{
	struct peer *peer = userdata;
	struct request *request = NULL;
	const char *type = json_text(msg->body, "type");
	bool is_error = type && strcmp(type, "error") == 0;
	int64_t seq = 0;
	int r;

	(void)conn;
	enter(peer);
	r = json_get_i64(msg->body, "seq", 0, INT64_MAX, &seq, NULL);
	if (r == 0)
		request = take_request(peer, seq);

	if (is_error && (request || r == -ENOENT))
		answer_error(peer, request, msg->body);
	else if (request)
		answer(request, 0, msg, NULL);
	else if (r == -ENOENT && peer->ops.on_event)
		peer->ops.on_event(peer, msg, peer->userdata);
	leave(peer);
}

static void on_conn_end(struct ipc_event *conn, int r, const struct err *err, void *userdata)
{
	struct peer *peer = userdata;
	struct err closed = {0};

	(void)conn;
	if (err)
		closed = *err;
	if (closed.text[0] == '\0')
		(void)err_text(&closed, r, "connection closed");
	enter(peer);
	peer->ended = true;
	end_all(peer, r, &closed);
	if (!peer->dead && peer->ops.on_end)
		peer->ops.on_end(peer, r, &closed, peer->userdata);
	leave(peer);
}

int peer_new(sd_event *loop, int fd, bool wiped, const struct peer_ops *ops, void *userdata,
             struct peer **ret)
{
	_cleanup_(peer_freep) struct peer *peer = NULL;
	struct ipc_conn *conn = NULL;
	int r;

	r = ipc_conn_new(fd, 0, wiped, &conn);
	if (r < 0)
		return r;
	peer = calloc(1, sizeof(*peer));
	if (!peer) {
		ipc_conn_free(conn);
		return -ENOMEM;
	}
	peer->loop = sd_event_ref(loop);
	peer->ops = *ops;
	peer->userdata = userdata;
	r = ipc_event_new(loop, conn, on_message, on_conn_end, peer, &peer->conn);
	if (r < 0)
		return r;

	*ret = TAKE_PTR(peer);
	return 0;
}

int peer_request(struct peer *peer, struct json_object *body, const int *fds, size_t n_fds,
                 uint64_t timeout_usec, peer_answer_fn fn, void *userdata)
{
	_cleanup_json_ struct json_object *owned = body;
	struct request *request;
	int r;

	if (!owned)
		return -ENOMEM;
	if (peer->ended || !peer->conn)
		return -EPIPE;
	request = calloc(1, sizeof(*request));
	if (!request)
		return -ENOMEM;
	request->peer = peer;
	request->seq = ++peer->last_seq;
	request->fn = fn;
	request->userdata = userdata;

	r = json_add_i64(owned, "seq", request->seq);
	if (r == 0 && timeout_usec > 0)
		r = loop_add_timer(peer->loop, timeout_usec, timeout_usec / 100 + 1000, on_deadline,
		                   request, &request->timer);
	if (r >= 0)
		r = ipc_event_send(peer->conn, owned, fds, n_fds);
	if (r < 0) {
		request_free(request);
		return r;
	}
	request->next = peer->requests;
	peer->requests = request;
	return 0;
}

void peer_forget(struct peer *peer, void *userdata)
{
	for (struct request *request = peer->requests; request; request = request->next)
		if (request->userdata == userdata)
			request->fn = NULL;
}

size_t peer_pending(const struct peer *peer)
{
	size_t n = 0;

	for (const struct request *request = peer->requests; request; request = request->next)
		n++;
	return n;
}

struct json_object *peer_error(const struct peer *peer)
{
	return peer->error;
}

int launcher_connect(const char *runtime_dir, const char *verb, const char *task_id,
                     struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	_cleanup_free_ char *path = NULL;
	char line[LAUNCHER_LINE_MAX];
	int n, r;

	if (asprintf(&path, "%s/" LAUNCHER_SOCKET, runtime_dir) < 0)
		return err_oom(err);
	n = snprintf(line, sizeof(line), "%s%s%s\n", verb, task_id ? " " : "",
	             task_id ? task_id : "");
	if (n < 0 || (size_t)n >= sizeof(line))
		return err_text(err, -EINVAL, "task id '%s' is too long", task_id ? task_id : "");

	fd = ipc_connect(path, err);
	if (fd < 0)
		return fd;
	r = fd_write_all(fd, line, (size_t)n);
	if (r < 0)
		return err_set(err, r, "ask the launcher for %s", verb);
	return TAKE_FD(fd);
}
