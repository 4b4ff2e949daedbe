/* The state store: what a transaction is, what survives a crash, and what is done about damage. */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "agent/state/state.h"
#include "lib/fd.h"
#include "lib/loop.h"

#define ARN "arn:aws:ecs:us-west-2:111122223333:task/blue/aa"

static char dir[] = "/tmp/test-state-XXXXXX";

static int make_dir(void **unused)
{
	(void)unused;
	strcpy(dir, "/tmp/test-state-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **unused)
{
	(void)unused;
	return dir_remove_all(AT_FDCWD, dir);
}

static struct state *open_state(void)
{
	struct state *state = NULL;
	struct err err = {0};

	if (state_open(dir, NULL, &state, &err) < 0)
		fail_msg("%s", err.text);
	return state;
}

static void put_task(struct state *state, const char *arn, uint64_t sequence)
{
	struct state_task task = {.arn = arn,
	                          .document = "{}",
	                          .desired = "RUNNING",
	                          .known = "NONE",
	                          .sent = "NONE",
	                          .sequence = sequence};

	assert_int_equal(state_put_task(state, &task), 0);
}

struct seen {
	char arns[8][64];
	char bodies[8][64];
	uint64_t ids[8];
	struct state_container container;
	char reason[64];
	size_t n;
};

static int see_task(const struct state_task *task, void *userdata)
{
	struct seen *seen = userdata;

	strcpy(seen->arns[seen->n++], task->arn);
	return 0;
}

static int see_container(const struct state_container *container, void *userdata)
{
	struct seen *seen = userdata;

	seen->container = *container;
	strcpy(seen->reason, container->reason ? container->reason : "(null)");
	seen->n++;
	return 0;
}

static int see_event(uint64_t id, const char *arn, const char *body, void *userdata)
{
	struct seen *seen = userdata;

	strcpy(seen->arns[seen->n], arn);
	strcpy(seen->bodies[seen->n], body);
	seen->ids[seen->n++] = id;
	return 0;
}

static void test_database_is_private_to_its_owner(void **unused)
{
	_cleanup_(state_closep) struct state *state = open_state();
	char path[128];
	struct stat st;

	(void)unused;
	snprintf(path, sizeof(path), "%s/" STATE_DATABASE, dir);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(state_origin(state), STATE_ORIGIN_NEW);
}

static void test_rows_are_read_back_as_written(void **unused)
{
	struct state_container container = {
		.task_arn = ARN,
		.name = "app",
		.desired = "RUNNING",
		.known = "STOPPED",
		.sent = "RUNNING",
		.has_exit_code = true,
		.exit_code = 137,
		.reason = "OutOfMemoryError: it's \"quoted\"",
		.finished_usec = UINT64_C(1782864000000001),
	};
	struct state *state = open_state();
	struct seen seen = {0}, tasks = {0};

	(void)unused;
	put_task(state, "later", 2);
	put_task(state, ARN, 1);
	assert_int_equal(state_put_container(state, &container), 0);
	state_close(state);

	state = open_state();
	assert_int_equal(state_origin(state), STATE_ORIGIN_KEPT);
	assert_int_equal(state_read_tasks(state, see_task, &tasks, NULL), 0);
	assert_int_equal(tasks.n, 2);
	assert_string_equal(tasks.arns[0], ARN);
	assert_string_equal(tasks.arns[1], "later");
	assert_int_equal(state_read_containers(state, ARN, see_container, &seen, NULL), 0);
	assert_int_equal(seen.n, 1);
	assert_true(seen.container.has_exit_code);
	assert_int_equal(seen.container.exit_code, 137);
	assert_string_equal(seen.reason, container.reason);
	assert_int_equal(seen.container.finished_usec, container.finished_usec);
	state_close(state);
}

static void test_unknown_exit_code_stays_unknown(void **unused)
{
	struct state_container container = {.task_arn = ARN,
	                                    .name = "app",
	                                    .desired = "STOPPED",
	                                    .known = "STOPPED",
	                                    .sent = "NONE"};
	struct state *state = open_state();
	struct seen seen = {0};

	(void)unused;
	assert_int_equal(state_put_container(state, &container), 0);
	assert_int_equal(state_commit(state, NULL), 0);
	assert_int_equal(state_read_containers(state, ARN, see_container, &seen, NULL), 0);
	assert_int_equal(seen.n, 1);
	assert_false(seen.container.has_exit_code);
	state_close(state);
}

static void test_removed_task_takes_containers_but_not_events(void **unused)
{
	struct state_container container = {.task_arn = ARN,
	                                    .name = "app",
	                                    .desired = "STOPPED",
	                                    .known = "STOPPED",
	                                    .sent = "NONE"};
	struct state *state = open_state();
	struct seen tasks = {0}, containers = {0}, events = {0};
	uint64_t id = 0;

	(void)unused;
	put_task(state, ARN, 1);
	assert_int_equal(state_put_container(state, &container), 0);
	assert_int_equal(state_add_event(state, ARN, "{}", &id), 0);
	assert_int_equal(state_remove_task(state, ARN), 0);
	assert_int_equal(state_commit(state, NULL), 0);
	assert_int_equal(state_read_tasks(state, see_task, &tasks, NULL), 0);
	assert_int_equal(state_read_containers(state, ARN, see_container, &containers, NULL), 0);
	assert_int_equal(state_read_events(state, see_event, &events, NULL), 0);
	assert_int_equal(tasks.n, 0);
	assert_int_equal(containers.n, 0);
	assert_int_equal(events.n, 1);
	state_close(state);
}

static void test_task_put_again_after_its_removal_is_there(void **unused)
{
	struct state *state = open_state();
	struct seen seen = {0};

	(void)unused;
	put_task(state, ARN, 1);
	assert_int_equal(state_remove_task(state, ARN), 0);
	put_task(state, ARN, 2);
	assert_int_equal(state_commit(state, NULL), 0);
	assert_int_equal(state_read_tasks(state, see_task, &seen, NULL), 0);
	assert_int_equal(seen.n, 1);
	state_close(state);
}

static void test_event_ids_are_never_used_again(void **unused)
{
	struct state *state = open_state();
	uint64_t first = 0, second = 0;
	struct seen seen = {0};

	(void)unused;
	assert_int_equal(state_add_event(state, ARN, "1", &first), 0);
	assert_int_equal(state_remove_event(state, first), 0);
	state_close(state);

	state = open_state();
	assert_int_equal(state_add_event(state, ARN, "2", &second), 0);
	assert_true(second > first);
	assert_int_equal(state_commit(state, NULL), 0);
	assert_int_equal(state_read_events(state, see_event, &seen, NULL), 0);
	assert_int_equal(seen.n, 1);
	assert_string_equal(seen.bodies[0], "2");
	state_close(state);
}

static void test_facts_are_seen_before_they_are_durable(void **unused)
{
	_cleanup_(state_closep) struct state *state = open_state();
	_cleanup_free_ char *first = NULL, *second = NULL, *third = NULL;

	(void)unused;
	assert_int_equal(state_set(state, "cluster", "blue"), 0);
	assert_int_equal(state_get(state, "cluster", &first, NULL), 0);
	assert_string_equal(first, "blue");
	assert_int_equal(state_commit(state, NULL), 0);
	assert_int_equal(state_set(state, "cluster", NULL), 0);
	assert_int_equal(state_get(state, "cluster", &second, NULL), 0);
	assert_null(second);
	assert_int_equal(state_commit(state, NULL), 0);
	assert_int_equal(state_get(state, "cluster", &third, NULL), 0);
	assert_null(third);
}

static void count(void *userdata)
{
	(*(int *)userdata)++;
}

static void test_waiters_run_after_the_commit_and_once(void **unused)
{
	_cleanup_(state_closep) struct state *state = open_state();
	int ran = 0, forgotten = 0;

	(void)unused;
	put_task(state, ARN, 1);
	assert_int_equal(state_after_commit(state, count, &ran), 0);
	assert_int_equal(state_after_commit(state, count, &forgotten), 0);
	assert_int_equal(ran, 0);
	state_forget(state, &forgotten);
	assert_int_equal(state_commit(state, NULL), 0);
	assert_int_equal(state_commit(state, NULL), 0);
	assert_int_equal(ran, 1);
	assert_int_equal(forgotten, 0);
}

static void end_loop(void *userdata)
{
	(void)sd_event_exit(userdata, 0);
}

static void test_loop_commits_at_the_end_of_the_turn(void **unused)
{
	_cleanup_(sd_event_unrefp) sd_event *loop = NULL;
	_cleanup_(state_closep) struct state *state = NULL;
	struct seen seen = {0};

	(void)unused;
	assert_int_equal(sd_event_new(&loop), 0);
	assert_int_equal(state_open(dir, loop, &state, NULL), 0);
	put_task(state, ARN, 1);
	put_task(state, "other", 2);
	assert_int_equal(state_after_commit(state, end_loop, loop), 0);
	assert_int_equal(state_read_tasks(state, see_task, &seen, NULL), 0);
	assert_int_equal(seen.n, 0);
	assert_int_equal(sd_event_loop(loop), 0);
	assert_int_equal(state_read_tasks(state, see_task, &seen, NULL), 0);
	assert_int_equal(seen.n, 2);
}

static void test_changes_queued_while_a_transaction_is_written_are_the_next_one(void **unused)
{
	_cleanup_(sd_event_unrefp) sd_event *loop = NULL;
	_cleanup_(state_closep) struct state *state = NULL;
	struct seen first = {0}, all = {0};
	int ran = 0;

	(void)unused;
	assert_int_equal(sd_event_new(&loop), 0);
	assert_int_equal(state_open(dir, loop, &state, NULL), 0);
	put_task(state, ARN, 1);
	assert_int_equal(state_after_commit(state, count, &ran), 0);
	assert_true(sd_event_run(loop, 0) > 0); /* hands it to the thread */
	put_task(state, "other", 2);
	assert_int_equal(state_after_commit(state, end_loop, loop), 0);
	assert_int_equal(ran, 0);
	/* Reading waits for what is being written, and for no more. */
	assert_int_equal(state_read_tasks(state, see_task, &first, NULL), 0);
	assert_int_equal(first.n, 1);

	assert_int_equal(sd_event_loop(loop), 0);
	assert_int_equal(ran, 1);
	assert_int_equal(state_read_tasks(state, see_task, &all, NULL), 0);
	assert_int_equal(all.n, 2);
}

static void test_transaction_that_fails_in_the_loop_is_tried_again_before_later_ones(void **unused)
{
	_cleanup_(sd_event_unrefp) sd_event *loop = NULL;
	_cleanup_(state_closep) struct state *state = NULL;
	struct rlimit old, none = {0};
	struct seen seen = {0};
	int ran = 0;

	(void)unused;
	(void)signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	none.rlim_max = old.rlim_max;
	assert_int_equal(sd_event_new(&loop), 0);
	assert_int_equal(state_open(dir, loop, &state, NULL), 0);
	put_task(state, ARN, 1);
	assert_int_equal(state_after_commit(state, count, &ran), 0);

	assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
	assert_true(sd_event_run(loop, 0) > 0);
	assert_true(sd_event_run(loop, 10000000) > 0); /* the thread's answer */
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(ran, 0);
	assert_int_equal(state_read_tasks(state, see_task, &seen, NULL), 0);
	assert_int_equal(seen.n, 0);

	assert_int_equal(state_remove_task(state, ARN), 0);
	assert_int_equal(state_after_commit(state, end_loop, loop), 0);
	assert_int_equal(sd_event_loop(loop), 0);
	assert_int_equal(ran, 1);
	assert_int_equal(state_read_tasks(state, see_task, &seen, NULL), 0);
	assert_int_equal(seen.n, 0);
}

/* What was committed before SIGKILL is there afterwards, and nothing of the queue behind it. */
static void test_crash_keeps_transactions_whole(void **unused)
{
	struct state *state;
	struct seen tasks = {0}, events = {0};
	uint64_t id = 0;
	int status = 0;
	pid_t pid;

	(void)unused;
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		state = open_state();
		put_task(state, ARN, 1);
		(void)state_add_event(state, ARN, "committed", &id);
		if (state_commit(state, NULL) < 0)
			_exit(1);
		put_task(state, "lost", 2);
		(void)state_add_event(state, "lost", "lost", &id);
		(void)raise(SIGKILL);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));

	state = open_state();
	assert_int_equal(state_origin(state), STATE_ORIGIN_KEPT);
	assert_int_equal(state_read_tasks(state, see_task, &tasks, NULL), 0);
	assert_int_equal(state_read_events(state, see_event, &events, NULL), 0);
	assert_int_equal(tasks.n, 1);
	assert_string_equal(tasks.arns[0], ARN);
	assert_int_equal(events.n, 1);
	assert_string_equal(events.bodies[0], "committed");
	state_close(state);
}

