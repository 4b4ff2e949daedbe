/*
 * A poll(2) loop over the listening socket, the signals, and a bounded number of connections. A
 * slow or hostile peer has a deadline and takes one place, never the loop.
 */
#include "agent/launcher/server.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent/launcher/notify.h"
#include "agent/launcher/program.h"
#include "agent/launcher/protocol.h"
#include "agent/launcher/request.h"
#include "agent/launcher/start.h"
#include "lib/cleanup.h"
#include "lib/fd.h"
#include "lib/log.h"

#define CONNECTIONS_MAX    64
#define BACKLOG            1024 /* a payload of many tasks comes in one burst */
#define LINE_TIMEOUT_MSEC  5000
#define START_TIMEOUT_MSEC 30000

struct connection {
	int fd;        /* -EBADF: this place is free */
	int report_fd; /* while its program is being started */
	uint64_t deadline_msec;
	struct launcher_request request;
	char line[LAUNCHER_LINE_MAX];
	size_t len;
};

enum program_index {
	PROGRAM_TASK,
	PROGRAM_IMAGE,
	PROGRAM_NETWORK,
	PROGRAM_VOLUME,
	_PROGRAM_MAX
};

struct server {
	const struct server_config *config;
	int listen_fd, signal_fd;
	uint64_t alive_next_msec;
	struct program programs[_PROGRAM_MAX];
	struct connection connections[CONNECTIONS_MAX];
};

