/*
 * Every member of Docker's container Config and HostConfig (Engine API 1.44), one row or more for
 * each: found in what ecs-task is asked for, without effect as in Docker, or refused by name.
 */
#include "tests/unit/cmocka_prelude.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/engine/spec.h"
#include "agent/engine/task_parse.h"
#include "lib/json.h"

static const struct row {
	const char *members;
	const char *found;   /* in the "create" message; "": it is the same as without */
	const char *refused; /* or: in the error */
} config_rows[] = {
	{"\"Hostname\":\"web\"", "\"hostname\":\"web\"", NULL},
	{"\"Domainname\":\"example.com\"", "\"domainname\":\"example.com\"", NULL},
	{"\"User\":\"app:web\"", "\"user\":\"app:web\"", NULL},
	{"\"AttachStdin\":true", "", NULL},
	{"\"AttachStdout\":true", "", NULL},
	{"\"AttachStderr\":true", "", NULL},
	{"\"ExposedPorts\":{\"80/tcp\":{}}", "", NULL}, /* for links to it */
	{"\"ExposedPorts\":{\"80-90/tcp\":{}}", NULL, "ExposedPorts has \"80-90/tcp\", it must be"},
	{"\"Tty\":true", "\"terminal\":true", NULL},
	{"\"OpenStdin\":true", "\"interactive\":true", NULL},
	{"\"StdinOnce\":true", "", NULL},
	{"\"Env\":[\"A=secret\"]", NULL, "Env (a list) is not supported"},
	{"\"Cmd\":[\"x\"]", NULL, "it takes the container's command"},
	{"\"Entrypoint\":[\"x\"]", NULL, "it takes the container's entryPoint"},
	{"\"Healthcheck\":{\"Test\":[\"CMD-SHELL\",\"true\"]}",
         "\"args\":[\"/bin/sh\",\"-c\",\"true\"]", NULL},
	{"\"Healthcheck\":{\"Test\":[\"CMD\",\"x\"],\"StartInterval\":2000000000}",
         "\"startIntervalUsec\":2000000", NULL},
	{"\"Healthcheck\":{\"Test\":[\"CMD\",\"x\"],\"Jitter\":5}", NULL, "Healthcheck: Jitter"},
	{"\"Healthcheck\":{\"Test\":[],\"Interval\":2000000000}", NULL,
         "Interval without Test: a command is needed"},
	{"\"Healthcheck\":{\"Test\":[],\"Retries\":0}", "", NULL},
	{"\"Healthcheck\":{\"Test\":[\"CMD-SHELL\",\"echo $0\",\"b c\"]}",
         "\"args\":[\"/bin/sh\",\"-c\",\"echo $0\",\"b c\"]", NULL},
	{"\"Shell\":[\"/bin/ash\",\"-ec\"],\"Healthcheck\":{\"Test\":[\"CMD-SHELL\",\"true\"]}",
         "\"args\":[\"/bin/ash\",\"-ec\",\"true\"]", NULL},
	{"\"ArgsEscaped\":true", "", NULL},
	{"\"Image\":\"b\"", "", NULL},
	{"\"Image\":\"c\"", NULL, "it must be the container's image"},
	{"\"Volumes\":{\"/v\":{}}", "\"destination\":\"/v\",\"type\":\"volume\"", NULL},
	{"\"Volumes\":{\"v\":{}}", NULL, "VOLUME \"v\" of the container must be absolute"},
	{"\"WorkingDir\":\"/srv\"", "\"cwd\":\"/srv\"", NULL},
	{"\"WorkingDir\":\"srv\"", NULL, "it must be an absolute path"},
	{"\"NetworkDisabled\":true", "\"networkDisabled\":true", NULL},
	{"\"MacAddress\":\"02:42:ac:11:00:02\"", NULL, "MacAddress (\"02:42:ac:11:00:02\")"},
	{"\"OnBuild\":[\"RUN x\"]", "", NULL},
	{"\"Labels\":{\"a\":\"b\"}", "", NULL}, /* in the metadata alone */
	{"\"StopSignal\":\"SIGUSR1\"", "\"stopSignal\":\"SIGUSR1\"", NULL},
	{"\"StopTimeout\":7", "", NULL}, /* the grace of "stop"; see below */
	{"\"StopTimeout\":-1", NULL, "StopTimeout"},
	{"\"Frobnicate\":1", NULL, "Frobnicate is no member that this agent knows"},
	{"\"Tty\":true,\"tty\":false", NULL, "Tty and tty are the same member"},
};

