/*
 * From JSON to structures: a task's "setup", and a container as a whole; its process, mounts and
 * "linux" part have files of their own. Which members an object may have is written where it is
 * parsed (spec_parse.h).
 */
#include "agent/task/spec.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "agent/task/capability.h"
#include "agent/task/mount.h"
#include "agent/task/rootfs.h"
#include "agent/task/spec_parse.h"
#include "agent/task/spec_userns.h"
#include "lib/json.h"
#include "lib/parse.h"
#include "lib/spool.h"

#define NAME_CHARACTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_"
#define NAME_MAX_BYTES  255
#define LOG_BYTES_MAX   (16ull * 1024 * 1024 * 1024)

/* --- setup --- */

static int network_mode_parse(const char *word, enum network_mode *ret, struct err *err)
{
	static const char *const words[] = {
		[NETWORK_BRIDGE] = "bridge",
		[NETWORK_HOST] = "host",
		[NETWORK_NONE] = "none",
	};

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (strcmp(word, words[i]) == 0) {
			*ret = (enum network_mode)i;
			return 0;
		}
	return err_text(err, -EINVAL,
	                "networkMode \"%.64s\" is not supported; it must be bridge, host or none",
	                word);
}

static int mode_parse(struct json_object *obj, const char *name, const char *const *words, size_t n,
                      unsigned int *ret, struct err *err)
{
	const char *word = words[*ret];
	int r = json_optional(json_get_string(obj, name, &word, err));

	for (size_t i = 0; r == 0 && i < n; i++)
		if (strcmp(word, words[i]) == 0) {
			*ret = (unsigned int)i;
			return 0;
		}
	return r < 0 ? r : err_text(err, -EINVAL, "%s is \"%.64s\", which is none", name, word);
}

static int pid_mode_parse(struct json_object *task, enum pid_mode *ret, struct err *err)
{
	static const char *const words[] = {
		[PID_MODE_PRIVATE] = "private",
		[PID_MODE_TASK] = "task",
		[PID_MODE_HOST] = "host",
	};
	unsigned int mode = PID_MODE_PRIVATE;
	int r = mode_parse(task, "pidMode", words, ARRAY_SIZE(words), &mode, err);

	*ret = (enum pid_mode)mode;
	return r;
}

/* *ret: before, the one that holds without a word. */
static int ipc_mode_parse(struct json_object *obj, enum ipc_mode *ret, struct err *err)
{
	static const char *const words[] = {
		[IPC_MODE_PRIVATE] = "private",
		[IPC_MODE_NONE] = "none",
		[IPC_MODE_TASK] = "task",
		[IPC_MODE_HOST] = "host",
	};
	unsigned int mode = *ret;
	int r = mode_parse(obj, "ipcMode", words, ARRAY_SIZE(words), &mode, err);

	*ret = (enum ipc_mode)mode;
	return r;
}

static int task_limits_parse(struct json_object *cgroup, struct cgroup_limits *ret, struct err *err)
{
	const struct {
		const char *name;
		uint64_t *value;
		uint64_t max;
	} members[] = {
		{"cpuQuotaUsec", &ret->cpu_quota_usec, INT64_MAX / 1000},
		{"cpuPeriodUsec", &ret->cpu_period_usec, 1000000},
		{"cpuShares", &ret->cpu_shares, 262144},
		{"memoryBytes", &ret->memory_max_bytes, MEMORY_BYTES_MAX},
		{"pidsMax", &ret->pids_max, INT32_MAX},
	};
	int r;

	r = ONLY_MEMBERS(cgroup, "task.cgroup", err, "cpuQuotaUsec", "cpuPeriodUsec", "cpuShares",
	                 "memoryBytes", "pidsMax");
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(members); i++)
		r = json_optional(json_get_u64(cgroup, members[i].name, members[i].max,
		                               members[i].value, err));
	return r;
}

