/*
 * Every variable there is, in the order in which --check-config prints them. The values and what
 * happens to bad ones are those of the ECS agent that users know; a variable that is not carried
 * out here says so. Source: Amazon ECS container agent configuration (ECS developer guide).
 */
#include "agent/config/settings.h"

#include "netns/protocol.h"

#define MSEC (1000ULL)
#define SEC  (1000 * MSEC)
#define MIN  (60 * SEC)
#define HOUR (60 * MIN)

#define AT(member) .offset = offsetof(struct config, member)

#define STRING(n, member, d)                                                                       \
	{                                                                                          \
		.name = n, .kind = KIND_STRING, AT(member), .default_text = d                      \
	}
#define BOOLEAN(n, member, d)                                                                      \
	{                                                                                          \
		.name = n, .kind = KIND_BOOL, AT(member), .default_text = d                        \
	}
#define DURATION(n, member, d, lowest, highest, below)                                             \
	{                                                                                          \
		.name = n, .kind = KIND_DURATION, AT(member), .default_text = d, .min = lowest,    \
		.max = highest, .policy = below                                                    \
	}
#define NUMBER(n, member, d, lowest, highest)                                                      \
	{                                                                                          \
		.name = n, .kind = KIND_NUMBER, AT(member), .default_text = d, .min = lowest,      \
		.max = highest                                                                     \
	}
#define PASSED_ON(n)                                                                               \
	{                                                                                          \
		.name = n, .support = SETTING_PASSED_ON, .kind = KIND_TEXT                         \
	}
#define PASSED_SECRET(n)                                                                           \
	{                                                                                          \
		.name = n, .support = SETTING_PASSED_ON, .kind = KIND_TEXT, .is_secret = true      \
	}
#define UNSUPPORTED(n, value_of_no_effect, hint)                                                   \
	{                                                                                          \
		.name = n, .support = SETTING_UNSUPPORTED, .kind = KIND_TEXT,                      \
		.inert = value_of_no_effect, .note = hint                                          \
	}
#define FOREIGN(n, hint)                                                                           \
	{                                                                                          \
		.name = n, .support = SETTING_FOREIGN, .kind = KIND_TEXT, .note = hint             \
	}

#define DOCKER   "there is no Docker here"
#define WINDOWS  "it is for Windows"
#define KEYS     "keys are those of AWS_SHARED_CREDENTIALS_FILE or of the instance"
#define ENDPOINT "give such endpoints by AWS_ENDPOINT_URL_ECS and the like"

