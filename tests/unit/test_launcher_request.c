/* The request line of ecs-launcher, and the environment it passes on. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/launcher/request.h"
#include "agent/launcher/start.h"
#include "lib/cleanup.h"

#define ID64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void test_requests_are_read(void **state)
{
	static const struct {
		const char *line;
		enum launcher_verb verb;
		const char *id;
	} cases[] = {{"task 7f3c", LAUNCHER_VERB_TASK, "7f3c"},
	             {"task a-B-9", LAUNCHER_VERB_TASK, "a-B-9"},
	             {"task " ID64, LAUNCHER_VERB_TASK, ID64},
	             {"reap 7f3c", LAUNCHER_VERB_REAP, "7f3c"},
	             {"discard 7f3c", LAUNCHER_VERB_DISCARD, "7f3c"},
	             {"image", LAUNCHER_VERB_IMAGE, ""},
	             {"network", LAUNCHER_VERB_NETWORK, ""},
	             {"volume", LAUNCHER_VERB_VOLUME, ""}};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct launcher_request request;

		print_message("case: %s\n", cases[i].line);
		assert_int_equal(launcher_request_parse(cases[i].line, strlen(cases[i].line),
		                                        &request, NULL),
		                 0);
		assert_int_equal(request.verb, cases[i].verb);
		assert_string_equal(request.task_id, cases[i].id);
	}
}

static void test_anything_else_is_refused_and_named(void **state)
{
	static const struct {
		const char *line;
		size_t len; /* 0: up to its NUL */
		const char *says;
	} cases[] = {{"", 0, "unknown request"},
	             {"TASK x", 0, "unknown request \"TASK\""},
	             {"exec sh", 0, "unknown request \"exec\""},
	             {"task\tx", 0, "unknown request"},
	             {" task x", 0, "unknown request"},
	             {"task\0x", 6, "unknown request"},
	             {"task", 0, "task id \"\""},
	             {"task ", 0, "task id \"\""},
	             {"task  x", 0, "task id \" x\""},
	             {"task x ", 0, "task id \"x \""},
	             {"task x y", 0, "task id \"x y\""},
	             {"task ../x", 0, "task id \"../x\""},
	             {"task .", 0, "task id"},
	             {"task a/b", 0, "task id"},
	             {"task a_b", 0, "task id"},
	             {"task x\0y", 8, "task id"},
	             {"task x\r", 0, "task id"},
	             {"task \xc3\xa4", 0, "task id"},
	             {"task --reap", 0, "task id"},
	             {"task " ID64 "0", 0, "task id"},
	             {"reap", 0, "task id"},
	             {"reap ../../etc", 0, "task id"},
	             {"image x", 0, "takes no argument"},
	             {"image ", 0, "takes no argument"},
	             {"network 1", 0, "takes no argument"}};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct launcher_request request;
		struct err err = {0};
		size_t len = cases[i].len ? cases[i].len : strlen(cases[i].line);

		print_message("row %zu: %s\n", i, cases[i].line);
		assert_int_equal(launcher_request_parse(cases[i].line, len, &request, &err),
		                 -EINVAL);
		assert_non_null(strstr(err.text, cases[i].says));
	}
}

static void test_only_what_programs_need_is_left_of_the_environment(void **state)
{
	static char *env[] = {(char *)"PATH=/bin",
	                      (char *)"LD_PRELOAD=/tmp/x.so",
	                      (char *)"PATHS=no",
	                      (char *)"HTTPS_PROXY=http://p",
	                      (char *)"NOTIFY_SOCKET=/run/n",
	                      (char *)"AWS_ACCESS_KEY_ID=AKIA",
	                      (char *)"AWS_SECRET_ACCESS_KEY=s",
	                      (char *)"AWS_ENDPOINT_URL=http://e",
	                      (char *)"AWS_ENDPOINT_URL_ECS=http://f",
	                      (char *)"SSL_CERT_FILE=/c",
	                      (char *)"LISTEN_FDS=3",
	                      NULL};
	static const char *const want[] = {"PATH=/bin", "HTTPS_PROXY=http://p",
	                                   "AWS_ENDPOINT_URL=http://e",
	                                   "AWS_ENDPOINT_URL_ECS=http://f", "SSL_CERT_FILE=/c"};
	_cleanup_free_ char **kept = NULL;

	(void)state;
	assert_int_equal(start_environment(env, &kept), 0);
	for (size_t i = 0; i < ARRAY_SIZE(want); i++)
		assert_string_equal(kept[i], want[i]);
	assert_null(kept[ARRAY_SIZE(want)]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_requests_are_read),
		cmocka_unit_test(test_anything_else_is_refused_and_named),
		cmocka_unit_test(test_only_what_programs_need_is_left_of_the_environment),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
