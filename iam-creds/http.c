/*
 * libmicrohttpd without its sockets and threads: we accept, it parses and sends, from our loop. It
 * says through one epoll descriptor when it has work; when it has some left it must be called again
 * at once (its timeout is 0 then), since nothing would wake it.
 */
#include "iam-creds/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#include "iam-creds/caller.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "lib/loop.h"

#define ENDPOINT_ADDRESS_HOST 0xa9feaa02u /* 169.254.170.2 */
#define ACCEPTS_PER_TURN      16
#define DEADLINE_SLACK_USEC   100000
#define WAIT_SLACK_USEC       50000
#define RETRY_USEC            1000000

/* Far above what any SDK asks for, and a bound all the same. */
static const struct bucket_rate credentials_rate = {.per_second = 200000, .burst = 200000};
static const struct bucket_rate default_rate = {.per_second = 40, .burst = 60};

struct connection {
	TAILQ_ENTRY(connection) by_age; /* in the order of their deadlines, all equally long */
	struct http *http;
	struct container *container; /* a reference; NULL for a stranger on the host's socket */
	struct MHD_Connection *mhd;
	int fd;       /* MHD's; for looking at and shutdown(2) only */
	bool closing; /* it has been shut down: nobody reads an answer */
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
	struct route_config rates;
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

/* Connections */

static struct task *task_of(const struct connection *c)
{
	return c->container ? c->container->task : c->http->strangers->task;
}

static void end_request(struct connection *c)
{
	c->body = body_unref(c->body);
	free(c->location);
	c->location = NULL;
	c->has_target = c->has_begun = false;
	c->wait_until_usec = 0;
	c->uploaded = 0;
}

static void connection_free(struct connection *c)
{
	if (!c)
		return;
	end_request(c);
	if (c->is_waiting)
		TAILQ_REMOVE(&c->http->waiters, c, waiters);
	task_of(c)->n_connections--;
	c->http->n_connections--;
	TAILQ_REMOVE(&c->http->connections, c, by_age);
	container_unref(c->container);
	if (c->http->drained && c->http->n_connections == 0)
		c->http->drained(c->http->drained_userdata);
	free(c);
}

/* The request that waits is looked at again, by on_request(). */
static void connection_wake(struct connection *c)
{
	if (!c->is_waiting)
		return;
	c->is_waiting = false;
	TAILQ_REMOVE(&c->http->waiters, c, waiters);
	MHD_resume_connection(c->mhd);
	/* MHD would tell through its epoll descriptor too; this costs one turn less. */
	(void)sd_event_source_set_enabled(c->http->again, SD_EVENT_ONESHOT);
}

/* The other end sees the connection close; MHD notices and lets go of it. */
static void connection_close(struct connection *c)
{
	c->closing = true;
	(void)shutdown(c->fd, SHUT_RDWR); /* ENOTCONN: the peer was quicker */
	connection_wake(c);
}

static int set_timer(struct http *http)
{
	const struct connection *first = TAILQ_FIRST(&http->connections);

	if (!first)
		return sd_event_source_set_enabled(http->timer, SD_EVENT_OFF);
	sd_event_source_set_time(http->timer, first->deadline_usec);
	return sd_event_source_set_enabled(http->timer, SD_EVENT_ONESHOT);
}

/* To the end of the line, with a whole new period. The timer follows when it fires. */
static void restart_deadline(struct connection *c)
{
	c->deadline_usec = now_usec() + HTTP_REQUEST_USEC;
	TAILQ_REMOVE(&c->http->connections, c, by_age);
	TAILQ_INSERT_TAIL(&c->http->connections, c, by_age);
}

static int on_deadline(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct http *http = userdata;
	uint64_t now = now_usec();
	struct connection *c;

	(void)source;
	(void)usec;
	while ((c = TAILQ_FIRST(&http->connections)) && c->deadline_usec <= now) {
		connection_close(c);
		restart_deadline(c); /* MHD closes it long before that */
	}
	return set_timer(http);
}

static void resume(struct listener *l)
{
	l->paused = false;
	if (!l->http->drained)
		(void)sd_event_source_set_enabled(l->io, SD_EVENT_ON);
}

/* Sockets that wait because of their task's bound are looked at again. */
static void resume_listeners(struct http *http, const struct task *task)
{
	struct listener *l;

	LIST_FOREACH(l, &http->listeners, others)
	{
		if (l->paused && l->container && l->container->task == task)
			resume(l);
	}
}

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct http *http = userdata;
	struct listener *l;

