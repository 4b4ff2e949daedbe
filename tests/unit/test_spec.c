/* agent/engine/spec and documents: Docker's rules for turning a definition into a process. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/engine/documents.h"
#include "agent/engine/spec.h"
#include "agent/engine/task_parse.h"
#include "lib/json.h"

#define ARN "arn:aws:ecs:us-west-2:111122223333:task/blue/70947c96f64e483a612a3fd4303546e7"

static const struct spec_options options = {.cluster = "blue",
                                            .region = "us-west-2",
                                            .task_iam_role = true,
                                            .task_cgroup_limits = true,
                                            .task_memory_inside = true};

static struct json_object *parse(const char *text)
{
	struct json_object *obj = NULL;
	struct err err = {0};

	if (json_parse_object(text, strlen(text), 100000, &obj, &err) < 0)
		fail_msg("%s in %s", err.text, text);
	return obj;
}

static struct task *make_task(const char *task_members, const char *members,
                              const char *host_config, const char *image_config)
{
	static const struct task_policy policy = {0};
	_cleanup_json_ struct json_object *obj = NULL;
	struct task *task = NULL;
	struct err err = {0};
	char text[4000];

	snprintf(text, sizeof(text),
	         "{\"arn\":\"" ARN "\",%s\"containers\":[{%s\"name\":\"a\",\"image\":\"b\","
	         "\"dockerConfig\":{\"hostConfig\":\"{%s}\"}}]}",
	         task_members, members, host_config);
	obj = parse(text);
	if (task_parse(obj, &policy, &task, &err) < 0)
		fail_msg("%s in %s", err.text, text);
	assert_int_equal(task_assign_ids(task), 0);
	task->containers[0].image_config = parse(image_config);
	task->containers[0].layers = json_object_new_array();
	return task;
}

static struct json_object *spec(const struct task *task)
{
	struct json_object *obj = NULL;
	struct err err = {0};

	if (spec_container(task, &task->containers[0], &options, &obj, &err) < 0)
		fail_msg("%s", err.text);
	return obj;
}

static struct json_object *process_of(struct json_object *obj)
{
	return json_get(json_get(obj, "config"), "process");
}

static void test_entrypoint_and_command_combine_as_in_docker(void **state)
{
	static const char image[] = "{\"Entrypoint\":[\"ie\"],\"Cmd\":[\"ic\"]}";
	static const struct {
		const char *members, *image, *args;
	} cases[] = {
		{"", image, "[\"ie\",\"ic\"]"},
		{"\"command\":[\"c\"],", image, "[\"ie\",\"c\"]"},
		{"\"entryPoint\":[\"e\"],", image, "[\"e\"]"},
		{"\"entryPoint\":[\"e\"],\"command\":[\"c\"],", image, "[\"e\",\"c\"]"},
		{"\"command\":[],", "{\"Cmd\":[\"ic\"]}", "[\"ic\"]"},
		{"\"command\":[],", image, "[\"ie\",\"ic\"]"},
		{"\"entryPoint\":null,\"command\":null,", image, "[\"ie\",\"ic\"]"},
		/* The image's is taken away, with its Cmd or without. */
		{"\"entryPoint\":[],", image, "[\"ic\"]"},
		{"\"entryPoint\":[],\"command\":[\"c\"],", image, "[\"c\"]"},
		{"\"entryPoint\":[\"\"],\"command\":[\"c\"],", image, "[\"c\"]"},
		{"\"command\":[\"c\"],", "{\"Entrypoint\":[\"\"],\"Cmd\":[\"ic\"]}", "[\"c\"]"},
		{"", "{\"Entrypoint\":[\"\"],\"Cmd\":[\"ic\"]}", "[\"ic\"]"},
		/* The shell form is the image's own words, and nothing is joined or split. */
		{"", "{\"Cmd\":[\"/bin/sh\",\"-c\",\"a  b\"]}", "[\"/bin/sh\",\"-c\",\"a  b\"]"},
		{"\"command\":[\"a b\",\"\"],", "{\"Entrypoint\":[\"/bin/sh\",\"-c\"]}",
	         "[\"/bin/sh\",\"-c\",\"a b\",\"\"]"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_(task_freep) struct task *task =
			make_task("", cases[i].members, "", cases[i].image);
		_cleanup_json_ struct json_object *obj = spec(task);

		assert_string_equal(json_to_text(json_get(process_of(obj), "args"), NULL),
		                    cases[i].args);
	}
}

