/*
 *   register -> registered
 *       |-> wait -> register            (throttling, server errors, no connection; for an hour)
 *       |-> create cluster -> register  (once, for the cluster that nobody named)
 *       |-> failed
 */
#include "agent/ecs/registration.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/ecs/registration_request.h"
#include "lib/backoff.h"
#include "lib/json.h"
#include "lib/log.h"
#include "lib/loop.h"

#define RETRY_FOR_USEC (3600 * 1000000ULL)
#define ATTEMPT_USEC   (10 * 60 * 1000000ULL) /* one call with its own retries */
#define LATE_USEC      (60 * 1000000ULL)
#define EXIT_AGAIN     1
#define EXIT_TERMINAL  5

struct registration {
	struct ecs_client *client;
	const struct config *config;
	registration_done_fn done;
	void *userdata;
	struct json_object *body;
	struct ecs_call *call;
	sd_event_source *wait;
	struct backoff backoff;
	uint64_t give_up_usec;
	uint64_t expected_usec; /* when the next attempt or answer is to come */
	bool cluster_was_created;
	int exit_code;
	char *arn;
	char *availability_zone;
};

struct registration *registration_free(struct registration *registration)
{
	if (!registration)
		return NULL;
	ecs_call_free(registration->call);
	sd_event_source_disable_unref(registration->wait);
	json_put(registration->body);
	free(registration->arn);
	free(registration->availability_zone);
	free(registration);
	return NULL;
}

static void failed(struct registration *registration, int r, const struct err *err, int exit_code)
{
	registration->exit_code = exit_code;
	registration->done(r, err, registration->userdata); /* may free registration */
}

static int start_call(struct registration *registration, const char *operation,
                      struct json_object *body, ecs_done_fn done, struct err *err)
{
	registration->call = ecs_call_free(registration->call);
	registration->expected_usec = now_usec() + ATTEMPT_USEC;
	return ecs_call_start(registration->client, operation, body, done, registration,
	                      &registration->call, err);
}

static void register_done(int r, const struct err *err, void *userdata);

static void register_now(struct registration *registration)
{
	struct err err = {0};
	int r = start_call(registration, "RegisterContainerInstance", registration->body,
	                   register_done, &err);

	if (r < 0)
		failed(registration, r, &err, EXIT_AGAIN);
}

static int on_wait(sd_event_source *source, uint64_t usec, void *userdata)
{
	(void)source;
	(void)usec;
	register_now(userdata);
	return 0;
}

static void register_later(struct registration *registration, int r, const struct err *err)
{
	uint64_t wait_usec = backoff_next(&registration->backoff, random_fraction());

	if (now_usec() + wait_usec > registration->give_up_usec) {
		failed(registration, r, err, EXIT_AGAIN);
		return;
	}
	log_warning(NULL, 0, "registration failed, trying again in %llu s: %s",
	            (unsigned long long)(wait_usec / 1000000), err->text);
	registration->expected_usec = now_usec() + wait_usec + LATE_USEC;
	(void)sd_event_source_set_time(registration->wait, now_usec() + wait_usec);
	(void)sd_event_source_set_enabled(registration->wait, SD_EVENT_ONESHOT);
}

/* ---- the cluster that nobody named ---- */

static void create_done(int r, const struct err *err, void *userdata)
{
	struct registration *registration = userdata;
	const struct aws_error *error = ecs_call_error(registration->call);

	if (r < 0) {
		bool is_refused = r == -EREMOTEIO && error->class == AWS_ERROR_CLIENT;

		failed(registration, r, err, is_refused ? EXIT_TERMINAL : EXIT_AGAIN);
		return;
	}
	register_now(registration);
}

static void create_cluster(struct registration *registration)
{
	_cleanup_json_ struct json_object *body = json_object_new_object();
	struct err err = {0};
	int r;

	registration->cluster_was_created = true;
	if (!body || json_add_string(body, "clusterName", registration->config->cluster) < 0)
		r = err_oom(&err);
	else
		r = start_call(registration, "CreateCluster", body, create_done, &err);
	if (r < 0)
		failed(registration, r, &err, EXIT_AGAIN);
}

static bool cluster_is_missing(const struct aws_error *error)
{
	return strcmp(error->code, "ClusterNotFoundException") == 0 ||
	       strstr(error->message, "Cluster not found.");
}

/* ---- the answer ---- */

static const char *attribute_value(struct json_object *instance, const char *name)
{
	struct json_object *attributes;

	if (json_get_array(instance, "attributes", &attributes, NULL) < 0)
		return NULL;
	for (size_t i = 0; i < json_object_array_length(attributes); i++) {
		struct json_object *item = json_object_array_get_idx(attributes, i);
		const char *item_name = json_text(item, "name");

		if (item_name && strcmp(item_name, name) == 0)
			return json_text(item, "value");
	}
	return NULL;
}

