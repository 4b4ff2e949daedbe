/*
 * From JSON to structures. Each object has a table of the members it may have: what is not in it
 * is refused, since a setting that is taken and not applied is worse than none.
 */
#include "agent/task/spec.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "agent/task/capability.h"
#include "agent/task/mount.h"
#include "agent/task/rootfs.h"
#include "lib/json.h"
#include "lib/parse.h"
#include "lib/spool.h"

#define NAME_MAX_BYTES   255
#define STRINGS_MAX      65536 /* of one list, such as env */
#define MOUNTS_MAX       512
#define DEVICES_MAX      256
#define SYSCTLS_MAX      256
#define LOG_BYTES_MAX    (16ull * 1024 * 1024 * 1024)
#define MEMORY_BYTES_MAX ((uint64_t)INT64_MAX)

/* Refuse members of obj that are not in the NULL-terminated list. where: "linux.resources". */
static int only_members(struct json_object *obj, const char *where, const char *const *known,
                        struct err *err)
{
	json_object_object_foreach (obj, key, value) {
		size_t i = 0;

		(void)value;
		while (known[i] && strcmp(known[i], key) != 0)
			i++;
		if (!known[i])
			return err_text(err, -EINVAL, "%s%s%.100s is not supported", where,
			                *where ? "." : "", key);
	}
	return 0;
}
#define ONLY_MEMBERS(obj, where, err, ...)                                                         \
	only_members(obj, where, (const char *const[]){__VA_ARGS__, NULL}, err)

/* A list of strings as a NULL-terminated array; absent leaves *ret alone. */
static int get_strings(struct json_object *obj, const char *where, const char *name,
                       const char ***ret, size_t *ret_n, struct err *err)
{
	_cleanup_free_ const char **list = NULL;
	struct json_object *array;
	size_t n;
	int r;

	r = json_get_array(obj, name, &array, err);
	if (r < 0)
		return r == -ENOENT ? 0 : err_prefix(err, r, "%s", where);
	n = json_object_array_length(array);
	if (n > STRINGS_MAX)
		return err_text(err, -EINVAL, "%s.%s has %zu entries; at most %d are taken", where,
		                name, n, STRINGS_MAX);

	list = calloc(n + 1, sizeof(*list));
	if (!list)
		return err_oom(err);
	for (size_t i = 0; i < n; i++) {
		struct json_object *item = json_object_array_get_idx(array, i);

		if (!json_object_is_type(item, json_type_string))
			return err_text(err, -EINVAL, "%s.%s[%zu] must be a string", where, name,
			                i);
		list[i] = json_object_get_string(item);
		if (strlen(list[i]) != (size_t)json_object_get_string_len(item))
			return err_text(err, -EINVAL, "%s.%s[%zu] contains a NUL byte", where, name,
			                i);
	}
	free(*ret);
	*ret = TAKE_PTR(list);
	if (ret_n)
		*ret_n = n;
	return 0;
}

/* An absolute path without "..", which is about the container's own tree. */
static int check_path(const char *path, const char *where, struct err *err)
{
	if (path[0] != '/')
		return err_text(err, -EINVAL, "%s is \"%.200s\"; it must be an absolute path",
		                where, path);
	for (const char *p = path; (p = strstr(p, "/..")); p += 3)
		if (p[3] == '/' || p[3] == '\0')
			return err_text(err, -EINVAL,
			                "%s is \"%.200s\"; it must not contain \"..\"", where,
			                path);
	if (strlen(path) > 4000)
		return err_text(err, -EINVAL, "%s is longer than 4000 bytes", where);
	return 0;
}

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

	r = ONLY_MEMBERS(task, "task", err, "arn", "networkMode", "cgroup");
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

/* --- signals --- */