int task_spec_parse(struct json_object *task, struct task_spec *ret, struct err *err)
{
	struct task_spec spec = {};
	struct json_object *cgroup = NULL;
	const char *mode, *arn = NULL;
	int r;

	r = ONLY_MEMBERS(task, "task", err, "arn", "networkMode", "pidMode", "ipcMode", "shmBytes",
	                 "cgroup");
	if (r == 0)
		r = pid_mode_parse(task, &spec.pid_mode, err);
	if (r == 0)
		r = ipc_mode_parse(task, &spec.ipc_mode, err);
	if (r == 0)
		r = json_optional(json_get_u64(task, "shmBytes", INT64_MAX, &spec.shm_bytes, err));
	if (r == 0 && spec.shm_bytes > 0 && spec.ipc_mode != IPC_MODE_TASK)
		return err_text(err, -EINVAL, "shmBytes is for ipcMode task only");
	if (r < 0)
		return r;
	r = json_get_string(task, "networkMode", &mode, err);
	if (r < 0)
		return r;
	r = network_mode_parse(mode, &spec.network_mode, err);
	if (r < 0)
		return r;
	r = json_optional(json_get_object(task, "cgroup", &cgroup, err));
	if (r == 0 && cgroup)
		r = task_limits_parse(cgroup, &spec.limits, err);
	if (r < 0)
		return r;
	r = json_optional(json_get_string(task, "arn", &arn, err));
	if (r < 0)
		return r;
	if (arn && !(spec.arn = strdup(arn)))
		return err_oom(err);
	*ret = spec;
	return 0;
}

void task_spec_done(struct task_spec *spec)
{
	free(spec->arn);
	*spec = (struct task_spec){};
}

/* --- the container --- */

static int hostname_check(const char *hostname, struct err *err)
{
	if (!*hostname || strlen(hostname) > HOST_NAME_MAX ||
	    strspn(hostname, NAME_CHARACTERS) != strlen(hostname))
		return err_text(
			err, -EINVAL,
			"hostname is \"%.100s\"; it must be 1 to %d letters, digits, '.', '-', '_'",
			hostname, HOST_NAME_MAX);
	return 0;
}

/* The kernel keeps 64 bytes of the host name, which has both, and of the domain. */
static int domainname_check(const struct container_spec *spec, struct err *err)
{
	size_t hostname_len = spec->hostname ? strlen(spec->hostname) : 12;

	if (!*spec->domainname ||
	    strspn(spec->domainname, NAME_CHARACTERS) != strlen(spec->domainname))
		return err_text(
			err, -EINVAL,
			"domainname is \"%.100s\"; it must be letters, digits, '.', '-', '_'",
			spec->domainname);
	if (hostname_len + 1 + strlen(spec->domainname) > 64)
		return err_text(
			err, -EINVAL,
			"domainname is \"%.100s\"; with the host name it must have at most 64 "
			"characters",
			spec->domainname);
	return 0;
}

static int config_parse(struct json_object *config, const struct task_spec *task,
                        struct container_spec *spec, struct err *err)
{
	struct json_object *process, *root = NULL, *mounts = NULL, *linux_ = NULL;
	int r;

	r = ONLY_MEMBERS(config, "config", err, "ociVersion", "process", "root", "hostname",
	                 "mounts", "linux");
	if (r == 0)
		r = json_get_object(config, "process", &process, err);
	if (r == 0)
		r = json_optional(json_get_object(config, "root", &root, err));
	if (r == 0)
		r = json_optional(json_get_array(config, "mounts", &mounts, err));
	if (r == 0)
		r = json_optional(json_get_object(config, "linux", &linux_, err));
	if (r == 0)
		r = json_optional(json_get_string(config, "hostname", &spec->hostname, err));
	if (r < 0)
		return err_prefix(err, r == -ENOENT ? -EINVAL : r, "config");

	if (spec->hostname && !*spec->hostname)
		spec->hostname = NULL;
	if (spec->hostname)
		r = hostname_check(spec->hostname, err);
	if (r == 0 && root)
		r = ONLY_MEMBERS(root, "root", err, "readonly");
	if (r == 0 && root)
		r = json_optional(json_get_bool(root, "readonly", &spec->readonly_root, err));
	if (r == 0)
		r = spec_parse_process(process, spec, err);
	if (r == 0)
		r = spec_parse_labels(process, linux_, spec, err);
	if (r == 0 && mounts)
		r = spec_parse_mounts(mounts, spec, err);
	if (r == 0 && linux_)
		r = spec_parse_linux(linux_, task->network_mode, spec, err);
	return r;
}

