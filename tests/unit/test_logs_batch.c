/* agent/logs/batch: the limits of PutLogEvents at their edges, and the same batch again. */
#include "tests/unit/spool_fixture.h"

#include <errno.h>
#include <stdlib.h>

#include "agent/logs/batch.h"
#include "lib/json.h"

static const struct lines_state start;
static const struct batch_request put_request = {
	.form = BATCH_PUT_LOG_EVENTS, .group = "g/\"1", .stream = "s"};

static struct batch *make(struct spool_fixture *f, const struct lines_state *from,
                          const struct batch_request *request)
{
	struct batch *batch = NULL;
	struct err err = {0};
	int r = batch_new(f->dir_fd, from, request, &batch, &err);

	if (r < 0)
		print_error("%s\n", err.text);
	assert_int_equal(r, 0);
	return batch;
}

static struct json_object *events(const struct batch *batch, struct json_object **ret_body)
{
	struct json_object *array = NULL;

	assert_int_equal(
		json_parse_object(batch->body.p, batch->body.len, SIZE_MAX, ret_body, NULL), 0);
	assert_string_equal(json_text(*ret_body, "logGroupName"), "g/\"1");
	assert_string_equal(json_text(*ret_body, "logStreamName"), "s");
	assert_int_equal(json_get_array(*ret_body, "logEvents", &array, NULL), 0);
	assert_int_equal(json_object_array_length(array), batch->n_events);
	return array;
}

static void test_lines_become_events_in_order(void **state)
{
	static const char *const expected[] = {"one", "two \xef\xbf\xbd", " ", "end"};
	static const int64_t times[] = {1700000000123, 1700000000123, 1700000000124, 1700000000124};
	struct spool_fixture *f = *state;
	_cleanup_(batch_freep) struct batch *batch = NULL;
	_cleanup_json_ struct json_object *body = NULL;
	struct json_object *array;

	spool_put_text(f, 1, SPOOL_STDOUT, 1700000000123999, "one\ntwo \xff\n\n");
	spool_put_text(f, 1, SPOOL_STDERR, 1700000000124000, " \nend");
	spool_put_end(f);
	batch = make(f, &start, &put_request);
	assert_true(batch->ended);
	assert_false(batch->more);
	assert_int_equal(batch->n_lines, 5);
	assert_int_equal(batch->n_events, 4);
	assert_int_equal(batch->bytes, 3 + 7 + 1 + 3 + 4 * 26);
	array = events(batch, &body);
	for (size_t i = 0; i < ARRAY_SIZE(expected); i++) {
		struct json_object *event = json_object_array_get_idx(array, i);
		int64_t msec = 0;

		assert_string_equal(json_text(event, "message"), expected[i]);
		assert_int_equal(json_get_i64(event, "timestamp", 0, INT64_MAX, &msec, NULL), 0);
		assert_int_equal(msec, times[i]);
	}
}

static void test_nothing_complete_makes_an_empty_batch(void **state)
{
	struct spool_fixture *f = *state;
	_cleanup_(batch_freep) struct batch *batch = NULL;

	spool_put_text(f, 1, SPOOL_STDOUT, 1, "not complete");
	batch = make(f, &start, &put_request);
	assert_int_equal(batch->n_lines, 0);
	assert_int_equal(batch->n_events, 0);
	assert_false(batch->ended);
	assert_false(batch->more);
}

static void put_lines(struct spool_fixture *f, unsigned int segment, size_t n, size_t length,
                      uint64_t time_usec)
{
	_cleanup_free_ char *line = malloc(length + 1);

	memset(line, 'x', length);
	line[length] = '\n';
	for (size_t i = 0; i < n; i++)
		spool_put(f, segment, SPOOL_STDOUT, time_usec, line, length + 1);
}

static void test_a_batch_holds_ten_thousand_events_and_no_more(void **state)
{
	struct spool_fixture *f = *state;
	_cleanup_(batch_freep) struct batch *batch = NULL, *rest = NULL;

	put_lines(f, 1, 10000, 1, 1);
	batch = make(f, &start, &put_request);
	assert_int_equal(batch->n_events, 10000);
	assert_false(batch->more);
	batch = batch_free(batch);
	put_lines(f, 1, 1, 1, 1);
	batch = make(f, &start, &put_request);
	assert_int_equal(batch->n_events, 10000);
	assert_true(batch->more);
	rest = make(f, &batch->after, &put_request);
	assert_int_equal(rest->n_events, 1);
}

