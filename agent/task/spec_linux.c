/*
 * The "linux" part of a container: sysctls of its namespaces, devices, limits of its cgroup and the
 * paths that are hidden from it.
 */
#include "agent/task/spec.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "agent/task/spec_parse.h"
#include "lib/json.h"

#define SYSCTLS_MAX 256

/* 0: of a namespace of the container, as Docker allows them. */
static int sysctl_check(const char *name, enum network_mode mode, enum ipc_mode ipc_mode,
                        struct err *err)
{
	static const char *const ipc[] = {
		"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem",
		"kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced",
	};

	bool is_ipc = strncmp(name, "fs.mqueue.", 10) == 0;
	bool is_net = strncmp(name, "net.", 4) == 0;

	if (strcmp(name, "kernel.domainname") == 0)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(ipc) && !is_ipc; i++)
		is_ipc = strcmp(name, ipc[i]) == 0;
	if ((is_ipc && ipc_mode != IPC_MODE_HOST) || (is_net && mode != NETWORK_HOST))
		return 0;
	return err_text(err, -EINVAL,
	                "sysctl \"%.100s\" is not allowed: it is not the container's own%s", name,
	                is_ipc   ? " in ipcMode host"
	                : is_net ? " in host network mode"
	                         : "");
}

static int sysctls_parse(struct json_object *obj, enum network_mode mode,
                         struct container_spec *spec, struct err *err)
{
	size_t n = (size_t)json_object_object_length(obj);
	int r;

	if (n > SYSCTLS_MAX)
		return err_text(err, -EINVAL, "%zu sysctls; at most %d are taken", n, SYSCTLS_MAX);
	spec->sysctls = calloc(n + 1, sizeof(*spec->sysctls));
	if (!spec->sysctls)
		return err_oom(err);

	json_object_object_foreach (obj, key, value) {
		struct sysctl_spec *sysctl = &spec->sysctls[spec->n_sysctls];
		char *path;

		if (!json_object_is_type(value, json_type_string))
			return err_text(err, -EINVAL, "sysctl %.100s must be a string", key);
		r = sysctl_check(key, mode, spec->ipc_mode, err);
		if (r < 0)
			return r;
		if (json_object_get_string_len(value) == 0) /* written, it changes nothing */
			return err_text(err, -EINVAL, "sysctl %.100s has no value", key);
		if (strstr(key, "..") || strlen(key) > 200 ||
		    strspn(key,
		           "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./") !=
		            strlen(key) ||
		    strstr(key, "./") || strstr(key, "/."))
			return err_text(err, -EINVAL, "sysctl \"%.100s\" is no name of a sysctl",
			                key);
		path = strdup(key);
		if (!path)
			return err_oom(err);
		/* A '/' in a name stands for a dot inside a component, such as eth0.100. */
		for (char *p = path; *p; p++)
			*p = *p == '.' ? '/' : *p == '/' ? '.' : *p;
		sysctl->path = path;
		sysctl->value = json_object_get_string(value);
		spec->n_sysctls++;
	}
	return 0;
}

static int device_parse(struct json_object *obj, size_t index, struct device_spec *device,
                        struct err *err)
{
	int64_t major = -1, minor = -1;
	uint64_t mode = 0666, uid = 0, gid = 0;
	const char *type;
	char where[160];
	int r;

	snprintf(where, sizeof(where), "linux.devices[%zu]", index);
	if (!json_object_is_type(obj, json_type_object))
		return err_text(err, -EINVAL, "%s must be an object", where);
	r = ONLY_MEMBERS(obj, where, err, "path", "type", "major", "minor", "fileMode", "uid",
	                 "gid");
	if (r < 0)
		return r;
	r = json_get_string(obj, "path", &device->path, err);
	if (r == 0)
		r = json_get_string(obj, "type", &type, err);
	if (r == 0)
		r = json_get_i64(obj, "major", 0, 4095, &major, err);
	if (r == 0)
		r = json_get_i64(obj, "minor", 0, 1048575, &minor, err);
	if (r == 0)
		r = json_optional(json_get_u64(obj, "fileMode", 0777777, &mode, err));
	if (r == 0)
		r = json_optional(json_get_u64(obj, "uid", INT32_MAX, &uid, err));
	if (r == 0)
		r = json_optional(json_get_u64(obj, "gid", INT32_MAX, &gid, err));
	if (r < 0)
		return err_prefix(err, r == -ENOENT ? -EINVAL : r, "%s", where);

