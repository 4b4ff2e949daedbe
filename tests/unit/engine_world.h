/*
 * The world of the engine in one process: sockets in a temporary directory behind which the
 * launcher, ecs-task, ecs-image, ecs-network and ecs-metadata are played as their protocol.h says,
 * on the engine's own event loop. What they are asked is written to a journal of words such as
 * "create:app"; what they answer can be set.
 */
#pragma once

#include "tests/unit/cmocka_prelude.h"

#include "agent/engine/engine.h"
#include "agent/engine/task.h"

#define WORLD_ARN      "arn:aws:ecs:us-west-2:111122223333:task/blue/"
#define WORLD_INSTANCE "arn:aws:ecs:us-west-2:111122223333:container-instance/blue/1"

struct world {
	char dir[64];       /* <run>, and data/ of the state */
	char state_dir[80]; /* <state>, but for data/ */
	const char *boot_id;
	sd_event *loop;
	struct state *state;
	struct config config;
	struct engine *engine;
	struct world_private *private;
	char journal[64 * 1024];

	/* What goes wrong; NULL or 0: nothing. */
	const char *pull_error;    /* name of the error, for every pull */
	bool image_is_local;       /* "inspect" finds every image */
	unsigned int full_disk;    /* so many pulls to come meet a full disk */
	const char *images_dir;    /* for the engine to look at; NULL: none */
	const char *images;        /* answer to "list", JSON array; NULL: none */
	unsigned int busy_sweeps;  /* so many to come are refused: a pull is running */
	unsigned int sweep_layers; /* that a sweep removes */
	int start_exit_code;       /* "start" fails with it */
	bool start_is_silent;      /* no answer to "start" */
	bool host_ends;            /* nothing is started any more */
	bool start_answer_is_lost; /* the same, though it is carried out */
	uint64_t ran_usec;         /* told with every exit; 0: not told */
	bool keep_no_records;      /* ecs-task is of a version without "record" */
	const char *instance_id;   /* of EC2, for a rebuild */
	bool stop_is_silent;       /* "stop" is answered, "exited" does not follow */
	bool attach_is_lost;       /* ecs-network ends instead of an answer */
	bool rules_are_flushed;    /* the next "attach" makes them anew */
	bool hold_host;            /* no answer to "host" until world_release_host() */
	bool hold_attach;          /* no answer to "attach" until world_release_attach() */
	bool hold_serve;           /* no answer to "serve" until world_release_serve() */
	unsigned int refuse_serve; /* so many to come */
	const char *refused_role;  /* id of the credentials that ecs-metadata does not take */
	bool hold_pulls;           /* no answer to pulls until world_release_pulls() */
};

int world_setup(void **state);
int world_teardown(void **state);

/* A PayloadMessage with these tasks (JSON text of the array). */
void world_payload(struct world *world, const char *message_id, int64_t seq_num, const char *tasks);
/* JSON text of a container of a payload; more: further members, each with a comma before it. */
const char *world_container(const char *name, const char *more);
/* JSON text of a task of a payload. */
const char *world_task(const char *id, const char *containers, const char *more);

/* A payload of this task with one container, "app", until it runs. */
void world_run_one(struct world *world, const char *id);
/* A manifest with this number that lists one running task; running: its ARN, NULL: none. */
void world_manifest(struct world *world, const char *id, int64_t timeline, const char *running);

/* Turn the loop until the journal has the word (as often as n says), or fail the test. */
void world_wait_word(struct world *world, const char *word, unsigned int n);
/* The same for the known status of a task, and until the task is gone (NONE). */
void world_wait_known(struct world *world, const char *id, enum task_status status);
/* Nothing else is about to happen: everything ready has run. */
void world_settle(struct world *world);
unsigned int world_count(const struct world *world, const char *word);
/* Is the first word in the journal before the second? Both must be there. */
bool world_is_before(const struct world *world, const char *first, const char *second);

/* The container's process ends. */
void world_exit(struct world *world, const char *id, const char *container, int code,
                bool oom_killed);
/* The supervisor is killed: its connection breaks, nobody listens. */
void world_kill_supervisor(struct world *world, const char *id);
/* It has written this exit before. */
void world_write_exit(struct world *world, const char *id, const char *container, int code);
/* The same when it was told that the host shuts down. */
void world_save_exit(struct world *world, const char *id, const char *container, int code);
/* Between the end of an agent and the start of another: supervisors and <run> are gone. */
void world_restart_host(struct world *world, const char *boot_id);
void world_release_pulls(struct world *world);
void world_release_host(struct world *world);
void world_release_attach(struct world *world);
void world_release_serve(struct world *world);
/* ecs-metadata loses its memory and its connections. */
void world_restart_metadata(struct world *world);
/* It keeps its memory and loses its connections, as after a restart under systemd. */
void world_disconnect_metadata(struct world *world);
/* It has the task, but no socket of its containers. */
void world_lose_served(struct world *world, const char *task_id);

/* The agent ends, and another begins on the same state; the others notice a broken connection. */
void world_stop_engine(struct world *world);
void world_start_engine(struct world *world);

/* Between the two: nothing is left of the store. */
void world_lose_state(struct world *world);
/* What the supervisor of the task was given to keep; borrowed, NULL if nothing. */
struct json_object *world_record(struct world *world, const char *id);

const struct task *world_find(struct world *world, const char *id);

/* The events in the store, oldest first. Owned by the caller. */
struct json_object *world_events(struct world *world);
/* One of them, and of its containers; what is not there fails the test. */
struct json_object *event_at(struct json_object *events, size_t i);
struct json_object *last_event(struct json_object *events);
struct json_object *container_of(struct json_object *event, const char *name);
/* -1: it has none. */
int64_t exit_code(struct json_object *container);
