/*
 * The state database as a thing that is opened and set aside when it is damaged, and the queue of
 * changes. They are values until they are committed (commit.c), so that a transaction which fails
 * can simply be run again.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "agent/state/state_internal.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "lib/loop.h"

#define SET_ASIDE_PREFIX STATE_DATABASE ".damaged-"
#define SET_ASIDE_MAX    5 /* databases that are kept to be looked into */

/* The database, then what SQLite keeps beside it. */
static const char *const files[] = {STATE_DATABASE, STATE_DATABASE "-wal", STATE_DATABASE "-shm"};

int state_error(sqlite3 *db, int result, const char *what, struct err *err)
{
	static const struct {
		int result;
		int error;
	} errors[] = {
		{SQLITE_CORRUPT, -EBADMSG}, {SQLITE_NOTADB, -EBADMSG},  {SQLITE_FULL, -ENOSPC},
		{SQLITE_NOMEM, -ENOMEM},    {SQLITE_PERM, -EACCES},     {SQLITE_READONLY, -EROFS},
		{SQLITE_BUSY, -EBUSY},      {SQLITE_CANTOPEN, -ENOENT},
	};
	int r = -EIO;

	for (size_t i = 0; i < ARRAY_SIZE(errors); i++)
		if ((result & 0xff) == errors[i].result)
			r = errors[i].error;
	return err_text(err, r, "%s: %s", what, db ? sqlite3_errmsg(db) : sqlite3_errstr(result));
}

static void close_database(struct state *state)
{
	for (size_t i = 0; i < _STATEMENT_MAX; i++) {
		sqlite3_finalize(state->statements[i]);
		state->statements[i] = NULL;
	}
	state_reserve_keep(state);
	sqlite3_close(state->db);
	state->db = NULL;
	state->db_fd = fd_close(state->db_fd);
}

static int prepare(struct state *state, int version, struct err *err)
{
	int r;

	for (size_t i = 0; i < _STATEMENT_MAX; i++) {
		r = sqlite3_prepare_v2(state->db, state_statements[i], -1, &state->statements[i],
		                       NULL);
		if (r == SQLITE_ERROR) { /* no such table, or column */
			bool is_newer = version > STATE_SCHEMA_VERSION;

			return err_text(err, is_newer ? -EPROTONOSUPPORT : -EBADMSG,
			                "state database of schema version %d: %s%s", version,
			                sqlite3_errmsg(state->db),
			                is_newer ? "; install the ecs-agent that wrote it" : "");
		}
		if (r != SQLITE_OK)
			return state_error(state->db, r, "prepare a statement", err);
	}
	return 0;
}

static int read_last_event_id(struct state *state, struct err *err)
{
	_cleanup_(sqlite3_finalizep) sqlite3_stmt *stmt = NULL;
	int r;

	r = sqlite3_prepare_v2(state->db,
	                       "SELECT max(seq) FROM sqlite_sequence WHERE name='outbox'", -1,
	                       &stmt, NULL);
	if (r == SQLITE_OK)
		r = sqlite3_step(stmt);
	if (r != SQLITE_ROW)
		return state_error(state->db, r, "read the outbox", err);
	state->last_event_id = (uint64_t)sqlite3_column_int64(stmt, 0);
	return 0;
}

/* Can SQLite write the file name? One that is no file, or somebody else's, is as good as damaged.
 */
static int check_file(struct state *state, const char *name, int flags, struct err *err)
{
	struct stat st;
	int fd, r;

	fd = openat(state->dir_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | flags,
	            0600);
	if (fd < 0 && errno == EACCES && fchmodat(state->dir_fd, name, 0600, 0) == 0)
		fd = openat(state->dir_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0 && errno == ENOENT && !(flags & O_CREAT))
		return 0;
	if (fd < 0 && (errno == EACCES || errno == EPERM || errno == EISDIR || errno == ELOOP ||
	               errno == ENXIO))
		return err_text(err, -EBADMSG, "%s/%s is no file of ours to write: %s", state->dir,
		                name, strerror(errno));
	if (fd < 0)
		return err_set(err, -errno, "open %s/%s", state->dir, name);
	r = fstat(fd, &st) < 0 ? -errno : 0;
	(void)fd_close(fd);
	if (r < 0)
		return err_set(err, r, "look at %s/%s", state->dir, name);
	return S_ISREG(st.st_mode)
	               ? 0
	               : err_text(err, -EBADMSG, "%s/%s is no regular file", state->dir, name);
}

static int check_files(struct state *state, struct err *err)
{
	int r;

	/* SQLite gives its -wal and -shm files the mode of the database. */
	r = check_file(state, STATE_DATABASE, O_CREAT, err);
	for (size_t i = 1; i < ARRAY_SIZE(files) && r >= 0; i++)
		r = check_file(state, files[i], 0, err);
	return r;
}

