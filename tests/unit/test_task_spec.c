/* Requests of ecs-agent: what is taken, how it is read, and that nothing unknown passes. */
#include "agent/task/spec.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "agent/task/mount.h"
#include "lib/json.h"
#include "tests/unit/cmocka_prelude.h"

#define HEX64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

/* A container with these members of process, of config and of its own. */
static int parse_with(const char *process, const char *config, const char *own,
                      enum network_mode mode, struct container_spec **ret, struct err *err)
{
	_cleanup_json_ struct json_object *json = NULL;
	char text[8192];

	snprintf(text, sizeof(text),
	         "{\"name\":\"app\",\"id\":\"" HEX64 "\",\"layers\":[\"" HEX64 "\"],"
	         "\"config\":{\"process\":{\"args\":[\"/bin/x\"]%s}%s}%s}",
	         process, config, own);
	assert_int_equal(json_parse_object(text, strlen(text), 65536, &json, NULL), 0);
	return container_spec_parse(json, &(struct task_spec){.network_mode = mode}, ret, err);
}

static struct container_spec *good(const char *process, const char *config, const char *own)
{
	struct container_spec *spec = NULL;
	struct err err = {};
	int r = parse_with(process, config, own, NETWORK_BRIDGE, &spec, &err);

	if (r < 0)
		fail_msg("refused: %s", err.text);
	return spec;
}

static void test_defaults(void **state)
{
	_cleanup_(container_spec_freep) struct container_spec *spec = good("", "", "");

	(void)state;
	assert_string_equal(spec->cwd, "/");
	assert_string_equal(spec->user, "");
	assert_int_equal(spec->stop_signal, SIGTERM);
	assert_true(spec->seccomp);
	assert_false(spec->privileged || spec->init || spec->restart || spec->readonly_root);
	assert_true(spec->cap_bounding == 0 && spec->oom_score_adj == 0);
	assert_null(spec->log);
	assert_null(spec->hostname);
}