static uint64_t clock_msec(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void connection_done(struct connection *c)
{
	c->fd = fd_close(c->fd);
	c->report_fd = fd_close(c->report_fd);
}

/* err.c has made the text printable; what JSON wants escaped or as UTF-8 is left. */
static size_t json_escape(const char *text, char *out, size_t n)
{
	size_t k = 0;

	for (; *text && k + 3 < n; text++) {
		if (*text == '"' || *text == '\\')
			out[k++] = '\\';
		out[k++] = (unsigned char)*text < 0x80 ? *text : '?';
	}
	out[k] = '\0';
	return k;
}

/* The codes that a peer may branch on (strerrorname_np() needs glibc 2.32). */
static const char *code_name(int error)
{
	switch (-error) {
	case EACCES:
		return "EACCES";
	case EBUSY:
		return "EBUSY";
	case EINVAL:
		return "EINVAL";
	case EMSGSIZE:
		return "EMSGSIZE";
	case ENOENT:
		return "ENOENT";
	case ENOEXEC:
		return "ENOEXEC";
	case ENOMEM:
		return "ENOMEM";
	case ENOSPC:
		return "ENOSPC";
	case ESHUTDOWN:
		return "ESHUTDOWN";
	case EPERM:
		return "EPERM";
	case ETIMEDOUT:
		return "ETIMEDOUT";
	default:
		return "EIO";
	}
}

/* One lib/ipc message by hand, since json-c is not for this program. */
static void send_refusal(int fd, int error, const struct err *err)
{
	char message[2 * sizeof(err->text)], packet[sizeof(message) + 128];
	int n;

	json_escape(err->text, message, sizeof(message));
	n = snprintf(packet + 4, sizeof(packet) - 4,
	             "{\"type\":\"error\",\"message\":\"%s\",\"code\":\"%s\"}", message,
	             code_name(error));
	for (int i = 0; i < 4; i++)
		packet[i] = (char)((unsigned)n >> (8 * i));
	/* A new connection has room for this; a peer that is gone needs no answer. */
	(void)send(fd, packet, (size_t)n + 4, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void refuse(struct connection *c, int error, const struct err *err)
{
	log_warning(NULL, 0, "refused a request: %s", err->text);
	send_refusal(c->fd, error, err);
	connection_done(c);
}

static int program_of(enum launcher_verb verb)
{
	switch (verb) {
	case LAUNCHER_VERB_IMAGE:
		return PROGRAM_IMAGE;
	case LAUNCHER_VERB_NETWORK:
		return PROGRAM_NETWORK;
	case LAUNCHER_VERB_VOLUME:
		return PROGRAM_VOLUME;
	default:
		return PROGRAM_TASK;
	}
}

static int set_arguments(const struct server_config *config, const struct connection *c,
                         struct start *start, struct err *err)
{
	const char *parent;
	size_t n = 0;
	int r;

	start->argv[n++] = (char *)start->program->name;
	if (c->request.verb == LAUNCHER_VERB_REAP)
		start->argv[n++] = (char *)"--reap";
	if (c->request.verb == LAUNCHER_VERB_TASK_HOST_PID)
		start->argv[n++] = (char *)"--host-pid";
	if (c->request.verb == LAUNCHER_VERB_DISCARD)
		start->argv[n++] = (char *)"--discard";
	if (c->request.verb == LAUNCHER_VERB_IMAGE) /* also the operator's command: told apart */
		start->argv[n++] = (char *)"--serve";
	start->argv[n++] = (char *)"--config";
	start->argv[n++] = (char *)config->options->config;
	start->argv[n++] = (char *)"--state-dir";
	start->argv[n++] = (char *)config->options->state_dir;
	start->argv[n++] = (char *)"--runtime-dir";
	start->argv[n++] = (char *)config->options->runtime_dir;
	if (c->request.task_id[0] != '\0') {
		r = parent_path(config->parent, &parent, err);
		if (r < 0)
			return r;
		start->argv[n++] = (char *)"--cgroup-parent";
		start->argv[n++] = (char *)parent;
		start->argv[n++] = (char *)"--";
		start->argv[n++] = (char *)c->request.task_id;
	}
	start->argv[n] = NULL;
	return 0;
}

/* The cgroup of the supervisor, new or left by one that has ended. */
static int open_supervisor_cgroup(struct parent *parent, const char *id, struct cgroup **ret,
                                  struct err *err)
{
	_cleanup_(cgroup_freep) struct cgroup *task = NULL, *supervisor = NULL;
	struct cgroup_root *root;
	char path[LAUNCHER_TASK_ID_MAX + 32];
	bool populated;
	int r;

	r = parent_root(parent, &root, err);
	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "ecstasks-%s", id);
	r = cgroup_create(root, path, true, NULL, &task, err);
	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "ecstasks-%s/supervisor", id);
	r = cgroup_create(root, path, false, NULL, &supervisor, err);
	if (r < 0)
		return r;
	/* Asked of the kernel: a second connection to the control socket would take the place of
	 * the one that ecs-agent has. */
	r = cgroup_is_populated(supervisor, &populated);
	if (r < 0)
		return err_set(err, r, "look for the supervisor of task %s", id);
	if (populated)
		return err_text(err, -EBUSY, "task %s is already running", id);
	*ret = TAKE_PTR(supervisor);
	return 0;
}

static int serve(struct server *s, struct connection *c, struct err *err)
{
	_cleanup_(cgroup_freep) struct cgroup *cgroup = NULL;
	struct program *program = &s->programs[program_of(c->request.verb)];
	struct start start = {.program = program, .env = s->config->env, .connection_fd = c->fd};
	pid_t pid;
	int r;

	r = program_refresh(program, s->config->program_dir, err);
	if (r < 0)
		return r;
	start.host_pid = c->request.verb == LAUNCHER_VERB_TASK_HOST_PID;
	if (c->request.verb == LAUNCHER_VERB_TASK || start.host_pid) {
		r = open_supervisor_cgroup(s->config->parent, c->request.task_id, &cgroup, err);
		if (r < 0)
			return r;
		start.cgroup = cgroup;
	}
	/* A pull may be the one to go when memory runs out: it can be repeated. */
	if (c->request.verb == LAUNCHER_VERB_IMAGE)
		start.oom_score_adj = "0";
	r = set_arguments(s->config, c, &start, err);
	if (r < 0)
		return r;

	r = fd_set_nonblock(c->fd, false);
	if (r < 0)
		return err_set(err, r, "make the connection blocking");
	r = start_program(&start, &pid, &c->report_fd, err);
	if (r < 0)
		return r;
	c->deadline_msec = clock_msec() + START_TIMEOUT_MSEC;
	log_debug(NULL, "started %s %s as process %d", program->name, c->request.task_id, (int)pid);
	return 0;
}

/*
 * Take bytes up to the newline and none behind it, which belong to the program. Returns 1 when the
 * line is complete, 0 when more must come, or -errno.
 */
static int read_line(struct connection *c, struct err *err)
{
	for (;;) {
		char *end, *at = c->line + c->len;
		ssize_t k = recv(c->fd, at, sizeof(c->line) - c->len, MSG_PEEK | MSG_DONTWAIT);

		if (k < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -errno;
		if (k == 0)
			return -EPIPE;
		end = memchr(at, '\n', (size_t)k);
		if (end)
			k = end - at + 1;
		k = recv(c->fd, at, (size_t)k, MSG_DONTWAIT);
		if (k < 0)
			return -errno;
		c->len += (size_t)k;
		if (end)
			return 1;
		if (c->len == sizeof(c->line))
			return err_text(err, -EMSGSIZE, "the request is longer than %d bytes",
			                LAUNCHER_LINE_MAX);
	}
}

static void on_line_bytes(struct server *s, struct connection *c)
{
	struct err err = {0};
	int r;

	r = read_line(c, &err);
	if (r == 0)
		return;
	if (r == -EMSGSIZE) {
		refuse(c, r, &err);
		return;
	}
	if (r < 0) { /* the peer has gone */
		connection_done(c);
		return;
	}
	r = launcher_request_parse(c->line, c->len - 1, &c->request, &err);
	if (r == 0)
		r = serve(s, c, &err);
	if (r < 0)
		refuse(c, r, &err);
}

static void on_report(struct connection *c)
{
	struct err err = {0};
	int r = start_result(c->report_fd, &err);

	if (r < 0) {
		err_prefix(&err, r, "start the program for \"%s\"",
		           launcher_verb_to_string(c->request.verb));
		refuse(c, r, &err);
		return;
	}
	connection_done(c);
}

static void on_deadline(struct connection *c)
{
	struct err err = {0};

	if (c->report_fd < 0)
		refuse(c, err_text(&err, -ETIMEDOUT, "no request within %d ms", LINE_TIMEOUT_MSEC),
		       &err);
	else
		refuse(c,
		       err_text(&err, -ETIMEDOUT, "the program for \"%s\" did not start in time",
		                launcher_verb_to_string(c->request.verb)),
		       &err);
}

static int check_peer(const struct server *s, int fd, struct err *err)
{
	struct ucred peer;
	socklen_t n = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &n) < 0)
		return err_set(err, -errno, "ask who the peer is");
	if (peer.uid == 0 || peer.uid == s->config->agent_uid)
		return 0;
	return err_text(err, -EACCES,
	                "user %u (process %d) may not use ecs-launcher, only ecs-agent and root",
	                (unsigned)peer.uid, (int)peer.pid);
}

