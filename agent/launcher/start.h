/* Starting a program with a connection as its descriptor 3, and everything else reset. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "agent/launcher/program.h"
#include "agent/launcher/request.h"
#include "cgroups/cgroup.h"
#include "lib/err.h"
#include "lib/options.h"

#define START_ARGS_MAX 16

struct start {
	const struct program *program; /* refreshed */
	char *argv[START_ARGS_MAX];    /* NULL-terminated */
	char **env;
	int connection_fd; /* borrowed */
	/* For a task: the new process enters this cgroup and has its own pid and mount namespace.
	 */
	const struct cgroup *cgroup;
	bool host_pid;             /* no pid namespace */
	const char *oom_score_adj; /* NULL: inherited */
};

/*
 * Returns the pid. *ret_report_fd (the caller's to close) gives start_result() what became of the
 * steps up to execve(2), once it is readable: nothing here waits for the child.
 */
int start_program(const struct start *start, pid_t *ret_pid, int *ret_report_fd, struct err *err);

/* 0: the program runs. -errno of the step that failed, named in err. */
int start_result(int report_fd, struct err *err);

/* Those variables of ours that programs get: an owned, NULL-terminated array of borrowed strings.
 */
int start_environment(char **env, char ***ret);
