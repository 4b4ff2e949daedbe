/* dockerSecurityOptions: what each becomes in the specification, and what is refused. */
#include "agent/engine/security.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/json.h"
#include "tests/unit/cmocka_prelude.h"

#define ID      "70947c96f64e483a612a3fd4303546e7"
#define PROCESS "system_u:system_r:container_t:s0:c"
#define MOUNT   "system_u:object_r:container_file_t:s0:c"

static int apply(const char *options_json, bool privileged, bool selinux,
                 struct json_object **ret_container, struct err *err)
{
	const struct spec_options options = {.selinux = selinux};
	_cleanup_json_ struct json_object *host_config = NULL;
	struct json_object *container = json_object_new_object(),
			   *config = json_object_new_object();
	struct container c = {.name = "a"};
	struct task task = {.id = ID};
	char text[2048];
	int r;

	snprintf(text, sizeof(text), "{\"Privileged\":%s,\"SecurityOpt\":%s}",
	         privileged ? "true" : "false", options_json);
	assert_int_equal(json_parse_object(text, strlen(text), sizeof(text), &host_config, err), 0);
	c.host_config = host_config;
	assert_int_equal(json_add(config, "process", json_object_new_object()), 0);
	assert_int_equal(json_add(config, "linux", json_object_new_object()), 0);
	assert_int_equal(json_add_string(json_get(config, "linux"), "maskedPaths", "kept"), 0);
	assert_int_equal(json_add(container, "config", config), 0);
	r = security_apply(&task, &c, &options, container, config, err);
	*ret_container = container;
	return r;
}

static void test_what_each_option_becomes(void **state)
{
#define NNP(value) "\"process\":{\"noNewPrivileges\":" value
	static const struct {
		const char *options;
		bool privileged;
		const char *words[3]; /* of the specification */
	} rows[] = {
		{"[]",
	         false,
	         {"\"seccomp\":\"default\"", NNP("false}"), "\"maskedPaths\":\"kept\""}},
		{"null",
	         true,
	         {"\"seccomp\":\"unconfined\"", "\"apparmorProfile\":\"unconfined\""}},
		{"[\"no-new-privileges\"]", false, {NNP("true}")}},
		{"[\"no-new-privileges:true\"]", false, {NNP("true}")}},
		{"[\"no-new-privileges=1\"]", false, {NNP("true}")}},
		{"[\"no-new-privileges\",\"no-new-privileges=false\"]", false, {NNP("false}")}},
		{"[\"seccomp=unconfined\"]", false, {"\"seccomp\":\"unconfined\""}},
		{"[\"seccomp:builtin\"]", true, {"\"seccomp\":\"default\""}},
		{"[\"seccomp=/etc/p=1.json\"]",
	         false,
	         {"\"seccomp\":{\"path\":\"/etc/p=1.json\"}"}},
		{"[\"seccomp: {\\\"a\\\":\\\"=\\\"}\"]",
	         false,
	         {"\"seccomp\":{\"profile\":\"{\\\"a\\\":\\\"=\\\"}\"}"}},
		{"[\"seccomp=/a\",\"seccomp=unconfined\"]", false, {"\"seccomp\":\"unconfined\""}},
		{"[\"apparmor:mine\"]", false, {"\"apparmorProfile\":\"mine\""}},
		{"[\"apparmor=unconfined\"]", false, {"\"apparmorProfile\":\"unconfined\""}},
		{"[\"apparmor=mine\"]", true, {"\"apparmorProfile\":\"mine\""}},
		{"[\"label=disable\"]", true, {NNP("false,\"apparmorProfile\"")}},
		{"[\"label:type:svirt_t\",\"label=user:staff_u\"]",
	         false,
	         {"\"selinuxLabel\":\"staff_u:system_r:svirt_t:s0:c",
	          "\"mountLabel\":\"staff_u:object_r:container_file_t:s0:c"}},
		{"[\"label=level:s0:c100,c200\",\"label=filetype:my_t\",\"label=role:x_r\"]",
	         false,
	         {"\"selinuxLabel\":\"system_u:x_r:container_t:s0:c100,c200\"",
	          "\"mountLabel\":\"system_u:object_r:my_t:s0:c100,c200\""}},
		{"[\"systempaths=unconfined\"]",
	         false,
	         {"\"maskedPaths\":[]", "\"readonlyPaths\":[]"}},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		_cleanup_json_ struct json_object *container = NULL;
		struct err err = {};
		const char *text;

		if (apply(rows[i].options, rows[i].privileged, false, &container, &err) < 0)
			fail_msg("%s: %s", rows[i].options, err.text);
		text = json_to_text(container, NULL);
		print_message("%s\n", text);
		for (size_t k = 0; k < ARRAY_SIZE(rows[i].words) && rows[i].words[k]; k++)
			if (!strstr(text, rows[i].words[k]))
				fail_msg("%s: %s should have %s", rows[i].options, text,
				         rows[i].words[k]);
	}
}