int signal_from_name(const char *name)
{
	uint64_t number;

	if (parse_u64(name, (uint64_t)SIGRTMAX, &number) == 0)
		return number > 0 ? (int)number : -EINVAL;
	if (strncasecmp(name, "SIG", 3) == 0)
		name += 3;
	if (strcasecmp(name, "RTMIN") == 0)
		return SIGRTMIN;
	if (strcasecmp(name, "RTMAX") == 0)
		return SIGRTMAX;
	if (strncasecmp(name, "RTMIN+", 6) == 0)
		return parse_u64(name + 6, (uint64_t)(SIGRTMAX - SIGRTMIN), &number) == 0
		               ? SIGRTMIN + (int)number
		               : -EINVAL;
	if (strncasecmp(name, "RTMAX-", 6) == 0)
		return parse_u64(name + 6, (uint64_t)(SIGRTMAX - SIGRTMIN), &number) == 0
		               ? SIGRTMAX - (int)number
		               : -EINVAL;
	for (int s = 1; s < SIGRTMIN; s++) {
		const char *abbrev = sigabbrev_np(s);

		if (abbrev && strcasecmp(abbrev, name) == 0)
			return s;
	}
	return -EINVAL;
}

/* --- process --- */

static int capability_set_parse(struct json_object *caps, const char *name, uint64_t *ret,
                                struct err *err)
{
	_cleanup_free_ const char **names = NULL;
	uint64_t all = 0, bit;
	int r;

	r = get_strings(caps, "process.capabilities", name, &names, NULL, err);
	if (r < 0)
		return r;
	for (size_t i = 0; names && names[i]; i++) {
		if (capability_from_name(names[i], &bit) < 0)
			return err_text(err, -EINVAL,
			                "process.capabilities.%s: there is no capability \"%.64s\"",
			                name, names[i]);
		all |= bit;
	}
	*ret = all;
	return 0;
}

static int capabilities_parse(struct json_object *caps, struct container_spec *spec,
                              struct err *err)
{
	uint64_t inheritable = 0, ambient = 0;
	const struct {
		const char *name;
		uint64_t *set;
	} sets[] = {
		{"bounding", &spec->cap_bounding},
		{"permitted", &spec->cap_permitted},
		{"effective", &spec->cap_effective},
		{"inheritable", &inheritable},
		{"ambient", &ambient},
	};
	int r;

	r = ONLY_MEMBERS(caps, "process.capabilities", err, "bounding", "permitted", "effective",
	                 "inheritable", "ambient");
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(sets); i++)
		r = capability_set_parse(caps, sets[i].name, sets[i].set, err);
	if (r < 0)
		return r;

	/* CVE-2022-29162: with inheritable capabilities a program of another user can get them. */
	if (inheritable || ambient)
		return err_text(err, -EINVAL, "process.capabilities.%s must be empty",
		                inheritable ? "inheritable" : "ambient");
	if (spec->cap_effective & ~spec->cap_permitted)
		return err_text(err, -EINVAL,
		                "process.capabilities.effective has more than .permitted");
	return 0;
}

static const struct {
	const char *name;
	int resource;
} rlimit_names[] = {
	{"RLIMIT_AS", RLIMIT_AS},
	{"RLIMIT_CORE", RLIMIT_CORE},
	{"RLIMIT_CPU", RLIMIT_CPU},
	{"RLIMIT_DATA", RLIMIT_DATA},
	{"RLIMIT_FSIZE", RLIMIT_FSIZE},
	{"RLIMIT_LOCKS", RLIMIT_LOCKS},
	{"RLIMIT_MEMLOCK", RLIMIT_MEMLOCK},
	{"RLIMIT_MSGQUEUE", RLIMIT_MSGQUEUE},
	{"RLIMIT_NICE", RLIMIT_NICE},
	{"RLIMIT_NOFILE", RLIMIT_NOFILE},
	{"RLIMIT_NPROC", RLIMIT_NPROC},
	{"RLIMIT_RSS", RLIMIT_RSS},
	{"RLIMIT_RTPRIO", RLIMIT_RTPRIO},
	{"RLIMIT_RTTIME", RLIMIT_RTTIME},
	{"RLIMIT_SIGPENDING", RLIMIT_SIGPENDING},
	{"RLIMIT_STACK", RLIMIT_STACK},
};

const char *rlimit_name(int resource)
{
	for (size_t i = 0; i < ARRAY_SIZE(rlimit_names); i++)
		if (rlimit_names[i].resource == resource)
			return rlimit_names[i].name;
	return "RLIMIT_?";
}

static int rlimit_value(struct json_object *obj, const char *name, rlim_t *ret, struct err *err)
{
	uint64_t value;
	int64_t negative;
	int r;

	/* OCI has unsigned numbers; Docker's -1 for "unlimited" is common. */
	r = json_get_i64(obj, name, -1, -1, &negative, NULL);
	if (r == 0) {
		*ret = RLIM_INFINITY;
		return 0;
	}
	r = json_get_u64(obj, name, UINT64_MAX, &value, err);
	if (r < 0)
		return err_prefix(err, r == -ENOENT ? -EINVAL : r, "process.rlimits");
	*ret = value;
	return 0;
}

