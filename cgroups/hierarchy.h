/*
 * Inside cgroups/: which hierarchies there are, and reading and writing one file of a cgroup.
 *
 * A hierarchy is one mounted tree. On v2 there is one, with every controller; on v1 there is one
 * for each controller (or for several that are mounted together), and on hybrid hosts one more,
 * cgroup2, with none. Everything here names a file as (hierarchy, path below the root, file).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cgroups/cgroup.h"
#include "lib/err.h"

enum controller {
	CONTROLLER_CPU,
	CONTROLLER_CPUACCT,
	CONTROLLER_CPUSET,
	CONTROLLER_MEMORY,
	CONTROLLER_DEVICES,
	CONTROLLER_FREEZER,
	CONTROLLER_BLKIO,
	CONTROLLER_PIDS,
	CONTROLLER_SYSTEMD, /* name=systemd: no limits, but systemd tells services apart by it */
	_CONTROLLER_MAX,
};

#define CGROUP_PATH_MAX 384 /* "ecstasks-<64>/<container name of 255>" fits */
#define MOUNT_PATH_MAX  256
#define HIERARCHIES_MAX (_CONTROLLER_MAX + 1)

/* "memory"; "name=systemd" for the named hierarchy, as in the options of its mount. */
const char *controller_to_string(enum controller controller);

/* What /proc/self/mountinfo says about one cgroup mount. */
struct cgroup_mount {
	bool unified;         /* cgroup2 */
	unsigned controllers; /* v1: bits 1u << enum controller */
	char path[MOUNT_PATH_MAX];
};

/*
 * The cgroup mounts at or below base, of the controllers that matter here. A mount that another
 * covers is left out. Returns how many, at most HIERARCHIES_MAX, or -EINVAL for a malformed line.
 */
int cgroup_mounts_parse(char *mountinfo, const char *base, struct cgroup_mount *ret,
                        struct err *err);

struct hierarchy {
	bool unified;
	unsigned controllers;
	int dir_fd;                                  /* the root's directory in it */
	char path[MOUNT_PATH_MAX + CGROUP_PATH_MAX]; /* the same, for messages */
};

struct cgroup_root {
	bool v2;
	struct hierarchy hierarchies[HIERARCHIES_MAX];
	size_t n_hierarchies;
	const struct hierarchy *by_controller[_CONTROLLER_MAX]; /* v1; NULL where missing */
	const struct hierarchy *unified;                        /* NULL on v1 without cgroup2 */
};

struct cgroup {
	const struct cgroup_root *root; /* borrowed */
	int unified_fd;                 /* its directory on cgroup2, or -EBADF */
	bool was_killed;                /* by cgroup.kill, through this handle */
	char path[CGROUP_PATH_MAX];
};

/* The hierarchy that has the files of controller: -EOPNOTSUPP (err names it) where there is none.
 */
int root_controller(const struct cgroup_root *root, enum controller controller,
                    const struct hierarchy **ret, struct err *err);

/* Open, read (at most n - 1 bytes, NUL-terminated) or write one file. Returns 0 (open: the
 * descriptor) or -errno, undescribed: hierarchy_write() puts path and value into err. */
int hierarchy_open(const struct hierarchy *h, const char *path, const char *file, int flags);
int hierarchy_read(const struct hierarchy *h, const char *path, const char *file, char *buf,
                   size_t n);
int hierarchy_write(const struct hierarchy *h, const char *path, const char *file, const char *text,
                    struct err *err);
bool hierarchy_has(const struct hierarchy *h, const char *path, const char *file);

/* The same for files that grow with the host: *ret is owned by the caller. -EFBIG beyond 1 MiB. */
int hierarchy_read_text(const struct hierarchy *h, const char *path, const char *file, char **ret);

/* The number behind key in a file of "key number" lines; key NULL: the file is one number.
 * -ENODATA without such a line, -ERANGE or -EINVAL for what is no number ("max" is UINT64_MAX). */
int hierarchy_read_u64(const struct hierarchy *h, const char *path, const char *file,
                       const char *key, uint64_t *ret);

/* Does path, or a cgroup below it, hold a process: by its cgroup.procs files. */
int hierarchy_has_processes(const struct hierarchy *h, const char *path, bool *ret);

/* Call fn for each process in path and below, or for path and each cgroup below it, until it
 * fails. */
int hierarchy_each_process(const struct hierarchy *h, const char *path,
                           int (*fn)(pid_t pid, void *), void *userdata);
int hierarchy_each_cgroup(const struct hierarchy *h, const char *path,
                          int (*fn)(const struct hierarchy *, const char *, void *),
                          void *userdata);

/* Make the directory path: 1 if it was made, 0 if it was there, -EEXIST if path is a file of the
 * kernel's, or -errno. v1 cpusets get the CPUs and memory nodes of their parent, without which no
 * process can enter. */
int hierarchy_make(const struct hierarchy *h, const char *path, struct err *err);

/* rmdir path and everything below; a missing one is no error. */
int hierarchy_remove(const struct hierarchy *h, const char *path, struct err *err);

/* v2: let the children of path have the controllers we use, as far as path has them itself.
 * -EBUSY when path holds processes. unified_delegates(): that is so already, and path has all that
 * we cannot do without. */
int unified_delegate(const struct hierarchy *h, const char *path, struct err *err);
bool unified_delegates(const struct hierarchy *h, const char *path);

/* limits.c: as the OCI runtimes convert, 2..262144 and 10..1000 to 1..10000. */
uint64_t cpu_weight_of_shares(uint64_t shares);
uint64_t io_weight_of_blkio(uint64_t weight);
int cgroup_set_limits(const struct cgroup *cgroup, const struct cgroup_limits *limits,
                      struct err *err);

/*
 * stats.c: the texts of the kernel, taken apart in place. 0, -ENOMEM, or -EBADMSG for a line that
 * is none of its.
 *
 * memory_stat_parse(): lines "name value"; the names stay in text.
 * io_stat_parse():     v2, "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6"; other words are
 *                      left out, and so are devices without a number.
 * blkio_stat_parse():  v1, "8:0 Read 1", in bytes or (bytes false) in requests, added to stats.
 * pressure_parse():    "some avg10=0.12 avg60=0.00 avg300=0.00 total=345" and "full ..."
 */
int memory_stat_parse(char *text, struct cgroup_stats *stats);
int io_stat_parse(char *text, struct cgroup_stats *stats);
int blkio_stat_parse(char *text, bool bytes, struct cgroup_stats *stats);
int pressure_parse(char *text, struct cgroup_pressure *ret);

/* devices.c: the rules that every container gets. */
extern const struct cgroup_device cgroup_default_devices[];
extern const size_t cgroup_n_default_devices;

struct bpf_insn;
#define DEVICE_PROGRAM_INSNS(n_rules) (8 + 8 * (n_rules))

/* The program for BPF_PROG_TYPE_CGROUP_DEVICE that allows these and denies the rest, into
 * DEVICE_PROGRAM_INSNS(n) instructions. Returns how many it wrote. */
size_t device_program(const struct cgroup_device *devices, size_t n, struct bpf_insn *insns);

/* One line for devices.allow: "c 1:3 rwm". */
void device_rule_to_string(const struct cgroup_device *device, char *buf, size_t n);
