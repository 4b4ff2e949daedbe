/*
 * From task definition to OCI configuration. The process itself is in spec_process.c; here are the
 * limits, mounts, devices and the log. ecs-task adds what every container gets (proc, sys, dev).
 */
#include "agent/engine/spec.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "agent/engine/health.h"
#include "agent/engine/links.h"
#include "agent/engine/namespaces.h"
#include "agent/engine/refuse.h"
#include "agent/engine/security.h"
#include "agent/engine/spec_process.h"
#include "agent/engine/spec_resources.h"
#include "agent/engine/volumes.h"
#include "agent/logs/options.h"
#include "agent/task/default_paths.h"
#include "lib/json.h"
#include "lib/parse.h"
#include "lib/spool.h"

#define MIB             (1024 * 1024)
#define CPU_PERIOD_USEC 100000

static int64_t sum_of_shares(const struct task *task)
{
	int64_t sum = 0;

	for (size_t i = 0; i < task->n_containers; i++)
		sum += spec_cpu_shares(task->containers[i].cpu_shares);
	return spec_cpu_shares(sum);
}

static int add_task_limits(const struct task *task, const struct spec_options *options,
                           struct json_object *cgroup, struct err *err)
{
	uint64_t period =
		options->cgroup_cpu_period_usec ? options->cgroup_cpu_period_usec : CPU_PERIOD_USEC;
	int r = 0;

	if (!options->task_cgroup_limits)
		return 0;
	for (size_t i = 0; i < task->n_containers; i++)
		if (task->memory_mib > 0 && task->containers[i].memory_mib > task->memory_mib)
			return err_text(
				err, -EINVAL,
				"task memory spec builder: container %s has a memory limit of %" PRId64
				" MiB, above the task's %" PRId64 " MiB",
				task->containers[i].name, task->containers[i].memory_mib,
				task->memory_mib);
	if (task->cpu > 0) {
		r = json_add_u64(cgroup, "cpuQuotaUsec", (uint64_t)(task->cpu * (double)period));
		if (r == 0)
			r = json_add_u64(cgroup, "cpuPeriodUsec", period);
	} else {
		r = json_add_i64(cgroup, "cpuShares", sum_of_shares(task));
	}
	if (r == 0 && task->memory_mib > 0)
		r = json_add_i64(cgroup, "memoryBytes", task->memory_mib * MIB);
	if (r == 0 && options->task_pids_limit)
		r = json_add_u64(cgroup, "pidsMax", options->task_pids_limit);
	return r < 0 ? err_oom(err) : 0;
}

int spec_task(const struct task *task, const struct spec_options *options, struct json_object **ret,
              struct err *err)
{
	_cleanup_json_ struct json_object *obj = json_object_new_object();
	struct json_object *cgroup = json_object_new_object();

	if (json_add(obj, "cgroup", cgroup) < 0 || json_add_string(obj, "arn", task->arn) < 0 ||
	    json_add_string(obj, "networkMode", network_mode_to_string(task->network_mode)) < 0 ||
	    namespaces_add_to_task(task, obj) < 0)
		return err_oom(err);
	if (add_task_limits(task, options, cgroup, err) < 0)
		return -EINVAL;
	*ret = TAKE_PTR(obj);
	return 0;
}

static int add_strings(struct json_object *obj, const char *name, const char *const *texts,
                       size_t n)
{
	struct json_object *list = json_object_new_array();

	if (json_add(obj, name, list) < 0)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		if (json_append(list, json_object_new_string(texts[i])) < 0)
			return -ENOMEM;
	return 0;
}

static int add_paths(struct json_object *linux_obj)
{
	static const char *const masked[] = DEFAULT_MASKED_PATHS;
	static const char *const readonly[] = DEFAULT_READONLY_PATHS;

	if (add_strings(linux_obj, "maskedPaths", masked, ARRAY_SIZE(masked)) < 0)
		return -ENOMEM;
	return add_strings(linux_obj, "readonlyPaths", readonly, ARRAY_SIZE(readonly));
}

static int add_sysctls(const struct container *c, struct json_object *linux_obj, struct err *err)
{
	struct json_object *map = json_get(c->host_config, "Sysctls");

	if (!json_object_is_type(map, json_type_object))
		return 0; /* as Tmpfs below */
	json_object_object_foreach (map, key, value) {
		if (!json_object_is_type(value, json_type_string))
			return err_text(err, -EINVAL,
			                "systemControls: the value of %.100s must be a string",
			                key);
	}
	return json_add(linux_obj, "sysctl", json_object_get(map)) < 0 ? err_oom(err) : 0;
}