static int rlimit_parse(struct json_object *obj, struct container_spec *spec, struct err *err)
{
	const char *type;
	struct rlimit limit;
	size_t i;
	int r;

	if (!json_object_is_type(obj, json_type_object))
		return err_text(err, -EINVAL, "process.rlimits must hold objects");
	r = ONLY_MEMBERS(obj, "process.rlimits", err, "type", "soft", "hard");
	if (r < 0)
		return r;
	r = json_get_string(obj, "type", &type, err);
	if (r < 0)
		return err_prefix(err, -EINVAL, "process.rlimits");
	for (i = 0; i < ARRAY_SIZE(rlimit_names); i++)
		if (strcmp(rlimit_names[i].name, type) == 0)
			break;
	if (i == ARRAY_SIZE(rlimit_names))
		return err_text(err, -EINVAL, "process.rlimits: there is no limit \"%.64s\"", type);

	r = rlimit_value(obj, "soft", &limit.rlim_cur, err);
	if (r == 0)
		r = rlimit_value(obj, "hard", &limit.rlim_max, err);
	if (r < 0)
		return r;
	if (limit.rlim_cur > limit.rlim_max)
		return err_text(err, -EINVAL,
		                "process.rlimits: soft limit of %s is above the hard limit", type);
	for (size_t k = 0; k < spec->n_rlimits; k++)
		if (spec->rlimits[k].resource == rlimit_names[i].resource)
			return err_text(err, -EINVAL, "process.rlimits has %s twice", type);
	spec->rlimits[spec->n_rlimits++] = (struct rlimit_spec){rlimit_names[i].resource, limit};
	return 0;
}

static int env_check(const struct container_spec *spec, struct err *err)
{
	for (size_t i = 0; spec->env && spec->env[i]; i++)
		if (spec->env[i][0] == '=' || !strchr(spec->env[i], '='))
			return err_text(err, -EINVAL, "process.env[%zu] must be NAME=VALUE", i);
	return 0; /* the value is not repeated: it may be a secret */
}

static int process_parse(struct json_object *process, struct container_spec *spec, struct err *err)
{
	struct json_object *caps = NULL, *rlimits = NULL;
	int64_t oom_score_adj = 0;
	bool terminal = false;
	size_t n_args = 0;
	int r;

	r = ONLY_MEMBERS(process, "process", err, "args", "env", "cwd", "terminal", "capabilities",
	                 "rlimits", "noNewPrivileges", "oomScoreAdj");
	if (r < 0)
		return r;

	r = json_optional(json_get_bool(process, "terminal", &terminal, err));
	if (r < 0)
		return err_prefix(err, r, "process");
	if (terminal)
		return err_text(err, -EINVAL,
		                "process.terminal true (pseudoTerminal) is not supported");

	r = get_strings(process, "process", "args", &spec->args, &n_args, err);
	if (r == 0)
		r = get_strings(process, "process", "env", &spec->env, NULL, err);
	if (r == 0)
		r = env_check(spec, err);
	if (r < 0)
		return r;
	if (n_args == 0 || spec->args[0][0] == '\0')
		return err_text(err, -EINVAL, "process.args is empty: no command specified");

	spec->cwd = "/";
	r = json_optional(json_get_string(process, "cwd", &spec->cwd, err));
	if (r < 0)
		return err_prefix(err, r, "process");
	if (spec->cwd[0] == '\0')
		spec->cwd = "/";
	r = check_path(spec->cwd, "process.cwd", err);
	if (r < 0)
		return r;

	r = json_optional(json_get_bool(process, "noNewPrivileges", &spec->no_new_privs, err));
	if (r == 0)
		r = json_optional(
			json_get_i64(process, "oomScoreAdj", -1000, 1000, &oom_score_adj, err));
	if (r == 0)
		r = json_optional(json_get_object(process, "capabilities", &caps, err));
	if (r == 0)
		r = json_optional(json_get_array(process, "rlimits", &rlimits, err));
	if (r < 0)
		return err_prefix(err, r, "process");
	spec->oom_score_adj = (int)oom_score_adj;

	if (caps)
		r = capabilities_parse(caps, spec, err);
	for (size_t i = 0; r == 0 && rlimits && i < json_object_array_length(rlimits); i++)
		r = rlimit_parse(json_object_array_get_idx(rlimits, i), spec, err);
	return r;
}

