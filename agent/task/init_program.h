/*
 * The program of the processes that we leave in a container (initProcessEnabled) or in a process
 * namespace that containers share (pause.h), for the whole life of those: ecs-init.c, under a
 * kilobyte without any library, which is part of ours. A process that runs it has none of the
 * supervisor's memory, where the environments of all containers of the task are; it is confined and
 * labelled by its execve(2) as every program of the container is, and can be looked at by those who
 * can look at the container's program, so that /proc/1/fd/1 and /proc/1/environ are of use.
 *
 * It needs no file in the image, and is run from a sealed one in memory. That is made for each
 * start: with one for all, root in one container could change the mode or label of the others'.
 */
#pragma once

#include <sys/types.h>

#include "agent/task/label.h"
#include "lib/err.h"

struct init_program {
	int fd;
	const char **argv; /* owned; the strings are borrowed */
	size_t n;
};

#define INIT_PROGRAM_EMPTY                                                                         \
	{                                                                                          \
		.fd = -EBADF                                                                       \
	}

/*
 * args: of the container's program, for a command line as Docker's: "/sbin/docker-init -- PROGRAM
 *       ARGUMENT..."; they must stay where they are.
 * name: what the command line is without args; then it knows no program and never ends.
 */
int init_program_open(const char *const *args, const char *name, const struct labels *labels,
                      struct init_program *ret, struct err *err);
void init_program_done(struct init_program *program);

/*
 * Become it; all signals must be blocked. main_pid: the container's program, a child of the calling
 * process, whose end is that of the init process, too; 0 without one. Allocates nothing. Returns
 * only -errno of execve(2).
 */
int init_program_execute(const struct init_program *program, pid_t main_pid, char *const *env);