static const struct row host_config_rows[] = {
	{"\"CpuShares\":300", "\"shares\":300", NULL},
	{"\"CpuShares\":1", "", NULL}, /* raised to 2 */
	{"\"CpuShares\":-1", NULL, "CpuShares"},
	{"\"CpuPeriod\":50000,\"CpuQuota\":25000", "\"quota\":25000,\"period\":50000", NULL},
	{"\"CpuPeriod\":999", NULL, "CpuPeriod is 999, it must be 1000 to 1000000"},
	{"\"CpuPeriod\":1000001", NULL, "CpuPeriod"},
	{"\"CpuQuota\":-1", "", NULL},
	{"\"CpuQuota\":999", NULL, "CpuQuota is 999, it must be 1000 or more"},
	{"\"NanoCpus\":250000000", "\"quota\":25000,\"period\":100000", NULL},
	{"\"NanoCpus\":1", NULL, "NanoCpus is 1, it must be 10000000"},
	{"\"NanoCpus\":9000000000000", NULL, "NanoCpus is 9000000000000"},
	{"\"NanoCpus\":250000000,\"CpuQuota\":5000", NULL, "NanoCpus and CpuQuota"},
	{"\"NanoCpus\":250000000,\"CpuPeriod\":5000", NULL, "NanoCpus and CpuPeriod"},
	{"\"CpuRealtimePeriod\":1000", NULL, "CpuRealtimePeriod (1000)"},
	{"\"CpuRealtimeRuntime\":1000", NULL, "CpuRealtimeRuntime (1000)"},
	{"\"CpusetCpus\":\"0\"", NULL, "CpusetCpus (\"0\")"},
	{"\"CpusetMems\":\"0\"", NULL, "CpusetMems (\"0\")"},
	{"\"CpuCount\":1", NULL, "CpuCount (1)"},
	{"\"CpuPercent\":1", NULL, "CpuPercent (1)"},
	{"\"IOMaximumIOps\":1", NULL, "IOMaximumIOps (1)"},
	{"\"IOMaximumBandwidth\":1", NULL, "IOMaximumBandwidth (1)"},
	{"\"BlkioWeight\":500", "\"blockIO\":{\"weight\":500}", NULL},
	{"\"BlkioWeight\":9", NULL, "BlkioWeight is 9, it must be 10 to 1000"},
	{"\"BlkioWeight\":1001", NULL, "BlkioWeight"},
	{"\"BlkioWeightDevice\":[{\"Path\":\"/dev/sda\",\"Weight\":100}]", NULL,
         "BlkioWeightDevice"},
	{"\"BlkioDeviceReadBps\":[{\"Path\":\"/dev/sda\",\"Rate\":1}]", NULL, "BlkioDeviceReadBps"},
	{"\"BlkioDeviceWriteBps\":[{\"Path\":\"/dev/sda\",\"Rate\":1}]", NULL,
         "BlkioDeviceWriteBps"},
	{"\"BlkioDeviceReadIOps\":[{\"Path\":\"/dev/sda\",\"Rate\":1}]", NULL,
         "BlkioDeviceReadIOps"},
	{"\"BlkioDeviceWriteIOps\":[{\"Path\":\"/dev/sda\",\"Rate\":1}]", NULL,
         "BlkioDeviceWriteIOps"},

	{"\"Memory\":67108864", "\"limit\":67108864,\"swap\":134217728", NULL},
	{"\"Memory\":1", "\"limit\":4194304,", NULL},
	{"\"Memory\":-1", NULL, "Memory"},
	{"\"Memory\":1.5", NULL, "Memory is 1.5, it must be an integer"},
	{"\"Memory\":67108864,\"memory\":1", NULL, "Memory and memory are the same member"},
	{"\"MemoryReservation\":33554432", "\"reservation\":33554432", NULL},
	{"\"Memory\":8388608,\"MemoryReservation\":8388609", NULL,
         "memoryReservation 8388609 is above the memory limit 8388608"},
	{"\"Memory\":8388608,\"MemorySwap\":8388608", "\"swap\":8388608", NULL},
	{"\"Memory\":8388608,\"MemorySwap\":-1", "\"swap\":-1", NULL},
	{"\"Memory\":8388608,\"MemorySwap\":8388607", NULL, "is below the memory limit 8388608"},
	{"\"MemorySwap\":8388608", NULL, "needs a memory limit"},
	{"\"MemorySwappiness\":0", "\"swappiness\":0", NULL},
	{"\"MemorySwappiness\":-1", "", NULL},
	{"\"MemorySwappiness\":101", NULL, "MemorySwappiness"},
	{"\"KernelMemory\":1", NULL, "KernelMemory (1)"},
	{"\"KernelMemoryTCP\":1", NULL, "KernelMemoryTCP (1)"},
	{"\"OomKillDisable\":true", NULL, "OomKillDisable (true)"},
	{"\"OomKillDisable\":false", "", NULL},
	{"\"OomScoreAdj\":-500", "\"oomScoreAdj\":-500", NULL},
	{"\"OomScoreAdj\":1001", NULL, "OomScoreAdj"},
	{"\"PidsLimit\":33", "\"pids\":{\"limit\":33}", NULL},
	{"\"PidsLimit\":-1", "", NULL},
	{"\"PidsLimit\":-2", NULL, "PidsLimit"},
	{"\"Ulimits\":[{\"Name\":\"nofile\",\"Soft\":10,\"Hard\":-1}]",
         "{\"type\":\"RLIMIT_NOFILE\",\"soft\":10,\"hard\":18446744073709551615}", NULL},
	{"\"Ulimits\":[{\"Name\":\"files\",\"Soft\":1,\"Hard\":1}]", NULL,
         "unknown ulimit \"files\""},
	{"\"Ulimits\":[{\"Name\":\"core\",\"Soft\":2,\"Hard\":1}]", NULL, "above the hard limit"},
	{"\"Ulimits\":[{\"Name\":\"core\",\"Soft\":-1,\"Hard\":1}]", NULL, "above the hard limit"},
	{"\"Ulimits\":[{\"Name\":\"core\",\"Soft\":1,\"Hard\":1,\"Max\":2}]", NULL,
         "Ulimits[0]: Max"},
	{"\"Ulimits\":[{\"Name\":\"core\",\"Soft\":1}]", NULL, "Hard"},

	{"\"Devices\":[{\"PathOnHost\":\"/dev/kmsg\",\"PathInContainer\":\"/dev/"
         "log\",\"CgroupPermissions\":\"r\"}]",
         "\"hostDevices\":[{\"hostPath\":\"/dev/kmsg\",\"path\":\"/dev/log\",\"access\":\"r\"}]",
         NULL},
	{"\"Devices\":[{\"pathonhost\":\"/dev/snd\"}]",
         "{\"hostPath\":\"/dev/snd\",\"path\":\"/dev/snd\",\"access\":\"rwm\"}", NULL},
	{"\"Devices\":[{\"PathOnHost\":\"/dev/kmsg\",\"CgroupPermissions\":\"x\"}]", NULL,
         "permissions of /dev/kmsg are \"x\""},
	{"\"Devices\":[{\"PathOnHost\":\"kmsg\"}]", NULL, "path \"kmsg\" must be absolute"},
	{"\"Devices\":[{\"PathOnHost\":\"/dev/kmsg\",\"Mode\":1}]", NULL, "Devices[0]: Mode"},
	{"\"Devices\":[{}]", NULL, "PathOnHost"},
	{"\"DeviceCgroupRules\":[\"c 42:* rm\",\"a *:* rwm\",\"b 8:1 w\"]",
         "{\"allow\":true,\"type\":\"c\",\"major\":42,\"minor\":-1,\"access\":\"rm\"},"
         "{\"allow\":true,\"type\":\"a\",\"major\":-1,\"minor\":-1,\"access\":\"rwm\"},"
         "{\"allow\":true,\"type\":\"b\",\"major\":8,\"minor\":1,\"access\":\"w\"}",
         NULL},
	{"\"DeviceCgroupRules\":[\"\"]", NULL, "DeviceCgroupRules has \"\""},
	{"\"DeviceCgroupRules\":[\"c\"]", NULL, "DeviceCgroupRules has \"c\""},
	{"\"DeviceCgroupRules\":[\"c 42:1\"]", NULL, "DeviceCgroupRules has \"c 42:1\""},
	{"\"DeviceCgroupRules\":[\"c 42:1 rwx\"]", NULL, "DeviceCgroupRules"},
	{"\"DeviceCgroupRules\":[\"c :1 r\"]", NULL, "DeviceCgroupRules"},
	{"\"DeviceCgroupRules\":[\"c 99999999999999999999:1 r\"]", NULL, "DeviceCgroupRules"},
	{"\"DeviceCgroupRules\":[\"p 1:1 r\"]", NULL, "DeviceCgroupRules"},
	{"\"DeviceRequests\":[{\"Driver\":\"nvidia\"}]", NULL, "DeviceRequests (a list)"},
	{"\"Privileged\":true", "\"privileged\":true", NULL},
	{"\"Runtime\":\"runsc\"", NULL, "Runtime (\"runsc\")"},
	{"\"Isolation\":\"default\"", "", NULL},
	{"\"Isolation\":\"hyperv\"", NULL, "Isolation (\"hyperv\")"},
	{"\"CapAdd\":[\"NET_ADMIN\"]", "\"CAP_NET_ADMIN\"", NULL},
	{"\"CapAdd\":\"NET_ADMIN\"", NULL, "CapAdd is a string, it must be a list of strings"},
	{"\"CapDrop\":[\"ALL\"]", "\"bounding\":[]", NULL},
	{"\"SecurityOpt\":[\"no-new-privileges\"]", "\"noNewPrivileges\":true", NULL},
	{"\"SecurityOpt\":{}", NULL, "SecurityOpt is an object"},
	{"\"ReadonlyRootfs\":true", "\"readonly\":true", NULL},
	{"\"MaskedPaths\":[]", NULL, "MaskedPaths (a list) is not supported"},
	{"\"ReadonlyPaths\":[]", NULL, "ReadonlyPaths (a list) is not supported"},
	{"\"Init\":true", "\"init\":true", NULL},
	{"\"ConsoleSize\":[24,80]", "\"consoleSize\":{\"height\":24,\"width\":80}", NULL},
	{"\"ConsoleSize\":[0,0]", "", NULL},
	{"\"ConsoleSize\":[24]", NULL, "ConsoleSize must be two numbers"},
	{"\"ConsoleSize\":[24,70000]", NULL, "ConsoleSize must be two numbers"},

	{"\"Binds\":[\"/a:/b\"]", NULL, "Binds (a list) is not supported by this agent; it takes"},
	{"\"Mounts\":[{\"Type\":\"bind\"}]", NULL, "Mounts (a list)"},
	{"\"Tmpfs\":{\"/t\":\"size=8m,exec\"}",
         "\"options\":[\"noexec\",\"nosuid\",\"nodev\",\"size=8m\",\"exec\"]", NULL},
	{"\"Tmpfs\":{\"t\":\"\"}", NULL, "tmpfs: path \"t\" must be absolute"},
	{"\"Tmpfs\":[\"/t\"]", NULL, "Tmpfs is a list, it must be an object"},
	{"\"Tmpfs\":{\"/t\":8}", NULL, "Tmpfs is an object, it must be an object of strings"},
	{"\"ShmSize\":8388608", "\"size=8388608\"", NULL},
	{"\"ShmSize\":0", "", NULL},
	{"\"ShmSize\":-1", NULL, "ShmSize"},
	{"\"VolumesFrom\":[\"x\"]", NULL, "it takes the container's volumesFrom"},
	{"\"VolumeDriver\":\"local\"", "", NULL},
	{"\"VolumeDriver\":\"rexray\"", NULL, "VolumeDriver (\"rexray\")"},
	{"\"StorageOpt\":{\"size\":\"1G\"}", NULL, "StorageOpt (an object)"},
	{"\"ContainerIDFile\":\"/x\"", NULL, "ContainerIDFile (\"/x\")"},
	{"\"LogConfig\":{\"Type\":\"json-file\",\"Config\":{\"max-size\":\"1m\"}}",
         "\"max-size\":\"1m\"", NULL},
	{"\"LogConfig\":{\"Type\":7}", NULL, "LogConfig: "},
	{"\"LogConfig\":{\"Type\":\"\"}", "", NULL},
	{"\"LogConfig\":{\"Config\":[\"x\"]}", NULL, "log options must be an object of strings"},
	{"\"LogConfig\":{\"Type\":\"json-file\",\"Level\":\"x\"}", NULL, "LogConfig: Level"},

	{"\"NetworkMode\":\"bridge\"", "", NULL},
	{"\"NetworkMode\":\"container:x\"", NULL, "NetworkMode is \"container:x\""},
	{"\"PortBindings\":{\"80/tcp\":[]}", NULL, "it takes portMappings"},
	{"\"PublishAllPorts\":true", NULL, "PublishAllPorts (true)"},
	{"\"Links\":[\"db\"]", NULL, "it takes the container's links"},
	{"\"Dns\":[\"10.0.0.2\"]", "\"servers\":[\"10.0.0.2\"]", NULL},
	{"\"DnsSearch\":[\"a.example\"]", "\"search\":[\"a.example\"]", NULL},
	{"\"DnsOptions\":[\"ndots:2\"]", "\"options\":[\"ndots:2\"]", NULL},
	{"\"Dns\":\"10.0.0.2\"", NULL, "Dns is a string, it must be a list of strings"},
	{"\"Dns\":[7]", NULL, "Dns is a list, it must be a list of strings"},
	{"\"ExtraHosts\":[\"db:10.0.0.9\"]", "\"extraHosts\":[\"db:10.0.0.9\"]", NULL},
	{"\"Sysctls\":{\"net.core.somaxconn\":\"7\"}", "\"sysctl\":{\"net.core.somaxconn\":\"7\"}",
         NULL},
	{"\"Sysctls\":{\"net.core.somaxconn\":7}", NULL, "it must be an object of strings"},
	{"\"Sysctls\":[\"x\"]", NULL, "Sysctls is a list"},
	{"\"GroupAdd\":[\"audio\"]", NULL, "GroupAdd (a list)"},

	{"\"PidMode\":\"host\"", NULL, "PidMode"},
	{"\"IpcMode\":\"host\"", "\"ipcMode\":\"host\"", NULL},
	{"\"IpcMode\":\"other\"", NULL, "IpcMode"},
	{"\"UTSMode\":\"host\"", NULL, "UTSMode"},
	{"\"UsernsMode\":\"host\"", "\"userns\":\"host\"", NULL},
	{"\"UsernsMode\":\"nope\"", NULL, "UsernsMode"},
	{"\"CgroupnsMode\":\"private\"", "", NULL},
	{"\"CgroupnsMode\":\"host\"", NULL, "CgroupnsMode"},
	{"\"Cgroup\":\"x\"", NULL, "Cgroup (\"x\")"},
	{"\"CgroupParent\":\"/x\"", NULL, "CgroupParent (\"/x\")"},
	{"\"RestartPolicy\":{\"Name\":\"no\",\"MaximumRetryCount\":0}", "", NULL},
	{"\"RestartPolicy\":{\"Name\":\"always\"}", NULL, "it takes the container's restartPolicy"},
	{"\"RestartPolicy\":{\"MaximumRetryCount\":3}", NULL, "RestartPolicy (an object)"},
	{"\"AutoRemove\":true", NULL, "AutoRemove (true)"},
	{"\"Annotations\":{\"a\":\"b\"}", NULL, "Annotations (an object)"},
	{"\"Frobnicate\":\"x\"", NULL, "Frobnicate is no member that this agent knows"},
	{"\"Frobnicate\":[]", "", NULL},
};

