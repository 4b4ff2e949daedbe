/*
 * The child side of an exec. The process that works through the steps is in the supervisor's pid
 * namespace, where nobody in the container sees it: a container with CAP_SYS_PTRACE could otherwise
 * take over a process that still holds our capabilities (as in CVE-2016-9962). Only when it has
 * nothing left that the container has not got it forks the one that executes the program.
 *
 * Nothing of the host is reachable by then: the working directory and the root are the container's,
 * and every descriptor but 0 to 2 and the report is closed (CVE-2024-21626, CVE-2019-5736).
 */
#include <errno.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "agent/task/child_steps.h"
#include "lib/fd.h"

#define NAMESPACES                                                                                 \
	(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWCGROUP)

static int join_cgroup(struct child *child)
{
	return cgroup_join_cloned(child->plan->cgroup);
}

/* /proc is still the host's. Ours is lower than what a container can have. */
static int set_oom_score(struct child *child)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", child->spec->oom_score_adj);
	return file_write(AT_FDCWD, "/proc/self/oom_score_adj", text);
}

/* The container's /dev/null, if it still is one. */
static int open_null(struct child *child)
{
	struct open_how how = {
		.flags = O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS,
	};
	struct stat st;

	child->null_rdwr_fd =
		(int)syscall(SYS_openat2, child->root_fd, "dev/null", &how, sizeof(how));
	if (child->null_rdwr_fd < 0 || fstat(child->null_rdwr_fd, &st) < 0)
		return -errno;
	return S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3) ? 0 : -ENODEV;
}

/* All in one call, by the process itself: no path, no number that could be another's by now. */
static int enter_namespaces(struct child *child)
{
	if (setns(child->plan->init_fd, NAMESPACES) < 0)
		return -errno;
	child->root_fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return child->root_fd < 0 ? -errno : open_null(child);
}

static const struct child_step_entry exec_steps[] = {
	{CHILD_CGROUP, join_cgroup},
	{CHILD_OOM_SCORE, set_oom_score},
	{CHILD_LABEL, child_set_label},
	{CHILD_NAMESPACES, enter_namespaces},
	{CHILD_KEYRING, child_new_keyring},
	{CHILD_USER, child_find_user},
	{CHILD_CONSOLE, child_make_exec_console},
	{CHILD_RLIMITS, child_set_rlimits},
	{CHILD_STDIO, child_set_stdio},
	{CHILD_USERNS, child_enter_userns},
	{CHILD_CWD, child_enter_cwd},
	{CHILD_SECCOMP, child_early_seccomp},
	{CHILD_CAPABILITIES, child_drop_privileges},
	{CHILD_NO_NEW_PRIVS, child_no_new_privs},
	{CHILD_FORK, child_fork_inside},
	{CHILD_STDIO, child_take_terminal},
	{CHILD_EXEC, child_execute},
};

_Noreturn void child_exec_run(const struct child_plan *plan)
{
	struct child child = child_init(plan);

	child_run_steps(&child, exec_steps, ARRAY_SIZE(exec_steps));
}
