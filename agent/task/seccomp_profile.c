/* From JSON to rules. Runs in a process that has given up its privileges (seccomp_task.c). */
#include "agent/task/seccomp_profile.h"

#include <ctype.h>
#include <errno.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "agent/task/capability.h"
#include "agent/task/spec_parse.h"
#include "lib/json.h"

#define RULES_MAX 4096
#define ERRNO_MAX 4095 /* what the kernel returns at most */

/* --- actions --- */

static const struct {
	const char *name;
	uint32_t action;
	bool has_errno; /* errnoRet goes with it */
} actions[] = {
	{"SCMP_ACT_ALLOW", SCMP_ACT_ALLOW, false},
	{"SCMP_ACT_ERRNO", SCMP_ACT_ERRNO(0), true},
	{"SCMP_ACT_KILL", SCMP_ACT_KILL_THREAD, false},
	{"SCMP_ACT_KILL_THREAD", SCMP_ACT_KILL_THREAD, false},
	{"SCMP_ACT_KILL_PROCESS", SCMP_ACT_KILL_PROCESS, false},
	{"SCMP_ACT_LOG", SCMP_ACT_LOG, false},
	{"SCMP_ACT_TRACE", SCMP_ACT_TRACE(0), true},
	{"SCMP_ACT_TRAP", SCMP_ACT_TRAP, false},
};

static int action_parse(struct json_object *obj, const char *name, const char *errno_name,
                        uint32_t *ret, struct err *err)
{
	uint64_t error = EPERM;
	const char *word;
	size_t i = 0;
	int r = json_get_string(obj, name, &word, err);

	if (r < 0)
		return r == -ENOENT ? -EINVAL : r;
	while (i < ARRAY_SIZE(actions) && strcmp(actions[i].name, word) != 0)
		i++;
	if (strcmp(word, "SCMP_ACT_NOTIFY") == 0)
		return err_text(err, -EINVAL,
		                "%s SCMP_ACT_NOTIFY is not supported: there is no listener", name);
	if (i == ARRAY_SIZE(actions))
		return err_text(err, -EINVAL,
		                "%s \"%.40s\" is none of SCMP_ACT_ALLOW, ERRNO, KILL, KILL_THREAD, "
		                "KILL_PROCESS, LOG, TRACE, TRAP",
		                name, word);
	if (json_get(obj, errno_name) && !actions[i].has_errno)
		return err_text(err, -EINVAL, "%s does not go with %s", errno_name, word);
	r = json_optional(json_get_u64(obj, errno_name, ERRNO_MAX, &error, err));
	if (r < 0)
		return r;
	*ret = actions[i].action | (actions[i].has_errno ? (uint32_t)error : 0);
	return 0;
}

/* The higher, the less is left to the program; the kernel orders them so, too. */
static int severity(uint32_t action)
{
	switch (action & SECCOMP_RET_ACTION_FULL) {
	case SECCOMP_RET_ALLOW:
		return 0;
	case SECCOMP_RET_LOG:
		return 1;
	default:
		return 2;
	}
}

/* --- architectures --- */

static const char *const native_go_names[] = {
#if defined(__x86_64__)
	"amd64",
#elif defined(__aarch64__)
	"arm64",
#elif defined(__s390x__)
	"s390x",
#elif defined(__powerpc64__)
	"ppc64le",
	"ppc64",
#elif defined(__riscv)
	"riscv64",
#endif
	NULL,
};

