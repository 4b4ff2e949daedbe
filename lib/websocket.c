/*
 * wslay frames and unframes, lib/stream.c moves the bytes. wslay sends from buffers that move,
 * which TLS does not take when a write has to be repeated: its output goes through one that stays.
 */
#include "lib/websocket.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include <wslay/wslay.h>

#include "lib/loop.h"
#include "lib/secret.h"
#include "lib/sigv4.h"
#include "lib/stream.h"
#include "lib/url.h"
#include "lib/websocket_handshake.h"

#define TIMEOUT_DEFAULT_USEC (30 * 1000000ULL)
#define ANSWER_MAX           (64 * 1024)
#define OUT_SIZE             (16 * 1024)
#define TURN_MAX_BYTES       (256 * 1024) /* read in one turn of the loop */

enum websocket_state {
	WEBSOCKET_CONNECTING, /* TCP, proxy, TLS */
	WEBSOCKET_ASKING,     /* the request is being sent or answered */
	WEBSOCKET_UP,
	WEBSOCKET_ENDED,
};

struct websocket {
	enum websocket_state state;
	const struct websocket_handlers *handlers;
	void *userdata;
	sd_event *loop;
	struct http_client *http; /* a multi of its own: nothing else may close its connection */
	struct stream *stream;
	struct url url;
	char *url_text;
	char *stream_url;
	struct aws_keys *keys;
	char *region;
	char *service;
	uint64_t handshake_timeout_usec;
	size_t max_queued_bytes;
	sd_event_source *timeout;
	char key[WEBSOCKET_KEY_SIZE];
	char *request; /* until it is sent */
	size_t request_sent;
	char *answer; /* ANSWER_MAX + 1 bytes until the handshake is done */
	size_t answer_len;
	char *early; /* within answer: frames that came right behind the head */
	size_t early_len;
	wslay_event_context_ptr wslay;
	char out[OUT_SIZE];
	size_t out_len, out_sent;
	size_t turn_left;
	bool is_eof;
	bool is_inside; /* wslay is on the stack */
	bool is_freed;  /* in such a callback */
};

static void dispose(struct websocket *websocket)
{
	stream_free(websocket->stream);
	http_client_free(websocket->http);
	sd_event_source_disable_unref(websocket->timeout);
	if (websocket->wslay)
		wslay_event_context_free(websocket->wslay);
	secret_string_free(websocket->request);
	free(websocket->answer);
	free(websocket->url_text);
	free(websocket->stream_url);
	free(websocket->region);
	free(websocket->service);
	aws_keys_unref(websocket->keys);
	sd_event_unref(websocket->loop);
	explicit_bzero(websocket->out, sizeof(websocket->out));
	free(websocket);
}

struct websocket *websocket_free(struct websocket *websocket)
{
	if (websocket && websocket->is_inside)
		websocket->is_freed = true;
	else if (websocket)
		dispose(websocket);
	return NULL;
}

/* ---- the end ---- */

/* Last statement of its callers: ended may free websocket. */
static void end(struct websocket *websocket, const struct websocket_end *how)
{
	if (websocket->state == WEBSOCKET_ENDED)
		return;
	websocket->state = WEBSOCKET_ENDED;
	(void)sd_event_source_set_enabled(websocket->timeout, SD_EVENT_OFF);
	websocket->handlers->ended(websocket, how, websocket->userdata);
}

static void fail(struct websocket *websocket, int r, const struct err *err)
{
	const struct websocket_end how = {.r = r, .err = *err};

	end(websocket, &how);
}

static void refuse(struct websocket *websocket, const struct websocket_answer *answer)
{
	struct websocket_end how = {
		.r = -ECONNREFUSED,
		.http_status = answer->status,
		.body = answer->body,
		.body_len = answer->body_len,
	};

	err_text(&how.err, 0, "the server refuses the WebSocket with status %u", answer->status);
	end(websocket, &how);
}

static int on_timeout(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct err err = {0};

	(void)source;
	(void)usec;
	err_text(&err, 0, "the WebSocket handshake takes too long");
	fail(userdata, -ETIMEDOUT, &err);
	return 0;
}

/* ---- wslay's callbacks ---- */

/* -EAGAIN: some of it has to wait. */
static int flush(struct websocket *websocket)
{
	while (websocket->out_sent < websocket->out_len) {
		ssize_t n = stream_write(websocket->stream, websocket->out + websocket->out_sent,
		                         websocket->out_len - websocket->out_sent);

		if (n < 0)
			return (int)n;
		websocket->out_sent += (size_t)n;
	}
	websocket->out_sent = websocket->out_len = 0;
	return 0;
}

