/*
 * The agent's control plane without its engine: reads the configuration, registers, keeps an ACS
 * session and prints what happens, one JSON object a line. Every payload is acknowledged at once
 * and its tasks are reported RUNNING, or STOPPED when that is what they shall be.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/acs/acs.h"
#include "agent/ecs/registration.h"
#include "lib/json.h"
#include "lib/loop.h"
#include "lib/options.h"

#define CALLS_MAX 256

struct tool {
	sd_event *loop;
	struct config *config;
	struct http_settings settings;
	struct http_client *http;
	struct imds *imds;
	struct aws_credentials *credentials;
	struct instance_lookup *lookup;
	struct ecs_client *ecs;
	struct registration *registration;
	struct poll_endpoint *endpoint;
	struct acs_session *acs;
	struct ecs_call *calls[CALLS_MAX];
	size_t n_calls;
	const char *arn; /* --arn */
	int64_t latest_timeline;
};

/* Takes object. */
static void say(const char *event, struct json_object *object)
{
	_cleanup_json_ struct json_object *owned = object ? object : json_object_new_object();

	json_add_string(owned, "event", event);
	puts(json_to_text(owned, NULL));
	fflush(stdout);
}

static void say_text(const char *event, const char *name, const char *value)
{
	struct json_object *object = json_object_new_object();

	if (value)
		json_add_string(object, name, value);
	say(event, object);
}

static void finish(struct tool *tool, const char *step, int exit_code, const struct err *err)
{
	struct json_object *object = json_object_new_object();

	json_add_string(object, "step", step);
	json_add_string(object, "error", err->text);
	json_add_i64(object, "exitCode", exit_code);
	say("failed", object);
	(void)sd_event_exit(tool->loop, exit_code);
}

/* ---- ACS ---- */

static void submitted(int r, const struct err *err, void *userdata)
{
	(void)userdata;
	say_text(r < 0 ? "submit-failed" : "submitted", "error", r < 0 ? err->text : NULL);
}

static void report(struct tool *tool, struct json_object *task)
{
	const char *desired = json_text(task, "desiredStatus");
	bool stop = desired && strcmp(desired, "STOPPED") == 0;
	struct json_object *containers = json_get(task, "containers");
	struct json_object *first = containers ? json_object_array_get_idx(containers, 0) : NULL;
	const struct ecs_container_state container = {
		.name = json_text(first, "name"),
		.runtime_id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
		.status = stop ? "STOPPED" : "RUNNING",
		.has_exit_code = stop,
		.exit_code = 143,
	};
	const struct ecs_task_state state = {
		.cluster = tool->config->cluster,
		.task_arn = json_text(task, "arn"),
		.status = container.status,
		.containers = &container,
		.n_containers = container.name ? 1 : 0,
		.pull_started_realtime_usec = stop ? 0 : now_realtime_usec(),
		.pull_stopped_realtime_usec = stop ? 0 : now_realtime_usec(),
		.execution_stopped_realtime_usec = stop ? now_realtime_usec() : 0,
	};
	struct err err = {0};

	if (tool->n_calls == CALLS_MAX || !state.task_arn)
		return;
	if (ecs_submit_task_state_start(tool->ecs, &state, submitted, tool,
	                                &tool->calls[tool->n_calls], &err) < 0)
		say_text("submit-failed", "error", err.text);
	else
		tool->n_calls++;
}

static void ack_role(struct acs_session *session, const char *message_id, struct json_object *task,
                     const char *member)
{
	struct json_object *role = json_get(task, member);

	if (role)
		acs_credentials_ack(session, message_id, json_text(role, "expiration"),
		                    json_text(role, "credentialsId"));
}