static struct connection *free_place(struct server *s)
{
	for (size_t i = 0; i < CONNECTIONS_MAX; i++)
		if (s->connections[i].fd < 0)
			return &s->connections[i];
	return NULL;
}

static void on_connection(struct server *s)
{
	struct connection *c = free_place(s);
	struct err err = {0};
	int r;

	if (!c)
		return;
	*c = (struct connection){.report_fd = -EBADF};
	c->fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (c->fd < 0) {
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			log_warning(NULL, -errno, "accept a connection");
		c->fd = -EBADF;
		return;
	}
	c->deadline_msec = clock_msec() + LINE_TIMEOUT_MSEC;
	r = check_peer(s, c->fd, &err);
	if (r < 0)
		refuse(c, r, &err);
}

static void reap_children(void)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		if (WIFSIGNALED(status))
			log_debug(NULL, "process %d was ended by signal %d", (int)pid,
			          WTERMSIG(status));
		else
			log_debug(NULL, "process %d has exited with %d", (int)pid,
			          WEXITSTATUS(status));
	}
}

/* Returns true when it is time to end. */
static bool on_signal(struct server *s)
{
	struct signalfd_siginfo info;

	if (read(s->signal_fd, &info, sizeof(info)) != sizeof(info))
		return false;
	if (info.ssi_signo != SIGCHLD)
		return true;
	reap_children();
	return false;
}

/* Milliseconds until the next deadline; -1 without one. */
static int next_timeout(const struct server *s, uint64_t now)
{
	uint64_t next = s->config->alive_msec ? s->alive_next_msec : UINT64_MAX;

	for (size_t i = 0; i < CONNECTIONS_MAX; i++)
		if (s->connections[i].fd >= 0 && s->connections[i].deadline_msec < next)
			next = s->connections[i].deadline_msec;
	if (next == UINT64_MAX)
		return -1;
	return next > now ? (int)(next - now) : 0;
}

/* The loop turns: that is all there is to this program's health. */
static void tell_alive(struct server *s, uint64_t now)
{
	if (s->config->alive_msec == 0 || now < s->alive_next_msec)
		return;
	notify_alive();
	s->alive_next_msec = now + s->config->alive_msec;
}

static void on_ready_connection(struct server *s, struct connection *c)
{
	if (c->report_fd >= 0)
		on_report(c);
	else
		on_line_bytes(s, c);
}

