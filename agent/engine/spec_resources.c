/*
 * Limits in the words of the runtime specification. What the numbers may be is Docker's rule
 * (Engine API, "HostConfig"), and ECS's where it has one: memory of less than 4 MiB is raised.
 */
#include "agent/engine/spec_resources.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "agent/engine/refuse.h"
#include "lib/json.h"

#define MIB             (1024 * 1024)
#define MEMORY_MIN_MIB  4
#define CPU_SHARES_MIN  2
#define CPU_SHARES_MAX  262144
#define CPU_PERIOD_USEC 100000
#define CPU_PERIOD_MIN  1000
#define CPU_PERIOD_MAX  1000000
#define CPU_QUOTA_MIN   1000
#define CPU_QUOTA_MAX   (INT64_MAX / 1000)
#define NANO            1000000000
#define IO_WEIGHT_MIN   10
#define IO_WEIGHT_MAX   1000
#define PIDS_MAX        4194304

int64_t spec_cpu_shares(int64_t cpu)
{
	return cpu < CPU_SHARES_MIN ? CPU_SHARES_MIN : cpu > CPU_SHARES_MAX ? CPU_SHARES_MAX : cpu;
}

/* A number of hostConfig; *ret is left alone when it is absent. */
static int get_number(const struct container *c, const char *name, int64_t min, int64_t max,
                      int64_t *ret, struct err *err)
{
	return json_optional(json_get_i64(c->host_config, name, min, max, ret, err));
}

/* --- memory --- */

/* The limit of the container or, where it has none, that of its task: programs inside size
 * themselves by what they see, and on cgroup v2 they do not see the cgroup of the task. */
static int64_t visible_limit(const struct task *task, const struct spec_options *options,
                             int64_t limit)
{
	if (limit == 0 && options->task_cgroup_limits && options->task_memory_inside)
		limit = task->memory_mib * MIB;
	return limit > 0 && limit < MEMORY_MIN_MIB * MIB ? MEMORY_MIN_MIB * MIB : limit;
}

/*
 * MemorySwap counts memory and swap together. Without it Docker allows as much swap as memory, and
 * so does the documentation of ECS ("Managing container swap memory space"); that default does not
 * need a kernel that counts swap (see spec_has_default_swap()).
 */
static int check_swap(int64_t own_limit, int64_t limit, int64_t *swap, struct err *err)
{
	if (*swap == 0 && limit > 0) {
		*swap = limit > INT64_MAX / 2 ? -1 : 2 * limit;
		return 0;
	}
	if (*swap > 0 && own_limit == 0)
		return err_text(err, -EINVAL,
		                "maxSwap (MemorySwap %" PRId64
		                ") needs a memory limit of the container",
		                *swap);
	if (*swap > 0 && *swap < limit)
		return err_text(err, -EINVAL,
		                "MemorySwap %" PRId64 " is below the memory limit %" PRId64, *swap,
		                limit);
	return 0;
}

static int check_reservation(int64_t reservation, int64_t limit, struct err *err)
{
	if (limit > 0 && reservation > limit)
		return err_text(err, -EINVAL,
		                "memoryReservation %" PRId64 " is above the memory limit %" PRId64
		                " (bytes); it must be at most that",
		                reservation, limit);
	return 0;
}

static int add_memory(const struct task *task, const struct container *c,
                      const struct spec_options *options, struct json_object *resources,
                      struct err *err)
{
	struct json_object *memory = json_object_new_object();
	int64_t own = c->memory_mib * MIB, limit, reservation = 0, swap = 0, swappiness = -1;
	int r;

	if (json_add(resources, "memory", memory) < 0)
		return err_oom(err);
	r = get_number(c, "Memory", 0, INT64_MAX, &own, err);
	if (r == 0)
		r = get_number(c, "MemoryReservation", 0, INT64_MAX, &reservation, err);
	if (r == 0)
		r = get_number(c, "MemorySwap", -1, INT64_MAX, &swap, err);
	if (r == 0)
		r = get_number(c, "MemorySwappiness", -1, 100, &swappiness, err);
	limit = visible_limit(task, options, own);
	if (r == 0)
		r = check_reservation(reservation, limit, err);
	if (r == 0)
		r = check_swap(own, limit, &swap, err);
	if (r < 0)
		return r;
	if ((limit > 0 && json_add_i64(memory, "limit", limit) < 0) ||
	    (reservation > 0 && json_add_i64(memory, "reservation", reservation) < 0) ||
	    (swap != 0 && json_add_i64(memory, "swap", swap) < 0) ||
	    (swappiness >= 0 && json_add_i64(memory, "swappiness", swappiness) < 0))
		return err_oom(err);
	return 0;
}

