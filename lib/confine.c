/*
 * Giving up privileges, once, in one order. Every step is read back: a kernel or a sandbox that
 * quietly ignored one must not leave a daemon that believes itself confined.
 */
#include "lib/confine.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "lib/cleanup.h"

static bool has_bit(uint64_t set, int cap)
{
	return set >> cap & 1;
}

static int drop_bounding_set(uint64_t keep, struct err *err)
{
	for (int cap = 0; cap <= CAP_LAST_CAP + 8; cap++) {
		int present = prctl(PR_CAPBSET_READ, cap, 0, 0, 0);

		if (present <= 0 || (cap < 64 && has_bit(keep, cap)))
			continue;
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0)
			continue;
		/* Without CAP_SETPCAP the set stays; with no_new_privs and no capabilities nothing
		 * can be gained from it any more. */
		if (errno == EPERM)
			return 0;
		return err_set(err, -errno, "drop capability %d from the bounding set", cap);
	}
	return 0;
}

static int switch_user(const char *user, struct err *err)
{
	uid_t uid, r_uid, e_uid, s_uid;
	gid_t gid, r_gid, e_gid, s_gid;
	int r;

	r = user_lookup(user, &uid, &gid, err);
	if (r < 0)
		return r;
	if (geteuid() == uid && getuid() == uid)
		return 0;
	if (setgroups(0, NULL) < 0)
		return err_set(err, -errno, "drop supplementary groups");
	if (setresgid(gid, gid, gid) < 0)
		return err_set(err, -errno, "become group %u", (unsigned int)gid);
	if (setresuid(uid, uid, uid) < 0)
		return err_set(err, -errno, "become user %s", user);
	if (getresuid(&r_uid, &e_uid, &s_uid) < 0 || getresgid(&r_gid, &e_gid, &s_gid) < 0 ||
	    r_uid != uid || e_uid != uid || s_uid != uid || r_gid != gid || e_gid != gid ||
	    s_gid != gid || getgroups(0, NULL) != 0)
		return err_text(err, -EPERM, "becoming user %s did not take effect", user);
	return 0;
}

static int set_capabilities(uint64_t keep, struct err *err)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {{0}}, now[2] = {{0}};

	for (int i = 0; i < 2; i++)
		data[i].permitted = data[i].effective = (uint32_t)(keep >> (32 * i));
	if (capget(&header, now) < 0)
		return err_set(err, -errno, "read capabilities");
	/* Where a service manager has done it already, its filter may forbid to try. */
	if (memcmp(now, data, sizeof(now)) != 0 && capset(&header, data) < 0)
		return err_set(err, -errno,
		               "set capabilities (this program needs to be started with them)");
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return err_set(err, -errno, "clear ambient capabilities");
	if (capget(&header, now) < 0)
		return err_set(err, -errno, "read capabilities back");
	for (int i = 0; i < 2; i++)
		if (now[i].permitted != data[i].permitted ||
		    now[i].effective != data[i].effective || now[i].inheritable != 0)
			return err_text(err, -EPERM, "setting capabilities did not take effect");
	return 0;
}

