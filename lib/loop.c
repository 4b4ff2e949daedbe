/* The event loop that our long-lived programs share. */
#include "lib/loop.h"

#include <errno.h>
#include <signal.h>
#include <time.h>

#include "lib/heap.h"

static uint64_t clock_usec(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

int loop_new(sd_event **ret, struct err *err)
{
	return loop_new_with_stop(NULL, NULL, ret, err); /* sd_event's own handler exits with 0 */
}

int loop_new_with_stop(sd_event_signal_handler_t stop, void *userdata, sd_event **ret,
                       struct err *err)
{
	_cleanup_(sd_event_unrefp) sd_event *loop = NULL;
	sigset_t mask;
	int r;

	heap_init(); /* before there is a second thread */
	/* sd_event takes signals through a signalfd, so they must be blocked first. */
	sigemptyset(&mask);
	sigaddset(&mask, SIGTERM);
	sigaddset(&mask, SIGINT);
	if (sigprocmask(SIG_BLOCK, &mask, NULL) < 0 || signal(SIGPIPE, SIG_IGN) == SIG_ERR)
		return err_set(err, -errno, "set up signals");

	r = sd_event_new(&loop);
	if (r < 0)
		return err_set(err, r, "make an event loop");
	r = sd_event_add_signal(loop, NULL, SIGTERM, stop, userdata);
	if (r >= 0)
		r = sd_event_add_signal(loop, NULL, SIGINT, stop, userdata);
	if (r < 0)
		return err_set(err, r, "watch for SIGTERM");
	r = sd_event_set_watchdog(loop, true);
	if (r < 0)
		return err_set(err, r, "feed the watchdog");
	*ret = TAKE_PTR(loop);
	return 0;
}

static void note_max(uint64_t *max, uint64_t value)
{
	if (value > *max)
		*max = value;
}

static int run_turn(sd_event *loop, struct loop_times *times)
{
	uint64_t began = now_usec(), began_cpu = clock_usec(CLOCK_THREAD_CPUTIME_ID);
	int r = sd_event_dispatch(loop);

	times->turns++;
	note_max(&times->longest_usec, now_usec() - began);
	note_max(&times->busiest_usec, clock_usec(CLOCK_THREAD_CPUTIME_ID) - began_cpu);
	return r;
}

int loop_run(sd_event *loop, struct loop_times *times)
{
	int code = 0, r;

	while (sd_event_get_state(loop) != SD_EVENT_FINISHED) {
		r = sd_event_prepare(loop);
		if (r == 0)
			r = sd_event_wait(loop, UINT64_MAX);
		if (r > 0)
			r = run_turn(loop, times);
		if (r < 0)
			return r;
	}
	r = sd_event_get_exit_code(loop, &code);
	return r < 0 ? r : code;
}

int loop_add_timer(sd_event *loop, uint64_t usec, uint64_t accuracy_usec,
                   sd_event_time_handler_t fn, void *userdata, sd_event_source **ret)
{
	return sd_event_add_time(loop, ret, CLOCK_MONOTONIC, now_usec() + usec,
	                         accuracy_usec ? accuracy_usec : 1, fn, userdata);
}

uint64_t now_usec(void)
{
	return clock_usec(CLOCK_MONOTONIC);
}

uint64_t now_realtime_usec(void)
{
	return clock_usec(CLOCK_REALTIME);
}
