/* agent/logs/json_file: rotation, undoing half a batch, and the bound over all files. */
#include "tests/unit/spool_fixture.h"

#include <errno.h>
#include <sys/stat.h>

#include "agent/logs/json_file.h"

static void append(struct spool_fixture *f, const struct log_config *config, const char *text)
{
	const struct json_file file = {.logs_fd = f->dir_fd, .task_id = "t", .container = "c"};
	_cleanup_close_ int fd = -EBADF;
	uint64_t bytes = 0;

	assert_int_equal(json_file_open(&file, config, false, 0, &fd, &bytes, NULL), 0);
	assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
}

static void expect_content(struct spool_fixture *f, const char *path, const char *expected)
{
	_cleanup_free_ char *text = NULL;

	if (!expected) {
		assert_int_equal(faccessat(f->dir_fd, path, F_OK, 0), -1);
		return;
	}
	assert_int_equal(file_read(f->dir_fd, path, 1000, &text, NULL), 0);
	assert_string_equal(text, expected);
}

static void test_files_rotate_when_they_have_reached_the_size(void **state)
{
	struct spool_fixture *f = *state;
	const struct log_config config = {.max_size_bytes = 4, .max_file = 3};

	append(f, &config, "ab");
	append(f, &config, "cd");
	expect_content(f, "t/c-json.log", "abcd");
	expect_content(f, "t/c-json.log.1", NULL);
	append(f, &config, "efgh");
	append(f, &config, "ijkl");
	append(f, &config, "m");
	expect_content(f, "t/c-json.log", "m");
	expect_content(f, "t/c-json.log.1", "ijkl");
	expect_content(f, "t/c-json.log.2", "efgh");
	expect_content(f, "t/c-json.log.3", NULL);
}

static void test_a_single_file_begins_anew(void **state)
{
	struct spool_fixture *f = *state;
	const struct log_config config = {.max_size_bytes = 4, .max_file = 1};

	append(f, &config, "abcd");
	append(f, &config, "ef");
	expect_content(f, "t/c-json.log", "ef");
	expect_content(f, "t/c-json.log.1", NULL);
}

static void test_half_a_batch_is_taken_back_and_nothing_is_rotated_then(void **state)
{
	struct spool_fixture *f = *state;
	const struct log_config config = {.max_size_bytes = 4, .max_file = 3};
	const struct json_file file = {.logs_fd = f->dir_fd, .task_id = "t", .container = "c"};
	_cleanup_close_ int fd = -EBADF;
	uint64_t bytes = 0;

	append(f, &config, "abchalf");
	assert_int_equal(json_file_open(&file, &config, true, 3, &fd, &bytes, NULL), 0);
	assert_int_equal(bytes, 3);
	expect_content(f, "t/c-json.log", "abc");
	fd = fd_close(fd);
	/* Shorter than it should be, after a power loss: nothing to undo. */
	assert_int_equal(json_file_open(&file, &config, true, 100, &fd, &bytes, NULL), 0);
	assert_int_equal(bytes, 3);
	expect_content(f, "t/c-json.log", "abc");
}

/* With the lines before it, and with more zero bytes than are looked at in one go. */
static void test_what_a_power_loss_leaves_of_a_line_is_cut(void **state)
{
	static const struct {
		const char *text;
		size_t zeros;
		const char *rest;
	} rows[] = {
		{"", 0, ""},
		{"", 9, ""},
		{"{}\n", 0, "{}\n"},
		{"{}\n{", 0, "{}\n"},
		{"{}\n{", 5000, "{}\n"},
		{"{}\n", 4096, "{}\n"},
		{"{", 4095, ""},
	};
	const struct log_config config = {.max_size_bytes = UINT64_MAX, .max_file = 1};
	struct spool_fixture *f = *state;
	const struct json_file file = {
		.logs_fd = f->dir_fd, .task_id = "t", .container = "c", .check_end = true};

	assert_int_equal(mkdirat(f->dir_fd, "t", 0750), 0);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		const char zeros[5000] = {0};
		_cleanup_close_ int fd = -EBADF;
		uint64_t bytes = 1;

		spool_put_bytes(f, "t/c-json.log", rows[i].text, strlen(rows[i].text));
		spool_put_bytes(f, "t/c-json.log", zeros, rows[i].zeros);
		assert_int_equal(json_file_open(&file, &config, false, 0, &fd, &bytes, NULL), 0);
		if (bytes != strlen(rows[i].rest))
			print_error("row %zu: %llu bytes are left\n", i, (unsigned long long)bytes);
		assert_int_equal(bytes, strlen(rows[i].rest));
		expect_content(f, "t/c-json.log", rows[i].rest);
		assert_int_equal(unlinkat(f->dir_fd, "t/c-json.log", 0), 0);
	}
}