static void on_payload(struct acs_session *session, const struct acs_payload *payload,
                       void *userdata)
{
	struct json_object *object = json_object_new_object();
	size_t n = json_object_array_length(payload->tasks);

	json_add_string(object, "messageId", payload->message_id);
	json_add_u64(object, "tasks", n);
	say("payload", object);
	acs_ack(session, payload->cluster_arn, payload->container_instance_arn,
	        payload->message_id);
	for (size_t i = 0; i < n; i++) {
		struct json_object *task = json_object_array_get_idx(payload->tasks, i);

		ack_role(session, payload->message_id, task, "roleCredentials");
		ack_role(session, payload->message_id, task, "executionRoleCredentials");
		report(userdata, task);
	}
}

static void on_credentials(struct acs_session *session,
                           const struct acs_role_credentials *credentials, void *userdata)
{
	(void)userdata;
	say_text("credentials", "credentialsId", credentials->credentials_id);
	acs_credentials_ack(session, credentials->message_id, credentials->expiration,
	                    credentials->credentials_id);
}

static void on_manifest(struct acs_session *session, const struct acs_manifest *manifest,
                        void *userdata)
{
	struct tool *tool = userdata;
	struct json_object *object = json_object_new_object();
	static const struct acs_task_identifier candidate = {
		.task_arn = "arn:aws:ecs:us-west-2:111122223333:task/default/deadbeef",
		.task_cluster_arn = "arn:aws:ecs:us-west-2:111122223333:cluster/default"};

	json_add_i64(object, "timeline", manifest->timeline);
	json_add_u64(object, "tasks", manifest->n_tasks);
	say("manifest", object);
	if (manifest->timeline <= tool->latest_timeline)
		return;
	tool->latest_timeline = manifest->timeline;
	acs_ack(session, manifest->cluster_arn, manifest->container_instance_arn,
	        manifest->message_id);
	acs_stop_candidates(session, manifest->message_id, &candidate, 1);
}

static void on_stop_verification(struct acs_session *session,
                                 const struct acs_stop_verification *verification, void *userdata)
{
	(void)session;
	(void)userdata;
	say_text("stop-verification", "messageId", verification->message_id);
}

static void on_heartbeat(struct acs_session *session, void *userdata)
{
	(void)session;
	(void)userdata;
	say("heartbeat", NULL);
}

static void on_connected(struct acs_session *session, bool connected, void *userdata)
{
	(void)session;
	(void)userdata;
	say(connected ? "connected" : "disconnected", NULL);
}

static void on_inactive(struct acs_session *session, void *userdata)
{
	(void)session;
	(void)userdata;
	say("inactive", NULL);
}

static const struct acs_handlers handlers = {
	.payload = on_payload,
	.credentials = on_credentials,
	.manifest = on_manifest,
	.stop_verification = on_stop_verification,
	.heartbeat = on_heartbeat,
	.connected = on_connected,
	.inactive = on_inactive,
};

/* ---- start-up ---- */

static void registered(int r, const struct err *err, void *userdata)
{
	struct tool *tool = userdata;
	const char *arn = registration_arn(tool->registration);
	struct acs_options options = {
		.loop = tool->loop,
		.http = &tool->settings,
		.credentials = tool->credentials,
		.region = ecs_client_region(tool->ecs),
		.cluster = tool->config->cluster,
		.container_instance_arn = arn,
		.handlers = &handlers,
		.userdata = tool,
	};
	struct err acs_err = {0};

	if (r < 0) {
		finish(tool, "register", registration_exit_code(tool->registration), err);
		return;
	}
	say_text("registered", "arn", arn);
	r = poll_endpoint_new(tool->ecs, tool->loop, tool->config->cluster, arn, &tool->endpoint);
	options.endpoint = tool->endpoint;
	if (r == 0)
		r = acs_session_new(&options, &tool->acs, &acs_err);
	if (r < 0)
		finish(tool, "acs", 1, &acs_err);
}

