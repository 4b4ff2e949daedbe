/* What our sd_event programs share: the loop with its signals, and the monotonic clock. */
#pragma once

#include <stdint.h>
#include <systemd/sd-event.h>

#include "lib/cleanup.h"
#include "lib/err.h"

/* libsystemd brings sd_event_unrefp() and sd_event_source_disable_unrefp() for _cleanup_(). */

/* A loop that ends with code 0 on SIGTERM and SIGINT, ignores SIGPIPE, and feeds the watchdog
 * of its service manager where there is one. With it comes heap_init(). */
int loop_new(sd_event **ret, struct err *err);

/* The same for a program that has something to finish first: SIGTERM and SIGINT call stop, which
 * ends the loop with sd_event_exit() when it is ready. */
int loop_new_with_stop(sd_event_signal_handler_t stop, void *userdata, sd_event **ret,
                       struct err *err);

/*
 * How a loop has turned so far. A turn is one event with all that its handler does: while it lasts,
 * nothing else is served, so its time is what everything else may have to wait.
 */
struct loop_times {
	uint64_t turns;
	uint64_t longest_usec;
	uint64_t busiest_usec; /* the most CPU time of a turn, which need not be the longest one */
};

/* As sd_event_loop(3), with each turn measured; times is borrowed. */
int loop_run(sd_event *loop, struct loop_times *times);

/* Timer with an accuracy that is stated: usec from now, once. fn as sd_event_add_time(). */
int loop_add_timer(sd_event *loop, uint64_t usec, uint64_t accuracy_usec,
                   sd_event_time_handler_t fn, void *userdata, sd_event_source **ret);

uint64_t now_usec(void);          /* CLOCK_MONOTONIC */
uint64_t now_realtime_usec(void); /* CLOCK_REALTIME */
