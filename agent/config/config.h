/*
 * The settings of a node: ecs.config and the environment, checked and typed.
 *
 * A variable of the process environment wins over the same line of ecs.config, but for those that
 * ecs-task reads from there by itself; an empty value is no value. Bad values follow the agent that
 * users know: most fall back to the default with a warning, a few are fatal, and so are those that
 * ecs-task would refuse every task for. Beyond that, a setting that this agent does not carry out,
 * an unknown ECS_ or AWS_ name in ecs.config, and a value that was changed to fit its range each
 * give a warning that names the variable: nothing is accepted and ignored in silence.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "lib/cleanup.h"
#include "lib/envfile.h"
#include "lib/err.h"

enum image_pull_behavior {
	IMAGE_PULL_DEFAULT,
	IMAGE_PULL_ALWAYS,
	IMAGE_PULL_ONCE,
	IMAGE_PULL_PREFER_CACHED,
};

struct config_pair {
	char *name;
	char *value;
};

struct config_pairs {
	struct config_pair *items;
	size_t n;
};

struct config_ports {
	uint16_t *items;
	size_t n;
};

struct config_strings {
	char **items;
	size_t n;
};

/* Durations are microseconds. Strings are NULL when unset unless a default is stated. */
struct config {
	/* The node in ECS. */
	char *cluster;       /* ECS_CLUSTER; "default" if unset */
	bool cluster_is_set; /* only an unset cluster may be created */
	char *region;        /* AWS_DEFAULT_REGION, AWS_REGION; NULL: ask the instance metadata */
	char *backend_host;  /* ECS_BACKEND_HOST as URL; see config_endpoint() */
	struct config_ports reserved_ports;      /* ECS_RESERVED_PORTS */
	struct config_ports reserved_ports_udp;  /* ECS_RESERVED_PORTS_UDP */
	uint64_t reserved_memory_mib;            /* ECS_RESERVED_MEMORY */
	struct config_pairs instance_attributes; /* ECS_INSTANCE_ATTRIBUTES */
	struct config_pairs instance_tags;       /* ECS_CONTAINER_INSTANCE_TAGS */
	char *detailed_os_family;                /* ECS_DETAILED_OS_FAMILY; "LINUX" */

	/* What tasks may have. */
	bool privileged_disabled;              /* ECS_DISABLE_PRIVILEGED */
	bool host_pid_ipc_disabled;            /* ECS_DISABLE_HOST_PID_IPC (read by ecs-task) */
	char *allowed_host_paths;              /* ECS_ALLOWED_HOST_PATHS (the same); NULL: any */
	char *userns_remap;                    /* ECS_USERNS_REMAP (the same) */
	bool userns_host_allowed;              /* ECS_USERNS_REMAP_ALLOW_HOST (the same) */
	bool selinux_capable;                  /* ECS_SELINUX_CAPABLE */
	bool apparmor_capable;                 /* ECS_APPARMOR_CAPABLE */
	bool task_iam_role;                    /* ECS_ENABLE_TASK_IAM_ROLE */
	bool task_iam_role_network_host;       /* ECS_ENABLE_TASK_IAM_ROLE_NETWORK_HOST */
	bool awslogs_execution_role;           /* ECS_ENABLE_AWSLOGS_EXECUTIONROLE_OVERRIDE */
	struct config_strings logging_drivers; /* ECS_AVAILABLE_LOGGING_DRIVERS, those we ship */

	/* Containers. */
	uint64_t task_cleanup_wait_usec;        /* ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION */
	uint64_t task_cleanup_wait_jitter_usec; /* ..._JITTER */
	uint64_t container_stop_timeout_usec;   /* ECS_CONTAINER_STOP_TIMEOUT */
	uint64_t container_start_timeout_usec;  /* ECS_CONTAINER_START_TIMEOUT */
	uint64_t container_create_timeout_usec; /* ECS_CONTAINER_CREATE_TIMEOUT */
	bool pull_dependent_upfront;            /* ECS_PULL_DEPENDENT_CONTAINERS_UPFRONT */

	/* cgroups. */
	bool health_check_disabled;      /* ECS_DISABLE_DOCKER_HEALTH_CHECK */
	bool task_cpu_mem_limit;         /* ECS_ENABLE_TASK_CPU_MEM_LIMIT */
	bool task_cpu_mem_limit_is_set;  /* on and impossible: set, exit 5; unset, it is off */
	bool task_memory_inside;         /* ECS_PROPAGATE_TASK_MEMORY_LIMIT_CGROUPV2, also on v1 */
	uint64_t cgroup_cpu_period_usec; /* ECS_CGROUP_CPU_PERIOD */
	uint64_t task_pids_limit;        /* ECS_TASK_PIDS_LIMIT; 0: none */