/* --- mounts --- */

/* A later word wins over an earlier one: "noexec" then "exec" is exec. */
static const struct {
	const char *word;
	unsigned int set, clear;
	unsigned long propagation;
	bool recursive, recursive_attr;
} mount_words[] = {
	{"rw", .clear = MOUNT_ATTR_RDONLY},
	{"ro", .set = MOUNT_ATTR_RDONLY},
	{"rro", .set = MOUNT_ATTR_RDONLY, .recursive_attr = true},
	{"nosuid", .set = MOUNT_ATTR_NOSUID},
	{"suid", .clear = MOUNT_ATTR_NOSUID},
	{"nodev", .set = MOUNT_ATTR_NODEV},
	{"dev", .clear = MOUNT_ATTR_NODEV},
	{"noexec", .set = MOUNT_ATTR_NOEXEC},
	{"exec", .clear = MOUNT_ATTR_NOEXEC},
	{"noatime", .set = MOUNT_ATTR_NOATIME, .clear = MOUNT_ATTR__ATIME},
	{"relatime", .clear = MOUNT_ATTR__ATIME},
	{"strictatime", .set = MOUNT_ATTR_STRICTATIME, .clear = MOUNT_ATTR__ATIME},
	{"nodiratime", .set = MOUNT_ATTR_NODIRATIME},
	{"diratime", .clear = MOUNT_ATTR_NODIRATIME},
	{"bind", .set = 0},
	{"rbind", .recursive = true},
	{"private", .propagation = MS_PRIVATE},
	{"rprivate", .propagation = MS_PRIVATE | MS_REC},
	{"slave", .propagation = MS_SLAVE},
	{"rslave", .propagation = MS_SLAVE | MS_REC},
};

static const char *const tmpfs_keys[] = {"size", "mode", "uid", "gid", "nr_inodes", "nr_blocks"};

static int tmpfs_option(const char *option, const char *where, struct mount_spec *mount,
                        struct err *err)
{
	size_t len = strcspn(option, "=");
	struct mount_option *options;
	char *key, *value;

	for (size_t i = 0; i < ARRAY_SIZE(tmpfs_keys); i++) {
		if (strlen(tmpfs_keys[i]) != len || strncmp(tmpfs_keys[i], option, len) != 0 ||
		    option[len] != '=' || option[len + 1] == '\0')
			continue;

		options = realloc(mount->options, (mount->n_options + 1) * sizeof(*options));
		if (!options)
			return err_oom(err);
		mount->options = options;
		key = strndup(option, len);
		value = strdup(option + len + 1);
		options[mount->n_options++] = (struct mount_option){key, value};
		return key && value ? 0 : err_oom(err);
	}
	return err_text(err, -EINVAL, "%s: mount option \"%.100s\" is not supported", where,
	                option);
}

static int mount_option(const char *option, const char *where, struct mount_spec *mount,
                        struct err *err)
{
	for (size_t i = 0; i < ARRAY_SIZE(mount_words); i++) {
		if (strcmp(mount_words[i].word, option) != 0)
			continue;
		mount->attr &= ~mount_words[i].clear; /* a later word wins: noexec,exec */
		mount->attr = (mount->attr & ~mount_words[i].clear) | mount_words[i].set;
		mount->recursive |= mount_words[i].recursive;
		mount->recursive_attr |= mount_words[i].recursive_attr;
		if (mount_words[i].propagation)
			mount->propagation = mount_words[i].propagation;
		return 0;
	}
	if (mount->type == MOUNT_TMPFS)
		return tmpfs_option(option, where, mount, err);
	return err_text(err, -EINVAL, "%s: mount option \"%.100s\" is not supported", where,
	                option);
}

static int mount_parse(struct json_object *obj, size_t index, struct mount_spec *mount,
                       struct err *err)
{
	_cleanup_free_ const char **options = NULL;
	const char *type = "bind";
	char where[160];
	int r;