/* "SCMP_ARCH_X86_64": libseccomp's name is the rest in small letters. */
static int arch_parse(struct json_object *value, uint32_t *ret, struct err *err)
{
	static const char prefix[] = "SCMP_ARCH_";
	const char *word =
		json_object_is_type(value, json_type_string) ? json_object_get_string(value) : "";
	char name[32] = "";

	if (strncmp(word, prefix, strlen(prefix)) == 0 &&
	    strlen(word) - strlen(prefix) < sizeof(name))
		for (size_t i = 0; word[strlen(prefix) + i]; i++)
			name[i] = (char)tolower((unsigned char)word[strlen(prefix) + i]);
	*ret = *name ? seccomp_arch_resolve_name(name) : 0;
	if (*ret == 0)
		return err_text(err, -EINVAL,
		                "architecture \"%.40s\" is not known; it must be like "
		                "SCMP_ARCH_X86_64",
		                word);
	return 0;
}

static int add_arch(struct seccomp_profile *profile, uint32_t arch, struct err *err)
{
	size_t n = 0;

	if (arch == seccomp_arch_native())
		return 0;
	for (; n < SECCOMP_ARCHES_MAX && profile->arches[n]; n++)
		if (profile->arches[n] == arch)
			return 0;
	if (n == SECCOMP_ARCHES_MAX)
		return err_text(err, -EINVAL, "more than %d architectures", SECCOMP_ARCHES_MAX);
	profile->arches[n] = arch;
	return 0;
}

static int add_arches(struct seccomp_profile *profile, struct json_object *list, struct err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && list && i < json_object_array_length(list); i++) {
		uint32_t arch;

		r = arch_parse(json_object_array_get_idx(list, i), &arch, err);
		if (r == 0)
			r = add_arch(profile, arch, err);
	}
	return r;
}

/* Of archMap, only the entry of the machine counts. */
static int add_arch_map(struct seccomp_profile *profile, struct json_object *map, struct err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < json_object_array_length(map); i++) {
		struct json_object *entry = json_object_array_get_idx(map, i), *sub = NULL;
		uint32_t arch;

		if (!json_object_is_type(entry, json_type_object))
			return err_text(err, -EINVAL, "archMap[%zu] must be an object", i);
		r = ONLY_MEMBERS(entry, "archMap", err, "architecture", "subArchitectures");
		if (r == 0)
			r = arch_parse(json_get(entry, "architecture"), &arch, err);
		if (r == 0)
			r = json_optional(json_get_array(entry, "subArchitectures", &sub, err));
		if (r == 0 && arch == seccomp_arch_native())
			r = add_arches(profile, sub, err);
	}
	return r;
}

static int arches_parse(struct json_object *obj, struct seccomp_profile *profile, struct err *err)
{
	struct json_object *list = NULL, *map = NULL;
	int r;

	r = json_optional(json_get_array(obj, "architectures", &list, err));
	if (r == 0)
		r = json_optional(json_get_array(obj, "archMap", &map, err));
	if (r < 0)
		return r;
	if (list && map && json_object_array_length(list) && json_object_array_length(map))
		return err_text(err, -EINVAL, "architectures and archMap exclude another");
	r = add_arches(profile, list, err);
	return r == 0 && map ? add_arch_map(profile, map, err) : r;
}

/* --- conditions of a rule --- */

static bool has_native_arch(const char *const *arches)
{
	for (; *arches; arches++)
		for (size_t i = 0; native_go_names[i]; i++)
			if (strcmp(*arches, native_go_names[i]) == 0)
				return true;
	return false;
}

static int kernel_is_at_least(const char *version, bool *ret, struct err *err)
{
	unsigned int major, minor, our_major = 0, our_minor = 0;
	struct utsname host;
	char end;

	if (sscanf(version, "%3u.%3u%c", &major, &minor, &end) != 2)
		return err_text(err, -EINVAL, "minKernel \"%.20s\" must be like 4.8", version);
	if (uname(&host) < 0 || sscanf(host.release, "%u.%u", &our_major, &our_minor) != 2)
		return err_text(err, -EIO, "the kernel's version is not readable");
	*ret = our_major > major || (our_major == major && our_minor >= minor);
	return 0;
}