static void test_no_command_at_all_is_an_error_with_its_ecs_name(void **state)
{
	static const struct {
		const char *members, *image;
	} cases[] = {
		{"", "{}"},
		{"\"entryPoint\":[\"\"],", "{\"Entrypoint\":[\"ie\"],\"Cmd\":[\"ic\"]}"},
		{"\"entryPoint\":[],", "{\"Entrypoint\":[\"ie\"]}"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_(task_freep) struct task *task =
			make_task("", cases[i].members, "", cases[i].image);
		struct json_object *obj = NULL;
		struct err err = {0};

		assert_int_equal(spec_container(task, &task->containers[0], &options, &obj, &err),
		                 -EINVAL);
		assert_string_equal(err.name, "CannotCreateContainerError");
		assert_non_null(strstr(err.text, "no command specified"));
	}
}

static bool has_env(struct json_object *obj, const char *entry)
{
	struct json_object *env = json_get(process_of(obj), "env");

	for (size_t i = 0; i < json_object_array_length(env); i++)
		if (strcmp(json_object_get_string(json_object_array_get_idx(env, i)), entry) == 0)
			return true;
	return false;
}

static void test_environment_has_dockers_precedence_and_the_agents_variables(void **state)
{
	_cleanup_(task_freep) struct task *task = make_task(
		"\"roleCredentials\":{\"credentialsId\":\"c-9\"},",
		"\"environment\":{\"A\":\"task\",\"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI\":\"/mine\"},",
		"", "{\"Cmd\":[\"x\"],\"Env\":[\"A=image\",\"B=image=2\",\"PATH=/p\"]}");
	_cleanup_json_ struct json_object *obj = spec(task);
	char uri[100];

	(void)state;
	snprintf(uri, sizeof(uri), "ECS_CONTAINER_METADATA_URI_V4=http://169.254.170.2/v4/%s",
	         task->containers[0].endpoint_id);
	assert_true(has_env(obj, "A=task"));
	assert_true(has_env(obj, "B=image=2"));
	assert_true(has_env(obj, "PATH=/p"));
	assert_true(has_env(obj, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v2/credentials/c-9"));
	assert_true(has_env(obj, uri));
	assert_true(has_env(obj, "AWS_REGION=us-west-2"));
	assert_false(has_env(obj, "A=image"));
}

static void test_a_region_that_is_set_by_anybody_is_not_the_agents(void **state)
{
	static const struct {
		const char *members, *env;
		bool injected;
	} cases[] = {
		{"", "", true},
		{"", "\"AWS_REGION=eu-west-1\"", false},
		{"\"environment\":{\"AWS_DEFAULT_REGION\":\"eu-west-1\"},", "", false},
		{"\"environment\":{\"AWS_REGION\":\"\"},", "", false},
		/* A name alone sets nothing. */
		{"", "\"AWS_REGION\",\"=x\",\"PATH\"", true},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char image[200];
		_cleanup_(task_freep) struct task *task = NULL;
		_cleanup_json_ struct json_object *obj = NULL;

		snprintf(image, sizeof(image), "{\"Cmd\":[\"x\"],\"Env\":[%s]}", cases[i].env);
		task = make_task("", cases[i].members, "", image);
		obj = spec(task);
		if (has_env(obj, "AWS_REGION=us-west-2") != cases[i].injected ||
		    has_env(obj, "AWS_DEFAULT_REGION=us-west-2") != cases[i].injected)
			fail_msg("row %zu", i);
		assert_true(has_env(
			obj, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"));
	}
}

/* The definition, else the image, else Docker's default. */
static void test_what_the_definition_leaves_out_is_the_images(void **state)
{
	static const char full[] =
		"{\"Cmd\":[\"x\"],\"User\":\"web:staff\",\"WorkingDir\":\"/srv\","
		"\"StopSignal\":\"SIGQUIT\",\"ExposedPorts\":{\"80/tcp\":{}},"
		"\"Healthcheck\":{\"Test\":[\"CMD\",\"x\"]}}";
	static const struct {
		const char *config, *image, *user, *cwd, *signal, *hostname, *domainname;
	} cases[] = {
		{"{}", "{\"Cmd\":[\"x\"]}", "", "/", "SIGTERM", NULL, NULL},
		{"{}", full, "web:staff", "/srv", "SIGQUIT", NULL, NULL},
		{"{\"User\":\"\",\"WorkingDir\":\"\",\"StopSignal\":\"\",\"Domainname\":\"\"}",
	         full, "web:staff", "/srv", "SIGQUIT", NULL, NULL},
		{"{\"User\":\"7\",\"WorkingDir\":\"/\",\"StopSignal\":\"9\",\"Hostname\":\"h\","
	         "\"Domainname\":\"d.example\"}",
	         full, "7", "/", "9", "h", "d.example"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_(task_freep) struct task *task = make_task("", "", "", cases[i].image);
		_cleanup_json_ struct json_object *obj = NULL;
		struct container *c = &task->containers[0];
		char id[13], env[40];
		const char *hostname = cases[i].hostname ? cases[i].hostname : id, *domainname;

		json_object_put(c->config);
		c->config = parse(cases[i].config);
		obj = spec(task);
		snprintf(id, sizeof(id), "%.12s", c->runtime_id);
		snprintf(env, sizeof(env), "HOSTNAME=%s", hostname);
		print_message("row %zu\n", i);
		assert_string_equal(json_text(obj, "user"), cases[i].user);
		assert_string_equal(json_text(process_of(obj), "cwd"), cases[i].cwd);
		assert_string_equal(json_text(obj, "stopSignal"), cases[i].signal);
		assert_string_equal(json_text(json_get(obj, "config"), "hostname"), hostname);
		assert_true(has_env(obj, env));
		assert_null(json_get(obj, "healthCheck")); /* of the image: ECS has none of it */
		domainname = json_text(obj, "domainname");
		assert_true(!domainname == !cases[i].domainname);
		if (domainname)
			assert_string_equal(domainname, cases[i].domainname);
	}
}

static void test_what_a_health_check_leaves_out_is_the_images(void **state)
{
	static const char image[] =
		"{\"Cmd\":[\"x\"],\"Healthcheck\":{\"Test\":[\"CMD\",\"image\"],\"Interval\":1000000000,"
		"\"Timeout\":2000000000,\"StartPeriod\":3000000000,\"StartInterval\":4000000000,"
		"\"Retries\":5},\"Shell\":[\"/bin/bash\",\"-c\"]}";
	static const struct {
		const char *members, *image, *check; /* in Healthcheck; in healthCheck */
	} cases[] = {
		{"", "{\"Cmd\":[\"x\"]}",
	         "\"intervalUsec\":30000000,\"timeoutUsec\":30000000,\"startPeriodUsec\":0,"
	         "\"retries\":3"},
		{"", image,
	         "\"intervalUsec\":1000000,\"timeoutUsec\":2000000,\"startPeriodUsec\":3000000,"
	         "\"startIntervalUsec\":4000000,\"retries\":5"},
		{",\"Interval\":9000000000,\"Timeout\":0,\"StartPeriod\":9000000000,\"Retries\":9",
	         image,
	         "\"intervalUsec\":9000000,\"timeoutUsec\":2000000,\"startPeriodUsec\":9000000,"
	         "\"startIntervalUsec\":4000000,\"retries\":9"},
		{"",
	         "{\"Cmd\":[\"x\"],\"Healthcheck\":{\"Interval\":\"1s\",\"Timeout\":5,\"Retries\":-1}}",
	         "\"intervalUsec\":30000000,\"timeoutUsec\":30000000,\"startPeriodUsec\":0,"
	         "\"retries\":3"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_(task_freep) struct task *task = make_task("", "", "", cases[i].image);
		_cleanup_json_ struct json_object *obj = NULL;
		struct container *c = &task->containers[0];
		char config[400], check[400];

		snprintf(config, sizeof(config),
		         "{\"Healthcheck\":{\"Test\":[\"CMD-SHELL\",\"own\"]%s}}",
		         cases[i].members);
		snprintf(check, sizeof(check), "{\"args\":[\"/bin/sh\",\"-c\",\"own\"],%s}",
		         cases[i].check);
		json_object_put(c->config);
		c->config = parse(config);
		c->has_health_check = true;
		obj = spec(task);
		print_message("row %zu\n", i);
		assert_string_equal(json_to_text(json_get(obj, "healthCheck"), NULL), check);
	}
}

static void test_capabilities_add_and_drop_as_docker_combines_them(void **state)
{
	static const struct {
		const char *host_config;
		int n;
		const char *has, *lacks;
	} cases[] = {
		{"", 14, "CAP_CHOWN", "CAP_SYS_ADMIN"},
		{"\\\"CapAdd\\\":[\\\"NET_ADMIN\\\"]", 15, "CAP_NET_ADMIN", "CAP_SYS_ADMIN"},
		{"\\\"CapDrop\\\":[\\\"ALL\\\"],\\\"CapAdd\\\":[\\\"cap_kill\\\"]", 1, "CAP_KILL",
	         "CAP_CHOWN"},
		{"\\\"CapAdd\\\":[\\\"ALL\\\"],\\\"CapDrop\\\":[\\\"SYS_ADMIN\\\"]", 40, "CAP_BPF",
	         "CAP_SYS_ADMIN"},
		/* Of two that contradict another the one that adds. */
		{"\\\"CapAdd\\\":[\\\"NET_RAW\\\",\\\"Cap_Sys_Time\\\"],\\\"CapDrop\\\":[\\\"NET_RAW\\\",\\\"CHOWN\\\"]",
	         14, "CAP_NET_RAW", "CAP_CHOWN"},
		{"\\\"CapDrop\\\":[\\\"all\\\",\\\"KILL\\\"],\\\"CapAdd\\\":[\\\"KILL\\\"]", 1,
	         "CAP_KILL", "CAP_CHOWN"},
		{"\\\"CapDrop\\\":[\\\"ALL\\\"],\\\"CapAdd\\\":[\\\"ALL\\\"]", 41, "CAP_SYS_ADMIN",
	         "CAP_NONE"},
		{"\\\"Privileged\\\":true", 41, "CAP_SYS_ADMIN", "CAP_NONE"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_(task_freep) struct task *task =
			make_task("", "", cases[i].host_config, "{\"Cmd\":[\"x\"]}");
		_cleanup_json_ struct json_object *obj = spec(task);
		struct json_object *caps =
			json_get(json_get(process_of(obj), "capabilities"), "bounding");
		const char *text = json_to_text(caps, NULL);

		assert_int_equal(json_object_array_length(caps), cases[i].n);
		assert_non_null(strstr(text, cases[i].has));
		assert_null(strstr(text, cases[i].lacks));
	}
}

static void test_limits_are_in_the_units_of_the_runtime_spec(void **state)
{
	_cleanup_(task_freep) struct task *task = make_task(
		"\"cpu\":0.25,\"memory\":64,", "\"cpu\":1,\"memory\":2,",
		"\\\"MemoryReservation\\\":1048576,\\\"Ulimits\\\":[{\\\"Name\\\":\\\"nofile\\\",\\\"Soft\\\":10,\\\"Hard\\\":-1}]",
		"{\"Cmd\":[\"x\"]}");
	_cleanup_json_ struct json_object *obj = spec(task), *setup = NULL;
	struct json_object *resources =
		json_get(json_get(json_get(obj, "config"), "linux"), "resources");

	(void)state;
	assert_string_equal(json_to_text(json_get(resources, "cpu"), NULL), "{\"shares\":2}");
	assert_string_equal(json_to_text(json_get(resources, "memory"), NULL),
	                    "{\"limit\":4194304,\"reservation\":1048576,\"swap\":8388608}");
	assert_string_equal(
		json_to_text(json_get(process_of(obj), "rlimits"), NULL),
		"[{\"type\":\"RLIMIT_NOFILE\",\"soft\":10,\"hard\":18446744073709551615}]");
	assert_int_equal(spec_task(task, &options, &setup, NULL), 0);
	assert_string_equal(
		json_to_text(json_get(setup, "cgroup"), NULL),
		"{\"cpuQuotaUsec\":25000,\"cpuPeriodUsec\":100000,\"memoryBytes\":67108864}");
}

static void test_a_container_above_its_task_is_refused(void **state)
{
	_cleanup_(task_freep) struct task *task =
		make_task("\"memory\":64,", "\"memory\":65,", "", "{\"Cmd\":[\"x\"]}");
	struct json_object *setup = NULL;
	struct err err = {0};

	(void)state;
	assert_int_equal(spec_task(task, &options, &setup, &err), -EINVAL);
	assert_non_null(strstr(err.text, "task memory spec builder"));
}

static void test_log_options_choose_mode_bound_and_credentials(void **state)
{
	_cleanup_(task_freep) struct task *task = make_task(
		"\"executionRoleCredentials\":{\"credentialsId\":\"e-1\"},",
		"\"logsAuthStrategy\":\"ExecutionRole\",",
		"\\\"LogConfig\\\":{\\\"Type\\\":\\\"awslogs\\\",\\\"Config\\\":{\\\"awslogs-group\\\":\\\"g\\\",\\\"mode\\\":\\\"non-blocking\\\",\\\"max-buffer-size\\\":\\\"25m\\\"}}",
		"{\"Cmd\":[\"x\"]}");
	_cleanup_json_ struct json_object *obj = spec(task);
	struct json_object *log = json_get(obj, "log");

	(void)state;
	assert_string_equal(json_text(log, "driver"), "awslogs");
	assert_string_equal(json_text(log, "mode"), "non-blocking");
	assert_string_equal(json_text(log, "credentialsId"), "e-1");
	assert_int_equal(json_object_get_int64(json_get(log, "maxBytes")), 25 * 1024 * 1024);
}

static void test_memory_is_limited_as_docker_and_ecs_have_it(void **state)
{
	static const struct {
		const char *task, *members, *host_config, *memory;
		bool swap_if_counted;
	} cases[] = {
		{"", "", "", "{}", true},
		{"", "\"memory\":64,", "", "{\"limit\":67108864,\"swap\":134217728}", true},
		{"", "\"memory\":2,", "", "{\"limit\":4194304,\"swap\":8388608}", true},
		{"\"memory\":128,", "\"memory\":64,", "", "{\"limit\":67108864,\"swap\":134217728}",
	         true},
		{"\"memory\":128,", "", "", "{\"limit\":134217728,\"swap\":268435456}", true},
		{"\"memory\":128,", "", "\\\"MemoryReservation\\\":67108864",
	         "{\"limit\":134217728,\"reservation\":67108864,\"swap\":268435456}", true},
		/* maxSwap 0 and 32, each with the swappiness. */
		{"", "\"memory\":64,", "\\\"MemorySwap\\\":67108864,\\\"MemorySwappiness\\\":0",
	         "{\"limit\":67108864,\"swap\":67108864,\"swappiness\":0}", false},
		{"", "\"memory\":64,", "\\\"MemorySwap\\\":100663296,\\\"MemorySwappiness\\\":10",
	         "{\"limit\":67108864,\"swap\":100663296,\"swappiness\":10}", false},
		{"", "\"memory\":64,", "\\\"MemorySwap\\\":-1,\\\"MemorySwappiness\\\":-1",
	         "{\"limit\":67108864,\"swap\":-1}", false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_(task_freep) struct task *task = make_task(
			cases[i].task, cases[i].members, cases[i].host_config, "{\"Cmd\":[\"x\"]}");
		_cleanup_json_ struct json_object *obj = spec(task);
		struct json_object *resources =
			json_get(json_get(json_get(obj, "config"), "linux"), "resources");

		print_message("row %zu\n", i);
		assert_string_equal(json_to_text(json_get(resources, "memory"), NULL),
		                    cases[i].memory);
		assert_int_equal(json_object_get_boolean(json_get(obj, "swapIfCounted")),
		                 cases[i].swap_if_counted);
	}
}

static void test_the_limit_of_the_task_stays_outside_where_asked_for(void **state)
{
	struct spec_options outside = options;
	_cleanup_(task_freep) struct task *task =
		make_task("\"memory\":128,", "", "", "{\"Cmd\":[\"x\"]}");

	(void)state;
	for (int i = 0; i < 2; i++) {
		_cleanup_json_ struct json_object *obj = NULL;

		outside.task_memory_inside = i == 1;
		outside.task_cgroup_limits = i == 0;
		assert_int_equal(spec_container(task, &task->containers[0], &outside, &obj, NULL),
		                 0);
		assert_null(strstr(json_to_text(obj, NULL), "\"limit\""));
	}
}

static void test_bad_values_are_named(void **state)
{
	static const struct {
		const char *host_config, *word;
	} cases[] = {
		{"\\\"CapAdd\\\":[\\\"NET_FOO\\\"]", "NET_FOO"},
		{"\\\"CapDrop\\\":[\\\"ALL\\\",\\\"NET_BAR\\\"]", "NET_BAR"},
		{"\\\"Privileged\\\":true,\\\"CapDrop\\\":[\\\"NET_BAZ\\\"]", "NET_BAZ"},
		{"\\\"Ulimits\\\":[{\\\"Name\\\":\\\"foo\\\",\\\"Soft\\\":1,\\\"Hard\\\":1}]",
	         "foo"},
		{"\\\"SecurityOpt\\\":[\\\"credentialspec:x\\\"]", "credentialspec:x"},
		{"\\\"SecurityOpt\\\":[\\\"no-new-privileges:maybe\\\"]", "maybe"},
		{"\\\"LogConfig\\\":{\\\"Config\\\":{\\\"mode\\\":\\\"fast\\\"}}", "fast"},
		{"\\\"LogConfig\\\":{\\\"Type\\\":\\\"splunk\\\"}", "splunk"},
		{"\\\"LogConfig\\\":{\\\"Type\\\":\\\"awslogs\\\"}", "awslogs-group"},
		{"\\\"LogConfig\\\":{\\\"Type\\\":\\\"json-file\\\",\\\"Config\\\":{\\\"tag\\\":\\\"x\\\"}}",
	         "tag"},
		{"\\\"Memory\\\":10485760,\\\"MemorySwap\\\":5", "MemorySwap"},
		{"\\\"MemorySwap\\\":10485760", "needs a memory limit"},
		{"\\\"MemorySwappiness\\\":101", "MemorySwappiness"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_(task_freep) struct task *task =
			make_task("", "", cases[i].host_config, "{\"Cmd\":[\"x\"]}");
		struct json_object *obj = NULL;
		struct err err = {0};

		assert_true(spec_container(task, &task->containers[0], &options, &obj, &err) < 0);
		if (!strstr(err.text, cases[i].word))
			fail_msg("row %zu: \"%s\" should name %s", i, err.text, cases[i].word);
	}
}

static void test_documents_carry_what_sdk_users_read(void **state)
{
	static const struct document_options doc_options = {.cluster = "blue",
	                                                    .availability_zone = "us-west-2a"};
	_cleanup_(task_freep) struct task *task =
		make_task("\"family\":\"web\",\"version\":\"3\",\"launchType\":\"EC2\",",
	                  "\"portMappings\":[{\"containerPort\":80}],", "", "{\"Cmd\":[\"x\"]}");
	struct network_binding *binding = calloc(1, sizeof(*binding));
	_cleanup_json_ struct json_object *all = NULL;
	struct json_object *doc, *own;
	char path[64];

	(void)state;
	*binding = (struct network_binding){
		.container_port = 80, .host_port = 32768, .bind_ip = "0.0.0.0"};
	task->containers[0].bindings = binding;
	task->containers[0].n_bindings = 1;
	task->containers[0].started_realtime_usec = 1782864000123456;
	strcpy(task->containers[0].address, "172.29.0.5");
	assert_int_equal(documents_build(task, &doc_options, &all), 0);
	assert_int_equal(json_object_object_length(all), 4);
	snprintf(path, sizeof(path), "/v4/%s/task", task->containers[0].endpoint_id);
	doc = json_get(all, path);
	assert_string_equal(json_text(doc, "TaskARN"), ARN);
	assert_string_equal(json_text(doc, "LaunchType"), "EC2");
	own = json_object_array_get_idx(json_get(doc, "Containers"), 0);
	assert_string_equal(json_text(own, "StartedAt"), "2026-07-01T00:00:00.123456000Z");
	assert_string_equal(
		json_to_text(json_get(own, "Ports"), NULL),
		"[{\"ContainerPort\":80,\"Protocol\":\"tcp\",\"HostPort\":32768,\"HostIp\":\"0.0.0.0\"}]");
	assert_string_equal(json_to_text(json_get(own, "Networks"), NULL),
	                    "[{\"NetworkMode\":\"bridge\",\"IPv4Addresses\":[\"172.29.0.5\"]}]");
}

/* "RestartCount" of the container's own document, -1 where there is none. */
static int64_t restart_count(const struct task *task, int version)
{
	static const struct document_options doc_options = {.cluster = "blue"};
	_cleanup_json_ struct json_object *all = NULL;
	int64_t count = -1;
	char path[64];

	assert_int_equal(documents_build(task, &doc_options, &all), 0);
	snprintf(path, sizeof(path), "/v%d/%s", version, task->containers[0].endpoint_id);
	(void)json_get_i64(json_get(all, path), "RestartCount", 0, INT64_MAX, &count, NULL);
	return count;
}

static void test_restarts_are_shown_where_there_is_a_policy(void **state)
{
	_cleanup_(task_freep) struct task *with =
		make_task("", "\"restartPolicy\":{\"enabled\":true},", "", "{\"Cmd\":[\"x\"]}");
	_cleanup_(task_freep) struct task *off =
		make_task("", "\"restartPolicy\":{\"enabled\":false},", "", "{\"Cmd\":[\"x\"]}");
	_cleanup_json_ struct json_object *with_spec = spec(with), *off_spec = spec(off);
	bool restart = false;

	(void)state;
	assert_int_equal(json_get_bool(with_spec, "restart", &restart, NULL), 0);
	assert_true(restart);
	assert_int_equal(json_get_bool(off_spec, "restart", &restart, NULL), 0);
	assert_false(restart);
	assert_int_equal(restart_count(with, 4), 0);
	with->containers[0].restart_count = 3;
	assert_int_equal(restart_count(with, 4), 3);
	assert_int_equal(restart_count(with, 3), -1);
	assert_int_equal(restart_count(off, 4), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_entrypoint_and_command_combine_as_in_docker),
		cmocka_unit_test(test_no_command_at_all_is_an_error_with_its_ecs_name),
		cmocka_unit_test(test_environment_has_dockers_precedence_and_the_agents_variables),
		cmocka_unit_test(test_a_region_that_is_set_by_anybody_is_not_the_agents),
		cmocka_unit_test(test_what_the_definition_leaves_out_is_the_images),
		cmocka_unit_test(test_what_a_health_check_leaves_out_is_the_images),
		cmocka_unit_test(test_capabilities_add_and_drop_as_docker_combines_them),
		cmocka_unit_test(test_limits_are_in_the_units_of_the_runtime_spec),
		cmocka_unit_test(test_a_container_above_its_task_is_refused),
		cmocka_unit_test(test_log_options_choose_mode_bound_and_credentials),
		cmocka_unit_test(test_memory_is_limited_as_docker_and_ecs_have_it),
		cmocka_unit_test(test_the_limit_of_the_task_stays_outside_where_asked_for),
		cmocka_unit_test(test_bad_values_are_named),
		cmocka_unit_test(test_documents_carry_what_sdk_users_read),
		cmocka_unit_test(test_restarts_are_shown_where_there_is_a_policy),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
