/* agent/acs/machine: the life of a session, on a clock that only the test moves. */
#include "tests/unit/cmocka_prelude.h"

#include <string.h>

#include "agent/acs/machine.h"
#include "lib/cleanup.h"

#define MSEC   1000ULL
#define SEC    (1000 * MSEC)
#define MINUTE (60 * SEC)
#define HOUR   (60 * MINUTE)
#define START  (1000 * HOUR)

static double fixed_random;

static double test_random(void)
{
	return fixed_random;
}

/* A machine whose connection came up at START. */
static void connect_at_start(struct acs_machine *machine)
{
	acs_machine_init(machine, test_random, START);
	assert_int_equal(acs_machine_apply(machine, ACS_EVENT_DUE, START), ACS_ACTION_DISCOVER);
	assert_int_equal(acs_machine_apply(machine, ACS_EVENT_FOUND, START), ACS_ACTION_CONNECT);
	assert_int_equal(acs_machine_apply(machine, ACS_EVENT_OPENED, START), ACS_ACTION_NONE);
	assert_int_equal(machine->state, ACS_CONNECTED);
}

static void test_failures_wait_longer_and_longer_up_to_two_minutes(void **state)
{
	struct acs_machine machine;
	uint64_t now = START, wait, last = 0;

	(void)state;
	fixed_random = 0;
	acs_machine_init(&machine, test_random, now);
	for (int i = 0; i < 40; i++) {
		assert_int_equal(acs_machine_apply(&machine, ACS_EVENT_DUE, now),
		                 ACS_ACTION_DISCOVER);
		assert_int_equal(acs_machine_deadline(&machine), ACS_NEVER);
		acs_machine_apply(&machine, ACS_EVENT_FAILED, now);
		assert_int_equal(machine.state, ACS_WAITING);
		wait = acs_machine_deadline(&machine) - now;
		if (i == 0)
			assert_int_equal(wait, 250 * MSEC);
		if (i == 1)
			assert_int_equal(wait, 375 * MSEC);
		assert_true(wait >= last && wait <= 2 * MINUTE);
		last = wait;
		now += wait;
	}
	assert_int_equal(last, 2 * MINUTE);
}

static void test_jitter_adds_a_fifth_at_most(void **state)
{
	struct acs_machine machine;

	(void)state;
	fixed_random = 0.999999;
	acs_machine_init(&machine, test_random, START);
	acs_machine_apply(&machine, ACS_EVENT_DUE, START);
	acs_machine_apply(&machine, ACS_EVENT_FAILED, START);
	assert_in_range(acs_machine_deadline(&machine) - START, 299 * MSEC, 300 * MSEC);
}

static void test_orderly_end_reconnects_at_once(void **state)
{
	struct acs_machine machine;
	uint64_t later = START + 10 * SEC;

	(void)state;
	fixed_random = 0.5;
	connect_at_start(&machine);
	assert_int_equal(acs_machine_apply(&machine, ACS_EVENT_CLOSED, later), ACS_ACTION_DROP);
	assert_int_equal(acs_machine_deadline(&machine), later);
}

static void test_server_that_hangs_up_at_once_does_not_make_it_spin(void **state)
{
	struct acs_machine machine;
	uint64_t now = START, waited = 0;

	(void)state;
	fixed_random = 0;
	acs_machine_init(&machine, test_random, now);
	for (int i = 0; i < 10; i++) {
		uint64_t due = acs_machine_deadline(&machine);

		waited += due - now;
		now = due;
		acs_machine_apply(&machine, ACS_EVENT_DUE, now);
		acs_machine_apply(&machine, ACS_EVENT_FOUND, now);
		acs_machine_apply(&machine, ACS_EVENT_OPENED, now);
		acs_machine_apply(&machine, ACS_EVENT_CLOSED, now);
	}
	assert_true(waited > 10 * SEC);
}