static int build_linux(const struct task *task, const struct container *c,
                       const struct spec_options *options, bool privileged,
                       struct json_object **ret, struct err *err)
{
	_cleanup_json_ struct json_object *obj = json_object_new_object();
	struct json_object *resources = json_object_new_object();
	int r;

	if (json_add(obj, "resources", resources) < 0)
		return err_oom(err);
	r = spec_resources(task, c, options, resources, err);
	if (r == 0)
		r = add_sysctls(c, obj, err);
	if (r < 0)
		return r;
	if (!privileged && add_paths(obj) < 0)
		return err_oom(err);
	*ret = TAKE_PTR(obj);
	return 0;
}

static int add_mount(struct json_object *mounts, const char *destination, const char *type,
                     const char *source, const char *const *options, size_t n)
{
	struct json_object *mount = json_object_new_object();

	if (json_append(mounts, mount) < 0)
		return -ENOMEM;
	if (json_add_string(mount, "destination", destination) < 0 ||
	    json_add_string(mount, "type", type) < 0 ||
	    json_add_string(mount, "source", source) < 0)
		return -ENOMEM;
	return add_strings(mount, "options", options, n);
}

/* Docker's tmpfs options come as "size=64m,exec"; its own defaults stand before them. */
static int add_tmpfs(struct json_object *mounts, const char *path, const char *text,
                     struct err *err)
{
	_cleanup_free_ char *copy = strdup(text);
	const char *options[32] = {"noexec", "nosuid", "nodev"};
	char *rest = copy, *option;
	size_t n = 3;

	if (!copy)
		return err_oom(err);
	if (*path != '/')
		return err_text(err, -EINVAL, "tmpfs: path \"%.100s\" must be absolute", path);
	while ((option = strsep(&rest, ","))) {
		if (!*option)
			continue;
		if (n == ARRAY_SIZE(options))
			return err_text(err, -EINVAL, "tmpfs %.100s: too many options", path);
		options[n++] = option;
	}
	return add_mount(mounts, path, "tmpfs", "tmpfs", options, n) < 0 ? err_oom(err) : 0;
}

