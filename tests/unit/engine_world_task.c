/* Plays ecs-task (agent/task/protocol.h): its containers run because it says so. */
#include "tests/unit/engine_world_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/json.h"
#include "lib/loop.h"

#define HOUR_USEC (3600 * 1000 * 1000ull)

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

/* --- requests --- */

static void on_create(struct fake_peer *peer, struct json_object *request)
{
	struct fake_task *task = peer->task;
	struct json_object *body = ipc_message_new("created", request);
	const char *name = json_text(json_get(request, "container"), "name");
	struct fake_container *c = find_container(task, name);
	int fds[2] = {eventfd(0, EFD_CLOEXEC), eventfd(0, EFD_CLOEXEC)};

	world_note(peer->world, "create:%s", name);
	if (c) {
		assert_string_equal(c->status, "created");
	} else {
		c = &task->containers[task->n_containers++];
		*c = (struct fake_container){.status = "created"};
		snprintf(c->name, sizeof(c->name), "%s", name);
	}
	json_add_string(body, "container", name);
	json_add_u64(body, "cgroupId", 4242);
	peer_answer(peer, body, fds, 2);
	close(fds[0]);
	close(fds[1]);
}

static void on_start(struct fake_peer *peer, struct json_object *request, size_t n_fds)
{
	const char *name = json_text(request, "container");
	struct fake_container *c = find_container(peer->task, name);
	struct json_object *body;

	world_note(peer->world, "start:%s", name);
	for (size_t i = 0; i < n_fds; i++)
		world_note(peer->world, "port-socket:%s", name);
	assert_non_null(c);
	if (strcmp(c->status, "stopped") == 0) /* with what it has had before */
		assert_true(c->has_code && n_fds == 0 && !json_get(request, "network"));
	else
		assert_string_equal(c->status, "created");
	if (peer->world->start_is_silent)
		return;
	if (peer->world->host_ends) {
		peer_refuse(peer, request, -ECANCELED, NULL, "the host is being shut down");
		return;
	}
	if (peer->world->start_exit_code) {
		c->status = "stopped";
		body = ipc_message_new("error", request);
		json_add_string(body, "name", "CannotStartContainerError");
		json_add_string(body, "message", "exec: not found");
		json_add_string(body, "container", name);
		json_add_i64(body, "exitCode", peer->world->start_exit_code);
		peer_answer(peer, body, NULL, 0);
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
	peer_answer(peer, body, NULL, 0);
}

static void on_stop(struct fake_peer *peer, struct json_object *request)
{
	const char *name = json_text(request, "container");
	struct fake_container *c = find_container(peer->task, name);

	world_note(peer->world, "stop:%s", name);
	peer_ok(peer, request, "stopping");
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
	peer_answer(peer, body, NULL, 0);
}

static void on_stop_order(struct fake_peer *peer, struct json_object *request)
{
	world_note(peer->world, "stop-order:%s",
	           json_to_text(json_get(request, "containers"), NULL));
	peer_ok(peer, request, "stop-ordered");
}

static void on_record(struct fake_peer *peer, struct json_object *request)
{
	const struct err unknown = {.text = "unknown request \"record\""};

	world_note(peer->world, "record:%s", peer->task->id);
	if (peer->world->keep_no_records) {
		assert_int_equal(ipc_event_send_error(peer->conn, request, -ENOSYS, &unknown), 0);
		return;
	}
	json_object_put(peer->task->record);
	peer->task->record = json_object_get(json_get(request, "record"));
	assert_non_null(peer->task->record);
	peer_ok(peer, request, "recorded");
}

static void on_sockets(struct fake_peer *peer, struct json_object *request)
{
	struct json_object *body = ipc_message_new("sockets", request);
	struct json_object *names = json_object_new_array();
	int fds[CONTAINERS_MAX];
	size_t n = 0;

	world_note(peer->world, "sockets");
	for (size_t i = 0; i < peer->task->n_containers; i++)
		if (strcmp(peer->task->containers[i].status, "running") == 0) {
			json_append(names, json_object_new_string(peer->task->containers[i].name));
			fds[n++] = eventfd(0, EFD_CLOEXEC);
		}
	json_add(body, "containers", names);
	peer_answer(peer, body, fds, n);
	while (n > 0)
		close(fds[--n]);
}

void fake_task_stop_listening(struct fake_task *task)
{
	task->listening = sd_event_source_disable_unref(task->listening);
	task->listen_fd = fd_close(task->listen_fd);
}

static void on_end_request(struct fake_peer *peer, struct json_object *request)
{
	char path[256];

	world_note(peer->world, "end:%s", peer->task->id);
	peer_ok(peer, request, "ended");
	fake_task_stop_listening(peer->task);
	snprintf(path, sizeof(path), "%s/tasks/%s", peer->world->dir, peer->task->id);
	(void)dir_remove_all(AT_FDCWD, path);
}

void on_task_message(struct fake_peer *peer, struct ipc_message *msg, const char *type)
{
	if (strcmp(type, "setup") == 0) {
		world_note(peer->world, "setup:%s", peer->task->id);
		peer->task->ready = true;
		peer_ok(peer, msg->body, "ready");
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

/* --- supervisors --- */

static int on_task_accept(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
	struct fake_task *task = userdata;
	int conn = accept4(fd, NULL, NULL, SOCK_CLOEXEC);

	(void)source;
	(void)events;
	assert_true(conn >= 0);
	world_note(task->world, "found:%s", task->id);
	(void)peer_add(task->world, conn, ROLE_TASK, task);
	return 0;
}

struct fake_task *fake_task_find(struct world *world, const char *id)
{
	struct world_private *p = world->private;

	for (size_t i = p->n_tasks; i > 0; i--)
		if (strcmp(p->tasks[i - 1]->id, id) == 0)
			return p->tasks[i - 1];
	fail_msg("no supervisor of task %s", id);
	return NULL;
}

struct fake_task *fake_task_add(struct world *world, const char *id)
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

struct json_object *world_record(struct world *world, const char *id)
{
	return fake_task_find(world, id)->record;
}

void world_kill_supervisor(struct world *world, const char *id)
{
	struct world_private *p = world->private;
	struct fake_task *task = fake_task_find(world, id);

	fake_task_stop_listening(task);
	for (size_t i = 0; i < p->n_peers; i++)
		if (p->peers[i]->task == task && p->peers[i]->conn)
			peer_gone(p->peers[i]);
}

/* --- exits --- */

void world_exit(struct world *world, const char *id, const char *container, int code,
                bool oom_killed)
{
	struct fake_task *task = fake_task_find(world, id);
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