int container_spec_set_user(struct container_spec *spec, const char *text, struct err *err)
{
	const char *colon = strchr(text, ':');

	if (strlen(text) > 255)
		return err_text(err, -EINVAL, "user is longer than 255 bytes");
	free(spec->user);
	free(spec->group);
	spec->user = strndup(text, colon ? (size_t)(colon - text) : strlen(text));
	spec->group = strdup(colon ? colon + 1 : "");
	return spec->user && spec->group ? 0 : err_oom(err);
}

static int dns_parse(struct json_object *dns, struct dns_spec *ret, struct err *err)
{
	int r;

	r = ONLY_MEMBERS(dns, "dns", err, "servers", "search", "options");
	if (r == 0)
		r = spec_get_strings(dns, "dns", "servers", &ret->servers, NULL, err);
	if (r == 0)
		r = spec_get_strings(dns, "dns", "search", &ret->search, NULL, err);
	if (r == 0)
		r = spec_get_strings(dns, "dns", "options", &ret->options, NULL, err);
	return r;
}

static int log_parse(struct json_object *log, struct container_spec *spec, struct err *err)
{
	const char *driver, *mode = "blocking";
	uint64_t max_bytes = SPOOL_MAX_BYTES;
	int r;

	r = json_get_string(log, "driver", &driver, err);
	if (r == 0)
		r = json_optional(json_get_string(log, "mode", &mode, err));
	if (r == 0)
		r = json_optional(json_get_u64(log, "maxBytes", LOG_BYTES_MAX, &max_bytes, err));
	if (r < 0)
		return err_prefix(err, r == -ENOENT ? -EINVAL : r, "log");
	if (strcmp(mode, "blocking") != 0 && strcmp(mode, "non-blocking") != 0)
		return err_text(err, -EINVAL,
		                "log.mode is \"%.64s\"; it must be blocking or non-blocking", mode);
	if (max_bytes == 0)
		return err_text(err, -EINVAL, "log.maxBytes is 0; it must be at least 1");
	if (strcmp(driver, "none") == 0)
		return 0;
	spec->log = log;
	spec->log_blocking = strcmp(mode, "blocking") == 0;
	spec->log_max_bytes = max_bytes;
	return 0;
}

static int layers_parse(struct json_object *container, struct container_spec *spec, struct err *err)
{
	int r = spec_get_strings(container, "container", "layers", &spec->layers, &spec->n_layers,
	                         err);

	if (r < 0)
		return r;
	if (spec->rootfs && spec->n_layers > 0)
		return err_text(err, -EINVAL, "container.layers and container.oci exclude another");
	if (spec->rootfs)
		return 0;
	if (spec->n_layers == 0 || spec->n_layers > ROOTFS_LAYERS_MAX)
		return err_text(err, -EINVAL,
		                "container.layers has %zu entries; it must have 1 to %d",
		                spec->n_layers, ROOTFS_LAYERS_MAX);
	for (size_t i = 0; i < spec->n_layers; i++)
		if (!name_is_hex(spec->layers[i], 64))
			return err_text(
				err, -EINVAL,
				"container.layers[%zu] is \"%.80s\"; it must be 64 hex digits", i,
				spec->layers[i]);
	return 0;
}

static int names_parse(struct json_object *container, struct container_spec *spec, struct err *err)
{
	int r;

	r = json_get_string(container, "name", &spec->name, err);
	if (r == 0)
		r = json_get_string(container, "id", &spec->id, err);
	if (r < 0)
		return err_prefix(err, -EINVAL, "container");
	if (!name_is_component(spec->name, NAME_MAX_BYTES))
		return err_text(
			err, -EINVAL,
			"container.name is \"%.100s\"; it must be 1 to 255 letters, digits, '_', "
			"'-' or '.', not starting with '.'",
			spec->name);
	if (!name_is_hex(spec->id, 64))
		return err_text(err, -EINVAL, "container.id is \"%.80s\"; it must be 64 hex digits",
		                spec->id);
	return 0;
}