/* All that the API documents. */
static const char *const config_names[] = {
	"Hostname",     "Domainname",   "User",        "AttachStdin",     "AttachStdout",
	"AttachStderr", "ExposedPorts", "Tty",         "OpenStdin",       "StdinOnce",
	"Env",          "Cmd",          "Healthcheck", "ArgsEscaped",     "Image",
	"Volumes",      "WorkingDir",   "Entrypoint",  "NetworkDisabled", "MacAddress",
	"OnBuild",      "Labels",       "StopSignal",  "StopTimeout",     "Shell",
};
static const char *const host_config_names[] = {
	"CpuShares",
	"Memory",
	"CgroupParent",
	"BlkioWeight",
	"BlkioWeightDevice",
	"BlkioDeviceReadBps",
	"BlkioDeviceWriteBps",
	"BlkioDeviceReadIOps",
	"BlkioDeviceWriteIOps",
	"CpuPeriod",
	"CpuQuota",
	"CpuRealtimePeriod",
	"CpuRealtimeRuntime",
	"CpusetCpus",
	"CpusetMems",
	"Devices",
	"DeviceCgroupRules",
	"DeviceRequests",
	"KernelMemory",
	"KernelMemoryTCP",
	"MemoryReservation",
	"MemorySwap",
	"MemorySwappiness",
	"NanoCpus",
	"OomKillDisable",
	"Init",
	"PidsLimit",
	"Ulimits",
	"CpuCount",
	"CpuPercent",
	"IOMaximumIOps",
	"IOMaximumBandwidth",
	"Binds",
	"ContainerIDFile",
	"LogConfig",
	"NetworkMode",
	"PortBindings",
	"RestartPolicy",
	"AutoRemove",
	"VolumeDriver",
	"VolumesFrom",
	"Mounts",
	"ConsoleSize",
	"Annotations",
	"CapAdd",
	"CapDrop",
	"CgroupnsMode",
	"Dns",
	"DnsOptions",
	"DnsSearch",
	"ExtraHosts",
	"GroupAdd",
	"IpcMode",
	"Cgroup",
	"Links",
	"OomScoreAdj",
	"PidMode",
	"Privileged",
	"PublishAllPorts",
	"ReadonlyRootfs",
	"SecurityOpt",
	"StorageOpt",
	"Tmpfs",
	"UTSMode",
	"UsernsMode",
	"ShmSize",
	"Sysctls",
	"Runtime",
	"Isolation",
	"MaskedPaths",
	"ReadonlyPaths",
};