	(void)source;
	(void)usec;
	LIST_FOREACH(l, &http->listeners, others)
	{
		if (l->paused)
			resume(l);
	}
	return 0;
}

static void notify_connection(void *cls, struct MHD_Connection *mhd, void **context,
                              enum MHD_ConnectionNotificationCode code)
{
	struct http *http = cls;
	struct connection *c = *context;

	if (code == MHD_CONNECTION_NOTIFY_STARTED) {
		c = http->starting;
		http->starting = NULL;
		c->mhd = mhd;
		*context = c;
		return;
	}
	if (c) {
		const struct task *task = task_of(c);

		if (task->n_connections == HTTP_TASK_CONNECTIONS_MAX)
			resume_listeners(http, task);
		connection_free(c);
		*context = NULL;
	}
}

/* Requests */

static struct connection *connection_of(struct MHD_Connection *mhd)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

	return info ? info->socket_context : NULL;
}

/* The first word of a request: its target before decoding. The result is what on_request() gets as
 * *con_cls. */
static void *on_target(void *cls, const char *target, struct MHD_Connection *mhd)
{
	struct connection *c = connection_of(mhd);

	(void)cls;
	if (!c)
		return NULL;
	end_request(c);
	c->has_target = true;
	if (target[0] == '/')
		c->location = route_clean_target(target);
	return c;
}

static void on_completed(void *cls, struct MHD_Connection *mhd, void **con_cls,
                         enum MHD_RequestTerminationCode code)
{
	struct connection *c = *con_cls;

	(void)cls;
	(void)mhd;
	(void)code;
	if (c) {
		end_request(c);
		c->n_answered++;
		restart_deadline(c);
	}
	*con_cls = NULL;
}

static void add_rate_headers(const struct connection *c, struct MHD_Response *response)
{
	char limit[32];

	snprintf(limit, sizeof(limit), "%.2f", (double)c->http->rates.metadata.per_second);
	(void)MHD_add_response_header(response, "X-Rate-Limit-Limit", limit);
	(void)MHD_add_response_header(response, "X-Rate-Limit-Duration", "1");
	(void)MHD_add_response_header(response, "X-Rate-Limit-Request-Remote-Addr", c->remote);
}

/* Gives the answer to MHD; the connection holds the body until it is sent. */
static enum MHD_Result send_answer(struct connection *c, const struct answer *answer)
{
	struct MHD_Response *response;
	enum MHD_Result result;

	c->body = body_ref(answer->body);
	response = MHD_create_response_from_buffer(body_len(c->body), (void *)body_bytes(c->body),
	                                           MHD_RESPMEM_PERSISTENT);
	if (!response)
		return MHD_NO;
	(void)MHD_add_response_header(response, "Content-Type",
	                              answer->type == ANSWER_JSON ? "application/json"
	                                                          : "text/plain; charset=utf-8");
	if (answer->limited || !answer->audit_path)
		add_rate_headers(c, response);
	if (c->http->drained)
		(void)MHD_add_response_header(response, "Connection", "close");
	result = MHD_queue_response(c->mhd, answer->status, response);
	MHD_destroy_response(response);
	return result;
}

static enum MHD_Result send_redirect(struct connection *c)
{
	struct MHD_Response *response =
		MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT);
	enum MHD_Result result;

	if (!response)
		return MHD_NO;
	result = MHD_add_response_header(response, "Location", c->location);
	if (result == MHD_YES)
		result = MHD_queue_response(c->mhd, 301, response);
	MHD_destroy_response(response);
	return result;
}