static int gids_parse(struct json_object *oci, struct container_spec *spec, struct err *err)
{
	struct json_object *array = NULL;
	int r = json_optional(json_get_array(oci, "additionalGids", &array, err));
	size_t n = array ? json_object_array_length(array) : 0;

	if (r < 0)
		return r;
	if (n > SPEC_GIDS_MAX)
		return err_text(err, -EINVAL, "%zu additionalGids; at most %d are taken", n,
		                SPEC_GIDS_MAX);
	for (size_t i = 0; i < n; i++) {
		struct json_object *item = json_object_array_get_idx(array, i);
		int64_t gid =
			json_object_is_type(item, json_type_int) ? json_object_get_int64(item) : -1;

		if (gid < 0 || gid > INT32_MAX)
			return err_text(err, -EINVAL,
			                "additionalGids[%zu] must be in range 0 to 2147483647", i);
		spec->additional_gids[spec->n_additional_gids++] = (gid_t)gid;
	}
	return 0;
}

static int oci_parse(struct json_object *container, struct container_spec *spec, struct err *err)
{
	struct json_object *oci = NULL;
	int r = json_optional(json_get_object(container, "oci", &oci, err));

	if (r == 0)
		r = spec_parse_userns(container, oci, spec, err);
	if (r < 0 || !oci)
		return r;
	spec->bare = true;
	r = ONLY_MEMBERS(oci, "container.oci", err, "rootfs", "hold", "additionalGids",
	                 "uidMappings", "gidMappings", "networkNamespace");
	if (r == 0)
		r = json_get_string(oci, "rootfs", &spec->rootfs, err);
	if (r == 0)
		r = spec_check_path(spec->rootfs, "container.oci.rootfs", err);
	if (r == 0)
		r = json_optional(json_get_bool(oci, "hold", &spec->hold, err));
	if (r == 0)
		r = json_optional(json_get_string(oci, "networkNamespace", &spec->netns, err));
	if (r == 0 && spec->netns)
		r = spec_check_path(spec->netns, "container.oci.networkNamespace", err);
	return r < 0 ? r : gids_parse(oci, spec, err);
}

/* Members beside names, layers and config. */
static int settings_parse(struct json_object *container, struct container_spec *spec,
                          struct err *err)
{
	const char *user = "", *stop_signal = "SIGTERM";
	struct json_object *dns = NULL, *log = NULL;
	int r;

	r = json_optional(json_get_string(container, "user", &user, err));
	if (r == 0)
		r = json_optional(json_get_string(container, "stopSignal", &stop_signal, err));
	if (r == 0)
		r = json_optional(json_get_bool(container, "privileged", &spec->privileged, err));
	if (r == 0)
		r = json_optional(json_get_bool(container, "init", &spec->init, err));
	if (r == 0)
		r = json_optional(json_get_bool(container, "restart", &spec->restart, err));
	if (r == 0)
		r = json_optional(json_get_bool(container, "interactive", &spec->interactive, err));
	if (r == 0)
		r = json_optional(
			json_get_bool(container, "networkDisabled", &spec->network_disabled, err));
	if (r == 0)
		r = json_optional(
			json_get_object(container, "healthCheck", &spec->health_check, err));
	if (r == 0)
		r = json_optional(json_get_object(container, "executeCommandAgent",
		                                  &spec->execute_command, err));
	if (r == 0)
		r = json_optional(json_get_bool(container, "swapIfCounted",
		                                &spec->limits.memory_swap_if_counted, err));
	if (r == 0)
		r = json_optional(json_get_string(container, "domainname", &spec->domainname, err));
	if (r == 0)
		r = json_optional(json_get_object(container, "dns", &dns, err));
	if (r == 0)
		r = json_optional(json_get_object(container, "log", &log, err));
	if (r < 0)
		return err_prefix(err, r, "container");