static void test_silence_drops_the_connection_unless_something_comes(void **state)
{
	static const double randoms[] = {0, 0.5, 0.999};
	enum acs_event event;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(randoms); i++) {
		uint64_t silence = MINUTE + (uint64_t)(randoms[i] * (double)MINUTE);
		uint64_t now = START + 50 * SEC;
		struct acs_machine machine;

		fixed_random = randoms[i];
		connect_at_start(&machine);
		acs_machine_apply(&machine, ACS_EVENT_STABLE, now);
		acs_machine_apply(&machine, ACS_EVENT_RECEIVED, now);
		assert_false(acs_machine_passed(&machine, now + silence - 1, &event));
		assert_true(acs_machine_passed(&machine, now + silence, &event));
		assert_int_equal(event, ACS_EVENT_SILENT);
		assert_int_equal(acs_machine_apply(&machine, event, now + silence),
		                 ACS_ACTION_DROP);
		assert_int_equal(machine.state, ACS_WAITING);
	}
}

static void test_old_connection_is_closed_and_replaced_even_without_an_answer(void **state)
{
	struct acs_machine machine;
	uint64_t now = START;
	enum acs_event event = ACS_EVENT_DUE;

	(void)state;
	fixed_random = 0.5;
	connect_at_start(&machine);
	while (event != ACS_EVENT_EXPIRED) {
		now += 30 * SEC;
		assert_true(now < START + HOUR);
		acs_machine_apply(&machine, ACS_EVENT_RECEIVED, now);
		if (!acs_machine_passed(&machine, now, &event))
			event = ACS_EVENT_DUE;
		else if (event != ACS_EVENT_EXPIRED)
			acs_machine_apply(&machine, event, now);
	}
	assert_in_range(now - START, 30 * MINUTE, 35 * MINUTE);
	assert_int_equal(acs_machine_apply(&machine, event, now), ACS_ACTION_CLOSE);
	assert_int_equal(machine.state, ACS_CLOSING);
	now = acs_machine_deadline(&machine);
	assert_true(acs_machine_passed(&machine, now, &event));
	assert_int_equal(event, ACS_EVENT_DUE);
	assert_int_equal(acs_machine_apply(&machine, event, now), ACS_ACTION_DROP);
	assert_int_equal(acs_machine_deadline(&machine), now);
}

static void test_backoff_starts_again_once_a_connection_was_stable(void **state)
{
	struct acs_machine machine;
	enum acs_event event;
	uint64_t now = START;

	(void)state;
	fixed_random = 0;
	acs_machine_init(&machine, test_random, now);
	for (int i = 0; i < 10; i++) {
		now = acs_machine_deadline(&machine);
		acs_machine_apply(&machine, ACS_EVENT_DUE, now);
		if (i < 9)
			acs_machine_apply(&machine, ACS_EVENT_FAILED, now);
	}
	acs_machine_apply(&machine, ACS_EVENT_FOUND, now);
	acs_machine_apply(&machine, ACS_EVENT_OPENED, now);
	now += 59 * SEC;
	acs_machine_apply(&machine, ACS_EVENT_RECEIVED, now);
	now += SEC;
	assert_true(acs_machine_passed(&machine, now, &event));
	assert_int_equal(event, ACS_EVENT_STABLE);
	acs_machine_apply(&machine, event, now);
	acs_machine_apply(&machine, ACS_EVENT_FAILED, now);
	assert_int_equal(acs_machine_deadline(&machine) - now, 250 * MSEC);
}

static void test_inactive_instance_waits_an_hour(void **state)
{
	static const enum acs_event before[] = {ACS_EVENT_DUE, ACS_EVENT_FOUND};

	(void)state;
	for (size_t n = 1; n <= ARRAY_SIZE(before); n++) {
		struct acs_machine machine;

		acs_machine_init(&machine, test_random, START);
		for (size_t i = 0; i < n; i++)
			acs_machine_apply(&machine, before[i], START);
		acs_machine_apply(&machine, ACS_EVENT_INACTIVE, START);
		assert_int_equal(machine.state, ACS_WAITING);
		assert_int_equal(acs_machine_deadline(&machine), START + HOUR);
	}
}

