/*
 * One container of a task, in the supervisor.
 *
 *   container_create()          -> CREATED   cgroup, network namespace, endpoint, root file system
 *   container_start()           -> STARTING  a child is on its way to execve(2)
 *   container_start_progress()  -> RUNNING, or STOPPED when a step failed
 *   container_stop()            signals; CREATED -> STOPPED at once
 *   container_exited()          RUNNING -> STOPPED: exit code, OOM, output drained, exit file
 *   container_start() again     STOPPED -> STARTING, if made with "restart"
 *   container_remove()          what is in the kernel and on disk; container_free() the rest
 *
 * Nothing of it survives the supervisor but the exit file: the kernel ends the processes,
 * namespaces and mounts with it, and the reaper removes cgroups and directories.
 */
#pragma once

#include <json-c/json.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent/task/child.h"
#include "agent/task/etc_files.h"
#include "agent/task/layer_lock.h"
#include "agent/task/namespaces.h"
#include "agent/task/output.h"
#include "agent/task/policy.h"
#include "agent/task/spec.h"
#include "cgroups/cgroup.h"
#include "netns/endpoint.h"

#define CONTAINER_START_USEC      (120 * 1000000ull) /* from clone to execve: NFS mounts may wait */
#define CONTAINER_STOP_USEC       (30 * 1000000ull)  /* grace where nobody said another */
#define CONTAINER_HIERARCHIES_MAX 32

/* What the containers of a task share. */
struct task {
	const char *id;
	char tasks_dir[PATH_MAX];   /* <state>/tasks */
	char volumes_dir[PATH_MAX]; /* <state>/volumes */
	char mounted_dir[PATH_MAX]; /* <run>/volumes */
	char state_dir[PATH_MAX];   /* <state>/tasks/<id> */
	char layers_dir[PATH_MAX];  /* <state>/images/layers */
	char seccomp_dir[PATH_MAX]; /* <run>/seccomp */
	int run_fd;                 /* <run>/tasks/<id> */
	int host_mounts_fd;         /* host_mounts.h; -EBADF: none */
	int exits_fd;               /* <state>/exits/<id>; -EBADF unless the host shuts down */
	int spool_fd;               /* <state>/spool */
	struct task_spec spec;
	struct cgroup_root *cgroup_root;
	struct policy policy;
	struct namespaces namespaces;
	struct userns *userns; /* owned; NULL: no container has needed it */
	/* cgroup v1: what to mount in containers, NULL-terminated, "" for cgroup2; NULL on v2 */
	const char **hierarchies;
	char *hierarchies_text;
};

enum container_status {
	CONTAINER_CREATED,
	CONTAINER_STARTING,
	CONTAINER_RUNNING,
	CONTAINER_STOPPED,
};

struct container {
	struct container *next;
	struct task *task; /* borrowed */
	char *name, *id;
	struct container_spec *spec;      /* NULL once it runs and cannot be started again */
	struct container_spec *exec_spec; /* for an exec (spec.h); NULL until it runs */
	struct seccomp_filter filter;     /* of a profile of its own; empty: Docker's default */
	char hostname[65];
	enum container_status status;
	char private_dir[PATH_MAX]; /* rootfs.h */
	struct layer_locks layer_locks;
	char cgroup_path[384];
	struct cgroup *cgroup;
	bool has_cgroup_id;
	uint64_t cgroup_id;
	uint64_t oom_kills; /* before this start */
	int stop_signal;
	const struct userns *userns; /* the task's; NULL: in the host's */
	int ipc_fd, uts_fd;          /* owned by userns, for the next start; -EBADF: none */
	int netns_fd;
	struct endpoint endpoint;
	int *port_fds; /* owned, as the descriptors */
	size_t n_port_fds;
	char address[INET6_ADDRSTRLEN], gateway[INET6_ADDRSTRLEN]; /* of the last start; "": none */
	uint64_t starts;                                           /* that were tried */
	struct output output;
	uint64_t dropped_told;
	struct health *health;                   /* NULL: no health check */
	struct execute_command *execute_command; /* NULL: no ECS Exec */

