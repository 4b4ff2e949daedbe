/* State stores that are damaged, of another version, or not ours alone: what becomes of each. */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sqlite3.h>

#include "lib/fd.h"
#include "tests/unit/state_fixture.h"

static void overwrite(off_t offset, const char *bytes, size_t n)
{
	_cleanup_close_ int fd = -EBADF;
	char path[128];

	snprintf(path, sizeof(path), "%s/" STATE_DATABASE, state_dir);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, bytes, n, offset), (ssize_t)n);
}

static size_t count_set_aside(void)
{
	char pattern[128];
	glob_t found;
	size_t n;

	snprintf(pattern, sizeof(pattern), "%s/" STATE_DATABASE ".damaged-*", state_dir);
	n = glob(pattern, 0, NULL, &found) == 0 ? found.gl_pathc : 0;
	globfree(&found);
	return n;
}

static char *database_path(void)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/" STATE_DATABASE, state_dir);
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

static void copy_file(const char *from, const char *to)
{
	_cleanup_close_ int in = open(from, O_RDONLY | O_CLOEXEC);
	_cleanup_close_ int out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	struct stat st;

	assert_int_equal(fstat(in, &st), 0);
	assert_true(st.st_size > 0);
	assert_int_equal(sendfile(out, in, NULL, (size_t)st.st_size), st.st_size);
}

static void test_deleted_database_does_not_meet_the_old_log(void **unused)
{
	struct state *state = open_state();
	struct seen seen = {0};
	char from[160], to[160];

	(void)unused;
	put_task(state, ARN, 1);
	assert_int_equal(state_commit(state, NULL), 0);
	/* Closing merges the log into the database. */
	snprintf(from, sizeof(from), "%s-wal", database_path());
	snprintf(to, sizeof(to), "%s-kept", database_path());
	copy_file(from, to);
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
		assert_int_equal(state_open(state_dir, NULL, &state, &err), -EPROTONOSUPPORT);
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
	assert_int_equal(state_open(state_dir, NULL, &other, &err), -EBUSY);
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

int main(void)
{
	const struct CMUnitTest tests[] = {
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
