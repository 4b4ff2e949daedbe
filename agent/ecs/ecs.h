/*
 * The ECS API as the agent uses it: one client per node, typed asynchronous calls. Keys, endpoint
 * and retries of single requests are the client's; retrying an operation as a whole is said per
 * call.
 *
 * Every *_start() returns before anything is reported, done runs once from the loop, and
 * ecs_call_free() cancels.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "agent/config/config.h"
#include "lib/aws_credentials.h"
#include "lib/aws_json.h"
#include "lib/cleanup.h"
#include "lib/err.h"
#include "lib/http.h"

struct ecs_client;

struct ecs_client_options {
	sd_event *loop;
	struct http_client *http;
	struct aws_credentials *credentials;
	const struct config *config;
	const char *region; /* config->region, or what the instance metadata said */
};

/* What options point to is borrowed until ecs_client_free(); region is copied. */
int ecs_client_new(const struct ecs_client_options *options, struct ecs_client **ret,
                   struct err *err);
struct ecs_client *ecs_client_free(struct ecs_client *client);
DEFINE_CLEANUP(struct ecs_client *, ecs_client_free)

const char *ecs_client_region(const struct ecs_client *client);

/* "Amazon ECS Agent - v0.1.0 (12345678) (linux; LINUX) (+http://aws.amazon.com/ecs/)": the
 * User-Agent for http_client_new(). Owned by the caller; NULL when out of memory. */
char *ecs_user_agent(const struct config *config);

struct ecs_call;
struct ecs_call *ecs_call_free(struct ecs_call *call);
DEFINE_CLEANUP(struct ecs_call *, ecs_call_free)

/* r as in aws_call_done_fn; -EREMOTEIO: the service refused, ecs_call_error() says how. */
typedef void (*ecs_done_fn)(int r, const struct err *err, void *userdata);
const struct aws_error *ecs_call_error(const struct ecs_call *call);
struct json_object *ecs_call_result(const struct ecs_call *call); /* borrowed; after r == 0 */

/* Any operation by its name, with a body that is borrowed for the call. */
int ecs_call_start(struct ecs_client *client, const char *operation, struct json_object *body,
                   ecs_done_fn done, void *userdata, struct ecs_call **ret, struct err *err);

/* ---- SubmitTaskStateChange ---- */

struct ecs_network_binding {
	const char *bind_ip;
	uint16_t container_port;
	uint16_t host_port;
	const char *protocol; /* "tcp", "udp" */
};

struct ecs_container_state {
	const char *name;
	const char *runtime_id; /* NULL: left out */
	const char *status;     /* "RUNNING", "STOPPED", "PENDING" */
	bool has_exit_code;
	int64_t exit_code;
	const char *reason;       /* NULL: left out; cut to 1024 characters */
	const char *image_digest; /* NULL: left out */
	const struct ecs_network_binding *bindings;
	size_t n_bindings;
};

struct ecs_managed_agent_state {
	const char *name; /* "ExecuteCommandAgent" */
	const char *container_name;
	const char *status; /* "RUNNING", "STOPPED" */
	const char *reason; /* NULL: left out; cut to 1024 characters */
};

struct ecs_task_state {
	const char *cluster;
	const char *task_arn;
	const char *status;                  /* "PENDING", "RUNNING", "STOPPED" */
	const char *reason;                  /* NULL: sent as "" */
	uint64_t pull_started_realtime_usec; /* 0: left out, also below */
	uint64_t pull_stopped_realtime_usec;
	uint64_t execution_stopped_realtime_usec;
	const struct ecs_container_state *containers;
	size_t n_containers;
	const struct ecs_managed_agent_state *managed_agents;
	size_t n_managed_agents; /* 0: left out */
};

/*
 * One submission (state is borrowed for the call). Retried within the call as any request; when
 * done reports an error, the caller keeps the state and tries again later, unless
 * ecs_error_is_final().
 */
int ecs_submit_task_state_start(struct ecs_client *client, const struct ecs_task_state *state,
                                ecs_done_fn done, void *userdata, struct ecs_call **ret,
                                struct err *err);

/* The same from a body that was kept in the outbox (made by ecs_task_state_to_json()). */
int ecs_submit_task_state_json_start(struct ecs_client *client, struct json_object *body,
                                     ecs_done_fn done, void *userdata, struct ecs_call **ret,
                                     struct err *err);

/* The request body; owned by the caller; NULL when out of memory. */
struct json_object *ecs_task_state_to_json(const struct ecs_task_state *state);

/* InvalidParameterException: the same submission can never succeed; drop it. */
bool ecs_error_is_final(const struct aws_error *error);