static int caps_parse(struct json_object *obj, const char *where, uint64_t *ret, struct err *err)
{
	_cleanup_free_ const char **names = NULL;
	int r = spec_get_strings(obj, where, "caps", &names, NULL, err);

	for (size_t i = 0; r == 0 && names && names[i]; i++) {
		uint64_t bit;

		if (capability_from_name(names[i], &bit) < 0)
			return err_text(err, -EINVAL, "%s.caps: there is no capability \"%.40s\"",
			                where, names[i]);
		*ret |= bit;
	}
	return r;
}

/* *ret_arch, *ret_kernel: what it says of this machine; left alone where it says nothing. */
static int filter_parse(struct json_object *rule, const char *where, uint64_t *ret_caps,
                        bool *ret_arch, bool *ret_kernel, struct err *err)
{
	_cleanup_free_ const char **arches = NULL;
	struct json_object *obj = NULL;
	const char *version = "";
	size_t n_arches = 0;
	int r = json_optional(json_get_object(rule, where, &obj, err));

	if (r < 0 || !obj)
		return r;
	r = ONLY_MEMBERS(obj, where, err, "caps", "arches", "minKernel");
	if (r == 0)
		r = caps_parse(obj, where, ret_caps, err);
	if (r == 0)
		r = spec_get_strings(obj, where, "arches", &arches, &n_arches, err);
	if (r == 0)
		r = json_optional(json_get_string(obj, "minKernel", &version, err));
	if (r == 0 && n_arches > 0)
		*ret_arch = has_native_arch(arches);
	return r == 0 && *version ? kernel_is_at_least(version, ret_kernel, err) : r;
}

/* *ret_apply: false: not on this machine. */
static int conditions_parse(struct json_object *obj, struct seccomp_rule *rule, bool *ret_apply,
                            struct err *err)
{
	bool arch = true, kernel = true, not_arch = false, not_kernel = false;
	int r = filter_parse(obj, "includes", &rule->with, &arch, &kernel, err);

	if (r == 0)
		r = filter_parse(obj, "excludes", &rule->without, &not_arch, &not_kernel, err);
	*ret_apply = arch && kernel && !not_arch && !not_kernel;
	return r;
}

/* --- arguments of a rule --- */

static const struct {
	const char *name;
	enum scmp_compare op;
} operators[] = {
	{"SCMP_CMP_NE", SCMP_CMP_NE},
	{"SCMP_CMP_LT", SCMP_CMP_LT},
	{"SCMP_CMP_LE", SCMP_CMP_LE},
	{"SCMP_CMP_EQ", SCMP_CMP_EQ},
	{"SCMP_CMP_GE", SCMP_CMP_GE},
	{"SCMP_CMP_GT", SCMP_CMP_GT},
	{"SCMP_CMP_MASKED_EQ", SCMP_CMP_MASKED_EQ},
};

static int arg_parse(struct json_object *obj, struct scmp_arg_cmp *ret, struct err *err)
{
	uint64_t index = 0, value = 0, two = 0;
	const char *op;
	size_t i = 0;
	int r;

	if (!json_object_is_type(obj, json_type_object))
		return err_text(err, -EINVAL, "args must hold objects");
	r = ONLY_MEMBERS(obj, "args", err, "index", "value", "valueTwo", "op");
	if (r == 0)
		r = json_get_u64(obj, "index", SECCOMP_ARGS_MAX - 1, &index, err);
	if (r == 0)
		r = json_get_u64(obj, "value", UINT64_MAX, &value, err);
	if (r == 0)
		r = json_optional(json_get_u64(obj, "valueTwo", UINT64_MAX, &two, err));
	if (r == 0)
		r = json_get_string(obj, "op", &op, err);
	if (r < 0)
		return err_prefix(err, r == -ENOENT ? -EINVAL : r, "args");
	while (i < ARRAY_SIZE(operators) && strcmp(operators[i].name, op) != 0)
		i++;
	if (i == ARRAY_SIZE(operators))
		return err_text(err, -EINVAL,
		                "args: op \"%.40s\" is none of SCMP_CMP_NE, LT, LE, EQ, GE, GT, "
		                "MASKED_EQ",
		                op);
	/* For MASKED_EQ the first is the mask, here and there. */
	*ret = (struct scmp_arg_cmp){(unsigned int)index, operators[i].op, value, two};
	return 0;
}