static int add_all_tmpfs(const struct container *c, struct json_object *mounts, struct err *err)
{
	struct json_object *map = json_get(c->host_config, "Tmpfs");
	int r;

	if (!json_object_is_type(map, json_type_object))
		return 0; /* a document of an earlier version: checked for others */
	json_object_object_foreach (map, path, value) {
		const char *text = json_object_get_string(value);

		r = add_tmpfs(mounts, path, text ? text : "", err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int add_shm(const struct task *task, const struct container *c, struct json_object *mounts,
                   struct err *err)
{
	int64_t bytes = 0;
	char size[40];
	const char *options[] = {"nosuid", "noexec", "nodev", "mode=1777", size};
	int r;

	r = json_optional(json_get_i64(c->host_config, "ShmSize", 0, INT64_MAX, &bytes, err));
	if (r < 0 || bytes == 0 || !namespaces_own_shm(task, c))
		return r;
	snprintf(size, sizeof(size), "size=%" PRId64, bytes);
	if (add_mount(mounts, "/dev/shm", "tmpfs", "shm", options, ARRAY_SIZE(options)) < 0)
		return err_oom(err);
	return 0;
}

static int build_mounts(const struct task *task, const struct container *c,
                        struct json_object **ret, struct err *err)
{
	_cleanup_json_ struct json_object *mounts = json_object_new_array();
	int r;

	if (!mounts)
		return err_oom(err);
	r = add_shm(task, c, mounts, err);
	if (r == 0)
		r = add_all_tmpfs(c, mounts, err);
	if (r == 0)
		r = volumes_add_mounts(task, c, mounts, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(mounts);
	return 0;
}

static int add_hostname(const struct task *task, const struct container *c,
                        struct json_object *config)
{
	const char *hostname = json_text(c->config, "Hostname");
	char short_id[13];

	if (task->network_mode == NETWORK_MODE_HOST && (!hostname || !*hostname))
		return 0;
	snprintf(short_id, sizeof(short_id), "%.12s", c->runtime_id);
	return json_add_string(config, "hostname", hostname && *hostname ? hostname : short_id);
}

static int build_config(const struct task *task, const struct container *c,
                        const struct spec_options *options, bool privileged,
                        struct json_object **ret, struct err *err)
{
	_cleanup_json_ struct json_object *config = json_object_new_object();
	struct json_object *process = NULL, *linux_obj = NULL, *mounts = NULL,
			   *root = json_object_new_object();
	bool readonly = false;
	int r;

	r = json_optional(json_get_bool(c->host_config, "ReadonlyRootfs", &readonly, err));
	if (json_add(config, "root", root) < 0 || json_add_bool(root, "readonly", readonly) < 0 ||
	    json_add_string(config, "ociVersion", "1.0.2") < 0 || add_hostname(task, c, config) < 0)
		return err_oom(err);
	if (r == 0)
		r = spec_process(task, c, options, &process, err);
	if (r < 0)
		return r;
	if (json_add(config, "process", process) < 0)
		return err_oom(err);
	r = build_mounts(task, c, &mounts, err);
	if (r < 0)
		return r;
	if (json_add(config, "mounts", mounts) < 0)
		return err_oom(err);
	r = build_linux(task, c, options, privileged, &linux_obj, err);
	if (r < 0)
		return r;
	if (json_add(config, "linux", linux_obj) < 0)
		return err_oom(err);
	*ret = TAKE_PTR(config);
	return 0;
}

static int choose_bound(struct json_object *options, struct json_object *log, struct err *err)
{
	const char *mode = json_text(options, "mode"),
		   *size = json_text(options, "max-buffer-size");
	uint64_t bytes = SPOOL_MAX_BYTES;

	if (size && log_size_parse(size, &bytes) < 0)
		return err_text(err, -EINVAL, "log option max-buffer-size is \"%.40s\"", size);
	if (json_add_string(log, "mode", mode ? mode : "blocking") < 0 ||
	    json_add_u64(log, "maxBytes", bytes) < 0)
		return err_oom(err);
	return 0;
}

static int choose_log_credentials(const struct task *task, const struct container *c,
                                  struct json_object *log, struct err *err)
{
	const char *strategy = json_text(c->document, "logsAuthStrategy"), *id = "instance";

	if (strategy && strcmp(strategy, "ExecutionRole") == 0) {
		if (!task->execution_credentials_id) {
			err_text(err, 0, "No execution credentials set for the task");
			if (err)
				err->name = "HostConfigError";
			return -EINVAL;
		}
		id = task->execution_credentials_id;
	}
	return json_add_string(log, "credentialsId", id) < 0 ? err_oom(err) : 0;
}

static int build_log(const struct task *task, const struct container *c,
                     const struct spec_options *options, struct json_object **ret, struct err *err)
{
	struct json_object *log_config = json_get(c->host_config, "LogConfig"), *given;
	_cleanup_json_ struct json_object *log = json_object_new_object(), *copy = NULL;
	const char *driver = "";
	int r = json_optional(json_get_string(log_config, "Type", &driver, err));

	if (r < 0)
		return err_prefix(err, r, "LogConfig");
	given = json_get(log_config, "Config");
	if (given && json_object_deep_copy(given, &copy, NULL) < 0)
		return err_oom(err);
	if (!copy)
		copy = json_object_new_object();
	if (!*driver)
		driver = "json-file";
	r = log_options_check(driver, copy, err); /* what would not work must not start */
	if (r < 0)
		return r;
	if (strcmp(driver, "awslogs") == 0 && options->logs_endpoint &&
	    !json_text(copy, "awslogs-endpoint") &&
	    json_add_string(copy, "awslogs-endpoint", options->logs_endpoint) < 0)
		return err_oom(err);
	r = choose_bound(copy, log, err);
	if (r == 0)
		r = choose_log_credentials(task, c, log, err);
	if (r < 0)
		return r;
	if (json_add_string(log, "driver", driver) < 0 ||
	    json_add(log, "options", json_object_get(copy)) < 0 ||
	    json_add_string(log, "taskId", task->id) < 0 ||
	    json_add_string(log, "taskArn", task->arn) < 0 ||
	    json_add_string(log, "cluster", options->cluster) < 0 ||
	    json_add_string(log, "containerName", c->name) < 0 ||
	    json_add_string(log, "containerId", c->runtime_id) < 0)
		return err_oom(err);
	*ret = TAKE_PTR(log);
	return 0;
}

static int add_list_of(struct json_object *obj, const char *name, struct json_object *list)
{
	return json_add(obj, name,
	                json_is_zero(list) ? json_object_new_array() : json_object_get(list));
}

static int add_name_service(const struct container *c, struct json_object *obj)
{
	const char *domainname = json_text(c->config, "Domainname");
	struct json_object *dns = json_object_new_object();

	if (json_add(obj, "dns", dns) < 0)
		return -ENOMEM;
	if (add_list_of(dns, "servers", json_get(c->host_config, "Dns")) < 0 ||
	    add_list_of(dns, "search", json_get(c->host_config, "DnsSearch")) < 0 ||
	    add_list_of(dns, "options", json_get(c->host_config, "DnsOptions")) < 0)
		return -ENOMEM;
	if (domainname && *domainname && json_add_string(obj, "domainname", domainname) < 0)
		return -ENOMEM;
	return add_list_of(obj, "extraHosts", json_get(c->host_config, "ExtraHosts"));
}

static const char *config_or_image(const struct container *c, const char *name,
                                   const char *otherwise)
{
	const char *text = json_text(c->config, name);

	if (!text || !*text)
		text = json_text(c->image_config, name);
	return text && *text ? text : otherwise;
}

/* An older ecs-task does not know the member: it is there only where it says something. */
static int add_userns(const struct container *c, struct json_object *obj)
{
	const char *mode = json_text(c->host_config, "UsernsMode");

	return mode && *mode ? json_add_string(obj, "userns", mode) : 0;
}

static int build_container(const struct task *task, const struct container *c,
                           const struct spec_options *options, struct json_object **ret,
                           struct err *err)
{
	_cleanup_json_ struct json_object *obj = json_object_new_object();
	struct json_object *config = NULL, *log = NULL;
	bool privileged = false, init = false, open_stdin = false;
	int r;

	r = json_optional(json_get_bool(c->host_config, "Privileged", &privileged, err));
	if (r == 0)
		r = json_optional(json_get_bool(c->host_config, "Init", &init, err));
	if (r == 0)
		r = json_optional(json_get_bool(c->config, "OpenStdin", &open_stdin, err));
	if (r == 0)
		r = build_config(task, c, options, privileged, &config, err);
	if (r < 0)
		return r;
	if (json_add(obj, "config", config) < 0)
		return err_oom(err);
	r = security_apply(task, c, options, obj, config, err);
	if (r == 0)
		r = spec_devices(c, obj, err);
	if (r == 0)
		r = build_log(task, c, options, &log, err);
	if (r < 0)
		return r;
	if (json_add(obj, "log", log) < 0 || json_add_string(obj, "name", c->name) < 0 ||
	    json_add_string(obj, "id", c->runtime_id) < 0 ||
	    json_add(obj, "layers", json_object_get(c->layers)) < 0 ||
	    json_add_string(obj, "user", config_or_image(c, "User", "")) < 0 ||
	    json_add_string(obj, "stopSignal", config_or_image(c, "StopSignal", "SIGTERM")) < 0 ||
	    json_add_bool(obj, "privileged", privileged) < 0 || add_userns(c, obj) < 0 ||
	    json_add_bool(obj, "swapIfCounted", spec_has_default_swap(c)) < 0 ||
	    json_add_bool(obj, "init", init) < 0 ||
	    json_add_bool(obj, "restart", c->restart_policy.enabled) < 0 ||
	    json_add_bool(obj, "interactive", open_stdin) < 0 ||
	    (c->network_disabled && json_add_bool(obj, "networkDisabled", true) < 0) ||
	    add_name_service(c, obj) < 0 || health_add_check(c, obj) < 0 ||
	    namespaces_add_to_container(c, obj) < 0 ||
	    managed_agent_add_to_spec(&c->managed_agent, obj) < 0)
		return err_oom(err);
	r = links_add_hosts(task, c, obj, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(obj);
	return 0;
}

int spec_container(const struct task *task, const struct container *c,
                   const struct spec_options *options, struct json_object **ret, struct err *err)
{
	struct err why = {0};
	int r;

	r = build_container(task, c, options, ret, &why);
	if (r < 0 && err) {
		*err = why;
		if (!err->name)
			err->name = "CannotCreateContainerError";
	}
	return r;
}