static void audit(struct connection *c, const struct answer *answer, const char *path, uint64_t now)
{
	struct audit_request request = {
		.status = answer->status,
		.remote = c->remote,
		.path = answer->audit_path ? answer->audit_path : path,
		.user_agent = MHD_lookup_connection_value(c->mhd, MHD_HEADER_KIND, "User-Agent"),
		.credentials = answer->credentials,
		.now_realtime_usec = now};

	if (answer->audit_path || answer->limited)
		audit_write(c->http->audit, &request);
}

/* On the host's socket: whose cgroup the connection was made in. NULL for processes of the host. */
static struct container *find_caller(struct http *http, int fd, const struct sockaddr_in *peer)
{
	struct sockaddr_in local;
	socklen_t n = sizeof(local);
	uint64_t id;
	int r;

	if (getsockname(fd, (struct sockaddr *)&local, &n) < 0)
		return NULL;
	r = caller_cgroup(http->diag_fd, peer, &local, &id);
	if (r < 0) {
		log_debug(NULL, "cannot tell who has connected: %s", strerror(-r));
		return NULL;
	}
	return store_find_cgroup(http->store, id);
}

/* A container of host mode that was not known when its connection was accepted may be by now. */
static void identify_again(struct connection *c)
{
	struct sockaddr_in peer;
	socklen_t n = sizeof(peer);

	if (c->container || getpeername(c->fd, (struct sockaddr *)&peer, &n) < 0 ||
	    n != sizeof(peer))
		return;
	task_of(c)->n_connections--;
	c->container = container_ref(find_caller(c->http, c->fd, &peer));
	task_of(c)->n_connections++;
}

/* Requests that wait for what they ask for */

static void set_wait_timer(struct http *http, uint64_t until_usec)
{
	uint64_t armed = UINT64_MAX;
	int enabled = SD_EVENT_OFF;

	(void)sd_event_source_get_enabled(http->wait_timer, &enabled);
	if (enabled != SD_EVENT_OFF)
		(void)sd_event_source_get_time(http->wait_timer, &armed);
	if (armed <= until_usec)
		return;
	(void)sd_event_source_set_time(http->wait_timer, until_usec);
	(void)sd_event_source_set_enabled(http->wait_timer, SD_EVENT_ONESHOT);
}

static int on_wait_over(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct http *http = userdata;
	struct connection *c, *next;
	uint64_t now = now_usec(), first = UINT64_MAX;

	(void)source;
	(void)usec;
	for (c = TAILQ_FIRST(&http->waiters); c; c = next) {
		next = TAILQ_NEXT(c, waiters);
		if (c->wait_until_usec <= now)
			connection_wake(c);
		else if (c->wait_until_usec < first)
			first = c->wait_until_usec;
	}
	if (first != UINT64_MAX)
		set_wait_timer(http, first);
	return 0;
}

/* Puts the request aside until there are news of its task; false when it has waited long enough. */
static bool wait_for_news(struct connection *c, uint64_t now)
{
	if (c->closing)
		return false;
	if (c->wait_until_usec == 0)
		c->wait_until_usec = now + HTTP_WAIT_USEC;
	if (c->wait_until_usec <= now)
		return false;
	MHD_suspend_connection(c->mhd);
	c->is_waiting = true;
	TAILQ_INSERT_TAIL(&c->http->waiters, c, waiters);
	set_wait_timer(c->http, c->wait_until_usec);
	return true;
}

void http_changed(struct http *http, const struct task *task)
{
	struct connection *c, *next;

	for (c = TAILQ_FIRST(&http->waiters); c; c = next) {
		next = TAILQ_NEXT(c, waiters);
		if (!task || !c->container || c->container->task == task)
			connection_wake(c);
	}
}

static enum MHD_Result answer_request(struct http *http, struct connection *c, const char *path)
{
	struct route_request request;
	struct answer answer;
	enum MHD_Result result;

