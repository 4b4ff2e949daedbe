/* agent/logs/lines: lines out of records, whatever the records were cut into. */
#include "tests/unit/spool_fixture.h"

#include <errno.h>
#include <stdlib.h>

#include "agent/logs/lines.h"

static struct lines *open_lines(struct spool_fixture *f, const struct lines_state *state)
{
	static const struct lines_state start = {0};
	struct lines *lines = NULL;

	assert_int_equal(lines_new(f->dir_fd, state ? state : &start, &lines), 0);
	return lines;
}

static void expect_line(struct lines *lines, enum spool_stream stream, const char *text,
                        enum line_end end, uint64_t time_usec)
{
	struct line line = {0};
	struct err err = {0};
	int r = lines_peek(lines, &line, &err);

	if (r != LINES_LINE || line.len != strlen(text) || memcmp(line.data, text, line.len) != 0)
		print_error("expected \"%s\", got %d \"%.*s\" %s\n", text, r, (int)line.len,
		            line.data, err.text);
	assert_int_equal(r, LINES_LINE);
	assert_int_equal(line.len, strlen(text));
	assert_memory_equal(line.data, text, line.len);
	assert_int_equal(line.stream, stream);
	assert_int_equal(line.end, end);
	assert_int_equal(line.time_realtime_usec, time_usec);
	lines_consume(lines, line.len);
}

static void expect(struct lines *lines, enum lines_next next)
{
	struct line line;

	assert_int_equal(lines_peek(lines, &line, NULL), next);
}

static void test_records_are_cut_into_lines(void **state)
{
	struct spool_fixture *f = *state;
	_cleanup_(lines_freep) struct lines *lines = open_lines(f, NULL);

	spool_put_text(f, 1, SPOOL_STDOUT, 1, "a\nbc\n\nd");
	expect_line(lines, SPOOL_STDOUT, "a", LINE_NEWLINE, 1);
	expect_line(lines, SPOOL_STDOUT, "bc", LINE_NEWLINE, 1);
	expect_line(lines, SPOOL_STDOUT, "", LINE_NEWLINE, 1);
	expect(lines, LINES_WAIT);
	spool_put_text(f, 1, SPOOL_STDOUT, 2, "e");
	expect(lines, LINES_WAIT);
	spool_put_text(f, 2, SPOOL_STDOUT, 3, "f\n");
	expect_line(lines, SPOOL_STDOUT, "def", LINE_NEWLINE, 3);
	expect(lines, LINES_WAIT);
	spool_put_end(f);
	expect(lines, LINES_END);
}

static void test_stdout_and_stderr_are_put_together_each_for_itself(void **state)
{
	struct spool_fixture *f = *state;
	_cleanup_(lines_freep) struct lines *lines = open_lines(f, NULL);

	spool_put_text(f, 1, SPOOL_STDOUT, 1, "out");
	spool_put_text(f, 1, SPOOL_STDERR, 2, "err");
	spool_put_text(f, 1, SPOOL_STDOUT, 3, "put\nnext");
	spool_put_text(f, 1, SPOOL_STDERR, 4, "or\n");
	spool_put_end(f);
	expect_line(lines, SPOOL_STDOUT, "output", LINE_NEWLINE, 3);
	expect_line(lines, SPOOL_STDERR, "error", LINE_NEWLINE, 4);
	expect_line(lines, SPOOL_STDOUT, "next", LINE_NO_NEWLINE, 4);
	expect(lines, LINES_END);
	expect(lines, LINES_END);
}

static void test_a_gap_ends_the_lines_before_it(void **state)
{
	struct spool_fixture *f = *state;
	_cleanup_(lines_freep) struct lines *lines = open_lines(f, NULL);

	spool_put_text(f, 1, SPOOL_STDOUT, 1, "half");
	spool_put_gap(f, 1, 2, 17, 4242);
	spool_put_text(f, 1, SPOOL_STDOUT, 3, "other half\n");
	expect_line(lines, SPOOL_STDOUT, "half", LINE_NO_NEWLINE, 2);
	expect_line(
		lines, SPOOL_GAP,
		"[17 records (4242 bytes) of output were dropped here: the log buffer was full]",
		LINE_NO_NEWLINE, 2);
	expect_line(lines, SPOOL_STDOUT, "other half", LINE_NEWLINE, 3);
	expect(lines, LINES_WAIT);
}

/* The same output cut into records of every size gives the same lines, also when the reader starts
 * anew after each line. */