/* The "create" message of a container whose document has these members; or an error. */
static int create_message(const char *document, const char *members, char **ret, struct err *err)
{
	static const struct task_policy policy = {0};
	static const struct spec_options options = {.cluster = "blue", .region = "us-west-2"};
	_cleanup_json_ struct json_object *obj = json_object_new_object(), *message = NULL;
	_cleanup_(task_freep) struct task *task = NULL;
	struct json_object *containers = json_object_new_array(),
			   *container = json_object_new_object(),
			   *docker = json_object_new_object();
	char text[1000];
	int r;

	snprintf(text, sizeof(text), "{%s}", members);
	assert_int_equal(json_add_string(obj, "arn", "arn:aws:ecs:x:1:task/0123456789abcdef"), 0);
	assert_int_equal(json_add(obj, "containers", containers), 0);
	assert_int_equal(json_append(containers, container), 0);
	assert_int_equal(json_add_string(container, "name", "a"), 0);
	assert_int_equal(json_add_string(container, "image", "b"), 0);
	assert_int_equal(json_add(container, "dockerConfig", docker), 0);
	assert_int_equal(json_add_string(docker, document, text), 0);

	r = task_parse(obj, &policy, &task, err);
	if (r < 0)
		return r;
	memset(task->containers[0].runtime_id, '7', 64);
	assert_int_equal(json_parse_object("{\"Cmd\":[\"x\"]}", 13, 100,
	                                   &task->containers[0].image_config, NULL),
	                 0);
	task->containers[0].layers = json_object_new_array();
	r = spec_container(task, &task->containers[0], &options, &message, err);
	if (r < 0)
		return r;
	*ret = strdup(json_to_text(message, NULL));
	assert_non_null(*ret);
	return 0;
}