	snprintf(where, sizeof(where), "device %.100s", device->path);
	r = spec_check_path(device->path, where, err);
	if (r < 0)
		return r;
	if (strcmp(type, "c") != 0 && strcmp(type, "u") != 0 && strcmp(type, "b") != 0)
		return err_text(err, -EINVAL,
		                "%s: type \"%.16s\" is not supported; it must be c, u or b", where,
		                type);
	device->mode = (mode_t)(mode & 0777) | (type[0] == 'b' ? S_IFBLK : S_IFCHR);
	device->rdev = makedev((unsigned int)major, (unsigned int)minor);
	device->uid = (uid_t)uid;
	device->gid = (gid_t)gid;
	return 0;
}

static int devices_parse(struct json_object *array, struct container_spec *spec, struct err *err)
{
	size_t n = json_object_array_length(array);
	int r;

	if (n > SPEC_DEVICES_MAX)
		return err_text(err, -EINVAL, "%zu devices; at most %d are taken", n,
		                SPEC_DEVICES_MAX);
	spec->devices = calloc(n + 1, sizeof(*spec->devices));
	if (!spec->devices)
		return err_oom(err);
	for (size_t i = 0; i < n; i++) {
		r = device_parse(json_object_array_get_idx(array, i), i, &spec->devices[i], err);
		if (r < 0)
			return r;
		spec->n_devices++;
	}
	return 0;
}

static bool is_access(const char *text)
{
	return *text && strlen(text) <= 3 && strspn(text, "rwm") == strlen(text);
}

static int host_device_parse(struct json_object *obj, struct host_device_spec *device,
                             struct err *err)
{
	int r;

	device->access = "rwm";
	r = ONLY_MEMBERS(obj, "hostDevices", err, "hostPath", "path", "access");
	if (r == 0)
		r = json_get_string(obj, "hostPath", &device->host_path, err);
	if (r < 0)
		return err_prefix(err, r == -ENOENT ? -EINVAL : r, "hostDevices");
	device->path = device->host_path;
	r = json_optional(json_get_string(obj, "path", &device->path, err));
	if (r == 0)
		r = json_optional(json_get_string(obj, "access", &device->access, err));
	if (r < 0)
		return err_prefix(err, r, "hostDevices");
	r = spec_check_path(device->host_path, "device", err);
	if (r == 0)
		r = spec_check_path(device->path, "device", err);
	if (r == 0 && !is_access(device->access))
		r = err_text(err, -EINVAL,
		             "device %.100s: permissions are \"%.16s\"; they must be of r, w and m",
		             device->host_path, device->access);
	return r;
}

int spec_parse_host_devices(struct json_object *container, struct container_spec *spec,
                            struct err *err)
{
	struct json_object *array = NULL;
	size_t n;
	int r;

	r = json_optional(json_get_array(container, "hostDevices", &array, err));
	if (r < 0 || !array)
		return r < 0 ? err_prefix(err, r, "container") : 0;
	n = json_object_array_length(array);
	if (n > SPEC_DEVICES_MAX)
		return err_text(err, -EINVAL, "%zu hostDevices; at most %d are taken", n,
		                SPEC_DEVICES_MAX);
	spec->host_devices = calloc(n + 1, sizeof(*spec->host_devices));
	if (!spec->host_devices)
		return err_oom(err);
	for (; r == 0 && spec->n_host_devices < n; spec->n_host_devices++)
		r = host_device_parse(json_object_array_get_idx(array, spec->n_host_devices),
		                      &spec->host_devices[spec->n_host_devices], err);
	return r;
}

