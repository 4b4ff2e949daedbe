/* lib/ipc on sd_event: one I/O source per connection, and care that callbacks may free it. */
#include "lib/ipc_event.h"

#include <errno.h>
#include <sys/epoll.h>

#include "lib/loop.h"

#define MESSAGES_PER_TURN 16

struct ipc_event {
	struct ipc_conn *conn;
	sd_event_source *io;
	ipc_event_message_fn on_message;
	ipc_event_end_fn on_end;
	void *userdata;
	bool *freed; /* set when freed inside a callback */
	bool deaf;   /* the peer takes nothing more, but what it has sent is still read */
};

struct ipc_event *ipc_event_free(struct ipc_event *e)
{
	if (!e)
		return NULL;
	if (e->freed)
		*e->freed = true;
	sd_event_source_disable_unref(e->io);
	ipc_conn_free(e->conn);
	free(e);
	return NULL;
}

static void end(struct ipc_event *e, int r, const struct err *err)
{
	e->io = sd_event_source_disable_unref(e->io);
	e->on_end(e, r, err, e->userdata); /* may free e: always the last statement */
}

static int update_events(struct ipc_event *e)
{
	bool out = !e->deaf && ipc_conn_wants_write(e->conn);

	return sd_event_source_set_io_events(e->io, EPOLLIN | (out ? EPOLLOUT : 0));
}

/* The last message of a peer that has closed may say why: the end comes when that has been read. */
static int sent(struct ipc_event *e, int r)
{
	if (r == -EPIPE || r == -ECONNRESET) {
		e->deaf = true;
		r = 0;
	}
	return r < 0 ? r : update_events(e);
}

static int on_io(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
	struct ipc_event *e = userdata;
	struct err err = {0};
	bool freed = false;
	int r = 0;

	(void)s;
	(void)fd;
	if (revents & EPOLLOUT) {
		r = sent(e, ipc_conn_flush(e->conn));
		if (r < 0)
			err_set(&err, r, "send");
	}
	/* What is left is announced again: the source is level-triggered, and the reader never
	 * takes more from the socket than the message it returns. */
	for (int i = 0; r >= 0 && i < MESSAGES_PER_TURN; i++) {
		struct ipc_message msg = {0};

		r = ipc_conn_receive(e->conn, &msg, &err);
		if (r <= 0)
			break;
		e->freed = &freed;
		e->on_message(e, &msg, e->userdata);
		ipc_message_done(&msg);
		if (freed)
			return 0;
		e->freed = NULL;
	}
	if (r >= 0)
		r = update_events(e);
	if (r < 0)
		end(e, r, &err);
	return 0;
}

int ipc_event_new(sd_event *loop, struct ipc_conn *conn, ipc_event_message_fn on_message,
                  ipc_event_end_fn on_end, void *userdata, struct ipc_event **ret)
{
	_cleanup_(ipc_event_freep) struct ipc_event *e = calloc(1, sizeof(*e));
	int r;

	if (!e) {
		ipc_conn_free(conn);
		return -ENOMEM;
	}
	*e = (struct ipc_event){
		.conn = conn, .on_message = on_message, .on_end = on_end, .userdata = userdata};
	r = sd_event_add_io(loop, &e->io, ipc_conn_fd(conn), EPOLLIN, on_io, e);
	if (r < 0)
		return r;
	(void)sd_event_source_set_description(e->io, "ipc"); /* only for debugging */
	r = update_events(e);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(e);
	return 0;
}

int ipc_event_send(struct ipc_event *e, struct json_object *body, const int *fds, size_t n_fds)
{
	if (!e->io)
		return -EPIPE;
	return sent(e, ipc_conn_send(e->conn, body, fds, n_fds));
}

int ipc_event_send_error(struct ipc_event *e, struct json_object *request, int code,
                         const struct err *err)
{
	if (!e->io)
		return -EPIPE;
	return sent(e, ipc_conn_send_error(e->conn, request, code, err));
}

int ipc_event_fd(const struct ipc_event *e)
{
	return ipc_conn_fd(e->conn);
}
