/* The programs around the engine, as far as the engine can see them. */
#include "tests/unit/engine_world.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/engine/rebuild.h"
#include "lib/fd.h"
#include "lib/ipc_event.h"
#include "lib/json.h"
#include "lib/log.h"
#include "lib/loop.h"

#define PEERS_MAX      256
#define CONTAINERS_MAX 8
#define DEADLINE_USEC  (10 * 1000 * 1000ull)
#define HEX64          "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

#define HOUR_USEC (3600 * 1000 * 1000ull)

struct fake_container {
	char name[32];
	const char *status; /* "created", "running", "stopped" */
	bool has_code;
	int code;
	bool oom_killed;
	uint64_t ran_usec, restarts;
};

struct fake_task {
	struct world *world;
	char id[65];
	bool ready;
	struct fake_container containers[CONTAINERS_MAX];
	size_t n_containers;
	struct ipc_event *conn; /* the newest */
	struct json_object *record;
	int listen_fd;
	sd_event_source *listening;
};

enum role {
	ROLE_TASK,
	ROLE_REAP,
	ROLE_IMAGE,
	ROLE_NETWORK,
	ROLE_METADATA,
	ROLE_VOLUME, /* says nothing */
};

struct fake_peer {
	struct world *world;
	enum role role;
	struct fake_task *task;
	struct ipc_event *conn;
	struct json_object *held; /* a pull without an answer yet */
};

struct world_private {
	int launcher_fd, metadata_fd;
	sd_event_source *launcher, *metadata;
	struct fake_peer *peers[PEERS_MAX];
	size_t n_peers;
	struct fake_task *tasks[64];
	size_t n_tasks;
	char metadata_tasks[16][65];
	size_t n_metadata_tasks;
	struct json_object *metadata_served; /* task id: names of containers; NULL: none */
	bool metadata_host;
	int next_port;
	struct rebuild *rebuild;
};