	r = spec_parse_seccomp(container, spec, err);
	if (r < 0)
		return r;
	spec->stop_signal = signal_from_name(*stop_signal ? stop_signal : "SIGTERM");
	if (spec->stop_signal < 0)
		return err_text(err, -EINVAL, "stopSignal \"%.64s\" is no signal", stop_signal);

	r = container_spec_set_user(spec, user, err);
	if (r == 0)
		r = spec_parse_host_devices(container, spec, err);
	if (r == 0)
		r = spec_get_strings(container, "container", "extraHosts", &spec->extra_hosts, NULL,
		                     err);
	if (r == 0)
		r = spec_get_strings(container, "container", "linkedHosts", &spec->linked_hosts,
		                     NULL, err);
	if (r == 0 && dns)
		r = dns_parse(dns, &spec->dns, err);
	if (r == 0 && log)
		r = log_parse(log, spec, err);
	return r;
}

static void apply_privileged(struct container_spec *spec)
{
	uint64_t all = capability_all();

	spec->cap_bounding = spec->cap_permitted = spec->cap_effective = all;
	free(spec->masked_paths);
	free(spec->readonly_paths);
	spec->masked_paths = spec->readonly_paths = NULL;
}

/* Of a task that says nothing, each container can say its own. */
static int container_ipc_mode_parse(struct json_object *container, const struct task_spec *task,
                                    struct container_spec *spec, struct err *err)
{
	int r;

	spec->ipc_mode = task->ipc_mode;
	r = ipc_mode_parse(container, &spec->ipc_mode, err);
	if (r == 0 && spec->ipc_mode != task->ipc_mode &&
	    (task->ipc_mode != IPC_MODE_PRIVATE || spec->ipc_mode == IPC_MODE_TASK))
		r = err_text(err, -EINVAL, "ipcMode is not the task's");
	return r < 0 ? err_prefix(err, r, "container") : 0;
}

static int parse(struct json_object *container, const struct task_spec *task,
                 struct container_spec *spec, struct err *err)
{
	struct json_object *config;
	int r;

	r = ONLY_MEMBERS(container, "container", err, "name", "id", "layers", "config", "user",
	                 "seccomp", "privileged", "init", "restart", "interactive",
	                 "networkDisabled", "swapIfCounted", "hostDevices", "dns", "extraHosts",
	                 "linkedHosts", "oci", "stopSignal", "healthCheck", "executeCommandAgent",
	                 "log", "ipcMode", "userns", "domainname");
	if (r == 0)
		r = names_parse(container, spec, err);
	if (r == 0)
		r = oci_parse(container, spec, err);
	if (r == 0)
		r = layers_parse(container, spec, err);
	if (r == 0)
		r = container_ipc_mode_parse(container, task, spec, err);
	if (r == 0)
		r = settings_parse(container, spec, err);
	if (r < 0)
		return r;
	r = json_get_object(container, "config", &config, err);
	if (r < 0)
		return err_prefix(err, -EINVAL, "container");
	r = config_parse(config, task, spec, err);
	if (r == 0 && spec->domainname)
		r = domainname_check(spec, err);
	if (r == 0 && spec->privileged)
		apply_privileged(spec);
	return r;
}

int container_spec_parse(struct json_object *container, const struct task_spec *task,
                         struct container_spec **ret, struct err *err)
{
	_cleanup_(container_spec_freep) struct container_spec *spec = calloc(1, sizeof(*spec));
	int r;

	if (!spec)
		return err_oom(err);
	spec->json = json_object_get(container);
	r = parse(container, task, spec, err);
	if (r < 0) {
		if (err)
			err->name = "CannotCreateContainerError";
		return r;
	}
	*ret = TAKE_PTR(spec);
	return 0;
}

struct container_spec *container_spec_free(struct container_spec *spec)
{
	if (!spec)
		return NULL;

