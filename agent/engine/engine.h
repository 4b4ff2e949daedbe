/*
 * The task engine: what should run on this node, and how far it has got.
 *
 * Level-triggered: every event (a payload, a pull that has finished, an exit, a timer, a restart)
 * changes what is known and marks the task; the reconciler then looks at the task as a whole and
 * starts whatever can start now. After a restart the same reconciler goes on from what the store
 * and the supervisors say. What must not happen before it is on disk (acknowledgements, reports,
 * launches) waits for the store's commit.
 *
 * Life: engine_new(), engine_recover() once, then events until engine_free(), which leaves every
 * task running.
 */
#pragma once

#include <json-c/json.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "agent/acs/acs.h"
#include "agent/config/config.h"
#include "agent/config/registry_auth.h"
#include "agent/ecs/ecs.h"
#include "agent/state/state.h"
#include "lib/aws_keys.h"
#include "lib/err.h"

struct engine;

/* All borrowed until engine_free(). */
struct engine_options {
	sd_event *loop;
	struct state *state;
	const struct config *config;
	const struct registry_auth *registry_auth; /* NULL: none */
	struct ecs_client *client;                 /* NULL: events stay in the outbox */
	const char *runtime_dir;
	const char *images_dir; /* whose file system must not fill up; NULL: not looked at */
	const char *state_dir;
	const char *boot_id; /* of the kernel, to tell a restart of the host; NULL: unknown */
	const char *region;
	const char *availability_zone; /* NULL: unknown */
	const char *logs_endpoint;     /* NULL: that of the region */
	const char *ecr_endpoint;      /* the same */
	bool no_task_limits;           /* the host has none, whatever config says */
};

int engine_new(const struct engine_options *options, struct engine **ret, struct err *err);
struct engine *engine_free(struct engine *engine);
DEFINE_CLEANUP(struct engine *, engine_free)

/*
 * Read back the tasks of an earlier run and find their supervisors; those that nobody knows are
 * stopped and removed. Everything else goes on from the loop. Returns 0 or -errno of the store.
 */
int engine_recover(struct engine *engine, struct err *err);

/* The node is registered: ecs-metadata is told, and messages of ACS can be answered for it. */
int engine_set_instance(struct engine *engine, const char *container_instance_arn,
                        const char *availability_zone);

/* The node's own keys, to be passed on to ecs-metadata; keys is referenced. */
void engine_set_instance_keys(struct engine *engine, struct aws_keys *keys);

/* Answers go to this session; NULL: there is none (any more). */
void engine_set_session(struct engine *engine, struct acs_session *session);

/* What ACS says; userdata is the struct engine. */
extern const struct acs_handlers engine_acs_handlers;

/* Tasks that are known and not yet removed, whatever their status. */
size_t engine_task_count(const struct engine *engine);
const struct task *engine_task(const struct engine *engine, size_t i);

/* What the engine keeps in memory for its tasks, and what must come to nothing with them. */
struct engine_counts {
	size_t tasks, ended_tasks; /* ended ones are a part of tasks */
	size_t credentials;
	size_t reports;          /* not yet accepted by ECS */
	size_t acknowledgements; /* not yet sent to ACS */
	size_t addresses;        /* in use, on the bridge */
};
void engine_count(const struct engine *engine, struct engine_counts *ret);
