/*
 * A store that is lost (damaged, or deleted) is filled again from the records that the supervisors
 * of running tasks keep, before anything else looks at it: the rest of the start is that of any
 * restart. The node registers as the container instance that it was, and its tasks go on.
 *
 * The same goes for a single task whose row cannot be read: it comes back from its supervisor, and
 * the rest of the store is left alone.
 *
 * What counts: records of this cluster and, where both know it, of this instance; and of these the
 * ones of the container instance that the store
 * names, or else the newest of them. A supervisor without such a record
 * gets what every unknown one gets. Every state is reported to ECS once more, since the outbox is
 * lost. All of it is one transaction, so a crash before its end leaves the store incomplete and the
 * next start begins again.
 */
#pragma once

#include <systemd/sd-event.h>

#include "agent/state/state.h"
#include "lib/err.h"

/* All borrowed until rebuild_free(). */
struct rebuild_options {
	sd_event *loop;
	struct state *state;
	const char *runtime_dir;
	const char *cluster;
	const char *instance_id; /* of EC2; NULL: unknown */
	const char *machine_id;  /* NULL: unknown */
};

/* Is the store incomplete, or a row of it unreadable? */
int rebuild_is_needed(struct state *state, bool *ret, struct err *err);

struct rebuild;

/* r: 0, also when there was nothing to rebuild from; else the -errno of writing the store. */
typedef void (*rebuild_done_fn)(int r, const struct err *err, void *userdata);

int rebuild_start(const struct rebuild_options *options, rebuild_done_fn done, void *userdata,
                  struct rebuild **ret, struct err *err);
struct rebuild *rebuild_free(struct rebuild *rebuild);
DEFINE_CLEANUP(struct rebuild *, rebuild_free)

/* Tasks that were found again; after done. */
size_t rebuild_count(const struct rebuild *rebuild);

/* Key of the store that says that tasks may have been lost: the next manifest tells which. */
#define REBUILD_LOST_KEY "tasks-may-be-lost"