static ssize_t on_send(wslay_event_context_ptr wslay, const uint8_t *data, size_t len, int flags,
                       void *userdata)
{
	struct websocket *websocket = userdata;
	size_t n = len < OUT_SIZE ? len : OUT_SIZE;
	int r;

	(void)flags;
	r = flush(websocket);
	if (r == 0) {
		memcpy(websocket->out, data, n);
		websocket->out_len = n;
		r = flush(websocket);
		if (r == 0 || r == -EAGAIN)
			return (ssize_t)n; /* it is ours now */
	}
	wslay_event_set_error(wslay,
	                      r == -EAGAIN ? WSLAY_ERR_WOULDBLOCK : WSLAY_ERR_CALLBACK_FAILURE);
	return -1;
}

static ssize_t read_early(struct websocket *websocket, uint8_t *buf, size_t len)
{
	size_t n = len < websocket->early_len ? len : websocket->early_len;

	memcpy(buf, websocket->early, n);
	websocket->early += n;
	websocket->early_len -= n;
	return (ssize_t)n;
}

static ssize_t on_receive(wslay_event_context_ptr wslay, uint8_t *buf, size_t len, int flags,
                          void *userdata)
{
	struct websocket *websocket = userdata;
	ssize_t n;

	(void)flags;
	if (websocket->early_len)
		return read_early(websocket, buf, len);
	if (websocket->turn_left == 0 || websocket->is_freed) {
		if (!websocket->is_freed)
			(void)stream_again(websocket->stream);
		wslay_event_set_error(wslay, WSLAY_ERR_WOULDBLOCK);
		return -1;
	}
	n = stream_read(websocket->stream, buf,
	                len < websocket->turn_left ? len : websocket->turn_left);
	if (n > 0) {
		websocket->turn_left -= (size_t)n;
		return n;
	}
	websocket->is_eof = n != -EAGAIN;
	wslay_event_set_error(wslay,
	                      n == -EAGAIN ? WSLAY_ERR_WOULDBLOCK : WSLAY_ERR_CALLBACK_FAILURE);
	return -1;
}

static int on_mask(wslay_event_context_ptr wslay, uint8_t *buf, size_t len, void *userdata)
{
	(void)wslay;
	(void)userdata;
	return getrandom(buf, len, 0) == (ssize_t)len ? 0 : -1;
}

static void on_message(wslay_event_context_ptr wslay,
                       const struct wslay_event_on_msg_recv_arg *message, void *userdata)
{
	struct websocket *websocket = userdata;
	_cleanup_secret_ char *text = NULL;

	(void)wslay;
	if (websocket->is_freed || wslay_is_ctrl_frame(message->opcode))
		return;
	text = malloc(message->msg_length + 1);
	if (!text)
		return; /* lost, as any unacknowledged message may be */
	if (message->msg_length)
		memcpy(text, message->msg, message->msg_length);
	text[message->msg_length] = '\0';
	/* One may take milliseconds to act upon: the next waits for its own turn of the loop. */
	websocket->turn_left = 0;
	websocket->handlers->message(websocket, message->opcode == WSLAY_TEXT_FRAME, text,
	                             message->msg_length, websocket->userdata);
}

static int start_wslay(struct websocket *websocket, size_t max_message_bytes)
{
	static const struct wslay_event_callbacks callbacks = {
		.recv_callback = on_receive,
		.send_callback = on_send,
		.genmask_callback = on_mask,
		.on_msg_recv_callback = on_message,
	};

	if (wslay_event_context_client_init(&websocket->wslay, &callbacks, websocket) != 0)
		return -ENOMEM;
	wslay_event_config_set_max_recv_msg_length(websocket->wslay, max_message_bytes);
	return 0;
}

/* ---- a connection that is up ---- */

static bool wants_write(struct websocket *websocket)
{
	return websocket->out_sent < websocket->out_len || wslay_event_want_write(websocket->wslay);
}

static void end_connection(struct websocket *websocket)
{
	struct websocket_end how = {.close_code = WEBSOCKET_CLOSE_ABNORMAL};

	if (wslay_event_get_close_received(websocket->wslay))
		how.close_code = wslay_event_get_status_code_received(websocket->wslay);
	else if (wslay_event_get_close_sent(websocket->wslay))
		how.close_code = wslay_event_get_status_code_sent(websocket->wslay);
	end(websocket, &how);
}

