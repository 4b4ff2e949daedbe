/*
 * A program gives up what it does not need, first thing in main(): once, in one order (bounding
 * set, groups, gid, uid, capabilities, no_new_privs, seccomp), each step checked and read back.
 * Links libcap and libseccomp (libconfine.a).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/err.h"

struct confinement {
	/* Switch to this user and its primary group, with no other groups; NULL: stay who we are.
	 */
	const char *user;
	/* Capabilities kept (CAP_* bits as 1ULL << CAP_X), permitted and effective; all others
	 * leave every set and the bounding set. Ambient and inheritable are emptied. */
	uint64_t capabilities;
	/* System calls that are allowed, by name, NULL-terminated, on top of
	 * confine_base_syscalls(). NULL: install no filter. Unknown names on this architecture are
	 * skipped. */
	const char *const *syscalls;
	/* The other way round, for programs that run those of others: all calls are allowed but
	 * these and those that make namespaces, except of mounts. Not together with syscalls. */
	const char *const *denied;
	/* Refused calls: false: fail with EPERM; true: end the process (SIGSYS). */
	bool kill;
};

/*
 * Returns 0, or -errno with the step in err; the caller must exit then, since the process is half
 * way between two states. Not started as root: the capabilities that are missing are an error
 * only if they were asked for.
 */
int confine(const struct confinement *c, struct err *err);

/* What any program of ours with an event loop, files, sockets and memory needs. Holds no execve,
 * fork of a new namespace, mount, ptrace, bpf, keyctl, module or raw I/O call. */
const char *const *confine_base_syscalls(void);

/* No core dumps and no ptrace by others of the same user (PR_SET_DUMPABLE, RLIMIT_CORE): for
 * programs that hold credentials. */
int confine_no_dumps(struct err *err);

/* uid and primary gid of a user: -ESRCH if there is none. In libbase.a: needs libc only. */
int user_lookup(const char *name, uid_t *ret_uid, gid_t *ret_gid, struct err *err);
