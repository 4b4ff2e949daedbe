/* Limits in the words of the container runtimes, written as v1 and v2 files want them. */
#include "cgroups/hierarchy.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "lib/cleanup.h"
#include "lib/fd.h"
#include "lib/parse.h"

#define SHARES_MIN     2
#define SHARES_MAX     262144
#define PERIOD_USEC    100000
#define SWAPPINESS_MAX 100
#define IO_WEIGHT_MIN  10
#define IO_WEIGHT_MAX  1000

uint64_t cpu_weight_of_shares(uint64_t shares)
{
	return 1 + (shares - SHARES_MIN) * 9999 / (SHARES_MAX - SHARES_MIN);
}

uint64_t io_weight_of_blkio(uint64_t weight)
{
	return 1 + (weight - IO_WEIGHT_MIN) * 9999 / (IO_WEIGHT_MAX - IO_WEIGHT_MIN);
}

static int check_cpu(const struct cgroup_limits *l, struct err *err)
{
	if (l->cpu_shares != 0 && (l->cpu_shares < SHARES_MIN || l->cpu_shares > SHARES_MAX))
		return err_text(err, -EINVAL, "cpu shares %" PRIu64 " must be %d to %d",
		                l->cpu_shares, SHARES_MIN, SHARES_MAX);
	if (l->cpu_period_usec != 0 && (l->cpu_period_usec < 1000 || l->cpu_period_usec > 1000000))
		return err_text(err, -EINVAL,
		                "cpu period %" PRIu64 " must be 1000 to 1000000 microseconds",
		                l->cpu_period_usec);
	if (l->cpu_quota_usec != 0 &&
	    (l->cpu_quota_usec < 1000 || l->cpu_quota_usec > INT64_MAX / 1000))
		return err_text(err, -EINVAL,
		                "cpu quota %" PRIu64 " must be at least 1000 microseconds",
		                l->cpu_quota_usec);
	return 0;
}

static int check_memory(const struct cgroup_limits *l, struct err *err)
{
	if (l->memory_max_bytes != 0 && l->memory_reservation_bytes > l->memory_max_bytes)
		return err_text(err, -EINVAL,
		                "memory reservation %" PRIu64
		                " must not be more than the memory limit %" PRIu64,
		                l->memory_reservation_bytes, l->memory_max_bytes);
	if (l->has_memory_swappiness && l->memory_swappiness > SWAPPINESS_MAX)
		return err_text(err, -EINVAL, "memory swappiness %" PRIu64 " must be 0 to %d",
		                l->memory_swappiness, SWAPPINESS_MAX);
	if (l->memory_swap_bytes < -1)
		return err_text(err, -EINVAL, "memory and swap %" PRId64 " must be -1 or more",
		                l->memory_swap_bytes);
	if (l->memory_swap_bytes > 0 && l->memory_max_bytes == 0)
		return err_text(err, -EINVAL, "a limit of memory and swap needs a limit of memory");
	if (l->memory_swap_bytes > 0 && (uint64_t)l->memory_swap_bytes < l->memory_max_bytes)
		return err_text(err, -EINVAL,
		                "memory and swap %" PRId64 " must not be less than memory %" PRIu64,
		                l->memory_swap_bytes, l->memory_max_bytes);
	return 0;
}

static int check_limits(const struct cgroup_limits *l, struct err *err)
{
	int r;

	r = check_cpu(l, err);
	if (r == 0)
		r = check_memory(l, err);
	if (r == 0 && l->io_weight != 0 &&
	    (l->io_weight < IO_WEIGHT_MIN || l->io_weight > IO_WEIGHT_MAX))
		r = err_text(err, -EINVAL, "I/O weight %" PRIu64 " must be %d to %d", l->io_weight,
		             IO_WEIGHT_MIN, IO_WEIGHT_MAX);
	return r;
}

/* A file that is not there means one of two things, and neither is "No such file". */
static int explain_missing(const struct cgroup *cgroup, const struct hierarchy *h,
                           enum controller controller, const char *file, struct err *err)
{
	if (!hierarchy_has(h, cgroup->path, "cgroup.procs"))
		return err_text(err, -ENOENT, "cgroup %s/%s has been removed", h->path,
		                cgroup->path);
	return err_text(err, -EOPNOTSUPP, "cgroup %s/%s has no %s: controller %s is not enabled",
	                h->path, cgroup->path, file, controller_to_string(controller));
}

static int write_text(const struct cgroup *cgroup, enum controller controller, const char *file,
                      const char *text, struct err *err)
{
	const struct hierarchy *h;
	int r;

	r = root_controller(cgroup->root, controller, &h, err);
	if (r < 0)
		return r;
	r = hierarchy_write(h, cgroup->path, file, text, err);
	return r == -ENOENT || r == -ENODEV ? explain_missing(cgroup, h, controller, file, err) : r;
}

