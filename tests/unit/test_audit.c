/* Audit lines: the fields that people parse, and what cannot be smuggled into them. */
#include "tests/unit/cmocka_prelude.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "iam-creds/audit.h"

#define ARN "arn:aws:ecs:us-west-2:111122223333:task/blue/aa"
#define CI  "arn:aws:ecs:us-west-2:111122223333:container-instance/blue/01"
#define NOW 1782900000000000

static struct audit *new_audit(void)
{
	struct audit *audit;

	assert_int_equal(audit_new(&audit), 0);
	assert_int_equal(audit_configure(audit, "blue", CI, NULL), 0);
	return audit;
}

static void test_lines_have_the_fields_of_the_format(void **state)
{
	static const struct credentials app = {.task_arn = (char *)ARN,
	                                       .role_type = ROLE_TASK_APPLICATION};
	static const struct credentials execution = {.task_arn = (char *)ARN,
	                                             .role_type = ROLE_TASK_EXECUTION};
	static const struct {
		struct audit_request request;
		const char *line;
	} cases[] = {
		{{200, "172.17.0.2:40122", "/v2/credentials", "aws-sdk-go", &app, NOW},
	         "2026-07-01T10:00:00Z 200 172.17.0.2:40122 \"/v2/credentials\" \"aws-sdk-go\" " ARN
	         " GetCredentials 1 blue " CI},
		{{200, "169.254.170.2:1", "/v1/credentials", NULL, &execution, NOW},
	         "2026-07-01T10:00:00Z 200 169.254.170.2:1 \"/v1/credentials\" \"\" " ARN
	         " GetCredentialsExecutionRole 1 blue " CI},
		{{400, "169.254.170.2:1", "/v2/credentials", "x", NULL, NOW},
	         "2026-07-01T10:00:00Z 400 169.254.170.2:1 \"/v2/credentials\" \"x\" - "},
		{{429, "169.254.170.2:1", "/v4/a\nb", "\" 200 \\\r\xff", NULL, NOW},
	         "2026-07-01T10:00:00Z 429 169.254.170.2:1 \"/v4/a\\x0ab\" \"\\\" 200 \\\\\\x0d\\xff\" - "},
	};
	struct audit *audit = new_audit();

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char line[1024];

		audit_format(audit, &cases[i].request, line, sizeof(line));
		assert_string_equal(line, cases[i].line);
	}
	audit_free(audit);
}

static void test_a_long_user_agent_is_cut(void **state)
{
	struct audit *audit = new_audit();
	char agent[8192], line[1024];
	struct audit_request request = {
		.status = 200, .remote = "r", .path = "p", .user_agent = agent};

	(void)state;
	memset(agent, 1, sizeof(agent) - 1);
	agent[sizeof(agent) - 1] = '\0';
	audit_format(audit, &request, line, sizeof(line));
	assert_true(strlen(line) < 400);
	assert_non_null(strstr(line, "\" - "));
	audit_free(audit);
}

static void test_lines_go_to_the_file_that_was_given(void **state)
{
	struct audit *audit = new_audit();
	struct audit_request request = {.status = 400,
	                                .remote = "r:1",
	                                .path = "/v2/credentials",
	                                .now_realtime_usec = NOW};
	int fd = memfd_create("audit", MFD_CLOEXEC), copy = dup(fd);
	char text[256] = "";

	(void)state;
	audit_set_file(audit, fd);
	audit_write(audit, &request);
	audit_write(audit, &request);
	assert_true(pread(copy, text, sizeof(text) - 1, 0) > 0);
	assert_string_equal(text, "2026-07-01T10:00:00Z 400 r:1 \"/v2/credentials\" \"\" - \n"
	                          "2026-07-01T10:00:00Z 400 r:1 \"/v2/credentials\" \"\" - \n");
	close(copy);
	audit_free(audit);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lines_have_the_fields_of_the_format),
		cmocka_unit_test(test_a_long_user_agent_is_cut),
		cmocka_unit_test(test_lines_go_to_the_file_that_was_given),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