	if (c->wait_until_usec != 0)
		identify_again(c);
	request = (struct route_request){
		.container = c->container,
		.path = path,
		.id_argument = MHD_lookup_connection_value(c->mhd, MHD_GET_ARGUMENT_KIND, "id"),
		.is_repeated = c->wait_until_usec != 0,
		.now_usec = now_usec(),
		.now_realtime_usec = now_realtime_usec()};
	if (route_answer(http->store, &http->rates, http->strangers, &request, &answer) < 0)
		return MHD_NO;
	if (answer.not_yet && wait_for_news(c, request.now_usec)) {
		answer_done(&answer);
		return MHD_YES;
	}
	audit(c, &answer, path, request.now_realtime_usec);
	result = send_answer(c, &answer);
	answer_done(&answer);
	return result;
}

/*
 * Called when the headers are complete, for each part of a body, and when all is there. MHD keeps
 * the connection only if the answer comes last. Any method is answered alike.
 */
static enum MHD_Result on_request(void *cls, struct MHD_Connection *mhd, const char *path,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_size, void **con_cls)
{
	struct http *http = cls;
	struct connection *c = *con_cls;

	(void)mhd;
	(void)method;
	(void)version;
	(void)upload;
	if (!c)
		return MHD_NO;
	if (!c->has_begun) {
		c->has_begun = true;
		return MHD_YES;
	}
	if (*upload_size > 0) {
		c->uploaded += *upload_size;
		*upload_size = 0;
		return c->uploaded > HTTP_BODY_BYTES_MAX ? MHD_NO : MHD_YES;
	}
	return c->location ? send_redirect(c) : answer_request(http, c, path);
}

/* MHD on our loop */

static int run_mhd(struct http *http)
{
	MHD_UNSIGNED_LONG_LONG timeout;

	(void)MHD_run(http->mhd); /* fails on a daemon of another kind only */
	audit_flush(http->audit);
	if (MHD_get_timeout(http->mhd, &timeout) == MHD_YES && timeout == 0)
		return sd_event_source_set_enabled(http->again, SD_EVENT_ONESHOT);
	return 0;
}

static int on_mhd_io(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
	(void)source;
	(void)fd;
	(void)revents;
	return run_mhd(userdata);
}

static int on_mhd_again(sd_event_source *source, void *userdata)
{
	(void)source;
	return run_mhd(userdata);
}

static void on_mhd_log(void *cls, const char *fmt, va_list ap)
	__attribute__((format(printf, 2, 0)));
static void on_mhd_log(void *cls, const char *fmt, va_list ap)
{
	char text[512];

	(void)cls;
	if (!log_is_on(LOG_DEBUG))
		return;
	vsnprintf(text, sizeof(text), fmt, ap);
	text[strcspn(text, "\n")] = '\0';
	log_debug(NULL, "http: %s", text);
}

/* One that is off. */
static int add_timer(struct http *http, uint64_t accuracy_usec, sd_event_time_handler_t fn,
                     sd_event_source **ret)
{
	int r = sd_event_add_time(http->loop, ret, CLOCK_MONOTONIC, 0, accuracy_usec, fn, http);

	return r < 0 ? r : sd_event_source_set_enabled(*ret, SD_EVENT_OFF);
}

