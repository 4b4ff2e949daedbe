/*
 * The child side of starting a container: from clone3(2), with new mount, pid, ipc and uts
 * namespaces, to execve(2). It works through a plan made by the parent, allocates nothing, and
 * reports by number where it failed; the parent finds the words.
 *
 * Reports on plan->report_fd (close-on-exec): one struct child_report. One with step CHILD_READY
 * is sent right before execve(2): end of file after it means that execve(2) succeeded, unless a
 * report of CHILD_EXEC follows. End of file without it means that the child was killed. With a
 * terminal, CHILD_CONSOLE comes before and brings the master side of it.
 *
 * In a process namespace that the task shares, the child works through the steps outside of it,
 * where no other container sees it, and then forks the container's first process into it, as a
 * child of our parent. That one reports CHILD_FORK, which tells its pid, and goes on; the child
 * ends.
 *
 * With spec->hold the child stops before the program: it reports CHILD_HOLD, and goes on when it
 * reads a byte from plan->report_fd.
 *
 * With spec->init it forks the process that goes on from there, and itself executes
 * plan->init_program. The end of file is that of both.
 *
 * One more process in a container that runs (an exec) goes a way of its own, with the same plan and
 * reports: child_exec_run().
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent/task/execute_command_files.h"
#include "agent/task/init_program.h"
#include "agent/task/policy.h"
#include "agent/task/seccomp.h"
#include "agent/task/spec.h"
#include "agent/task/userns.h"
#include "cgroups/cgroup.h"
#include "lib/err.h"

enum child_step {
	CHILD_CGROUP,
	CHILD_OWNED_NAMESPACES,
	CHILD_NETWORK,
	CHILD_HOSTNAME,
	CHILD_LABEL,
	CHILD_KEYRING,
	CHILD_OWN_DIRECTORIES, /* item: index in child_own_directories */
	CHILD_PROC,
	CHILD_OOM_SCORE,
	CHILD_SYSCTLS, /* item: index in spec->sysctls */
	CHILD_DEV,
	CHILD_SHM,
	CHILD_CONSOLE,
	CHILD_DEVICES, /* item: index in spec->devices, or -1 */
	CHILD_SYS,
	CHILD_CGROUP_MOUNT,
	CHILD_MOUNTS,        /* item: index in spec->mounts */
	CHILD_MOUNT_SOURCE,  /* the same */
	CHILD_MOUNT_REFUSED, /* the same; not in the allowed host paths */
	CHILD_VOLUME,        /* the same; making, opening or filling a volume */
	CHILD_MAP_IDS,       /* the same; detail: type of a file system that cannot be id-mapped */
	CHILD_EXECUTE_COMMAND, /* item: index in execute_command; never ends the start */
	CHILD_ETC,             /* item: index in child_etc_files */
	CHILD_MAKE_CWD,
	CHILD_READONLY_PATHS, /* item: index in spec->readonly_paths */
	CHILD_MASKED_PATHS,   /* item: index in spec->masked_paths */
	CHILD_USER,
	CHILD_READONLY_ROOT,
	CHILD_PIVOT,
	CHILD_RLIMITS, /* item: index in spec->rlimits, or -1 */
	CHILD_STDIO,
	CHILD_USERNS,
	CHILD_CWD,
	CHILD_SECCOMP,
	CHILD_CAPABILITIES,
	CHILD_NO_NEW_PRIVS,
	CHILD_INIT,
	CHILD_NAMESPACES, /* of a container that runs, or those that the task shares */
	CHILD_FORK,
	CHILD_HOLD,
	CHILD_READY,
	CHILD_EXEC,
	_CHILD_STEP_MAX,
};

struct child_report {
	int32_t step;  /* enum child_step */
	int32_t error; /* negative errno; 0 with CHILD_READY */
	int32_t item;  /* as above, else -1 */
	uint32_t detail;
};

/* A device node of the host, for privileged containers. */
struct host_device {
	char path[64]; /* below /dev */
	mode_t mode;
	dev_t rdev;
	uid_t uid;
	gid_t gid;
};

/* Everything is borrowed and stays valid until the child is gone. */
struct child_plan {
	const struct container_spec *spec;
	const struct policy *policy;
	const char *dir; /* of the container in .private (rootfs.h) */
	struct volume_dirs volume_dirs;
	int host_mounts_fd;     /* host_mounts.h; -EBADF: none */
	const char *hostname;   /* as a whole */
	const char *domainname; /* NULL: the kernel's own */
	char **env;             /* NULL-terminated, with one more free place for HOME */
	size_t n_env;
	int netns_fd;         /* -EBADF: stay in the host's */
	int pid_ns_fd;        /* -EBADF: it was cloned into the right one */
	const char *proc_dir; /* with pid_ns_fd: where its procfs is mounted */
	const char *shm_dir;  /* what /dev/shm is; NULL: one of its own, if ipc_mode has one */
	const struct cgroup *cgroup;
	const char *const
		*cgroup_hierarchies;      /* v1: "cpu,cpuacct", "name=systemd", ...; NULL on v2 */
	struct host_device *host_devices; /* privileged */
	size_t n_host_devices;
	int stdio[3];  /* -EBADF: /dev/null; with spec->terminal none is used */
	int report_fd; /* a socket of SOCK_SEQPACKET */
	int init_fd;   /* exec: pidfd of the container's first process */
	/* What ECS Exec mounts, EXECUTE_COMMAND_MOUNTS; NULL: nothing. */
	const struct execute_command_mount *execute_command;
	const struct userns *userns; /* NULL: the host's */
	int ipc_fd, uts_fd;          /* namespaces that belong to userns (ipc_fd -EBADF: it was
	                              * cloned into the right one); not for an exec */
	const struct seccomp_filter *seccomp;    /* NULL: none */
	const struct init_program *init_program; /* with spec->init; not for an exec */
};

/* Runs in the child; does not return. */
_Noreturn void child_run(const struct child_plan *plan);

/*
 * The same for an exec, in a plain clone that is in the container's cgroup as far as cgroup2 goes.
 * It enters the namespaces of plan->init_fd, gives up what the container has not got, and only then
 * forks the process that is seen inside, as a child of our parent; its pid comes with CHILD_READY.
 * Of the plan these are used: spec (user, group, caps, limits, cwd, args, terminal, console size),
 * env, cgroup, stdio, report_fd, init_fd, userns, seccomp.
 */
_Noreturn void child_exec_run(const struct child_plan *plan);

/* Both ends of plan->report_fd; close-on-exec, [0] is the reader's and does not block. */
int child_report_open(int fds[2], struct err *err);

struct child_message {
	struct child_report report;
	pid_t pid;      /* who sent it, as the kernel says and the reader counts */
	int console_fd; /* owned; -EBADF if there is none */
};

/*
 * Take the next report: 1, 0 at the end of file, -EAGAIN when there is none yet, -errno. What does
 * not have the form of a report is -EPROTO.
 */
int child_report_receive(int fd, struct child_message *ret);

/*
 * What the report means, for people: fills err (name CannotStartContainerError) and returns the
 * exit code that goes with it: 127 command not found, 126 not executable, -1 for none.
 */
int child_report_describe(const struct container_spec *spec, const struct child_report *report,
                          struct err *err);