	snprintf(where, sizeof(where), "mounts[%zu]", index);
	if (!json_object_is_type(obj, json_type_object))
		return err_text(err, -EINVAL, "%s must be an object", where);
	r = ONLY_MEMBERS(obj, where, err, "destination", "source", "type", "options");
	if (r < 0)
		return r;
	r = json_get_string(obj, "destination", &mount->target, err);
	if (r < 0)
		return err_prefix(err, -EINVAL, "%s", where);
	snprintf(where, sizeof(where), "mount at %.100s", mount->target);
	r = check_path(mount->target, where, err);
	if (r < 0)
		return r;
	if (mount->target[strspn(mount->target, "/.")] == '\0')
		return err_text(err, -EINVAL, "%s: the root cannot be mounted over", where);
	/* What procfs shows of the container must be procfs (CVE-2019-16884, CVE-2025-52881). */
	if (strncmp(mount->target + strspn(mount->target, "/") - 1, "/proc", 5) == 0 &&
	    strchr("/", mount->target[strspn(mount->target, "/") + 4]))
		return err_text(err, -EINVAL, "%s: nothing can be mounted inside /proc", where);

	r = json_optional(json_get_string(obj, "type", &type, err));
	if (r < 0)
		return err_prefix(err, r, "%s", where);
	if (strcmp(type, "tmpfs") == 0)
		mount->type = MOUNT_TMPFS;
	else if (strcmp(type, "bind") != 0)
		return err_text(err, -EINVAL,
		                "%s: type \"%.64s\" is not supported; it must be bind or tmpfs",
		                where, type);

	if (mount->type == MOUNT_BIND) {
		r = json_get_string(obj, "source", &mount->source, err);
		if (r < 0)
			return err_prefix(err, -EINVAL, "%s", where);
		r = check_path(mount->source, where, err);
		if (r < 0)
			return r;
	}
	mount->propagation = MS_PRIVATE | MS_REC;
	r = get_strings(obj, where, "options", &options, NULL, err);
	for (size_t i = 0; r == 0 && options && options[i]; i++)
		r = mount_option(options[i], where, mount, err);
	return r;
}

static size_t path_components(const char *path)
{
	size_t n = 0;

	for (; *path; path++)
		if (path[0] == '/' && path[1] != '/' && path[1] != '\0')
			n++;
	return n;
}

/* A mount must come after the one it lies in; otherwise the order given stays. */
static void sort_mounts(struct mount_spec *mounts, size_t n)
{
	for (size_t i = 1; i < n; i++) {
		struct mount_spec moving = mounts[i];
		size_t k = i;

		for (; k > 0 &&
		       path_components(mounts[k - 1].target) > path_components(moving.target);
		     k--)
			mounts[k] = mounts[k - 1];
		mounts[k] = moving;
	}
}

static int mounts_parse(struct json_object *array, struct container_spec *spec, struct err *err)
{
	size_t n = json_object_array_length(array);
	int r;

	if (n > MOUNTS_MAX)
		return err_text(err, -EINVAL, "%zu mounts; at most %d are taken", n, MOUNTS_MAX);
	spec->mounts = calloc(n + 1, sizeof(*spec->mounts));
	if (!spec->mounts)
		return err_oom(err);
	for (size_t i = 0; i < n; i++) {
		spec->n_mounts = i + 1;
		r = mount_parse(json_object_array_get_idx(array, i), i, &spec->mounts[i], err);
		if (r < 0)
			return r;
	}
	sort_mounts(spec->mounts, n);
	return 0;
}

/* --- linux --- */

/* The sysctls that belong to namespaces of the container, as Docker allows them. */
static bool sysctl_is_allowed(const char *name, enum network_mode mode)
{
	static const char *const ipc[] = {
		"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem",
		"kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced",
	};

	for (size_t i = 0; i < ARRAY_SIZE(ipc); i++)
		if (strcmp(name, ipc[i]) == 0)
			return true;
	if (strncmp(name, "fs.mqueue.", 10) == 0)
		return true;
	return mode != NETWORK_HOST && strncmp(name, "net.", 4) == 0;
}

static int sysctls_parse(struct json_object *obj, enum network_mode mode,
                         struct container_spec *spec, struct err *err)
{
	size_t n = (size_t)json_object_object_length(obj);

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
		if (!sysctl_is_allowed(key, mode))
			return err_text(
				err, -EINVAL,
				"sysctl \"%.100s\" is not allowed: it is not the container's own%s",
				key, mode == NETWORK_HOST ? " in host network mode" : "");
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
	r = check_path(device->path, where, err);
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

