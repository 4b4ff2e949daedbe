/*
 * The session with ACS, which assigns tasks to this node: a signed WebSocket that is kept up for as
 * long as the object lives.
 *
 *   waiting -> discovering -> connecting -> connected -> closing -> waiting -> ...
 *
 * Reconnects: at once after an orderly end (close codes 1000, 1001, 1006, 1011, or end of file);
 * otherwise after 250 ms, times 1.5 up to 2 minutes, jitter 0.2, back to the start once a
 * connection stood for 1 to 2 minutes; an hour after InactiveInstanceException. A connection ends
 * by itself when nothing was received for 1 to 2 minutes, and after 30 to 35 minutes of life.
 *
 * Messages arrive in order, one callback each. Heartbeats are answered here. What this agent does
 * not support is logged by name and dropped, or answered with NackRequest where the protocol has
 * that; malformed frames are counted and dropped. Nothing is queued across connections: ACS sends
 * again what was not acknowledged.
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "agent/config/config.h"
#include "agent/ecs/poll_endpoint.h"
#include "lib/aws_credentials.h"
#include "lib/cleanup.h"
#include "lib/err.h"
#include "lib/http.h"
#include "lib/log.h"

struct acs_session;

/* One task in a manifest or a stop verification. */
struct acs_task_identifier {
	const char *task_arn;
	const char *task_cluster_arn; /* "" if absent */
	const char *desired_status;   /* "" if absent */
};

/*
 * Required members are there and of the right type, and strings are borrowed from the message,
 * which is the caller's until the callback returns (json_object_get() to keep it). The session may
 * be freed in any callback.
 */
struct acs_payload {
	struct json_object *message; /* the PayloadMessage */
	const char *message_id;
	const char *cluster_arn;
	const char *container_instance_arn;
	int64_t seq_num;           /* 0 if absent */
	struct json_object *tasks; /* array, perhaps empty; each element as in the task model, or
	                              null or of another type: the engine judges it */
};

struct acs_role_credentials {
	const char *message_id;
	const char *task_arn;
	const char *role_type; /* "TaskApplication" or "TaskExecution" */
	const char *credentials_id;
	const char *role_arn; /* these four "" if absent */
	const char *access_key_id;
	const char *secret_access_key;
	const char *session_token;
	const char *expiration; /* as sent, to be echoed; "" if absent */
};

struct acs_manifest {
	const char *message_id;
	const char *cluster_arn;
	const char *container_instance_arn;
	int64_t timeline;
	const struct acs_task_identifier *tasks;
	size_t n_tasks;
};

struct acs_stop_verification {
	const char *message_id; /* of the manifest it answers */
	const struct acs_task_identifier *stop_tasks;
	size_t n_stop_tasks;
};

struct acs_handlers {
	/* Answer with acs_ack() and acs_credentials_ack() once the tasks are in the state store. */
	void (*payload)(struct acs_session *session, const struct acs_payload *payload,
	                void *userdata);
	/* Answer with acs_credentials_ack() if the task is known. */
	void (*credentials)(struct acs_session *session,
	                    const struct acs_role_credentials *credentials, void *userdata);
	/* The engine compares timeline with the number it has stored, and answers with
	 * acs_ack() and, if there are candidates, acs_stop_candidates(). */
	void (*manifest)(struct acs_session *session, const struct acs_manifest *manifest,
	                 void *userdata);
	void (*stop_verification)(struct acs_session *session,
	                          const struct acs_stop_verification *verification, void *userdata);
	/* A heartbeat came (it is answered already): time for the instance health checks. May be
	 * NULL. */
	void (*heartbeat)(struct acs_session *session, void *userdata);
	/* Connected, or no longer. May be NULL. */
	void (*connected)(struct acs_session *session, bool connected, void *userdata);
	/* ECS says that this instance is not active: telemetry disconnects. May be NULL. */
	void (*inactive)(struct acs_session *session, void *userdata);
};

struct acs_options {
	sd_event *loop;
	const struct http_settings *http; /* its strings are borrowed, as all that follows */
	struct aws_credentials *credentials;
	struct poll_endpoint *endpoint;
	const char *region;  /* copied, as are the next two */
	const char *cluster; /* name or ARN as configured */
	const char *container_instance_arn;
	const struct acs_handlers *handlers; /* borrowed until acs_session_free() */
	void *userdata;
	const struct log_ctx *log; /* borrowed; may be NULL */
};

/* Starts to connect from the loop. */
int acs_session_new(const struct acs_options *options, struct acs_session **ret, struct err *err);
struct acs_session *acs_session_free(struct acs_session *session);
DEFINE_CLEANUP(struct acs_session *, acs_session_free)

/*
 * Answers. Each is written to the connection of the moment; returns 0, -ENOTCONN (there is none:
 * the answer is lost, and ACS sends the message again), -ENOBUFS (too much is waiting to be sent;
 * the same) or -ENOMEM.
 */
int acs_ack(struct acs_session *session, const char *cluster, const char *container_instance,
            const char *message_id);
int acs_credentials_ack(struct acs_session *session, const char *message_id, const char *expiration,
                        const char *credentials_id);
/* candidates[].desired_status is not read: it is sent as "STOPPED". */
int acs_stop_candidates(struct acs_session *session, const char *message_id,
                        const struct acs_task_identifier *candidates, size_t n);

/* For status reports: connected now, and when the last frame came (monotonic; 0: never). */
bool acs_session_is_connected(const struct acs_session *session);
uint64_t acs_session_last_received_usec(const struct acs_session *session);

/* Is the session stuck: neither a frame nor an attempt to reconnect within the time that it sets
 * itself? Not while ECS is away. */
bool acs_session_is_overdue(const struct acs_session *session);

struct acs_statistics {
	uint64_t connects;
	uint64_t received;    /* frames */
	uint64_t malformed;   /* dropped: no JSON, no type, or a required member missing */
	uint64_t unsupported; /* dropped: a type this agent does not carry out */
};
void acs_session_statistics(const struct acs_session *session, struct acs_statistics *ret);
