/* agent/engine/task_parse: what a payload's task becomes, and what is refused by name. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/engine/task_parse.h"
#include "lib/json.h"

#define ARN "arn:aws:ecs:us-west-2:111122223333:task/blue/70947c96f64e483a612a3fd4303546e7"

static struct json_object *parse(const char *text)
{
	struct json_object *obj = NULL;
	struct err err = {0};

	if (json_parse_object(text, strlen(text), 100000, &obj, &err) < 0)
		fail_msg("%s in %s", err.text, text);
	return obj;
}

static int try_task(const char *text, const struct task_policy *policy, struct task **ret,
                    struct err *err)
{
	_cleanup_json_ struct json_object *obj = parse(text);

	return task_parse(obj, policy, ret, err);
}

static void test_a_task_keeps_everything_but_its_credentials(void **state)
{
	static const char text[] =
		"{\"arn\":\"" ARN
		"\",\"desiredStatus\":\"RUNNING\",\"family\":\"web\",\"version\":\"3\","
		"\"cpu\":0.5,\"memory\":512,\"networkMode\":\"bridge\",\"surprise\":{\"x\":1},"
		"\"roleCredentials\":{\"credentialsId\":\"c-1\",\"accessKeyId\":\"AKIA\",\"secretAccessKey\":\"CANARY\"},"
		"\"volumes\":[{\"name\":\"tmp\",\"type\":\"host\",\"host\":{\"sourcePath\":\"/srv\"}}],"
		"\"containers\":[{\"name\":\"app\",\"image\":\"nginx\",\"cpu\":128,\"memory\":256,\"essential\":true,"
		"\"portMappings\":[{\"containerPort\":80,\"hostPort\":0,\"protocol\":\"tcp\"},{\"containerPort\":53,\"protocol\":\"udp\"}],"
		"\"mountPoints\":[{\"sourceVolume\":\"tmp\",\"containerPath\":\"/t\",\"readOnly\":true}],"
		"\"stopTimeout\":7,\"overrides\":\"{\\\"command\\\":[\\\"x\\\"]}\",\"links\":[],"
		"\"dockerConfig\":{\"config\":\"{\\\"User\\\":\\\"1\\\"}\",\"hostConfig\":\"{\\\"NetworkMode\\\":\\\"bridge\\\",\\\"CapAdd\\\":[],\\\"Init\\\":false}\"}},"
		"{\"name\":\"side\",\"image\":\"busybox\",\"dependsOn\":[{\"containerName\":\"app\",\"condition\":\"START\"}]}]}";
	static const struct task_policy policy = {0};
	_cleanup_(task_freep) struct task *task = NULL, *again = NULL;
	struct err err = {0};

	(void)state;
	if (try_task(text, &policy, &task, &err) < 0)
		fail_msg("%s", err.text);
	assert_string_equal(task->id, "70947c96f64e483a612a3fd4303546e7");
	assert_int_equal(task->n_containers, 2);
	assert_int_equal(task->containers[0].n_ports, 2);
	assert_true(task->containers[0].ports[1].udp);
	assert_int_equal(task->containers[0].stop_timeout_usec, 7000000);
	assert_string_equal(json_object_get_string(json_object_array_get_idx(
				    json_get(task->containers[0].document, "command"), 0)),
	                    "x");
	assert_int_equal(task->containers[1].n_dependencies, 1);
	assert_string_equal(task->credentials_id, "c-1");
	assert_null(strstr(json_to_text(task->document, NULL), "CANARY"));

	assert_int_equal(task_assign_ids(task), 0);
	assert_int_equal(strlen(task->containers[0].runtime_id), 64);
	assert_int_equal(strlen(task->containers[0].endpoint_id), 36);
	assert_string_not_equal(task->containers[0].runtime_id, task->containers[1].runtime_id);

	assert_int_equal(task_parse_stored(task->document, &again, &err), 0);
	assert_string_equal(again->credentials_id, "c-1");
	assert_string_equal(json_to_text(again->document, NULL),
	                    json_to_text(task->document, NULL));
}

static void test_a_task_to_stop_needs_its_arn_only(void **state)
{
	static const struct task_policy policy = {0};
	_cleanup_(task_freep) struct task *task = NULL;
	struct err err = {0};

	(void)state;
	assert_int_equal(try_task("{\"arn\":\"" ARN
	                          "\",\"desiredStatus\":\"STOPPED\",\"networkMode\":\"awsvpc\"}",
	                          &policy, &task, &err),
	                 0);
	assert_int_equal(task->desired, TASK_STATUS_STOPPED);
	assert_int_equal(task->n_containers, 0);
}

#define DOCKER_VOLUME(text)                                                                        \
	"\"volumes\":[{\"name\":\"v\",\"type\":\"docker\",\"dockerVolumeConfiguration\":{" text    \
	"}}],"

#define EFS(id, text)                                                                              \
	"\"volumes\":[{\"name\":\"v\",\"type\":\"efs\",\"efsVolumeConfiguration\":{"               \
	"\"fileSystemId\":\"" id "\"" text "}}],"
#define TLS ",\"transitEncryption\":\"ENABLED\""

/* Members of the first container, then of hostConfig and config; each must be refused by name. */
static void test_what_cannot_be_honoured_is_refused_by_name(void **state)
{
	static const struct {
		const char *task, *container, *host_config, *config, *word;
	} cases[] = {
		{"\"networkMode\":\"awsvpc\",", "", "", "", "awsvpc"},
		{"\"networkMode\":\"weird\",", "", "", "", "weird"},
		{"\"pidMode\":\"none\",", "", "", "", "pidMode is \"none\""},
		{"\"ipcMode\":\"shareable\",", "", "", "", "ipcMode is \"shareable\""},
		{"\"pidMode\":\"task\",", "", "\\\"PidMode\\\":\\\"host\\\"", "",
	         "of pidMode \"task\""},
		{"\"ipcMode\":\"task\",", "", "\\\"IpcMode\\\":\\\"none\\\"", "",
	         "of ipcMode task"},
		{"\"ipcMode\":\"none\",", "", "\\\"ShmSize\\\":4096", "", "sharedMemorySize"},
		{"", "", "\\\"IpcMode\\\":\\\"host\\\",\\\"ShmSize\\\":4096", "",
	         "sharedMemorySize"},
		{"", "", "\\\"IpcMode\\\":\\\"container:x\\\"", "", "IpcMode is \"container:x\""},
		{"", "", "\\\"UTSMode\\\":\\\"host\\\"", "", "UTSMode"},
		{"", "", "\\\"CgroupnsMode\\\":\\\"host\\\"", "", "CgroupnsMode"},
		{"\"cpu\":-1,", "", "", "", "cpu"},
		{"\"zone\":7,", "", "", "", "zone must be of type string"},
		{"\"memory\":64,\"Memory\":65,", "", "", "", "memory and Memory are the same"},
		{"", "\"cpu\":1,\"CPU\":2,", "", "", "cpu and CPU are the same"},
		{"", "\"privileged\":\"yes\",", "", "", "privileged must be of type boolean"},
		{"", "\"linuxParameters\":[],", "", "", "linuxParameters must be of type object"},
		{"", "\"restartPolicy\":true,", "", "", "restartPolicy"},
		{"", "\"logsAuthStrategy\":\"Any\",", "", "", "it must be ExecutionRole"},
		{"\"memory\":\"512\",", "", "", "", "memory"},
		{"\"enableFaultInjection\":true,", "", "", "", "enableFaultInjection"},
		{"\"proxyConfiguration\":{\"type\":\"APPMESH\"},", "", "", "",
	         "proxyConfiguration"},
		{"\"volumes\":[{\"name\":\"v\",\"type\":\"efs\"}],", "", "", "",
	         "efsVolumeConfiguration"},
		{EFS("fs-0123456x", ""), "", "", "", "fileSystemId is \"fs-0123456x\""},
		{EFS("fs-01234567", ",\"rootDirectory\":\"x\""), "", "", "",
	         "rootDirectory is \"x\""},
		{EFS("fs-01234567", ",\"transitEncryption\":\"yes\""), "", "", "",
	         "transitEncryption is \"yes\""},
		{EFS("fs-01234567", ",\"transitEncryptionPort\":2049"), "", "", "",
	         "needs transitEncryption"},
		{EFS("fs-01234567", ",\"transitEncryptionPort\":65536"), "", "", "",
	         "transitEncryptionPort"},
		{EFS("fs-01234567", ",\"authorizationConfig\":{\"iam\":\"ENABLED\"}"), "", "", "",
	         "needs transitEncryption"},
		{EFS("fs-01234567", ",\"authorizationConfig\":{\"role\":\"x\"}"), "", "", "",
	         "role is not supported"},
		{EFS("fs-01234567", ",\"readOnly\":true"), "", "", "", "readOnly is not supported"},
		{EFS("fs-01234567", TLS ",\"rootDirectory\":\"/x\",\"authorizationConfig\":"
	                                "{\"accessPointId\":\"fsap-01234567\"}"),
	         "", "", "", "rootDirectory must be /"},
		{EFS("fs-01234567", TLS ",\"authorizationConfig\":{\"accessPointId\":\"x\"}"), "",
	         "", "", "accessPointId is \"x\""},
		{"\"volumes\":[{\"name\":\"v\",\"host\":{\"sourcePath\":\"x\"}}],", "", "", "",
	         "sourcePath"},
		{"\"volumes\":[{\"name\":\"v\"}],", "", "", "", "member host"},
		{"\"volumes\":[{\"name\":\"../v\",\"host\":{}}],", "", "", "", "../v"},
		{"\"volumes\":[{\"name\":\"v\",\"host\":{}},{\"name\":\"v\",\"host\":{}}],", "", "",
	         "", "two volumes"},
		{DOCKER_VOLUME("\"scope\":\"global\""), "", "", "", "global"},
		{DOCKER_VOLUME("\"scope\":\"task\",\"autoprovision\":true"), "", "", "",
	         "autoprovision"},
		{DOCKER_VOLUME("\"driver\":\"rexray\""), "", "", "", "rexray"},
		{DOCKER_VOLUME("\"driverOpts\":{\"type\":\"nfs\"}"), "", "", "",
	         "device is missing"},
		{DOCKER_VOLUME("\"driverOpts\":{\"o\":\"bind\"}"), "", "", "", "type is missing"},
		{DOCKER_VOLUME("\"driverOpts\":{\"type\":\"xfs\",\"device\":\"/dev/x\"}"), "", "",
	         "", "type xfs"},
		{DOCKER_VOLUME("\"driverOpts\":{\"size\":\"10g\"}"), "", "", "",
	         "driverOpts: size"},
		{DOCKER_VOLUME("\"scope\":\"shared\",\"driverOpts\":{\"type\":\"tmpfs\","
	                       "\"device\":\"tmpfs\"}"),
	         "", "", "", "scope shared"},
		{DOCKER_VOLUME("\"labels\":{\"a\":1}"), "", "", "", "label a"},
		{"\"attachments\":[{\"attachmentType\":\"amazonebs\"}],", "", "", "", "amazonebs"},
		{"", "\"secrets\":[{\"name\":\"x\"}],", "", "", "secrets"},
		{"", "\"environmentFiles\":[{}],", "", "", "environmentFiles"},
		{"", "\"restartPolicy\":{\"enabled\":1},", "", "", "member \"enabled\""},
		{"", "\"restartPolicy\":[true],", "", "", "restartPolicy"},
		{"", "\"restartPolicy\":{\"enabled\":true,\"restartAttemptPeriod\":59},", "", "",
	         "restartAttemptPeriod is 59, it must be 60 to 1800"},
		{"", "\"restartPolicy\":{\"restartAttemptPeriod\":1801},", "", "", "is 1801"},
		{"", "\"restartPolicy\":{\"restartAttemptPeriod\":-300},", "", "", "is -300"},
		{"", "\"restartPolicy\":{\"restartAttemptPeriod\":\"60\"},", "", "",
	         "restartAttemptPeriod"},
		{"", "\"restartPolicy\":{\"ignoredExitCodes\":[0,\"1\"]},", "", "",
	         "ignoredExitCodes[1]"},
		{"", "\"restartPolicy\":{\"ignoredExitCodes\":[4294967296]},", "", "",
	         "ignoredExitCodes[0]"},
		{"", "\"restartPolicy\":{\"ignoredExitCodes\":0},", "", "", "ignoredExitCodes"},
		{"", "\"restartPolicy\":{\"enabled\":true,\"maximumRetryCount\":3},", "", "",
	         "maximumRetryCount"},
		{"", "\"healthCheckType\":\"docker\",", "", "", "Healthcheck"},
		{"", "\"healthCheckType\":\"other\",", "", "", "must be docker"},
		{"", "\"managedAgents\":[{\"name\":\"Other\"}],", "", "", "Other"},
		{"", "\"managedAgents\":[{}],", "", "", "managedAgents[0]"},
		{"",
	         "\"managedAgents\":[{\"name\":\"ExecuteCommandAgent\"},"
	         "{\"name\":\"ExecuteCommandAgent\"}],",
	         "", "", "twice"},
		{"", "\"links\":[\"db\"],", "", "", "links names db, which is not in the task"},
		{"", "\"links\":[\"a:alias\"],", "", "", "links names itself"},
		{"", "\"links\":[\"db:\"],", "", "", "NAME:ALIAS"},
		{"", "\"links\":[\":x\"],", "", "", "NAME:ALIAS"},
		{"", "\"links\":[\"db:x:y\"],", "", "", "db:x:y"},
		{"", "\"links\":[\"db:x y\"],", "", "", "links[0]"},
		{"", "\"links\":[\"db\",\"web:db\"],", "", "", "alias db is taken already"},
		{"", "\"links\":[1],", "", "", "links[0]"},
		{"", "\"links\":\"db\",", "", "", "links"},
		{"\"networkMode\":\"host\",", "\"links\":[\"db\"],", "", "", "network mode bridge"},
		{"\"networkMode\":\"none\",", "\"links\":[\"db\"],", "", "", "the task's is none"},
		{"", "", "\\\"Links\\\":[\\\"db\\\"]", "", "links"},
		{"", "\"portMappings\":[{\"containerPortRange\":\"1-2\"}],", "", "",
	         "containerPortRange"},
		{"", "\"portMappings\":[{\"containerPort\":70000}],", "", "", "containerPort"},
		{"\"networkMode\":\"none\",", "\"portMappings\":[{\"containerPort\":80}],", "", "",
	         "networkMode is none"},
		{"\"networkMode\":\"host\",",
	         "\"portMappings\":[{\"containerPort\":80,\"hostPort\":80},"
	         "{\"containerPort\":81,\"hostPort\":82}],",
	         "", "", "portMappings[1]: hostPort is 82, it must be containerPort (81)"},
		{"", "\"portMappings\":[{\"containerPort\":1,\"protocol\":\"sctp\"}],", "", "",
	         "sctp"},
		{"", "\"dependsOn\":[{\"containerName\":\"a\",\"condition\":\"HEALTHY\"}],", "", "",
	         "which has no healthCheck"},
		{"", "\"dependsOn\":[{\"containerName\":\"a\",\"condition\":\"LUCKY\"}],", "", "",
	         "LUCKY"},
		{"", "\"dependsOn\":[{\"containerName\":\"ghost\",\"condition\":\"START\"}],", "",
	         "", "ghost"},
		{"", "\"mountPoints\":[{\"sourceVolume\":\"ghost\",\"containerPath\":\"/x\"}],", "",
	         "", "ghost"},
		{"\"volumes\":[{\"name\":\"v\",\"host\":{}}],",
	         "\"mountPoints\":[{\"sourceVolume\":\"v\",\"containerPath\":\"/x\"},"
	         "{\"sourceVolume\":\"v\",\"containerPath\":\"/x/\"}],",
	         "", "", "taken already"},
		{"", "\"volumesFrom\":[{\"sourceContainer\":\"ghost\"}],", "", "",
	         "sourceContainer \"ghost\""},
		{"", "\"volumesFrom\":[{\"sourceContainer\":\"a\"}],", "", "", "itself"},
		{"", "\"volumesFrom\":[{}],", "", "", "sourceContainer"},
		{"", "\"environment\":{\"a=b\":\"c\"},", "", "", "a=b"},
		{"", "\"environment\":{\"a\":1},", "", "", "environment"},
		{"", "\"command\":[1],", "", "", "command"},
		{"", "\"overrides\":\"{\\\"cpu\\\":1}\",", "", "", "cpu"},
		{"", "\"registryAuthentication\":{\"type\":\"asm\"},", "", "", "Secrets Manager"},
		{"", "", "\\\"PidMode\\\":\\\"host\\\"", "", "PidMode"},
		{"", "", "\\\"Frobnicate\\\":1", "", "Frobnicate"},
		{"", "", "\\\"NetworkMode\\\":\\\"host\\\"", "", "NetworkMode"},
		{"", "", "\\\"Privileged\\\":true", "", "ECS_DISABLE_PRIVILEGED"},
		{"", "", "\\\"SecurityOpt\\\":[\\\"systempaths=unconfined\\\"]", "",
	         "systempaths=unconfined is not allowed"},
		{"", "", "", "\\\"Healthcheck\\\":{\\\"Test\\\":[\\\"CMD\\\"]}",
	         "nothing after CMD"},
		{"", "", "", "\\\"Healthcheck\\\":{\\\"Test\\\":[\\\"SHELL\\\",\\\"x\\\"]}",
	         "SHELL"},
		{"", "", "", "\\\"Healthcheck\\\":{\\\"Test\\\":[\\\"CMD\\\",1]}", "Test[1]"},
		{"", "", "",
	         "\\\"Healthcheck\\\":{\\\"Test\\\":[\\\"CMD\\\",\\\"x\\\"],\\\"Interval\\\":-1}",
	         "Interval"},
		{"", "", "",
	         "\\\"Healthcheck\\\":{\\\"Test\\\":[\\\"CMD\\\",\\\"x\\\"],\\\"Timeout\\\":5}",
	         "Timeout is 5 ns"},
		{"", "", "",
	         "\\\"Healthcheck\\\":{\\\"Test\\\":[\\\"CMD\\\",\\\"x\\\"],\\\"Retries\\\":\\\"3\\\"}",
	         "Retries"},
		{"", "", "", "\\\"Healthcheck\\\":[]", "Healthcheck"},
		{"", "", "", "\\\"Tty\\\":\\\"yes\\\"", "Tty"},
		{"", "", "", "\\\"OpenStdin\\\":1", "OpenStdin"},
		{"", "", "", "\\\"WorkingDir\\\":\\\"rel\\\"", "workingDirectory"},
		{"", "", "", "\\\"User\\\":1", "User"},
		{"", "", "", "\\\"Image\\\":\\\"other\\\"", "other"},
	};
	static const struct task_policy policy = {.privileged_disabled = true};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_(task_freep) struct task *task = NULL;
		struct err err = {0};
		char text[2000];
		int r;

		snprintf(text, sizeof(text),
		         "{\"arn\":\"" ARN "\",%s\"containers\":[{%s\"name\":\"a\",\"image\":\"b\","
		         "\"dockerConfig\":{\"hostConfig\":\"{%s}\",\"config\":\"{%s}\"}}]}",
		         cases[i].task, cases[i].container, cases[i].host_config, cases[i].config);
		r = try_task(text, &policy, &task, &err);
		if (r >= 0 || !strstr(err.text, cases[i].word))
			fail_msg("row %zu: %d, \"%s\" should name %s", i, r, err.text,
			         cases[i].word);
	}
}