	/* Secrets of the task are in here, and in no other copy that we keep. */
	for (size_t i = 0; spec->env && spec->env[i]; i++)
		explicit_bzero((char *)spec->env[i], strlen(spec->env[i]));
	for (size_t i = 0; i < spec->n_mounts; i++) {
		for (size_t k = 0; k < spec->mounts[i].n_options; k++) {
			free((char *)spec->mounts[i].options[k].key);
			free((char *)spec->mounts[i].options[k].value);
		}
		free(spec->mounts[i].options);
	}
	for (size_t i = 0; i < spec->n_sysctls; i++)
		free((char *)spec->sysctls[i].path);
	free(spec->mounts);
	free(spec->sysctls);
	for (size_t i = 0; i < spec->n_devices; i++)
		free(spec->devices[i].own_path);
	free(spec->devices);
	free(spec->host_devices);
	free(spec->device_rules);
	free(spec->layers);
	free(spec->args);
	free(spec->env);
	free(spec->user);
	free(spec->group);
	free(spec->masked_paths);
	free(spec->readonly_paths);
	free(spec->dns.servers);
	free(spec->dns.search);
	free(spec->dns.options);
	free(spec->extra_hosts);
	free(spec->linked_hosts);
	free(spec->id_maps);
	json_object_put(spec->json);
	if (spec->text)
		explicit_bzero(spec->text, spec->text_len);
	free(spec->text);
	free(spec);
	return NULL;
}

static const char *pack(char **at, const char *string)
{
	size_t n = strlen(string) + 1;
	char *place = *at;

	memcpy(place, string, n);
	*at += n;
	return place;
}

/* The strings of labels; those of *ret are NULL before. Returns their length together. */
static size_t pack_labels(const struct labels *labels, struct labels *ret, char **at)
{
	const struct {
		const char *from, **to;
	} strings[] = {
		{labels->apparmor_profile, &ret->apparmor_profile},
		{labels->selinux_label, &ret->selinux_label},
		{labels->mount_label, &ret->mount_label},
	};
	size_t len = 0;

	for (size_t i = 0; i < ARRAY_SIZE(strings); i++) {
		if (!strings[i].from)
			continue;
		len += strlen(strings[i].from) + 1;
		if (at)
			*strings[i].to = pack(at, strings[i].from);
	}
	return len;
}

struct container_spec *container_spec_for_exec(const struct container_spec *spec)
{
	_cleanup_(container_spec_freep) struct container_spec *ret = calloc(1, sizeof(*ret));
	size_t n_env = 0;
	char *at;

	if (!ret)
		return NULL;
	ret->labels.no_default = spec->labels.no_default;
	ret->text_len = strlen(spec->cwd) + 1 + pack_labels(&spec->labels, &ret->labels, NULL);
	for (; spec->env && spec->env[n_env]; n_env++)
		ret->text_len += strlen(spec->env[n_env]) + 1;
	ret->text = at = malloc(ret->text_len);
	ret->env = calloc(n_env + 1, sizeof(*ret->env));
	ret->user = strdup(spec->user ? spec->user : "");
	ret->group = strdup(spec->group ? spec->group : "");
	if (!ret->text || !ret->env || !ret->user || !ret->group)
		return NULL;

	ret->cwd = pack(&at, spec->cwd);
	(void)pack_labels(&spec->labels, &ret->labels, &at);
	for (size_t i = 0; i < n_env; i++)
		ret->env[i] = pack(&at, spec->env[i]);
	ret->cap_bounding = spec->cap_bounding;
	ret->cap_permitted = spec->cap_permitted;
	ret->cap_effective = spec->cap_effective;
	memcpy(ret->rlimits, spec->rlimits, sizeof(ret->rlimits));
	ret->n_rlimits = spec->n_rlimits;
	ret->oom_score_adj = spec->oom_score_adj;
	ret->no_new_privs = spec->no_new_privs;
	ret->privileged = spec->privileged;
	ret->seccomp = spec->seccomp;
	ret->bare = spec->bare;
	memcpy(ret->additional_gids, spec->additional_gids, sizeof(ret->additional_gids));
	ret->n_additional_gids = spec->n_additional_gids;
	return TAKE_PTR(ret);
}
