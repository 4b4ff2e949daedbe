/*
 * The program of a container: what it runs, with which environment, capabilities and limits, and
 * the signal that stops it.
 */
#include "agent/task/spec.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "agent/task/capability.h"
#include "agent/task/spec_parse.h"
#include "lib/json.h"
#include "lib/parse.h"

/* --- signals --- */

/* sigabbrev_np(3) has one word for each, and these are in use as well. */
static const struct {
	const char *name;
	int signal;
} signal_aliases[] = {{"IO", SIGIO}, {"IOT", SIGIOT}, {"CLD", SIGCHLD}};

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
	for (size_t i = 0; i < ARRAY_SIZE(signal_aliases); i++)
		if (strcasecmp(signal_aliases[i].name, name) == 0)
			return signal_aliases[i].signal;
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

	r = spec_get_strings(caps, "process.capabilities", name, &names, NULL, err);
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

static int console_parse(struct json_object *process, struct container_spec *spec, struct err *err)
{
	struct json_object *size = NULL;
	uint64_t rows = 0, columns = 0;
	int r;

	r = json_optional(json_get_bool(process, "terminal", &spec->terminal, err));
	if (r == 0)
		r = json_optional(json_get_object(process, "consoleSize", &size, err));
	if (r < 0 || !size)
		return r;
	r = ONLY_MEMBERS(size, "process.consoleSize", err, "height", "width");
	if (r == 0)
		r = json_get_u64(size, "height", UINT16_MAX, &rows, err);
	if (r == 0)
		r = json_get_u64(size, "width", UINT16_MAX, &columns, err);
	if (r < 0)
		return err_prefix(err, r == -ENOENT ? -EINVAL : r, "consoleSize");
	spec->console_rows = (unsigned short)rows;
	spec->console_columns = (unsigned short)columns;
	return 0;
}

int spec_parse_process(struct json_object *process, struct container_spec *spec, struct err *err)
{
	struct json_object *caps = NULL, *rlimits = NULL;
	int64_t oom_score_adj = 0;
	size_t n_args = 0;
	int r;

	r = ONLY_MEMBERS(process, "process", err, "args", "env", "cwd", "terminal", "consoleSize",
	                 "capabilities", "rlimits", "noNewPrivileges", "oomScoreAdj",
	                 "apparmorProfile", "selinuxLabel");
	if (r < 0)
		return r;

	r = console_parse(process, spec, err);
	if (r < 0)
		return err_prefix(err, r, "process");

	r = spec_get_strings(process, "process", "args", &spec->args, &n_args, err);
	if (r == 0)
		r = spec_get_strings(process, "process", "env", &spec->env, NULL, err);
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
	r = spec_check_path(spec->cwd, "process.cwd", err);
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
