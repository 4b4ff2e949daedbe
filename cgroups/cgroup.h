/*
 * The control groups of tasks and containers, on cgroup v2 and on v1 and hybrid hosts alike.
 *
 * A root is the directory below which everything of this agent lives: "<mount>/<parent>" on v2
 * (one hierarchy) and "<mount of each controller>/<parent>" on v1. On v1 and hybrid hosts each
 * cgroup also gets a directory in the cgroup2 hierarchy (no controllers there), since its id tells
 * which container a host-network connection comes from.
 *
 * Paths are relative to the root: "ecstasks-<task id>", "ecstasks-<task id>/supervisor",
 * "ecstasks-<task id>/<container>". The kernel keeps the state: a cgroup that exists can be opened
 * again after any restart, and one that somebody else has removed reads as -ENOENT. libc only.
 *
 * Source: Linux Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/cleanup.h"
#include "lib/err.h"

struct cgroup_root;
struct cgroup;

/* parent: "ecs" by default, or names joined by '/' below a service's own cgroup. mount: NULL for
 * /sys/fs/cgroup. Creates the root's directories if missing and, on v2, delegates cpu, memory, pids
 * and (where there is one) io to it. The root must outlive its cgroups.
 * -EOPNOTSUPP when memory, cpu or pids is not to be had (err names it); -EBUSY when processes live
 * in the parent itself; -EINVAL: parent. */
int cgroup_root_open(const char *mount, const char *parent, struct cgroup_root **ret,
                     struct err *err);
struct cgroup_root *cgroup_root_free(struct cgroup_root *root);
DEFINE_CLEANUP(struct cgroup_root *, cgroup_root_free)
bool cgroup_root_is_v2(const struct cgroup_root *root);

/*
 * Can CPU and memory be limited on this host at all: for who may read only. mount: NULL for
 * /sys/fs/cgroup; proc_cgroups: NULL for /proc/cgroups. Returns 0, or -EOPNOTSUPP (err names the
 * controller), or -ENOMEM.
 * Source: Linux Documentation/admin-guide/cgroup-v2.rst "cgroup.controllers", cgroups(7).
 */
int cgroup_check_controllers(const char *mount, const char *proc_cgroups, struct err *err);

/* Zero fields leave what is in place, in a new cgroup the kernel's default. */
struct cgroup_limits {
	uint64_t cpu_shares;               /* v1 cpu.shares 2..262144; v2 weight as runc converts */
	uint64_t cpu_quota_usec;           /* per cpu_period_usec */
	uint64_t cpu_period_usec;          /* 1000 to 1000000; 0 means 100000 */
	uint64_t memory_max_bytes;         /* hard limit */
	uint64_t memory_reservation_bytes; /* v1 soft limit, v2 memory.low; at most the limit */
	int64_t memory_swap_bytes;         /* memory+swap as Docker counts; -1 unlimited; 0 unset */
	bool memory_swap_if_counted;       /* leave that one out where the kernel does not count */
	bool has_memory_swappiness;
	uint64_t memory_swappiness; /* 0 to 100; v2 has no own for a cgroup, see below */
	uint64_t pids_max;
	uint64_t io_weight; /* 10 to 1000, as blockIO.weight of the OCI; for BFQ and I/O cost */
};

/*
 * Make a cgroup and apply its limits before returning. inner: it will hold further cgroups and no
 * process (v2 delegates the controllers to its children). An existing one is reused and the limits
 * that are given are set anew.
 *
 *   -EINVAL      path, a limit out of range, or two that contradict each other
 *   -EEXIST      path is a control file of the kernel's
 *   -EOPNOTSUPP  a limit that this host cannot hold: swap where the kernel does not count it, a
 *                weight without an I/O controller, or on v2 a swappiness other than vm.swappiness
 *   -EBUSY       inner, and it holds processes
 *   -errno       of the file that refused (named in err)
 *
 * What was created is removed then.
 */
int cgroup_create(struct cgroup_root *root, const char *path, bool inner,
                  const struct cgroup_limits *limits, struct cgroup **ret, struct err *err);

/* -ENOENT if it is not there. One that is there in a part of the hierarchies, as a crash may leave
 * it, is opened for the sake of its processes: to kill and remove them. */
int cgroup_open(struct cgroup_root *root, const char *path, struct cgroup **ret, struct err *err);
struct cgroup *cgroup_free(struct cgroup *cgroup);
DEFINE_CLEANUP(struct cgroup *, cgroup_free)

/* A directory descriptor for clone3(CLONE_INTO_CGROUP), borrowed; -EBADF where no cgroup2 is
 * mounted, and once cgroup_kill() has used cgroup.kill: from then on Linux 6.14 and later may kill
 * whatever is cloned in, since it takes it for something that was forked before the kill
 * (cgroup_css_set_fork() looks up kill_seq of the parent's cgroup). A child made with it enters the
 * rest by cgroup_join_cloned(). */
int cgroup_clone_fd(const struct cgroup *cgroup);

/*
 * Move the calling single-threaded process in, by writing "0" to tasks (v1) and cgroup.procs (v2).
 * Async-signal-safe. Returns 0 or -errno. Writing to cgroup.procs costs 10 ms, as long as the
 * kernel waits for an RCU grace period, so new processes are better cloned in:
 *
 * cgroup_join_cloned() is for a child that was made with cgroup_clone_fd() (or without, where that
 * is -EBADF). It enters what is left: the v1 hierarchies.
 */
