/* Health checks. A check that cannot be started is a check that failed, never an error of ours. */
#include "agent/task/health.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/task/spec_parse.h"
#include "lib/json.h"

#define OUTPUT_MAX   1024 /* of the last check, as ECS keeps it */
#define RETRIES_MAX  1000
#define ARGS_MAX     1024
#define DURATION_MAX (7ull * 24 * 3600 * 1000000)
#define START_USEC   5000000 /* Docker's start interval, where none is given */
#define ERROR_CODE   (-1) /* of a check that could not be started or did not end, as with Docker */

enum health_status {
	HEALTH_STARTING,
	HEALTH_HEALTHY,
	HEALTH_UNHEALTHY,
};

static const char *const status_words[] = {
	[HEALTH_STARTING] = "STARTING",
	[HEALTH_HEALTHY] = "HEALTHY",
	[HEALTH_UNHEALTHY] = "UNHEALTHY",
};

struct health {
	struct health_check check;

	/* while the container runs */
	struct exec_set *set;
	struct container *container;
	struct exec *exec;
	uint64_t started_usec, due_usec,
		checked_usec;  /* monotonic; checked: the last one's start */
	unsigned int failures; /* in a row */

	enum health_status status;
	uint64_t since_realtime_usec;
	bool news;
	int exit_code;
	char *output; /* JSON-proof; NULL: no check has ended */
};

static uint64_t now_realtime_usec(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

/* --- what is asked for --- */

static int copy_args(const char **args, size_t n, char ***ret, struct err *err)
{
	char **copy = calloc(n + 1, sizeof(*copy));

	if (!copy)
		return err_oom(err);
	for (size_t i = 0; i < n; i++) {
		copy[i] = strdup(args[i]);
		if (!copy[i]) {
			while (i-- > 0)
				free(copy[i]);
			free(copy);
			return err_oom(err);
		}
	}
	*ret = copy;
	return 0;
}

int health_check_parse(struct json_object *obj, struct health_check *ret, struct err *err)
{
	const struct {
		const char *name;
		uint64_t max, *value;
	} members[] = {
		{"intervalUsec", DURATION_MAX, &ret->interval_usec},
		{"timeoutUsec", DURATION_MAX, &ret->timeout_usec},
		{"startPeriodUsec", DURATION_MAX, &ret->start_period_usec},
	};
	_cleanup_free_ const char **args = NULL;
	uint64_t retries = 0;
	size_t n = 0;
	int r;

	ret->start_interval_usec = START_USEC;
	r = ONLY_MEMBERS(obj, "healthCheck", err, "args", "intervalUsec", "timeoutUsec",
	                 "startPeriodUsec", "startIntervalUsec", "retries");
	if (r == 0)
		r = json_optional(json_get_u64(obj, "startIntervalUsec", DURATION_MAX,
		                               &ret->start_interval_usec, err));
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(members); i++)
		r = json_get_u64(obj, members[i].name, members[i].max, members[i].value, err);
	if (r == 0)
		r = json_get_u64(obj, "retries", RETRIES_MAX, &retries, err);
	if (r == 0)
		r = spec_get_strings(obj, "healthCheck", "args", &args, &n, err);
	if (r < 0)
		return err_prefix(err, r == -ENOENT ? -EINVAL : r, "healthCheck");
	if (n == 0 || n > ARGS_MAX)
		return err_text(err, -EINVAL,
		                "healthCheck: args has %zu strings; it must have 1 to %d", n,
		                ARGS_MAX);
	if (ret->interval_usec == 0 || ret->timeout_usec == 0 || ret->start_interval_usec == 0 ||
	    retries == 0)
		return err_text(err, -EINVAL,
		                "healthCheck: intervalUsec, startIntervalUsec, timeoutUsec and "
		                "retries must not be 0");
	ret->retries = (unsigned int)retries;
	return copy_args(args, n, &ret->args, err);
}

void health_check_done(struct health_check *check)
{
	for (size_t i = 0; check->args && check->args[i]; i++)
		free(check->args[i]);
	free(check->args);
	check->args = NULL;
}

int health_new(struct health_check *check, struct health **ret)
{
	struct health *health = calloc(1, sizeof(*health));

	if (!health)
		return -ENOMEM;
	health->check = *check;
	check->args = NULL;
	*ret = health;
	return 0;
}