static void check_row(const char *document, const struct row *row, const char *members)
{
	_cleanup_free_ char *text = NULL, *plain = NULL;
	struct err err = {0};
	int r = create_message(document, members, &text, &err);

	if (row->refused) {
		if (r >= 0 || !strcasestr(err.text, row->refused))
			fail_msg("%s: \"%s\" should say %s", members, r < 0 ? err.text : text,
			         row->refused);
		assert_null(strstr(err.text, "secret"));
		return;
	}
	if (r < 0)
		fail_msg("%s: %s", members, err.text);
	assert_int_equal(create_message(document, "", &plain, &err), 0);
	if (*row->found && (!strstr(text, row->found) || strstr(plain, row->found)))
		fail_msg("%s: %s should have %s", members, text, row->found);
	if (!*row->found)
		assert_string_equal(text, plain);
}

/* The same member with its first letter in the other case: ACS and Docker do not mind. */
static void check_other_case(const char *document, const struct row *row)
{
	_cleanup_free_ char *members = strdup(row->members);

	assert_non_null(members);
	members[1] = (char)tolower((unsigned char)members[1]);
	if (!row->refused || !strstr(row->refused, "same member"))
		check_row(document, row, members);
}

/* null is nothing; and no member of any kind is a list of an object and a number. */
static void check_type(const char *document, const char *name)
{
	_cleanup_free_ char *text = NULL, *plain = NULL;
	struct err err = {0};
	char members[100];

	snprintf(members, sizeof(members), "\"%s\":null", name);
	if (create_message(document, members, &text, &err) < 0)
		fail_msg("%s: %s", members, err.text);
	assert_int_equal(create_message(document, "", &plain, &err), 0);
	assert_string_equal(text, plain);

	snprintf(members, sizeof(members), "\"%s\":[{\"x\":1},7]", name);
	free(text);
	text = NULL;
	if (create_message(document, members, &text, &err) >= 0)
		fail_msg("%s is taken: %s", members, text);
	if (!strstr(err.text, name) || !strstr(err.text, "it must be"))
		fail_msg("%s: %s", members, err.text);
}

