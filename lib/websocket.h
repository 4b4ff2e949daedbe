/*
 * A WebSocket client (RFC 6455) whose handshake is signed with SigV4: no extensions, no
 * subprotocol; pings are answered.
 *
 *   connecting -> opened -> (messages) -> ended
 *             \-> ended (refused or failed)
 *
 * Callbacks run from the loop; websocket_free() at any time, also in them, and nothing is called
 * after it. ended comes once, and then nothing else.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "lib/aws_keys.h"
#include "lib/cleanup.h"
#include "lib/err.h"
#include "lib/http.h"

#define WEBSOCKET_CLOSE_NORMAL   1000
#define WEBSOCKET_CLOSE_ABNORMAL 1006 /* never on the wire: no close frame came */

struct websocket;

struct websocket_end {
	int r; /* 0: the connection was up; < 0: it never was, see err */
	struct err err;
	unsigned http_status; /* of a refusal, else 0 */
	const char *body;     /* of a refusal, else NULL */
	size_t body_len;
	/* Of a connection that was up: as received; as sent when we gave up on what the peer sent
	 * (1002, 1007, 1009); or CLOSE_ABNORMAL. */
	unsigned close_code;
};

struct websocket_handlers {
	void (*opened)(struct websocket *websocket, void *userdata);
	/* A whole message; text is valid UTF-8 and followed by a NUL if is_text. */
	void (*message)(struct websocket *websocket, bool is_text, const char *data, size_t len,
	                void *userdata);
	void (*ended)(struct websocket *websocket, const struct websocket_end *end, void *userdata);
};

struct websocket_options {
	sd_event *loop;
	const struct http_settings *settings;
	const char *url; /* wss:// or ws://, encoded */
	struct http_signing signing;
	uint64_t connect_timeout_usec;             /* 0: 30 s */
	uint64_t handshake_timeout_usec;           /* 0: 30 s; from then on */
	size_t max_message_bytes;                  /* larger ones end the connection with 1009 */
	size_t max_queued_bytes;                   /* that wait to be sent */
	const struct websocket_handlers *handlers; /* borrowed */
	void *userdata;
};

int websocket_open(const struct websocket_options *options, struct websocket **ret,
                   struct err *err);
struct websocket *websocket_free(struct websocket *websocket);
DEFINE_CLEANUP(struct websocket *, websocket_free)

/* Copied and sent by the loop. -ENOTCONN: not up, or closing; -ENOBUFS: max_queued_bytes; -ENOMEM.
 */
int websocket_send_text(struct websocket *websocket, const char *text, size_t len);

/* Say goodbye; ended follows when the server has answered. The wait for it is the caller's to end.
 */
int websocket_close(struct websocket *websocket, unsigned code, const char *reason);