	/* Images. */
	enum image_pull_behavior image_pull_behavior; /* ECS_IMAGE_PULL_BEHAVIOR */
	uint64_t manifest_pull_timeout_usec;          /* ECS_MANIFEST_PULL_TIMEOUT */
	uint64_t image_pull_inactivity_timeout_usec;  /* ECS_IMAGE_PULL_INACTIVITY_TIMEOUT */
	uint64_t image_pull_timeout_usec;             /* ECS_IMAGE_PULL_TIMEOUT */
	bool image_cleanup_disabled;                  /* ECS_DISABLE_IMAGE_CLEANUP */
	uint64_t image_cleanup_interval_usec;         /* ECS_IMAGE_CLEANUP_INTERVAL */
	uint64_t image_cleanup_age_usec;              /* ECS_IMAGE_MINIMUM_CLEANUP_AGE */
	uint64_t image_cleanup_count;                 /* ECS_NUM_IMAGES_DELETE_PER_CYCLE */
	bool untracked_image_cleanup;                 /* ECS_ENABLE_UNTRACKED_IMAGE_CLEANUP */
	uint64_t untracked_image_cleanup_age_usec;    /* NON_ECS_IMAGE_MINIMUM_CLEANUP_AGE */
	struct config_strings image_cleanup_excluded; /* ECS_EXCLUDE_UNTRACKED_IMAGE */

	/* Network. */
	char *bridge_name;           /* ECS_BRIDGE_NAME (read by ecs-network itself) */
	char *bridge_subnet;         /* ECS_BRIDGE_SUBNET (the same) */
	uint16_t dynamic_port_first; /* ECS_DYNAMIC_HOST_PORT_RANGE */
	uint16_t dynamic_port_last;  /* inclusive */

	/* Endpoint for containers. */
	uint64_t metadata_rate;    /* ECS_TASK_METADATA_RPS_LIMIT, first number */
	uint64_t metadata_burst;   /* second number */
	bool metadata_az_disabled; /* ECS_DISABLE_TASK_METADATA_AZ */
	char *audit_log;           /* ECS_AUDIT_LOGFILE; NULL also if ECS_AUDIT_LOGFILE_DISABLED */
	bool audit_log_disabled;   /* ECS_AUDIT_LOGFILE_DISABLED */

	/* The agent itself. */
	char *log_level;      /* ECS_LOGLEVEL, a word for log_set_level(); "info" */
	struct envfile *file; /* ecs.config, for http_settings_load() and the like */

	struct config_origins *origins; /* private */
};

/*
 * Read ecs.config at path (a missing file is empty) and the environment.
 * Returns 0 (look at config_warning()), or -EINVAL for a fatal value, or -errno of reading; the
 * agent then exits with code 1. err names variable and value (not that of credentials).
 */
int config_load(const char *path, struct config **ret, struct err *err);
struct config *config_free(struct config *config);
DEFINE_CLEANUP(struct config *, config_free)

/* Warning i, one sentence each, or NULL past the end. */
const char *config_warning(const struct config *config, size_t i);

/*
 * Every effective setting on a line of its own for `ecs-agent --check-config`: "NAME=value" and
 * where it comes from (default, ecs.config line n, environment); credentials are masked. Then the
 * warnings. Returns 0 or -errno of writing.
 */
int config_print(const struct config *config, FILE *out);

/* A variable as the node sees it: the environment's, else that of ecs.config, else NULL. */
const char *config_get(const struct config *config, const char *name);

/*
 * URL of a service's API, without a trailing slash: for ECS, ECS_BACKEND_HOST; then
 * AWS_ENDPOINT_URL_<SERVICE>, then AWS_ENDPOINT_URL, then the public endpoint of the region.
 * service: "ecs", "ec2", "ecr" (api.ecr), "logs", "sts", "ssm", "secretsmanager", "s3".
 * Owned by the caller. -EINVAL: a setting is no http(s) URL; -ENOENT: unknown service.
 */
int config_endpoint(const struct config *config, const char *service, const char *region,
                    char **ret, struct err *err);

/* Below which the services of the region's partition are, such as "amazonaws.com". */
const char *config_aws_domain(const char *region);

/* The setting alone, for a program that gets it in a message: NULL if none is set. */
const char *config_endpoint_setting(const struct config *config, const char *service);