static void test_everything_that_is_given_is_read(void **state)
{
	_cleanup_(container_spec_freep) struct container_spec *spec = good(
		",\"env\":[\"A=b\"],\"cwd\":\"/w\",\"noNewPrivileges\":true,\"oomScoreAdj\":7,"
		"\"capabilities\":{\"bounding\":[\"CAP_CHOWN\",\"CAP_SYS_ADMIN\"],"
		"\"permitted\":[\"CAP_CHOWN\"],\"effective\":[]},"
		"\"rlimits\":[{\"type\":\"RLIMIT_NOFILE\",\"soft\":1,\"hard\":2},"
		"{\"type\":\"RLIMIT_CORE\",\"soft\":-1,\"hard\":18446744073709551615}]",
		",\"hostname\":\"" HEX64 "\",\"root\":{\"readonly\":true},"
		"\"mounts\":[{\"destination\":\"/a/b/c\",\"source\":\"/s\",\"options\":[\"rbind\",\"ro\"]},"
		"{\"destination\":\"/a\",\"type\":\"tmpfs\",\"options\":[\"size=1m\",\"nosuid\"]}],"
		"\"linux\":{\"sysctl\":{\"net.ipv4.conf.eth0/100.arp_filter\":\"1\"},"
		"\"devices\":[{\"path\":\"/dev/x\",\"type\":\"b\",\"major\":8,\"minor\":1,"
		"\"fileMode\":384}],\"maskedPaths\":[\"/proc/keys\"],\"resources\":{"
		"\"cpu\":{\"shares\":512,\"quota\":50000,\"period\":100000},"
		"\"memory\":{\"limit\":4194304,\"reservation\":1,\"swap\":-1},"
		"\"pids\":{\"limit\":-1}}}",
		",\"user\":\"app:web\",\"stopSignal\":\"sigusr1\",\"restart\":true,\"init\":true,"
		"\"log\":{\"driver\":\"awslogs\",\"mode\":\"non-blocking\",\"maxBytes\":1024}");

	(void)state;
	assert_string_equal(spec->env[0], "A=b");
	assert_string_equal(spec->hostname, HEX64);
	assert_string_equal(spec->cwd, "/w");
	assert_true(spec->no_new_privs && spec->readonly_root && spec->restart && spec->init);
	assert_int_equal(spec->oom_score_adj, 7);
	assert_true(spec->cap_bounding == ((1ull << CAP_CHOWN) | (1ull << CAP_SYS_ADMIN)));
	assert_true(spec->cap_permitted == 1ull << CAP_CHOWN && spec->cap_effective == 0);
	assert_int_equal(spec->n_rlimits, 2);
	assert_int_equal(spec->rlimits[0].limit.rlim_max, 2);
	assert_true(spec->rlimits[1].limit.rlim_cur == RLIM_INFINITY &&
	            spec->rlimits[1].limit.rlim_max == RLIM_INFINITY);

	/* The mount that the other lies in comes first. */
	assert_int_equal(spec->n_mounts, 2);
	assert_string_equal(spec->mounts[0].target, "/a");
	assert_int_equal(spec->mounts[0].type, MOUNT_TMPFS);
	assert_int_equal(spec->mounts[0].attr, MOUNT_ATTR_NOSUID);
	assert_string_equal(spec->mounts[0].options[0].key, "size");
	assert_string_equal(spec->mounts[0].options[0].value, "1m");
	assert_int_equal(spec->mounts[1].attr, MOUNT_ATTR_RDONLY);
	assert_true(spec->mounts[1].recursive);

	assert_string_equal(spec->sysctls[0].path, "net/ipv4/conf/eth0.100/arp_filter");
	assert_int_equal(spec->devices[0].mode, S_IFBLK | 0600);
	assert_true(spec->devices[0].rdev == makedev(8, 1));
	assert_int_equal(spec->n_device_rules, 1);
	assert_int_equal(spec->device_rules[0].type, 'b');
	assert_int_equal(spec->device_rules[0].major, 8);
	assert_string_equal(spec->masked_paths[0], "/proc/keys");
	assert_int_equal(spec->limits.cpu_shares, 512);
	assert_int_equal(spec->limits.cpu_quota_usec, 50000);
	assert_int_equal(spec->limits.memory_max_bytes, 4194304);
	assert_int_equal(spec->limits.memory_swap_bytes, -1);
	assert_int_equal(spec->limits.pids_max, 0);
	assert_string_equal(spec->user, "app");
	assert_string_equal(spec->group, "web");
	assert_int_equal(spec->stop_signal, SIGUSR1);
	assert_non_null(spec->log);
	assert_false(spec->log_blocking);
	assert_int_equal(spec->log_max_bytes, 1024);
}

static void test_a_swappiness_of_0_is_one(void **state)
{
	_cleanup_(container_spec_freep) struct container_spec *none = good("", "", "");
	_cleanup_(container_spec_freep) struct container_spec *zero = good(
		"",
		",\"linux\":{\"resources\":{\"memory\":{\"swappiness\":0},\"blockIO\":{\"weight\":500}}}",
		",\"swapIfCounted\":true");

	(void)state;
	assert_false(none->limits.has_memory_swappiness);
	assert_false(none->limits.memory_swap_if_counted);
	assert_int_equal(none->limits.io_weight, 0);
	assert_true(zero->limits.has_memory_swappiness);
	assert_true(zero->limits.memory_swap_if_counted);
	assert_int_equal(zero->limits.memory_swappiness, 0);
	assert_int_equal(zero->limits.io_weight, 500);
}

static void test_privileged_has_all_capabilities_and_no_masks(void **state)
{
	_cleanup_(container_spec_freep) struct container_spec *spec = good(
		"",
		",\"linux\":{\"maskedPaths\":[\"/proc/keys\"],\"readonlyPaths\":[\"/proc/sys\"]}",
		",\"privileged\":true");

	(void)state;
	assert_true(spec->cap_effective == spec->cap_bounding);
	assert_false(spec->seccomp);
	assert_null(spec->masked_paths);
	assert_null(spec->readonly_paths);
}