static int start_mhd(struct http *http, struct err *err)
{
	const union MHD_DaemonInfo *info;
	int r;

	http->mhd = MHD_start_daemon(
		MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_USE_ERROR_LOG |
			MHD_ALLOW_SUSPEND_RESUME,
		0, NULL, NULL, on_request, http, MHD_OPTION_EXTERNAL_LOGGER, on_mhd_log, NULL,
		MHD_OPTION_NOTIFY_CONNECTION, notify_connection, http, MHD_OPTION_NOTIFY_COMPLETED,
		on_completed, http, MHD_OPTION_URI_LOG_CALLBACK, on_target, http,
		MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HTTP_REQUEST_BYTES_MAX,
		MHD_OPTION_CONNECTION_LIMIT, (unsigned)HTTP_CONNECTIONS_MAX + 16, MHD_OPTION_END);
	if (!http->mhd)
		return err_text(err, -ENOMEM, "start libmicrohttpd");
	info = MHD_get_daemon_info(http->mhd, MHD_DAEMON_INFO_EPOLL_FD);
	if (!info)
		return err_text(err, -EOPNOTSUPP, "libmicrohttpd has no epoll");

	r = sd_event_add_io(http->loop, &http->io, info->epoll_fd, EPOLLIN, on_mhd_io, http);
	if (r >= 0)
		r = sd_event_add_defer(http->loop, &http->again, on_mhd_again, http);
	if (r >= 0)
		r = sd_event_source_set_enabled(http->again, SD_EVENT_OFF);
	if (r >= 0)
		r = add_timer(http, DEADLINE_SLACK_USEC, on_deadline, &http->timer);
	if (r >= 0)
		r = add_timer(http, DEADLINE_SLACK_USEC, on_retry, &http->retry);
	if (r >= 0)
		r = add_timer(http, WAIT_SLACK_USEC, on_wait_over, &http->wait_timer);
	return r < 0 ? err_set(err, r, "put libmicrohttpd on the event loop") : 0;
}

/* Accepting */

static bool is_endpoint_address(const struct sockaddr_in *a)
{
	return a->sin_family == AF_INET && ntohl(a->sin_addr.s_addr) == ENDPOINT_ADDRESS_HOST;
}

/* Makes room when all connections are taken: false when it is this task that has too many. */
static bool make_room(struct http *http, const struct task *task)
{
	struct connection *c, *victim = NULL;

	if (http->n_connections < HTTP_CONNECTIONS_MAX)
		return true;
	TAILQ_FOREACH(c, &http->connections, by_age)
	{
		if (!victim || task_of(c)->n_connections > task_of(victim)->n_connections)
			victim = c;
	}
	if (!victim || task_of(victim)->n_connections <= task->n_connections + 1)
		return false;
	connection_close(victim);
	(void)run_mhd(http); /* lets it go now */
	return http->n_connections < HTTP_CONNECTIONS_MAX;
}

/* Takes fd. */
static int add_connection(struct http *http, struct container *container, int fd,
                          const struct sockaddr_in *peer)
{
	struct connection *c = calloc(1, sizeof(*c));

	if (!c) {
		fd_close(fd);
		return -ENOMEM;
	}
	*c = (struct connection){.http = http,
	                         .container = container_ref(container),
	                         .fd = fd,
	                         .deadline_usec = now_usec() + HTTP_REQUEST_USEC};
	snprintf(c->remote, sizeof(c->remote), "%s:%u", inet_ntoa(peer->sin_addr),
	         ntohs(peer->sin_port));
	TAILQ_INSERT_TAIL(&http->connections, c, by_age);
	task_of(c)->n_connections++;
	http->n_connections++;

	http->starting = c;
	if (MHD_add_connection(http->mhd, fd, (const struct sockaddr *)peer, sizeof(*peer)) !=
	    MHD_YES) {
		/* MHD has closed fd. If it got as far as to start, it has also ended the
		 * connection. */
		if (http->starting == c)
			connection_free(c);
		http->starting = NULL;
		return -ENOMEM;
	}
	if (TAILQ_FIRST(&http->connections) == c)
		return set_timer(http);
	return 0;
}

/* Out of descriptors or memory: the queue stays readable, so leave it alone for a while. */
static void pause_all(struct http *http, int error)
{
	struct listener *l;

	log_warning(NULL, error, "accept a connection; trying again in a second");
	LIST_FOREACH(l, &http->listeners, others)
	{
		l->paused = true;
		(void)sd_event_source_set_enabled(l->io, SD_EVENT_OFF);
	}
	(void)sd_event_source_set_time(http->retry, now_usec() + RETRY_USEC);
	(void)sd_event_source_set_enabled(http->retry, SD_EVENT_ONESHOT);
}

/* 1 when a connection was taken off the queue, 0 when there was none, -EINVAL when the socket does
 * not listen any more. */