static void test_links_are_not_followed(void **state)
{
	struct spool_fixture *f = *state;
	const struct log_config config = {.max_size_bytes = 4, .max_file = 3};
	const struct json_file file = {.logs_fd = f->dir_fd, .task_id = "t", .container = "c"};
	struct err err = {0};
	uint64_t bytes;
	int fd;

	assert_int_equal(mkdirat(f->dir_fd, "t", 0750), 0);
	assert_int_equal(symlinkat("/etc/passwd", f->dir_fd, "t/c-json.log"), 0);
	assert_int_equal(json_file_open(&file, &config, false, 0, &fd, &bytes, &err), -ELOOP);
}

static void make_files(struct spool_fixture *f, const char *task, size_t bytes, time_t when)
{
	const struct timespec times[2] = {{.tv_sec = when}, {.tv_sec = when}};
	char path[128], data[200] = {0};

	assert_int_equal(mkdirat(f->dir_fd, task, 0750), 0);
	snprintf(path, sizeof(path), "%s/c-json.log", task);
	spool_put_bytes(f, path, data, bytes);
	assert_int_equal(utimensat(f->dir_fd, path, times, 0), 0);
}

static bool is_named_live(const char *task_id, void *userdata)
{
	(void)userdata;
	return strcmp(task_id, "live") == 0;
}

static void expect_tasks(struct spool_fixture *f, const char *expected)
{
	static const char *const names[] = {"a", "b", "c", "live"};
	char found[64] = "";

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (faccessat(f->dir_fd, names[i], F_OK, 0) == 0) {
			strcat(found, names[i]);
			strcat(found, " ");
		}
	assert_string_equal(found, expected);
}

static void test_the_oldest_files_go_first_and_live_ones_never(void **state)
{
	struct spool_fixture *f = *state;

	make_files(f, "live", 200, 1);
	assert_int_equal(json_file_prune(f->dir_fd, 0, 0, is_named_live, NULL), 0);
	make_files(f, "b", 100, 1000);
	make_files(f, "a", 100, 2000);
	make_files(f, "c", 100, 3000);
	assert_int_equal(json_file_prune(f->dir_fd, 3, 300, is_named_live, NULL), 0);
	expect_tasks(f, "a b c live ");
	assert_int_equal(json_file_prune(f->dir_fd, 2, 300, is_named_live, NULL), 1);
	expect_tasks(f, "a c live ");
	assert_int_equal(json_file_prune(f->dir_fd, 2, 199, is_named_live, NULL), 1);
	expect_tasks(f, "c live ");
	assert_int_equal(json_file_prune(f->dir_fd, 2, 99, is_named_live, NULL), 1);
	expect_tasks(f, "live ");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		spool_test(test_files_rotate_when_they_have_reached_the_size),
		spool_test(test_a_single_file_begins_anew),
		spool_test(test_half_a_batch_is_taken_back_and_nothing_is_rotated_then),
		spool_test(test_what_a_power_loss_leaves_of_a_line_is_cut),
		spool_test(test_links_are_not_followed),
		spool_test(test_the_oldest_files_go_first_and_live_ones_never),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