/* A file size limit stands in for a full disk. */
static void test_failed_commit_is_run_again_later(void **unused)
{
	_cleanup_(state_closep) struct state *state = open_state();
	struct rlimit old, none = {0};
	struct seen seen = {0};
	int ran = 0;

	(void)unused;
	(void)signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	none.rlim_max = old.rlim_max;
	put_task(state, ARN, 1);
	assert_int_equal(state_after_commit(state, count, &ran), 0);

	assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
	assert_true(state_commit(state, NULL) < 0);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_int_equal(ran, 0);

	assert_int_equal(state_commit(state, NULL), 0);
	assert_int_equal(ran, 1);
	assert_int_equal(state_read_tasks(state, see_task, &seen, NULL), 0);
	assert_int_equal(seen.n, 1);
}

static void overwrite(off_t offset, const char *bytes, size_t n)
{
	_cleanup_close_ int fd = -EBADF;
	char path[128];

	snprintf(path, sizeof(path), "%s/" STATE_DATABASE, dir);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, bytes, n, offset), (ssize_t)n);
}

static size_t count_set_aside(void)
{
	char pattern[128];
	glob_t found;
	size_t n;

	snprintf(pattern, sizeof(pattern), "%s/" STATE_DATABASE ".damaged-*", dir);
	n = glob(pattern, 0, NULL, &found) == 0 ? found.gl_pathc : 0;
	globfree(&found);
	return n;
}