static int accept_one(struct listener *l)
{
	struct http *http = l->http;
	struct sockaddr_in peer;
	socklen_t n = sizeof(peer);
	_cleanup_close_ int fd =
		accept4(l->fd, (struct sockaddr *)&peer, &n, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct container *container = l->container;
	const struct task *task;

	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			pause_all(http, -errno);
		return errno == EINVAL ? -EINVAL : 0;
	}
	if (n != sizeof(peer) || !is_endpoint_address(&peer))
		return 1;
	if (!container)
		container = find_caller(http, fd, &peer);
	task = container ? container->task : http->strangers->task;
	if (task->n_connections < HTTP_TASK_CONNECTIONS_MAX && make_room(http, task))
		(void)add_connection(http, container, TAKE_FD(fd),
		                     &peer); /* no memory: it is closed */
	return 1;
}

/* It stays in the store of the service manager: this process ends. */
static void listener_free(struct listener *l)
{
	LIST_REMOVE(l, others);
	sd_event_source_disable_unref(l->io);
	fd_close(l->fd);
	fd_close(l->link_fd);
	if (l->container)
		l->container->is_served = false;
	container_unref(l->container);
	free(l);
}

static void listener_remove(struct listener *l)
{
	fdstore_remove(l->http->fdstore, &l->name);
	fdstore_remove(l->http->fdstore, &l->link_name);
	listener_free(l);
}

static int on_connections(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
	struct listener *l = userdata;

	(void)fd;
	(void)revents;
	for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
		int r;

		/* What waits in the queue is its own task's loss only. */
		if (l->container &&
		    l->container->task->n_connections >= HTTP_TASK_CONNECTIONS_MAX) {
			l->paused = true;
			return sd_event_source_set_enabled(source, SD_EVENT_OFF);
		}
		r = accept_one(l);
		if (r < 0) {
			/* Who is CAP_NET_ADMIN in a namespace can end its sockets (SOCK_DESTROY).
			 */
			log_info(NULL,
			         "the endpoint of container %s has been shut down from within",
			         l->container ? l->container->name : "-");
			listener_remove(l);
			return 0;
		}
		if (r == 0)
			break;
	}
	return 0;
}

static int check_socket(int fd, struct err *err)
{
	struct sockaddr_in address;
	socklen_t n = sizeof(address), value_n;
	int value = 0;

	value_n = sizeof(value);
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &value_n) < 0 || !value)
		return err_text(err, -EINVAL, "the descriptor is no listening socket");
	value_n = sizeof(value);
	if (getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &value, &value_n) < 0 || value != IPPROTO_TCP)
		return err_text(err, -EINVAL, "the descriptor is no TCP socket");
	if (getsockname(fd, (struct sockaddr *)&address, &n) < 0 || n != sizeof(address) ||
	    !is_endpoint_address(&address))
		return err_text(err, -EINVAL, "the socket does not listen at 169.254.170.2");
	return 0;
}

/* What tells this socket from every other since the machine was started. */
static int socket_cookie(int fd, uint64_t *ret, struct err *err)
{
	socklen_t n = sizeof(*ret);

	if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, ret, &n) < 0)
		return err_set(err, -errno, "ask for the cookie of the socket");
	return 0;
}

/* A socket with its link, and their names where the service manager has them already. */
struct endpoint_fds {
	int fd, link_fd;
	struct fdstore_name name, link_name;
};

