/* Docker's words for health checks become those of ecs-task, and ecs-task's those of ECS. */
#include "agent/engine/health.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/engine/documents.h"
#include "agent/engine/refuse.h"
#include "lib/cleanup.h"
#include "lib/json.h"

/* Docker's defaults. */
#define INTERVAL_USEC 30000000ull
#define TIMEOUT_USEC  30000000ull
#define RETRIES       3
#define RETRIES_MAX   1000
#define DURATION_MAX  (7ll * 24 * 3600 * 1000000000) /* nanoseconds */
#define DURATION_MIN  1000000

/* --- what is asked for --- */

static struct json_object *get_check(const struct container *c)
{
	return json_get(c->config, "Healthcheck");
}

static const char *test_word(struct json_object *test, size_t i)
{
	return json_object_get_string(json_object_array_get_idx(test, i));
}

/* 1 for a check, 0 for none. */
static int check_test(struct json_object *check, struct err *err)
{
	struct json_object *test = NULL;
	size_t n;
	int r;

	r = json_optional(json_get_array(check, "Test", &test, err));
	n = test ? json_object_array_length(test) : 0;
	if (r < 0 || n == 0)
		return r;
	for (size_t i = 0; i < n; i++)
		if (!json_object_is_type(json_object_array_get_idx(test, i), json_type_string) ||
		    strlen(test_word(test, i)) !=
		            (size_t)json_object_get_string_len(json_object_array_get_idx(test, i)))
			return err_text(err, -EINVAL,
			                "Test[%zu] must be a string without a NUL byte", i);
	if (strcmp(test_word(test, 0), "NONE") == 0)
		return 0;
	if (strcmp(test_word(test, 0), "CMD") != 0 && strcmp(test_word(test, 0), "CMD-SHELL") != 0)
		return err_text(
			err, -EINVAL,
			"the command begins with \"%.80s\", it must begin with CMD, CMD-SHELL "
			"or NONE",
			test_word(test, 0));
	if (n == 1)
		return err_text(err, -EINVAL, "the command has nothing after %s",
		                test_word(test, 0));
	return 1;
}

/* 0 is Docker's word for what the image says, whose mistakes are nobody's here, or the default. */
static int get_duration(struct json_object *check, struct json_object *image, const char *name,
                        uint64_t otherwise_usec, uint64_t *ret_usec, struct err *err)
{
	int64_t nsec = 0;
	int r;

	r = json_optional(json_get_i64(check, name, 0, DURATION_MAX, &nsec, err));
	if (r < 0)
		return r;
	if (nsec > 0 && nsec < DURATION_MIN)
		return err_text(err, -EINVAL,
		                "%s is %lld ns, it must be 0 or at least 1 millisecond", name,
		                (long long)nsec);
	if (nsec == 0)
		(void)json_get_i64(image, name, DURATION_MIN, DURATION_MAX, &nsec, NULL);
	*ret_usec = nsec > 0 ? (uint64_t)nsec / 1000 : otherwise_usec;
	return 0;
}

struct parameters {
	uint64_t interval_usec, timeout_usec, start_period_usec;
	uint64_t start_interval_usec; /* 0: that of ecs-task, which is Docker's */
	int64_t retries;
};

static int get_parameters(struct json_object *check, struct json_object *image,
                          struct parameters *ret, struct err *err)
{
	const struct {
		const char *name;
		uint64_t otherwise, *value;
	} durations[] = {
		{"Interval", INTERVAL_USEC, &ret->interval_usec},
		{"Timeout", TIMEOUT_USEC, &ret->timeout_usec},
		{"StartPeriod", 0, &ret->start_period_usec},
		{"StartInterval", 0, &ret->start_interval_usec},
	};
	int r = 0;

	ret->retries = 0;
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(durations); i++)
		r = get_duration(check, image, durations[i].name, durations[i].otherwise,
		                 durations[i].value, err);
	if (r == 0)
		r = json_optional(
			json_get_i64(check, "Retries", 0, RETRIES_MAX, &ret->retries, err));
	if (ret->retries == 0)
		(void)json_get_i64(image, "Retries", 1, RETRIES_MAX, &ret->retries, NULL);
	if (ret->retries == 0)
		ret->retries = RETRIES;
	return r;
}

int health_parse(struct container *c, struct err *err)
{
	const char *type = json_text(c->document, "healthCheckType");
	struct json_object *check = get_check(c);
	struct parameters parameters;
	int r = 0;

	if (type && *type && strcmp(type, "docker") != 0)
		return err_text(err, -EINVAL, "healthCheckType is \"%.80s\", it must be docker",
		                type);
	if (check && !json_object_is_type(check, json_type_object))
		return err_text(err, -EINVAL, "healthCheck must be an object");
	if (check)
		r = check_test(check, err);
	if (r >= 0 && check) {
		c->has_health_check = r > 0;
		r = get_parameters(check, NULL, &parameters, err);
	}
	if (r < 0)
		return err_prefix(err, r, "healthCheck");
	if (type && *type && !c->has_health_check)
		return err_text(
			err, -EINVAL,
			"healthCheckType is docker, and dockerConfig.config has no Healthcheck");
	return 0;
}