static const char *const base_syscalls[] = {
	/* memory */
	"brk",
	"mmap",
	"munmap",
	"mprotect",
	"mremap",
	"madvise",
	"mlock",
	"munlock",
	"membarrier",
	/* files */
	"read",
	"write",
	"readv",
	"writev",
	"pread64",
	"pwrite64",
	"preadv",
	"pwritev",
	"lseek",
	"_llseek",
	"open",
	"openat",
	"openat2",
	"close",
	"close_range",
	"stat",
	"fstat",
	"lstat",
	"newfstatat",
	"statx",
	"fstatfs",
	"statfs",
	"access",
	"faccessat",
	"faccessat2",
	"readlink",
	"readlinkat",
	"getdents64",
	"mkdir",
	"mkdirat",
	"rmdir",
	"unlink",
	"unlinkat",
	"rename",
	"renameat",
	"renameat2",
	"link",
	"linkat",
	"ftruncate",
	"fallocate",
	"fadvise64",
	"fsync",
	"fdatasync",
	"sync_file_range",
	"flock",
	"fcntl",
	"fcntl64",
	"dup",
	"dup2",
	"dup3",
	"pipe",
	"pipe2",
	"umask",
	"chmod",
	"fchmod",
	"fchmodat",
	"utimensat",
	"getcwd",
	"chdir",
	"fchdir",
	"ioctl",
	"sendfile",
	"splice",
	"memfd_create",
	/* events and time */
	"epoll_create1",
	"epoll_ctl",
	"epoll_wait",
	"epoll_pwait",
	"epoll_pwait2",
	"poll",
	"ppoll",
	"select",
	"pselect6",
	"eventfd2",
	"signalfd4",
	"timerfd_create",
	"timerfd_settime",
	"timerfd_gettime",
	"clock_gettime",
	"clock_getres",
	"clock_nanosleep",
	"nanosleep",
	"gettimeofday",
	"time",
	"getitimer",
	"setitimer",
	"inotify_init1",
	"inotify_add_watch",
	"inotify_rm_watch",
	/* sockets */
	"socket",
	"socketpair",
	"bind",
	"connect",
	"listen",
	"accept",
	"accept4",
	"shutdown",
	"getsockname",
	"getpeername",
	"getsockopt",
	"setsockopt",
	"sendto",
	"sendmsg",
	"sendmmsg",
	"recvfrom",
	"recvmsg",
	"recvmmsg",
	/* this process, its threads and signals */
	"exit",
	"exit_group",
	"futex",
	"futex_time64",
	"set_robust_list",
	"get_robust_list",
	"rseq",
	"clone",
	"clone3",
	"set_tid_address",
	"arch_prctl",
	"sched_yield",
	"sched_getaffinity",
	"sched_getparam",
	"sched_getscheduler",
	"getpid",
	"gettid",
	"getppid",
	"getuid",
	"geteuid",
	"getgid",
	"getegid",
	"getgroups",
	"getresuid",
	"getresgid",
	"getpgrp",
	"getpgid",
	"getsid",
	"getrlimit",
	"prlimit64",
	"getrusage",
	"sysinfo",
	"uname",
	"getrandom",
	"getcpu",
	"capget",
	"prctl",
	"rt_sigaction",
	"rt_sigprocmask",
	"rt_sigreturn",
	"rt_sigtimedwait",
	"rt_sigsuspend",
	"sigaltstack",
	"kill",
	"tgkill",
	"tkill",
	"restart_syscall",
	"wait4",
	"waitid",
	"pidfd_open",
	"pidfd_send_signal",
	"times",
	NULL,
};

const char *const *confine_base_syscalls(void)
{
	return base_syscalls;
}

DEFINE_CLEANUP(scmp_filter_ctx, seccomp_release)

static uint32_t refusal(const struct confinement *c)
{
	return c->kill ? SCMP_ACT_KILL_PROCESS : SCMP_ACT_ERRNO(EPERM);
}

static int add_rules(scmp_filter_ctx ctx, uint32_t action, const char *const *names,
                     struct err *err)
{
	for (; names && *names; names++) {
		int nr = seccomp_syscall_resolve_name(*names), r;

		if (nr == __NR_SCMP_ERROR)
			continue; /* not on this architecture, or newer than libseccomp */
		r = seccomp_rule_add(ctx, action, nr, 0);
		if (r < 0 && r != -EEXIST && r != -EDOM)
			return err_set(err, r, "make a rule for system call %s", *names);
	}
	return 0;
}

/*
 * New namespaces are asked for by flags of clone(2), which a filter can read; clone3(2) hides them
 * in memory, so it answers ENOSYS and libc falls back to clone.
 */
static int allow_threads_and_forks(scmp_filter_ctx ctx, struct err *err)
{
	const uint64_t namespaces =
		0x7E020080ULL; /* CLONE_NEW*: ns cgroup uts ipc user pid net time */
	int r;

	r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
	                     SCMP_A0(SCMP_CMP_MASKED_EQ, namespaces, 0));
	if (r == 0)
		r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	return r < 0 ? err_set(err, r, "allow threads") : 0;
}

