/* The state store: what a transaction is, and what survives a crash. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/loop.h"
#include "tests/unit/state_fixture.h"

static void test_database_is_private_to_its_owner(void **unused)
{
	_cleanup_(state_closep) struct state *state = open_state();
	char path[128];
	struct stat st;

	(void)unused;
	snprintf(path, sizeof(path), "%s/" STATE_DATABASE, state_dir);
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
	assert_int_equal(state_open(state_dir, loop, &state, NULL), 0);
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
	assert_int_equal(state_open(state_dir, loop, &state, NULL), 0);
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
	assert_int_equal(state_open(state_dir, loop, &state, NULL), 0);
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

#define MIB (1ll << 20)

static struct stat look_at(const char *name)
{
	char path[128];
	struct stat st;

	snprintf(path, sizeof(path), "%s/%s", state_dir, name);
	assert_int_equal(stat(path, &st), 0);
	return st;
}

/* What the file has on the disk beyond its end. */
static long long room_beyond(const char *name)
{
	struct stat st = look_at(name);

	return 512ll * st.st_blocks - st.st_size;
}

static bool can_reserve(void)
{
	_cleanup_close_ int fd = open(state_dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	return fd >= 0 && fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, MIB) == 0;
}

static void test_room_on_the_disk_is_the_databases_own_over_checkpoints_and_restarts(void **unused)
{
	static const char log[] = STATE_DATABASE "-wal";
	static char body[MIB];
	struct state *state;
	uint64_t id;

	(void)unused;
	if (!can_reserve())
		skip(); /* the file system of /tmp cannot */
	state = open_state();
	assert_true(512ll * look_at(log).st_blocks >= 8 * MIB);
	assert_true(room_beyond(STATE_DATABASE) >= 2 * MIB);

	/* Each is a quarter of what makes a checkpoint. */
	memset(body, 'x', sizeof(body) - 1);
	for (int i = 0; i < 5; i++) {
		assert_int_equal(state_add_event(state, ARN, body, &id), 0);
		assert_int_equal(state_commit(state, NULL), 0);
	}
	assert_true(look_at(STATE_DATABASE).st_size >= 4 * MIB);
	assert_true(look_at(log).st_size < 5 * MIB); /* begun again */
	assert_true(512ll * look_at(log).st_blocks >= 8 * MIB);
	assert_true(room_beyond(STATE_DATABASE) >= 2 * MIB);

	state_close(state);
	assert_int_equal(look_at(log).st_size, 0);
	assert_true(room_beyond(log) >= 8 * MIB);
	assert_true(room_beyond(STATE_DATABASE) >= 2 * MIB);
	state = open_state();
	assert_int_equal(state_origin(state), STATE_ORIGIN_KEPT);
	state_close(state);
}

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
		TEST(test_room_on_the_disk_is_the_databases_own_over_checkpoints_and_restarts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