/* Nothing is written for 0. */
static int write_u64(const struct cgroup *cgroup, enum controller controller, const char *file,
                     uint64_t value, struct err *err)
{
	char text[24];

	if (value == 0)
		return 0;
	snprintf(text, sizeof(text), "%" PRIu64, value);
	return write_text(cgroup, controller, file, text, err);
}

static bool has_file(const struct cgroup *cgroup, enum controller controller, const char *file)
{
	const struct hierarchy *h;

	return root_controller(cgroup->root, controller, &h, NULL) == 0 &&
	       hierarchy_has(h, cgroup->path, file);
}

static int set_cpu_v1(const struct cgroup *cgroup, const struct cgroup_limits *l, struct err *err)
{
	int r;

	r = write_u64(cgroup, CONTROLLER_CPU, "cpu.shares", l->cpu_shares, err);
	if (r < 0 || (l->cpu_quota_usec == 0 && l->cpu_period_usec == 0))
		return r;

	/* A new period together with an old quota may exceed what the parent has. */
	if (l->cpu_quota_usec != 0)
		r = write_text(cgroup, CONTROLLER_CPU, "cpu.cfs_quota_us", "-1", err);
	if (r == 0)
		r = write_u64(cgroup, CONTROLLER_CPU, "cpu.cfs_period_us",
		              l->cpu_period_usec ? l->cpu_period_usec : PERIOD_USEC, err);
	if (r == 0)
		r = write_u64(cgroup, CONTROLLER_CPU, "cpu.cfs_quota_us", l->cpu_quota_usec, err);
	return r;
}

static int no_swap_accounting(const struct cgroup_limits *l, struct err *err)
{
	/* Without a limit nothing has to be counted. */
	if (l->memory_swap_bytes <= 0 || l->memory_swap_if_counted)
		return 0;
	return err_text(
		err, -EOPNOTSUPP,
		"a limit of memory and swap needs swap accounting (kernel parameter swapaccount=1)");
}

static int set_swappiness_v1(const struct cgroup *cgroup, const struct cgroup_limits *l,
                             struct err *err)
{
	char text[24];

	if (!l->has_memory_swappiness)
		return 0;
	snprintf(text, sizeof(text), "%" PRIu64, l->memory_swappiness);
	return write_text(cgroup, CONTROLLER_MEMORY, "memory.swappiness", text, err);
}

static int set_memory_v1(const struct cgroup *cgroup, const struct cgroup_limits *l,
                         struct err *err)
{
	bool has_swap = has_file(cgroup, CONTROLLER_MEMORY, "memory.memsw.limit_in_bytes");
	int r = has_swap ? 0 : no_swap_accounting(l, err);

	/* The kernel wants memsw >= memory at every moment, whatever an earlier start has set. */
	if (r == 0 && has_swap && l->memory_max_bytes != 0)
		r = write_text(cgroup, CONTROLLER_MEMORY, "memory.memsw.limit_in_bytes", "-1", err);
	if (r == 0)
		r = write_u64(cgroup, CONTROLLER_MEMORY, "memory.limit_in_bytes",
		              l->memory_max_bytes, err);
	if (r == 0 && has_swap && l->memory_swap_bytes > 0)
		r = write_u64(cgroup, CONTROLLER_MEMORY, "memory.memsw.limit_in_bytes",
		              (uint64_t)l->memory_swap_bytes, err);
	if (r == 0)
		r = write_u64(cgroup, CONTROLLER_MEMORY, "memory.soft_limit_in_bytes",
		              l->memory_reservation_bytes, err);
	return r < 0 ? r : set_swappiness_v1(cgroup, l, err);
}

static int no_io_weight(const struct cgroup_limits *l, const char *needed, struct err *err)
{
	return err_text(err, -EOPNOTSUPP, "I/O weight %" PRIu64 " needs %s on this host",
	                l->io_weight, needed);
}

/* CFQ had blkio.weight; BFQ, which came after it, its own file and the same numbers. */
static int set_io_v1(const struct cgroup *cgroup, const struct cgroup_limits *l, struct err *err)
{
	static const char *const files[] = {"blkio.weight", "blkio.bfq.weight"};

	if (l->io_weight == 0)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		if (has_file(cgroup, CONTROLLER_BLKIO, files[i]))
			return write_u64(cgroup, CONTROLLER_BLKIO, files[i], l->io_weight, err);
	return no_io_weight(l, "the blkio controller and the BFQ scheduler (module bfq)", err);
}