	/* this start */
	pid_t pid, host_pid; /* in our pid namespace; in that of the host's /proc */
	int pid_fd;
	bool is_helper; /* they are of the one that prepares the start (child.h) */
	int report_fd;  /* -EBADF: execve(2) is behind us */
	int stdin_fd;   /* interactive: kept open, so that the container never reads the end */
	bool was_ready;
	bool held;      /* STARTING, and waits for container_release() */
	int console_fd; /* held: the terminal's master side, for whoever asked */
	int stdio[3];   /* oci: what its standard input and output are; -EBADF: /dev/null */
	struct child_report failure;                      /* error 0: none */
	uint64_t start_deadline_usec, stop_deadline_usec; /* monotonic; 0: none */
	bool kill_sent;
	uint64_t started_realtime_usec, started_usec; /* the latter monotonic; 0: it did not run */
	struct json_object *start_request;            /* to answer; NULL once answered */

	/* the last exit */
	bool has_exit_code;
	int exit_code, exit_signal;
	bool oom_killed;
	uint64_t exit_realtime_usec;
	uint64_t ran_usec; /* from its start to its exit, whatever was done to the clock */
};

/* Takes spec on success. err->name is CannotCreateContainerError; nothing is left on failure. */
int container_create(struct task *task, struct container_spec *spec, struct container **ret,
                     struct err *err);

/* Takes the n port descriptors on success. A start that is not the first keeps the ports, and the
 * address where none is given. -EBUSY when it is not startable now; after any other failure it is
 * STOPPED. */
int container_start(struct container *container, const struct network_address *address,
                    const int *port_fds, size_t n_port_fds, struct err *err);

enum container_progress {
	CONTAINER_WAITS,   /* nothing final yet */
	CONTAINER_HELD,    /* spec->hold: all is made but the program runs */
	CONTAINER_STARTED, /* the program runs: RUNNING */
	CONTAINER_FAILED,  /* STOPPED; err says why, has_exit_code and exit_code are set */
};

/* Read the child's report. ended: the child is gone, so nothing more can come. */
enum container_progress container_start_progress(struct container *container, bool ended,
                                                 struct err *err);

/* Let a held container run its program: STARTING as after container_start(). -EBUSY: not held. */
int container_release(struct container *container, struct err *err);

/* To the first process, of a held container too; -ESRCH without one. */
int container_signal(const struct container *container, int signal);

/* Give up a start that takes too long (or was stopped): STOPPED, with err. */
void container_start_abort(struct container *container, struct err *err);

/* Returns true when the container is stopped by that already (it never ran). */
bool container_stop(struct container *container, uint64_t timeout_usec);

/* The stop deadline has passed: SIGKILL. */
void container_kill(struct container *container);

/* wait_status: of waitpid(2). Ends with STOPPED and the exit file written. */
void container_exited(struct container *container, int wait_status);

/* Write the exit, if there was one, where it outlives a restart of the host (exits_fd). */
void container_save_exit(const struct container *container);

/* The "exited" event, also the content of the exit file. NULL: out of memory. */
struct json_object *container_exit_event(const struct container *container);

/* Remove cgroup, mount and directories; what fails is logged and left to the reaper. */
void container_remove(struct container *container);
struct container *container_free(struct container *container);
DEFINE_CLEANUP(struct container *, container_free)

/* The filter for spec, this container's or that of an exec in it: *ret is NULL for none, else the
 * container's or own, which takes what the caller frees with seccomp_filter_done(). */
int container_filter(const struct container *container, const struct container_spec *spec,
                     struct seccomp_filter *own, const struct seccomp_filter **ret,
                     struct err *err);

/* The process of pid_fd as the host counts; pid, our own number for it, if that is not to be had.
 */
pid_t process_host_pid(int pid_fd, pid_t pid);

uint64_t now_monotonic_usec(void);
