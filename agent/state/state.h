/*
 * What ecs-agent must know after a restart, in SQLite: <state>/data/agent.db, mode 0600, WAL with
 * synchronous=FULL. Never credentials or secret values.
 *
 * Life of a change: state_set(), state_put_task() and the others queue it in memory. All changes
 * of one turn of the event loop are one transaction, so one fsync(2), which a thread waits for:
 * what is queued meanwhile is the next one. What has to wait until they are durable
 * (acknowledgements, reports, launches) is given to state_after_commit(). A transaction that fails
 * (disk full) stays queued and is tried again, 1 to 30 seconds later; what waits for it waits on.
 * Up to 12 MiB of the disk are reserved for the database and its log, so that others can fill it
 * and commits go on. In the end the log stays, empty, with its part of them.
 *
 * A damaged database is set aside as agent.db.damaged-<time> (the newest five are kept) and a new
 * one begun: the state is a cache of what the supervisors of the tasks know. A new one is
 * "incomplete", over restarts too, until state_complete() says that what can be known of running
 * tasks is in it.
 *
 * Versions: a database of an older ecs-agent is brought up to date. One of a newer ecs-agent is
 * used as it is where that has only added to the schema, and what it has added stays; otherwise it
 * is refused.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "lib/cleanup.h"
#include "lib/err.h"

#define STATE_DATABASE       "agent.db"
#define STATE_SCHEMA_VERSION 4

struct state;

/* How the database was found. */
enum state_origin {
	STATE_ORIGIN_KEPT,    /* from an earlier run */
	STATE_ORIGIN_NEW,     /* there was none */
	STATE_ORIGIN_DAMAGED, /* there was one, which is set aside now */
	STATE_ORIGIN_REMOVED, /* discarded by state_reset() */
};

/*
 * Open the database in the directory dir, which exists.
 *
 * loop: commits run from it; NULL: only by state_commit(), for tests.
 *
 * Returns 0, or
 *   -EBUSY            another ecs-agent has it open
 *   -EPROTONOSUPPORT  its schema is newer than STATE_SCHEMA_VERSION, and not one that this
 *                     program may use
 *   -errno            of reading or creating it
 */
int state_open(const char *dir, sd_event *loop, struct state **ret, struct err *err);

/* Commits what is queued, if it can. */
struct state *state_close(struct state *state);
DEFINE_CLEANUP(struct state *, state_close)

enum state_origin state_origin(const struct state *state);

/* Was the database begun anew (NEW or DAMAGED, by this run or one before), and state_complete() not
 * durable since? state_complete() is queued like any change: in one transaction with those of its
 * turn. A database begun by state_reset() is complete. */
bool state_is_incomplete(struct state *state);
int state_complete(struct state *state);

/* Begin anew, for a host that is no longer the instance that the state was written on: the old
 * database is set aside like a damaged one. */
int state_reset(struct state *state, struct err *err);

/* Call fn once, from the loop, when everything queued so far is durable; from the next turn of the
 * loop if it is. Calls are in the order in which they were asked for, a few in each turn. userdata
 * is borrowed; state_forget() cancels by userdata. */
int state_after_commit(struct state *state, void (*fn)(void *userdata), void *userdata);
void state_forget(struct state *state, void *userdata);

/* Write the queue now, in the caller's turn: 0, or -errno with everything still queued. Calls what
 * waited. */
int state_commit(struct state *state, struct err *err);

/* The longest that a commit has taken. */
uint64_t state_commit_max_usec(const struct state *state);

/* Facts about the instance: "cluster", "container-instance-arn", "ec2-instance-id",
 * "agent-version", "task-manifest-seq-num", "port-cursor", "boot-id" and others. A NULL value
 * removes the key. state_get() sees what is queued. *ret is owned by the caller, NULL when there is
 * no such key. */
int state_set(struct state *state, const char *key, const char *value);
int state_get(struct state *state, const char *key, char **ret, struct err *err);

/* Times are realtime microseconds, 0 for none; text may be NULL but for keys. All is borrowed. */
struct state_task {
	const char *arn;
	const char *document; /* JSON of the payload's task, without credentials */
	const char *desired;  /* status words of the engine */
	const char *known;
	const char *sent; /* last status put into the outbox */
	const char *reason;
	uint64_t sequence; /* order of arrival */
	int64_t stop_sequence;
	uint64_t received_usec;
	uint64_t pull_started_usec;
	uint64_t pull_stopped_usec;
	uint64_t execution_stopped_usec;
	uint64_t stopped_usec;
	bool launched; /* a supervisor was asked for: it is looked for after a restart */
	bool admitted; /* has host resources */
};

struct state_container {
	const char *task_arn;
	const char *name;
	const char *runtime_id;  /* 64 hex */
	const char *endpoint_id; /* uuid in the paths of the metadata endpoint */
	const char *desired;
	const char *known;
	const char *sent; /* last status put into the outbox */
	bool has_exit_code;
	int64_t exit_code;
	const char *reason; /* "<ErrorName>: <text>" */
	const char *image_digest;
	const char *image_id;
	const char *address;       /* on the bridge */
	const char *bindings;      /* JSON array of ECS networkBindings */
	const char *image_config;  /* JSON object, as ecs-image told it */
	const char *layers;        /* JSON array of diffIDs */
	const char *managed_agent; /* JSON object: what ECS Exec is, and what ECS was told of it */
	uint64_t cgroup_id;
	uint64_t created_usec;
	uint64_t started_usec;
	uint64_t finished_usec;
	uint64_t restart_count; /* by its restart policy */
};

/* Insert or replace by key. state_remove_task() takes its containers with it, not its events. */
int state_put_task(struct state *state, const struct state_task *task);
int state_put_container(struct state *state, const struct state_container *container);
int state_remove_task(struct state *state, const char *arn);

/* The outbox: bodies of SubmitTaskStateChange in the order of their ids, which are never used
 * again. */
int state_add_event(struct state *state, const char *task_arn, const char *body, uint64_t *ret_id);
int state_remove_event(struct state *state, uint64_t id);

/* Remember that the image was pulled by this agent (ECS_IMAGE_PULL_BEHAVIOR=once). */
int state_put_image(struct state *state, const char *reference, const char *digest);
int state_has_image(struct state *state, const char *reference, bool *ret, struct err *err);

/*
 * Read what is durable, for the start: each row is handed to fn, tasks in order of arrival and
 * events in order of id. A negative result of fn ends the reading and is returned.
 */
typedef int (*state_task_fn)(const struct state_task *task, void *userdata);
typedef int (*state_container_fn)(const struct state_container *container, void *userdata);
typedef int (*state_event_fn)(uint64_t id, const char *task_arn, const char *body, void *userdata);
int state_read_tasks(struct state *state, state_task_fn fn, void *userdata, struct err *err);
int state_read_containers(struct state *state, const char *task_arn, state_container_fn fn,
                          void *userdata, struct err *err);
int state_read_events(struct state *state, state_event_fn fn, void *userdata, struct err *err);