static void check_all(const char *document, const struct row *rows, size_t n_rows,
                      const char *const *names, size_t n_names)
{
	for (size_t i = 0; i < n_rows; i++) {
		check_row(document, &rows[i], rows[i].members);
		check_other_case(document, &rows[i]);
	}
	for (size_t i = 0; i < n_names; i++) {
		char quoted[50];
		bool found = false;

		snprintf(quoted, sizeof(quoted), "\"%s\":", names[i]);
		for (size_t k = 0; k < n_rows; k++)
			found |= strncmp(rows[k].members, quoted, strlen(quoted)) == 0;
		if (!found)
			fail_msg("no row for %s", names[i]);
		check_type(document, names[i]);
	}
}

static void test_every_member_of_the_config_is_honoured_or_refused(void **state)
{
	(void)state;
	check_all("config", config_rows, ARRAY_SIZE(config_rows), config_names,
	          ARRAY_SIZE(config_names));
}

static void test_every_member_of_the_host_config_is_honoured_or_refused(void **state)
{
	(void)state;
	check_all("hostConfig", host_config_rows, ARRAY_SIZE(host_config_rows), host_config_names,
	          ARRAY_SIZE(host_config_names));
}

static struct task *parse_task(const char *task_members, const char *members, const char *config,
                               const struct task_policy *policy, struct err *err)
{
	_cleanup_json_ struct json_object *obj = NULL;
	struct task *task = NULL;
	char text[2000];

	snprintf(text, sizeof(text),
	         "{\"arn\":\"arn:aws:ecs:x:1:task/0123456789abcdef\",%s\"containers\":[{%s"
	         "\"name\":\"a\",\"image\":\"b\",\"dockerConfig\":{%s}}]}",
	         task_members, members, config);
	if (json_parse_object(text, strlen(text), sizeof(text), &obj, err) < 0)
		fail_msg("%s in %s", err->text, text);
	return task_parse(obj, policy, &task, err) < 0 ? NULL : task;
}