static int args_parse(struct json_object *obj, struct seccomp_rule *rule, struct err *err)
{
	struct json_object *list = NULL;
	int r = json_optional(json_get_array(obj, "args", &list, err));
	size_t n = list ? json_object_array_length(list) : 0;

	if (r == 0 && n > SECCOMP_ARGS_MAX)
		return err_text(err, -EINVAL, "%zu args; at most %d are taken", n,
		                SECCOMP_ARGS_MAX);
	for (size_t i = 0; r == 0 && i < n; i++)
		r = arg_parse(json_object_array_get_idx(list, i), &rule->args[i], err);
	rule->n_args = r == 0 ? n : 0;
	return r;
}

/* --- names of a rule --- */

static int check_name(const char *name, bool takes_away, struct err *err)
{
	size_t len = strlen(name);

	if (len == 0 || len > SECCOMP_NAME_MAX ||
	    strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != len)
		return err_text(err, -EINVAL, "\"%.80s\" is no name of a system call", name);
	if (takes_away && seccomp_syscall_resolve_name(name) == __NR_SCMP_ERROR)
		return err_text(err, -EINVAL,
		                "libseccomp %u.%u.%u of this host knows no system call \"%s\", so "
		                "that it cannot be refused",
		                seccomp_version()->major, seccomp_version()->minor,
		                seccomp_version()->micro, name);
	return 0;
}

/* *ret: blank-separated, owned by the caller. */
static int join_names(const char *const *names, bool takes_away, char **ret, struct err *err)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 1;
	char *at;

	for (size_t i = 0; names[i]; i++) {
		int r = check_name(names[i], takes_away, err);

		if (r < 0)
			return r;
		len += strlen(names[i]) + 1;
	}
	text = at = malloc(len);
	if (!text)
		return err_oom(err);
	*at = '\0';
	for (size_t i = 0; names[i]; i++)
		at += sprintf(at, "%s ", names[i]);
	*ret = TAKE_PTR(text);
	return 0;
}

static int names_parse(struct json_object *obj, bool takes_away, char **ret, struct err *err)
{
	_cleanup_free_ const char **names = NULL;
	const char *name = "";
	size_t n = 0;
	int r = spec_get_strings(obj, "syscalls", "names", &names, &n, err);

	if (r == 0)
		r = json_optional(json_get_string(obj, "name", &name, err));
	if (r < 0)
		return r;
	if (*name && n > 0)
		return err_text(err, -EINVAL, "name and names exclude another");
	if (!*name && n == 0)
		return err_text(err, -EINVAL, "names is missing or empty");
	return join_names(*name ? (const char *const[]){name, NULL} : names, takes_away, ret, err);
}

/* --- the whole --- */

/* Returns 1 when the rule counts on this machine, 0 when it does not. */
static int rule_parse(struct json_object *obj, const struct seccomp_profile *profile,
                      struct seccomp_rule *rule, struct err *err)
{
	bool apply = false;
	char *names = NULL;
	int r;

	if (!json_object_is_type(obj, json_type_object))
		return err_text(err, -EINVAL, "it must be an object");
	r = ONLY_MEMBERS(obj, "", err, "names", "name", "action", "errnoRet", "args", "comment",
	                 "includes", "excludes");
	if (r == 0)
		r = action_parse(obj, "action", "errnoRet", &rule->action, err);
	if (r == 0)
		r = args_parse(obj, rule, err);
	if (r == 0)
		r = conditions_parse(obj, rule, &apply, err);
	if (r == 0)
		r = names_parse(obj,
		                apply && severity(rule->action) > severity(profile->default_action),
		                &names, err);
	if (r < 0)
		return r;
	rule->names = names;
	return apply;
}

