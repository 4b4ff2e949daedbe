/* agent/config: what ecs.config and the environment say, and what is said about it. */
#include "tests/unit/cmocka_prelude.h"

#include "agent/config/config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SEC 1000000ULL

/* ecs.config of this text, loaded. */
static int load(const char *text, struct config **ret, struct err *err)
{
	char path[] = "/tmp/test_config.XXXXXX";
	int fd = mkstemp(path);
	int r;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
	r = config_load(path, ret, err);
	unlink(path);
	return r;
}

static const char *warning_of(const struct config *config, const char *part)
{
	const char *warning;

	for (size_t i = 0; (warning = config_warning(config, i)); i++)
		if (strstr(warning, part))
			return warning;
	return NULL;
}

static void test_an_empty_file_means_the_documented_defaults(void **state)
{
	_cleanup_(config_freep) struct config *config = NULL;
	struct err err = {0};

	(void)state;
	assert_int_equal(config_load("/nonexistent/ecs.config", &config, &err), 0);
	assert_null(config_warning(config, 0));
	assert_string_equal(config->cluster, "default");
	assert_false(config->cluster_is_set);
	assert_null(config->region);
	assert_int_equal(config->reserved_ports.n, 5);
	assert_int_equal(config->reserved_ports.items[4], 51679);
	assert_int_equal(config->reserved_ports_udp.n, 0);
	assert_false(config->task_iam_role);
	assert_true(config->task_cpu_mem_limit);
	assert_false(config->task_cpu_mem_limit_is_set);
	assert_int_equal(config->task_cleanup_wait_usec, 3 * 3600 * SEC);
	assert_int_equal(config->container_stop_timeout_usec, 30 * SEC);
	assert_int_equal(config->task_pids_limit, 0);
	assert_int_equal(config->logging_drivers.n, 3);
	assert_int_equal(config->metadata_rate, 40);
	assert_int_equal(config->metadata_burst, 60);
	assert_string_equal(config->log_level, "info");
	assert_true(config->dynamic_port_first < config->dynamic_port_last);
	assert_int_equal(config->image_pull_behavior, IMAGE_PULL_DEFAULT);
}

static void test_values_of_the_file_are_typed(void **state)
{
	static const char text[] = "ECS_CLUSTER= blue \n"
				   "AWS_REGION=us-east-1\n"
				   "AWS_DEFAULT_REGION=us-west-2\n"
				   "ECS_BACKEND_HOST=ecs.test:8443\n"
				   "ECS_RESERVED_PORTS=[1,65535]\n"
				   "ECS_RESERVED_MEMORY=512\n"
				   "ECS_INSTANCE_ATTRIBUTES={\"stack\":\"prod\",\"a\":\"\"}\n"
				   "ECS_ENABLE_TASK_IAM_ROLE=T\n"
				   "ECS_CONTAINER_STOP_TIMEOUT=1m30s\n"
				   "ECS_IMAGE_PULL_BEHAVIOR=prefer-cached\n"
				   "ECS_DYNAMIC_HOST_PORT_RANGE=40000-40010\n"
				   "ECS_TASK_METADATA_RPS_LIMIT=7,9\n"
				   "ECS_LOGLEVEL=DEBUG\n"
				   "ECS_BRIDGE_SUBNET=10.9.0.0/20\n";
	_cleanup_(config_freep) struct config *config = NULL;
	struct err err = {0};

	(void)state;
	assert_int_equal(load(text, &config, &err), 0);
	assert_null(config_warning(config, 0));
	assert_string_equal(config->cluster, "blue");
	assert_true(config->cluster_is_set);
	assert_string_equal(config->region, "us-west-2");
	assert_string_equal(config->backend_host, "https://ecs.test:8443");
	assert_int_equal(config->reserved_ports.n, 2);
	assert_int_equal(config->reserved_memory_mib, 512);
	assert_int_equal(config->instance_attributes.n, 2);
	assert_string_equal(config->instance_attributes.items[0].value, "prod");
	assert_true(config->task_iam_role);
	assert_int_equal(config->container_stop_timeout_usec, 90 * SEC);
	assert_int_equal(config->image_pull_behavior, IMAGE_PULL_PREFER_CACHED);
	assert_int_equal(config->dynamic_port_first, 40000);
	assert_int_equal(config->dynamic_port_last, 40010);
	assert_int_equal(config->metadata_burst, 9);
	assert_string_equal(config->log_level, "debug");
	assert_string_equal(config->bridge_subnet, "10.9.0.0/20");
}