int cgroup_join(const struct cgroup *cgroup);
int cgroup_join_cloned(const struct cgroup *cgroup);

/* The 64-bit id that inet_diag reports for sockets made inside (INET_DIAG_CGROUP_ID).
 * -EOPNOTSUPP where no cgroup2 is mounted. */
int cgroup_id(const struct cgroup *cgroup, uint64_t *ret);

/* v1 devices controller or, on v2, a BPF program: deny all, then allow Docker's default list plus
 * these. all: allow every device (privileged). */
struct cgroup_device {
	char type;            /* 'b', 'c' or 'a' */
	int64_t major, minor; /* -1 for any */
	const char *access;   /* of "rwm" */
};
int cgroup_set_devices(struct cgroup *cgroup, bool all, const struct cgroup_device *devices,
                       size_t n, struct err *err);

/* Processes the OOM killer has ended in it and below, whichever cgroup above had reached its limit:
 * v2 memory.events oom_kill, v1 memory.oom_control oom_kill of each. */
int cgroup_oom_kills(const struct cgroup *cgroup, uint64_t *ret);

/* Is any process in it or below. A removed one has none. */
int cgroup_is_populated(const struct cgroup *cgroup, bool *ret);

/* Stop every process in it and below until cgroup_thaw(). Returns when none runs any more, or
 * -ETIMEDOUT after two seconds (one does not leave the kernel), thawed again. */
int cgroup_freeze(struct cgroup *cgroup, struct err *err);
int cgroup_thaw(struct cgroup *cgroup, struct err *err);

/* SIGKILL everything in it and below, frozen or not: cgroup.kill, or freeze-kill-thaw with repeats
 * on v1. Returns when nothing is left, or -ETIMEDOUT after two seconds (unkillable processes
 * remain). */
int cgroup_kill(struct cgroup *cgroup, struct err *err);

/* Remove path and everything below it; processes must be gone (-EBUSY). Missing is no error. */
int cgroup_remove(struct cgroup_root *root, const char *path, struct err *err);

/* Names directly below the root that start with prefix: an owned, NULL-terminated array, each
 * string owned (free both), for finding what a crash left. */
int cgroup_list(struct cgroup_root *root, const char *prefix, char ***ret);

/* Reads and writes of one block device since the cgroup was made. */
struct cgroup_io_stats {
	uint32_t major, minor;
	uint64_t read_bytes, write_bytes, discard_bytes;
	uint64_t reads, writes, discards;
};

struct cgroup_memory_counter {
	const char *name; /* as the kernel has it in memory.stat, which differs between v1 and v2 */
	uint64_t value;
};

/*
 * What a cgroup and those below it have used, as Docker's statistics want it. A limit of 0 is none.
 * Cumulative numbers count from the making of the cgroup.
 */
struct cgroup_stats {
	uint64_t cpu_usage_nsec, cpu_user_nsec, cpu_system_nsec; /* v2 counts in microseconds */
	uint64_t *cpu_usage_each_nsec; /* per possible CPU; v1 alone counts them, else NULL */
	size_t n_cpus;
	uint64_t cpu_periods, cpu_throttled_periods, cpu_throttled_nsec;

	uint64_t memory_bytes, memory_max_bytes;
	uint64_t memory_peak_bytes; /* 0 where the kernel does not tell (v2 before Linux 5.19) */
	uint64_t memory_limit_hits; /* how often that limit was met, apart from that with swap */
	uint64_t memory_file_bytes, memory_anon_bytes, memory_inactive_file_bytes;
	struct cgroup_memory_counter *memory_counters; /* all of memory.stat */
	size_t n_memory_counters;

	uint64_t pids, pids_max;

	/* None without an I/O controller. v1 depends on the kernel: Linux 6.10 and later count only
	 * on devices for which a cgroup has had a throttle set, 6.1 only in cgroups that have one.
	 */
	struct cgroup_io_stats *io;
	size_t n_io;

	char *text; /* what the names of memory_counters point into */
};

/* *ret is released by cgroup_stats_done(). -ENOENT, -ENOMEM, or -EBADMSG when the kernel writes
 * something unheard of. */
int cgroup_get_stats(const struct cgroup *cgroup, struct cgroup_stats *ret);
void cgroup_stats_done(struct cgroup_stats *stats);

/*
 * Pressure stall information: the share of time in which some, or all, processes of the cgroup have
 * waited for a resource; averages over 10, 60 and 300 seconds in hundredths of a percent, and the
 * sum. The kernel has it in the cgroup2 hierarchy alone, there also on hybrid hosts.
 * -EOPNOTSUPP on v1 without one, and on a kernel without PSI (kernel parameter psi=1).
 * Source: Linux Documentation/accounting/psi.rst.
 */
enum cgroup_pressure_resource {
	CGROUP_PRESSURE_CPU,
	CGROUP_PRESSURE_MEMORY,
	CGROUP_PRESSURE_IO,
};

struct cgroup_stall {
	unsigned int avg10, avg60, avg300;
	uint64_t total_usec;
};

struct cgroup_pressure {
	struct cgroup_stall some, full; /* full of the CPU: zeros before Linux 5.13 */
};
int cgroup_get_pressure(const struct cgroup *cgroup, enum cgroup_pressure_resource resource,
                        struct cgroup_pressure *ret);