static char *database_path(void)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/" STATE_DATABASE, dir);
	return path;
}

static void execute(const char *sql)
{
	char *message = NULL;
	sqlite3 *db = NULL;

	assert_int_equal(sqlite3_open(database_path(), &db), SQLITE_OK);
	if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK)
		fail_msg("%s: %s", sql, message);
	sqlite3_close(db);
}

static void query(const char *sql, char *ret, size_t n)
{
	sqlite3_stmt *stmt = NULL;
	sqlite3 *db = NULL;

	assert_int_equal(sqlite3_open(database_path(), &db), SQLITE_OK);
	assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &stmt, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(stmt), SQLITE_ROW);
	snprintf(ret, n, "%s", (const char *)sqlite3_column_text(stmt, 0));
	sqlite3_finalize(stmt);
	sqlite3_close(db);
}

static void damage_with_zeros(void)
{
	static const char zeros[8192];

	overwrite(0, zeros, sizeof(zeros));
}

static void damage_with_text(void)
{
	static const char garbage[] = "this is not what a database looks like at all, is it?";

	overwrite(0, garbage, sizeof(garbage));
}

/* The first page, which says what tables there are, is whole. */
static void damage_later_pages(void)
{
	struct stat st;
	char page[4096];

	assert_int_equal(stat(database_path(), &st), 0);
	memset(page, 0xa5, sizeof(page));
	for (off_t at = 4096; at < st.st_size; at += 4096)
		overwrite(at, page, sizeof(page));
}