static void test_the_environment_wins_and_an_empty_value_is_none(void **state)
{
	_cleanup_(config_freep) struct config *config = NULL;

	(void)state;
	setenv("ECS_CLUSTER", "green", 1);
	setenv("ECS_RESERVED_MEMORY", "", 1);
	assert_int_equal(
		load("ECS_CLUSTER=blue\nECS_RESERVED_MEMORY=5\nECS_LOGLEVEL= \n", &config, NULL),
		0);
	unsetenv("ECS_CLUSTER");
	unsetenv("ECS_RESERVED_MEMORY");
	assert_string_equal(config->cluster, "green");
	assert_int_equal(config->reserved_memory_mib, 5);
	assert_string_equal(config->log_level, "info");
	assert_null(config_warning(config, 0));
}

/* ecs-task does not see the environment, so neither must the agent. */
static void test_the_environment_does_not_count_for_settings_of_the_file(void **state)
{
	_cleanup_(config_freep) struct config *config = NULL;

	(void)state;
	setenv("ECS_DISABLE_HOST_PID_IPC", "true", 1);
	setenv("ECS_ALLOWED_HOST_PATHS", "/srv", 1);
	setenv("ECS_USERNS_REMAP", "100000:65536", 1);
	assert_int_equal(load("ECS_ALLOWED_HOST_PATHS=/srv\nECS_USERNS_REMAP=false\n"
	                      "ECS_USERNS_REMAP_ALLOW_HOST=true\n",
	                      &config, NULL),
	                 0);
	unsetenv("ECS_DISABLE_HOST_PID_IPC");
	unsetenv("ECS_ALLOWED_HOST_PATHS");
	unsetenv("ECS_USERNS_REMAP");
	assert_false(config->host_pid_ipc_disabled);
	assert_true(config->userns_host_allowed);
	assert_string_equal(config->allowed_host_paths, "/srv");
	assert_string_equal(config->userns_remap, "false");
	assert_string_equal(warning_of(config, "ECS_DISABLE_HOST_PID_IPC"),
	                    "ECS_DISABLE_HOST_PID_IPC=true in the environment has no effect: it is "
	                    "read from ecs.config alone");
	assert_non_null(warning_of(config, "ECS_USERNS_REMAP=100000:65536 in the environment"));
	assert_null(config_warning(config, 2));
}

