/* Shared by state.c (the database and the queue of changes), commit.c (transactions), reserve.c,
 * schema.c and rows.c; of no one else. */
#pragma once

#include <sqlite3.h>
#include <stddef.h>

#include "agent/state/commit_thread.h"
#include "agent/state/state.h"

/* Queued changes beyond this are refused (-ENOBUFS): a disk that stays full for hours. */
#define STATE_CHANGES_MAX 200000

enum statement {
	STATEMENT_SET,
	STATEMENT_UNSET,
	STATEMENT_PUT_TASK,
	STATEMENT_PUT_CONTAINER,
	STATEMENT_REMOVE_CONTAINERS,
	STATEMENT_REMOVE_TASK,
	STATEMENT_ADD_EVENT,
	STATEMENT_REMOVE_EVENT,
	STATEMENT_PUT_IMAGE,
	_STATEMENT_MAX,
};

struct state_value {
	enum {
		VALUE_NULL,
		VALUE_INTEGER,
		VALUE_TEXT,
	} type;
	int64_t integer;
	char *text; /* owned once queued */
};

struct state_change {
	enum statement statement;
	size_t n_keys; /* leading values that identify the row; 0: never replaced in the queue */
	size_t n_values;
	struct state_value values[];
};

struct state_waiter {
	void (*fn)(void *userdata); /* NULL: forgotten */
	void *userdata;
};

/* A row of the table "instance". */
struct state_fact {
	struct state_fact *next;
	char *key, *value;
};

struct state {
	char *dir;
	int dir_fd; /* holds the lock */
	sqlite3 *db;
	int db_fd; /* the same file; closing it would end SQLite's locks while db is open */
	sqlite3_stmt *statements[_STATEMENT_MAX];
	enum state_origin origin;
	uint64_t last_event_id;
	struct state_fact *facts; /* with what is queued */

	struct state_change **changes;
	size_t n_changes, changes_allocated;
	struct state_waiter *waiters; /* in the order of their calls */
	size_t n_waiters, waiters_allocated;
	size_t n_ready; /* of the first waiters: what they wait for is durable */
	bool calling;   /* one of them is on the stack */

	/* The transaction under way, or the one that has failed. While the thread is busy, db and
	 * statements are the thread's as well. Without a loop there is no thread. */
	struct commit_thread *thread;
	struct state_change **batch;
	size_t n_batch;
	size_t n_batch_waiters; /* of the first waiters: they wait for this batch at most */
	struct err batch_err;
	uint64_t batch_usec; /* that it has taken */

	bool reserves;                    /* state_reserve_start() */
	int reserve_result, reserve_told; /* 0 or -errno; told: logged */
	uint64_t reserve_again_usec;

	sd_event *loop;
	sd_event_source *turn_end; /* deferred; armed while there is something to commit */
	sd_event_source *retry;
	uint64_t retry_usec; /* 0 while commits succeed */
	uint64_t commit_max_usec;
};

/* commit.c: commit from this loop, by a thread. */
int state_commit_from(struct state *state, sd_event *loop, struct err *err);
/* There is something to commit, or somebody to call. */
void state_arm(struct state *state);
/* Until this thread may use the database. */
void state_wait_for_thread(struct state *state);

/*
 * reserve.c: room on the disk that no one else can have. A failure is only logged: some file
 * systems cannot do it, and a full one may have room later.
 *
 * start: the database is open. From now on SQLite does not delete its log at the end.
 * tell:  log what has become of it, from the loop's thread.
 * keep:  just before the database is closed: the log is merged into it, stays as an empty file, and
 *        both keep their room for the next start. Nothing before start.
 * drop:  files that are set aside keep none, and an empty log does not stay. They are closed.
 */
void state_reserve_start(struct state *state);
void state_reserve_tell(struct state *state);
void state_reserve_keep(struct state *state);
void state_reserve_drop(const struct state *state);

/* rows.c: what the table "instance" has, in memory: it is asked for often. */
int state_facts_read(struct state *state, struct err *err);
void state_facts_forget(struct state *state);

/* Copies the values; replaces a queued change of the same statement and keys. */
int state_queue(struct state *state, enum statement statement, size_t n_keys,
                const struct state_value *values, size_t n_values);
void state_change_free(struct state_change *change);

/* A negative errno for a result of SQLite, described with what was attempted. */
int state_error(sqlite3 *db, int result, const char *what, struct err *err);

/* SQL of each statement of the queue. */
extern const char *const state_statements[_STATEMENT_MAX];

/* Keys of the instance table that are the state's own. */
#define STATE_KEY_COMPATIBLE "schema-compatible"
#define STATE_KEY_INCOMPLETE "state-incomplete"

/*
 * Create the schema, or bring an older one up to date; a newer one stays what it is.
 *
 * is_reset:    what is created is complete as it is (state_reset())
 * ret_version: that it had before; 0: there was none
 *
 * Returns 0, or -EPROTONOSUPPORT for a newer one that this program may not use, -EBADMSG when the
 * tables do not fit the version.
 */
int schema_apply(sqlite3 *db, bool is_reset, int *ret_version, struct err *err);
/* -EBADMSG when the database is damaged. */
int schema_check(sqlite3 *db, struct err *err);

DEFINE_CLEANUP(sqlite3_stmt *, sqlite3_finalize)