static void test_docker_s_grace_is_for_a_container_that_has_none(void **state)
{
	static const struct {
		const char *members;
		uint64_t usec;
	} rows[] = {{"", 7000000}, {"\"stopTimeout\":3,", 3000000}};
	static const struct task_policy policy = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct err err = {0};
		_cleanup_(task_freep) struct task *task =
			parse_task("", rows[i].members, "\"config\":\"{\\\"StopTimeout\\\":7}\"",
		                   &policy, &err);

		assert_non_null(task);
		assert_true(task->containers[0].stop_timeout_usec == rows[i].usec);
	}
}

static void test_a_container_without_a_network(void **state)
{
	static const char config[] = "\"config\":\"{\\\"NetworkDisabled\\\":true}\"";
	static const struct {
		const char *task, *members, *refused; /* NULL: taken */
	} rows[] = {
		{"", "", NULL},
		{"\"networkMode\":\"none\",", "", NULL},
		{"\"networkMode\":\"host\",", "", "disableNetworking"},
		{"", "\"portMappings\":[{\"containerPort\":80}],", "portMappings need a network"},
	};
	static const struct task_policy policy = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct err err = {0};
		_cleanup_(task_freep) struct task *task =
			parse_task(rows[i].task, rows[i].members, config, &policy, &err);

		if (rows[i].refused)
			assert_non_null(strstr(err.text, rows[i].refused));
		else
			assert_int_equal(container_network_mode(task, &task->containers[0]),
			                 NETWORK_MODE_NONE);
	}
}