static int device_rule_parse(struct json_object *obj, struct cgroup_device *rule, struct err *err)
{
	const char *type = "a", *access = "rwm";
	bool allow = false;
	int r;

	rule->major = rule->minor = -1;
	if (!json_object_is_type(obj, json_type_object))
		return err_text(err, -EINVAL, "linux.resources.devices must hold objects");
	r = ONLY_MEMBERS(obj, "linux.resources.devices", err, "allow", "type", "major", "minor",
	                 "access");
	if (r == 0)
		r = json_get_bool(obj, "allow", &allow, err);
	if (r == 0)
		r = json_optional(json_get_string(obj, "type", &type, err));
	if (r == 0)
		r = json_optional(json_get_i64(obj, "major", -1, 4095, &rule->major, err));
	if (r == 0)
		r = json_optional(json_get_i64(obj, "minor", -1, 1048575, &rule->minor, err));
	if (r == 0)
		r = json_optional(json_get_string(obj, "access", &access, err));
	if (r < 0)
		return err_prefix(err, r == -ENOENT ? -EINVAL : r, "linux.resources.devices");
	if (!allow)
		return err_text(
			err, -EINVAL,
			"linux.resources.devices: rules that deny are not supported; all but "
			"the default devices are denied");
	if (strlen(type) != 1 || !strchr("abc", type[0]))
		return err_text(err, -EINVAL,
		                "linux.resources.devices: type \"%.16s\" must be a, b or c", type);
	if (!is_access(access))
		return err_text(err, -EINVAL,
		                "linux.resources.devices: access \"%.16s\" must be of rwm", access);
	rule->type = type[0];
	rule->access = access;
	return 0;
}

static int device_rules_parse(struct json_object *array, struct container_spec *spec,
                              struct err *err)
{
	size_t n = json_object_array_length(array);
	int r;

	if (n > SPEC_DEVICES_MAX)
		return err_text(err, -EINVAL, "%zu device rules; at most %d are taken", n,
		                SPEC_DEVICES_MAX);
	spec->device_rules = calloc(n + 1, sizeof(*spec->device_rules));
	if (!spec->device_rules)
		return err_oom(err);
	for (size_t i = 0; i < n; i++) {
		r = device_rule_parse(json_object_array_get_idx(array, i), &spec->device_rules[i],
		                      err);
		if (r < 0)
			return r;
		spec->n_device_rules++;
	}
	return 0;
}

/* Without rules of their own, devices that are given may be used in every way. */
static int device_rules_default(struct container_spec *spec, struct err *err)
{
	spec->device_rules = calloc(spec->n_devices + 1, sizeof(*spec->device_rules));
	if (!spec->device_rules)
		return err_oom(err);
	for (size_t i = 0; i < spec->n_devices; i++)
		spec->device_rules[spec->n_device_rules++] = (struct cgroup_device){
			.type = S_ISBLK(spec->devices[i].mode) ? 'b' : 'c',
			.major = major(spec->devices[i].rdev),
			.minor = minor(spec->devices[i].rdev),
			.access = "rwm",
		};
	return 0;
}

static int cpu_parse(struct json_object *cpu, struct cgroup_limits *limits, struct err *err)
{
	int r;

	r = ONLY_MEMBERS(cpu, "linux.resources.cpu", err, "shares", "quota", "period");
	if (r == 0)
		r = json_optional(json_get_u64(cpu, "shares", 262144, &limits->cpu_shares, err));
	if (r == 0)
		r = json_optional(
			json_get_u64(cpu, "quota", INT64_MAX / 1000, &limits->cpu_quota_usec, err));
	if (r == 0)
		r = json_optional(
			json_get_u64(cpu, "period", 1000000, &limits->cpu_period_usec, err));
	return r < 0 ? err_prefix(err, r, "linux.resources.cpu") : 0;
}

static int memory_parse(struct json_object *memory, struct cgroup_limits *limits, struct err *err)
{
	int r;

	r = ONLY_MEMBERS(memory, "linux.resources.memory", err, "limit", "reservation", "swap",
	                 "swappiness");
	if (r == 0)
		r = json_optional(json_get_u64(memory, "limit", MEMORY_BYTES_MAX,
		                               &limits->memory_max_bytes, err));
	if (r == 0)
		r = json_optional(json_get_u64(memory, "reservation", MEMORY_BYTES_MAX,
		                               &limits->memory_reservation_bytes, err));
	if (r == 0)
		r = json_optional(json_get_i64(memory, "swap", -1, INT64_MAX,
		                               &limits->memory_swap_bytes, err));
	if (r == 0 && json_get(memory, "swappiness")) {
		limits->has_memory_swappiness = true;
		r = json_get_u64(memory, "swappiness", 100, &limits->memory_swappiness, err);
	}
	return r < 0 ? err_prefix(err, r, "linux.resources.memory") : 0;
}

