/*
 * The node's way from a started process to one that takes tasks, on the event loop:
 *
 *   instance metadata -> state checked -> engine recovered -> registered -> session with ACS
 *
 * State of another host is discarded, and lost state is rebuilt from running supervisors, before
 * the engine begins.
 *
 * Tasks of an earlier run are looked after from the second step on, whether ECS can be reached or
 * not. A step that fails for good ends the loop with the exit code that tells the service manager
 * whether to start again: 1 yes, 5 no.
 */
#pragma once

#include <systemd/sd-event.h>

#include "agent/config/config.h"
#include "agent/engine/engine.h"
#include "agent/state/state.h"
#include "lib/err.h"
#include "lib/options.h"

#define EXIT_TERMINAL 5 /* starting again cannot help */

struct node;

/* All borrowed until node_free(), which leaves every task running. */
int node_start(sd_event *loop, const struct options *options, const struct config *config,
               struct state *state, struct node **ret, struct err *err);
struct node *node_free(struct node *node);
DEFINE_CLEANUP(struct node *, node_free)

/* All 0 before the engine begins. */
void node_count(const struct node *node, struct engine_counts *ret);