/* Takes the descriptors. */
static int listen_to(struct http *http, struct container *container, const struct endpoint_fds *fds,
                     uint64_t cookie, struct err *err)
{
	_cleanup_close_ int owned_fd = fds->fd, owned_link_fd = fds->link_fd;
	struct listener *l;
	int r;

	r = fd_set_nonblock(fds->fd, true);
	if (r < 0)
		return err_set(err, r, "set up the socket");
	l = calloc(1, sizeof(*l));
	if (!l)
		return err_oom(err);
	l->http = http;
	l->container = container_ref(container);
	l->fd = TAKE_FD(owned_fd);
	l->link_fd = TAKE_FD(owned_link_fd);
	l->name = fds->name;
	l->link_name = fds->link_name;
	l->cookie = cookie;
	LIST_INSERT_HEAD(&http->listeners, l, others);
	r = sd_event_add_io(http->loop, &l->io, l->fd, EPOLLIN, on_connections, l);
	if (r < 0) {
		listener_free(l);
		return err_set(err, r, "watch the socket");
	}
	if (http->drained)
		(void)sd_event_source_set_enabled(l->io, SD_EVENT_OFF);
	if (container)
		container->is_served = true;
	if (l->name.text[0] == '\0')
		fdstore_put(http->fdstore, l->fd, container ? NULL : HTTP_NAME_HOST, &l->name);
	if (l->link_fd >= 0 && l->link_name.text[0] == '\0')
		fdstore_put(http->fdstore, l->link_fd, HTTP_NAME_LINK, &l->link_name);
	return 0;
}

static struct listener *find_listener(const struct http *http, const struct container *container)
{
	struct listener *l;

	LIST_FOREACH(l, &http->listeners, others)
	{
		if (l->container == container)
			return l;
	}
	return NULL;
}

static struct listener *find_cookie(const struct http *http, uint64_t cookie)
{
	struct listener *l;

	LIST_FOREACH(l, &http->listeners, others)
	{
		if (l->cookie == cookie)
			return l;
	}
	return NULL;
}

/*
 * In place of the one before. The same socket may come again, from ecs-task which keeps a copy: the
 * service manager has that once, so it is taken out before it is put in again.
 */
static int replace_listener(struct http *http, struct container *container, int fd, int link_fd,
                            struct err *err)
{
	const struct endpoint_fds fds = {.fd = fd, .link_fd = link_fd};
	struct listener *before;
	uint64_t cookie;
	int r;

	r = check_socket(fd, err);
	if (r == 0)
		r = socket_cookie(fd, &cookie, err);
	if (r < 0) {
		fd_close(fd);
		fd_close(link_fd);
		return r;
	}
	while ((before = find_cookie(http, cookie)) || (before = find_listener(http, container)))
		listener_remove(before);
	return listen_to(http, container, &fds, cookie, err);
}

int http_serve(struct http *http, struct container *container, int fd, struct err *err)
{
	return replace_listener(http, container, fd, -EBADF, err);
}

int http_serve_host(struct http *http, int fd, int link_fd, struct err *err)
{
	return replace_listener(http, NULL, fd, link_fd, err);
}

int http_restore(struct http *http, struct container *container,
                 const struct http_endpoint *endpoint, struct err *err)
{
	const struct endpoint_fds fds = {.fd = endpoint->fd,
	                                 .link_fd = endpoint->link_fd,
	                                 .name = endpoint->name,
	                                 .link_name = endpoint->link_name};

	if (find_listener(http, container)) {
		fd_close(endpoint->fd);
		fd_close(endpoint->link_fd);
		return err_text(err, -EEXIST, "it has a socket already");
	}
	return listen_to(http, container, &fds, endpoint->cookie, err);
}

int http_check_socket(int fd, uint64_t *ret_cookie, struct err *err)
{
	int r = check_socket(fd, err);

	return r < 0 ? r : socket_cookie(fd, ret_cookie, err);
}

void http_each_endpoint(const struct http *http, http_endpoint_fn fn, void *userdata)
{
	const struct listener *l;

	LIST_FOREACH(l, &http->listeners, others)
	{
		fn(l->cookie, l->container, l->link_fd >= 0, userdata);
	}
}

bool http_has_host(const struct http *http)
{
	return find_listener(http, NULL) != NULL;
}

void http_release(struct http *http, const struct task *task)
{
	struct listener *next;
	struct connection *c;

	for (struct listener *l = LIST_FIRST(&http->listeners); l; l = next) {
		next = LIST_NEXT(l, others);
		if (l->container && l->container->task == task)
			listener_remove(l);
	}
	TAILQ_FOREACH(c, &http->connections, by_age)
	{
		if (c->container && c->container->task == task)
			connection_close(c);
	}
	/* Open sockets would keep the network namespace of the task. */
	(void)run_mhd(http);
}