static void test_a_role_needs_the_setting_of_its_network_mode(void **state)
{
	static const struct {
		struct task_policy policy;
		const char *members, *word; /* NULL: accepted */
	} cases[] = {
		{{.task_roles_are_off = true},
	         "\"roleCredentials\":",
	         "(ECS_ENABLE_TASK_IAM_ROLE)"},
		{{.task_roles_are_off = true}, "\"executionRoleCredentials\":", NULL},
		{{.host_task_roles_are_off = true}, "\"roleCredentials\":", NULL},
		{{.host_task_roles_are_off = true},
	         "\"networkMode\":\"host\",\"roleCredentials\":",
	         "(ECS_ENABLE_TASK_IAM_ROLE_NETWORK_HOST)"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_(task_freep) struct task *task = NULL;
		struct err err = {0};
		char text[512];
		int r;

		snprintf(text, sizeof(text),
		         "{\"arn\":\"" ARN "\",%s{\"credentialsId\":\"c\"},"
		         "\"containers\":[{\"name\":\"a\",\"image\":\"b\"}]}",
		         cases[i].members);
		r = try_task(text, &cases[i].policy, &task, &err);
		if (r != (cases[i].word ? -EPERM : 0) ||
		    (cases[i].word && !strstr(err.text, cases[i].word)))
			fail_msg("row %zu: %d, %s", i, r, err.text);
	}
}

/* ECS Exec: what cannot be had of it costs it, not the container. */
static void test_a_managed_agent_has_a_session_limit_or_a_reason_not_to_be(void **state)
{
	static const struct {
		const char *properties;
		unsigned int limit;
		const char *refused;
	} cases[] = {
		{"", 0, NULL},
		{",\"properties\":{}", 0, NULL},
		{",\"properties\":{\"sessionLimit\":\"5\"}", 5, NULL},
		{",\"properties\":{\"sessionLimit\":\"0\"}", 0, "sessionLimit is \"0\""},
		{",\"properties\":{\"sessionLimit\":\"many\"}", 0, "sessionLimit is \"many\""},
		{",\"properties\":{\"colour\":\"red\"}", 0, "colour is \"red\""},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_(task_freep) struct task *task = NULL;
		static const struct task_policy policy = {0};
		struct managed_agent *agent;
		char text[512];

		snprintf(text, sizeof(text),
		         "{\"arn\":\"" ARN "\",\"containers\":[{\"name\":\"a\",\"image\":\"b\","
		         "\"managedAgents\":[{\"name\":\"ExecuteCommandAgent\"%s}]}]}",
		         cases[i].properties);
		assert_int_equal(try_task(text, &policy, &task, NULL), 0);
		agent = &task->containers[0].managed_agent;
		assert_true(agent->wanted);
		assert_int_equal(agent->session_limit, cases[i].limit);
		assert_int_equal(managed_agent_begin(agent), cases[i].refused != NULL);
		if (!cases[i].refused) {
			assert_int_equal(agent->status, MANAGED_AGENT_NONE);
			continue;
		}
		assert_int_equal(agent->status, MANAGED_AGENT_STOPPED);
		if (!strstr(agent->reason, cases[i].refused))
			fail_msg("row %zu: %s", i, agent->reason);
	}
}

/* What ECS was told is in the store, so that it is told once. */
static void test_a_managed_agent_comes_back_from_the_store(void **state)
{
	struct managed_agent agent = {.wanted = true}, back = {.wanted = true};
	_cleanup_free_ char *text = NULL;

	(void)state;
	assert_int_equal(managed_agent_to_text(&agent, &text), 0);
	assert_null(text);
	assert_int_equal(managed_agent_set(&agent, MANAGED_AGENT_RUNNING, "started"), 1);
	managed_agent_mark_sent(&agent);
	assert_int_equal(managed_agent_set(&agent, MANAGED_AGENT_RUNNING, "started"), 0);
	assert_false(agent.unsent);
	assert_int_equal(managed_agent_set(&agent, MANAGED_AGENT_STOPPED, "ended"), 1);
	assert_int_equal(managed_agent_end(&agent), 0); /* the reason stays */
	assert_int_equal(managed_agent_to_text(&agent, &text), 0);
	assert_int_equal(managed_agent_from_text(text, &back), 0);
	assert_true(back.status == MANAGED_AGENT_STOPPED && back.sent == MANAGED_AGENT_RUNNING &&
	            back.unsent);
	assert_string_equal(back.reason, "ended");
	managed_agent_mark_sent(&back);
	free(text);
	assert_int_equal(managed_agent_to_text(&back, &text), 0);
	managed_agent_done(&agent);
	agent.wanted = true;
	assert_int_equal(managed_agent_from_text(text, &agent), 0);
	assert_true(agent.sent == MANAGED_AGENT_STOPPED && !agent.unsent);
	assert_int_equal(managed_agent_from_text("{", &agent), -EBADMSG);
	managed_agent_done(&agent);
	managed_agent_done(&back);
}

static void test_hostile_names_and_shapes_are_refused(void **state)
{
	static const char *const bad[] = {
		"{}",
		"{\"arn\":\"x\",\"containers\":[]}",
		"{\"arn\":\"arn:aws:ecs:x:1:task/..\",\"containers\":[{\"name\":\"a\",\"image\":\"b\"}]}",
		"{\"arn\":\"arn:aws:ecs:x:1:task/a.b\",\"containers\":[{\"name\":\"a\",\"image\":\"b\"}]}",
		"{\"arn\":\"" ARN "\"}",
		"{\"arn\":\"" ARN "\",\"containers\":[]}",
		"{\"arn\":\"" ARN "\",\"containers\":[null]}",
		"{\"arn\":\"" ARN "\",\"containers\":[{\"name\":\"../x\",\"image\":\"b\"}]}",
		"{\"arn\":\"" ARN "\",\"containers\":[{\"name\":\"a\",\"image\":\"\"}]}",
		"{\"arn\":\"" ARN
		"\",\"containers\":[{\"name\":\"a\",\"image\":\"b\"},{\"name\":\"a\",\"image\":\"b\"}]}",
		"{\"arn\":\"" ARN
		"\",\"desiredStatus\":\"MAYBE\",\"containers\":[{\"name\":\"a\",\"image\":\"b\"}]}",
		"{\"arn\":\"" ARN
		"\",\"containers\":[{\"name\":\"a\",\"image\":\"b\",\"dockerConfig\":{\"config\":\"{\"}}]}",
		"{\"arn\":\"" ARN
		"\",\"roleCredentials\":{\"credentialsId\":\"a/b\"},\"containers\":[{\"name\":\"a\",\"image\":\"b\"}]}",
		"{\"arn\":\"" ARN
		"\",\"roleCredentials\":{},\"containers\":[{\"name\":\"a\",\"image\":\"b\"}]}",
	};
	static const struct task_policy policy = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		_cleanup_(task_freep) struct task *task = NULL;
		struct err err = {0};
		int r = try_task(bad[i], &policy, &task, &err);

		if (r >= 0 || !err.text[0])
			fail_msg("row %zu was taken: %s", i, bad[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_task_keeps_everything_but_its_credentials),
		cmocka_unit_test(test_a_task_to_stop_needs_its_arn_only),
		cmocka_unit_test(test_what_cannot_be_honoured_is_refused_by_name),
		cmocka_unit_test(test_a_role_needs_the_setting_of_its_network_mode),
		cmocka_unit_test(test_a_managed_agent_has_a_session_limit_or_a_reason_not_to_be),
		cmocka_unit_test(test_a_managed_agent_comes_back_from_the_store),
		cmocka_unit_test(test_hostile_names_and_shapes_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
