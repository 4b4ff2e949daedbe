/*
 * The HTTP side: endpoint sockets, the connections made to them, and their bounds.
 *
 * A request is that of the container whose socket it came to; on the host's socket, of the
 * container in whose cgroup the connection was made. A peer with another address than
 * 169.254.170.2 has been routed here from somewhere else, and is closed without an answer.
 *
 * A connection has five seconds for each request, from its beginning (or the end of the request
 * before) to the last byte of the answer, however slowly it drips. When all connections are in use,
 * the task with the most of them loses its oldest, so that no task can shut out another.
 */
#pragma once

#include <systemd/sd-event.h>

#include "iam-creds/audit.h"
#include "iam-creds/route.h"
#include "iam-creds/store.h"

#define HTTP_CONNECTIONS_MAX      2048
#define HTTP_TASK_CONNECTIONS_MAX 512
#define HTTP_REQUEST_BYTES_MAX    (16 * 1024) /* line and headers */
#define HTTP_BODY_BYTES_MAX       (64 * 1024) /* of a request; read and dropped */
#define HTTP_REQUEST_USEC         5000000

struct http;

/* store and audit are borrowed. */
int http_new(sd_event *loop, struct store *store, struct audit *audit, struct http **ret,
             struct err *err);
struct http *http_free(struct http *http);
DEFINE_CLEANUP(struct http *, http_free)

void http_set_rates(struct http *http, const struct bucket_rate *metadata);

/*
 * Serve a container at this listening socket, in place of the one before. Takes fd, also on
 * failure. -EINVAL (err says it) unless it is a listening TCP socket of 169.254.170.2.
 */
int http_serve(struct http *http, struct container *container, int fd, struct err *err);
int http_serve_host(struct http *http, int fd, int link_fd, struct err *err);
bool http_has_host(const struct http *http);

/* Close the sockets and connections of a task, before store_release(). */
void http_release(struct http *http, const struct task *task);