static void test_every_state_but_those_of_an_operation_has_a_deadline(void **state)
{
	(void)state;
	fixed_random = 0.3;
	/* Any event in any state leaves a machine that goes on by itself: an operation that
	 * reports, or a deadline. */
	for (int s = 0; s < _ACS_STATE_MAX; s++)
		for (int e = ACS_EVENT_DUE; e <= ACS_EVENT_INACTIVE; e++) {
			struct acs_machine machine;

			connect_at_start(&machine);
			if (s == ACS_WAITING)
				acs_machine_apply(&machine, ACS_EVENT_FAILED, START);
			else if (s == ACS_CLOSING)
				acs_machine_apply(&machine, ACS_EVENT_EXPIRED, START);
			else if (s != ACS_CONNECTED) {
				acs_machine_init(&machine, test_random, START);
				acs_machine_apply(&machine, ACS_EVENT_DUE, START);
				if (s == ACS_CONNECTING)
					acs_machine_apply(&machine, ACS_EVENT_FOUND, START);
			}
			assert_int_equal(machine.state, s);
			acs_machine_apply(&machine, (enum acs_event)e, START + SEC);
			if (machine.state != ACS_DISCOVERING && machine.state != ACS_CONNECTING &&
			    acs_machine_deadline(&machine) == ACS_NEVER)
				fail_msg("%s: event %d leaves %s without a deadline",
				         acs_state_to_string((enum acs_state)s), e,
				         acs_state_to_string(machine.state));
		}
}

static void test_session_is_overdue_only_when_something_that_must_come_does_not(void **state)
{
	struct acs_machine machine;
	uint64_t now = START;

	(void)state;
	fixed_random = 0.5;
	connect_at_start(&machine);
	acs_machine_apply(&machine, ACS_EVENT_STABLE, now + 2 * MINUTE);
	for (int i = 0; i < 30; i++) { /* heartbeats */
		now += 50 * SEC;
		acs_machine_apply(&machine, ACS_EVENT_RECEIVED, now);
		assert_false(acs_machine_is_overdue(&machine, now + MINUTE));
	}
	/* Silence is noticed at a minute and a half: if not, the timer is broken. */
	assert_false(acs_machine_is_overdue(&machine, now + 2 * MINUTE));
	assert_true(acs_machine_is_overdue(&machine, now + 3 * MINUTE));

	/* ECS is away for a day: every attempt ends, and another follows. */
	acs_machine_apply(&machine, ACS_EVENT_SILENT, now);
	while (now < START + 24 * HOUR) {
		enum acs_event event;

		assert_false(acs_machine_is_overdue(&machine, acs_machine_deadline(&machine)));
		now = acs_machine_deadline(&machine);
		assert_true(acs_machine_passed(&machine, now, &event));
		acs_machine_apply(&machine, event, now);
		assert_false(acs_machine_is_overdue(&machine, now + 3 * MINUTE));
		now += 3 * MINUTE;
		acs_machine_apply(&machine, ACS_EVENT_FOUND, now);
		now += MINUTE;
		acs_machine_apply(&machine, ACS_EVENT_FAILED, now);
		assert_false(acs_machine_is_overdue(&machine, now));
	}

	/* The hour after InactiveInstanceException. */
	acs_machine_apply(&machine, ACS_EVENT_DUE, now);
	acs_machine_apply(&machine, ACS_EVENT_INACTIVE, now);
	assert_false(acs_machine_is_overdue(&machine, now + HOUR));
	assert_true(acs_machine_is_overdue(&machine, now + HOUR + 2 * MINUTE));

	/* An attempt whose end nobody reports, in both of its states. */
	now += HOUR;
	acs_machine_apply(&machine, ACS_EVENT_DUE, now);
	assert_int_equal(machine.state, ACS_DISCOVERING);
	assert_true(acs_machine_is_overdue(&machine, now + 6 * MINUTE));
	acs_machine_apply(&machine, ACS_EVENT_FOUND, now + 4 * MINUTE);
	assert_false(acs_machine_is_overdue(&machine, now + 6 * MINUTE));
	assert_true(acs_machine_is_overdue(&machine, now + 10 * MINUTE));
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_failures_wait_longer_and_longer_up_to_two_minutes),
		cmocka_unit_test(test_jitter_adds_a_fifth_at_most),
		cmocka_unit_test(test_orderly_end_reconnects_at_once),
		cmocka_unit_test(test_server_that_hangs_up_at_once_does_not_make_it_spin),
		cmocka_unit_test(test_silence_drops_the_connection_unless_something_comes),
		cmocka_unit_test(test_old_connection_is_closed_and_replaced_even_without_an_answer),
		cmocka_unit_test(test_backoff_starts_again_once_a_connection_was_stable),
		cmocka_unit_test(test_inactive_instance_waits_an_hour),
		cmocka_unit_test(
			test_session_is_overdue_only_when_something_that_must_come_does_not),
		cmocka_unit_test(test_every_state_but_those_of_an_operation_has_a_deadline),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
