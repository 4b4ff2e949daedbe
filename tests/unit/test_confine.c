/* lib/confine: what is given up is really gone. Each case runs in a child of its own. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/confine.h"

static int in_child(int (*fn)(void))
{
	pid_t pid = fork();
	int status;

	if (pid == 0)
		_exit(fn());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static const char *const nothing_more[] = {NULL};

static int a_filter_refuses(void)
{
	const struct confinement c = {.syscalls = nothing_more};

	if (confine(&c, NULL) < 0)
		return 1;
	if (unshare(CLONE_NEWUSER) == 0 || errno != EPERM)
		return 2;
	if (mount("none", "/", NULL, MS_REMOUNT, NULL) == 0 || errno != EPERM)
		return 3;
	if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1)
		return 4;
	execl("/bin/true", "true", (char *)NULL);
	return errno == EPERM ? 0 : 5;
}

static int a_user_is_taken_and_stays(void)
{
	const struct confinement c = {.user = "nobody", .syscalls = nothing_more};

	if (confine(&c, NULL) < 0)
		return 1;
	if (getuid() == 0 || geteuid() == 0 || getgroups(0, NULL) != 0)
		return 2;
	if (setuid(0) == 0)
		return 3;
	return access("/etc/shadow", R_OK) == 0 ? 4 : 0;
}

static int some_capabilities_are_kept(void)
{
	const struct confinement c = {.capabilities = 1ULL << 10}; /* CAP_NET_BIND_SERVICE */

	if (confine(&c, NULL) < 0)
		return 1;
	if (prctl(PR_CAPBSET_READ, 21, 0, 0, 0) != 0) /* CAP_SYS_ADMIN */
		return 2;
	if (prctl(PR_CAPBSET_READ, 10, 0, 0, 0) != 1)
		return 3;
	return unshare(CLONE_NEWNS) == 0 ? 4 : 0;
}

static int a_list_of_denied_calls_leaves_the_others(void)
{
	static const char *const denied[] = {"ptrace", "no_such_call", NULL};
	const struct confinement c = {.denied = denied};
	int status;
	pid_t pid;

	if (confine(&c, NULL) < 0)
		return 1;
	if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0 || errno != EPERM)
		return 2;
	if (unshare(CLONE_NEWUSER) == 0 || errno != EPERM)
		return 3;
	if (syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL) >= 0 ||
	    errno != EPERM)
		return 4;
	if (syscall(SYS_clone3, NULL, 0) == 0 || errno != ENOSYS)
		return 5;
	pid = fork();
	if (pid == 0)
		execl("/bin/true", "true", (char *)NULL);
	return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0 ? 0 : 6;
}

static int kill_ends_the_process(void)
{
	const struct confinement c = {.syscalls = nothing_more, .kill = true};

	if (confine(&c, NULL) < 0)
		return 1;
	(void)!unshare(CLONE_NEWUSER);
	return 2;
}

static void test_the_filter_refuses_what_is_not_listed(void **state)
{
	(void)state;
	assert_int_equal(in_child(a_filter_refuses), 0);
	assert_int_equal(in_child(a_list_of_denied_calls_leaves_the_others), 0);
	assert_int_equal(in_child(kill_ends_the_process), 128 + SIGSYS);
}

static void test_root_becomes_another_user_for_good(void **state)
{
	(void)state;
	if (geteuid() != 0)
		skip(); /* needs root to give something up */
	assert_int_equal(in_child(a_user_is_taken_and_stays), 0);
	assert_int_equal(in_child(some_capabilities_are_kept), 0);
}

static void test_an_unknown_user_is_named(void **state)
{
	struct err err = {0};
	uid_t uid;
	gid_t gid;

	(void)state;
	assert_int_equal(user_lookup("no-such-user", &uid, &gid, &err), -ESRCH);
	assert_string_equal(err.text, "there is no user no-such-user on this host");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_filter_refuses_what_is_not_listed),
		cmocka_unit_test(test_root_becomes_another_user_for_good),
		cmocka_unit_test(test_an_unknown_user_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