/* Returns false when websocket is gone. */
static bool run_wslay(struct websocket *websocket)
{
	int received, sent;

	websocket->is_inside = true;
	websocket->turn_left = TURN_MAX_BYTES;
	received = wslay_event_recv(websocket->wslay);
	sent = websocket->is_freed || websocket->is_eof ? 0 : wslay_event_send(websocket->wslay);
	if (sent == 0 && !websocket->is_freed && !websocket->is_eof) {
		int r = flush(websocket);

		sent = r == -EAGAIN ? 0 : r;
	}
	websocket->is_inside = false;
	if (websocket->is_freed) {
		dispose(websocket);
		return false;
	}
	/* Both sides have said goodbye, or wslay gave up on the peer and said so. */
	if (received != 0 || sent != 0 || websocket->is_eof ||
	    (wslay_event_get_close_received(websocket->wslay) && !wants_write(websocket)) ||
	    (!wslay_event_get_read_enabled(websocket->wslay) && !wants_write(websocket))) {
		end_connection(websocket);
		return false;
	}
	return true;
}

static void serve(struct websocket *websocket)
{
	if (run_wslay(websocket))
		(void)stream_want_write(websocket->stream, wants_write(websocket));
}

/* ---- the handshake ---- */

static void handshake_done(struct websocket *websocket, const struct websocket_answer *answer)
{
	if (answer->status != 101) {
		refuse(websocket, answer);
		return;
	}
	websocket->early = websocket->answer + answer->head_len;
	websocket->early_len = websocket->answer_len - answer->head_len;
	websocket->state = WEBSOCKET_UP;
	(void)sd_event_source_set_enabled(websocket->timeout, SD_EVENT_OFF);

	websocket->is_inside = true;
	websocket->handlers->opened(websocket, websocket->userdata);
	websocket->is_inside = false;
	if (websocket->is_freed)
		dispose(websocket);
	else
		serve(websocket);
}

/* Bytes, 0 at the end, -EAGAIN or another error. */
static ssize_t read_more_answer(struct websocket *websocket)
{
	ssize_t n = stream_read(websocket->stream, websocket->answer + websocket->answer_len,
	                        ANSWER_MAX - websocket->answer_len);

	if (n > 0) {
		websocket->answer_len += (size_t)n;
		websocket->answer[websocket->answer_len] = '\0';
	}
	return n;
}

static void read_answer(struct websocket *websocket)
{
	struct websocket_answer answer;
	struct err err = {0};
	ssize_t n;
	int r;

	for (;;) {
		n = read_more_answer(websocket);
		r = websocket_read_answer(websocket->answer, websocket->answer_len, websocket->key,
		                          &answer, &err);
		if (r == 0 && (answer.is_complete || n == 0 || n == -ECONNRESET ||
		               websocket->answer_len == ANSWER_MAX)) {
			handshake_done(websocket, &answer);
			return;
		}
		if (r < 0 && r != -EAGAIN) {
			fail(websocket, r, &err);
			return;
		}
		if (n == -EAGAIN)
			return;
		if (n <= 0 || websocket->answer_len == ANSWER_MAX) {
			err_text(&err, 0,
			         "the server ends the WebSocket handshake without an answer");
			fail(websocket, -ECONNRESET, &err);
			return;
		}
	}
}

static void ask(struct websocket *websocket)
{
	size_t len = websocket->request ? strlen(websocket->request) : 0;
	struct err err = {0};

	while (websocket->request_sent < len) {
		ssize_t n = stream_write(websocket->stream,
		                         websocket->request + websocket->request_sent,
		                         len - websocket->request_sent);

		if (n == -EAGAIN) {
			(void)stream_want_write(websocket->stream, true);
			return;
		}
		if (n < 0) {
			err_text(&err, 0, "the connection broke during the WebSocket handshake");
			fail(websocket, -ECONNRESET, &err);
			return;
		}
		websocket->request_sent += (size_t)n;
	}
	if (websocket->request) {
		websocket->request = secret_string_free(websocket->request);
		websocket->request_sent = 0;
		(void)stream_want_write(websocket->stream, false);
	}
	read_answer(websocket);
}

static void on_ready(void *userdata)
{
	struct websocket *websocket = userdata;

	if (websocket->state == WEBSOCKET_ASKING)
		ask(websocket);
	else if (websocket->state == WEBSOCKET_UP)
		serve(websocket);
}

/* Signed only now: connecting may have taken a while. */
static int make_request(struct websocket *websocket, struct err *err)
{
	const struct sigv4_request unsigned_request = {
		.keys = websocket->keys,
		.region = websocket->region,
		.service = websocket->service,
		.method = "GET",
		.url = websocket->url_text,
	};
	_cleanup_sigv4_ struct sigv4_signature signature = {0};
	int r;

	r = sigv4_sign(&unsigned_request, &signature, err);
	if (r < 0)
		return r;
	websocket_make_key(websocket->key);
	websocket->request = websocket_request(&websocket->url, &signature, websocket->key);
	websocket->answer = malloc(ANSWER_MAX + 1);
	return websocket->request && websocket->answer ? 0 : err_oom(err);
}

