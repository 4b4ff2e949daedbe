/* The outbox: what is sent when, in which order, how often, and what a restart finds. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/engine/outbox.h"
#include "lib/fd.h"
#include "lib/json.h"
#include "lib/log.h"
#include "lib/loop.h"

#define CALLS_MAX 64

/* A sender whose answers the test gives. */
struct call {
	char text[64];
	outbox_done_fn done;
	void *userdata;
};

struct fixture {
	char dir[40];
	sd_event *loop;
	struct state *state;
	struct outbox *outbox;
	struct call *open[CALLS_MAX];
	size_t n_open;
	char sent[4096]; /* every body, in order */
	char emptied[512];
	bool refuse_to_start;
};

static int sender_start(struct json_object *body, outbox_done_fn done, void *done_userdata,
                        void **ret_call, struct err *err, void *userdata)
{
	struct fixture *f = userdata;
	struct call *call = calloc(1, sizeof(*call));

	if (f->refuse_to_start) {
		free(call);
		return err_text(err, -ENOMEM, "no");
	}
	assert_non_null(call);
	snprintf(call->text, sizeof(call->text), "%s", json_text(body, "x"));
	call->done = done;
	call->userdata = done_userdata;
	f->open[f->n_open++] = call;
	strcat(strcat(f->sent, call->text), " ");
	*ret_call = call;
	return 0;
}

static void remove_call(struct fixture *f, struct call *call)
{
	for (size_t i = 0; i < f->n_open; i++)
		if (f->open[i] == call) {
			memmove(&f->open[i], &f->open[i + 1],
			        (f->n_open - i - 1) * sizeof(f->open[0]));
			f->n_open--;
			free(call);
			return;
		}
	fail_msg("no such call");
}

static void sender_cancel(void *call, void *userdata)
{
	remove_call(userdata, call);
}

static void on_emptied(const char *arn, void *userdata)
{
	struct fixture *f = userdata;

	strcat(strcat(f->emptied, arn), " ");
}

static void open_outbox(struct fixture *f)
{
	const struct outbox_options options = {
		.loop = f->loop,
		.sender = {.start = sender_start, .cancel = sender_cancel, .userdata = f},
		.emptied = on_emptied,
		.userdata = f,
	};
	struct outbox_options o = options;
	struct err err = {0};

	if (state_open(f->dir, f->loop, &f->state, &err) < 0)
		fail_msg("%s", err.text);
	o.state = f->state;
	assert_int_equal(outbox_new(&o, &f->outbox), 0);
	assert_int_equal(outbox_read(f->outbox, &err), 0);
}