static int take_answer(struct registration *registration, struct err *err)
{
	struct json_object *instance;
	const char *arn, *zone;
	int r;

	r = json_get_object(ecs_call_result(registration->call), "containerInstance", &instance,
	                    err);
	if (r == 0)
		r = json_get_string(instance, "containerInstanceArn", &arn, err);
	if (r < 0)
		return err_prefix(err, -EBADMSG, "answer to RegisterContainerInstance");
	r = registration_check_attributes(registration->body, instance, err);
	if (r < 0)
		return r;
	zone = attribute_value(instance, "ecs.availability-zone");
	registration->arn = strdup(arn);
	registration->availability_zone = zone ? strdup(zone) : NULL;
	if (!registration->arn || (zone && !registration->availability_zone))
		return err_oom(err);
	return 0;
}

/* What an administrator puts right in IAM, or a clock in time: not for good. An instance profile
 * takes a while to be known everywhere after it was attached. */
static bool can_heal(const struct aws_error *error)
{
	static const char *const codes[] = {
		"AccessDeniedException",        "UnrecognizedClientException",
		"InvalidSignatureException",    "SignatureDoesNotMatch",
		"InvalidClientTokenId",         "MissingAuthenticationTokenException",
		"IncompleteSignatureException",
	};

	for (size_t i = 0; i < ARRAY_SIZE(codes); i++)
		if (strcmp(error->code, codes[i]) == 0)
			return true;
	return false;
}

static void refused(struct registration *registration, int r, const struct err *err)
{
	const struct aws_error *error = ecs_call_error(registration->call);

	if (!registration->config->cluster_is_set && !registration->cluster_was_created &&
	    cluster_is_missing(error)) {
		create_cluster(registration);
		return;
	}
	switch (error->class) {
	case AWS_ERROR_THROTTLING:
	case AWS_ERROR_SERVER:
	case AWS_ERROR_EXPIRED: /* the next attempt asks for other keys */
		register_later(registration, r, err);
		break;
	default:
		failed(registration, r, err, can_heal(error) ? EXIT_AGAIN : EXIT_TERMINAL);
		break;
	}
}

static void register_done(int r, const struct err *call_err, void *userdata)
{
	struct registration *registration = userdata;
	struct err err = *call_err;

	if (r == -EREMOTEIO) {
		refused(registration, r, call_err);
		return;
	}
	if (r < 0) { /* no connection, no keys yet: a booting host */
		register_later(registration, r, call_err);
		return;
	}
	r = take_answer(registration, &err);
	if (r < 0)
		failed(registration, r, &err, r == -ENOMEM ? EXIT_AGAIN : EXIT_TERMINAL);
	else
		registration->done(0, &err, registration->userdata);
}

/* ---- */

static int make_body(struct registration *registration, const struct registration_options *options,
                     struct err *err)
{
	struct node_resources resources;
	char token[37];
	const struct registration_request request = {
		.config = options->config,
		.instance = options->instance,
		.facts = &options->facts,
		.resources = &resources,
		.container_instance_arn = options->container_instance_arn,
		.client_token = token,
	};
	int r;

	uuid_make(token);
	r = node_resources_read(&resources, err);
	return r < 0 ? r : registration_request_to_json(&request, &registration->body, err);
}

int registration_start(const struct registration_options *options, registration_done_fn done,
                       void *userdata, struct registration **ret, struct err *err)
{
	_cleanup_(registration_freep) struct registration *registration =
		calloc(1, sizeof(*registration));
	int r;

	if (!registration)
		return err_oom(err);
	registration->client = options->client;
	registration->config = options->config;
	registration->done = done;
	registration->userdata = userdata;
	registration->give_up_usec = now_usec() + RETRY_FOR_USEC;
	registration->expected_usec = now_usec() + LATE_USEC;
	registration->backoff = (struct backoff){
		.min_usec = 3000000, .max_usec = 192000000, .multiple = 2, .jitter = 0.2};
	r = make_body(registration, options, err);
	if (r < 0)
		return r;
	r = loop_add_timer(options->loop, 0, 100000, on_wait, registration, &registration->wait);
	if (r < 0)
		return err_set(err, r, "register");
	*ret = TAKE_PTR(registration);
	return 0;
}

const char *registration_arn(const struct registration *registration)
{
	return registration->arn;
}

const char *registration_availability_zone(const struct registration *registration)
{
	return registration->availability_zone;
}

bool registration_is_overdue(const struct registration *registration, uint64_t now_usec)
{
	return now_usec > registration->expected_usec;
}

int registration_exit_code(const struct registration *registration)
{
	return registration->exit_code;
}
