/* The ECS API over lib/aws_json: endpoint, names, and the one call that has a shape of its own. */
#include "agent/ecs/ecs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/json.h"

#define TARGET_PREFIX "AmazonEC2ContainerServiceV20141113"
#define REASON_MAX    1024

struct ecs_client {
	struct aws_service service;
	char *endpoint;
	char *region;
};

struct ecs_call {
	struct aws_call *aws;
	ecs_done_fn done;
	void *userdata;
};

char *ecs_user_agent(const struct config *config)
{
	char *text;

	if (asprintf(&text, "Amazon ECS Agent - v%s (%s) (linux; %s) (+http://aws.amazon.com/ecs/)",
	             PACKAGE_VERSION, ECS_VERSION_HASH, config->detailed_os_family) < 0)
		return NULL;
	for (char *p = text; *p;
	     p++) /* the os family is the administrator's: a header takes no more */
		if ((unsigned char)*p < 0x20 || (unsigned char)*p >= 0x7f)
			*p = '?';
	return text;
}

int ecs_client_new(const struct ecs_client_options *options, struct ecs_client **ret,
                   struct err *err)
{
	_cleanup_(ecs_client_freep) struct ecs_client *client = calloc(1, sizeof(*client));
	int r;

	if (!client)
		return err_oom(err);
	client->region = strdup(options->region);
	if (!client->region)
		return err_oom(err);
	r = config_endpoint(options->config, "ecs", options->region, &client->endpoint, err);
	if (r < 0)
		return r;
	client->service = (struct aws_service){
		.loop = options->loop,
		.http = options->http,
		.endpoint = client->endpoint,
		.region = client->region,
		.signing_name = "ecs",
		.target_prefix = TARGET_PREFIX,
		.credentials = options->credentials,
	};
	*ret = TAKE_PTR(client);
	return 0;
}

struct ecs_client *ecs_client_free(struct ecs_client *client)
{
	if (client) {
		free(client->endpoint);
		free(client->region);
		free(client);
	}
	return NULL;
}

const char *ecs_client_region(const struct ecs_client *client)
{
	return client->region;
}

struct ecs_call *ecs_call_free(struct ecs_call *call)
{
	if (call) {
		aws_call_free(call->aws);
		free(call);
	}
	return NULL;
}

const struct aws_error *ecs_call_error(const struct ecs_call *call)
{
	return aws_call_error(call->aws);
}

struct json_object *ecs_call_result(const struct ecs_call *call)
{
	return aws_call_result(call->aws);
}

static void aws_done(int r, const struct err *err, void *userdata)
{
	struct ecs_call *call = userdata;

	call->done(r, err, call->userdata); /* may free call */
}