static void damage_by_truncation(void)
{
	assert_int_equal(truncate(database_path(), 4096 + 100), 0);
}

static void damage_with_a_directory(void)
{
	assert_int_equal(unlink(database_path()), 0);
	assert_int_equal(mkdir(database_path(), 0700), 0);
}

static void damage_with_a_link(void)
{
	assert_int_equal(unlink(database_path()), 0);
	assert_int_equal(symlink("/dev/zero", database_path()), 0);
}

static void damage_with_a_fifo(void)
{
	assert_int_equal(unlink(database_path()), 0);
	assert_int_equal(mkfifo(database_path(), 0600), 0);
}

static void damage_without_a_table(void)
{
	execute("DROP TABLE containers");
}

static void damage_the_version(void)
{
	execute("PRAGMA user_version=0");
}

static void damage_the_version_below_zero(void)
{
	execute("PRAGMA user_version=-3");
}

static void test_damaged_database_is_set_aside_whatever_the_damage(void **unused)
{
	static const struct {
		const char *name;
		void (*damage)(void);
	} cases[] = {
		{"zeros", damage_with_zeros},
		{"text", damage_with_text},
		{"later pages", damage_later_pages},
		{"truncated", damage_by_truncation},
		{"directory", damage_with_a_directory},
		{"link", damage_with_a_link},
		{"fifo", damage_with_a_fifo},
		{"no table", damage_without_a_table},
		{"version 0", damage_the_version},
		{"version -3", damage_the_version_below_zero},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct state *state = open_state();
		struct seen seen = {0};
		size_t before = count_set_aside();

		print_message("%s\n", cases[i].name);
		put_task(state, ARN, 1);
		assert_int_equal(state_complete(state), 0);
		state_close(state);
		cases[i].damage();

		state = open_state();
		assert_int_equal(state_origin(state), STATE_ORIGIN_DAMAGED);
		assert_true(state_is_incomplete(state));
		assert_int_equal(count_set_aside(), before < 5 ? before + 1 : 5);
		assert_int_equal(state_read_tasks(state, see_task, &seen, NULL), 0);
		assert_int_equal(seen.n, 0);
		put_task(state, ARN, 1);
		assert_int_equal(state_commit(state, NULL), 0);
		state_close(state);
	}
	(void)unused;
}