/* What the task definition asks for itself is refused where it cannot be held. */
bool spec_has_default_swap(const struct container *c)
{
	return json_is_zero(json_get(c->host_config, "MemorySwap"));
}

/* --- cpu --- */

/* NanoCpus is another way to say a quota; quota and period of -1 and 0 ask for none. */
static int get_quota(const struct container *c, int64_t *quota, int64_t *period, struct err *err)
{
	int64_t nano = 0, cpus = sysconf(_SC_NPROCESSORS_ONLN);
	int r;

	r = get_number(c, "CpuQuota", -1, CPU_QUOTA_MAX, quota, err);
	if (r == 0)
		r = get_number(c, "CpuPeriod", 0, CPU_PERIOD_MAX, period, err);
	if (r == 0)
		r = get_number(c, "NanoCpus", 0, INT64_MAX, &nano, err);
	if (r < 0)
		return r;
	if (*quota > 0 && *quota < CPU_QUOTA_MIN)
		return err_text(err, -EINVAL, "CpuQuota is %" PRId64 ", it must be %d or more",
		                *quota, CPU_QUOTA_MIN);
	if (*period > 0 && *period < CPU_PERIOD_MIN)
		return err_text(err, -EINVAL, "CpuPeriod is %" PRId64 ", it must be %d to %d",
		                *period, CPU_PERIOD_MIN, CPU_PERIOD_MAX);
	if (nano > 0 && (*quota != 0 || *period != 0))
		return err_text(err, -EINVAL,
		                "NanoCpus and %s are both set; there can be one of them",
		                *quota != 0 ? "CpuQuota" : "CpuPeriod");
	if (nano > 0 && (nano < NANO / 100 || nano > cpus * NANO))
		return err_text(err, -ERANGE,
		                "NanoCpus is %" PRId64 ", it must be %d (0.01 CPUs) to %" PRId64
		                " (as many as there are)",
		                nano, NANO / 100, cpus * NANO);
	if (nano > 0) {
		*period = CPU_PERIOD_USEC;
		*quota = nano / (NANO / CPU_PERIOD_USEC);
	}
	return 0;
}

static int add_cpu(const struct container *c, struct json_object *resources, struct err *err)
{
	struct json_object *cpu = json_object_new_object();
	int64_t shares = c->cpu_shares, quota = 0, period = 0;
	int r;

	if (json_add(resources, "cpu", cpu) < 0)
		return err_oom(err);
	r = get_number(c, "CpuShares", 0, INT64_MAX, &shares, err);
	if (r == 0)
		r = get_quota(c, &quota, &period, err);
	if (r < 0)
		return r;
	if (json_add_i64(cpu, "shares", spec_cpu_shares(shares)) < 0 ||
	    (quota > 0 && json_add_i64(cpu, "quota", quota) < 0) ||
	    (period > 0 && json_add_i64(cpu, "period", period) < 0))
		return err_oom(err);
	return 0;
}

/* --- the rest --- */

static int add_single(struct json_object *resources, const char *name, const char *member,
                      int64_t value)
{
	struct json_object *obj = json_object_new_object();

	return json_add(resources, name, obj) < 0 ? -ENOMEM : json_add_i64(obj, member, value);
}

static int add_pids(const struct container *c, struct json_object *resources, struct err *err)
{
	int64_t limit = 0;
	int r = get_number(c, "PidsLimit", -1, PIDS_MAX, &limit, err);

	if (r < 0 || limit <= 0)
		return r;
	return add_single(resources, "pids", "limit", limit) < 0 ? err_oom(err) : 0;
}

static int add_block_io(const struct container *c, struct json_object *resources, struct err *err)
{
	int64_t weight = 0;
	int r = get_number(c, "BlkioWeight", 0, IO_WEIGHT_MAX, &weight, err);

	if (r < 0 || weight == 0)
		return r;
	if (weight < IO_WEIGHT_MIN)
		return err_text(err, -ERANGE, "BlkioWeight is %" PRId64 ", it must be %d to %d",
		                weight, IO_WEIGHT_MIN, IO_WEIGHT_MAX);
	return add_single(resources, "blockIO", "weight", weight) < 0 ? err_oom(err) : 0;
}

