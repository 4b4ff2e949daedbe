/*
 * The process and IPC namespaces of a task's containers, as ECS's pidMode and ipcMode name them.
 *
 * pid_mode PRIVATE (pidMode ""): each container has one of its own, and its first process is number
 *     1 there, with which the kernel ends all others.
 * TASK: one for all containers. Docker has none without a container, so the ECS agent starts one
 *     that pauses, and so looks ours to the containers: number 1 is "/pause", which collects their
 *     orphans. It is a process of the supervisor with nothing to take over (pause.h), and no
 *     container: it has no cgroup, no exit and no say in the task's end. Without a container it
 *     still ends with the supervisor, whose process namespace is around it, and takes all others
 *     along.
 * HOST: the host's. No process gets out of its process namespace, so the supervisor has none then
 *     either ("ecs-task --host-pid", asked of ecs-launcher). What outlives a container's first
 *     process is killed through the cgroup, with the supervisor or, when that has died, by the
 *     reaper.
 *
 * Where a container's processes are seen by others, none is before it has given up what the
 * container has not got: with TASK the one that prepares the start is in the supervisor's process
 * namespace and forks the first process into the shared one at the very end (child_steps.h). None
 * can be traced or read (PR_SET_DUMPABLE) before execve(2), but by a container of the host's
 * process namespace with CAP_SYS_PTRACE, to which all of the host is open anyway.
 *
 * initProcessEnabled holds in all: an init that is not number 1 is a subreaper of its container.
 *
 * ipc_mode PRIVATE, NONE: each container has one of its own, NONE without /dev/shm.
 * TASK: one for all, which is the supervisor's own; so is the /dev/shm that they share, as large as
 *     the largest sharedMemorySize that one of them asks for.
 * HOST: the host's, with the host's /dev/shm.
 *
 * Source: Amazon ECS API reference, TaskDefinition pidMode and ipcMode; Docker's "IPC settings" and
 * "PID settings" of docker run.
 */
#pragma once

#include <limits.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent/task/policy.h"
#include "agent/task/spec.h"
#include "lib/err.h"

struct namespaces {
	pid_t pause_pid;         /* 0: none, or it has died */
	int pid_ns_fd;           /* TASK: nsfs; else -EBADF */
	char proc_dir[PATH_MAX]; /* TASK: procfs of that one, in our mount namespace; else "" */
	char shm_dir[PATH_MAX];  /* ipc_mode TASK: what is /dev/shm; else "" */
};

#define NAMESPACES_EMPTY                                                                           \
	{                                                                                          \
		.pid_ns_fd = -EBADF                                                                \
	}

struct namespaces_config {
	const struct policy *policy;
	const char *tasks_dir, *seccomp_dir;
	bool host_pid; /* the supervisor is in the host's process namespace */
};

/*
 * Make what the containers of the task share, before any of them. Returns 0, or
 *   -EPERM   the policy forbids the host's namespaces
 *   -EINVAL  host_pid and pid_mode do not go together
 *   -errno   of what could not be made; nothing is left
 */
int namespaces_open(const struct task_spec *spec, const struct namespaces_config *config,
                    struct namespaces *ret, struct err *err);
/* Ends what runs in a process namespace of the task; children of ours that end meanwhile are
 * collected, and their ends are told to nobody. */
void namespaces_close(struct namespaces *namespaces);

/* The flags of clone3(2) for the first process of a container, or what prepares it. */
uint64_t namespaces_clone_flags(enum pid_mode pid_mode, enum ipc_mode ipc_mode);

/* As for namespaces_open(): may this container have the host's? -EPERM */
int namespaces_check(const struct policy *policy, enum ipc_mode mode, struct err *err);
