/*
 * A thread beside the event loop for what waits for the disk: one piece of work at a time, started
 * and ended by the loop's thread. While it is busy, what the work uses belongs to it.
 *
 *   idle -> commit_thread_start() -> busy -> done() from the loop, or from commit_thread_finish()
 *        -> idle
 */
#pragma once

#include <stdbool.h>
#include <systemd/sd-event.h>

#include "lib/cleanup.h"
#include "lib/err.h"

struct commit_thread;

/* work runs in the thread; done in the loop's, with what work returned. userdata is borrowed. */
struct commit_thread_calls {
	int (*work)(void *userdata);
	void (*done)(int r, void *userdata);
	void *userdata;
};

int commit_thread_new(sd_event *loop, const struct commit_thread_calls *calls,
                      struct commit_thread **ret, struct err *err);

/* Waits for work that has begun; its done() is not called. */
struct commit_thread *commit_thread_free(struct commit_thread *thread);
DEFINE_CLEANUP(struct commit_thread *, commit_thread_free)

/* It must be idle. */
void commit_thread_start(struct commit_thread *thread);
bool commit_thread_is_busy(const struct commit_thread *thread);

/* Wait for the work that it is busy with: wait() leaves done() to the loop, finish() calls it. */
void commit_thread_wait(struct commit_thread *thread);
void commit_thread_finish(struct commit_thread *thread);