/* 1 048 576 bytes with 26 for each event: four events of 262 118 bytes fill it exactly. */
static void test_a_batch_holds_a_mebibyte_and_no_byte_more(void **state)
{
	struct spool_fixture *f = *state;
	_cleanup_(batch_freep) struct batch *batch = NULL, *rest = NULL;
	char *body;

	put_lines(f, 1, 3, LINE_MAX_BYTES, 1);
	put_lines(f, 2, 1, LINE_MAX_BYTES, 1);
	batch = make(f, &start, &put_request);
	assert_int_equal(batch->bytes, BATCH_MAX_BYTES);
	assert_int_equal(batch->n_events, 4);
	assert_false(batch->more);
	body = batch->body.p;
	assert_memory_equal(body + batch->body.len - 5, "x\"}]}", 5);
	batch = batch_free(batch);

	put_lines(f, 3, 1, 1, 1);
	batch = make(f, &start, &put_request);
	assert_int_equal(batch->n_events, 4);
	assert_true(batch->more);
	rest = make(f, &batch->after, &put_request);
	assert_int_equal(rest->n_events, 1);
	assert_int_equal(rest->bytes, 27);
}

static void test_one_byte_less_leaves_room_for_nothing(void **state)
{
	struct spool_fixture *f = *state;
	_cleanup_(batch_freep) struct batch *batch = NULL;

	put_lines(f, 1, 3, LINE_MAX_BYTES, 1);
	put_lines(f, 2, 1, LINE_MAX_BYTES - 27, 1); /* leaves 27: one event of one byte */
	put_lines(f, 2, 1, 1, 1);
	put_lines(f, 2, 1, 1, 1);
	batch = make(f, &start, &put_request);
	assert_int_equal(batch->n_events, 5);
	assert_int_equal(batch->bytes, BATCH_MAX_BYTES);
	assert_true(batch->more);
}

static void test_a_line_beyond_the_event_limit_is_split_between_characters(void **state)
{
	struct spool_fixture *f = *state;
	_cleanup_(batch_freep) struct batch *batch = NULL;
	_cleanup_json_ struct json_object *body = NULL;
	_cleanup_free_ char *line = malloc(300000);
	struct json_object *array;
	const char *first, *second;

	/* 'a', then two-byte characters: the limit falls within one of them. */
	line[0] = 'a';
	for (size_t i = 1; i + 1 < 300000; i += 2)
		memcpy(line + i, "\xc3\xa4", 2);
	line[299999] = '\n';
	spool_put(f, 1, SPOOL_STDOUT, 1, line, 150000);
	spool_put(f, 1, SPOOL_STDOUT, 1, line + 150000, 150000);
	batch = make(f, &start, &put_request);
	array = events(batch, &body);
	assert_int_equal(batch->n_events, 2);
	first = json_text(json_object_array_get_idx(array, 0), "message");
	second = json_text(json_object_array_get_idx(array, 1), "message");
	assert_int_equal(strlen(first), LINE_MAX_BYTES - 1);
	assert_int_equal(strlen(first) + strlen(second), 299999);
	assert_memory_equal(first, line, strlen(first));
	assert_memory_equal(second, line + strlen(first), strlen(second));
}

static void test_mended_bytes_count_as_what_they_become(void **state)
{
	struct spool_fixture *f = *state;
	_cleanup_(batch_freep) struct batch *batch = NULL;
	_cleanup_free_ char *line = malloc(200001);

	memset(line, '\xff', 200000);
	line[200000] = '\n';
	spool_put(f, 1, SPOOL_STDOUT, 1, line, 200001);
	batch = make(f, &start, &put_request);
	assert_int_equal(batch->n_events, 3);
	assert_int_equal(batch->bytes, 600000 + 3 * 26);
	assert_false(batch->more);
}

static void test_a_batch_spans_a_day_and_no_more(void **state)
{
	const uint64_t day_usec = 24ull * 3600 * 1000000;
	struct spool_fixture *f = *state;
	_cleanup_(batch_freep) struct batch *batch = NULL, *rest = NULL;

	spool_put_text(f, 1, SPOOL_STDOUT, 1000, "a\n");
	spool_put_text(f, 1, SPOOL_STDOUT, 1000 + day_usec, "b\n");
	spool_put_text(f, 1, SPOOL_STDOUT, 2000 + day_usec, "c\n");
	batch = make(f, &start, &put_request);
	assert_int_equal(batch->n_events, 2);
	assert_true(batch->more);
	rest = make(f, &batch->after, &put_request);
	assert_int_equal(rest->n_events, 1);
}

static void test_a_clock_that_steps_back_begins_a_new_batch(void **state)
{
	struct spool_fixture *f = *state;
	_cleanup_(batch_freep) struct batch *batch = NULL, *rest = NULL;

	spool_put_text(f, 1, SPOOL_STDOUT, 5000000, "a\n");
	spool_put_text(f, 1, SPOOL_STDOUT, 4000000, "b\nc\n");
	batch = make(f, &start, &put_request);
	assert_int_equal(batch->n_events, 1);
	assert_true(batch->more);
	rest = make(f, &batch->after, &put_request);
	assert_int_equal(rest->n_events, 2);
	assert_false(rest->more);
}