static void turn(struct world *world, uint64_t usec);
static void note(struct world *world, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void note(struct world *world, const char *fmt, ...)
{
	size_t n = strlen(world->journal);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(world->journal + n, sizeof(world->journal) - n, fmt, ap);
	va_end(ap);
	n = strlen(world->journal);
	assert_true(n + 2 < sizeof(world->journal));
	strcpy(world->journal + n, " ");
}

static void answer(struct fake_peer *peer, struct json_object *body, const int *fds, size_t n)
{
	int r;

	assert_non_null(body);
	r = ipc_event_send(peer->conn, body, fds, n);
	assert_true(r == 0 || r == -EPIPE); /* the agent may have ended meanwhile */
	json_object_put(body);
}

static void ok(struct fake_peer *peer, struct json_object *request, const char *type)
{
	answer(peer, ipc_message_new(type, request), NULL, 0);
}

static void refuse(struct fake_peer *peer, struct json_object *request, int code, const char *name,
                   const char *text)
{
	struct err err = {.name = name};

	(void)err_text(&err, code, "%s", text);
	assert_int_equal(ipc_event_send_error(peer->conn, request, code, &err), 0);
}

/* ecs-task. */

static struct fake_container *find_container(struct fake_task *task, const char *name)
{
	for (size_t i = 0; i < task->n_containers; i++)
		if (strcmp(task->containers[i].name, name) == 0)
			return &task->containers[i];
	return NULL;
}

static struct json_object *exited_message(const struct fake_container *c)
{
	struct json_object *body = ipc_message_new("exited", NULL);

	json_add_string(body, "container", c->name);
	if (c->has_code)
		json_add_i64(body, "exitCode", c->code);
	json_add_bool(body, "oomKilled", c->oom_killed);
	if (c->ran_usec)
		json_add_u64(body, "ranUsec", c->ran_usec);
	json_add_u64(body, "time", now_realtime_usec());
	return body;
}

static void send_exited(struct fake_task *task, const struct fake_container *c)
{
	struct json_object *body;

	if (!task->conn)
		return;
	body = exited_message(c);
	assert_int_equal(ipc_event_send(task->conn, body, NULL, 0), 0);
	json_object_put(body);
}

static void on_create(struct fake_peer *peer, struct json_object *request)
{
	struct fake_task *task = peer->task;
	struct json_object *body = ipc_message_new("created", request);
	const char *name = json_text(json_get(request, "container"), "name");
	struct fake_container *c = find_container(task, name);
	int fds[2] = {eventfd(0, EFD_CLOEXEC), eventfd(0, EFD_CLOEXEC)};

	note(peer->world, "create:%s", name);
	if (c) {
		assert_string_equal(c->status, "created");
	} else {
		c = &task->containers[task->n_containers++];
		*c = (struct fake_container){.status = "created"};
		snprintf(c->name, sizeof(c->name), "%s", name);
	}
	json_add_string(body, "container", name);
	json_add_u64(body, "cgroupId", 4242);
	answer(peer, body, fds, 2);
	close(fds[0]);
	close(fds[1]);
}

static void on_start(struct fake_peer *peer, struct json_object *request, size_t n_fds)
{
	const char *name = json_text(request, "container");
	struct fake_container *c = find_container(peer->task, name);
	struct json_object *body;

	note(peer->world, "start:%s", name);
	for (size_t i = 0; i < n_fds; i++)
		note(peer->world, "port-socket:%s", name);
	assert_non_null(c);
	if (strcmp(c->status, "stopped") == 0) /* with what it has had before */
		assert_true(c->has_code && n_fds == 0 && !json_get(request, "network"));
	else
		assert_string_equal(c->status, "created");
	if (peer->world->start_is_silent)
		return;
	if (peer->world->host_ends) {
		refuse(peer, request, -ECANCELED, NULL, "the host is being shut down");
		return;
	}
	if (peer->world->start_exit_code) {
		c->status = "stopped";
		body = ipc_message_new("error", request);
		json_add_string(body, "name", "CannotStartContainerError");
		json_add_string(body, "message", "exec: not found");
		json_add_string(body, "container", name);
		json_add_i64(body, "exitCode", peer->world->start_exit_code);
		answer(peer, body, NULL, 0);
		return;
	}
	c->restarts += strcmp(c->status, "stopped") == 0;
	c->status = "running";
	if (peer->world->start_answer_is_lost)
		return;
	body = ipc_message_new("started", request);
	json_add_u64(body, "restarts", c->restarts);
	json_add_string(body, "container", name);
	json_add_i64(body, "pid", 77);
	json_add_u64(body, "time", now_realtime_usec());
	answer(peer, body, NULL, 0);
}

static void on_stop(struct fake_peer *peer, struct json_object *request)
{
	const char *name = json_text(request, "container");
	struct fake_container *c = find_container(peer->task, name);

	note(peer->world, "stop:%s", name);
	ok(peer, request, "stopping");
	if (!c || peer->world->stop_is_silent || strcmp(c->status, "stopped") == 0)
		return;
	c->has_code = strcmp(c->status, "running") == 0;
	c->code = 143;
	c->status = "stopped";
	send_exited(peer->task, c);
}

static void on_state(struct fake_peer *peer, struct json_object *request)
{
	struct json_object *body = ipc_message_new("state", request);
	struct json_object *array = json_object_new_array();

	json_add_bool(body, "ready", peer->task->ready);
	for (size_t i = 0; i < peer->task->n_containers; i++) {
		const struct fake_container *c = &peer->task->containers[i];
		struct json_object *entry = json_object_new_object();

		if (strcmp(c->status, "stopped") == 0 && !c->has_code) {
			json_object_put(entry); /* removed before it ran */
			continue;
		}
		json_add_string(entry, "name", c->name);
		json_add_string(entry, "status", c->status);
		json_add_u64(entry, "cgroupId", 4242);
		json_add_u64(entry, "restarts", c->restarts);
		if (strcmp(c->status, "stopped") == 0) {
			if (c->ran_usec)
				json_add_u64(entry, "ranUsec", c->ran_usec);
			json_add_i64(entry, "exitCode", c->code);
			json_add_bool(entry, "oomKilled", c->oom_killed);
		}
		json_append(array, entry);
	}
	json_add(body, "containers", array);
	if (json_get(request, "record") && peer->task->record)
		json_add(body, "record", json_object_get(peer->task->record));
	answer(peer, body, NULL, 0);
}

static void on_stop_order(struct fake_peer *peer, struct json_object *request)
{
	note(peer->world, "stop-order:%s", json_to_text(json_get(request, "containers"), NULL));
	ok(peer, request, "stop-ordered");
}

static void on_record(struct fake_peer *peer, struct json_object *request)
{
	const struct err unknown = {.text = "unknown request \"record\""};

	note(peer->world, "record:%s", peer->task->id);
	if (peer->world->keep_no_records) {
		assert_int_equal(ipc_event_send_error(peer->conn, request, -ENOSYS, &unknown), 0);
		return;
	}
	json_object_put(peer->task->record);
	peer->task->record = json_object_get(json_get(request, "record"));
	assert_non_null(peer->task->record);
	ok(peer, request, "recorded");
}

static void on_sockets(struct fake_peer *peer, struct json_object *request)
{
	struct json_object *body = ipc_message_new("sockets", request);
	struct json_object *names = json_object_new_array();
	int fds[CONTAINERS_MAX];
	size_t n = 0;

	note(peer->world, "sockets");
	for (size_t i = 0; i < peer->task->n_containers; i++)
		if (strcmp(peer->task->containers[i].status, "running") == 0) {
			json_append(names, json_object_new_string(peer->task->containers[i].name));
			fds[n++] = eventfd(0, EFD_CLOEXEC);
		}
	json_add(body, "containers", names);
	answer(peer, body, fds, n);
	while (n > 0)
		close(fds[--n]);
}

static void task_stop_listening(struct fake_task *task)
{
	task->listening = sd_event_source_disable_unref(task->listening);
	task->listen_fd = fd_close(task->listen_fd);
}

static void on_end_request(struct fake_peer *peer, struct json_object *request)
{
	char path[256];

	note(peer->world, "end:%s", peer->task->id);
	ok(peer, request, "ended");
	task_stop_listening(peer->task);
	snprintf(path, sizeof(path), "%s/tasks/%s", peer->world->dir, peer->task->id);
	(void)dir_remove_all(AT_FDCWD, path);
}

static void on_task_message(struct fake_peer *peer, struct ipc_message *msg, const char *type)
{
	if (strcmp(type, "setup") == 0) {
		note(peer->world, "setup:%s", peer->task->id);
		peer->task->ready = true;
		ok(peer, msg->body, "ready");
	} else if (strcmp(type, "create") == 0)
		on_create(peer, msg->body);
	else if (strcmp(type, "start") == 0)
		on_start(peer, msg->body, msg->n_fds);
	else if (strcmp(type, "stop") == 0)
		on_stop(peer, msg->body);
	else if (strcmp(type, "state") == 0)
		on_state(peer, msg->body);
	else if (strcmp(type, "sockets") == 0)
		on_sockets(peer, msg->body);
	else if (strcmp(type, "end") == 0)
		on_end_request(peer, msg->body);
	else if (strcmp(type, "stop-order") == 0)
		on_stop_order(peer, msg->body);
	else if (strcmp(type, "record") == 0)
		on_record(peer, msg->body);
	else
		fail_msg("ecs-task was asked for '%s'", type);
}

/* ecs-image. */

static void answer_pull(struct fake_peer *peer, struct json_object *request, bool local)
{
	struct world *world = peer->world;
	struct json_object *body, *layers, *config, *cmd;

	if (local ? !world->image_is_local : world->pull_error != NULL) {
		refuse(peer, request, -ENOENT,
		       local ? "CannotPullContainerError" : world->pull_error, "no such image");
		return;
	}
	if (!local) {
		body = ipc_message_new("resolved", request);
		json_add_string(body, "digest", "sha256:" HEX64);
		answer(peer, body, NULL, 0);
	}
	body = ipc_message_new("pulled", request);
	layers = json_object_new_array();
	json_append(layers, json_object_new_string(HEX64));
	config = json_object_new_object();
	cmd = json_object_new_array();
	json_append(cmd, json_object_new_string("/bin/true"));
	json_add(config, "Cmd", cmd);
	json_add_string(body, "digest", "sha256:" HEX64);
	json_add_string(body, "imageId", "sha256:" HEX64);
	json_add(body, "layers", layers);
	json_add(body, "config", config);
	answer(peer, body, NULL, 0);
}

static void answer_list(struct fake_peer *peer, struct json_object *request)
{
	struct json_object *body = ipc_message_new("images", request);

	json_add(body, "images",
	         json_tokener_parse(peer->world->images ? peer->world->images : "[]"));
	answer(peer, body, NULL, 0);
}

static void answer_removal(struct fake_peer *peer, struct json_object *request, const char *type,
                           unsigned int layers)
{
	struct json_object *body = ipc_message_new(type, request);

	json_add_u64(body, "layersRemoved", layers);
	answer(peer, body, NULL, 0);
}

static void on_image_message(struct fake_peer *peer, struct ipc_message *msg, const char *type)
{
	struct world *world = peer->world;
	const char *reference = json_text(msg->body, "reference");

	note(peer->world, "%s:%s", type, reference ? reference : "");
	if (strcmp(type, "list") == 0) {
		answer_list(peer, msg->body);
		return;
	}
	if (strcmp(type, "remove") == 0) {
		answer_removal(peer, msg->body, "removed", 1);
		return;
	}
	if (strcmp(type, "sweep") == 0 && world->busy_sweeps > 0) {
		world->busy_sweeps--;
		refuse(peer, msg->body, -EAGAIN, NULL, "a pull is running");
		return;
	}
	if (strcmp(type, "sweep") == 0) {
		answer_removal(peer, msg->body, "swept", world->sweep_layers);
		return;
	}
	if (strcmp(type, "pull") == 0 && world->full_disk > 0) {
		world->full_disk--;
		refuse(peer, msg->body, -ENOSPC, "CannotPullContainerError",
		       "no space left on device");
		return;
	}
	if (peer->world->hold_pulls && strcmp(type, "pull") == 0) {
		peer->held = json_object_get(msg->body);
		return;
	}
	answer_pull(peer, msg->body, strcmp(type, "inspect") == 0);
}

/* ecs-network. */

static void on_host(struct fake_peer *peer, struct json_object *request)
{
	struct json_object *body = ipc_message_new("host", request);
	bool metadata = false;
	int fd = eventfd(0, EFD_CLOEXEC);

	(void)json_get_bool(request, "metadata", &metadata, NULL);
	note(peer->world, "host%s", metadata ? "+endpoint" : "");
	json_add_string(body, "bridge", "ecs0");
	json_add_string(body, "address", "172.29.0.1");
	json_add_i64(body, "prefix", 16);
	answer(peer, body, &fd, metadata ? 1 : 0);
	close(fd);
}

static void on_attach(struct fake_peer *peer, struct json_object *request, size_t n_fds)
{
	struct json_object *body = ipc_message_new("attached", request);
	struct json_object *ports = json_get(request, "ports"), *bindings = json_object_new_array();
	int fds[8];
	size_t n = 0;

	assert_int_equal(n_fds, 1);
	note(peer->world, "attach:%s", json_text(request, "address"));
	for (; n < json_object_array_length(ports); n++) {
		struct json_object *binding = json_object_new_object();
		int64_t port = 0;

		(void)json_get_i64(json_object_array_get_idx(ports, n), "containerPort", 0, 65535,
		                   &port, NULL);
		json_add_i64(binding, "containerPort", port);
		json_add_i64(binding, "hostPort", ++peer->world->private->next_port);
		json_add_string(binding, "protocol", "tcp");
		json_add_string(binding, "bindIP", "0.0.0.0");
		json_append(bindings, binding);
		fds[n] = eventfd(0, EFD_CLOEXEC);
	}
	json_add_string(body, "address", json_text(request, "address"));
	json_add_i64(body, "prefix", 16);
	json_add_string(body, "gateway", "172.29.0.1");
	json_add_i64(body, "portCursor", peer->world->private->next_port);
	json_add(body, "bindings", bindings);
	answer(peer, body, fds, n);
	while (n > 0)
		close(fds[--n]);
}

static void on_network_message(struct fake_peer *peer, struct ipc_message *msg, const char *type)
{
	struct json_object *body;

	if (strcmp(type, "host") == 0 && peer->world->hold_host) {
		note(peer->world, "host-held");
		peer->held = json_object_get(msg->body);
	} else if (strcmp(type, "host") == 0) {
		on_host(peer, msg->body);
	} else if (strcmp(type, "attach") == 0) {
		on_attach(peer, msg->body, msg->n_fds);
	} else if (strcmp(type, "detach") == 0) {
		note(peer->world, "detach");
		ok(peer, msg->body, "detached");
	} else if (strcmp(type, "prune") == 0) {
		note(peer->world, "prune:%zu",
		     json_object_array_length(json_get(msg->body, "keep")));
		body = ipc_message_new("pruned", msg->body);
		json_add(body, "removed", json_object_new_array());
		answer(peer, body, NULL, 0);
	} else {
		fail_msg("ecs-network was asked for '%s'", type);
	}
}

/* ecs-metadata. */

static void remember_task(struct world_private *p, const char *id)
{
	for (size_t i = 0; i < p->n_metadata_tasks; i++)
		if (strcmp(p->metadata_tasks[i], id) == 0)
			return;
	snprintf(p->metadata_tasks[p->n_metadata_tasks++], 65, "%s", id);
}

static void remember_served(struct world_private *p, struct json_object *request)
{
	const char *task = json_text(request, "taskId");
	struct json_object *names;

	if (!p->metadata_served)
		p->metadata_served = json_object_new_object();
	names = json_get(p->metadata_served, task);
	if (!names) {
		names = json_object_new_array();
		json_add(p->metadata_served, task, names);
	}
	json_append(names, json_object_new_string(json_text(request, "container")));
}

static void on_metadata_message(struct fake_peer *peer, struct ipc_message *msg, const char *type)
{
	struct world_private *p = peer->world->private;
	struct json_object *body, *tasks;
	const char *container = json_text(msg->body, "container");
	bool all = false, for_mounts = false;

	(void)json_get_bool(msg->body, "all", &all, NULL);
	(void)json_get_bool(msg->body, "forMounts", &for_mounts, NULL);
	if (container)
		note(peer->world, "%s:%s", type, container);
	else if (json_text(msg->body, "credentialsId"))
		note(peer->world, "%s:%s%s", type, json_text(msg->body, "credentialsId"),
		     for_mounts ? "+mounts" : "");
	else
		note(peer->world, "%s%s", type, all ? "-all" : "");

	if (strcmp(type, "hello") != 0) {
		if (strcmp(type, "serve") == 0)
			remember_task(p, json_text(msg->body, "taskId"));
		if (strcmp(type, "serve") == 0 || strcmp(type, "host-container") == 0)
			remember_served(p, msg->body);
		if (strcmp(type, "serve-host") == 0)
			p->metadata_host = true;
		ok(peer, msg->body, "ok");
		return;
	}
	body = ipc_message_new("hello", msg->body);
	tasks = json_object_new_array();
	for (size_t i = 0; i < p->n_metadata_tasks; i++)
		json_append(tasks, json_object_new_string(p->metadata_tasks[i]));
	json_add(body, "tasks", tasks);
	if (p->metadata_served)
		json_add(body, "served", json_object_get(p->metadata_served));
	json_add(body, "credentials", json_object_new_array());
	json_add_bool(body, "host", p->metadata_host);
	answer(peer, body, NULL, 0);
}

/* Connections. */

static void on_message(struct ipc_event *conn, struct ipc_message *msg, void *userdata)
{
	struct fake_peer *peer = userdata;
	const char *type = json_text(msg->body, "type");

	(void)conn;
	if (peer->role == ROLE_TASK)
		on_task_message(peer, msg, type);
	else if (peer->role == ROLE_IMAGE)
		on_image_message(peer, msg, type);
	else if (peer->role == ROLE_NETWORK)
		on_network_message(peer, msg, type);
	else if (peer->role == ROLE_METADATA)
		on_metadata_message(peer, msg, type);
}

static void peer_gone(struct fake_peer *peer)
{
	if (peer->task && peer->task->conn == peer->conn)
		peer->task->conn = NULL;
	peer->conn = ipc_event_free(peer->conn);
	if (peer->held) {
		note(peer->world, "pull-cancelled");
		json_object_put(peer->held);
		peer->held = NULL;
	}
}

static void on_end(struct ipc_event *conn, int r, const struct err *err, void *userdata)
{
	(void)conn;
	(void)r;
	(void)err;
	peer_gone(userdata);
}

static struct fake_peer *add_peer(struct world *world, int fd, enum role role,
                                  struct fake_task *task)
{
	struct world_private *p = world->private;
	struct fake_peer *peer = calloc(1, sizeof(*peer));
	struct ipc_conn *conn = NULL;

	assert_non_null(peer);
	assert_true(p->n_peers < PEERS_MAX);
	p->peers[p->n_peers++] = peer;
	*peer = (struct fake_peer){.world = world, .role = role, .task = task};
	assert_int_equal(ipc_conn_new(fd, 0, false, &conn), 0);
	assert_int_equal(ipc_event_new(world->loop, conn, on_message, on_end, peer, &peer->conn),
	                 0);
	if (task)
		task->conn = peer->conn;
	return peer;
}

static int on_task_accept(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
	struct fake_task *task = userdata;
	int conn = accept4(fd, NULL, NULL, SOCK_CLOEXEC);

	(void)source;
	(void)events;
	assert_true(conn >= 0);
	note(task->world, "found:%s", task->id);
	(void)add_peer(task->world, conn, ROLE_TASK, task);
	return 0;
}

static struct fake_task *find_task(struct world *world, const char *id)
{
	struct world_private *p = world->private;

	for (size_t i = p->n_tasks; i > 0; i--)
		if (strcmp(p->tasks[i - 1]->id, id) == 0)
			return p->tasks[i - 1];
	fail_msg("no supervisor of task %s", id);
	return NULL;
}

static struct fake_task *add_task(struct world *world, const char *id)
{
	struct world_private *p = world->private;
	struct fake_task *task = calloc(1, sizeof(*task));
	struct err err = {0};
	char path[256];

	assert_non_null(task);
	p->tasks[p->n_tasks++] = task;
	task->world = world;
	snprintf(task->id, sizeof(task->id), "%s", id);
	snprintf(path, sizeof(path), "%s/tasks/%s", world->dir, id);
	assert_int_equal(dir_create_all(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/tasks/%s/control.sock", world->dir, id);
	task->listen_fd = ipc_listen(path, 0600, (gid_t)-1, &err);
	if (task->listen_fd < 0)
		fail_msg("%s", err.text);
	assert_int_equal(sd_event_add_io(world->loop, &task->listening, task->listen_fd, EPOLLIN,
	                                 on_task_accept, task),
	                 0);
	return task;
}

static void serve_reap(struct world *world, int fd, const char *id)
{
	struct fake_peer *peer = add_peer(world, fd, ROLE_REAP, NULL);
	char path[256];

	note(world, "reap:%s", id);
	snprintf(path, sizeof(path), "%s/tasks/%s", world->dir, id);
	(void)dir_remove_all(AT_FDCWD, path);
	answer(peer, ipc_message_new("reaped", NULL), NULL, 0);
}

static void read_line(int fd, char *line, size_t n)
{
	size_t len = 0;

	while (len + 1 < n && read(fd, line + len, 1) == 1 && line[len] != '\n')
		len++;
	line[len] = '\0';
}

static int on_launcher_accept(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
	struct world *world = userdata;
	char line[200], *id;
	int conn = accept4(fd, NULL, NULL, SOCK_CLOEXEC);

	(void)source;
	(void)events;
	assert_true(conn >= 0);
	read_line(conn, line, sizeof(line));
	id = strchr(line, ' ');
	if (id)
		*id++ = '\0';
	if (strcmp(line, "task") == 0) {
		note(world, "launch:%s", id);
		(void)add_peer(world, conn, ROLE_TASK, add_task(world, id));
	} else if (strcmp(line, "reap") == 0) {
		serve_reap(world, conn, id);
	} else if (strcmp(line, "image") == 0) {
		(void)add_peer(world, conn, ROLE_IMAGE, NULL);
	} else if (strcmp(line, "network") == 0) {
		(void)add_peer(world, conn, ROLE_NETWORK, NULL);
	} else if (strcmp(line, "volume") == 0) {
		note(world, "volume");
		(void)add_peer(world, conn, ROLE_VOLUME, NULL);
	} else {
		fail_msg("launcher was asked for '%s'", line);
	}
	return 0;
}

static int on_metadata_accept(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
	int conn = accept4(fd, NULL, NULL, SOCK_CLOEXEC);

	(void)source;
	(void)events;
	assert_true(conn >= 0);
	(void)add_peer(userdata, conn, ROLE_METADATA, NULL);
	return 0;
}

/* What the engine says to ACS. */

static struct world *the_world;

int acs_ack(struct acs_session *session, const char *cluster, const char *container_instance,
            const char *message_id)
{
	(void)session;
	(void)cluster;
	(void)container_instance;
	note(the_world, "ack:%s", message_id);
	return 0;
}

int acs_credentials_ack(struct acs_session *session, const char *message_id, const char *expiration,
                        const char *credentials_id)
{
	(void)session;
	(void)message_id;
	(void)expiration;
	note(the_world, "credentials-ack:%s", credentials_id);
	return 0;
}

int acs_stop_candidates(struct acs_session *session, const char *message_id,
                        const struct acs_task_identifier *candidates, size_t n)
{
	(void)session;
	(void)message_id;
	for (size_t i = 0; i < n; i++)
		note(the_world, "candidate:%s", strrchr(candidates[i].task_arn, '/') + 1);
	return 0;
}

/* Setting up. */

static int listen_at(struct world *world, const char *name, sd_event_io_handler_t fn,
                     sd_event_source **ret)
{
	struct err err = {0};
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", world->dir, name);
	fd = ipc_listen(path, 0600, (gid_t)-1, &err);
	if (fd < 0)
		fail_msg("%s", err.text);
	assert_int_equal(sd_event_add_io(world->loop, ret, fd, EPOLLIN, fn, world), 0);
	return fd;
}

static void set_config(struct config *config)
{
	const uint64_t minute = 60 * 1000 * 1000ull;

	*config = (struct config){
		.cluster = (char *)"blue",
		.region = (char *)"us-west-2",
		.task_iam_role = true,
		.task_cleanup_wait_usec = 180 * minute,
		.container_stop_timeout_usec = minute / 2,
		.container_start_timeout_usec = 3 * minute,
		.container_create_timeout_usec = 4 * minute,
		.cgroup_cpu_period_usec = 100000,
		.manifest_pull_timeout_usec = minute,
		.image_pull_inactivity_timeout_usec = minute,
		.image_pull_timeout_usec = 120 * minute,
		.image_cleanup_interval_usec = 30 * minute,
		.image_cleanup_age_usec = 60 * minute,
		.image_cleanup_count = 5,
		.untracked_image_cleanup_age_usec = 60 * minute,
		.dynamic_port_first = 32768,
		.dynamic_port_last = 60999,
		.metadata_rate = 40,
		.metadata_burst = 60,
	};
}

static void on_rebuilt(int r, const struct err *err, void *userdata)
{
	struct world *world = userdata;

	if (r < 0)
		fail_msg("%s", err->text);
	note(world, "rebuilt:%zu", rebuild_count(world->private->rebuild));
	world->private->rebuild = rebuild_free(world->private->rebuild);
}

static void rebuild(struct world *world)
{
	const struct rebuild_options options = {
		.loop = world->loop,
		.state = world->state,
		.runtime_dir = world->dir,
		.cluster = "blue",
		.instance_id = world->instance_id,
	};
	struct err err = {0};

	if (rebuild_start(&options, on_rebuilt, world, &world->private->rebuild, &err) < 0)
		fail_msg("%s", err.text);
	while (world->private->rebuild)
		turn(world, DEADLINE_USEC);
}

void world_start_engine(struct world *world)
{
	const struct engine_options options = {
		.loop = world->loop,
		.state = world->state,
		.config = &world->config,
		.runtime_dir = world->dir,
		.images_dir = world->images_dir,
		.state_dir = world->state_dir,
		.boot_id = world->boot_id,
		.region = "us-west-2",
		.availability_zone = "us-west-2a",
	};
	struct err err = {0};
	bool is_needed = false;
	char path[128];

	if (!world->state) {
		snprintf(path, sizeof(path), "%s/data", world->dir);
		if (state_open(path, world->loop, &world->state, &err) < 0)
			fail_msg("%s", err.text);
	}
	((struct engine_options *)(uintptr_t)&options)->state = world->state;
	if (rebuild_is_needed(world->state, &is_needed, &err) < 0)
		fail_msg("%s", err.text);
	if (is_needed)
		rebuild(world);
	if (engine_new(&options, &world->engine, &err) < 0 ||
	    engine_recover(world->engine, &err) < 0)
		fail_msg("%s", err.text);
	/* Any pointer will do: the session's functions are above. */
	engine_set_session(world->engine, (struct acs_session *)(uintptr_t)world);
}

void world_lose_state(struct world *world)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/data/agent.db", world->dir);
	assert_int_equal(truncate(path, 0), 0);
	snprintf(path, sizeof(path), "%s/data/agent.db-wal", world->dir);
	(void)unlink(path);
}

struct json_object *world_record(struct world *world, const char *id)
{
	return find_task(world, id)->record;
}

void world_stop_engine(struct world *world)
{
	world->engine = engine_free(world->engine);
	world->state = state_close(world->state);
	world_settle(world);
}

int world_setup(void **state)
{
	struct world *world = calloc(1, sizeof(*world));
	char path[128];

	(void)log_set_level(getenv("ECS_TEST_LOG") ? getenv("ECS_TEST_LOG") : "crit");
	assert_non_null(world);
	the_world = world;
	world->private = calloc(1, sizeof(*world->private));
	assert_non_null(world->private);
	world->private->next_port = 32767;
	strcpy(world->dir, "/tmp/test-engine-XXXXXX");
	assert_non_null(mkdtemp(world->dir));
	snprintf(path, sizeof(path), "%s/data", world->dir);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(world->state_dir, sizeof(world->state_dir), "%s/state", world->dir);
	assert_int_equal(mkdir(world->state_dir, 0700), 0);
	world->boot_id = "boot-1";
	snprintf(path, sizeof(path), "%s/metadata", world->dir);
	assert_int_equal(mkdir(path, 0700), 0);
	set_config(&world->config);
	assert_int_equal(sd_event_new(&world->loop), 0);
	world->private->launcher_fd =
		listen_at(world, "launcher.sock", on_launcher_accept, &world->private->launcher);
	world->private->metadata_fd = listen_at(world, "metadata/control.sock", on_metadata_accept,
	                                        &world->private->metadata);
	world_start_engine(world);
	/* What the node's registration writes. */
	assert_int_equal(state_set(world->state, "cluster", "blue"), 0);
	assert_int_equal(state_set(world->state, "container-instance-arn", WORLD_INSTANCE), 0);
	assert_int_equal(state_set(world->state, "ec2-instance-id", "i-1"), 0);
	*state = world;
	return 0;
}

int world_teardown(void **state)
{
	struct world *world = *state;
	struct world_private *p = world->private;

	engine_free(world->engine);
	state_close(world->state);
	for (size_t i = 0; i < p->n_peers; i++) {
		peer_gone(p->peers[i]);
		free(p->peers[i]);
	}
	for (size_t i = 0; i < p->n_tasks; i++) {
		task_stop_listening(p->tasks[i]);
		json_object_put(p->tasks[i]->record);
		free(p->tasks[i]);
	}
	sd_event_source_disable_unref(p->launcher);
	sd_event_source_disable_unref(p->metadata);
	close(p->launcher_fd);
	close(p->metadata_fd);
	sd_event_unref(world->loop);
	(void)dir_remove_all(AT_FDCWD, world->dir);
	json_object_put(p->metadata_served);
	free(p);
	free(world);
	return 0;
}

/* Looking and waiting. */

unsigned int world_count(const struct world *world, const char *word)
{
	size_t len = strlen(word);
	unsigned int n = 0;

	for (const char *p = world->journal; (p = strstr(p, word)); p += len)
		if ((p == world->journal || p[-1] == ' ') && p[len] == ' ')
			n++;
	return n;
}

static const char *find_word(const struct world *world, const char *word)
{
	size_t len = strlen(word);

	for (const char *p = world->journal; (p = strstr(p, word)); p += len)
		if ((p == world->journal || p[-1] == ' ') && p[len] == ' ')
			return p;
	fail_msg("no '%s' in: %s", word, world->journal);
	return NULL;
}

bool world_is_before(const struct world *world, const char *first, const char *second)
{
	return find_word(world, first) < find_word(world, second);
}

static void turn(struct world *world, uint64_t usec)
{
	int r = sd_event_run(world->loop, usec);

	assert_true(r >= 0);
}

void world_wait_word(struct world *world, const char *word, unsigned int n)
{
	uint64_t end = now_usec() + DEADLINE_USEC;

	while (world_count(world, word) < n) {
		if (now_usec() > end)
			fail_msg("no '%s' (%u times) in: %s", word, n, world->journal);
		turn(world, 10 * 1000);
	}
}

const struct task *world_find(struct world *world, const char *id)
{
	for (size_t i = 0; i < engine_task_count(world->engine); i++)
		if (strcmp(engine_task(world->engine, i)->id, id) == 0)
			return engine_task(world->engine, i);
	return NULL;
}

void world_wait_known(struct world *world, const char *id, enum task_status status)
{
	uint64_t end = now_usec() + DEADLINE_USEC;
	const struct task *task;

	for (;;) {
		task = world_find(world, id);
		if (status == TASK_STATUS_NONE ? !task : task && task->known == status)
			return;
		if (now_usec() > end)
			fail_msg("task %s is %s, not %s; journal: %s", id,
			         task ? task_status_to_string(task->known) : "gone",
			         task_status_to_string(status), world->journal);
		turn(world, 10 * 1000);
	}
}

void world_settle(struct world *world)
{
	int quiet = 0;

	/* A turn without an event, three times over, since a peer may be one accept behind. */
	while (quiet < 3) {
		int r = sd_event_run(world->loop, 1000);

		assert_true(r >= 0);
		quiet = r == 0 ? quiet + 1 : 0;
	}
}

/* Things that happen. */

void world_exit(struct world *world, const char *id, const char *container, int code,
                bool oom_killed)
{
	struct fake_task *task = find_task(world, id);
	struct fake_container *c = find_container(task, container);

	assert_non_null(c);
	c->status = "stopped";
	c->has_code = true;
	c->code = code;
	c->oom_killed = oom_killed;
	c->ran_usec = world->ran_usec;
	send_exited(task, c);
}

static void write_exit(const char *dir, const char *container, int code)
{
	struct fake_container c = {.has_code = true, .code = code, .ran_usec = HOUR_USEC};
	struct json_object *body;
	char path[256];
	FILE *f;

	snprintf(c.name, sizeof(c.name), "%s", container);
	body = exited_message(&c);
	snprintf(path, sizeof(path), "%s/exit-%s.json", dir, container);
	f = fopen(path, "we");
	assert_non_null(f);
	fputs(json_to_text(body, NULL), f);
	fclose(f);
	json_object_put(body);
}

void world_write_exit(struct world *world, const char *id, const char *container, int code)
{
	char dir[200];

	snprintf(dir, sizeof(dir), "%s/tasks/%s", world->dir, id);
	write_exit(dir, container, code);
}

void world_save_exit(struct world *world, const char *id, const char *container, int code)
{
	char dir[200];

	snprintf(dir, sizeof(dir), "%s/exits/%s", world->state_dir, id);
	assert_int_equal(dir_create_all(dir, 0700), 0);
	write_exit(dir, container, code);
}

void world_restart_host(struct world *world, const char *boot_id)
{
	struct world_private *p = world->private;
	char path[128];

	for (size_t i = 0; i < p->n_tasks; i++)
		if (p->tasks[i]->listening)
			world_kill_supervisor(world, p->tasks[i]->id);
	snprintf(path, sizeof(path), "%s/tasks", world->dir);
	assert_int_equal(dir_remove_all(AT_FDCWD, path), 0);
	world->boot_id = boot_id;
}

void world_kill_supervisor(struct world *world, const char *id)
{
	struct world_private *p = world->private;
	struct fake_task *task = find_task(world, id);

	task_stop_listening(task);
	for (size_t i = 0; i < p->n_peers; i++)
		if (p->peers[i]->task == task && p->peers[i]->conn)
			peer_gone(p->peers[i]);
}

void world_release_pulls(struct world *world)
{
	struct world_private *p = world->private;

	world->hold_pulls = false;
	for (size_t i = 0; i < p->n_peers; i++) {
		struct json_object *held = p->peers[i]->held;

		if (!held || p->peers[i]->role != ROLE_IMAGE)
			continue;
		p->peers[i]->held = NULL;
		answer_pull(p->peers[i], held, false);
		json_object_put(held);
	}
}

void world_release_host(struct world *world)
{
	struct world_private *p = world->private;

	world->hold_host = false;
	for (size_t i = 0; i < p->n_peers; i++) {
		struct json_object *held = p->peers[i]->held;

		if (!held || p->peers[i]->role != ROLE_NETWORK)
			continue;
		p->peers[i]->held = NULL;
		on_host(p->peers[i], held);
		json_object_put(held);
	}
}

void world_restart_metadata(struct world *world)
{
	struct world_private *p = world->private;

	p->n_metadata_tasks = 0;
	json_object_put(p->metadata_served);
	p->metadata_served = NULL;
	p->metadata_host = false;
	world_disconnect_metadata(world);
}

void world_disconnect_metadata(struct world *world)
{
	struct world_private *p = world->private;

	for (size_t i = 0; i < p->n_peers; i++)
		if (p->peers[i]->role == ROLE_METADATA && p->peers[i]->conn)
			peer_gone(p->peers[i]);
}

void world_lose_served(struct world *world, const char *task_id)
{
	struct world_private *p = world->private;

	json_object_object_del(p->metadata_served, task_id);
}

/* Payloads. */

const char *world_container(const char *name, const char *more)
{
	static char text[8][1024];
	static unsigned int next;
	char *t = text[next++ % 8];

	snprintf(t, sizeof(text[0]),
	         "{\"name\":\"%s\",\"image\":\"registry/%s:1\",\"cpu\":10,\"memory\":16,"
	         "\"essential\":true,\"dockerConfig\":{\"config\":\"{}\","
	         "\"hostConfig\":\"{\\\"NetworkMode\\\":\\\"bridge\\\"}\"}%s}",
	         name, name, more ? more : "");
	return t;
}

const char *world_task(const char *id, const char *containers, const char *more)
{
	static char text[8][4096];
	static unsigned int next;
	char *t = text[next++ % 8];

	snprintf(t, sizeof(text[0]),
	         "{\"arn\":\"" WORLD_ARN "%s\",\"desiredStatus\":\"RUNNING\",\"family\":\"web\","
	         "\"version\":\"3\",\"networkMode\":\"bridge\",\"containers\":[%s]%s}",
	         id, containers, more ? more : "");
	return t;
}

void world_payload(struct world *world, const char *message_id, int64_t seq_num, const char *tasks)
{
	struct json_object *message = NULL;
	struct acs_payload payload;
	struct err err = {0};
	char text[20000];

	snprintf(
		text, sizeof(text),
		"{\"messageId\":\"%s\",\"clusterArn\":\"arn:c\",\"containerInstanceArn\":\"arn:i\","
		"\"tasks\":[%s]}",
		message_id, tasks);
	if (json_parse_object(text, strlen(text), sizeof(text), &message, &err) < 0)
		fail_msg("%s in %s", err.text, text);
	payload = (struct acs_payload){
		.message = message,
		.message_id = json_text(message, "messageId"),
		.cluster_arn = json_text(message, "clusterArn"),
		.container_instance_arn = json_text(message, "containerInstanceArn"),
		.seq_num = seq_num,
		.tasks = json_get(message, "tasks"),
	};
	engine_acs_handlers.payload((struct acs_session *)(uintptr_t)world, &payload,
	                            world->engine);
	json_object_put(message);
}

static int read_event(uint64_t id, const char *arn, const char *body, void *userdata)
{
	struct json_object *obj = NULL;
	struct err err = {0};

	(void)id;
	(void)arn;
	if (json_parse_object(body, strlen(body), 1 << 20, &obj, &err) < 0)
		fail_msg("%s in %s", err.text, body);
	json_append(userdata, obj);
	return 0;
}

struct json_object *world_events(struct world *world)
{
	struct json_object *array = json_object_new_array();

	assert_int_equal(state_commit(world->state, NULL), 0);
	assert_int_equal(state_read_events(world->state, read_event, array, NULL), 0);
	return array;
}