/* The lowest version of the API that a definition needs. */
static void test_versions_of_the_api(void **state)
{
	static const struct {
		const char *version, *refused; /* NULL: taken */
	} rows[] = {
		{"\"1.17\"", NULL},
		{"\"1.44\"", NULL},
		{"\"\"", NULL},
		{"null", NULL},
		{"\"1.45\"", "dockerConfig.version is \"1.45\", it must be 1.0 to 1.44"},
		{"\"2.0\"", "dockerConfig.version is \"2.0\""},
		{"\"1.\"", "dockerConfig.version"},
		{"1.25", "version"},
	};
	static const struct task_policy policy = {0};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct err err = {0};
		char member[40];
		_cleanup_(task_freep) struct task *task = NULL;

		snprintf(member, sizeof(member), "\"version\":%s", rows[i].version);
		task = parse_task("", "", member, &policy, &err);
		if (rows[i].refused ? !strstr(err.text, rows[i].refused) : !task)
			fail_msg("%s: %s", rows[i].version, err.text);
	}
}

/* Its container may be running: an agent that knows better now must still find its task. */
static void test_what_an_earlier_version_took_is_read_again(void **state)
{
	static const char config[] = "\"hostConfig\":\"{\\\"Tmpfs\\\":[1],\\\"Dns\\\":5}\"";
	static const struct task_policy was_accepted = {.was_accepted = true}, now = {0};
	struct err err = {0};
	_cleanup_(task_freep) struct task *stored = parse_task("", "", config, &was_accepted, &err);
	_cleanup_(task_freep) struct task *task = parse_task("", "", config, &now, &err);

	(void)state;
	assert_non_null(stored);
	assert_null(task);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_member_of_the_config_is_honoured_or_refused),
		cmocka_unit_test(test_every_member_of_the_host_config_is_honoured_or_refused),
		cmocka_unit_test(test_docker_s_grace_is_for_a_container_that_has_none),
		cmocka_unit_test(test_a_container_without_a_network),
		cmocka_unit_test(test_versions_of_the_api),
		cmocka_unit_test(test_what_an_earlier_version_took_is_read_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
