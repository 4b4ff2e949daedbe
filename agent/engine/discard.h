/*
 * State of another host (a disk that was copied with it) is not ours to act on: its tasks run
 * there, and that host reports them and ships their output. What the state names is removed here
 * without a word to anyone; images stay. Before the state itself is set aside, so that a crash in
 * between begins again.
 */
#pragma once

#include <systemd/sd-event.h>

#include "agent/state/state.h"
#include "lib/err.h"

struct discard;

/* Runs once, when all has been tried: a task that cannot be removed is logged, and its directories
 * are what any unknown task's are. */
typedef void (*discard_done_fn)(void *userdata);

/* state is read before this returns; runtime_dir is borrowed until discard_free(). */
int discard_start(sd_event *loop, const char *runtime_dir, struct state *state,
                  discard_done_fn done, void *userdata, struct discard **ret, struct err *err);
struct discard *discard_free(struct discard *discard);
DEFINE_CLEANUP(struct discard *, discard_free)
