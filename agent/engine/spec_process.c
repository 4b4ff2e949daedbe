/*
 * How Docker turns image configuration and container definition into a process, since that is what
 * images and task definitions are written for. Sources: Docker Engine API, "ContainerConfig" and
 * "HostConfig"; OCI runtime-spec config.md, "Process".
 */
#include "agent/engine/spec_process.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "agent/engine/links.h"
#include "agent/engine/refuse.h"
#include "lib/json.h"

#define PATH_DEFAULT "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

static bool is_list(struct json_object *value)
{
	return json_object_is_type(value, json_type_array) && json_object_array_length(value) > 0;
}

static int append_all(struct json_object *to, struct json_object *from)
{
	for (size_t i = 0; from && i < json_object_array_length(from); i++)
		if (json_append(to, json_object_get(json_object_array_get_idx(from, i))) < 0)
			return -ENOMEM;
	return 0;
}

/* What Docker takes for "no entry point, not the image's either". */
static bool is_reset(struct json_object *entrypoint)
{
	return is_list(entrypoint) && json_object_array_length(entrypoint) == 1 &&
	       json_object_get_string_len(json_object_array_get_idx(entrypoint, 0)) == 0;
}

/*
 * An entryPoint of the definition replaces the image's and drops the image's Cmd with it; an empty
 * list replaces the image's and drops nothing. An empty command is none. Source: moby, merging of
 * the configurations of image and container.
 */
static int build_args(const struct container *c, struct json_object **ret, struct err *err)
{
	struct json_object *entrypoint = json_get(c->document, "entryPoint"),
			   *command = json_get(c->document, "command");
	_cleanup_json_ struct json_object *args = json_object_new_array();

	if (!args)
		return err_oom(err);
	if (!is_list(command) && !is_list(entrypoint))
		command = json_get(c->image_config, "Cmd");
	if (!json_object_is_type(entrypoint, json_type_array))
		entrypoint = json_get(c->image_config, "Entrypoint");
	if (!is_list(entrypoint) || is_reset(entrypoint))
		entrypoint = NULL;
	if (!is_list(command))
		command = NULL;
	if (append_all(args, entrypoint) < 0 || append_all(args, command) < 0)
		return err_oom(err);
	if (json_object_array_length(args) == 0)
		return err_text(
			err, -EINVAL,
			"no command specified: neither image %s nor the container definition has one",
			c->image);
	*ret = TAKE_PTR(args);
	return 0;
}

/* Environment as an ordered map: json-c objects keep the order of first insertion. */
static int set_variable(struct json_object *env, const char *name, const char *value)
{
	return json_add_string(env, name, value);
}

static int add_image_env(struct json_object *env, struct json_object *list)
{
	for (size_t i = 0; is_list(list) && i < json_object_array_length(list); i++) {
		const char *entry = json_object_get_string(json_object_array_get_idx(list, i));
		const char *equals = entry ? strchr(entry, '=') : NULL;
		_cleanup_free_ char *name = NULL;

		if (!equals || equals == entry)
			continue; /* "NAME" alone sets nothing */
		name = strndup(entry, (size_t)(equals - entry));
		if (!name || set_variable(env, name, equals + 1) < 0)
			return -ENOMEM;
	}
	return 0;
}

static int add_task_env(struct json_object *env, struct json_object *map)
{
	if (!map)
		return 0;
	json_object_object_foreach (map, name, value) {
		if (set_variable(env, name, json_object_get_string(value)) < 0)
			return -ENOMEM;
	}
	return 0;
}