static void test_a_later_mount_option_wins(void **state)
{
	static const struct {
		const char *options;
		unsigned int attr;
	} rows[] = {
		{"\"noexec\",\"nosuid\",\"nodev\",\"exec\"", MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV},
		{"\"ro\",\"rw\"", 0},
		{"\"rw\",\"ro\"", MOUNT_ATTR_RDONLY},
		{"\"noatime\",\"strictatime\"", MOUNT_ATTR_STRICTATIME},
		{"\"strictatime\",\"relatime\"", 0},
		{"\"nosuid\",\"suid\",\"nodev\",\"dev\"", 0},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		_cleanup_(container_spec_freep) struct container_spec *spec = NULL;
		char config[256];

		snprintf(
			config, sizeof(config),
			",\"mounts\":[{\"destination\":\"/t\",\"type\":\"tmpfs\",\"options\":[%s]}]",
			rows[i].options);
		spec = good("", config, "");
		print_message("%s\n", rows[i].options);
		assert_int_equal(spec->mounts[0].attr, rows[i].attr);
	}
}

static void test_what_is_wrong_is_named(void **state)
{
	static const struct {
		const char *process, *config, *own, *words;
	} rows[] = {
		{",\"apparmorProfile\":\"a\\nb\"", "", "", "process.apparmorProfile"},
		{",\"selinuxLabel\":\"container_t\"", "", "", "user:role:type:level"},
		{",\"selinuxLabel\":\"a:b:c:s0\\\"\"", "", "", "process.selinuxLabel"},
		{"", ",\"linux\":{\"mountLabel\":\"x\"}", "", "linux.mountLabel"},
		{",\"terminal\":\"yes\"", "", "", "terminal"},
		{",\"consoleSize\":{\"height\":1}", "", "", "consoleSize"},
		{",\"user\":{\"uid\":0}", "", "", "process.user"},
		{",\"env\":[\"NOEQUALS\"]", "", "", "process.env[0]"},
		{",\"env\":[7]", "", "", "process.env[0]"},
		{",\"env\":[\"A=\\u0000\"]", "", "", "NUL"},
		{",\"cwd\":\"relative\"", "", "", "process.cwd"},
		{",\"oomScoreAdj\":1001", "", "", "oomScoreAdj"},
		{",\"capabilities\":{\"effective\":[\"CAP_CHOWN\"]}", "", "", "effective"},
		{",\"capabilities\":{\"inheritable\":[\"CAP_CHOWN\"]}", "", "", "inheritable"},
		{",\"rlimits\":[{\"type\":\"RLIMIT_NOFILE\",\"soft\":2,\"hard\":1}]", "", "",
	         "RLIMIT_NOFILE"},
		{",\"rlimits\":[{\"type\":\"NOFILE\",\"soft\":1,\"hard\":1}]", "", "",
	         "\"NOFILE\""},
		{",\"rlimits\":[{\"type\":\"RLIMIT_CPU\",\"soft\":1,\"hard\":1},"
	         "{\"type\":\"RLIMIT_CPU\",\"soft\":1,\"hard\":1}]",
	         "", "", "twice"},
		{"", ",\"hostname\":\"a b\"", "", "hostname"},
		{"", ",\"hostname\":\"x\\ny\"", "", "hostname"},
		{"", ",\"hostname\":\"" HEX64 "x\"", "", "1 to 64 letters"},
		{"", ",\"root\":{\"path\":\"/\"}", "", "root.path"},
		{"", ",\"mounts\":[{\"destination\":\"a\",\"source\":\"/\"}]", "", "mount at a"},
		{"", ",\"mounts\":[{\"destination\":\"/a\"}]", "", "source"},
		{"", ",\"mounts\":[{\"destination\":\"/\",\"source\":\"/\"}]", "", "root cannot"},
		{"", ",\"mounts\":[{\"destination\":\"/proc/x\",\"source\":\"/\"}]", "",
	         "inside /proc"},
		{"", ",\"mounts\":[{\"destination\":\"/a/../b\",\"source\":\"/\"}]", "", "\"..\""},
		{"", ",\"mounts\":[{\"destination\":\"/a\",\"source\":\"/x/..\"}]", "", "\"..\""},
		{"", ",\"mounts\":[{\"destination\":\"/a\",\"type\":\"proc\"}]", "", "\"proc\""},
		{"",
	         ",\"mounts\":[{\"destination\":\"/a\",\"type\":\"tmpfs\",\"options\":[\"size=\"]}]",
	         "", "size is \"\""},
		{"",
	         ",\"mounts\":[{\"destination\":\"/a\",\"type\":\"tmpfs\",\"options\":[\"huge=always\"]}]",
	         "", "huge=always"},
		{"",
	         ",\"mounts\":[{\"destination\":\"/a\",\"source\":\"/\",\"options\":[\"shared\"]}]",
	         "", "\"shared\""},
		{"", ",\"linux\":{\"namespaces\":[]}", "", "linux.namespaces"},
		{"", ",\"linux\":{\"resources\":{\"memory\":{\"swappiness\":101}}}", "",
	         "swappiness"},
		{"", ",\"linux\":{\"resources\":{\"memory\":{\"kernel\":1}}}", "", "memory.kernel"},
		{"", ",\"linux\":{\"resources\":{\"blockIO\":{\"weight\":1001}}}", "", "blockIO"},
		{"", ",\"linux\":{\"resources\":{\"blockIO\":{\"leafWeight\":10}}}", "",
	         "blockIO.leafWeight"},
		{"", ",\"linux\":{\"resources\":{\"cpu\":{\"cpus\":\"0\"}}}", "", "cpu.cpus"},
		{"", ",\"linux\":{\"resources\":{\"memory\":{\"limit\":-1}}}", "", "limit"},
		{"", ",\"linux\":{\"resources\":{\"devices\":[{\"allow\":false}]}}", "", "deny"},
		{"", ",\"linux\":{\"resources\":{\"devices\":[{\"allow\":true,\"access\":\"x\"}]}}",
	         "", "access"},
		{"", ",\"linux\":{\"sysctl\":{\"kernel.hostname\":\"x\"}}", "", "kernel.hostname"},
		{"", ",\"linux\":{\"sysctl\":{\"net.../x\":\"x\"}}", "", "no name of a sysctl"},
		{"", ",\"linux\":{\"sysctl\":{\"net.core.somaxconn\":\"\"}}", "",
	         "somaxconn has no value"},
		{"", ",\"linux\":{\"sysctl\":{\"net./etc\":\"x\"}}", "", "no name of a sysctl"},
		{"",
	         ",\"linux\":{\"devices\":[{\"path\":\"x\",\"type\":\"c\",\"major\":1,\"minor\":1}]}",
	         "", "device x"},
		{"",
	         ",\"linux\":{\"devices\":[{\"path\":\"/x\",\"type\":\"p\",\"major\":1,\"minor\":1}]}",
	         "", "\"p\""},
		{"", ",\"linux\":{\"maskedPaths\":[\"x\"]}", "", "maskedPaths"},
		{"", "", ",\"user\":7", "user"},
		{"", "", ",\"seccomp\":\"x\"", "\"x\""},
		{"", "", ",\"seccomp\":{}", "either profile or path"},
		{"", "", ",\"seccomp\":{\"profile\":\"{}\",\"path\":\"/x\"}", "either"},
		{"", "", ",\"seccomp\":{\"path\":\"x\"}", "seccomp.path"},
		{"", "", ",\"seccomp\":{\"profile\":{}}", "profile"},
		{"", "", ",\"stopSignal\":\"SIGX\"", "SIGX"},
		{"", "", ",\"privileged\":\"yes\"", "privileged"},
		{"", "", ",\"dns\":{\"server\":[]}", "dns.server"},
		{"", "", ",\"log\":{}", "driver"},
		{"", "", ",\"log\":{\"driver\":\"x\",\"maxBytes\":0}", "maxBytes"},
		{"", "", ",\"healthCheck\":[]", "healthCheck"},
		{"", "", ",\"healthChecks\":{}", "container.healthChecks"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct container_spec *spec = NULL;
		struct err err = {};

		assert_int_equal(parse_with(rows[i].process, rows[i].config, rows[i].own,
		                            NETWORK_BRIDGE, &spec, &err) < 0,
		                 1);
		print_message("row %zu: %s\n", i, err.text);
		assert_null(spec);
		assert_string_equal(err.name, "CannotCreateContainerError");
		assert_non_null(strstr(err.text, rows[i].words));
	}
}

static void test_network_sysctls_are_not_for_host_mode(void **state)
{
	struct container_spec *spec = NULL;
	struct err err = {};

	(void)state;
	assert_int_equal(parse_with("", ",\"linux\":{\"sysctl\":{\"net.core.somaxconn\":\"9\"}}",
	                            "", NETWORK_HOST, &spec, &err),
	                 -EINVAL);
	assert_non_null(strstr(err.text, "host network mode"));
}

static void test_signals(void **state)
{
	static const struct {
		const char *name;
		int signal;
	} rows[] = {
		{"SIGTERM", SIGTERM}, {"TERM", SIGTERM},    {"sigint", SIGINT},
		{"9", SIGKILL},       {"SIGCHLD", SIGCHLD}, {"0", -EINVAL},
		{"65", -EINVAL},      {"", -EINVAL},        {"SIG", -EINVAL},
		{"SIGFOO", -EINVAL},  {"15x", -EINVAL},     {"-9", -EINVAL},
		{"SIGIO", SIGIO},     {"poll", SIGPOLL},    {"IOT", SIGABRT},
		{"SIGCLD", SIGCHLD},  {"SIGPWR", SIGPWR},   {"STKFLT", SIGSTKFLT},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		print_message("%s\n", rows[i].name);
		assert_int_equal(signal_from_name(rows[i].name), rows[i].signal);
	}
	assert_int_equal(signal_from_name("SIGRTMIN+3"), SIGRTMIN + 3);
	assert_int_equal(signal_from_name("RTMAX-1"), SIGRTMAX - 1);
	assert_int_equal(signal_from_name("RTMIN+99"), -EINVAL);
}

static int parse_task(const char *text, struct task_spec *ret, struct err *err)
{
	_cleanup_json_ struct json_object *json = NULL;

	assert_int_equal(json_parse_object(text, strlen(text), 4096, &json, NULL), 0);
	return task_spec_parse(json, ret, err);
}

static void test_tasks(void **state)
{
	static const char *const wrong[] = {
		"{}",
		"{\"networkMode\":\"awsvpc\"}",
		"{\"networkMode\":\"host\",\"pidMode\":\"container:x\"}",
		"{\"networkMode\":\"host\",\"ipcMode\":\"shareable\"}",
		"{\"networkMode\":\"host\",\"ipcMode\":\"none\",\"shmBytes\":4096}",
		"{\"networkMode\":\"host\",\"cgroup\":{\"memory\":1}}",
		"{\"networkMode\":\"host\",\"cgroup\":{\"memoryBytes\":-1}}",
	};
	struct task_spec spec = {};
	struct err err = {};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		print_message("%s\n", wrong[i]);
		assert_true(parse_task(wrong[i], &spec, &err) < 0);
	}
	assert_int_equal(parse_task("{\"arn\":\"a\",\"networkMode\":\"none\",\"cgroup\":{"
	                            "\"cpuQuotaUsec\":50000,\"pidsMax\":9}}",
	                            &spec, NULL),
	                 0);
	assert_int_equal(spec.network_mode, NETWORK_NONE);
	assert_int_equal(spec.limits.cpu_quota_usec, 50000);
	assert_int_equal(spec.limits.pids_max, 9);
	assert_string_equal(spec.arn, "a");
	task_spec_done(&spec);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_everything_that_is_given_is_read),
		cmocka_unit_test(test_a_swappiness_of_0_is_one),
		cmocka_unit_test(test_privileged_has_all_capabilities_and_no_masks),
		cmocka_unit_test(test_a_later_mount_option_wins),
		cmocka_unit_test(test_what_is_wrong_is_named),
		cmocka_unit_test(test_network_sysctls_are_not_for_host_mode),
		cmocka_unit_test(test_signals),
		cmocka_unit_test(test_tasks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