	if (n > DEVICES_MAX)
		return err_text(err, -EINVAL, "%zu devices; at most %d are taken", n, DEVICES_MAX);
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
	if (!*access || strlen(access) > 3 || access[strspn(access, "rwm")])
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

	if (n > DEVICES_MAX)
		return err_text(err, -EINVAL, "%zu device rules; at most %d are taken", n,
		                DEVICES_MAX);
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

	r = ONLY_MEMBERS(memory, "linux.resources.memory", err, "limit", "reservation", "swap");
	if (r == 0)
		r = json_optional(json_get_u64(memory, "limit", MEMORY_BYTES_MAX,
		                               &limits->memory_max_bytes, err));
	if (r == 0)
		r = json_optional(json_get_u64(memory, "reservation", MEMORY_BYTES_MAX,
		                               &limits->memory_reservation_bytes, err));
	if (r == 0)
		r = json_optional(json_get_i64(memory, "swap", -1, INT64_MAX,
		                               &limits->memory_swap_bytes, err));
	return r < 0 ? err_prefix(err, r, "linux.resources.memory") : 0;
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
	struct json_object *cpu = NULL, *memory = NULL, *pids = NULL, *devices = NULL;
	int r;

	r = ONLY_MEMBERS(resources, "linux.resources", err, "cpu", "memory", "pids", "devices");
	if (r == 0)
		r = json_optional(json_get_object(resources, "cpu", &cpu, err));
	if (r == 0)
		r = json_optional(json_get_object(resources, "memory", &memory, err));
	if (r == 0)
		r = json_optional(json_get_object(resources, "pids", &pids, err));
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
	if (r == 0 && devices)
		r = device_rules_parse(devices, spec, err);
	return r;
}

static int paths_check(const char **paths, const char *where, struct err *err)
{
	for (size_t i = 0; paths && paths[i]; i++) {
		int r = check_path(paths[i], where, err);

		if (r < 0)
			return r;
	}
	return 0;
}

static int linux_parse(struct json_object *linux_, enum network_mode mode,
                       struct container_spec *spec, struct err *err)
{
	struct json_object *resources = NULL, *sysctl = NULL, *devices = NULL;
	int r;

	r = ONLY_MEMBERS(linux_, "linux", err, "resources", "maskedPaths", "readonlyPaths",
	                 "sysctl", "devices");
	if (r == 0)
		r = json_optional(json_get_object(linux_, "resources", &resources, err));
	if (r == 0)
		r = json_optional(json_get_object(linux_, "sysctl", &sysctl, err));
	if (r == 0)
		r = json_optional(json_get_array(linux_, "devices", &devices, err));
	if (r < 0)
		return err_prefix(err, r, "linux");