static int block_io_parse(struct json_object *block_io, struct cgroup_limits *limits,
                          struct err *err)
{
	int r;

	r = ONLY_MEMBERS(block_io, "linux.resources.blockIO", err, "weight");
	if (r == 0)
		r = json_optional(json_get_u64(block_io, "weight", 1000, &limits->io_weight, err));
	return r < 0 ? err_prefix(err, r, "linux.resources.blockIO") : 0;
}

static int pids_parse(struct json_object *pids, struct cgroup_limits *limits, struct err *err)
{
	int64_t limit = 0;
	int r;

	r = ONLY_MEMBERS(pids, "linux.resources.pids", err, "limit");
	if (r == 0)
		r = json_optional(json_get_i64(pids, "limit", -1, INT32_MAX, &limit, err));
	if (r < 0)
		return err_prefix(err, r, "linux.resources.pids");
	limits->pids_max = limit > 0 ? (uint64_t)limit : 0; /* 0 and -1: unlimited */
	return 0;
}

static int linux_resources_parse(struct json_object *resources, struct container_spec *spec,
                                 struct err *err)
{
	struct json_object *cpu = NULL, *memory = NULL, *pids = NULL, *devices = NULL,
			   *block_io = NULL;
	int r;

	r = ONLY_MEMBERS(resources, "linux.resources", err, "cpu", "memory", "pids", "devices",
	                 "blockIO");
	if (r == 0)
		r = json_optional(json_get_object(resources, "cpu", &cpu, err));
	if (r == 0)
		r = json_optional(json_get_object(resources, "memory", &memory, err));
	if (r == 0)
		r = json_optional(json_get_object(resources, "pids", &pids, err));
	if (r == 0)
		r = json_optional(json_get_object(resources, "blockIO", &block_io, err));
	if (r == 0)
		r = json_optional(json_get_array(resources, "devices", &devices, err));
	if (r < 0)
		return err_prefix(err, r, "linux.resources");

	if (cpu)
		r = cpu_parse(cpu, &spec->limits, err);
	if (r == 0 && memory)
		r = memory_parse(memory, &spec->limits, err);
	if (r == 0 && pids)
		r = pids_parse(pids, &spec->limits, err);
	if (r == 0 && block_io)
		r = block_io_parse(block_io, &spec->limits, err);
	if (r == 0 && devices)
		r = device_rules_parse(devices, spec, err);
	return r;
}

static int paths_check(const char **paths, const char *where, struct err *err)
{
	for (size_t i = 0; paths && paths[i]; i++) {
		int r = spec_check_path(paths[i], where, err);

		if (r < 0)
			return r;
	}
	return 0;
}

int spec_parse_linux(struct json_object *linux_, enum network_mode mode,
                     struct container_spec *spec, struct err *err)
{
	struct json_object *resources = NULL, *sysctl = NULL, *devices = NULL;
	int r;

	r = ONLY_MEMBERS(linux_, "linux", err, "resources", "maskedPaths", "readonlyPaths",
	                 "sysctl", "devices", "mountLabel");
	if (r == 0)
		r = json_optional(json_get_object(linux_, "resources", &resources, err));
	if (r == 0)
		r = json_optional(json_get_object(linux_, "sysctl", &sysctl, err));
	if (r == 0)
		r = json_optional(json_get_array(linux_, "devices", &devices, err));
	if (r < 0)
		return err_prefix(err, r, "linux");

	r = spec_get_strings(linux_, "linux", "maskedPaths", &spec->masked_paths, NULL, err);
	if (r == 0)
		r = spec_get_strings(linux_, "linux", "readonlyPaths", &spec->readonly_paths, NULL,
		                     err);
	if (r == 0)
		r = paths_check(spec->masked_paths, "linux.maskedPaths", err);
	if (r == 0)
		r = paths_check(spec->readonly_paths, "linux.readonlyPaths", err);
	if (r == 0 && sysctl)
		r = sysctls_parse(sysctl, mode, spec, err);
	if (r == 0 && devices)
		r = devices_parse(devices, spec, err);
	if (r == 0 && resources)
		r = linux_resources_parse(resources, spec, err);
	if (r == 0 && !spec->device_rules)
		r = device_rules_default(spec, err);
	return r;
}