static int rules_parse(struct json_object *list, struct seccomp_profile *profile, struct err *err)
{
	size_t n = list ? json_object_array_length(list) : 0;
	struct seccomp_rule *rules;

	if (n > RULES_MAX)
		return err_text(err, -EINVAL, "%zu syscalls; at most %d are taken", n, RULES_MAX);
	rules = calloc(n + 1, sizeof(*rules));
	if (!rules)
		return err_oom(err);
	profile->rules = rules;
	for (size_t i = 0; i < n; i++) {
		struct seccomp_rule *rule = &rules[profile->n_rules];
		int r = rule_parse(json_object_array_get_idx(list, i), profile, rule, err);

		if (r < 0)
			return err_prefix(err, r, "syscalls[%zu]", i);
		if (r > 0) {
			profile->n_rules++;
			continue;
		}
		free((char *)rule->names);
		*rule = (struct seccomp_rule){};
	}
	return 0;
}

static int flags_parse(struct json_object *obj, struct seccomp_profile *profile, struct err *err)
{
	static const struct {
		const char *name;
		uint32_t flag;
	} known[] = {
		{"SECCOMP_FILTER_FLAG_TSYNC", 0}, /* there is one thread when it is installed */
		{"SECCOMP_FILTER_FLAG_LOG", SECCOMP_FILTER_FLAG_LOG},
		{"SECCOMP_FILTER_FLAG_SPEC_ALLOW", SECCOMP_FILTER_FLAG_SPEC_ALLOW},
	};
	_cleanup_free_ const char **names = NULL;
	int r = spec_get_strings(obj, "profile", "flags", &names, NULL, err);

	for (size_t i = 0; r == 0 && names && names[i]; i++) {
		size_t k = 0;

		while (k < ARRAY_SIZE(known) && strcmp(known[k].name, names[i]) != 0)
			k++;
		if (k == ARRAY_SIZE(known))
			return err_text(err, -EINVAL, "flag \"%.60s\" is not supported", names[i]);
		profile->flags |= known[k].flag;
	}
	return r;
}

static int profile_parse(struct json_object *obj, struct seccomp_profile *profile, struct err *err)
{
	struct json_object *list = NULL;
	int r;

	r = ONLY_MEMBERS(obj, "", err, "defaultAction", "defaultErrnoRet", "flags", "architectures",
	                 "archMap", "syscalls");
	if (r == 0)
		r = action_parse(obj, "defaultAction", "defaultErrnoRet", &profile->default_action,
		                 err);
	if (r == 0)
		r = flags_parse(obj, profile, err);
	if (r == 0)
		r = arches_parse(obj, profile, err);
	if (r == 0)
		r = json_optional(json_get_array(obj, "syscalls", &list, err));
	return r == 0 ? rules_parse(list, profile, err) : r;
}

int seccomp_profile_parse(const char *text, size_t len, struct seccomp_profile **ret,
                          struct err *err)
{
	_cleanup_(seccomp_profile_freep) struct seccomp_profile *profile = NULL;
	_cleanup_json_ struct json_object *obj = NULL;
	int r = json_parse_object(text, len, SECCOMP_PROFILE_MAX, &obj, err);

	if (r < 0)
		return r;
	profile = calloc(1, sizeof(*profile));
	if (!profile)
		return err_oom(err);
	r = profile_parse(obj, profile, err);
	if (r == 0)
		*ret = TAKE_PTR(profile);
	return r;
}

struct seccomp_profile *seccomp_profile_free(struct seccomp_profile *profile)
{
	if (!profile)
		return NULL;
	for (size_t i = 0; i < profile->n_rules; i++)
		free((char *)profile->rules[i].names);
	free((void *)profile->rules);
	free(profile);
	return NULL;
}