static int add_agent_env(struct json_object *env, const struct task *task,
                         const struct container *c, const struct spec_options *options)
{
	char text[512];

	snprintf(text, sizeof(text), "http://169.254.170.2/v3/%s", c->endpoint_id);
	if (set_variable(env, "ECS_CONTAINER_METADATA_URI", text) < 0)
		return -ENOMEM;
	snprintf(text, sizeof(text), "http://169.254.170.2/v4/%s", c->endpoint_id);
	if (set_variable(env, "ECS_CONTAINER_METADATA_URI_V4", text) < 0)
		return -ENOMEM;
	if (options->task_iam_role && task->credentials_id) {
		snprintf(text, sizeof(text), "/v2/credentials/%s", task->credentials_id);
		if (set_variable(env, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", text) < 0)
			return -ENOMEM;
	}
	if (options->region && !json_object_object_get_ex(env, "AWS_REGION", NULL) &&
	    !json_object_object_get_ex(env, "AWS_DEFAULT_REGION", NULL)) {
		if (set_variable(env, "AWS_REGION", options->region) < 0 ||
		    set_variable(env, "AWS_DEFAULT_REGION", options->region) < 0)
			return -ENOMEM;
	}
	return 0;
}

static int flatten_env(struct json_object *env, struct json_object *list)
{
	json_object_object_foreach (env, name, value) {
		_cleanup_free_ char *entry = NULL;

		if (asprintf(&entry, "%s=%s", name, json_object_get_string(value)) < 0)
			return -ENOMEM;
		if (json_append(list, json_object_new_string(entry)) < 0)
			return -ENOMEM;
	}
	return 0;
}

static int build_env(const struct task *task, const struct container *c,
                     const struct spec_options *options, struct json_object **ret, struct err *err)
{
	_cleanup_json_ struct json_object *env = json_object_new_object(),
					  *list = json_object_new_array();
	const char *hostname = json_text(c->config, "Hostname");
	char short_id[13];
	int r;

	snprintf(short_id, sizeof(short_id), "%.12s", c->runtime_id);
	if (!env || !list || set_variable(env, "PATH", PATH_DEFAULT) < 0)
		return err_oom(err);
	if (task->network_mode != NETWORK_MODE_HOST &&
	    set_variable(env, "HOSTNAME", hostname && *hostname ? hostname : short_id) < 0)
		return err_oom(err);
	r = links_add_environment(task, c, env, err);
	if (r < 0)
		return r;
	if (add_image_env(env, json_get(c->image_config, "Env")) < 0 ||
	    add_task_env(env, json_get(c->document, "environment")) < 0 ||
	    add_agent_env(env, task, c, options) < 0 || flatten_env(env, list) < 0)
		return err_oom(err);
	*ret = TAKE_PTR(list);
	return 0;
}

static const char *const all_capabilities[] = {
	"CAP_CHOWN",
	"CAP_DAC_OVERRIDE",
	"CAP_DAC_READ_SEARCH",
	"CAP_FOWNER",
	"CAP_FSETID",
	"CAP_KILL",
	"CAP_SETGID",
	"CAP_SETUID",
	"CAP_SETPCAP",
	"CAP_LINUX_IMMUTABLE",
	"CAP_NET_BIND_SERVICE",
	"CAP_NET_BROADCAST",
	"CAP_NET_ADMIN",
	"CAP_NET_RAW",
	"CAP_IPC_LOCK",
	"CAP_IPC_OWNER",
	"CAP_SYS_MODULE",
	"CAP_SYS_RAWIO",
	"CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE",
	"CAP_SYS_PACCT",
	"CAP_SYS_ADMIN",
	"CAP_SYS_BOOT",
	"CAP_SYS_NICE",
	"CAP_SYS_RESOURCE",
	"CAP_SYS_TIME",
	"CAP_SYS_TTY_CONFIG",
	"CAP_MKNOD",
	"CAP_LEASE",
	"CAP_AUDIT_WRITE",
	"CAP_AUDIT_CONTROL",
	"CAP_SETFCAP",
	"CAP_MAC_OVERRIDE",
	"CAP_MAC_ADMIN",
	"CAP_SYSLOG",
	"CAP_WAKE_ALARM",
	"CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ",
	"CAP_PERFMON",
	"CAP_BPF",
	"CAP_CHECKPOINT_RESTORE",
};

/* Docker's default set. Source: moby oci/caps/defaults. */
static const char *const default_capabilities[] = {
	"CAP_CHOWN",   "CAP_DAC_OVERRIDE", "CAP_FSETID",           "CAP_FOWNER",
	"CAP_MKNOD",   "CAP_NET_RAW",      "CAP_SETGID",           "CAP_SETUID",
	"CAP_SETFCAP", "CAP_SETPCAP",      "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT",
	"CAP_KILL",    "CAP_AUDIT_WRITE",
};

#define N_CAPABILITIES ARRAY_SIZE(all_capabilities)

/* Index of "NET_ADMIN", "net_admin" or "CAP_NET_ADMIN". */
static int capability_index(const char *name)
{
	if (strncasecmp(name, "CAP_", 4) == 0)
		name += 4;
	for (size_t i = 0; i < N_CAPABILITIES; i++)
		if (strcasecmp(all_capabilities[i] + 4, name) == 0)
			return (int)i;
	return -EINVAL;
}

/* "ALL" stands for itself: whether it is there is *ret_all. */
static int read_capabilities(struct json_object *host_config, const char *member, bool *ret,
                             bool *ret_all, struct err *err)
{
	struct json_object *list = json_get(host_config, member);

	for (size_t i = 0; is_list(list) && i < json_object_array_length(list); i++) {
		const char *name = json_object_get_string(json_object_array_get_idx(list, i));
		int k = name ? capability_index(name) : -EINVAL;

		if (k >= 0)
			ret[k] = true;
		else if (name && strcasecmp(name, "ALL") == 0)
			*ret_all = true;
		else
			return err_text(err, -EINVAL, "%s: unknown capability \"%.40s\"", member,
			                name ? name : "null");
	}
	return 0;
}

/*
 * add ALL drop X, drop ALL add X and plain lists, of which CapAdd wins. A name that is none is an
 * error even where it changes nothing. Source: moby, oci/caps, TweakCapabilities().
 */
static int choose_capabilities(const struct container *c, bool privileged, bool *set,
                               struct err *err)
{
	bool add[N_CAPABILITIES] = {false}, drop[N_CAPABILITIES] = {false};
	bool add_all = false, drop_all = false;
	int r;

	r = read_capabilities(c->host_config, "CapAdd", add, &add_all, err);
	if (r == 0)
		r = read_capabilities(c->host_config, "CapDrop", drop, &drop_all, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < N_CAPABILITIES; i++)
		set[i] = privileged || (add_all ? !drop[i] : add[i]);
	for (size_t i = 0; i < ARRAY_SIZE(default_capabilities) && !drop_all; i++) {
		int k = capability_index(default_capabilities[i]);

		set[k] |= !drop[k];
	}
	return 0;
}

static int build_capabilities(const struct container *c, bool privileged, struct json_object **ret,
                              struct err *err)
{
	static const char *const sets[] = {"bounding", "effective", "permitted"};
	_cleanup_json_ struct json_object *caps = json_object_new_object();
	bool chosen[N_CAPABILITIES];
	int r;

	r = choose_capabilities(c, privileged, chosen, err);
	if (r < 0)
		return r;
	for (size_t s = 0; s < ARRAY_SIZE(sets); s++) {
		struct json_object *list = json_object_new_array();

		if (json_add(caps, sets[s], list) < 0)
			return err_oom(err);
		for (size_t i = 0; i < N_CAPABILITIES; i++)
			if (chosen[i] &&
			    json_append(list, json_object_new_string(all_capabilities[i])) < 0)
				return err_oom(err);
	}
	*ret = TAKE_PTR(caps);
	return 0;
}

static int add_rlimit(struct json_object *list, const char *type, uint64_t soft, uint64_t hard)
{
	struct json_object *limit = json_object_new_object();

	if (json_add_string(limit, "type", type) < 0 || json_add_u64(limit, "soft", soft) < 0 ||
	    json_add_u64(limit, "hard", hard) < 0) {
		json_object_put(limit);
		return -ENOMEM;
	}
	return json_append(list, limit);
}

/* A limit of -1 is "unlimited" in Docker's documents. */
static int get_limit(struct json_object *item, const char *name, uint64_t *ret, struct err *err)
{
	int64_t value;
	int r;

	r = json_get_i64(item, name, -1, INT64_MAX, &value, err);
	if (r == 0)
		*ret = value < 0 ? UINT64_MAX : (uint64_t)value;
	return r;
}

static int add_ulimit(struct json_object *list, struct json_object *item, struct err *err)
{
	static const char *const names[] = {"core",    "cpu",      "data",   "fsize",      "locks",
	                                    "memlock", "msgqueue", "nice",   "nofile",     "nproc",
	                                    "rss",     "rtprio",   "rttime", "sigpending", "stack"};
	uint64_t soft = 0, hard = 0;
	const char *name;
	char type[32] = "RLIMIT_";
	int r;

	r = json_get_string(item, "Name", &name, err);
	if (r == 0)
		r = get_limit(item, "Soft", &soft, err);
	if (r == 0)
		r = get_limit(item, "Hard", &hard, err);
	if (r < 0)
		return r;
	if (soft > hard)
		return err_text(err, -EINVAL, "%s: the soft limit is above the hard limit", name);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (strcmp(name, names[i]) != 0)
			continue;
		for (size_t k = 0; name[k]; k++)
			type[7 + k] = (char)toupper((unsigned char)name[k]);
		return add_rlimit(list, type, soft, hard) < 0 ? err_oom(err) : 0;
	}
	return err_text(err, -EINVAL, "unknown ulimit \"%.40s\"", name);
}

/* Only what the task asks for: defaults are ecs-task's, which comes as near to them as the host
 * lets it, while these must be met. */
static int build_rlimits(const struct container *c, struct json_object **ret, struct err *err)
{
	struct json_object *ulimits = json_get(c->host_config, "Ulimits");
	_cleanup_json_ struct json_object *list = json_object_new_array();
	int r;

	if (!list)
		return err_oom(err);
	for (size_t i = 0; is_list(ulimits) && i < json_object_array_length(ulimits); i++) {
		r = add_ulimit(list, json_object_array_get_idx(ulimits, i), err);
		if (r < 0)
			return err_prefix(err, r, "ulimits[%zu]", i);
	}
	*ret = TAKE_PTR(list);
	return 0;
}

/* Rows and columns that a terminal begins with; [0, 0] is none. */
static int add_console_size(const struct container *c, struct json_object *process, struct err *err)
{
	struct json_object *list = json_get(c->host_config, "ConsoleSize"), *size;
	int64_t value[2] = {0, 0};

	if (!is_list(list))
		return 0;
	for (size_t i = 0; i < 2; i++)
		value[i] = json_object_get_int64(json_object_array_get_idx(list, i));
	if (json_object_array_length(list) != 2 || value[0] < 0 || value[1] < 0 ||
	    value[0] > UINT16_MAX || value[1] > UINT16_MAX)
		return err_text(err, -EINVAL,
		                "ConsoleSize must be two numbers, rows and columns, of 0 to %d",
		                UINT16_MAX);
	if (value[0] == 0 && value[1] == 0)
		return 0;
	size = json_object_new_object();
	if (json_add(process, "consoleSize", size) < 0 ||
	    json_add_i64(size, "height", value[0]) < 0 || json_add_i64(size, "width", value[1]) < 0)
		return err_oom(err);
	return 0;
}

static int add_oom_score(const struct container *c, struct json_object *process, struct err *err)
{
	int64_t score = 0;
	int r = json_optional(
		json_get_i64(c->host_config, "OomScoreAdj", -1000, 1000, &score, err));

	if (r < 0 || score == 0)
		return r;
	return json_add_i64(process, "oomScoreAdj", score) < 0 ? err_oom(err) : 0;
}

static const char *working_dir(const struct container *c)
{
	const char *dir = json_text(c->config, "WorkingDir");

	if (!dir || !*dir)
		dir = json_text(c->image_config, "WorkingDir");
	return dir && *dir ? dir : "/";
}

int spec_process(const struct task *task, const struct container *c,
                 const struct spec_options *options, struct json_object **ret, struct err *err)
{
	_cleanup_json_ struct json_object *process = json_object_new_object();
	struct json_object *args = NULL, *env = NULL, *caps = NULL, *rlimits = NULL;
	bool privileged = false, terminal = false;
	int r;

	(void)json_get_bool(c->host_config, "Privileged", &privileged, NULL);
	(void)json_get_bool(c->config, "Tty", &terminal, NULL); /* checked by container_parse() */
	r = build_args(c, &args, err);
	if (r < 0)
		return r;
	if (json_add(process, "args", args) < 0)
		return err_oom(err);
	r = build_env(task, c, options, &env, err);
	if (r < 0)
		return r;
	if (json_add(process, "env", env) < 0)
		return err_oom(err);
	r = build_capabilities(c, privileged, &caps, err);
	if (r < 0)
		return r;
	if (json_add(process, "capabilities", caps) < 0)
		return err_oom(err);
	r = build_rlimits(c, &rlimits, err);
	if (r < 0)
		return r;
	if (json_add(process, "rlimits", rlimits) < 0 ||
	    json_add_string(process, "cwd", working_dir(c)) < 0 ||
	    json_add_bool(process, "terminal", terminal) < 0)
		return err_oom(err);
	r = add_console_size(c, process, err);
	if (r == 0)
		r = add_oom_score(c, process, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(process);
	return 0;
}