int ecs_call_start(struct ecs_client *client, const char *operation, struct json_object *body,
                   ecs_done_fn done, void *userdata, struct ecs_call **ret, struct err *err)
{
	const struct aws_call_options options = {.operation = operation, .body = body};
	_cleanup_(ecs_call_freep) struct ecs_call *call = calloc(1, sizeof(*call));
	int r;

	if (!call)
		return err_oom(err);
	call->done = done;
	call->userdata = userdata;
	r = aws_call_start(&client->service, &options, aws_done, call, &call->aws, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(call);
	return 0;
}

/* ---- SubmitTaskStateChange ---- */

/* The service takes REASON_MAX characters; a cut must not split one. */
static struct json_object *reason_to_json(const char *reason)
{
	size_t len = strlen(reason), characters = 0, n = 0;

	for (; n < len; n++) {
		if (((unsigned char)reason[n] & 0xc0) == 0x80)
			continue;
		if (characters++ == REASON_MAX)
			break;
	}
	return json_object_new_string_len(reason, (int)n);
}

/* Epoch seconds with milliseconds; a double would be printed with all its digits. */
static int add_time(struct json_object *body, const char *name, uint64_t realtime_usec)
{
	uint64_t msec = realtime_usec / 1000;
	char text[32];

	if (realtime_usec == 0)
		return 0;
	snprintf(text, sizeof(text), "%llu.%03llu", (unsigned long long)(msec / 1000),
	         (unsigned long long)(msec % 1000));
	return json_add(body, name, json_object_new_double_s((double)msec / 1000, text));
}

static int add_optional(struct json_object *body, const char *name, const char *value)
{
	return value && *value ? json_add_string(body, name, value) : 0;
}

static struct json_object *binding_to_json(const struct ecs_network_binding *binding)
{
	_cleanup_json_ struct json_object *item = json_object_new_object();

	if (!item || json_add_string(item, "bindIP", binding->bind_ip) < 0 ||
	    json_add_i64(item, "containerPort", binding->container_port) < 0 ||
	    json_add_i64(item, "hostPort", binding->host_port) < 0 ||
	    json_add_string(item, "protocol", binding->protocol) < 0)
		return NULL;
	return TAKE_PTR(item);
}

static int add_bindings(struct json_object *container, const struct ecs_container_state *state)
{
	_cleanup_json_ struct json_object *array = NULL;

	if (state->n_bindings == 0)
		return 0;
	array = json_object_new_array();
	for (size_t i = 0; array && i < state->n_bindings; i++)
		if (json_append(array, binding_to_json(&state->bindings[i])) < 0)
			return -ENOMEM;
	return json_add(container, "networkBindings", TAKE_PTR(array));
}

static struct json_object *container_to_json(const struct ecs_container_state *state)
{
	_cleanup_json_ struct json_object *item = json_object_new_object();

	if (!item || json_add_string(item, "containerName", state->name) < 0 ||
	    add_optional(item, "runtimeId", state->runtime_id) < 0 ||
	    json_add_string(item, "status", state->status) < 0 ||
	    add_optional(item, "imageDigest", state->image_digest) < 0 ||
	    add_bindings(item, state) < 0)
		return NULL;
	if (state->has_exit_code && json_add_i64(item, "exitCode", state->exit_code) < 0)
		return NULL;
	if (state->reason && *state->reason &&
	    json_add(item, "reason", reason_to_json(state->reason)) < 0)
		return NULL;
	return TAKE_PTR(item);
}

static struct json_object *managed_agent_to_json(const struct ecs_managed_agent_state *state)
{
	_cleanup_json_ struct json_object *item = json_object_new_object();

	if (!item || json_add_string(item, "managedAgentName", state->name) < 0 ||
	    json_add_string(item, "containerName", state->container_name) < 0 ||
	    json_add_string(item, "status", state->status) < 0 ||
	    (state->reason && json_add(item, "reason", reason_to_json(state->reason)) < 0))
		return NULL;
	return TAKE_PTR(item);
}

static int add_managed_agents(struct json_object *body, const struct ecs_task_state *state)
{
	_cleanup_json_ struct json_object *array = NULL;

	if (state->n_managed_agents == 0)
		return 0;
	array = json_object_new_array();
	for (size_t i = 0; array && i < state->n_managed_agents; i++)
		if (json_append(array, managed_agent_to_json(&state->managed_agents[i])) < 0)
			return -ENOMEM;
	return json_add(body, "managedAgents", TAKE_PTR(array));
}

struct json_object *ecs_task_state_to_json(const struct ecs_task_state *state)
{
	_cleanup_json_ struct json_object *body = json_object_new_object();
	_cleanup_json_ struct json_object *containers = json_object_new_array();

	if (!body || !containers || json_add_string(body, "cluster", state->cluster) < 0 ||
	    json_add_string(body, "task", state->task_arn) < 0 ||
	    json_add_string(body, "status", state->status) < 0 ||
	    json_add(body, "reason", reason_to_json(state->reason ? state->reason : "")) < 0 ||
	    add_time(body, "pullStartedAt", state->pull_started_realtime_usec) < 0 ||
	    add_time(body, "pullStoppedAt", state->pull_stopped_realtime_usec) < 0 ||
	    add_time(body, "executionStoppedAt", state->execution_stopped_realtime_usec) < 0)
		return NULL;
	for (size_t i = 0; i < state->n_containers; i++)
		if (json_append(containers, container_to_json(&state->containers[i])) < 0)
			return NULL;
	if (json_add(body, "containers", TAKE_PTR(containers)) < 0 ||
	    add_managed_agents(body, state) < 0)
		return NULL;
	return TAKE_PTR(body);
}

int ecs_submit_task_state_json_start(struct ecs_client *client, struct json_object *body,
                                     ecs_done_fn done, void *userdata, struct ecs_call **ret,
                                     struct err *err)
{
	return ecs_call_start(client, "SubmitTaskStateChange", body, done, userdata, ret, err);
}

int ecs_submit_task_state_start(struct ecs_client *client, const struct ecs_task_state *state,
                                ecs_done_fn done, void *userdata, struct ecs_call **ret,
                                struct err *err)
{
	_cleanup_json_ struct json_object *body = ecs_task_state_to_json(state);

	if (!body)
		return err_oom(err);
	return ecs_submit_task_state_json_start(client, body, done, userdata, ret, err);
}

bool ecs_error_is_final(const struct aws_error *error)
{
	return strcmp(error->code, "InvalidParameterException") == 0;
}
