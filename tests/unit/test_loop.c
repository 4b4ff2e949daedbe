/* The loop that measures its turns. */
#include "tests/unit/cmocka_prelude.h"

#include <time.h>

#include "lib/loop.h"

#define SLEPT_USEC 30000

static int sleep_and_exit(sd_event_source *source, uint64_t usec, void *userdata)
{
	const struct timespec slept = {.tv_nsec = SLEPT_USEC * 1000};

	(void)usec;
	(void)userdata;
	nanosleep(&slept, NULL);
	return sd_event_exit(sd_event_source_get_event(source), 7);
}

static int count(sd_event_source *source, uint64_t usec, void *userdata)
{
	(void)source;
	(void)usec;
	(*(unsigned int *)userdata)++;
	return 0;
}

static void test_the_longest_turn_is_known_and_the_exit_code_returned(void **state)
{
	_cleanup_(sd_event_unrefp) sd_event *loop = NULL;
	struct loop_times times = {0};
	unsigned int counted = 0;

	(void)state;
	assert_int_equal(loop_new(&loop, NULL), 0);
	assert_int_equal(loop_add_timer(loop, 0, 1, count, &counted, NULL), 0);
	assert_int_equal(loop_add_timer(loop, 1000, 1, count, &counted, NULL), 0);
	assert_int_equal(loop_add_timer(loop, 2000, 1, sleep_and_exit, NULL, NULL), 0);
	assert_int_equal(loop_run(loop, &times), 7);
	assert_int_equal(counted, 2);
	assert_true(times.turns >= 3);
	assert_true(times.longest_usec >= SLEPT_USEC);
	/* It slept for all but a moment of that. */
	assert_true(times.busiest_usec < times.longest_usec);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_longest_turn_is_known_and_the_exit_code_returned),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
