/* Options of a mount, and requests to ecs-volume. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <string.h>
#include <sys/mount.h>

#include "agent/volume/mount_options.h"
#include "agent/volume/request.h"
#include "lib/json.h"

static void test_flags_are_told_from_what_the_file_system_reads(void **state)
{
	static const struct {
		const char *text;
		unsigned long flags;
		bool bind, recursive;
		const char *data;
	} cases[] = {
		{"", 0, false, false, ""},
		{"defaults,,", 0, false, false, ""},
		{"ro,nosuid,nodev,noexec", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, false,
	         false, ""},
		{"ro,rw", 0, false, false, ""},
		{"rw,ro,size=1m", MS_RDONLY, false, false, "size=1m"},
		{"noatime,relatime", MS_RELATIME, false, false, ""},
		{"bind", 0, true, false, ""},
		{"rbind,ro", MS_RDONLY, true, true, ""},
		{"addr=10.0.0.1,nfsvers=4.1,ro,hard", MS_RDONLY, false, false,
	         "addr=10.0.0.1,nfsvers=4.1,hard"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct mount_options options;

		print_message("case: %s\n", cases[i].text);
		assert_int_equal(mount_options_parse(cases[i].text, &options, NULL), 0);
		assert_int_equal(options.flags, cases[i].flags);
		assert_int_equal(options.bind, cases[i].bind);
		assert_int_equal(options.recursive, cases[i].recursive);
		assert_string_equal(options.data, cases[i].data);
	}
}

static void test_options_without_effect_are_refused_by_name(void **state)
{
	static const char *const words[] = {"remount", "shared", "rprivate", "unbindable"};
	static char long_text[2 * MOUNT_DATA_MAX];
	struct mount_options options;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		struct err err = {0};
		char text[64];

		snprintf(text, sizeof(text), "ro,%s", words[i]);
		assert_int_equal(mount_options_parse(text, &options, &err), -EOPNOTSUPP);
		assert_non_null(strstr(err.text, words[i]));
	}
	memset(long_text, 'x', sizeof(long_text) - 1);
	assert_int_equal(mount_options_parse(long_text, &options, NULL), -E2BIG);
	for (size_t i = 100; i < sizeof(long_text) - 1; i += 100)
		long_text[i] = ',';
	assert_int_equal(mount_options_parse(long_text, &options, NULL), -E2BIG);
}

static void test_values_are_found_and_taken_out(void **state)
{
	static const char *const texts[] = {"addr=nas,hard", "hard,addr=nas", "addr=nas",
	                                    "xaddr=1,addr=nas,hard"};
	static const char *const left[] = {"hard", "hard", "", "xaddr=1,hard"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		struct mount_options options;
		char value[16];

		print_message("case: %s\n", texts[i]);
		assert_int_equal(mount_options_parse(texts[i], &options, NULL), 0);
		assert_true(mount_options_get(&options, "addr", value, sizeof(value)));
		assert_string_equal(value, "nas");
		assert_false(mount_options_get(&options, "addr", value, 3));
		mount_options_remove(&options, "addr");
		assert_string_equal(options.data, left[i]);
		assert_false(mount_options_get(&options, "addr", value, sizeof(value)));
		assert_false(mount_options_has(&options, "har"));
	}
}

#define HEAD "{\"taskId\":\"7f3c\",\"name\":\"data\","

static void test_requests_that_are_none_are_refused_by_name(void **state)
{
	static const struct {
		const char *text, *says;
		int r;
	} cases[] = {
		{HEAD "\"driver\":{\"type\":\"nfs\",\"device\":\":/x\"}}", NULL, 0},
		{HEAD "\"efs\":{\"fileSystemId\":\"fs-01234567\"}}", NULL, 0},
		{HEAD "\"x\":1}", "one of driver and efs", -EINVAL},
		{HEAD "\"driver\":{\"type\":\"none\"},\"efs\":{\"fileSystemId\":\"fs-01234567\"}}",
	         "one of driver and efs", -EINVAL},
		{HEAD "\"driver\":{\"type\":\"ext4\"}}", "ext4", -EOPNOTSUPP},
		{HEAD "\"driver\":{}}", "type", -EINVAL},
		{HEAD "\"driver\":{\"type\":\"nfs\",\"options\":\"a\\nb\"}}", "options", -EINVAL},
		{"{\"taskId\":\"../x\",\"name\":\"data\",\"driver\":{\"type\":\"none\"}}", "taskId",
	         -EINVAL},
		{"{\"taskId\":\"7f3c\",\"name\":\"..\",\"driver\":{\"type\":\"none\"}}", "name",
	         -EINVAL},
		{"{\"taskId\":\"7f3c\",\"name\":\"a/b\",\"driver\":{\"type\":\"none\"}}", "name",
	         -EINVAL},
		{HEAD "\"efs\":{\"fileSystemId\":\"fs-0123456g\"}}", "fileSystemId", -EINVAL},
		{HEAD "\"efs\":{\"fileSystemId\":\"fs-01234567,tls\"}}", "fileSystemId", -EINVAL},
		{HEAD "\"efs\":{\"fileSystemId\":\"fs-01234567\",\"rootDirectory\":\"x\"}}",
	         "rootDirectory", -EINVAL},
		{HEAD "\"efs\":{\"fileSystemId\":\"fs-01234567\",\"accessPointId\":\"fsap-1,ro\"}}",
	         "accessPointId", -EINVAL},
		{HEAD "\"efs\":{\"fileSystemId\":\"fs-01234567\",\"credentialsPath\":\"/a,ro\"}}",
	         "credentialsPath", -EINVAL},
		{HEAD "\"efs\":{\"fileSystemId\":\"fs-01234567\",\"server\":\"-o x\"}}", "server",
	         -EINVAL},
		{HEAD "\"efs\":{\"fileSystemId\":\"fs-01234567\",\"tlsPort\":65536}}", "tlsPort",
	         -ERANGE},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_json_ struct json_object *document = NULL;
		struct volume_request request;
		struct err err = {0};

		print_message("case: %s\n", cases[i].text);
		assert_int_equal(json_parse_object(cases[i].text, strlen(cases[i].text), 4096,
		                                   &document, NULL),
		                 0);
		assert_int_equal(volume_request_parse(document, &request, &err), cases[i].r);
		if (cases[i].says)
			assert_non_null(strstr(err.text, cases[i].says));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_flags_are_told_from_what_the_file_system_reads),
		cmocka_unit_test(test_options_without_effect_are_refused_by_name),
		cmocka_unit_test(test_values_are_found_and_taken_out),
		cmocka_unit_test(test_requests_that_are_none_are_refused_by_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