static void on_connected(int r, const struct err *stream_err, void *userdata)
{
	struct websocket *websocket = userdata;
	struct err err = *stream_err;

	if (r == 0)
		r = make_request(websocket, &err);
	if (r < 0) {
		fail(websocket, r, &err);
		return;
	}
	websocket->state = WEBSOCKET_ASKING;
	(void)sd_event_source_set_time(websocket->timeout,
	                               now_usec() + websocket->handshake_timeout_usec);
	(void)sd_event_source_set_enabled(websocket->timeout, SD_EVENT_ONESHOT);
	ask(websocket);
}

/* ---- opening ---- */

/* wss://host/path becomes https://host/path for libcurl. */
static int set_url(struct websocket *websocket, const char *text, struct err *err)
{
	bool is_tls;
	int r;

	websocket->url_text = strdup(text);
	if (!websocket->url_text)
		return err_oom(err);
	r = url_split(websocket->url_text, &websocket->url, err);
	if (r < 0)
		return r;
	is_tls = strncmp(text, "wss://", 6) == 0;
	if (!is_tls && strncmp(text, "ws://", 5) != 0)
		return err_text(err, -EPERM, "'%.64s' is no wss:// or ws:// URL", text);
	if (asprintf(&websocket->stream_url, "%s%.*s", is_tls ? "https://" : "http://",
	             (int)(websocket->url.path - websocket->url.host), websocket->url.host) < 0) {
		websocket->stream_url = NULL;
		return err_oom(err);
	}
	return 0;
}

static int set_options(struct websocket *websocket, const struct websocket_options *options,
                       struct err *err)
{
	int r;

	websocket->loop = sd_event_ref(options->loop);
	websocket->handlers = options->handlers;
	websocket->userdata = options->userdata;
	websocket->handshake_timeout_usec = options->handshake_timeout_usec
	                                            ? options->handshake_timeout_usec
	                                            : TIMEOUT_DEFAULT_USEC;
	websocket->max_queued_bytes = options->max_queued_bytes;
	websocket->keys = aws_keys_ref(options->signing.keys);
	websocket->region = strdup(options->signing.region);
	websocket->service = strdup(options->signing.service);
	if (!websocket->region || !websocket->service ||
	    start_wslay(websocket, options->max_message_bytes) < 0)
		return err_oom(err);
	r = set_url(websocket, options->url, err);
	if (r < 0)
		return r;
	r = loop_add_timer(options->loop, 0, 100000, on_timeout, websocket, &websocket->timeout);
	if (r >= 0)
		r = sd_event_source_set_enabled(websocket->timeout, SD_EVENT_OFF);
	if (r < 0)
		return err_set(err, r, "open a WebSocket");
	return 0;
}

int websocket_open(const struct websocket_options *options, struct websocket **ret, struct err *err)
{
	_cleanup_(websocket_freep) struct websocket *websocket = calloc(1, sizeof(*websocket));
	int r;

	if (!websocket)
		return err_oom(err);
	r = set_options(websocket, options, err);
	if (r < 0)
		return r;
	r = http_client_new(options->loop, options->settings, NULL, &websocket->http, err);
	if (r < 0)
		return r;
	r = stream_connect(websocket->http, websocket->stream_url, options->connect_timeout_usec,
	                   on_connected, on_ready, websocket, &websocket->stream, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(websocket);
	return 0;
}

int websocket_send_text(struct websocket *websocket, const char *text, size_t len)
{
	const struct wslay_event_msg message = {
		.opcode = WSLAY_TEXT_FRAME, .msg = (const uint8_t *)text, .msg_length = len};

	if (websocket->state != WEBSOCKET_UP)
		return -ENOTCONN;
	if (len > websocket->max_queued_bytes ||
	    wslay_event_get_queued_msg_length(websocket->wslay) > websocket->max_queued_bytes - len)
		return -ENOBUFS;
	switch (wslay_event_queue_msg(websocket->wslay, &message)) {
	case 0:
		return stream_again(websocket->stream) < 0 ? -EIO : 0;
	case WSLAY_ERR_NO_MORE_MSG:
		return -ENOTCONN;
	default:
		return -ENOMEM;
	}
}

int websocket_close(struct websocket *websocket, unsigned code, const char *reason)
{
	if (websocket->state != WEBSOCKET_UP)
		return -ENOTCONN;
	if (wslay_event_queue_close(websocket->wslay, (uint16_t)code, (const uint8_t *)reason,
	                            strlen(reason)) != 0)
		return -ENOTCONN;
	return stream_again(websocket->stream) < 0 ? -EIO : 0;
}
