/* The end of a process namespace that the containers of a task share. */
#include "agent/task/namespaces.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/cmocka_prelude.h"

#define SKIPPED 77

static pid_t fork_sleeper(void)
{
	pid_t pid = fork();

	if (pid == 0)
		for (;;)
			pause();
	return pid;
}

/* A supervisor with a pause process and, in its namespace, a container's process that has ended. */
static _Noreturn void supervise(void)
{
	struct namespaces namespaces = NAMESPACES_EMPTY;
	siginfo_t info;
	pid_t other;

	(void)alarm(30); /* ends a wait without an end */
	if (unshare(CLONE_NEWPID) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWPID) < 0)
		_exit(errno == EPERM ? SKIPPED : 1);
	namespaces.pause_pid = fork_sleeper();
	other = fork_sleeper();
	if (namespaces.pause_pid < 0 || other < 0 || kill(other, SIGKILL) < 0 ||
	    waitid(P_PID, (id_t)other, &info, WEXITED | WNOWAIT) < 0)
		_exit(1);
	namespaces_close(&namespaces);
	_exit(namespaces.pause_pid != 0 || waitpid(-1, NULL, WNOHANG) != -1);
}

static void test_its_end_does_not_wait_for_what_nobody_has_collected(void **state)
{
	pid_t pid = fork();
	int status;

	(void)state;
	assert_true(pid >= 0);
	if (pid == 0)
		supervise();
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED)
		skip(); /* no process namespace is to be had */
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_its_end_does_not_wait_for_what_nobody_has_collected),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
