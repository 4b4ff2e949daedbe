/*
 * The restart policy of a container: when one that has ended is started again, in place, with its
 * root file system, its log stream, its endpoint and its address. ECS is told nothing of that: the
 * container goes on RUNNING, and only RestartCount of its metadata shows it.
 *
 * One that ends sooner than the attempt period after its last start is not started again, so that
 * none can fail in a quick loop. Source: the ECS developer guide, "Restart individual containers in
 * Amazon ECS tasks with container restart policies".
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

struct restart_policy {
	bool enabled;
	uint64_t attempt_period_usec;
	int *ignored_exit_codes; /* owned; one that ends with any of these stays ended */
	size_t n_ignored_exit_codes;
};

/*
 * "restartPolicy" of a container of the payload, which may be missing. A policy that is not enabled
 * is looked at all the same.
 *
 * -EINVAL or -ERANGE naming what is wrong: restartAttemptPeriod must be 60 to 1800 seconds (missing
 * or 0: 300), ignoredExitCodes at most 50; -EOPNOTSUPP naming a member that is not known.
 */
int restart_policy_parse(struct json_object *container, struct restart_policy *ret,
                         struct err *err);
void restart_policy_done(struct restart_policy *policy);

/* Is a container to be started again that has ended with exit_code, ran_usec after its start? */
bool restart_policy_wants(const struct restart_policy *policy, int exit_code, uint64_t ran_usec);