const struct setting settings[] = {
	/* The node in ECS. */
	STRING("ECS_CLUSTER", cluster, "default"),
	{.name = "AWS_REGION", .kind = KIND_WORD, AT(region)},
	{.name = "AWS_DEFAULT_REGION",
         .kind = KIND_WORD,
         AT(region)}, /* wins, since it comes later */
	{.name = "ECS_BACKEND_HOST", .kind = KIND_URL, AT(backend_host), .is_fatal = true},
	{.name = "ECS_RESERVED_PORTS",
         .kind = KIND_PORTS,
         AT(reserved_ports),
         .default_text = "[22,2375,2376,51678,51679]"},
	{.name = "ECS_RESERVED_PORTS_UDP",
         .kind = KIND_PORTS,
         AT(reserved_ports_udp),
         .default_text = "[]"},
	NUMBER("ECS_RESERVED_MEMORY", reserved_memory_mib, "0", 0, 65535),
	{.name = "ECS_INSTANCE_ATTRIBUTES",
         .kind = KIND_PAIRS,
         AT(instance_attributes),
         .is_fatal = true,
         .default_text = "{}"},
	{.name = "ECS_CONTAINER_INSTANCE_TAGS",
         .kind = KIND_PAIRS,
         AT(instance_tags),
         .is_fatal = true,
         .default_text = "{}"},
	STRING("ECS_DETAILED_OS_FAMILY", detailed_os_family, "LINUX"),

	/* What tasks may have. */
	{.name = "ECS_DISABLE_PRIVILEGED",
         .kind = KIND_BOOL,
         AT(privileged_disabled),
         .is_fatal = true,
         .default_text = "false"},
	{.name = "ECS_DISABLE_HOST_PID_IPC",
         .kind = KIND_BOOL,
         AT(host_pid_ipc_disabled),
         .is_fatal = true,
         .is_file_only = true,
         .default_text = "false"},
	{.name = "ECS_ALLOWED_HOST_PATHS",
         .kind = KIND_HOST_PATHS,
         AT(allowed_host_paths),
         .is_fatal = true,
         .is_file_only = true},
	{.name = "ECS_USERNS_REMAP",
         .kind = KIND_USERNS_REMAP,
         AT(userns_remap),
         .is_fatal = true,
         .is_file_only = true},
	{.name = "ECS_USERNS_REMAP_ALLOW_HOST",
         .kind = KIND_BOOL,
         AT(userns_host_allowed),
         .is_fatal = true,
         .is_file_only = true,
         .default_text = "false"},
	BOOLEAN("ECS_SELINUX_CAPABLE", selinux_capable, "false"),
	BOOLEAN("ECS_APPARMOR_CAPABLE", apparmor_capable, "false"),
	BOOLEAN("ECS_ENABLE_TASK_IAM_ROLE", task_iam_role, "false"),
	BOOLEAN("ECS_ENABLE_TASK_IAM_ROLE_NETWORK_HOST", task_iam_role_network_host, "false"),
	BOOLEAN("ECS_ENABLE_AWSLOGS_EXECUTIONROLE_OVERRIDE", awslogs_execution_role, "false"),
	{.name = "ECS_AVAILABLE_LOGGING_DRIVERS",
         .kind = KIND_LOGGING_DRIVERS,
         AT(logging_drivers),
         .is_fatal = true,
         .default_text = "[\"json-file\",\"awslogs\",\"none\"]"},

	/* Containers. */
	DURATION("ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION", task_cleanup_wait_usec, "3h", SEC, 0,
                 RANGE_DEFAULT),
	DURATION("ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION_JITTER", task_cleanup_wait_jitter_usec,
                 "0s", 0, 0, RANGE_DEFAULT),
	DURATION("ECS_CONTAINER_STOP_TIMEOUT", container_stop_timeout_usec, "30s", SEC, 0,
                 RANGE_CLAMP),
	DURATION("ECS_CONTAINER_START_TIMEOUT", container_start_timeout_usec, "3m", 45 * SEC, 0,
                 RANGE_CLAMP),
	DURATION("ECS_CONTAINER_CREATE_TIMEOUT", container_create_timeout_usec, "4m", MIN, 0,
                 RANGE_CLAMP),
	BOOLEAN("ECS_PULL_DEPENDENT_CONTAINERS_UPFRONT", pull_dependent_upfront, "false"),

	/* cgroups. */
	BOOLEAN("ECS_ENABLE_TASK_CPU_MEM_LIMIT", task_cpu_mem_limit, "true"),
	BOOLEAN("ECS_DISABLE_DOCKER_HEALTH_CHECK", health_check_disabled, "false"),
	BOOLEAN("ECS_PROPAGATE_TASK_MEMORY_LIMIT_CGROUPV2", task_memory_inside, "true"),
	DURATION("ECS_CGROUP_CPU_PERIOD", cgroup_cpu_period_usec, "100ms", 8 * MSEC, 100 * MSEC,
                 RANGE_DEFAULT),
	NUMBER("ECS_TASK_PIDS_LIMIT", task_pids_limit, NULL, 1, 4194304),

	/* Images. */
	{.name = "ECS_IMAGE_PULL_BEHAVIOR",
         .kind = KIND_PULL_BEHAVIOR,
         AT(image_pull_behavior),
         .default_text = "default"},
	DURATION("ECS_MANIFEST_PULL_TIMEOUT", manifest_pull_timeout_usec, "1m", 30 * SEC, 0,
                 RANGE_CLAMP),
	DURATION("ECS_IMAGE_PULL_INACTIVITY_TIMEOUT", image_pull_inactivity_timeout_usec, "1m", MIN,
                 0, RANGE_CLAMP),
	DURATION("ECS_IMAGE_PULL_TIMEOUT", image_pull_timeout_usec, "2h", 1, 0, RANGE_DEFAULT),
	BOOLEAN("ECS_DISABLE_IMAGE_CLEANUP", image_cleanup_disabled, "false"),
	DURATION("ECS_IMAGE_CLEANUP_INTERVAL", image_cleanup_interval_usec, "30m", 10 * MIN, 0,
                 RANGE_DEFAULT),
	DURATION("ECS_IMAGE_MINIMUM_CLEANUP_AGE", image_cleanup_age_usec, "1h", 0, 0,
                 RANGE_DEFAULT),
	NUMBER("ECS_NUM_IMAGES_DELETE_PER_CYCLE", image_cleanup_count, "5", 1, 100000),
	BOOLEAN("ECS_ENABLE_UNTRACKED_IMAGE_CLEANUP", untracked_image_cleanup, "false"),
	DURATION("NON_ECS_IMAGE_MINIMUM_CLEANUP_AGE", untracked_image_cleanup_age_usec, "1h", 0, 0,
                 RANGE_DEFAULT),
	{.name = "ECS_EXCLUDE_UNTRACKED_IMAGE", .kind = KIND_LIST, AT(image_cleanup_excluded)},

	/* Network. */
	{.name = "ECS_BRIDGE_NAME",
         .kind = KIND_BRIDGE_NAME,
         AT(bridge_name),
         .is_fatal = true,
         .is_file_only = true,
         .default_text = NETWORK_BRIDGE_NAME_DEFAULT},
	{.name = "ECS_BRIDGE_SUBNET",
         .kind = KIND_BRIDGE_SUBNET,
         AT(bridge_subnet),
         .is_fatal = true,
         .is_file_only = true,
         .default_text = NETWORK_BRIDGE_SUBNET_DEFAULT},
	{.name = "ECS_DYNAMIC_HOST_PORT_RANGE",
         .kind = KIND_PORT_RANGE,
         AT(dynamic_port_first),
         .default_text = "49153-65535"}, /* unless the kernel says otherwise */

	/* Endpoint for containers. */
	{.name = "ECS_TASK_METADATA_RPS_LIMIT",
         .kind = KIND_RATE,
         AT(metadata_rate),
         .default_text = "40,60"},
	BOOLEAN("ECS_DISABLE_TASK_METADATA_AZ", metadata_az_disabled, "false"),
	STRING("ECS_AUDIT_LOGFILE", audit_log, NULL),
	{.name = "ECS_AUDIT_LOGFILE_DISABLED",
         .kind = KIND_BOOL,
         AT(audit_log_disabled),
         .default_text = "false"},

	/* The agent itself. */
	{.name = "ECS_LOGLEVEL", .kind = KIND_WORD, AT(log_level), .default_text = "info"},

	/* Read where they are used: agent/config/registry_auth, lib/http, lib/aws_credentials,
         * config_endpoint(). */
	PASSED_ON("ECS_ENGINE_AUTH_TYPE"),
	PASSED_SECRET("ECS_ENGINE_AUTH_DATA"),
	PASSED_SECRET("AWS_ACCESS_KEY_ID"),
	PASSED_SECRET("AWS_SECRET_ACCESS_KEY"),
	PASSED_SECRET("AWS_SESSION_TOKEN"),
	PASSED_ON("AWS_PROFILE"),
	PASSED_ON("AWS_SHARED_CREDENTIALS_FILE"),
	PASSED_ON("AWS_EC2_METADATA_SERVICE_ENDPOINT"),
	PASSED_ON("AWS_ENDPOINT_URL"),
	PASSED_ON("AWS_ENDPOINT_URL_ECS"),
	PASSED_ON("AWS_ENDPOINT_URL_ECR"),
	PASSED_ON("AWS_ENDPOINT_URL_CLOUDWATCH_LOGS"),
	PASSED_ON("AWS_ENDPOINT_URL_STS"),
	PASSED_ON("AWS_ENDPOINT_URL_SSM"),
	PASSED_ON("AWS_ENDPOINT_URL_SECRETS_MANAGER"),
	PASSED_ON("AWS_ENDPOINT_URL_S3"),
	PASSED_ON("AWS_ENDPOINT_URL_EC2"),
	PASSED_ON("AWS_CA_BUNDLE"),
	PASSED_ON("SSL_CERT_FILE"),
	PASSED_ON("SSL_CERT_DIR"),
	PASSED_ON("HTTPS_PROXY"),
	PASSED_ON("https_proxy"),
	PASSED_ON("HTTP_PROXY"),
	PASSED_ON("http_proxy"),
	PASSED_ON("NO_PROXY"),
	PASSED_ON("no_proxy"),

	/* Not carried out by this agent. */
	UNSUPPORTED("ECS_AGENT_CONFIG_FILE_PATH", NULL, "put the settings into ecs.config"),
	UNSUPPORTED("ECS_DATADIR", NULL, "use --state-dir"),
	UNSUPPORTED("ECS_HOST_DATA_DIR", NULL, "use --state-dir"),
	UNSUPPORTED("ECS_CHECKPOINT", "true", "state is always kept"),
	UNSUPPORTED("ECS_LOGLEVEL_ON_INSTANCE", "none",
                    "the log goes to the journal: use ECS_LOGLEVEL"),
	UNSUPPORTED("ECS_LOGFILE", NULL, "the log goes to the journal"),
	UNSUPPORTED("ECS_LOG_ROLLOVER_TYPE", NULL, "the log goes to the journal"),
	UNSUPPORTED("ECS_LOG_OUTPUT_FORMAT", "logfmt", "the log goes to the journal"),
	UNSUPPORTED("ECS_LOG_MAX_FILE_SIZE_MB", NULL, "the log goes to the journal"),
	UNSUPPORTED("ECS_LOG_MAX_ROLL_COUNT", NULL, "the log goes to the journal"),
	UNSUPPORTED("ECS_UPDATES_ENABLED", "false", "the package manager updates this agent"),
	UNSUPPORTED("ECS_UPDATE_DOWNLOAD_DIR", NULL, "the package manager updates this agent"),
	UNSUPPORTED("ECS_DISABLE_METRICS", "true", "no metrics are sent"),
	UNSUPPORTED("ECS_POLL_METRICS", "false", "no metrics are sent"),
	UNSUPPORTED("ECS_POLLING_METRICS_WAIT_DURATION", NULL, "no metrics are sent"),
	UNSUPPORTED("ECS_EXCLUDE_IPV6_PORTBINDING", "true", "published ports are IPv4"),
	UNSUPPORTED("AWS_EC2_METADATA_DISABLED", "false", NULL),
	UNSUPPORTED("AWS_USE_FIPS_ENDPOINT", "false", ENDPOINT),
	UNSUPPORTED("AWS_USE_DUALSTACK_ENDPOINT", "false", ENDPOINT),
	UNSUPPORTED("AWS_CONFIG_FILE", NULL, KEYS),
	UNSUPPORTED("AWS_ROLE_ARN", NULL, KEYS),
	UNSUPPORTED("AWS_WEB_IDENTITY_TOKEN_FILE", NULL, KEYS),
	UNSUPPORTED("NONECS_NUM_CONTAINERS_DELETE_PER_CYCLE", NULL,
                    "all containers here are those of tasks"),
	UNSUPPORTED("ECS_CONTAINER_INSTANCE_PROPAGATE_TAGS_FROM", "none",
                    "use ECS_CONTAINER_INSTANCE_TAGS"),
	UNSUPPORTED("ECS_ENABLE_TASK_ENI", "false",
                    "tasks of network mode awsvpc are not placed here"),
	UNSUPPORTED("ECS_ENABLE_HIGH_DENSITY_ENI", "false", NULL),
	UNSUPPORTED("ECS_AWSVPC_BLOCK_IMDS", "false", NULL),
	UNSUPPORTED("ECS_AWSVPC_ADDITIONAL_LOCAL_ROUTES", "[]", NULL),
	UNSUPPORTED("ECS_ENABLE_CONTAINER_METADATA", "false", NULL),
	UNSUPPORTED("ECS_CGROUP_PATH", "/sys/fs/cgroup", NULL),
	UNSUPPORTED("ECS_SHARED_VOLUME_MATCH_FULL_CONFIG", "false", NULL),
	UNSUPPORTED("ECS_NVIDIA_RUNTIME", NULL, NULL),
	UNSUPPORTED("ECS_ENABLE_GPU_SUPPORT", "false", NULL),
	UNSUPPORTED("ECS_ENABLE_INF_SUPPORT", "false", NULL),
	UNSUPPORTED("ECS_EBSTA_SUPPORTED", "false", NULL),
	UNSUPPORTED("ECS_ENABLE_SPOT_INSTANCE_DRAINING", "false", NULL),
	UNSUPPORTED("ECS_WARM_POOLS_CHECK", "false", NULL),
	UNSUPPORTED("ECS_EXTERNAL", "false", NULL),
	UNSUPPORTED("ECS_ALTERNATE_CREDENTIAL_PROFILE", NULL, "use AWS_PROFILE"),
	UNSUPPORTED("ECS_VOLUME_PLUGIN_CAPABILITIES", "[]", NULL),
	UNSUPPORTED("ECS_ENABLE_FIRELENS_ASYNC", NULL, "there is no FireLens"),
	UNSUPPORTED("ECS_INSTANCE_IP_COMPATIBILITY", "ipv4", NULL),
	UNSUPPORTED("ECS_ENABLE_RUNTIME_STATS", "false", NULL),
	UNSUPPORTED("ECS_ENABLE_PROMETHEUS_METRICS", "false", NULL),
	UNSUPPORTED("ECS_AGENT_HEALTHCHECK_HOST", NULL, NULL),
	UNSUPPORTED("ECS_GMSA_SUPPORTED", "false", NULL),
	UNSUPPORTED("CREDENTIALS_FETCHER_HOST", NULL, NULL),
	UNSUPPORTED("CREDENTIALS_FETCHER_HOST_DIR", NULL, NULL),
	UNSUPPORTED("CREDENTIALS_FETCHER_SECRET_NAME_FOR_DOMAINLESS_GMSA", NULL, NULL),
	UNSUPPORTED("ECS_DOMAIN_JOINED_LINUX_INSTANCE", "false", NULL),
	UNSUPPORTED("ECS_SKIP_LOCALHOST_TRAFFIC_FILTER", "true", "no such filter is installed"),
	UNSUPPORTED("ECS_ALLOW_OFFHOST_INTROSPECTION_ACCESS", "false",
                    "there is no introspection port"),
	UNSUPPORTED("ECS_OFFHOST_INTROSPECTION_INTERFACE_NAME", NULL,
                    "there is no introspection port"),

	FOREIGN("DOCKER_HOST", DOCKER),
	FOREIGN("ECS_CNI_PLUGINS_PATH", DOCKER),
	FOREIGN("ECS_PAUSE_LABELS", DOCKER),
	FOREIGN("ECS_AGENT_LABELS", DOCKER),
	FOREIGN("ECS_AGENT_APPARMOR_PROFILE", DOCKER),
	FOREIGN("ECS_AGENT_PID_NAMESPACE_HOST", DOCKER),
	FOREIGN("ECS_AGENT_RUN_PRIVILEGED", DOCKER),
	FOREIGN("ECS_LOG_DRIVER", DOCKER),
	FOREIGN("ECS_LOG_OPTS", DOCKER),
	FOREIGN("ECS_INIT_DOCKER_LOG_FILE_SIZE", DOCKER),
	FOREIGN("ECS_INIT_DOCKER_LOG_FILE_NUM", DOCKER),
	FOREIGN("ECS_FSX_WINDOWS_FILE_SERVER_SUPPORTED", WINDOWS),
	FOREIGN("ECS_ENABLE_CPU_UNBOUNDED_WINDOWS_WORKAROUND", WINDOWS),
	FOREIGN("ECS_ENABLE_MEMORY_UNBOUNDED_WINDOWS_WORKAROUND", WINDOWS),
};

const size_t n_settings = ARRAY_SIZE(settings);