int health_check_own(const struct container *c, struct err *err)
{
	struct json_object *check = get_check(c);

	if (!json_object_is_type(check, json_type_object) || !json_is_zero(json_get(check, "Test")))
		return 0;
	json_object_object_foreach (check, name, value) {
		if (!json_is_zero(value))
			return err_text(err, -EOPNOTSUPP,
			                "healthCheck: %.64s without Test: a command is needed, "
			                "since HEALTHCHECK of an image is not carried out",
			                name);
	}
	return 0;
}

static int append_text(struct json_object *list, const char *text)
{
	return json_append(list, json_object_new_string(text));
}

/* "CMD-SHELL": of several words the first is the script, and the rest are its arguments. The SHELL
 * of an image is for building it. Source: moby, daemon/health.go. */
static int add_shell(const struct container *c, struct json_object *args)
{
	struct json_object *shell = json_get(c->config, "Shell");
	int r = 0;

	if (json_is_zero(shell)) {
		r = append_text(args, "/bin/sh");
		return r < 0 ? r : append_text(args, "-c");
	}
	for (size_t i = 0; r == 0 && i < json_object_array_length(shell); i++)
		r = append_text(args, test_word(shell, i));
	return r;
}

static int add_args(const struct container *c, struct json_object *obj)
{
	struct json_object *test = json_get(get_check(c), "Test");
	struct json_object *args = json_object_new_array();
	int r = 0;

	if (json_add(obj, "args", args) < 0)
		return -ENOMEM;
	if (strcmp(test_word(test, 0), "CMD-SHELL") == 0)
		r = add_shell(c, args);
	for (size_t i = 1; r == 0 && i < json_object_array_length(test); i++)
		r = append_text(args, test_word(test, i));
	return r;
}

int health_add_check(const struct container *c, struct json_object *obj)
{
	struct parameters parameters;
	struct json_object *check;
	int r;

	if (!c->has_health_check)
		return 0;
	r = get_parameters(get_check(c), json_get(c->image_config, "Healthcheck"), &parameters,
	                   NULL);
	if (r < 0)
		return r;
	check = json_object_new_object();
	if (json_add(obj, "healthCheck", check) < 0)
		return -ENOMEM;
	r = add_args(c, check);
	if (r == 0)
		r = json_add_u64(check, "intervalUsec", parameters.interval_usec);
	if (r == 0)
		r = json_add_u64(check, "timeoutUsec", parameters.timeout_usec);
	if (r == 0)
		r = json_add_u64(check, "startPeriodUsec", parameters.start_period_usec);
	/* An older ecs-task does not know it. */
	if (r == 0 && parameters.start_interval_usec > 0)
		r = json_add_u64(check, "startIntervalUsec", parameters.start_interval_usec);
	return r < 0 ? r : json_add_i64(check, "retries", parameters.retries);
}

/* --- what was found out --- */

/* Docker's "starting" is UNKNOWN to ECS. */
static const char *const status_words[] = {
	[HEALTH_UNKNOWN] = "UNKNOWN",
	[HEALTH_HEALTHY] = "HEALTHY",
	[HEALTH_UNHEALTHY] = "UNHEALTHY",
};

static enum health_status read_status(const char *word)
{
	if (word && strcmp(word, status_words[HEALTH_HEALTHY]) == 0)
		return HEALTH_HEALTHY;
	if (word && strcmp(word, status_words[HEALTH_UNHEALTHY]) == 0)
		return HEALTH_UNHEALTHY;
	return HEALTH_UNKNOWN;
}

int health_update(struct container *c, struct json_object *event)
{
	enum health_status status = read_status(json_text(event, "status"));
	const char *output = json_text(event, "output");
	int64_t exit_code = 0;
	uint64_t since = 0;
	char *copy;
	int r;

	r = json_get_u64(event, "since", INT64_MAX, &since, NULL);
	if (r == 0)
		r = json_optional(json_get_i64(event, "exitCode", -1, 255, &exit_code, NULL));
	if (r < 0)
		return -EINVAL;
	if (!output)
		output = "";
	if (c->health == status && c->health_since_realtime_usec == since &&
	    c->health_exit_code == (int)exit_code && c->health_output &&
	    strcmp(c->health_output, output) == 0)
		return 0;
	copy = strdup(output);
	if (!copy)
		return -ENOMEM;
	free(c->health_output);
	c->health_output = copy;
	c->health = status;
	c->health_since_realtime_usec = since;
	c->health_exit_code = (int)exit_code;
	return 1;
}

int health_add_document(const struct container *c, struct json_object *obj)
{
	struct json_object *health;

	if (!c->has_health_check || !c->health_since_realtime_usec)
		return 0;
	health = json_object_new_object();
	if (json_add(obj, "Health", health) < 0)
		return -ENOMEM;
	if (c->health != HEALTH_UNKNOWN &&
	    json_add_string(health, "status", status_words[c->health]) < 0)
		return -ENOMEM;
	if (document_add_time(health, "statusSince", c->health_since_realtime_usec) < 0)
		return -ENOMEM;
	if (c->health_exit_code && json_add_i64(health, "exitCode", c->health_exit_code) < 0)
		return -ENOMEM;
	return c->health_output && *c->health_output
	               ? json_add_string(health, "output", c->health_output)
	               : 0;
}