static void test_deleted_database_does_not_meet_the_old_log(void **unused)
{
	struct state *state = open_state();
	struct seen seen = {0};
	char from[160], to[160];

	(void)unused;
	put_task(state, ARN, 1);
	assert_int_equal(state_commit(state, NULL), 0);
	/* Closing would merge the log into the database. */
	snprintf(from, sizeof(from), "%s-wal", database_path());
	snprintf(to, sizeof(to), "%s-kept", database_path());
	assert_int_equal(link(from, to), 0);
	state_close(state);
	assert_int_equal(unlink(database_path()), 0);
	assert_int_equal(rename(to, from), 0);

	state = open_state();
	assert_int_equal(state_origin(state), STATE_ORIGIN_NEW);
	assert_true(state_is_incomplete(state));
	assert_int_equal(state_read_tasks(state, see_task, &seen, NULL), 0);
	assert_int_equal(seen.n, 0);
	state_close(state);
}

static void test_read_only_database_of_ours_is_made_writable(void **unused)
{
	struct state *state = open_state();
	struct seen seen = {0};

	(void)unused;
	put_task(state, ARN, 1);
	state_close(state);
	assert_int_equal(chmod(database_path(), 0400), 0);
	state = open_state();
	assert_int_equal(state_origin(state), STATE_ORIGIN_KEPT);
	put_task(state, ARN "2", 2);
	assert_int_equal(state_commit(state, NULL), 0);
	assert_int_equal(state_read_tasks(state, see_task, &seen, NULL), 0);
	assert_int_equal(seen.n, 2);
	state_close(state);
}

static void test_new_database_is_incomplete_until_it_is_said_to_be_complete(void **unused)
{
	struct state *state = open_state();

	(void)unused;
	assert_true(state_is_incomplete(state));
	state_close(state);
	state = open_state(); /* the program ended before it could rebuild anything */
	assert_int_equal(state_origin(state), STATE_ORIGIN_KEPT);
	assert_true(state_is_incomplete(state));
	assert_int_equal(state_complete(state), 0);
	assert_false(state_is_incomplete(state));
	state_close(state);
	state = open_state();
	assert_false(state_is_incomplete(state));
	assert_int_equal(state_reset(state, NULL), 0);
	assert_false(state_is_incomplete(state));
	state_close(state);
}