static void close_outbox(struct fixture *f)
{
	f->outbox = outbox_free(f->outbox);
	f->state = state_close(f->state);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	(void)log_set_level("crit");
	strcpy(f->dir, "/tmp/test-outbox-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	assert_int_equal(sd_event_new(&f->loop), 0);
	open_outbox(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	close_outbox(f);
	assert_int_equal(f->n_open, 0); /* all cancelled */
	sd_event_unref(f->loop);
	(void)dir_remove_all(AT_FDCWD, f->dir);
	free(f);
	return 0;
}

static void add(struct fixture *f, const char *arn, const char *text)
{
	_cleanup_json_ struct json_object *body = json_object_new_object();

	assert_int_equal(json_add_string(body, "x", text), 0);
	assert_int_equal(outbox_add(f->outbox, arn, body), 0);
}

/* What is ready now, commits included; timers of retries are a second and more away. */
static void turn(struct fixture *f)
{
	do
		assert_int_equal(state_commit(f->state, NULL), 0);
	while (sd_event_run(f->loop, 0) > 0);
}

static void finish(struct fixture *f, const char *text, int r, bool final)
{
	struct err err = {.text = "it failed"};

	for (size_t i = 0; i < f->n_open; i++)
		if (strcmp(f->open[i]->text, text) == 0) {
			struct call call = *f->open[i];

			remove_call(f, f->open[i]);
			call.done(r, &err, final, call.userdata);
			return;
		}
	fail_msg("%s is not being sent; sent: %s", text, f->sent);
}

static void test_nothing_is_sent_before_it_is_durable(void **state)
{
	struct fixture *f = *state;

	add(f, "a", "1");
	assert_string_equal(f->sent, "");
	turn(f);
	assert_string_equal(f->sent, "1 ");
}

static void test_event_behind_one_on_its_way_waits_for_its_own_commit(void **state)
{
	struct fixture *f = *state;

	add(f, "a", "1");
	turn(f);
	add(f, "a", "2"); /* not committed when the first is accepted */
	finish(f, "1", 0, false);
	assert_string_equal(f->sent, "1 ");
	turn(f);
	assert_string_equal(f->sent, "1 2 ");
}

static void test_events_of_a_task_go_in_order_and_those_of_others_beside_them(void **state)
{
	struct fixture *f = *state;

	add(f, "a", "a1");
	add(f, "a", "a2");
	add(f, "b", "b1");
	turn(f);
	assert_string_equal(f->sent, "a1 b1 ");
	finish(f, "b1", 0, false);
	turn(f);
	assert_string_equal(f->sent, "a1 b1 ");
	assert_true(outbox_has(f->outbox, "a"));
	assert_false(outbox_has(f->outbox, "b"));
	finish(f, "a1", 0, false);
	turn(f);
	assert_string_equal(f->sent, "a1 b1 a2 ");
	finish(f, "a2", 0, false);
	assert_string_equal(f->emptied, "b a ");
}

static void test_ten_tasks_at_once_and_the_next_when_one_is_done(void **state)
{
	struct fixture *f = *state;
	char arn[16];

	for (int i = 0; i < OUTBOX_CONCURRENT_MAX + 2; i++) {
		snprintf(arn, sizeof(arn), "t%d", i);
		add(f, arn, arn);
	}
	turn(f);
	assert_int_equal(f->n_open, OUTBOX_CONCURRENT_MAX);
	finish(f, "t3", 0, false);
	assert_int_equal(f->n_open, OUTBOX_CONCURRENT_MAX);
	assert_non_null(strstr(f->sent, "t10 "));
	assert_null(strstr(f->sent, "t11 "));
}

static void test_failed_event_is_sent_again_and_delays_no_other_task(void **state)
{
	struct fixture *f = *state;
	uint64_t end = now_usec() + 10 * 1000 * 1000;

	add(f, "a", "a1");
	add(f, "a", "a2");
	turn(f);
	finish(f, "a1", -ETIMEDOUT, false);
	turn(f);
	assert_int_equal(f->n_open, 0);
	assert_true(outbox_has(f->outbox, "a"));
	add(f, "b", "b1");
	turn(f);
	assert_string_equal(f->sent, "a1 b1 ");

	while (!strstr(f->sent, "b1 a1 ")) {
		assert_true(now_usec() < end);
		assert_true(sd_event_run(f->loop, 100 * 1000) >= 0);
	}
	finish(f, "a1", 0, false);
	turn(f);
	assert_string_equal(f->sent, "a1 b1 a1 a2 ");
}

static void test_invalid_event_is_dropped_and_the_next_is_sent(void **state)
{
	struct fixture *f = *state;

	add(f, "a", "a1");
	add(f, "a", "a2");
	turn(f);
	finish(f, "a1", -EREMOTEIO, true);
	turn(f);
	assert_string_equal(f->sent, "a1 a2 ");
}

static void test_what_was_not_accepted_is_sent_again_after_a_restart(void **state)
{
	struct fixture *f = *state;

	add(f, "a", "a1");
	add(f, "a", "a2");
	add(f, "b", "b1");
	turn(f);
	finish(f, "b1", 0, false);
	turn(f);
	close_outbox(f);
	f->sent[0] = '\0';
	open_outbox(f);
	turn(f);
	assert_string_equal(f->sent, "a1 ");
	finish(f, "a1", 0, false);
	turn(f);
	assert_string_equal(f->sent, "a1 a2 ");
}

static void test_request_that_cannot_begin_is_tried_again(void **state)
{
	struct fixture *f = *state;

	f->refuse_to_start = true;
	add(f, "a", "a1");
	turn(f);
	assert_string_equal(f->sent, "");
	assert_true(outbox_has(f->outbox, "a"));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_nothing_is_sent_before_it_is_durable),
		TEST(test_event_behind_one_on_its_way_waits_for_its_own_commit),
		TEST(test_events_of_a_task_go_in_order_and_those_of_others_beside_them),
		TEST(test_ten_tasks_at_once_and_the_next_when_one_is_done),
		TEST(test_failed_event_is_sent_again_and_delays_no_other_task),
		TEST(test_invalid_event_is_dropped_and_the_next_is_sent),
		TEST(test_what_was_not_accepted_is_sent_again_after_a_restart),
		TEST(test_request_that_cannot_begin_is_tried_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