void http_set_rates(struct http *http, const struct bucket_rate *metadata)
{
	http->rates.metadata = *metadata;
}

const struct bucket_rate *http_rates(const struct http *http)
{
	return &http->rates.metadata;
}

/* The end */

/* Between two requests, with nothing of the next here. */
static bool is_idle(const struct connection *c)
{
	char byte;

	return c->n_answered > 0 && !c->has_target &&
	       recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) <= 0;
}

static int on_drain_over(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct http *http = userdata;

	(void)source;
	(void)usec;
	http->drained(http->drained_userdata);
	return 0;
}

int http_drain_start(struct http *http, http_drained_fn fn, void *userdata)
{
	struct connection *c;
	struct listener *l;

	if (http->drained)
		return 0;
	http->drained = fn;
	http->drained_userdata = userdata;
	LIST_FOREACH(l, &http->listeners, others)
	{
		(void)sd_event_source_set_enabled(l->io, SD_EVENT_OFF);
	}
	TAILQ_FOREACH(c, &http->connections, by_age)
	{
		if (is_idle(c))
			connection_close(c);
	}
	(void)sd_event_source_set_enabled(http->again, SD_EVENT_ONESHOT);
	if (http->n_connections == 0)
		fn(userdata);
	return loop_add_timer(http->loop, HTTP_DRAIN_USEC, WAIT_SLACK_USEC, on_drain_over, http,
	                      &http->drain_timer);
}

/* Strangers share the buckets of a container that does not exist. */
static int make_strangers(struct http *http)
{
	struct task *task = calloc(1, sizeof(*task));

	if (!task)
		return -ENOMEM;
	task->refs = 1;
	task->released = true;
	http->strangers = calloc(1, sizeof(*http->strangers));
	if (!http->strangers) {
		task_unref(task);
		return -ENOMEM;
	}
	http->strangers->refs = 1;
	http->strangers->task = task;
	return 0;
}

int http_new(sd_event *loop, struct store *store, struct audit *a, struct fdstore *fdstore,
             struct http **ret, struct err *err)
{
	_cleanup_(http_freep) struct http *http = calloc(1, sizeof(*http));
	int r;

	if (!http)
		return err_oom(err);
	http->loop = sd_event_ref(loop);
	http->store = store;
	http->audit = a;
	http->fdstore = fdstore;
	http->diag_fd = -EBADF;
	http->rates =
		(struct route_config){.metadata = default_rate, .credentials = credentials_rate};
	LIST_INIT(&http->listeners);
	TAILQ_INIT(&http->connections);
	TAILQ_INIT(&http->waiters);
	if (make_strangers(http) < 0)
		return err_oom(err);
	http->diag_fd = caller_open(err);
	if (http->diag_fd < 0)
		return http->diag_fd;
	r = start_mhd(http, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(http);
	return 0;
}

struct http *http_free(struct http *http)
{
	struct connection *c;
	struct listener *l;

	if (!http)
		return NULL;
	http->drained = NULL;
	while ((l = LIST_FIRST(&http->listeners)))
		listener_free(l);
	/* MHD does not end with a connection that is suspended. */
	while ((c = TAILQ_FIRST(&http->waiters)))
		connection_close(c);
	sd_event_source_disable_unref(http->io);
	if (http->mhd)
		MHD_stop_daemon(http->mhd); /* ends every connection */
	sd_event_source_disable_unref(http->again);
	sd_event_source_disable_unref(http->timer);
	sd_event_source_disable_unref(http->retry);
	sd_event_source_disable_unref(http->wait_timer);
	sd_event_source_disable_unref(http->drain_timer);
	fd_close(http->diag_fd);
	container_unref(http->strangers);
	sd_event_unref(http->loop);
	free(http);
	return NULL;
}