static void test_database_of_version_1_is_brought_up_to_date(void **unused)
{
	struct state *state = open_state();
	struct seen seen = {0};
	char text[32];

	(void)unused;
	put_task(state, ARN, 1);
	assert_int_equal(state_complete(state), 0);
	state_close(state);
	execute("ALTER TABLE containers DROP COLUMN restart_count;"
	        "ALTER TABLE containers DROP COLUMN managed_agent;"
	        "DELETE FROM instance WHERE key='schema-compatible'; PRAGMA user_version=1");

	state = open_state();
	assert_int_equal(state_origin(state), STATE_ORIGIN_KEPT);
	assert_int_equal(state_read_tasks(state, see_task, &seen, NULL), 0);
	assert_int_equal(seen.n, 1);
	state_close(state);
	query("PRAGMA user_version", text, sizeof(text));
	assert_int_equal(atoi(text), STATE_SCHEMA_VERSION);
	query("SELECT count(restart_count) FROM containers", text, sizeof(text));
	assert_string_equal(text, "0");
	query("SELECT value FROM instance WHERE key='schema-compatible'", text, sizeof(text));
	assert_string_equal(text, "2");
}

/* What a later version may do without shutting this one out. */
static void make_newer(void)
{
	char pragma[40];

	execute("ALTER TABLE tasks ADD COLUMN colour TEXT NOT NULL DEFAULT 'none';"
	        "ALTER TABLE containers ADD COLUMN restarts INTEGER NOT NULL DEFAULT 0;"
	        "ALTER TABLE instance ADD COLUMN since INTEGER NOT NULL DEFAULT 7;"
	        "ALTER TABLE images ADD COLUMN pulls INTEGER NOT NULL DEFAULT 1;"
	        "CREATE TABLE volumes (name TEXT PRIMARY KEY NOT NULL);"
	        "INSERT INTO volumes VALUES ('data');"
	        "UPDATE tasks SET colour='blue'; UPDATE containers SET restarts=5;"
	        "UPDATE instance SET since=9; UPDATE images SET pulls=3;");
	snprintf(pragma, sizeof(pragma), "PRAGMA user_version=%d", STATE_SCHEMA_VERSION + 1);
	execute(pragma);
}

static void test_newer_schema_that_only_adds_is_used_and_keeps_what_it_added(void **unused)
{
	const struct state_container container = {.task_arn = ARN,
	                                          .name = "app",
	                                          .desired = "RUNNING",
	                                          .known = "NONE",
	                                          .sent = "NONE"};
	struct state_container running = container;
	struct state *state = open_state();
	struct seen seen = {0};
	char text[32];

	(void)unused;
	put_task(state, ARN, 1);
	assert_int_equal(state_put_container(state, &container), 0);
	assert_int_equal(state_put_image(state, "busybox", "sha256:1"), 0);
	assert_int_equal(state_set(state, "cluster", "blue"), 0);
	state_close(state);
	make_newer();

	state = open_state();
	assert_int_equal(state_origin(state), STATE_ORIGIN_KEPT);
	put_task(state, ARN, 4);
	put_task(state, ARN "2", 5);
	running.known = "RUNNING";
	assert_int_equal(state_put_container(state, &running), 0);
	assert_int_equal(state_put_image(state, "busybox", "sha256:2"), 0);
	assert_int_equal(state_set(state, "cluster", "green"), 0);
	assert_int_equal(state_commit(state, NULL), 0);
	assert_int_equal(state_read_containers(state, ARN, see_container, &seen, NULL), 0);
	state_close(state);

	query("PRAGMA user_version", text, sizeof(text));
	assert_int_equal(atoi(text), STATE_SCHEMA_VERSION + 1);
	query("SELECT colour||sequence FROM tasks WHERE arn='" ARN "'", text, sizeof(text));
	assert_string_equal(text, "blue4");
	query("SELECT colour||sequence FROM tasks WHERE arn='" ARN "2'", text, sizeof(text));
	assert_string_equal(text, "none5");
	query("SELECT restarts||known FROM containers", text, sizeof(text));
	assert_string_equal(text, "5RUNNING");
	query("SELECT pulls||digest FROM images", text, sizeof(text));
	assert_string_equal(text, "3sha256:2");
	query("SELECT since||value FROM instance WHERE key='cluster'", text, sizeof(text));
	assert_string_equal(text, "9green");
	query("SELECT name FROM volumes", text, sizeof(text));
	assert_string_equal(text, "data");
}

