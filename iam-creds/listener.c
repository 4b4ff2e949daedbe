/*
 * Endpoint sockets: where they come from (ecs-agent, or the service manager after a restart), what
 * is accepted on them and how much, and when they are given up.
 */
#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "iam-creds/http_internal.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "lib/loop.h"

#define ENDPOINT_ADDRESS_HOST 0xa9feaa02u /* 169.254.170.2 */
#define ACCEPTS_PER_TURN      16
#define RETRY_USEC            1000000

static void resume(struct listener *l)
{
	l->paused = false;
	if (!l->http->drained)
		(void)sd_event_source_set_enabled(l->io, SD_EVENT_ON);
}

void listeners_resume(struct http *http, const struct task *task)
{
	struct listener *l;

	LIST_FOREACH(l, &http->listeners, others)
	{
		if (l->paused && (!task || (l->container && l->container->task == task)))
			resume(l);
	}
}

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
		if (!victim ||
		    connection_task(c)->n_connections > connection_task(victim)->n_connections)
			victim = c;
	}
	if (!victim || connection_task(victim)->n_connections <= task->n_connections + 1)
		return false;
	connection_close(victim);
	(void)http_run(http); /* lets it go now */
	return http->n_connections < HTTP_CONNECTIONS_MAX;
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
	uint64_t root_cgroup_id = 0;

	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			pause_all(http, -errno);
		return errno == EINVAL ? -EINVAL : 0;
	}
	if (n != sizeof(peer) || !is_endpoint_address(&peer))
		return 1;
	if (!container)
		container = http_find_caller(http, fd, &peer, &root_cgroup_id);
	task = container ? container->task : http->strangers->task;
	if (task->n_connections < HTTP_TASK_CONNECTIONS_MAX && make_room(http, task))
		(void)connection_add(http, container, root_cgroup_id, TAKE_FD(fd),
		                     &peer); /* no memory: it is closed */
	return 1;
}

void listener_free(struct listener *l)
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
	(void)http_run(http);
}