/* "42" or, for all of them, "*" up to the character end; *ret is -1 then. */
static const char *device_number(const char *text, char end, int max, int64_t *ret)
{
	int64_t value = 0;

	if (text[0] == '*' && text[1] == end) {
		*ret = -1;
		return text + 2;
	}
	if (*text == end)
		return NULL;
	for (; *text >= '0' && *text <= '9' && value <= max; text++)
		value = 10 * value + (*text - '0');
	*ret = value;
	return *text == end && value <= max ? text + 1 : NULL;
}

/* Docker's form: "c 42:* rmw". */
static int add_device_rule(struct json_object *rules, const char *text, struct err *err)
{
	struct json_object *rule = json_object_new_object();
	char type[2] = {text[0], '\0'};
	int64_t major = -1, minor = -1;
	const char *rest = strchr("abc", type[0]) && type[0] && text[1] == ' ' ? text + 2 : NULL;

	if (json_append(rules, rule) < 0)
		return err_oom(err);
	if (rest)
		rest = device_number(rest, ':', 4095, &major);
	if (rest)
		rest = device_number(rest, ' ', 1048575, &minor);
	if (!rest || !*rest || strlen(rest) > 3 || strspn(rest, "rwm") != strlen(rest))
		return err_text(err, -EINVAL,
		                "DeviceCgroupRules has \"%.100s\", it must be of the form "
		                "\"c 42:* rwm\"",
		                text);
	if (json_add_bool(rule, "allow", true) < 0 || json_add_string(rule, "type", type) < 0 ||
	    json_add_i64(rule, "major", major) < 0 || json_add_i64(rule, "minor", minor) < 0 ||
	    json_add_string(rule, "access", rest) < 0)
		return err_oom(err);
	return 0;
}

static int add_device_rules(const struct container *c, struct json_object *resources,
                            struct err *err)
{
	struct json_object *list = json_get(c->host_config, "DeviceCgroupRules"), *rules;
	int r = 0;

	if (!json_object_is_type(list, json_type_array) || json_object_array_length(list) == 0)
		return 0;
	rules = json_object_new_array();
	if (json_add(resources, "devices", rules) < 0)
		return err_oom(err);
	for (size_t i = 0; r == 0 && i < json_object_array_length(list); i++)
		r = add_device_rule(
			rules, json_object_get_string(json_object_array_get_idx(list, i)), err);
	return r;
}

int spec_resources(const struct task *task, const struct container *c,
                   const struct spec_options *options, struct json_object *resources,
                   struct err *err)
{
	int r = add_cpu(c, resources, err);

	if (r == 0)
		r = add_pids(c, resources, err);
	if (r == 0)
		r = add_memory(task, c, options, resources, err);
	if (r == 0)
		r = add_block_io(c, resources, err);
	return r < 0 ? r : add_device_rules(c, resources, err);
}

/* --- devices --- */

static int add_device(struct json_object *devices, struct json_object *item, struct err *err)
{
	struct json_object *device = json_object_new_object();
	const char *host_path, *path = "", *access = "";
	int r;

	if (json_append(devices, device) < 0)
		return err_oom(err);
	r = json_get_string(item, "PathOnHost", &host_path, err);
	if (r == 0)
		r = json_optional(json_get_string(item, "PathInContainer", &path, err));
	if (r == 0)
		r = json_optional(json_get_string(item, "CgroupPermissions", &access, err));
	if (r < 0)
		return r;
	if (strspn(access, "rwm") != strlen(access) || strlen(access) > 3)
		return err_text(err, -EINVAL,
		                "permissions of %s are \"%.20s\", they must be of r, w and m",
		                host_path, access);
	if (*host_path != '/' || (*path && *path != '/'))
		return err_text(err, -EINVAL, "path \"%.100s\" must be absolute",
		                *host_path != '/' ? host_path : path);
	if (json_add_string(device, "hostPath", host_path) < 0 ||
	    json_add_string(device, "path", *path ? path : host_path) < 0 ||
	    json_add_string(device, "access", *access ? access : "rwm") < 0)
		return err_oom(err);
	return 0;
}

int spec_devices(const struct container *c, struct json_object *obj, struct err *err)
{
	struct json_object *list = json_get(c->host_config, "Devices"), *devices;
	int r;

	if (!json_object_is_type(list, json_type_array) || json_object_array_length(list) == 0)
		return 0;
	devices = json_object_new_array();
	if (json_add(obj, "hostDevices", devices) < 0)
		return err_oom(err);
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		r = add_device(devices, json_object_array_get_idx(list, i), err);
		if (r < 0)
			return err_prefix(err, r, "devices[%zu]", i);
	}
	return 0;
}