static void test_lines_do_not_depend_on_records_or_restarts(void **state)
{
	static const char text[] = "first\n\nthird line\nx\n\n\nlast";
	static const char *const expected[] = {"first", "", "third line", "x", "", "", "last"};
	struct spool_fixture *f = *state;
	unsigned int segment = 1;

	for (size_t size = 1; size <= sizeof(text); size++)
		for (int restart = 0; restart < 2; restart++) {
			_cleanup_(lines_freep) struct lines *lines = NULL;
			struct lines_state at = {.cursor = {.segment = segment}};

			for (size_t i = 0; i < strlen(text); i += size)
				spool_put(f, segment, SPOOL_STDOUT, 7, text + i,
				          strlen(text) - i < size ? strlen(text) - i : size);
			spool_put_end(f);
			lines = open_lines(f, &at);
			for (size_t i = 0; i < ARRAY_SIZE(expected); i++) {
				expect_line(lines, SPOOL_STDOUT, expected[i],
				            i + 1 < ARRAY_SIZE(expected) ? LINE_NEWLINE
				                                         : LINE_NO_NEWLINE,
				            7);
				if (!restart)
					continue;
				lines_take_state(lines, &at);
				lines_free(lines);
				lines = open_lines(f, &at);
				lines_state_done(&at);
			}
			expect(lines, LINES_END);
			assert_int_equal(unlinkat(f->dir_fd, SPOOL_END_FILE, 0), 0);
			assert_int_equal(spool_delete_before(f->dir_fd, ++segment), 1);
		}
}

static char *long_text(size_t n)
{
	char *text = malloc(n + 2);

	assert_non_null(text);
	for (size_t i = 0; i < n; i++)
		text[i] = (char)('a' + i % 26);
	text[n] = '\n';
	text[n + 1] = '\0';
	return text;
}

/* Consumes pieces of at most LINE_MAX_BYTES, as the sinks do, and compares them with text. */
static void expect_pieces(struct lines *lines, const char *text, size_t n, bool newline)
{
	size_t done = 0;
	struct line line;

	while (done < n) {
		size_t take;

		assert_int_equal(lines_peek(lines, &line, NULL), LINES_LINE);
		assert_true(line.end != LINE_CUT || line.len > LINE_MAX_BYTES);
		take = line.len > LINE_MAX_BYTES ? LINE_MAX_BYTES : line.len;
		assert_true(take == n - done || take == LINE_MAX_BYTES);
		assert_memory_equal(line.data, text + done, take);
		done += take;
		if (done == n) {
			assert_int_equal(take, line.len);
			assert_int_equal(line.end, newline ? LINE_NEWLINE : LINE_NO_NEWLINE);
		}
		lines_consume(lines, take);
	}
	assert_int_equal(done, n);
}

static void test_long_lines_come_in_pieces_of_the_limit(void **state)
{
	static const size_t lengths[] = {LINE_MAX_BYTES - 1,
	                                 LINE_MAX_BYTES,
	                                 LINE_MAX_BYTES + 1,
	                                 LINE_MAX_BYTES + 2,
	                                 2 * LINE_MAX_BYTES,
	                                 2 * LINE_MAX_BYTES + 1,
	                                 700001};
	static const size_t records[] = {4096, 65536, 100003, SPOOL_RECORD_MAX};
	struct spool_fixture *f = *state;
	unsigned int segment = 1;

	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++)
		for (size_t k = 0; k < ARRAY_SIZE(records); k++)
			for (int newline = 0; newline < 2; newline++) {
				_cleanup_(lines_freep) struct lines *lines = NULL;
				_cleanup_free_ char *text = long_text(lengths[i]);
				size_t total = lengths[i] + (newline ? 1 : 0);
				struct lines_state at = {.cursor = {.segment = segment}};

				for (size_t o = 0; o < total; o += records[k])
					spool_put(f, segment, SPOOL_STDERR, 9, text + o,
					          total - o < records[k] ? total - o : records[k]);
				spool_put_end(f);
				lines = open_lines(f, &at);
				expect_pieces(lines, text, lengths[i], newline);
				expect(lines, LINES_END);
				assert_int_equal(unlinkat(f->dir_fd, SPOOL_END_FILE, 0), 0);
				assert_int_equal(spool_delete_before(f->dir_fd, ++segment), 1);
			}
}

static void test_what_is_begun_outlives_the_deletion_of_its_segment(void **state)
{
	struct spool_fixture *f = *state;
	_cleanup_(lines_freep) struct lines *lines = open_lines(f, NULL);
	struct lines_state at = {0};

	spool_put_text(f, 1, SPOOL_STDOUT, 1, "prompt> ");
	spool_put_text(f, 2, SPOOL_STDERR, 2, "e\n");
	expect_line(lines, SPOOL_STDERR, "e", LINE_NEWLINE, 2);
	lines_take_state(lines, &at);
	lines = lines_free(lines);
	assert_int_equal(at.cursor.segment, 2);
	assert_int_equal(spool_delete_before(f->dir_fd, at.cursor.segment), 1);
	lines = open_lines(f, &at);
	lines_state_done(&at);
	spool_put_text(f, 2, SPOOL_STDOUT, 3, "yes\n");
	expect_line(lines, SPOOL_STDOUT, "prompt> yes", LINE_NEWLINE, 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		spool_test(test_records_are_cut_into_lines),
		spool_test(test_stdout_and_stderr_are_put_together_each_for_itself),
		spool_test(test_a_gap_ends_the_lines_before_it),
		spool_test(test_lines_do_not_depend_on_records_or_restarts),
		spool_test(test_long_lines_come_in_pieces_of_the_limit),
		spool_test(test_what_is_begun_outlives_the_deletion_of_its_segment),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
