/*
 * libmicrohttpd without its sockets and threads: we accept, it parses and sends, from our loop. It
 * says through one epoll descriptor when it has work; when it has some left it must be called again
 * at once (its timeout is 0 then), since nothing would wake it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "iam-creds/caller.h"
#include "iam-creds/http_internal.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "lib/loop.h"

#define WAIT_SLACK_USEC 50000

/* Far above what any SDK asks for, and a bound all the same. */
static const struct bucket_rate credentials_rate = {.per_second = 200000, .burst = 200000};
static const struct bucket_rate default_rate = {.per_second = 40, .burst = 60};

/* Connections */

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
	connection_task(c)->n_connections--;
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

void connection_close(struct connection *c)
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

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata)
{
	(void)source;
	(void)usec;
	listeners_resume(userdata, NULL);
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
		const struct task *task = connection_task(c);

		if (task->n_connections == HTTP_TASK_CONNECTIONS_MAX)
			listeners_resume(http, task);
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

	snprintf(limit, sizeof(limit), "%.2f", (double)c->http->config.metadata.per_second);
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

struct container *http_find_caller(struct http *http, int fd, const struct sockaddr_in *peer,
                                   uint64_t *ret_root_cgroup_id)
{
	struct container *container;
	struct sockaddr_in local;
	socklen_t n = sizeof(local);
	uint64_t id;
	uid_t uid;
	int r;

	*ret_root_cgroup_id = 0;
	if (getsockname(fd, (struct sockaddr *)&local, &n) < 0)
		return NULL;
	r = caller_cgroup(http->diag_fd, peer, &local, &id, &uid);
	if (r < 0) {
		log_debug(NULL, "cannot tell who has connected: %s", strerror(-r));
		return NULL;
	}
	container = store_find_cgroup(http->store, id);
	if (!container && uid == 0 && id != CALLER_ROOT_CGROUP)
		*ret_root_cgroup_id = id;
	return container;
}

/* A container of host mode that was not known when its connection was accepted may be by now. */
static void identify_again(struct connection *c)
{
	struct sockaddr_in peer;
	socklen_t n = sizeof(peer);

	if (c->container || getpeername(c->fd, (struct sockaddr *)&peer, &n) < 0 ||
	    n != sizeof(peer))
		return;
	connection_task(c)->n_connections--;
	c->container = container_ref(http_find_caller(c->http, c->fd, &peer, &c->root_cgroup_id));
	connection_task(c)->n_connections++;
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
		.root_cgroup_id = c->root_cgroup_id,
		.path = path,
		.id_argument = MHD_lookup_connection_value(c->mhd, MHD_GET_ARGUMENT_KIND, "id"),
		.is_repeated = c->wait_until_usec != 0,
		.now_usec = now_usec(),
		.now_realtime_usec = now_realtime_usec()};
	if (route_answer(http->store, &http->config, http->strangers, &request, &answer) < 0)
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

int http_run(struct http *http)
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
	return http_run(userdata);
}

static int on_mhd_again(sd_event_source *source, void *userdata)
{
	(void)source;
	return http_run(userdata);
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

int connection_add(struct http *http, struct container *container, uint64_t root_cgroup_id, int fd,
                   const struct sockaddr_in *peer)
{
	struct connection *c = calloc(1, sizeof(*c));

	if (!c) {
		fd_close(fd);
		return -ENOMEM;
	}
	*c = (struct connection){.http = http,
	                         .container = container_ref(container),
	                         .root_cgroup_id = root_cgroup_id,
	                         .fd = fd,
	                         .deadline_usec = now_usec() + HTTP_REQUEST_USEC};
	snprintf(c->remote, sizeof(c->remote), "%s:%u", inet_ntoa(peer->sin_addr),
	         ntohs(peer->sin_port));
	TAILQ_INSERT_TAIL(&http->connections, c, by_age);
	connection_task(c)->n_connections++;
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

void http_set_rates(struct http *http, const struct bucket_rate *metadata)
{
	http->config.metadata = *metadata;
}

const struct bucket_rate *http_rates(const struct http *http)
{
	return &http->config.metadata;
}

void http_set_host(struct http *http, struct host_cgroups *host)
{
	http->config.host = host;
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
	http->config =
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
