/*
 * A connection of bytes made by libcurl: name look-up, proxy (CONNECT) and TLS are its work, what
 * is said over it is the caller's. TLS 1.2 or later, HTTP/1.1 by ALPN.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/cleanup.h"
#include "lib/err.h"
#include "lib/http.h"

struct stream;

/* r as in http_done_fn, but for the body's. */
typedef void (*stream_connected_fn)(int r, const struct err *err, void *userdata);
/* Something can be read or written: read until -EAGAIN, since TLS buffers. */
typedef void (*stream_ready_fn)(void *userdata);

/* url: https:// or http://; its path is not used. connected runs once, later, from the loop. */
int stream_connect(struct http_client *client, const char *url, uint64_t timeout_usec,
                   stream_connected_fn connected, stream_ready_fn ready, void *userdata,
                   struct stream **ret, struct err *err);
struct stream *stream_free(struct stream *stream);
DEFINE_CLEANUP(struct stream *, stream_free)

/* Call ready also when there is room to write. */
int stream_want_write(struct stream *stream, bool want);
/* Call ready once more from the loop, whatever the socket says. */
int stream_again(struct stream *stream);

/* Bytes, 0 at the end of file (read only), -EAGAIN, or -ECONNRESET. After -EAGAIN a write must be
 * repeated with the same buffer. */
ssize_t stream_read(struct stream *stream, void *buf, size_t n);
ssize_t stream_write(struct stream *stream, const void *buf, size_t n);
