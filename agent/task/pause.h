/*
 * The first process of a process namespace that the containers of a task share. It does nothing but
 * collect orphans, and has nothing that would be worth taking it over, as a container with
 * CAP_SYS_PTRACE can: no capability, an empty read-only root, no descriptor, a network of its own
 * without an interface, Docker's seccomp filter without the rules for capabilities. Signals from
 * inside it do not reach it, SIGKILL included, as with every first process. To the containers it is
 * called "/pause", as in ECS.
 *
 * It runs the program of init_program.h, so that of the supervisor's memory it has none either.
 */
#pragma once

#include <sys/types.h>

#include "agent/task/seccomp.h"
#include "lib/err.h"

struct pause_process {
	pid_t pid;     /* a child of ours */
	int pid_ns_fd; /* nsfs, owned */
	int proc_fd;   /* procfs of it, mounted nowhere yet, owned */
};

struct pause_config {
	/* A directory that its root can be mounted on, in its own mount namespace. */
	const char *empty_dir;
	const struct seccomp_filter *filter;
};

/* Nothing is left on failure. */
int pause_process_start(const struct pause_config *config, struct pause_process *ret,
                        struct err *err);
