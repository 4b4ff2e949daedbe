/*
 * Room for commits on a disk that something else has filled. What containers write is on the same
 * file system, and goes away with their task, which ends only when its exit is durable: without
 * room for that, a task that fills the disk would keep it full for ever.
 *
 * So blocks are allocated beyond the ends of the log and of the database; their sizes stay. The log
 * is written from its beginning again after a checkpoint and keeps its blocks, as long as SQLite
 * does not truncate or delete it. The database loses those beyond its end with each checkpoint,
 * since SQLite then truncates it to its size, and is given them again right after.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/state/state_internal.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "lib/loop.h"

#define LOG            STATE_DATABASE "-wal"
#define INDEX          STATE_DATABASE "-shm"
#define LOG_BYTES      (8ll << 20) /* twice of what a checkpoint begins at */
#define DATABASE_BYTES (2ll << 20) /* at the least, and at the most twice as much */
/* SQLite's own default. */
#define CHECKPOINT_PAGES 1000
#define AGAIN_USEC       (10 * 1000 * 1000ull)

/* O_NONBLOCK: what is set aside may be no file at all. */
static int open_file(const struct state *state, const char *name)
{
	int fd = openat(state->dir_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

	return fd < 0 ? -errno : fd;
}

static int allocate(int fd, off_t offset, off_t n)
{
	while (fallocate(fd, FALLOC_FL_KEEP_SIZE, offset, n) < 0)
		if (errno != EINTR)
			return -errno;
	return 0;
}

static int reserve_log(const struct state *state)
{
	_cleanup_close_ int fd = open_file(state, LOG);

	return fd < 0 ? fd : allocate(fd, 0, LOG_BYTES);
}

/* Up to an end that is the same when the database has grown a little: on a full disk there is
 * just what a checkpoint has let go of. */
static int reserve_database(const struct state *state)
{
	struct stat st;
	off_t end;

	if (fstat(state->db_fd, &st) < 0)
		return -errno;
	end = (st.st_size / DATABASE_BYTES + 2) * DATABASE_BYTES;
	return allocate(state->db_fd, st.st_size, end - st.st_size);
}

static void reserve(struct state *state)
{
	int r = reserve_log(state), r_database = reserve_database(state);

	state->reserve_result = r < 0 ? r : r_database;
	state->reserve_again_usec = now_usec() + AGAIN_USEC;
}

/* After each commit, where it runs; n_pages: of the log. As SQLite does it by itself, a checkpoint
 * that fails is no failure of the commit, and comes again with the next one. */
static int on_logged(void *userdata, sqlite3 *db, const char *name, int n_pages)
{
	struct state *state = userdata;
	bool is_due = n_pages >= CHECKPOINT_PAGES;
	bool is_missing = state->reserve_result < 0 && state->reserve_result != -EOPNOTSUPP &&
	                  now_usec() >= state->reserve_again_usec;

	if (is_due)
		(void)sqlite3_wal_checkpoint_v2(db, name, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
	if (is_due || is_missing)
		reserve(state);
	return SQLITE_OK;
}

void state_reserve_start(struct state *state)
{
	int persist = 1;

	(void)sqlite3_wal_hook(state->db, on_logged, state);
	(void)sqlite3_file_control(state->db, "main", SQLITE_FCNTL_PERSIST_WAL, &persist);
	state->reserves = true;
	reserve(state);
	state_reserve_tell(state);
}

void state_reserve_tell(struct state *state)
{
	int r = state->reserve_result;

	if (r == state->reserve_told)
		return;
	state->reserve_told = r;
	if (r < 0)
		log_warning(NULL, r, "no room is reserved for the state database in %s",
		            state->dir);
	else
		log_info(NULL, "room is reserved for the state database again");
}

void state_reserve_keep(struct state *state)
{
	if (!state->reserves)
		return;
	state->reserves = false;
	(void)sqlite3_busy_timeout(state->db, 0);
	/* One that stays empty cannot be taken for the log of another database. */
	(void)sqlite3_wal_checkpoint_v2(state->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
	reserve(state);
}

/* The size that is left; -1: it is no file of ours. */
static off_t drop(const struct state *state, const char *name)
{
	_cleanup_close_ int fd = open_file(state, name);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return -1;
	/* Takes what is allocated beyond it; where it cannot, the file is too large by that. */
	if (ftruncate(fd, st.st_size) < 0)
		log_debug(NULL, "%s keeps the room that is reserved: %s", name, strerror(errno));
	return st.st_size;
}

void state_reserve_drop(const struct state *state)
{
	(void)drop(state, STATE_DATABASE);
	if (drop(state, LOG) == 0) {
		(void)unlinkat(state->dir_fd, LOG, 0);
		(void)unlinkat(state->dir_fd, INDEX, 0);
	}
}