int server_run(struct server *s, struct err *err)
{
	struct pollfd polled[2 + CONNECTIONS_MAX];

	for (;;) {
		bool has_room = free_place(s) != NULL;
		uint64_t now;

		/* A negative descriptor is passed over by poll(). */
		polled[0] = (struct pollfd){.fd = s->signal_fd, .events = POLLIN};
		polled[1] = (struct pollfd){.fd = has_room ? s->listen_fd : -1, .events = POLLIN};
		for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
			const struct connection *c = &s->connections[i];

			polled[2 + i] = (struct pollfd){
				.fd = c->report_fd >= 0 ? c->report_fd : c->fd, .events = POLLIN};
		}
		if (poll(polled, ARRAY_SIZE(polled), next_timeout(s, clock_msec())) < 0) {
			if (errno == EINTR)
				continue;
			return err_set(err, -errno, "poll");
		}

		if (polled[0].revents && on_signal(s))
			return 0;
		now = clock_msec();
		tell_alive(s, now);
		for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
			struct connection *c = &s->connections[i];

			if (polled[2 + i].revents)
				on_ready_connection(s, c);
			else if (c->fd >= 0 && c->deadline_msec <= now)
				on_deadline(c);
		}
		if (polled[1].revents)
			on_connection(s);
	}
}

static bool somebody_listens(const struct sockaddr_un *address)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	return fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0;
}

static int listen_at(const char *runtime_dir, gid_t gid, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	mode_t mask;
	int r;

	if (snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", runtime_dir,
	             LAUNCHER_SOCKET) >= (int)sizeof(address.sun_path))
		return err_text(err, -ENAMETOOLONG, "socket path %s/%s is longer than %zu bytes",
		                runtime_dir, LAUNCHER_SOCKET, sizeof(address.sun_path) - 1);
	if (somebody_listens(&address))
		return err_text(err, -EADDRINUSE, "another ecs-launcher listens at %s",
		                address.sun_path);
	if (unlink(address.sun_path) < 0 && errno != ENOENT)
		return err_set(err, -errno, "remove %s", address.sun_path);

	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_set(err, -errno, "make a socket");
	mask = umask(0117); /* 0660: the group may connect */
	r = bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
	umask(mask);
	if (r == 0 && chown(address.sun_path, 0, gid) < 0)
		r = -errno;
	if (r == 0 && listen(fd, BACKLOG) < 0)
		r = -errno;
	return r < 0 ? err_set(err, r, "listen at %s", address.sun_path) : TAKE_FD(fd);
}

static int watch_signals(void)
{
	sigset_t mask;
	int fd;

	sigemptyset(&mask);
	sigaddset(&mask, SIGTERM);
	sigaddset(&mask, SIGINT);
	sigaddset(&mask, SIGCHLD);
	if (sigprocmask(SIG_BLOCK, &mask, NULL) < 0)
		return -errno;
	fd = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

int server_new(const struct server_config *config, struct server **ret, struct err *err)
{
	static const char *const names[_PROGRAM_MAX] = {"ecs-task", "ecs-image", "ecs-network",
	                                                "ecs-volume"};
	_cleanup_(server_freep) struct server *s = calloc(1, sizeof(*s));

	if (!s)
		return err_oom(err);
	s->config = config;
	s->listen_fd = s->signal_fd = -EBADF;
	for (size_t i = 0; i < _PROGRAM_MAX; i++)
		s->programs[i] = (struct program){.name = names[i], .fd = -EBADF};
	for (size_t i = 0; i < CONNECTIONS_MAX; i++)
		s->connections[i].fd = s->connections[i].report_fd = -EBADF;

	s->signal_fd = watch_signals();
	if (s->signal_fd < 0)
		return err_set(err, s->signal_fd, "watch for signals");
	s->listen_fd = listen_at(config->options->runtime_dir, config->agent_gid, err);
	if (s->listen_fd < 0)
		return s->listen_fd;
	*ret = TAKE_PTR(s);
	return 0;
}

struct server *server_free(struct server *s)
{
	if (s) {
		for (size_t i = 0; i < CONNECTIONS_MAX; i++)
			connection_done(&s->connections[i]);
		for (size_t i = 0; i < _PROGRAM_MAX; i++)
			fd_close(s->programs[i].fd);
		fd_close(s->listen_fd);
		fd_close(s->signal_fd);
		free(s);
	}
	return NULL;
}