static void test_bad_values_warn_and_leave_the_default(void **state)
{
	static const char *const lines[] = {
		"ECS_RESERVED_MEMORY=65536",
		"ECS_RESERVED_MEMORY=-1",
		"ECS_RESERVED_PORTS=[70000]",
		"ECS_RESERVED_PORTS={}",
		"ECS_ENABLE_TASK_IAM_ROLE=yes",
		"ECS_CONTAINER_STOP_TIMEOUT=10",
		"ECS_CONTAINER_STOP_TIMEOUT=0s",
		"ECS_ENGINE_TASK_CLEANUP_WAIT_DURATION=999ms",
		"ECS_CGROUP_CPU_PERIOD=101ms",
		"ECS_TASK_PIDS_LIMIT=0",
		"ECS_TASK_PIDS_LIMIT=4194305",
		"ECS_IMAGE_PULL_BEHAVIOR=never",
		"ECS_DYNAMIC_HOST_PORT_RANGE=5-4",
		"ECS_DYNAMIC_HOST_PORT_RANGE=1-65536",
		"ECS_TASK_METADATA_RPS_LIMIT=40",
		"ECS_TASK_METADATA_RPS_LIMIT=0,60",
		"ECS_LOGLEVEL=loud",
		"ECS_AVAILABLE_LOGGING_DRIVERS=awslogs",
		"ECS_DISABLE_IMAGE_CLEANUP=1x",
		"ECS_IMAGE_CLEANUP_INTERVAL=9m",
		"ECS_IMAGE_MINIMUM_CLEANUP_AGE=1 hour",
		"ECS_NUM_IMAGES_DELETE_PER_CYCLE=0",
		"NON_ECS_IMAGE_MINIMUM_CLEANUP_AGE=-1h",
	};
	_cleanup_(config_freep) struct config *defaults = NULL;

	(void)state;
	assert_int_equal(load("", &defaults, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		_cleanup_(config_freep) struct config *config = NULL;
		char name[64];
		const char *warning;

		snprintf(name, sizeof(name), "%.*s", (int)strcspn(lines[i], "="), lines[i]);
		assert_int_equal(load(lines[i], &config, NULL), 0);
		warning = config_warning(config, 0);
		if (!warning || !strstr(warning, name) || config_warning(config, 1))
			fail_msg("%s: %s", lines[i], warning ? warning : "no warning");
		if (config->reserved_memory_mib != defaults->reserved_memory_mib ||
		    config->reserved_ports.n != defaults->reserved_ports.n ||
		    config->task_iam_role != defaults->task_iam_role ||
		    config->container_stop_timeout_usec != defaults->container_stop_timeout_usec ||
		    config->task_cleanup_wait_usec != defaults->task_cleanup_wait_usec ||
		    config->cgroup_cpu_period_usec != defaults->cgroup_cpu_period_usec ||
		    config->task_pids_limit != defaults->task_pids_limit ||
		    config->image_pull_behavior != defaults->image_pull_behavior ||
		    config->dynamic_port_first != defaults->dynamic_port_first ||
		    config->dynamic_port_last != defaults->dynamic_port_last ||
		    config->metadata_rate != defaults->metadata_rate ||
		    config->logging_drivers.n != defaults->logging_drivers.n ||
		    config->image_cleanup_disabled != defaults->image_cleanup_disabled ||
		    config->image_cleanup_interval_usec != defaults->image_cleanup_interval_usec ||
		    config->image_cleanup_age_usec != defaults->image_cleanup_age_usec ||
		    config->image_cleanup_count != defaults->image_cleanup_count ||
		    config->untracked_image_cleanup_age_usec !=
		            defaults->untracked_image_cleanup_age_usec ||
		    strcmp(config->log_level, defaults->log_level) != 0)
			fail_msg("%s: not the default", lines[i]);
	}
}

static void test_lists_are_separated_by_commas(void **state)
{
	static const struct {
		const char *line, *want;
	} cases[] = {
		{"", ""},
		{"ECS_EXCLUDE_UNTRACKED_IMAGE=a", "a|"},
		{"ECS_EXCLUDE_UNTRACKED_IMAGE=a:1, b@sha256:2 ,,c ,", "a:1|b@sha256:2|c|"},
		{"ECS_EXCLUDE_UNTRACKED_IMAGE= , ,", ""},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_(config_freep) struct config *config = NULL;
		char found[64] = "";

		assert_int_equal(load(cases[i].line, &config, NULL), 0);
		for (size_t k = 0; k < config->image_cleanup_excluded.n; k++) {
			strcat(found, config->image_cleanup_excluded.items[k]);
			strcat(found, "|");
		}
		assert_string_equal(found, cases[i].want);
	}
}

static void test_short_timeouts_become_their_minimum(void **state)
{
	static const struct {
		const char *line;
		size_t offset;
		uint64_t want;
	} cases[] = {
		{"ECS_CONTAINER_STOP_TIMEOUT=1ms",
	         offsetof(struct config, container_stop_timeout_usec), SEC},
		{"ECS_CONTAINER_START_TIMEOUT=44s",
	         offsetof(struct config, container_start_timeout_usec), 45 * SEC},
		{"ECS_CONTAINER_CREATE_TIMEOUT=1s",
	         offsetof(struct config, container_create_timeout_usec), 60 * SEC},
		{"ECS_MANIFEST_PULL_TIMEOUT=29s",
	         offsetof(struct config, manifest_pull_timeout_usec), 30 * SEC},
		{"ECS_IMAGE_PULL_INACTIVITY_TIMEOUT=1s",
	         offsetof(struct config, image_pull_inactivity_timeout_usec), 60 * SEC},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_(config_freep) struct config *config = NULL;
		uint64_t usec;

		assert_int_equal(load(cases[i].line, &config, NULL), 0);
		memcpy(&usec, (char *)config + cases[i].offset, sizeof(usec));
		if (usec != cases[i].want || !warning_of(config, "minimum"))
			fail_msg("%s: %llu", cases[i].line, (unsigned long long)usec);
	}
}

static void test_fatal_values_end_the_start_and_are_named(void **state)
{
	static const struct {
		const char *line, *want;
	} cases[] = {
		{"ECS_INSTANCE_ATTRIBUTES={\"a\":1}", "ECS_INSTANCE_ATTRIBUTES"},
		{"ECS_DISABLE_PRIVILEGED=yes",
	         "ECS_DISABLE_PRIVILEGED=yes: it takes true or false"},
		{"ECS_DISABLE_HOST_PID_IPC=yes", "=yes: it takes true or false"},
		{"ECS_USERNS_REMAP_ALLOW_HOST=yes", "=yes: it takes true or false"},
		{"ECS_USERNS_REMAP=1000:65536", "must begin at 65536"},
		{"ECS_USERNS_REMAP=100000:65535", "there must be 65536"},
		{"ECS_USERNS_REMAP=no-such-name", "such as no-such-name:100000:65536"},
		{"ECS_USERNS_REMAP=no such name", "must be true, false, default, FIRST:COUNT"},
		{"ECS_ALLOWED_HOST_PATHS=/srv:data", "has \"data\"; it must be absolute"},
		{"ECS_ALLOWED_HOST_PATHS=", "or, for any path, not be there"},
		{"ECS_INSTANCE_ATTRIBUTES=a=b", "ECS_INSTANCE_ATTRIBUTES=a=b"},
		{"ECS_CONTAINER_INSTANCE_TAGS=[]", "JSON object"},
		{"ECS_AVAILABLE_LOGGING_DRIVERS=[\"awslog\"]", "no log driver 'awslog'"},
		{"ECS_AVAILABLE_LOGGING_DRIVERS=[1]", "names"},
		{"ECS_BACKEND_HOST=ftp://x", "https://"},
		{"ECS_BACKEND_HOST=a b", "blank"},
		{"ECS_BRIDGE_NAME=much-too-long-a-name", "15"},
		{"ECS_BRIDGE_NAME=a/b", "ECS_BRIDGE_NAME"},
		{"ECS_BRIDGE_NAME=all", "ECS_BRIDGE_NAME=all: must be"},
		{"ECS_BRIDGE_SUBNET=172.29.0.0", "prefix of 8 to 29"},
		{"ECS_BRIDGE_SUBNET=172.29.0.1/16", "beyond"},
		{"ECS_BRIDGE_SUBNET=10.0.0.0/7", "prefix of 8 to 29"},
		{"ECS_BRIDGE_SUBNET=172.29.0.0/30", "prefix of 8 to 29"},
		{"ECS_BRIDGE_SUBNET=127.0.0.0/8", "ECS_BRIDGE_SUBNET=127.0.0.0/8: loopback"},
		{"ECS_BRIDGE_SUBNET=169.0.0.0/8", "link-local"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_(config_freep) struct config *config = NULL;
		struct err err = {0};

		if (load(cases[i].line, &config, &err) != -EINVAL ||
		    !strstr(err.text, cases[i].want))
			fail_msg("%s: %s", cases[i].line, err.text);
		assert_null(config);
	}
}

static void test_what_is_not_carried_out_is_said_by_name(void **state)
{
	static const struct {
		const char *line;
		bool warns;
	} cases[] = {
		{"ECS_ENABLE_TASK_ENI=true", true},
		{"ECS_ENABLE_TASK_ENI=false", false},
		{"ECS_ENABLE_TASK_ENI=0", false},
		{"ECS_CHECKPOINT=false", true},
		{"ECS_CHECKPOINT=1", false},
		{"ECS_DATADIR=/data", true},
		{"ECS_LOG_OUTPUT_FORMAT=logfmt", false},
		{"ECS_LOG_OUTPUT_FORMAT=json", true},
		{"ECS_CNI_PLUGINS_PATH=/x", true},
		{"AWS_USE_FIPS_ENDPOINT=true", true},
		{"AWS_USE_FIPS_ENDPOINT=false", false},
		{"AWS_USE_DUALSTACK_ENDPOINT=true", true},
		{"AWS_CONFIG_FILE=/root/.aws/config", true},
		{"AWS_ROLE_ARN=arn:aws:iam::111122223333:role/node", true},
		{"AWS_WEB_IDENTITY_TOKEN_FILE=/token", true},
		{"AWS_SHARED_CREDENTIALS_FILE=/keys", false},
		{"AWS_PROFILE=node", false},
		{"AWS_DEFALUT_REGION=us-west-2", true},
		{"ECS_CLUTSER=blue", true},
		{"export ECS_CLUSTER=blue", true},
		{"SOMETHING=else", false},
		{"ECS_AVAILABLE_LOGGING_DRIVERS=[\"awslogs\",\"syslog\"]", true},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_(config_freep) struct config *config = NULL;

		assert_int_equal(load(cases[i].line, &config, NULL), 0);
		if (!!config_warning(config, 0) != cases[i].warns)
			fail_msg("%s: %s", cases[i].line,
			         cases[i].warns ? "no warning" : config_warning(config, 0));
	}
}

static void test_a_driver_that_is_not_shipped_is_not_advertised(void **state)
{
	_cleanup_(config_freep) struct config *config = NULL;

	(void)state;
	assert_int_equal(
		load("ECS_AVAILABLE_LOGGING_DRIVERS=[\"syslog\",\"awslogs\"]", &config, NULL), 0);
	assert_int_equal(config->logging_drivers.n, 1);
	assert_string_equal(config->logging_drivers.items[0], "awslogs");
	assert_non_null(warning_of(config, "syslog"));
}

static void test_settings_are_printed_with_their_origin_and_without_credentials(void **state)
{
	static const char text[] = "# comment\nECS_CLUSTER=blue\nAWS_ACCESS_KEY_ID=AKIDCANARY\n"
				   "AWS_SECRET_ACCESS_KEY=canary\nECS_ENGINE_AUTH_DATA=canary\n"
				   "HTTPS_PROXY=http://me:canary@proxy:3128\nECS_LOGFILE=/x\n";
	_cleanup_(config_freep) struct config *config = NULL;
	_cleanup_free_ char *printed = NULL;
	size_t size;
	FILE *out = open_memstream(&printed, &size);

	(void)state;
	setenv("ECS_LOGLEVEL", "warn", 1);
	assert_int_equal(load(text, &config, NULL), 0);
	assert_int_equal(config_print(config, out), 0);
	unsetenv("ECS_LOGLEVEL");
	fclose(out);
	assert_non_null(strstr(printed, "ECS_CLUSTER=blue  (ecs.config line 2)\n"));
	assert_non_null(strstr(printed, "ECS_LOGLEVEL=warn  (environment)\n"));
	assert_non_null(strstr(printed, "ECS_CONTAINER_STOP_TIMEOUT=30s  (default)\n"));
	assert_non_null(strstr(printed, "AWS_ACCESS_KEY_ID=***  (ecs.config line 3)\n"));
	assert_non_null(strstr(printed, "HTTPS_PROXY=http://***@proxy:3128"));
	assert_non_null(strstr(printed, "warning: ECS_LOGFILE=/x has no effect"));
	assert_null(strstr(printed, "canary"));
	assert_null(strstr(printed, "CANARY"));
}

static void test_endpoints_follow_settings_then_the_partition(void **state)
{
	static const struct {
		const char *text, *service, *region, *want;
	} cases[] = {
		{"", "ecs", "us-west-2", "https://ecs.us-west-2.amazonaws.com"},
		{"", "ecr", "cn-north-1", "https://api.ecr.cn-north-1.amazonaws.com.cn"},
		{"ECS_BACKEND_HOST=h:1", "ecs", "r", "https://h:1"},
		{"ECS_BACKEND_HOST=h:1", "logs", "r", "https://logs.r.amazonaws.com"},
		{"AWS_ENDPOINT_URL=https://all/", "logs", "r", "https://all"},
		{"AWS_ENDPOINT_URL=https://all\nAWS_ENDPOINT_URL_CLOUDWATCH_LOGS=http://l:5",
	         "logs", "r", "http://l:5"},
		{"AWS_ENDPOINT_URL=nonsense", "ecs", "r", NULL},
		{"", "ecs", "not/a/region", NULL},
		{"", "lambda", "r", NULL},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_(config_freep) struct config *config = NULL;
		_cleanup_free_ char *url = NULL;
		struct err err = {0};
		int r;

		assert_int_equal(load(cases[i].text, &config, NULL), 0);
		r = config_endpoint(config, cases[i].service, cases[i].region, &url, &err);
		if (cases[i].want ? r != 0 || strcmp(url, cases[i].want) != 0
		                  : r >= 0 || !err.text[0])
			fail_msg("row %zu: %d '%s'", i, r, url ? url : err.text);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_an_empty_file_means_the_documented_defaults),
		cmocka_unit_test(test_values_of_the_file_are_typed),
		cmocka_unit_test(test_the_environment_wins_and_an_empty_value_is_none),
		cmocka_unit_test(test_the_environment_does_not_count_for_settings_of_the_file),
		cmocka_unit_test(test_bad_values_warn_and_leave_the_default),
		cmocka_unit_test(test_lists_are_separated_by_commas),
		cmocka_unit_test(test_short_timeouts_become_their_minimum),
		cmocka_unit_test(test_fatal_values_end_the_start_and_are_named),
		cmocka_unit_test(test_what_is_not_carried_out_is_said_by_name),
		cmocka_unit_test(test_a_driver_that_is_not_shipped_is_not_advertised),
		cmocka_unit_test(
			test_settings_are_printed_with_their_origin_and_without_credentials),
		cmocka_unit_test(test_endpoints_follow_settings_then_the_partition),
	};

	clearenv();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