static int start_registration(struct tool *tool, struct err *err)
{
	const struct instance *instance = instance_lookup_result(tool->lookup);
	const char *region = tool->config->region ? tool->config->region : instance->region;
	const struct ecs_client_options client = {
		.loop = tool->loop,
		.http = tool->http,
		.credentials = tool->credentials,
		.config = tool->config,
		.region = region,
	};
	int r;

	if (!region)
		return err_text(err, -ENOENT, "no region: set AWS_DEFAULT_REGION");
	r = ecs_client_new(&client, &tool->ecs, err);
	if (r < 0)
		return r;
	const struct registration_options registration = {
		.client = tool->ecs,
		.loop = tool->loop,
		.config = tool->config,
		.instance = instance,
		.facts = {.task_cgroups = true},
		.container_instance_arn = tool->arn,
	};
	return registration_start(&registration, registered, tool, &tool->registration, err);
}

static void looked_up(int r, const struct err *lookup_err, void *userdata)
{
	struct tool *tool = userdata;
	struct err err = *lookup_err;

	say_text("instance", "instanceId", instance_lookup_result(tool->lookup)->instance_id);
	if (r == 0)
		r = start_registration(tool, &err);
	if (r < 0)
		finish(tool, "start", 1, &err);
}

static void keys_changed(struct aws_keys *keys, void *userdata)
{
	(void)userdata;
	say_text("keys", "accessKeyId", aws_keys_access_key_id(keys));
}

static int start(struct tool *tool, const char *path, struct err *err)
{
	_cleanup_free_ char *user_agent = NULL;
	const char *warning;
	int r;

	r = config_load(path, &tool->config, err);
	if (r < 0)
		return r;
	for (size_t i = 0; (warning = config_warning(tool->config, i)); i++)
		say_text("warning", "text", warning);
	(void)log_set_level(tool->config->log_level);
	http_settings_load(tool->config->file, &tool->settings);
	user_agent = ecs_user_agent(tool->config);
	r = http_client_new(tool->loop, &tool->settings, user_agent, &tool->http, err);
	if (r == 0)
		r = imds_new(tool->loop, tool->http,
		             config_get(tool->config, "AWS_EC2_METADATA_SERVICE_ENDPOINT"),
		             &tool->imds, err);
	if (r == 0)
		r = aws_credentials_new(tool->loop, tool->config->file, tool->imds,
		                        &tool->credentials, err);
	if (r < 0)
		return r;
	aws_credentials_watch(tool->credentials, keys_changed, tool);
	return instance_lookup_start(tool->imds, looked_up, tool, &tool->lookup, err);
}

static void tool_done(struct tool *tool)
{
	acs_session_free(tool->acs);
	for (size_t i = 0; i < tool->n_calls; i++)
		ecs_call_free(tool->calls[i]);
	poll_endpoint_free(tool->endpoint);
	registration_free(tool->registration);
	ecs_client_free(tool->ecs);
	instance_lookup_free(tool->lookup);
	aws_credentials_free(tool->credentials);
	imds_free(tool->imds);
	http_client_free(tool->http);
	config_free(tool->config);
	sd_event_unref(tool->loop);
}

int main(int argc, char **argv)
{
	_cleanup_(tool_done) struct tool tool = {.latest_timeline = -1};
	bool check_config = false;
	const struct option_spec specs[] = {
		{"arn", "ARN", "register again as this container instance", NULL, &tool.arn},
		{"check-config", NULL, "print the settings and exit", &check_config, NULL},
	};
	struct options options = {0};
	struct err err = {0};
	int first, r;

	log_init("control_tool");
	r = options_parse(argc, argv, "", specs, ARRAY_SIZE(specs), &options, &first, &err);
	if (r > 0)
		return 0;
	if (r == 0 && check_config) {
		r = config_load(options.config, &tool.config, &err);
		if (r == 0)
			return config_print(tool.config, stdout) < 0;
	} else if (r == 0) {
		r = loop_new(&tool.loop, &err);
		if (r == 0)
			r = start(&tool, options.config, &err);
		if (r == 0)
			return sd_event_loop(tool.loop);
	}
	fprintf(stderr, "%s\n", err.text);
	return 1;
}