static int open_database(struct state *state, bool is_reset, struct err *err)
{
	_cleanup_free_ char *path = NULL;
	int version = 0, r;

	if (asprintf(&path, "%s/" STATE_DATABASE, state->dir) < 0)
		return err_oom(err);
	r = check_files(state, err);
	if (r < 0)
		return r;
	state->db_fd = openat(state->dir_fd, STATE_DATABASE, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (state->db_fd < 0)
		return err_set(err, -errno, "open %s", path);

	r = sqlite3_open_v2(path, &state->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
	if (r != SQLITE_OK)
		return state_error(state->db, r, path, err);
	(void)sqlite3_busy_timeout(state->db, 1000);
	r = sqlite3_exec(state->db,
	                 "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
	                 "PRAGMA journal_size_limit=-1; PRAGMA cache_size=-256;"
	                 "PRAGMA foreign_keys=OFF",
	                 NULL, NULL, NULL);
	if (r != SQLITE_OK)
		return state_error(state->db, r, path, err);

	r = schema_check(state->db, err);
	if (r >= 0)
		r = schema_apply(state->db, is_reset, &version, err);
	if (r >= 0)
		r = prepare(state, version, err);
	if (r >= 0)
		r = read_last_event_id(state, err);
	if (r >= 0)
		r = state_facts_read(state, err);
	if (r < 0)
		return r;
	state->origin = version == 0 ? STATE_ORIGIN_NEW : STATE_ORIGIN_KEPT;
	state_reserve_start(state);
	return 0;
}

static bool is_set_aside(const char *name)
{
	size_t len = strlen(name);

	if (strncmp(name, SET_ASIDE_PREFIX, strlen(SET_ASIDE_PREFIX)) != 0)
		return false;
	return len < 4 ||
	       (strcmp(name + len - 4, "-wal") != 0 && strcmp(name + len - 4, "-shm") != 0);
}

/* The oldest by its name, which begins with a time; returns how many there are. */
static size_t find_oldest(DIR *dir, char *ret, size_t n)
{
	const struct dirent *entry;
	size_t found = 0;

	rewinddir(dir);
	while ((entry = readdir(dir))) {
		if (!is_set_aside(entry->d_name))
			continue;
		if (found++ == 0 || strverscmp(entry->d_name, ret) < 0)
			snprintf(ret, n, "%s", entry->d_name);
	}
	return found;
}

/* A disk that damages every database must not be filled with them. */
static void remove_oldest(struct state *state)
{
	char name[NAME_MAX + 1], other[NAME_MAX + 8];
	DIR *dir = opendir(state->dir);

	while (dir && find_oldest(dir, name, sizeof(name)) > SET_ASIDE_MAX) {
		for (size_t i = 1; i < ARRAY_SIZE(files); i++) {
			snprintf(other, sizeof(other), "%s%s", name,
			         files[i] + strlen(STATE_DATABASE));
			(void)dir_remove_all(state->dir_fd, other);
		}
		if (dir_remove_all(state->dir_fd, name) < 0)
			break; /* it stays, and the next set aside comes here again */
	}
	if (dir)
		closedir(dir);
}

/* Rename the database and what belongs to it: together they can be looked into later, and a
 * write-ahead log must not meet another database. */
static int set_aside(struct state *state, struct err *err)
{
	const uint64_t time = now_realtime_usec() / 1000000;
	char name[96];
	unsigned int n = 0;

	close_database(state);
	state_reserve_drop(state);
	do { /* none is overwritten that was set aside within the same second */
		snprintf(name, sizeof(name), SET_ASIDE_PREFIX "%" PRIu64 "%s%.0u", time,
		         n ? "." : "", n);
		n++;
	} while (faccessat(state->dir_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0 && n < 1000);

	if (renameat(state->dir_fd, STATE_DATABASE, state->dir_fd, name) < 0)
		return err_set(err, -errno, "set the state database aside as %s", name);
	for (size_t i = 1; i < ARRAY_SIZE(files); i++) {
		char other[128];

		snprintf(other, sizeof(other), "%s%s", name, files[i] + strlen(STATE_DATABASE));
		if (renameat(state->dir_fd, files[i], state->dir_fd, other) < 0 && errno != ENOENT)
			return err_set(err, -errno, "set %s aside as %s", files[i], other);
	}
	log_warning(NULL, 0, "state database was set aside as %s/%s", state->dir, name);
	remove_oldest(state);
	return 0;
}

static int lock(struct state *state, struct err *err)
{
	state->dir_fd = open(state->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (state->dir_fd < 0)
		return err_set(err, -errno, "open state directory %s", state->dir);
	if (flock(state->dir_fd, LOCK_EX | LOCK_NB) < 0)
		return err_text(err, errno == EWOULDBLOCK ? -EBUSY : -errno,
		                "state directory %s is in use by another ecs-agent", state->dir);
	return 0;
}

int state_reset(struct state *state, struct err *err)
{
	int r;

	state_wait_for_thread(state);
	r = set_aside(state, err);
	if (r >= 0)
		r = open_database(state, true, err);
	if (r >= 0)
		state->origin = STATE_ORIGIN_REMOVED;
	return r;
}

int state_open(const char *dir, sd_event *loop, struct state **ret, struct err *err)
{
	_cleanup_(state_closep) struct state *state = calloc(1, sizeof(*state));
	struct err damage = {0};
	int r;

	if (!state)
		return err_oom(err);
	state->dir_fd = state->db_fd = -EBADF;
	state->dir = strdup(dir);
	if (!state->dir)
		return err_oom(err);
	if (loop) {
		r = state_commit_from(state, loop, err);
		if (r < 0)
			return r;
	}

	r = lock(state, err);
	if (r < 0)
		return r;
	r = open_database(state, false, &damage);
	if (r == -EBADMSG) {
		log_warning(NULL, 0, "state database is damaged: %s", damage.text);
		r = set_aside(state, &damage);
		if (r >= 0)
			r = open_database(state, false, &damage);
		if (r >= 0)
			state->origin = STATE_ORIGIN_DAMAGED;
	}
	if (r < 0) {
		if (err)
			*err = damage;
		return r;
	}

	*ret = TAKE_PTR(state);
	return 0;
}

struct state *state_close(struct state *state)
{
	if (!state)
		return NULL;

	/* Nobody is called from a destructor. */
	state->n_waiters = state->n_ready = state->n_batch_waiters = 0;
	if (state->db)
		(void)state_commit(state, NULL);
	state->thread = commit_thread_free(state->thread);
	close_database(state);
	sd_event_source_disable_unref(state->turn_end);
	sd_event_source_disable_unref(state->retry);
	sd_event_unref(state->loop);
	for (size_t i = 0; i < state->n_changes; i++)
		state_change_free(state->changes[i]);
	for (size_t i = 0; i < state->n_batch; i++)
		state_change_free(state->batch[i]);
	free(state->changes);
	free(state->batch);
	free(state->waiters);
	state_facts_forget(state);
	(void)fd_close(state->dir_fd);
	free(state->dir);
	free(state);
	return NULL;
}

enum state_origin state_origin(const struct state *state)
{
	return state->origin;
}

bool state_is_incomplete(struct state *state)
{
	_cleanup_free_ char *text = NULL;

	return state_get(state, STATE_KEY_INCOMPLETE, &text, NULL) == 0 && text;
}

int state_complete(struct state *state)
{
	return state_set(state, STATE_KEY_INCOMPLETE, NULL);
}

uint64_t state_commit_max_usec(const struct state *state)
{
	return state->commit_max_usec;
}

/* The queue of changes. */

void state_change_free(struct state_change *change)
{
	if (!change)
		return;
	for (size_t i = 0; i < change->n_values; i++)
		free(change->values[i].text);
	free(change);
}

static bool value_equal(const struct state_value *a, const struct state_value *b)
{
	if (a->type != b->type || a->integer != b->integer)
		return false;
	return a->type != VALUE_TEXT || strcmp(a->text, b->text) == 0;
}

static bool same_row(const struct state_change *a, const struct state_change *b)
{
	if (a->statement != b->statement || a->n_keys != b->n_keys)
		return false;
	for (size_t i = 0; i < a->n_keys; i++)
		if (!value_equal(&a->values[i], &b->values[i]))
			return false;
	return a->n_keys > 0;
}

/* A change replaces a queued one of the same row; a removal is never passed on the way there. */
static struct state_change **find_replaced(struct state *state, const struct state_change *change)
{
	for (size_t i = state->n_changes; i > 0; i--) {
		struct state_change *other = state->changes[i - 1];

		if (other->statement == STATEMENT_REMOVE_TASK ||
		    other->statement == STATEMENT_UNSET)
			return NULL;
		if (same_row(other, change))
			return &state->changes[i - 1];
	}
	return NULL;
}

static struct state_change *change_new(enum statement statement, size_t n_keys,
                                       const struct state_value *values, size_t n_values)
{
	struct state_change *change;

	change = calloc(1, sizeof(*change) + n_values * sizeof(*values));
	if (!change)
		return NULL;
	change->statement = statement;
	change->n_keys = n_keys;
	for (size_t i = 0; i < n_values; i++) {
		struct state_value *value = &change->values[i];

		*value = (struct state_value){.type = values[i].type, .integer = values[i].integer};
		change->n_values = i + 1;
		if (value->type != VALUE_TEXT)
			continue;
		value->text = strdup(values[i].text);
		if (!value->text) {
			state_change_free(change);
			return NULL;
		}
	}
	return change;
}

int state_queue(struct state *state, enum statement statement, size_t n_keys,
                const struct state_value *values, size_t n_values)
{
	struct state_change *change, **replaced;

	if (state->n_changes >= STATE_CHANGES_MAX)
		return -ENOBUFS;
	if (state->n_changes == state->changes_allocated) {
		size_t n = state->changes_allocated ? 2 * state->changes_allocated : 32;
		void *p = reallocarray(state->changes, n, sizeof(*state->changes));

		if (!p)
			return -ENOMEM;
		state->changes = p;
		state->changes_allocated = n;
	}
	change = change_new(statement, n_keys, values, n_values);
	if (!change)
		return -ENOMEM;

	replaced = find_replaced(state, change);
	if (replaced) {
		state_change_free(*replaced);
		*replaced = change;
	} else {
		state->changes[state->n_changes++] = change;
	}
	state_arm(state);
	return 0;
}