struct health *health_free(struct health *health)
{
	if (!health)
		return NULL;
	exec_free(health->exec);
	health_check_done(&health->check);
	free(health->output);
	free(health);
	return NULL;
}

/* --- checking --- */

static void set_due(struct health *health)
{
	uint64_t now = now_monotonic_usec();
	bool starts = health->status == HEALTH_STARTING &&
	              now - health->started_usec < health->check.start_period_usec;

	health->due_usec =
		now + (starts ? health->check.start_interval_usec : health->check.interval_usec);
}

void health_start(struct health *health, struct exec_set *set, struct container *container)
{
	health->set = set;
	health->container = container;
	health->started_usec = now_monotonic_usec();
	health->failures = 0;
	free(health->output); /* of an earlier start */
	health->output = NULL;
	health->exit_code = 0;
	health->status = HEALTH_STARTING;
	health->since_realtime_usec = now_realtime_usec();
	health->news = true;
	set_due(health);
}

void health_stop(struct health *health)
{
	health->exec = exec_free(health->exec);
	health->due_usec = 0;
}

static void set_status(struct health *health, enum health_status status)
{
	if (health->status == status)
		return;
	health->status = status;
	health->since_realtime_usec = now_realtime_usec();
}

static bool failure_counts(const struct health *health)
{
	return health->status != HEALTH_STARTING ||
	       health->checked_usec - health->started_usec >= health->check.start_period_usec;
}

/* text: JSON-proof, taken. */
static void take_result(struct health *health, int exit_code, char *text)
{
	enum health_status before = health->status;
	bool same = health->output && text && health->exit_code == exit_code &&
	            strcmp(health->output, text) == 0;

	if (exit_code == 0) {
		health->failures = 0;
		set_status(health, HEALTH_HEALTHY);
	} else if (failure_counts(health) && ++health->failures >= health->check.retries) {
		set_status(health, HEALTH_UNHEALTHY);
	}
	health->exit_code = exit_code;
	free(health->output);
	health->output = text;
	set_due(health);
	health->news |= !same || before != health->status;
}

static void take_text(struct health *health, const char *text)
{
	take_result(health, ERROR_CODE, json_printable(text, strlen(text)));
}

static void on_exec(struct exec *exec, void *userdata)
{
	struct health *health = userdata;
	const struct exec_result *result = exec_result(exec);
	char text[64];

	switch (result->status) {
	case EXEC_STARTING:
	case EXEC_RUNNING:
		return;
	case EXEC_FAILED:
		take_text(health, result->err.text);
		break;
	case EXEC_EXITED:
		if (result->timed_out) {
			snprintf(text, sizeof(text), "Health check exceeded timeout (%llu ms)",
			         (unsigned long long)health->check.timeout_usec / 1000);
			take_text(health, text);
		} else {
			take_result(health, result->exit_code,
			            json_printable(result->output, result->output_len));
		}
		break;
	}
	health->exec = exec_free(exec);
}

uint64_t health_deadline(const struct health *health)
{
	return health->due_usec;
}

void health_check_due(struct health *health, uint64_t now_usec)
{
	const struct exec_request request = {
		.args = (const char *const *)health->check.args,
		.stdio = EXEC_NO_STDIO,
		.capture_bytes = OUTPUT_MAX,
		.timeout_usec = health->check.timeout_usec,
	};
	struct err err = {};

	if (!health->due_usec || now_usec < health->due_usec)
		return;
	health->due_usec = 0;
	health->checked_usec = now_usec;
	if (exec_start(health->set, health->container, &request, on_exec, health, &health->exec,
	               &err) < 0)
		take_text(health, err.text);
}

bool health_take_news(struct health *health)
{
	bool news = health->news;

	health->news = false;
	return news;
}

int health_to_json(const struct health *health, struct json_object *obj)
{
	if (json_add_string(obj, "status", status_words[health->status]) < 0 ||
	    json_add_u64(obj, "since", health->since_realtime_usec) < 0)
		return -ENOMEM;
	if (!health->output)
		return 0;
	if (json_add_i64(obj, "exitCode", health->exit_code) < 0)
		return -ENOMEM;
	return json_add_string(obj, "output", health->output);
}
