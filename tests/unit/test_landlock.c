/* What a process can still do after landlock_close_files(), tried by a child. */
#include "tests/unit/cmocka_prelude.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "iam-creds/landlock.h"

static bool kernel_has_landlock(void)
{
	return syscall(444, NULL, 0, 1u) >= 1;
}

/* 0, or the line of the first expectation that failed. */
static int child(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
	                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int open_before = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
	int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool has_net = syscall(444, NULL, 0, 1u) >= 4;
	int listed = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	char c;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || landlock_close_files(listed, NULL) < 0)
		return __LINE__;
	if (openat(listed, "self", O_RDONLY | O_DIRECTORY | O_CLOEXEC) < 0)
		return __LINE__;
	if (openat(listed, "self/stat", O_RDONLY | O_CLOEXEC) >= 0 || errno != EACCES)
		return __LINE__;
	if (open("/etc", O_RDONLY | O_DIRECTORY | O_CLOEXEC) >= 0 || errno != EACCES)
		return __LINE__;
	if (open("/etc/passwd", O_RDONLY | O_CLOEXEC) >= 0 || errno != EACCES)
		return __LINE__;
	if (open("/dev/shm/ecs-test", O_WRONLY | O_CREAT | O_CLOEXEC, 0600) >= 0 || errno != EACCES)
		return __LINE__;
	if (mkdir("/tmp/ecs-test-landlock", 0700) == 0 || errno != EACCES)
		return __LINE__;
	if (read(open_before, &c, 1) != 1)
		return __LINE__;
	if (has_net &&
	    (bind(s, (struct sockaddr *)&address, sizeof(address)) == 0 || errno != EACCES))
		return __LINE__;
	return 0;
}

static void test_files_cannot_be_opened_any_more(void **state)
{
	int status;
	pid_t pid;

	(void)state;
	if (!kernel_has_landlock())
		skip();
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(child());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_files_cannot_be_opened_any_more),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