static int set_cpu_v2(const struct cgroup *cgroup, const struct cgroup_limits *l, struct err *err)
{
	uint64_t period = l->cpu_period_usec ? l->cpu_period_usec : PERIOD_USEC;
	char text[48];
	int r = 0;

	if (l->cpu_shares != 0)
		r = write_u64(cgroup, CONTROLLER_CPU, "cpu.weight",
		              cpu_weight_of_shares(l->cpu_shares), err);
	if (r < 0 || (l->cpu_quota_usec == 0 && l->cpu_period_usec == 0))
		return r;

	if (l->cpu_quota_usec != 0)
		snprintf(text, sizeof(text), "%" PRIu64 " %" PRIu64, l->cpu_quota_usec, period);
	else
		snprintf(text, sizeof(text), "max %" PRIu64, period);
	return write_text(cgroup, CONTROLLER_CPU, "cpu.max", text, err);
}

/* v2 limits swap by itself, where Docker counts it together with memory. */
static int set_swap_v2(const struct cgroup *cgroup, const struct cgroup_limits *l, struct err *err)
{
	char text[24] = "max";

	if (l->memory_swap_bytes == 0)
		return 0;
	if (!has_file(cgroup, CONTROLLER_MEMORY, "memory.swap.max"))
		return no_swap_accounting(l, err);
	if (l->memory_swap_bytes > 0)
		snprintf(text, sizeof(text), "%" PRIu64,
		         (uint64_t)l->memory_swap_bytes - l->memory_max_bytes);
	return write_text(cgroup, CONTROLLER_MEMORY, "memory.swap.max", text, err);
}

/* v2 has one swappiness for the whole host. What it is may be asked for, anything else cannot be
 * had. */
static int check_swappiness_v2(const struct cgroup_limits *l, struct err *err)
{
	_cleanup_free_ char *text = NULL;
	uint64_t swappiness;
	int r;

	if (!l->has_memory_swappiness)
		return 0;
	r = file_read(AT_FDCWD, "/proc/sys/vm/swappiness", 32, &text, NULL);
	if (r < 0)
		return err_set(err, r, "read /proc/sys/vm/swappiness");
	text[strcspn(text, "\n")] = '\0';
	r = parse_u64(text, UINT64_MAX, &swappiness);
	if (r < 0 || swappiness != l->memory_swappiness)
		return err_text(err, -EOPNOTSUPP,
		                "memory swappiness %" PRIu64
		                " needs cgroup v1: on cgroup v2 all containers have the host's, "
		                "vm.swappiness, which is %.16s",
		                l->memory_swappiness, text);
	return 0;
}

static int set_memory_v2(const struct cgroup *cgroup, const struct cgroup_limits *l,
                         struct err *err)
{
	int r;

	r = check_swappiness_v2(l, err);
	if (r == 0)
		r = write_u64(cgroup, CONTROLLER_MEMORY, "memory.max", l->memory_max_bytes, err);
	if (r == 0)
		r = set_swap_v2(cgroup, l, err);
	if (r == 0)
		r = write_u64(cgroup, CONTROLLER_MEMORY, "memory.low", l->memory_reservation_bytes,
		              err);
	return r;
}

/* Which of the two a device follows is its administrator's choice: io.bfq.weight with the BFQ
 * scheduler (in the numbers of v1), io.weight with I/O cost. */
static int set_io_v2(const struct cgroup *cgroup, const struct cgroup_limits *l, struct err *err)
{
	bool bfq, cost;
	int r = 0;

	if (l->io_weight == 0)
		return 0;
	bfq = has_file(cgroup, CONTROLLER_BLKIO, "io.bfq.weight");
	cost = has_file(cgroup, CONTROLLER_BLKIO, "io.weight");
	if (!bfq && !cost)
		return no_io_weight(l, "the io controller, with I/O cost or BFQ (module bfq)", err);
	if (bfq)
		r = write_u64(cgroup, CONTROLLER_BLKIO, "io.bfq.weight", l->io_weight, err);
	if (r == 0 && cost)
		r = write_u64(cgroup, CONTROLLER_BLKIO, "io.weight",
		              io_weight_of_blkio(l->io_weight), err);
	return r;
}

int cgroup_set_limits(const struct cgroup *cgroup, const struct cgroup_limits *limits,
                      struct err *err)
{
	bool v2 = cgroup->root->v2;
	int r;

	r = check_limits(limits, err);
	if (r == 0)
		r = v2 ? set_cpu_v2(cgroup, limits, err) : set_cpu_v1(cgroup, limits, err);
	if (r == 0)
		r = v2 ? set_memory_v2(cgroup, limits, err) : set_memory_v1(cgroup, limits, err);
	if (r == 0)
		r = write_u64(cgroup, CONTROLLER_PIDS, "pids.max", limits->pids_max, err);
	if (r == 0)
		r = v2 ? set_io_v2(cgroup, limits, err) : set_io_v1(cgroup, limits, err);
	return r;
}
