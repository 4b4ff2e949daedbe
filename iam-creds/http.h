/*
 * The HTTP side: endpoint sockets, the connections made to them, and their bounds.
 *
 * A request is that of the container whose socket it came to; on the host's socket, of the
 * container in whose cgroup the connection was made; what root of the host may ask there is in
 * route.h. A peer with another address than 169.254.170.2 has been routed here from somewhere else,
 * and is closed without an answer.
 *
 * A connection has five seconds for each request, from its beginning (or the end of the request
 * before) to the last byte of the answer, however slowly it drips. When all connections are in use,
 * the task with the most of them loses its oldest, so that no task can shut out another.
 *
 * While ecs-agent has not said that it has sent everything (store_is_complete()), a request for
 * what is not known waits for it, at most HTTP_WAIT_USEC: the strictest SDK gives up after a
 * second.
 *
 * Sockets are stored with the service manager too (fdstore.h), from http_serve() until the task is
 * released or the socket replaced. Connections that are made while this process is not there wait
 * in the sockets' queues.
 */
#pragma once

#include <systemd/sd-event.h>

#include "iam-creds/audit.h"
#include "iam-creds/fdstore.h"
#include "iam-creds/route.h"
#include "iam-creds/store.h"

#define HTTP_CONNECTIONS_MAX      2048
#define HTTP_TASK_CONNECTIONS_MAX 512
#define HTTP_REQUEST_BYTES_MAX    (16 * 1024) /* line and headers */
#define HTTP_BODY_BYTES_MAX       (64 * 1024) /* of a request; read and dropped */
#define HTTP_REQUEST_USEC         5000000
#define HTTP_WAIT_USEC            850000
#define HTTP_DRAIN_USEC           1000000

/* Names of the host's socket and its link in the fdstore. */
#define HTTP_NAME_HOST "host"
#define HTTP_NAME_LINK "link"

struct http;

/* store, audit and fdstore are borrowed. */
int http_new(sd_event *loop, struct store *store, struct audit *audit, struct fdstore *fdstore,
             struct http **ret, struct err *err);
struct http *http_free(struct http *http);
DEFINE_CLEANUP(struct http *, http_free)

void http_set_rates(struct http *http, const struct bucket_rate *metadata);
const struct bucket_rate *http_rates(const struct http *http);

/* To tell callers of the host from those of tasks; borrowed, NULL (and before this call): all are
 * of tasks. */
void http_set_host(struct http *http, struct host_cgroups *host);

/*
 * Serve a container at this listening socket, in place of the one before. Takes fd, also on
 * failure. -EINVAL (err says it) unless it is a listening TCP socket of 169.254.170.2.
 */
int http_serve(struct http *http, struct container *container, int fd, struct err *err);
int http_serve_host(struct http *http, int fd, int link_fd, struct err *err);
bool http_has_host(const struct http *http);

/* Close the sockets and connections of a task, before store_release(). */
void http_release(struct http *http, const struct task *task);

/* There is something new for this task, or (NULL) for all: requests that wait are looked at again.
 */
void http_changed(struct http *http, const struct task *task);

/* For what has come back from the service manager: is this the listening socket of an endpoint, and
 * which (SO_COOKIE). -EINVAL. */
int http_check_socket(int fd, uint64_t *ret_cookie, struct err *err);

struct http_endpoint {
	int fd, link_fd; /* link_fd: -EBADF for containers */
	struct fdstore_name name, link_name;
	uint64_t cookie;
};

/* As http_serve() for one that http_check_socket() has found good; container NULL: the host.
 * -EEXIST if there is one. */
int http_restore(struct http *http, struct container *container,
                 const struct http_endpoint *endpoint, struct err *err);

typedef void (*http_endpoint_fn)(uint64_t cookie, const struct container *container, bool has_link,
                                 void *userdata);
void http_each_endpoint(const struct http *http, http_endpoint_fn fn, void *userdata);

/*
 * The orderly end: no more connections are accepted, the idle ones are closed, requests that have
 * begun are answered. fn is called when none is left, or after HTTP_DRAIN_USEC; perhaps more than
 * once, and perhaps before this returns.
 */
typedef void (*http_drained_fn)(void *userdata);
int http_drain_start(struct http *http, http_drained_fn fn, void *userdata);
