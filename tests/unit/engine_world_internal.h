/*
 * What the files of engine_world.h share: the programs around the engine, each played in a file of
 * its own (ecs-task, ecs-image, ecs-network, ecs-metadata) on connections of engine_world_peers.c.
 */
#pragma once

#include "tests/unit/engine_world.h"

#include "agent/engine/rebuild.h"
#include "lib/ipc_event.h"

#define PEERS_MAX      256
#define CONTAINERS_MAX 8
#define DEADLINE_USEC  (10 * 1000 * 1000ull)

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
	struct json_object *held; /* request without an answer yet */
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

/* A word of the journal. */
void world_note(struct world *world, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* One turn of the loop, which waits so long at most. */
void world_turn(struct world *world, uint64_t usec);

/* --- connections of the engine to one of the programs --- */

struct fake_peer *peer_add(struct world *world, int fd, enum role role, struct fake_task *task);
/* It has hung up, or is to. */
void peer_gone(struct fake_peer *peer);
/* body: taken. fds: n, borrowed. */
void peer_answer(struct fake_peer *peer, struct json_object *body, const int *fds, size_t n);
/* An answer of this type and nothing else in it, and an error. */
void peer_ok(struct fake_peer *peer, struct json_object *request, const char *type);
void peer_refuse(struct fake_peer *peer, struct json_object *request, int code, const char *name,
                 const char *text);

/* As sd_event_add_io() wants them; userdata: the world. */
int on_launcher_accept(sd_event_source *source, int fd, uint32_t events, void *userdata);
int on_metadata_accept(sd_event_source *source, int fd, uint32_t events, void *userdata);

/* --- what each program makes of a request --- */

void on_task_message(struct fake_peer *peer, struct ipc_message *msg, const char *type);
void on_image_message(struct fake_peer *peer, struct ipc_message *msg, const char *type);
void on_network_message(struct fake_peer *peer, struct ipc_message *msg, const char *type);
void on_metadata_message(struct fake_peer *peer, struct ipc_message *msg, const char *type);

/* The supervisor of a task: the newest, or the test fails. */
struct fake_task *fake_task_find(struct world *world, const char *id);
/* A new one, which listens below <run>. */
struct fake_task *fake_task_add(struct world *world, const char *id);
void fake_task_stop_listening(struct fake_task *task);
