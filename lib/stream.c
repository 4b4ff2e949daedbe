/*
 * A CONNECT_ONLY handle stays in its multi for as long as the connection lives; libcurl stops
 * watching the socket once it is connected, and we watch a duplicate of it.
 */
#include "lib/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "lib/fd.h"
#include "lib/http_multi.h"
#include "lib/loop.h"

struct stream {
	struct transfer transfer;
	char *url;
	stream_connected_fn connected;
	stream_ready_fn ready;
	void *userdata;
	int fd; /* ours, for the loop only */
	sd_event_source *io;
	sd_event_source *again;
};

static void dispose(struct transfer *transfer)
{
	struct stream *stream = (struct stream *)transfer; /* its first member */

	sd_event_source_disable_unref(stream->io);
	sd_event_source_disable_unref(stream->again);
	fd_close(stream->fd);
	transfer_done(&stream->transfer);
	free(stream->url);
	free(stream);
}

struct stream *stream_free(struct stream *stream)
{
	if (stream)
		transfer_release(&stream->transfer, dispose);
	return NULL;
}

static int on_io(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
	struct stream *stream = userdata;

	(void)source;
	(void)fd;
	(void)events;
	stream->ready(stream->userdata); /* may free stream */
	return 0;
}

static int on_again(sd_event_source *source, void *userdata)
{
	struct stream *stream = userdata;

	(void)source;
	stream->ready(stream->userdata);
	return 0;
}

static int watch(struct stream *stream, struct err *err)
{
	sd_event *loop = http_client_loop(stream->transfer.client);
	curl_socket_t fd = CURL_SOCKET_BAD;
	int r;

	if (curl_easy_getinfo(stream->transfer.easy, CURLINFO_ACTIVESOCKET, &fd) != CURLE_OK ||
	    fd == CURL_SOCKET_BAD)
		return err_text(err, -EIO, "libcurl has no socket for the connection");
	stream->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (stream->fd < 0)
		return err_set(err, -errno, "duplicate the socket");
	r = sd_event_add_io(loop, &stream->io, stream->fd, EPOLLIN, on_io, stream);
	if (r >= 0)
		r = sd_event_add_defer(loop, &stream->again, on_again, stream);
	if (r < 0)
		return err_set(err, r, "watch the connection");
	(void)sd_event_source_set_description(stream->io, "stream");
	return 0;
}

static void finished(struct transfer *transfer, CURLcode code)
{
	struct stream *stream = (struct stream *)transfer;
	struct err err = {0};
	int r;

	r = code == CURLE_OK ? watch(stream, &err)
	                     : transfer_error(&stream->transfer, code, stream->url, &err);
	stream->connected(r, &err, stream->userdata); /* may free stream */
}

int stream_connect(struct http_client *client, const char *url, uint64_t timeout_usec,
                   stream_connected_fn connected, stream_ready_fn ready, void *userdata,
                   struct stream **ret, struct err *err)
{
	const struct transfer_options options = {.url = url, .connect_timeout_usec = timeout_usec};
	_cleanup_(stream_freep) struct stream *stream = calloc(1, sizeof(*stream));
	int r;

	if (!stream)
		return err_oom(err);
	stream->fd = -EBADF;
	stream->transfer.finished = finished;
	stream->connected = connected;
	stream->ready = ready;
	stream->userdata = userdata;
	stream->url = strdup(url);
	if (!stream->url)
		return err_oom(err);
	r = transfer_init(&stream->transfer, client, &options, err);
	if (r < 0)
		return r;
	curl_easy_setopt(stream->transfer.easy, CURLOPT_CONNECT_ONLY, 1L);
	curl_easy_setopt(stream->transfer.easy, CURLOPT_HTTPPROXYTUNNEL, 1L);
	r = transfer_start(&stream->transfer, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(stream);
	return 0;
}

int stream_want_write(struct stream *stream, bool want)
{
	return sd_event_source_set_io_events(stream->io, EPOLLIN | (want ? EPOLLOUT : 0));
}

int stream_again(struct stream *stream)
{
	return sd_event_source_set_enabled(stream->again, SD_EVENT_ONESHOT);
}

ssize_t stream_read(struct stream *stream, void *buf, size_t n)
{
	size_t done = 0;

	switch (curl_easy_recv(stream->transfer.easy, buf, n, &done)) {
	case CURLE_OK:
		return (ssize_t)done;
	case CURLE_AGAIN:
		return -EAGAIN;
	default:
		return -ECONNRESET;
	}
}

ssize_t stream_write(struct stream *stream, const void *buf, size_t n)
{
	size_t done = 0;

	switch (curl_easy_send(stream->transfer.easy, buf, n, &done)) {
	case CURLE_OK:
		return (ssize_t)done;
	case CURLE_AGAIN:
		return -EAGAIN;
	default:
		return -ECONNRESET;
	}
}