static void test_what_is_wrong_is_named(void **state)
{
	static const struct {
		const char *options, *words;
	} rows[] = {
		{"\"x\"", "SecurityOpt"},
		{"[7]", "dockerSecurityOptions[0]"},
		{"[null]", "dockerSecurityOptions[0]"},
		{"[\"seccomp=a\\u0000b\"]", "dockerSecurityOptions[0]"},
		{"[\"no-new-privileges:maybe\"]", "\"maybe\""},
		{"[\"seccomp\"]", "needs a value"},
		{"[\"seccomp=\"]", "needs a value"},
		{"[\"seccomp=default\"]", "\"default\""},
		{"[\"seccomp=profile.json\"]", "absolute path"},
		{"[\"apparmor\"]", "needs a value"},
		{"[\"systempaths=confined\"]", "\"confined\""},
		{"[\"credentialspec:ssm:arn\"]", "group Managed Service Accounts"},
		{"[\"writable-cgroups=true\"]", "\"writable-cgroups=true\" is not supported"},
		{"[\"seccompx=unconfined\"]", "\"seccompx=unconfined\""},
		{"[\"\"]", "\"\" is not supported"},
		{"[\"label=type\"]", "no name of an SELinux policy"},
		{"[\"label=type:a:b\"]", "\"a:b\""},
		{"[\"label=type:a b\"]", "\"a b\""},
		{"[\"label=level:s0 c1\"]", "\"s0 c1\""},
		{"[\"label=colour:red\"]", "colour:red"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		_cleanup_json_ struct json_object *container = NULL;
		struct err err = {};

		assert_true(apply(rows[i].options, false, false, &container, &err) < 0);
		if (!strstr(err.text, rows[i].words))
			fail_msg("%s: \"%s\" should have %s", rows[i].options, err.text,
			         rows[i].words);
	}
}

static void test_a_privileged_container_takes_no_label(void **state)
{
	_cleanup_json_ struct json_object *container = NULL;
	struct err err = {};

	(void)state;
	assert_int_equal(apply("[\"label=type:svirt_t\"]", true, false, &container, &err), -EINVAL);
	assert_non_null(strstr(err.text, "does not go with privileged"));
}

static void test_all_are_labelled_where_selinux_is_announced(void **state)
{
	static const struct {
		const char *options;
		bool privileged, labelled;
	} rows[] = {
		{"[]", false, true},
		{"[\"label=disable\"]", false, false},
		{"[\"label=disable\",\"label=type:svirt_t\"]", false, false},
		{"[]", true, false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		_cleanup_json_ struct json_object *container = NULL;
		const char *label;

		assert_int_equal(apply(rows[i].options, rows[i].privileged, true, &container, NULL),
		                 0);
		label = json_text(json_get(json_get(container, "config"), "process"),
		                  "selinuxLabel");
		assert_int_equal(label != NULL, rows[i].labelled);
	}
}

static void write_text(const char *dir, const char *name, const char *text)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
	fd_close(fd);
}

static void test_the_default_labels_are_the_policy_s(void **state)
{
	char dir[] = "/tmp/test_security.XXXXXX", path[128], other[SECURITY_LABEL_MAX + 1];
	struct security_labels labels = {};
	unsigned int a, b;

	(void)state;
	assert_non_null(mkdtemp(dir));
	assert_int_equal(security_labels_default(dir, ID, &labels, NULL), 0);
	assert_int_equal(strncmp(labels.mount, MOUNT, strlen(MOUNT)), 0);
	assert_int_equal(sscanf(labels.process, PROCESS "%u,c%u", &a, &b), 2);
	assert_true(a < b && b < 1024);
	strcpy(other, labels.process);

	write_text(dir, "config", "# policy\nSELINUXTYPE=targeted\n");
	snprintf(path, sizeof(path), "%s/targeted/contexts", dir);
	assert_int_equal(dir_create_all(path, 0755), 0);
	write_text(path, "lxc_contexts",
	           "process = \"a_u:a_r:my_t:s0\"\ncontent = \"a_u:object_r:virt_t:s0\"\n"
	           "file=\"a_u:object_r:my_file_t:s0:c1,c2\"\n");
	assert_int_equal(security_labels_default(dir, ID, &labels, NULL), 0);
	assert_int_equal(strncmp(labels.process, "a_u:a_r:my_t:s0:c", 17), 0);
	assert_int_equal(strncmp(labels.mount, "a_u:object_r:my_file_t:s0:c", 27), 0);
	assert_string_equal(strrchr(labels.process, ':'), strrchr(labels.mount, ':'));
	assert_string_equal(strrchr(labels.process, ':'), strrchr(other, ':'));

	assert_int_equal(security_labels_default(dir, "another", &labels, NULL), 0);
	assert_string_not_equal(strrchr(labels.process, ':'), strrchr(other, ':'));
	assert_int_equal(dir_remove_all(AT_FDCWD, dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_each_option_becomes),
		cmocka_unit_test(test_what_is_wrong_is_named),
		cmocka_unit_test(test_a_privileged_container_takes_no_label),
		cmocka_unit_test(test_all_are_labelled_where_selinux_is_announced),
		cmocka_unit_test(test_the_default_labels_are_the_policy_s),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
