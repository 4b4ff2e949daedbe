/* Restart policies: what they say, and when they apply. */
#include "agent/engine/restart.h"

#include <errno.h>
#include <stdlib.h>

#include "agent/engine/refuse.h"
#include "lib/json.h"

#define PERIOD_MIN_SECONDS     60
#define PERIOD_MAX_SECONDS     1800
#define PERIOD_DEFAULT_SECONDS 300
#define IGNORED_MAX            50

static int parse_period(struct json_object *obj, uint64_t *ret_usec, struct err *err)
{
	int64_t seconds = 0;
	int r;

	r = json_optional(
		json_get_i64(obj, "restartAttemptPeriod", INT32_MIN, INT32_MAX, &seconds, err));
	if (r < 0)
		return r;
	if (seconds == 0)
		seconds = PERIOD_DEFAULT_SECONDS;
	if (seconds < PERIOD_MIN_SECONDS || seconds > PERIOD_MAX_SECONDS)
		return err_text(err, -ERANGE,
		                "restartAttemptPeriod is %lld, it must be %d to %d seconds",
		                (long long)seconds, PERIOD_MIN_SECONDS, PERIOD_MAX_SECONDS);
	*ret_usec = (uint64_t)seconds * 1000000;
	return 0;
}

static int parse_ignored(struct json_object *obj, struct restart_policy *policy, struct err *err)
{
	struct json_object *list = NULL;
	size_t n;
	int r;

	r = json_optional(json_get_array(obj, "ignoredExitCodes", &list, err));
	if (r < 0 || !list)
		return r;
	n = json_object_array_length(list);
	if (n > IGNORED_MAX)
		return err_text(err, -EINVAL, "%zu ignoredExitCodes, at most %d are allowed", n,
		                IGNORED_MAX);
	policy->ignored_exit_codes = calloc(n + 1, sizeof(*policy->ignored_exit_codes));
	if (!policy->ignored_exit_codes)
		return err_oom(err);
	for (size_t i = 0; i < n; i++) {
		struct json_object *item = json_object_array_get_idx(list, i);
		int64_t code = json_object_get_int64(item);

		if (!json_object_is_type(item, json_type_int) || code < INT32_MIN ||
		    code > INT32_MAX)
			return err_text(err, -EINVAL, "ignoredExitCodes[%zu] must be an exit code",
			                i);
		policy->ignored_exit_codes[policy->n_ignored_exit_codes++] = (int)code;
	}
	return 0;
}

int restart_policy_parse(struct json_object *container, struct restart_policy *ret, struct err *err)
{
	static const char *const known[] = {"enabled", "ignoredExitCodes", "restartAttemptPeriod"};
	struct json_object *obj = NULL;
	int r;

	r = json_optional(json_get_object(container, "restartPolicy", &obj, err));
	if (r < 0 || !obj)
		return r;
	r = refuse_unknown_members(obj, known, ARRAY_SIZE(known), "restartPolicy", err);
	if (r < 0)
		return r;
	r = json_optional(json_get_bool(obj, "enabled", &ret->enabled, err));
	if (r == 0)
		r = parse_period(obj, &ret->attempt_period_usec, err);
	if (r == 0)
		r = parse_ignored(obj, ret, err);
	return r < 0 ? err_prefix(err, r, "restartPolicy") : 0;
}

void restart_policy_done(struct restart_policy *policy)
{
	free(policy->ignored_exit_codes);
	*policy = (struct restart_policy){0};
}

bool restart_policy_wants(const struct restart_policy *policy, int exit_code, uint64_t ran_usec)
{
	if (!policy->enabled || ran_usec < policy->attempt_period_usec)
		return false;
	for (size_t i = 0; i < policy->n_ignored_exit_codes; i++)
		if (policy->ignored_exit_codes[i] == exit_code)
			return false;
	return true;
}
