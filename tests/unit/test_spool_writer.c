/* The writer of a log stream, on a directory of the test's own. */
#include "lib/spool_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/spool_reader.h"
#include "tests/unit/cmocka_prelude.h"

struct world {
	char path[64];
	int spool_fd;
};

static int set_up(void **state)
{
	static struct world world;

	snprintf(world.path, sizeof(world.path), "/tmp/test_spool_writer.XXXXXX");
	if (!mkdtemp(world.path))
		return -1;
	world.spool_fd = open(world.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*state = &world;
	return world.spool_fd < 0;
}

static int tear_down(void **state)
{
	struct world *world = *state;

	fd_close(world->spool_fd);
	return dir_remove_all(AT_FDCWD, world->path);
}

static struct spool_writer *open_stream(const struct world *world, uint64_t max_bytes,
                                        bool blocking)
{
	const struct spool_stream_options options = {
		.task_id = "task",
		.container = "app",
		.log_json = "{}",
		.log_json_len = 2,
		.max_bytes = max_bytes,
		.blocking = blocking,
	};
	struct spool_writer *writer;
	struct err err = {0};

	if (spool_writer_open(world->spool_fd, &options, &writer, &err) < 0)
		fail_msg("%s", err.text);
	return writer;
}

static void segment_path(uint32_t number, char *buf, size_t n)
{
	char name[SPOOL_SEGMENT_NAME_BYTES];

	spool_segment_name(number, name);
	snprintf(buf, n, "task/app/%s", name);
}

static bool exists(const struct world *world, const char *path)
{
	return faccessat(world->spool_fd, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* What a segment holds: "1:text" for a record, "gap:records:bytes", joined by blanks. */
static void describe_segment(const struct world *world, uint32_t number, char *buf, size_t n)
{
	_cleanup_free_ char *data = NULL;
	char path[64];
	size_t len, used = 0;

	segment_path(number, path, sizeof(path));
	assert_int_equal(file_read(world->spool_fd, path, 1 << 22, &data, &len), 0);
	buf[0] = '\0';
	for (size_t at = 0; at < len;) {
		struct spool_header header;
		const char *bytes = data + at + SPOOL_HEADER_BYTES;
		uint64_t records, dropped;

		assert_int_equal(spool_header_decode((const uint8_t *)data + at, &header), 0);
		assert_true(spool_record_is_intact(&header, bytes));
		if (header.stream == SPOOL_GAP) {
			assert_int_equal(spool_gap_decode(bytes, header.length, &records, &dropped),
			                 0);
			used += (size_t)snprintf(buf + used, n - used, "gap:%llu:%llu ",
			                         (unsigned long long)records,
			                         (unsigned long long)dropped);
		} else {
			used += (size_t)snprintf(buf + used, n - used, "%d:%.*s ", header.stream,
			                         (int)header.length, bytes);
		}
		at += SPOOL_HEADER_BYTES + header.length;
	}
	if (used > 0)
		buf[used - 1] = '\0';
}

static void append(struct spool_writer *writer, enum spool_stream stream, const char *text)
{
	spool_writer_append(writer, stream, 1, text, strlen(text), false);
}

static void test_records_go_to_the_first_segment_and_end_is_last(void **state)
{
	struct world *world = *state;
	struct spool_writer *writer = open_stream(world, SPOOL_MAX_BYTES, true);
	char text[256];

	assert_true(exists(world, "task/app/log.json"));
	assert_false(exists(world, "task/app/00000001.seg"));
	append(writer, SPOOL_STDOUT, "one");
	append(writer, SPOOL_STDERR, "two");
	describe_segment(world, 1, text, sizeof(text));
	assert_string_equal(text, "1:one 2:two");
	assert_false(exists(world, "task/app/end"));
	assert_int_equal(spool_writer_end(writer, NULL), 0);
	assert_true(exists(world, "task/app/end"));
	spool_writer_free(writer);
}

static void test_a_record_is_never_split_over_segments(void **state)
{
	struct world *world = *state;
	struct spool_writer *writer = open_stream(world, SPOOL_MAX_BYTES, true);
	static char data[60000];
	struct stat st;
	char path[64];

	for (int i = 0; i < 40; i++)
		spool_writer_append(writer, SPOOL_STDOUT, 1, data, sizeof(data), false);
	for (uint32_t n = 1; n <= 3; n++) {
		segment_path(n, path, sizeof(path));
		assert_int_equal(fstatat(world->spool_fd, path, &st, 0), 0);
		assert_true(st.st_size <= SPOOL_SEGMENT_BYTES);
		assert_int_equal(st.st_size % (off_t)(sizeof(data) + SPOOL_HEADER_BYTES), 0);
	}
	spool_writer_free(writer);
}

/* The writer looks at the directory at most every 20 ms; wait until it says what it should. */
static void wait_for_room(struct spool_writer *writer, bool room)
{
	const struct timespec pause = {.tv_nsec = 1000000};

	for (int i = 0; i < 5000; i++) {
		if (spool_writer_has_room(writer) == room)
			return;
		nanosleep(&pause, NULL);
	}
	fail_msg("has_room did not become %d", room);
}

static void test_blocking_waits_at_the_bound_until_a_segment_is_deleted(void **state)
{
	struct world *world = *state;
	struct spool_writer *writer = open_stream(world, 10000, true);
	static char data[6000];
	char path[64];

	assert_true(spool_writer_has_room(writer));
	spool_writer_append(writer, SPOOL_STDOUT, 1, data, sizeof(data), false);
	assert_true(spool_writer_has_room(writer));
	spool_writer_append(writer, SPOOL_STDOUT, 1, data, sizeof(data), false);
	wait_for_room(writer, false);

	segment_path(1, path, sizeof(path));
	assert_int_equal(unlinkat(world->spool_fd, path, 0), 0);
	wait_for_room(writer, true);
	spool_writer_free(writer);
}

static void test_at_the_bound_the_last_segment_becomes_complete(void **state)
{
	struct world *world = *state;
	struct spool_writer *writer = open_stream(world, 4000, true);
	const struct timespec pause = {.tv_nsec = 1000000};
	static char data[5000];

	spool_writer_append(writer, SPOOL_STDOUT, 1, data, sizeof(data), false);
	for (int i = 0; i < 5000 && !exists(world, "task/app/00000002.seg"); i++) {
		assert_false(spool_writer_has_room(writer));
		nanosleep(&pause, NULL);
	}
	assert_true(exists(world, "task/app/00000002.seg"));
	/* Once is enough: the empty one is there for as long as nothing is written. */
	for (int i = 0; i < 60; i++) {
		assert_false(spool_writer_has_room(writer));
		nanosleep(&pause, NULL);
	}
	assert_false(exists(world, "task/app/00000003.seg"));
	spool_writer_free(writer);
}

static void test_non_blocking_drops_counts_and_tells_once_there_is_room(void **state)
{
	struct world *world = *state;
	struct spool_writer *writer = open_stream(world, 5000, false);
	const struct timespec pause = {.tv_nsec = 1000000};
	static char data[6000];
	uint64_t records, bytes;
	char path[64], text[256];

	spool_writer_append(writer, SPOOL_STDOUT, 1, data, sizeof(data), false);
	append(writer, SPOOL_STDOUT, "lost");
	append(writer, SPOOL_STDERR, "also");
	spool_writer_dropped(writer, &records, &bytes);
	assert_int_equal(records, 2);
	assert_int_equal(bytes, 8);
	assert_true(spool_writer_has_room(writer));

	segment_path(1, path, sizeof(path));
	assert_int_equal(unlinkat(world->spool_fd, path, 0), 0);
	for (int i = 0; i < 5000; i++) {
		uint64_t before = records;

		append(writer, SPOOL_STDOUT, "x");
		spool_writer_dropped(writer, &records, &bytes);
		if (records == before)
			break;
		nanosleep(&pause, NULL);
	}
	describe_segment(world, 2, text, sizeof(text));
	snprintf(path, sizeof(path), "gap:%llu:%llu 1:x", (unsigned long long)records,
	         (unsigned long long)bytes);
	assert_string_equal(text, path);
	spool_writer_free(writer);
}

static void test_the_rest_of_a_container_goes_beyond_the_bound(void **state)
{
	struct world *world = *state;
	struct spool_writer *writer = open_stream(world, 100, true);
	char text[512];

	append(writer, SPOOL_STDOUT,
	       "0123456789012345678901234567890123456789012345678901234567890123"
	       "4567890123456789");
	wait_for_room(writer, false);
	spool_writer_append(writer, SPOOL_STDOUT, 1, "last", 4, true);
	spool_writer_end(writer, NULL);
	describe_segment(world, exists(world, "task/app/00000002.seg") ? 2 : 1, text, sizeof(text));
	assert_non_null(strstr(text, "1:last"));
	spool_writer_free(writer);
}

static void test_a_gap_that_was_not_told_is_told_at_the_end(void **state)
{
	struct world *world = *state;
	struct spool_writer *writer = open_stream(world, 10, false);
	char text[256], last[256] = "";

	append(writer, SPOOL_STDOUT, "first");
	append(writer, SPOOL_STDOUT, "lost");
	spool_writer_end(writer, NULL);
	for (uint32_t n = 1; n <= 2; n++) {
		segment_path(n, text, sizeof(text));
		if (exists(world, text))
			describe_segment(world, n, last, sizeof(last));
	}
	assert_non_null(strstr(last, "gap:1:4"));
	spool_writer_free(writer);
}

static void test_a_stream_goes_on_after_its_last_segment(void **state)
{
	struct world *world = *state;
	struct spool_writer *writer = open_stream(world, SPOOL_MAX_BYTES, true);
	char text[64];

	append(writer, SPOOL_STDOUT, "before");
	spool_writer_end(writer, NULL);
	spool_writer_free(writer);

	writer = open_stream(world, SPOOL_MAX_BYTES, true);
	assert_false(exists(world, "task/app/end"));
	append(writer, SPOOL_STDOUT, "after");
	describe_segment(world, 1, text, sizeof(text));
	assert_string_equal(text, "1:before");
	describe_segment(world, 2, text, sizeof(text));
	assert_string_equal(text, "1:after");
	spool_writer_free(writer);
}

/* Both ends at once, with a bound so small that the writer waits for the reader all the time. */
static void test_a_reader_that_deletes_gets_every_byte_in_order(void **state)
{
	struct world *world = *state;
	struct spool_writer *writer = open_stream(world, 20000, true);
	_cleanup_(spool_reader_freep) struct spool_reader *reader = NULL;
	_cleanup_close_ int dir_fd = openat(world->spool_fd, "task/app", O_RDONLY | O_DIRECTORY);
	const struct spool_cursor start = {.segment = 1};
	const struct timespec pause = {.tv_nsec = 1000000};
	uint32_t sent = 0, received = 0;

	assert_int_equal(spool_reader_new(dir_fd, start, &reader, NULL), 0);
	for (;;) {
		struct spool_entry entry;
		uint32_t numbers[256];
		int r;

		if (sent < 100 * 256 && spool_writer_has_room(writer)) {
			for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
				numbers[i] = sent++;
			spool_writer_append(writer, SPOOL_STDOUT, 1, numbers, sizeof(numbers),
			                    false);
			if (sent == 100 * 256)
				assert_int_equal(spool_writer_end(writer, NULL), 0);
			continue;
		}
		r = spool_reader_next(reader, &entry, NULL);
		assert_true(r >= 0);
		if (r == SPOOL_NEXT_END)
			break;
		if (r == SPOOL_NEXT_WAIT) {
			assert_true(spool_delete_before(dir_fd,
			                                spool_reader_cursor(reader).segment) >= 0);
			nanosleep(&pause, NULL);
			continue;
		}
		assert_int_equal(entry.stream, SPOOL_STDOUT);
		for (size_t i = 0; i < entry.len / 4; i++, received++)
			assert_memory_equal(entry.data + 4 * i, &received, 4);
	}
	assert_int_equal(received, 100 * 256);
	assert_true(spool_reader_skipped_bytes(reader) == 0);
	spool_writer_free(writer);
}

static void test_names_that_the_reader_took_are_passed_over_and_links_not_followed(void **state)
{
	struct world *world = *state;
	struct spool_writer *writer = open_stream(world, SPOOL_MAX_BYTES, true);
	char victim[96], text[64];
	struct stat st;

	snprintf(victim, sizeof(victim), "%s/victim", world->path);
	assert_int_equal(symlinkat(victim, world->spool_fd, "task/app/00000001.seg"), 0);
	append(writer, SPOOL_STDOUT, "safe");
	assert_int_equal(fstatat(world->spool_fd, "victim", &st, 0), -1);
	assert_int_equal(errno, ENOENT);
	describe_segment(world, 2, text, sizeof(text));
	assert_string_equal(text, "1:safe");
	spool_writer_free(writer);
}

static void test_a_stream_that_is_a_link_is_refused(void **state)
{
	struct world *world = *state;
	const struct spool_stream_options options = {
		.task_id = "task", .container = "app", .log_json = "{}", .log_json_len = 2};
	struct spool_writer *writer = NULL;
	struct err err = {};

	assert_int_equal(mkdirat(world->spool_fd, "task", 0700), 0);
	assert_int_equal(symlinkat("/tmp", world->spool_fd, "task/app"), 0);
	assert_int_equal(spool_writer_open(world->spool_fd, &options, &writer, &err), -ENOTDIR);
	assert_non_null(strstr(err.text, "app"));
	assert_null(writer);
}

static void test_a_full_disk_drops_and_goes_on(void **state)
{
	struct world *world = *state;
	struct spool_writer *writer = open_stream(world, SPOOL_MAX_BYTES, true);
	uint64_t records, bytes;
	char text[64];

	append(writer, SPOOL_STDOUT, "one");
	/* Without its directory no further segment can be made, as on a full disk. */
	assert_int_equal(unlinkat(world->spool_fd, "task/app/00000001.seg", 0), 0);
	assert_int_equal(unlinkat(world->spool_fd, "task/app/log.json", 0), 0);
	assert_int_equal(unlinkat(world->spool_fd, "task/app", AT_REMOVEDIR), 0);
	static char big[SPOOL_SEGMENT_BYTES];

	spool_writer_append(writer, SPOOL_STDOUT, 1, big, SPOOL_RECORD_MAX, false);
	for (int i = 0; i < 4; i++)
		spool_writer_append(writer, SPOOL_STDOUT, 1, big, SPOOL_RECORD_MAX, false);
	spool_writer_dropped(writer, &records, &bytes);
	assert_true(records >= 1);
	assert_int_equal(bytes, records * SPOOL_RECORD_MAX);
	assert_int_equal(spool_writer_error(writer), -ENOENT);
	assert_true(spool_writer_end(writer, NULL) < 0);
	(void)text;
	spool_writer_free(writer);
}

static void test_end_all_ends_every_stream_and_can_be_repeated(void **state)
{
	struct world *world = *state;

	assert_int_equal(spool_end_all(world->spool_fd, "task", NULL), 0);
	assert_int_equal(mkdirat(world->spool_fd, "task", 0700), 0);
	assert_int_equal(mkdirat(world->spool_fd, "task/a", 0700), 0);
	assert_int_equal(mkdirat(world->spool_fd, "task/b", 0700), 0);
	assert_int_equal(symlinkat("/tmp", world->spool_fd, "task/c"), 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(spool_end_all(world->spool_fd, "task", NULL), 0);
	assert_true(exists(world, "task/a/end"));
	assert_true(exists(world, "task/b/end"));
	assert_int_not_equal(access("/tmp/end", F_OK), 0);
}

/* As it does after the last stream of a task, which another container may be about to follow. */
static void test_a_reader_that_removes_the_tasks_directory_does_not_get_in_the_way(void **state)
{
	struct world *world = *state;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;) {
			(void)unlinkat(world->spool_fd, "task", AT_REMOVEDIR);
			usleep(500);
		}
	}
	for (int i = 0; i < 1000; i++) {
		spool_writer_free(open_stream(world, 1 << 20, true));
		assert_int_equal(unlinkat(world->spool_fd, "task/app/" SPOOL_LOG_FILE, 0), 0);
		assert_int_equal(unlinkat(world->spool_fd, "task/app", AT_REMOVEDIR), 0);
	}
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_records_go_to_the_first_segment_and_end_is_last),
		TEST(test_a_record_is_never_split_over_segments),
		TEST(test_blocking_waits_at_the_bound_until_a_segment_is_deleted),
		TEST(test_at_the_bound_the_last_segment_becomes_complete),
		TEST(test_non_blocking_drops_counts_and_tells_once_there_is_room),
		TEST(test_the_rest_of_a_container_goes_beyond_the_bound),
		TEST(test_a_gap_that_was_not_told_is_told_at_the_end),
		TEST(test_a_stream_goes_on_after_its_last_segment),
		TEST(test_a_reader_that_deletes_gets_every_byte_in_order),
		TEST(test_names_that_the_reader_took_are_passed_over_and_links_not_followed),
		TEST(test_a_reader_that_removes_the_tasks_directory_does_not_get_in_the_way),
		TEST(test_a_stream_that_is_a_link_is_refused),
		TEST(test_a_full_disk_drops_and_goes_on),
		TEST(test_end_all_ends_every_stream_and_can_be_repeated),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
