/*
 * What the two halves of the server share: http.c has connections and requests, listener.c the
 * sockets they come from.
 */
#pragma once

#include <arpa/inet.h>
#include <microhttpd.h>
#include <sys/queue.h>

#include "iam-creds/http.h"

#define DEADLINE_SLACK_USEC 100000

struct connection {
	TAILQ_ENTRY(connection) by_age; /* in the order of their deadlines, all equally long */
	struct http *http;
	struct container *container; /* a reference; NULL for a stranger on the host's socket */
	struct MHD_Connection *mhd;
	int fd;                  /* MHD's; for looking at and shutdown(2) only */
	uint64_t root_cgroup_id; /* of a stranger that is root (route.h), else 0 */
	bool closing;            /* it has been shut down: nobody reads an answer */
	unsigned n_answered;
	uint64_t deadline_usec;
	char remote[INET_ADDRSTRLEN + 8]; /* "169.254.170.2:40122" */
	/* of the request being answered */
	bool has_target;          /* its first line is here */
	bool has_begun;           /* on_request() has been told of it */
	bool is_waiting;          /* suspended, among http->waiters */
	uint64_t wait_until_usec; /* 0: it has not waited yet */
	TAILQ_ENTRY(connection) waiters;
	size_t uploaded;   /* bytes of a body, which nobody wants */
	struct body *body; /* a reference, while it is sent */
	char *location;    /* owned; where a request for an unclean path is sent */
};

struct listener {
	LIST_ENTRY(listener) others;
	struct http *http;
	struct container *container; /* a reference; NULL for the host */
	sd_event_source *io;
	int fd;
	int link_fd; /* BPF link of the host's socket, held open; -EBADF for containers */
	struct fdstore_name name, link_name; /* under which the service manager has them */
	uint64_t cookie;
	bool paused; /* its task has all the connections it may have, or no descriptor is left */
};

struct http {
	sd_event *loop;
	struct store *store;
	struct audit *audit;
	struct fdstore *fdstore;
	struct MHD_Daemon *mhd;
	sd_event_source *io, *again, *timer, *retry, *wait_timer, *drain_timer;
	struct route_config config;
	struct container *strangers;
	int diag_fd;
	LIST_HEAD(, listener) listeners;
	TAILQ_HEAD(connections, connection) connections;
	TAILQ_HEAD(waiters, connection) waiters;
	unsigned n_connections;
	http_drained_fn drained; /* NULL until http_drain_start() */
	void *drained_userdata;
	struct connection *starting; /* while MHD_add_connection() runs */
};

/* The task whose bounds count. */
static inline struct task *connection_task(const struct connection *c)
{
	return c->container ? c->container->task : c->http->strangers->task;
}

/* http.c */

/* Takes fd. */
int connection_add(struct http *http, struct container *container, uint64_t root_cgroup_id, int fd,
                   const struct sockaddr_in *peer);
/* The other end sees the connection close; MHD notices and lets go of it. */
void connection_close(struct connection *c);
/* On the host's socket: whose cgroup the connection was made in. NULL if that is no container's:
 * then *ret_root_cgroup_id is the cgroup if root made it. 0 otherwise. */
struct container *http_find_caller(struct http *http, int fd, const struct sockaddr_in *peer,
                                   uint64_t *ret_root_cgroup_id);
/* Let MHD do what it can now. */
int http_run(struct http *http);

/* listener.c */

/* It stays in the store of the service manager: this process ends. */
void listener_free(struct listener *l);
/* Sockets that wait because of their task's bound are looked at again; NULL: all that wait. */
void listeners_resume(struct http *http, const struct task *task);
