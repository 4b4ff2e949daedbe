/*
 * The health check of a container: a program that runs inside it again and again, as Docker's
 * HEALTHCHECK does.
 *
 *   STARTING  no result counts yet
 *   HEALTHY   the last one that counted was exit code 0
 *   UNHEALTHY `retries` in a row were not: another code, a time-out, or no start at all
 *
 * The first check comes an interval after the start, each further one an interval after the end of
 * the one before. Within the start period failures do not count, and the start interval takes the
 * place of the interval, until a check has succeeded. Source: Docker, "HEALTHCHECK" in the
 * Dockerfile reference.
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "agent/task/exec.h"
#include "lib/cleanup.h"
#include "lib/err.h"

struct health_check {
	char **args; /* owned, NULL-terminated; NULL: there is no check */
	uint64_t interval_usec, timeout_usec, start_period_usec, start_interval_usec;
	unsigned int retries;
};

/* "healthCheck" of protocol.h. -EINVAL names the member. */
int health_check_parse(struct json_object *obj, struct health_check *ret, struct err *err);
void health_check_done(struct health_check *check);

struct health;

/* Takes what check owns on success. -ENOMEM. */
int health_new(struct health_check *check, struct health **ret);
struct health *health_free(struct health *health);
DEFINE_CLEANUP(struct health *, health_free)

/* The container has started; it and the set are borrowed until health_stop(). */
void health_start(struct health *health, struct exec_set *set, struct container *container);
/* It has ended. The last status stays. */
void health_stop(struct health *health);

/* When the next check is due, monotonic; 0: none is waiting. */
uint64_t health_deadline(const struct health *health);
void health_check_due(struct health *health, uint64_t now_usec);

/* Is there anything new in health_to_json() since this was asked last? */
bool health_take_news(struct health *health);

/* Adds "status", "since" (realtime microseconds), "exitCode" and "output" of the last check. */
int health_to_json(const struct health *health, struct json_object *obj);
