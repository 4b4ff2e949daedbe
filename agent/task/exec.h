/*
 * One more process in a container that runs: health checks, ECS Exec, an operator's shell.
 *
 *   exec_start()   -> EXEC_STARTING  a child is on its way into the container
 *                  -> EXEC_RUNNING   the program runs                        (notify)
 *                  -> EXEC_EXITED    it has ended, and its output is taken   (notify)
 *                  -> EXEC_FAILED    instead of RUNNING: exec_result() says why (notify)
 *   exec_free()    at any time; what still runs is killed, and notify is not called any more
 *
 * It gets what the container's own process has (namespaces, cgroup, root, capabilities, seccomp
 * filter, limits, no_new_privs, oom_score_adj, user, environment, working directory), no
 * inheritable capabilities, and no descriptor but its three. It ends with the container at the
 * latest. Nothing of it survives the supervisor.
 *
 * All of a task are in one struct exec_set, which the supervisor's loop serves.
 */
#pragma once

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "agent/task/container.h"
#include "lib/cleanup.h"
#include "lib/err.h"

#define EXECS_MAX        32 /* of a task, at once */
#define EXEC_FDS_MAX     (2 * EXECS_MAX)
#define EXEC_CAPTURE_MAX (1024 * 1024)
#define EXEC_START_USEC  (60 * 1000000ull)
#define EXEC_NO_STDIO                                                                              \
	{                                                                                          \
		-EBADF, -EBADF, -EBADF                                                             \
	}

/* Everything is borrowed for the call. */
struct exec_request {
	const char *const *args; /* NULL-terminated; at least one */
	const char *const *env;  /* NULL-terminated NAME=VALUE, over the container's; NULL: none */
	const char *user;        /* as in Docker's Config.User; NULL: the container's */
	const char *cwd;         /* absolute; NULL: the container's */
	bool terminal;           /* exec_take_console() has its other side; stdio is not used */
	unsigned short rows, columns; /* of the terminal; 0: as the kernel makes it */
	int stdio[3];          /* -EBADF: /dev/null. What is given the container can open anew. */
	size_t capture_bytes;  /* keep so much of stdout and stderr together, drop the rest */
	uint64_t timeout_usec; /* SIGKILL after so long; 0: never */
};

enum exec_status {
	EXEC_STARTING,
	EXEC_RUNNING,
	EXEC_EXITED,
	EXEC_FAILED,
};

struct exec_result {
	enum exec_status status;
	struct err err; /* EXEC_FAILED: why */
	int error;      /* EXEC_FAILED: negative errno */
	pid_t host_pid; /* as the host counts */
	int exit_code;  /* 128 + n after a signal; EXEC_FAILED: 126, 127 or -1 */
	int exit_signal;
	bool timed_out;
	const char *output; /* captured; NUL-terminated beyond output_len */
	size_t output_len;
	bool output_cut; /* there was more */
	uint64_t started_realtime_usec, ended_realtime_usec;
};

struct exec;
struct exec_set {
	struct exec *first;
	size_t n;
};

/* In notify, the exec may be freed; no other one. */
typedef void (*exec_notify_fn)(struct exec *exec, void *userdata);

/*
 * Returns 0, or
 *   -EINVAL  the request: err names the member
 *   -ESRCH   the container does not run
 *   -EAGAIN  EXECS_MAX run already
 *   -errno   of what could not be made
 */
int exec_start(struct exec_set *set, struct container *container,
               const struct exec_request *request, exec_notify_fn notify, void *userdata,
               struct exec **ret, struct err *err);
struct exec *exec_free(struct exec *exec);
DEFINE_CLEANUP(struct exec *, exec_free)

const struct exec_result *exec_result(const struct exec *exec);
const char *exec_container_name(const struct exec *exec);

/* The terminal's master side, from EXEC_RUNNING on; owned by the caller: when the last copy is
 * closed, the processes on the terminal get SIGHUP. Its size is changed by TIOCSWINSZ on it. */
int exec_take_console(struct exec *exec);

/* To the program and its process group. -ESRCH when it does not run. */
int exec_signal(struct exec *exec, int signal);

/* --- for the loop --- */

/* Fill in at most EXEC_FDS_MAX entries; returns how many. */
size_t execs_poll(struct exec_set *set, struct pollfd *fds);
/* fds: the entries that execs_poll() filled in. */
void execs_serve(struct exec_set *set, const struct pollfd *fds);
/* A child has been collected; false when it is none of these. */
bool execs_reaped(struct exec_set *set, pid_t pid, int wait_status);
/* When the next is due, monotonic; 0: none. */
uint64_t execs_deadline(const struct exec_set *set);
void execs_check_deadlines(struct exec_set *set);
/* The container is about to go; whatever has not ended there fails. */
void execs_end(struct exec_set *set, const struct container *container);