static void test_newer_schema_that_is_not_for_us_is_refused_by_name_and_kept(void **unused)
{
	static const char *const cases[] = {
		"PRAGMA user_version=99; UPDATE instance SET value='98' WHERE key='schema-compatible'",
		"PRAGMA user_version=99; DELETE FROM instance WHERE key='schema-compatible'",
		"PRAGMA user_version=99; UPDATE instance SET value='x' WHERE key='schema-compatible'",
		"PRAGMA user_version=99; ALTER TABLE tasks RENAME COLUMN known TO known2",
		"PRAGMA user_version=99; DROP TABLE instance",
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct state *state = open_state();
		struct err err = {0};
		char text[32];

		print_message("%s\n", cases[i]);
		state = state_close(state);
		execute(cases[i]);
		assert_int_equal(state_open(dir, NULL, &state, &err), -EPROTONOSUPPORT);
		assert_non_null(strstr(err.text, "version 99"));
		assert_non_null(strstr(err.text, "install"));
		assert_int_equal(count_set_aside(), 0);
		query("PRAGMA user_version", text, sizeof(text));
		assert_string_equal(text, "99");
		assert_int_equal(unlink(database_path()), 0);
	}
	(void)unused;
}

static void test_second_agent_is_refused(void **unused)
{
	_cleanup_(state_closep) struct state *state = open_state();
	struct state *other = NULL;
	struct err err = {0};

	(void)unused;
	assert_int_equal(state_open(dir, NULL, &other, &err), -EBUSY);
	assert_null(other);
}

static void test_reset_begins_anew_and_keeps_the_old_file(void **unused)
{
	_cleanup_(state_closep) struct state *state = open_state();
	struct seen seen = {0};

	(void)unused;
	put_task(state, ARN, 1);
	assert_int_equal(state_commit(state, NULL), 0);
	assert_int_equal(state_reset(state, NULL), 0);
	assert_int_equal(state_origin(state), STATE_ORIGIN_REMOVED);
	assert_int_equal(state_read_tasks(state, see_task, &seen, NULL), 0);
	assert_int_equal(seen.n, 0);
	assert_int_equal(count_set_aside(), 1);
	put_task(state, ARN, 1);
	assert_int_equal(state_commit(state, NULL), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, make_dir, remove_dir)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_database_is_private_to_its_owner),
		TEST(test_rows_are_read_back_as_written),
		TEST(test_unknown_exit_code_stays_unknown),
		TEST(test_removed_task_takes_containers_but_not_events),
		TEST(test_task_put_again_after_its_removal_is_there),
		TEST(test_event_ids_are_never_used_again),
		TEST(test_facts_are_seen_before_they_are_durable),
		TEST(test_waiters_run_after_the_commit_and_once),
		TEST(test_loop_commits_at_the_end_of_the_turn),
		TEST(test_changes_queued_while_a_transaction_is_written_are_the_next_one),
		TEST(test_transaction_that_fails_in_the_loop_is_tried_again_before_later_ones),
		TEST(test_crash_keeps_transactions_whole),
		TEST(test_failed_commit_is_run_again_later),
		TEST(test_damaged_database_is_set_aside_whatever_the_damage),
		TEST(test_deleted_database_does_not_meet_the_old_log),
		TEST(test_read_only_database_of_ours_is_made_writable),
		TEST(test_new_database_is_incomplete_until_it_is_said_to_be_complete),
		TEST(test_database_of_version_1_is_brought_up_to_date),
		TEST(test_newer_schema_that_only_adds_is_used_and_keeps_what_it_added),
		TEST(test_newer_schema_that_is_not_for_us_is_refused_by_name_and_kept),
		TEST(test_second_agent_is_refused),
		TEST(test_reset_begins_anew_and_keeps_the_old_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