static int allow_listed(scmp_filter_ctx ctx, const struct confinement *c, struct err *err)
{
	const char *names[ARRAY_SIZE(base_syscalls)];
	size_t n = 0;
	int r;

	for (size_t i = 0; base_syscalls[i]; i++)
		if (strcmp(base_syscalls[i], "clone") != 0 &&
		    strcmp(base_syscalls[i], "clone3") != 0)
			names[n++] = base_syscalls[i];
	names[n] = NULL;

	r = add_rules(ctx, SCMP_ACT_ALLOW, names, err);
	if (r == 0)
		r = add_rules(ctx, SCMP_ACT_ALLOW, c->syscalls, err);
	if (r == 0)
		r = allow_threads_and_forks(ctx, err);
#ifdef ECS_SANITIZERS
	if (r == 0) {
		static const char *const runtime[] = {"sched_setaffinity", "personality", "mincore",
		                                      NULL};

		r = add_rules(ctx, SCMP_ACT_ALLOW, runtime, err);
	}
#endif
	return r;
}

/* A user namespace would come with all capabilities in it; the others are of no use without. */
static int deny_namespaces(scmp_filter_ctx ctx, uint32_t action, struct err *err)
{
	/* time (unshare only: part of the signal for clone), cgroup, uts, ipc, user, pid, net */
	static const uint64_t flags[] = {0x00000080, 0x02000000, 0x04000000, 0x08000000,
	                                 0x10000000, 0x20000000, 0x40000000};
	int r = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);

	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(flags); i++) {
		r = seccomp_rule_add(ctx, action, SCMP_SYS(unshare), 1,
		                     SCMP_A0(SCMP_CMP_MASKED_EQ, flags[i], flags[i]));
		if (r == 0 && i > 0)
			r = seccomp_rule_add(ctx, action, SCMP_SYS(clone), 1,
			                     SCMP_A0(SCMP_CMP_MASKED_EQ, flags[i], flags[i]));
	}
	return r < 0 ? err_set(err, r, "refuse namespaces") : 0;
}

static int deny_listed(scmp_filter_ctx ctx, const struct confinement *c, struct err *err)
{
	int r = add_rules(ctx, refusal(c), c->denied, err);

	return r < 0 ? r : deny_namespaces(ctx, refusal(c), err);
}

static int install_filter(const struct confinement *c, struct err *err)
{
	_cleanup_(seccomp_releasep) scmp_filter_ctx ctx =
		seccomp_init(c->denied ? SCMP_ACT_ALLOW : refusal(c));
	int r;

	if (!ctx)
		return err_oom(err);
	r = c->denied ? deny_listed(ctx, c, err) : allow_listed(ctx, c, err);
	if (r < 0)
		return r;
	r = seccomp_load(ctx);
	if (r < 0)
		return err_set(err, r, "load the system call filter");
	if (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != 2)
		return err_text(err, -EPERM, "the system call filter did not take effect");
	return 0;
}

int confine(const struct confinement *c, struct err *err)
{
	int r;

	r = drop_bounding_set(c->capabilities, err);
	if (r < 0)
		return r;
	/* Capabilities are kept over the change of user, then cut to what is asked for. */
	if (c->capabilities && prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
		return err_set(err, -errno, "keep capabilities");
	if (c->user) {
		r = switch_user(c->user, err);
		if (r < 0)
			return r;
	}
	r = set_capabilities(c->capabilities, err);
	if (r < 0)
		return r;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1)
		return err_set(err, -errno, "set no_new_privs");
	return c->syscalls || c->denied ? install_filter(c, err) : 0;
}

int confine_no_dumps(struct err *err)
{
	const struct rlimit none = {0, 0};

	if (setrlimit(RLIMIT_CORE, &none) < 0)
		return err_set(err, -errno, "forbid core dumps");
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return err_set(err, -errno, "forbid tracing");
	return 0;
}
