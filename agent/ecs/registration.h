/*
 * Registering the node as a container instance: RegisterContainerInstance with its retries (3 s to
 * 192 s, doubled, jitter 0.2, for an hour; throttling and server errors only), creation of the
 * cluster "default" if no cluster is configured and it is missing, and the check that every
 * attribute sent came back.
 */
#pragma once

#include "agent/ecs/capabilities.h"
#include "agent/ecs/ecs.h"
#include "agent/ecs/instance.h"

struct registration;

struct registration_options {
	struct ecs_client *client; /* borrowed until registration_free() */
	sd_event *loop;
	const struct config *config;     /* borrowed until registration_free() */
	const struct instance *instance; /* borrowed for the call */
	struct node_facts facts;
	/* From the state of an earlier run, to register again as the same; NULL at first. */
	const char *container_instance_arn;
};

typedef void (*registration_done_fn)(int r, const struct err *err, void *userdata);

int registration_start(const struct registration_options *options, registration_done_fn done,
                       void *userdata, struct registration **ret, struct err *err);
struct registration *registration_free(struct registration *registration);
DEFINE_CLEANUP(struct registration *, registration_free)

/* After success; borrowed. */
const char *registration_arn(const struct registration *registration);
const char *registration_availability_zone(const struct registration *registration); /* or NULL */

/* While it goes on: has it neither made an attempt nor got an answer within the time for that? Not
 * while it waits to try again. */
bool registration_is_overdue(const struct registration *registration, uint64_t now_usec);

/* After a failure: 5 when starting again cannot help (the service manager must not), else 1. */
int registration_exit_code(const struct registration *registration);
