/* Connections of the engine to the programs around it, most of which the launcher starts. */
#include "tests/unit/engine_world_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/json.h"

void peer_answer(struct fake_peer *peer, struct json_object *body, const int *fds, size_t n)
{
	int r;

	assert_non_null(body);
	r = ipc_event_send(peer->conn, body, fds, n);
	assert_true(r == 0 || r == -EPIPE); /* the agent may have ended meanwhile */
	json_object_put(body);
}

void peer_ok(struct fake_peer *peer, struct json_object *request, const char *type)
{
	peer_answer(peer, ipc_message_new(type, request), NULL, 0);
}

void peer_refuse(struct fake_peer *peer, struct json_object *request, int code, const char *name,
                 const char *text)
{
	struct err err = {.name = name};

	(void)err_text(&err, code, "%s", text);
	assert_int_equal(ipc_event_send_error(peer->conn, request, code, &err), 0);
}

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

void peer_gone(struct fake_peer *peer)
{
	if (peer->task && peer->task->conn == peer->conn)
		peer->task->conn = NULL;
	peer->conn = ipc_event_free(peer->conn);
	if (peer->held) {
		world_note(peer->world, "pull-cancelled");
		json_object_put(peer->held);
		peer->held = NULL;
	}
}

static void on_peer_end(struct ipc_event *conn, int r, const struct err *err, void *userdata)
{
	(void)conn;
	(void)r;
	(void)err;
	peer_gone(userdata);
}

struct fake_peer *peer_add(struct world *world, int fd, enum role role, struct fake_task *task)
{
	struct world_private *p = world->private;
	struct fake_peer *peer = calloc(1, sizeof(*peer));
	struct ipc_conn *conn = NULL;

	assert_non_null(peer);
	assert_true(p->n_peers < PEERS_MAX);
	p->peers[p->n_peers++] = peer;
	*peer = (struct fake_peer){.world = world, .role = role, .task = task};
	assert_int_equal(ipc_conn_new(fd, 0, false, &conn), 0);
	assert_int_equal(
		ipc_event_new(world->loop, conn, on_message, on_peer_end, peer, &peer->conn), 0);
	if (task)
		task->conn = peer->conn;
	return peer;
}

static void serve_reap(struct world *world, int fd, const char *id)
{
	struct fake_peer *peer = peer_add(world, fd, ROLE_REAP, NULL);
	char path[256];

	world_note(world, "reap:%s", id);
	snprintf(path, sizeof(path), "%s/tasks/%s", world->dir, id);
	(void)dir_remove_all(AT_FDCWD, path);
	peer_answer(peer, ipc_message_new("reaped", NULL), NULL, 0);
}

static void read_line(int fd, char *line, size_t n)
{
	size_t len = 0;

	while (len + 1 < n && read(fd, line + len, 1) == 1 && line[len] != '\n')
		len++;
	line[len] = '\0';
}

int on_launcher_accept(sd_event_source *source, int fd, uint32_t events, void *userdata)
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
		world_note(world, "launch:%s", id);
		(void)peer_add(world, conn, ROLE_TASK, fake_task_add(world, id));
	} else if (strcmp(line, "reap") == 0) {
		serve_reap(world, conn, id);
	} else if (strcmp(line, "image") == 0) {
		(void)peer_add(world, conn, ROLE_IMAGE, NULL);
	} else if (strcmp(line, "network") == 0) {
		(void)peer_add(world, conn, ROLE_NETWORK, NULL);
	} else if (strcmp(line, "volume") == 0) {
		world_note(world, "volume");
		(void)peer_add(world, conn, ROLE_VOLUME, NULL);
	} else {
		fail_msg("launcher was asked for '%s'", line);
	}
	return 0;
}

int on_metadata_accept(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
	int conn = accept4(fd, NULL, NULL, SOCK_CLOEXEC);

	(void)source;
	(void)events;
	assert_true(conn >= 0);
	(void)peer_add(userdata, conn, ROLE_METADATA, NULL);
	return 0;
}
