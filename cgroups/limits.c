/* Limits in the words of the container runtimes, written as v1 and v2 files want them. */
#include "cgroups/hierarchy.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#define SHARES_MIN  2
#define SHARES_MAX  262144
#define PERIOD_USEC 100000

/* 2..262144 to 1..10000, as the OCI runtimes convert. */
uint64_t cpu_weight_of_shares(uint64_t shares)
{
	return 1 + (shares - SHARES_MIN) * 9999 / (SHARES_MAX - SHARES_MIN);
}

static int check_limits(const struct cgroup_limits *l, struct err *err)
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

static int write_text(const struct cgroup *cgroup, enum controller controller, const char *file,
                      const char *text, struct err *err)
{
	const struct hierarchy *h;
	int r;

	r = root_controller(cgroup->root, controller, &h, err);
	return r < 0 ? r : hierarchy_write(h, cgroup->path, file, text, err);
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

static int set_memory_v1(const struct cgroup *cgroup, const struct cgroup_limits *l,
                         struct err *err)
{
	bool has_swap = has_file(cgroup, CONTROLLER_MEMORY, "memory.memsw.limit_in_bytes");
	int r = 0;

	if (l->memory_swap_bytes > 0 && !has_swap)
		return err_text(
			err, -EOPNOTSUPP,
			"a limit of memory and swap needs swap accounting (kernel parameter swapaccount=1)");

	/* The kernel wants memsw >= memory at every moment, whatever an earlier start has set. */
	if (has_swap && l->memory_max_bytes != 0)
		r = write_text(cgroup, CONTROLLER_MEMORY, "memory.memsw.limit_in_bytes", "-1", err);
	if (r == 0)
		r = write_u64(cgroup, CONTROLLER_MEMORY, "memory.limit_in_bytes",
		              l->memory_max_bytes, err);
	if (r == 0 && l->memory_swap_bytes > 0)
		r = write_u64(cgroup, CONTROLLER_MEMORY, "memory.memsw.limit_in_bytes",
		              (uint64_t)l->memory_swap_bytes, err);
	if (r == 0)
		r = write_u64(cgroup, CONTROLLER_MEMORY, "memory.soft_limit_in_bytes",
		              l->memory_reservation_bytes, err);
	return r;
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
	if (!has_file(cgroup, CONTROLLER_MEMORY, "memory.swap.max")) {
		if (l->memory_swap_bytes < 0)
			return 0; /* nothing limits it */
		return err_text(
			err, -EOPNOTSUPP,
			"a limit of memory and swap needs swap accounting (kernel parameter swapaccount=1)");
	}
	if (l->memory_swap_bytes > 0)
		snprintf(text, sizeof(text), "%" PRIu64,
		         (uint64_t)l->memory_swap_bytes - l->memory_max_bytes);
	return write_text(cgroup, CONTROLLER_MEMORY, "memory.swap.max", text, err);
}

static int set_memory_v2(const struct cgroup *cgroup, const struct cgroup_limits *l,
                         struct err *err)
{
	int r;

	r = write_u64(cgroup, CONTROLLER_MEMORY, "memory.max", l->memory_max_bytes, err);
	if (r == 0)
		r = set_swap_v2(cgroup, l, err);
	if (r == 0)
		r = write_u64(cgroup, CONTROLLER_MEMORY, "memory.low", l->memory_reservation_bytes,
		              err);
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
	return r;
}
