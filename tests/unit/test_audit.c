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
	audit_flush(audit);
	assert_true(pread(copy, text, sizeof(text) - 1, 0) > 0);
	assert_string_equal(text, "2026-07-01T10:00:00Z 400 r:1 \"/v2/credentials\" \"\" - \n"
	                          "2026-07-01T10:00:00Z 400 r:1 \"/v2/credentials\" \"\" - \n");
	close(copy);
	audit_free(audit);
}

static void test_a_flood_is_listed_in_the_file_to_the_last_line(void **state)
{
	struct audit *audit = new_audit();
	struct audit_request request = {.status = 200,
	                                .remote = "r:1",
	                                .path = "/v2/credentials",
	                                .now_realtime_usec = NOW};
	int fd = memfd_create("audit", MFD_CLOEXEC), copy = dup(fd);
	char *text;
	off_t size;

	(void)state;
	audit_set_file(audit, fd);
	for (int i = 0; i < 20000; i++)
		audit_write(audit, &request);
	audit_free(audit);
	size = lseek(copy, 0, SEEK_END);
	text = mmap(NULL, (size_t)size, PROT_READ, MAP_PRIVATE, copy, 0);
	assert_ptr_not_equal(text, MAP_FAILED);
	assert_int_equal(size % 20000, 0);
	for (off_t i = 1; i <= 20000; i++)
		assert_int_equal(text[i * (size / 20000) - 1], '\n');
	munmap(text, (size_t)size);
	close(copy);
}

/* What goes to standard error between two calls. */
static int begin_capture(int *saved)
{
	int fd = memfd_create("log", MFD_CLOEXEC);

	*saved = dup(STDERR_FILENO);
	dup2(fd, STDERR_FILENO);
	return fd;
}

static void end_capture(int fd, int saved, char *text, size_t n)
{
	ssize_t k;

	dup2(saved, STDERR_FILENO);
	close(saved);
	k = pread(fd, text, n - 1, 0);
	text[k > 0 ? k : 0] = '\0';
	close(fd);
}

static void test_a_flood_is_counted_in_the_log(void **state)
{
	static char text[200000];
	struct audit *audit = new_audit();
	struct audit_request request = {.status = 200,
	                                .remote = "r:1",
	                                .path = "/v2/credentials",
	                                .now_realtime_usec = NOW};
	size_t lines = 0;
	int fd, saved;

	(void)state;
	fd = begin_capture(&saved);
	for (int i = 0; i < 5000; i++) {
		request.status = i % 10 == 0 ? 400 : i % 10 == 1 ? 503 : i % 10 == 2 ? 429 : 200;
		audit_write(audit, &request);
	}
	audit_flush(audit); /* the second is long over */
	audit_free(audit);
	end_capture(fd, saved, text, sizeof(text));
	for (const char *p = text; (p = strchr(p, '\n')); p++)
		lines++;
	assert_int_equal(lines, 101);
	assert_non_null(strstr(text, "3430 answered, 490 refused, 490 limited, 490 not ready"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lines_have_the_fields_of_the_format),
		cmocka_unit_test(test_a_long_user_agent_is_cut),
		cmocka_unit_test(test_lines_go_to_the_file_that_was_given),
		cmocka_unit_test(test_a_flood_is_listed_in_the_file_to_the_last_line),
		cmocka_unit_test(test_a_flood_is_counted_in_the_log),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