static void test_a_batch_is_made_again_byte_for_byte_after_more_was_written(void **state)
{
	struct spool_fixture *f = *state;
	_cleanup_(batch_freep) struct batch *batch = NULL, *again = NULL;
	struct batch_request request = put_request;

	spool_put_text(f, 1, SPOOL_STDOUT, 1, "a\n\nb\nbegun");
	batch = make(f, &start, &request);
	spool_put_text(f, 1, SPOOL_STDOUT, 2, " and ended\nc\n");
	spool_put_text(f, 1, SPOOL_STDERR, 2, "d\n");
	request.max_lines = batch->n_lines;
	again = make(f, &start, &request);
	assert_int_equal(again->body.len, batch->body.len);
	assert_memory_equal(again->body.p, batch->body.p, batch->body.len);
	assert_true(again->more);
}

/* Any sequence of batches of any size, each from where the one before has ended, is the whole. */
static void test_batches_join_without_loss_or_repeat(void **state)
{
	struct spool_fixture *f = *state;

	for (unsigned int i = 0; i < 300; i++) {
		char text[64];

		snprintf(text, sizeof(text), "line %u of stdout\nand a", i);
		spool_put_text(f, 1 + i / 50, SPOOL_STDOUT, i, text);
		snprintf(text, sizeof(text), "%u\n", i);
		spool_put_text(f, 1 + i / 50, SPOOL_STDERR, i, text);
		spool_put_text(f, 1 + i / 50, SPOOL_STDOUT, i, "nother\n");
	}
	spool_put_end(f);
	for (uint64_t max = 1; max < 40; max += 3) {
		struct batch_request request = {.form = BATCH_JSON_FILE, .max_lines = max};
		struct batch_request whole_request = {.form = BATCH_JSON_FILE};
		_cleanup_(batch_freep) struct batch *whole = make(f, &start, &whole_request);
		struct lines_state at = {0};
		struct text joined = {0};
		bool ended = false;

		while (!ended) {
			_cleanup_(batch_freep) struct batch *batch = make(f, &at, &request);

			assert_true(batch->n_lines > 0);
			assert_true(batch->n_lines <= max);
			assert_int_equal(text_append(&joined, batch->body.p, batch->body.len), 0);
			ended = batch->ended;
			lines_state_done(&at);
			assert_int_equal(lines_state_copy(&batch->after, &at), 0);
		}
		assert_int_equal(whole->n_lines, 900);
		assert_int_equal(joined.len, whole->body.len);
		assert_memory_equal(joined.p, whole->body.p, joined.len);
		lines_state_done(&at);
		text_done(&joined);
	}
}

static void test_json_file_lines_are_dockers(void **state)
{
	static const char expected[] =
		"{\"log\":\"a\\n\",\"stream\":\"stdout\",\"time\":\"2023-11-14T22:13:20.000042000Z\"}\n"
		"{\"log\":\"\\n\",\"stream\":\"stdout\",\"time\":\"2023-11-14T22:13:20.000042000Z\"}\n"
		"{\"log\":\"b\",\"stream\":\"stderr\",\"time\":\"2023-11-14T22:13:21.123456000Z\"}\n";
	struct spool_fixture *f = *state;
	struct batch_request request = {.form = BATCH_JSON_FILE};
	_cleanup_(batch_freep) struct batch *batch = NULL;

	spool_put_text(f, 1, SPOOL_STDOUT, 1700000000000042, "a\n\n");
	spool_put_text(f, 1, SPOOL_STDERR, 1700000001123456, "b");
	spool_put_end(f);
	batch = make(f, &start, &request);
	assert_int_equal(batch->body.len, sizeof(expected) - 1);
	assert_memory_equal(batch->body.p, expected, sizeof(expected) - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		spool_test(test_lines_become_events_in_order),
		spool_test(test_nothing_complete_makes_an_empty_batch),
		spool_test(test_a_batch_holds_ten_thousand_events_and_no_more),
		spool_test(test_a_batch_holds_a_mebibyte_and_no_byte_more),
		spool_test(test_one_byte_less_leaves_room_for_nothing),
		spool_test(test_a_line_beyond_the_event_limit_is_split_between_characters),
		spool_test(test_mended_bytes_count_as_what_they_become),
		spool_test(test_a_batch_spans_a_day_and_no_more),
		spool_test(test_a_clock_that_steps_back_begins_a_new_batch),
		spool_test(test_a_batch_is_made_again_byte_for_byte_after_more_was_written),
		spool_test(test_batches_join_without_loss_or_repeat),
		spool_test(test_json_file_lines_are_dockers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
