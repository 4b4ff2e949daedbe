/*
 * How ecs-agent fares, in numbers for its administrator: two lines of the log on SIGUSR1, and when
 * it ends.
 */
#pragma once

#include <systemd/sd-event.h>

#include "agent/node.h"
#include "agent/state/state.h"
#include "lib/cleanup.h"
#include "lib/err.h"
#include "lib/loop.h"

/* All is borrowed. */
struct figures {
	const struct loop_times *times;
	const struct state *state;
	const struct node *node;
	sd_event_source *on_signal; /* owned */
};

/* Log them on SIGUSR1 from now on; figures lives as long as the loop. */
int figures_watch(struct figures *figures, sd_event *loop, struct err *err);
void figures_log(const struct figures *figures);
void figures_done(struct figures *figures);
