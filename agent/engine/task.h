/*
 * One ECS task and its containers, as the engine knows them: what the payload said (set once by
 * task_parse(), never changed) and how far it has got (changed by the engine only, persisted).
 *
 * Statuses are ordered and known statuses only move up. Source: the ECS agent's task and container
 * states as users and the control plane see them.
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/engine/managed_agent.h"
#include "agent/engine/restart.h"
#include "lib/cleanup.h"

enum task_status {
	TASK_STATUS_NONE,
	TASK_STATUS_MANIFEST_PULLED,
	TASK_STATUS_PULLED,
	TASK_STATUS_CREATED,
	TASK_STATUS_RUNNING,
	TASK_STATUS_STOPPED,
	_TASK_STATUS_MAX,
};

/* Containers go through the same ones. "NONE" to "STOPPED"; from_string: -EINVAL when unknown,
 * takes "DEAD" for STOPPED and "UNKNOWN" for NONE as the protocol does. */
const char *task_status_to_string(enum task_status status);
int task_status_from_string(const char *word, enum task_status *ret);

enum network_mode {
	NETWORK_MODE_BRIDGE,
	NETWORK_MODE_HOST,
	NETWORK_MODE_NONE,
	_NETWORK_MODE_MAX,
};
const char *network_mode_to_string(enum network_mode mode);

/* agent/task/namespaces.h has what they mean. */
enum task_pid_mode {
	TASK_PID_PRIVATE,
	TASK_PID_TASK,
	TASK_PID_HOST,
	_TASK_PID_MODE_MAX,
};

enum task_ipc_mode {
	TASK_IPC_PRIVATE,
	TASK_IPC_NONE,
	TASK_IPC_TASK,
	TASK_IPC_HOST,
	_TASK_IPC_MODE_MAX,
};

enum dependency_condition {
	DEPENDENCY_CREATE, /* of volumesFrom; nobody can ask for it in dependsOn */
	DEPENDENCY_START,
	DEPENDENCY_COMPLETE,
	DEPENDENCY_SUCCESS,
	DEPENDENCY_HEALTHY,
};
const char *dependency_condition_to_string(enum dependency_condition condition);

struct dependency {
	char *container; /* name of another container of the task */
	enum dependency_condition condition;
};

/* To another container of the task (links.h). */
struct link {
	char *container, *alias;
};

struct port_mapping {
	uint16_t container_port;
	uint16_t host_port; /* 0: dynamic (bridge) */
	bool udp;
};

struct network_binding {
	uint16_t container_port, host_port;
	bool udp;
	char bind_ip[16];
};

enum health_status {
	HEALTH_UNKNOWN, /* also: no check, or none has counted yet */
	HEALTH_HEALTHY,
	HEALTH_UNHEALTHY,
};

struct container {
	/* What the payload said. */
	char *name, *image, *arn;
	struct json_object *document; /* the payload's container object, owned; see task_shrink() */
	struct json_object *config;   /* dockerConfig.config parsed, may be NULL */
	struct json_object *host_config;
	bool essential;
	int64_t cpu_shares, memory_mib;
	struct dependency *dependencies;
	size_t n_dependencies;
	struct link *links;
	size_t n_links;
	struct port_mapping *ports;
	size_t n_ports;
	uint64_t start_timeout_usec, stop_timeout_usec; /* 0: default */
	bool has_health_check;
	bool logs_by_role; /* its log is sent with the task's execution role */
	struct restart_policy restart_policy;
	bool network_disabled; /* a network namespace of its own, with nothing but lo */
	/* What the engine made up once (persisted). */
	char runtime_id[65];  /* 64 hex digits */
	char endpoint_id[37]; /* uuid of /v4/<id> */
	/* How far it has got (persisted). */
	enum task_status known, desired, sent;
	char *reason; /* "<ErrorName>: <text>", first one stays; NULL if none */
	bool has_exit_code;
	int exit_code;
	char *image_digest, *image_id; /* "sha256:..." or NULL */
	char address[16];              /* bridge address or "" */
	struct network_binding *bindings;
	size_t n_bindings;
	uint64_t created_realtime_usec, started_realtime_usec, /* of the first start */
		finished_realtime_usec;                        /* 0 unknown */
	uint64_t started_usec;                                 /* monotonic; not persisted */
	uint64_t restart_count;                                /* by its restart policy */
	uint64_t cgroup_id;                                    /* cgroup2 id, 0 unknown */
	/* The last health check, as ecs-task told it; not persisted, since ecs-task has it. */
	enum health_status health;
	uint64_t health_since_realtime_usec; /* 0: nothing was told yet */
	int health_exit_code;
	char *health_output; /* NULL if none */
	struct managed_agent managed_agent;
	/* The image as ecs-image told it (persisted with the container). */
	struct json_object *image_config; /* owned, NULL until known */
	struct json_object *layers;       /* array of diffIDs, owned, NULL until known */
};

struct task {
	/* What the payload said. */
	char *arn;
	char *id; /* after the last '/', checked to be a harmless path component */
	char *family, *version, *cluster_arn, *launch_type, *service_name;
	struct json_object *document; /* the payload's task object without credentials, owned */
	enum network_mode network_mode;
	enum task_pid_mode pid_mode;
	enum task_ipc_mode ipc_mode;
	double cpu;                                      /* vCPU, 0: no limit */
	int64_t memory_mib;                              /* 0: no limit */
	char *credentials_id, *execution_credentials_id; /* NULL if none */
	struct container *containers;
	size_t n_containers;
	/* How far it has got (persisted). */
	enum task_status known, desired, sent;
	int64_t stop_sequence;
	char *reason; /* terminal reason or NULL */
	uint64_t pull_started_realtime_usec, pull_stopped_realtime_usec;
	uint64_t execution_stopped_realtime_usec, stopped_realtime_usec;
};

/* The task's, or none for a container that has no network. */
enum network_mode container_network_mode(const struct task *task,
                                         const struct container *container);

struct task *task_free(struct task *task);
DEFINE_CLEANUP(struct task *, task_free)

/* The task has ended, and is only to be remembered: lets go of what it takes to run and to report
 * it, which is most of its memory. From then on all documents, configurations of images and lists
 * of layers are NULL. */
void task_shrink(struct task *task);

/* The name that the container has on its host: "ecs-web-3-app-" and 20 digits of its runtime id. */
#define TASK_RUNTIME_NAME_SIZE 256
void container_runtime_name(const struct task *task, const struct container *c, char *buf,
                            size_t n);

/* By name; NULL if the task has none of it. */
struct container *task_container(const struct task *task, const char *name);