	r = get_strings(linux_, "linux", "maskedPaths", &spec->masked_paths, NULL, err);
	if (r == 0)
		r = get_strings(linux_, "linux", "readonlyPaths", &spec->readonly_paths, NULL, err);
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

/* --- the container --- */

static int hostname_check(const char *hostname, struct err *err)
{
	if (!*hostname || strlen(hostname) > 63 ||
	    strspn(hostname, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") !=
	            strlen(hostname))
		return err_text(
			err, -EINVAL,
			"hostname is \"%.100s\"; it must be 1 to 63 letters, digits, '.', '-', '_'",
			hostname);
	return 0;
}

static int config_parse(struct json_object *config, enum network_mode mode,
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
		r = process_parse(process, spec, err);
	if (r == 0 && mounts)
		r = mounts_parse(mounts, spec, err);
	if (r == 0 && linux_)
		r = linux_parse(linux_, mode, spec, err);
	return r;
}

/* "user:group" */
static int user_parse(const char *text, struct container_spec *spec, struct err *err)
{
	const char *colon = strchr(text, ':');

	if (strlen(text) > 255)
		return err_text(err, -EINVAL, "user is longer than 255 bytes");
	spec->user = strndup(text, colon ? (size_t)(colon - text) : strlen(text));
	spec->group = strdup(colon ? colon + 1 : "");
	return spec->user && spec->group ? 0 : err_oom(err);
}

static int dns_parse(struct json_object *dns, struct dns_spec *ret, struct err *err)
{
	int r;

	r = ONLY_MEMBERS(dns, "dns", err, "servers", "search", "options");
	if (r == 0)
		r = get_strings(dns, "dns", "servers", &ret->servers, NULL, err);
	if (r == 0)
		r = get_strings(dns, "dns", "search", &ret->search, NULL, err);
	if (r == 0)
		r = get_strings(dns, "dns", "options", &ret->options, NULL, err);
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
	int r = get_strings(container, "container", "layers", &spec->layers, &spec->n_layers, err);

	if (r < 0)
		return r;
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
	if (strcmp(spec->name, "supervisor") == 0)
		return err_text(
			err, -EINVAL,
			"container.name \"supervisor\" is taken: it names the cgroup of ecs-task");
	if (!name_is_hex(spec->id, 64))
		return err_text(err, -EINVAL, "container.id is \"%.80s\"; it must be 64 hex digits",
		                spec->id);
	return 0;
}

/* Members beside names, layers and config. */
static int settings_parse(struct json_object *container, struct container_spec *spec,
                          struct err *err)
{
	const char *user = "", *seccomp = "default", *stop_signal = "SIGTERM";
	struct json_object *dns = NULL, *log = NULL;
	int r;

	r = json_optional(json_get_string(container, "user", &user, err));
	if (r == 0)
		r = json_optional(json_get_string(container, "seccomp", &seccomp, err));
	if (r == 0)
		r = json_optional(json_get_string(container, "stopSignal", &stop_signal, err));
	if (r == 0)
		r = json_optional(json_get_bool(container, "privileged", &spec->privileged, err));
	if (r == 0)
		r = json_optional(json_get_bool(container, "init", &spec->init, err));
	if (r == 0)
		r = json_optional(json_get_bool(container, "restart", &spec->restart, err));
	if (r == 0)
		r = json_optional(json_get_object(container, "dns", &dns, err));
	if (r == 0)
		r = json_optional(json_get_object(container, "log", &log, err));
	if (r < 0)
		return err_prefix(err, r, "container");

	if (strcmp(seccomp, "default") != 0 && strcmp(seccomp, "unconfined") != 0)
		return err_text(
			err, -EINVAL,
			"seccomp profile \"%.100s\" is not supported; it must be default or "
			"unconfined",
			seccomp);
	spec->seccomp = strcmp(seccomp, "default") == 0;
	spec->stop_signal = signal_from_name(*stop_signal ? stop_signal : "SIGTERM");
	if (spec->stop_signal < 0)
		return err_text(err, -EINVAL, "stopSignal \"%.64s\" is no signal", stop_signal);

	r = user_parse(user, spec, err);
	if (r == 0)
		r = get_strings(container, "container", "extraHosts", &spec->extra_hosts, NULL,
		                err);
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
	spec->seccomp = false;
	free(spec->masked_paths);
	free(spec->readonly_paths);
	spec->masked_paths = spec->readonly_paths = NULL;
}

static int parse(struct json_object *container, enum network_mode mode, struct container_spec *spec,
                 struct err *err)
{
	struct json_object *config;
	int r;

	r = ONLY_MEMBERS(container, "container", err, "name", "id", "layers", "config", "user",
	                 "seccomp", "privileged", "init", "restart", "dns", "extraHosts",
	                 "stopSignal", "log");
	if (r == 0)
		r = names_parse(container, spec, err);
	if (r == 0)
		r = layers_parse(container, spec, err);
	if (r == 0)
		r = settings_parse(container, spec, err);
	if (r < 0)
		return r;
	r = json_get_object(container, "config", &config, err);
	if (r < 0)
		return err_prefix(err, -EINVAL, "container");
	r = config_parse(config, mode, spec, err);
	if (r == 0 && spec->privileged)
		apply_privileged(spec);
	return r;
}

int container_spec_parse(struct json_object *container, enum network_mode network_mode,
                         struct container_spec **ret, struct err *err)
{
	_cleanup_(container_spec_freep) struct container_spec *spec = calloc(1, sizeof(*spec));
	int r;

	if (!spec)
		return err_oom(err);
	spec->json = json_object_get(container);
	r = parse(container, network_mode, spec, err);
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
	free(spec->devices);
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
	json_object_put(spec->json);
	free(spec);
	return NULL;
}
