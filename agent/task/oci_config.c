/* Each part of config.json in a function of its own; what is copied is checked by the parser of
 * tasks (spec.h). */
#include "agent/task/oci_config.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "agent/task/spec_parse.h"
#include "lib/json.h"

/* --- helpers --- */

/* Absent, or of no effect: refused otherwise. */
static int refuse(struct json_object *obj, const char *where, const char *name, struct err *err)
{
	struct json_object *value = json_get(obj, name);

	if (!value)
		return 0;
	if ((json_object_is_type(value, json_type_string) && !*json_object_get_string(value)) ||
	    (json_object_is_type(value, json_type_array) && !json_object_array_length(value)) ||
	    (json_object_is_type(value, json_type_object) && !json_object_object_length(value)))
		return 0;
	return err_text(err, -EINVAL, "%s.%s is not supported", where, name);
}

static int copy(struct json_object *from, struct json_object *to, const char *name)
{
	struct json_object *value = json_get(from, name);

	return value ? json_add(to, name, json_object_get(value)) : 0;
}

static int copy_all(struct json_object *from, struct json_object *to, const char *const *names,
                    struct err *err)
{
	for (; *names; names++)
		if (copy(from, to, *names) < 0)
			return err_oom(err);
	return 0;
}

/* --- process --- */

static int user_translate(struct json_object *user, struct json_object *container,
                          struct json_object *oci, struct err *err)
{
	uint64_t uid = 0, gid = 0, mask = 022;
	char text[32];
	int r;

	r = ONLY_MEMBERS(user, "process.user", err, "uid", "gid", "umask", "additionalGids");
	if (r == 0)
		r = json_optional(json_get_u64(user, "uid", INT32_MAX, &uid, err));
	if (r == 0)
		r = json_optional(json_get_u64(user, "gid", INT32_MAX, &gid, err));
	if (r == 0)
		r = json_optional(json_get_u64(user, "umask", 0777, &mask, err));
	if (r < 0)
		return err_prefix(err, r, "process.user");
	if (mask != 022)
		return err_text(err, -EINVAL, "process.user.umask is %03o; only 022 is supported",
		                (unsigned int)mask);
	snprintf(text, sizeof(text), "%u:%u", (unsigned int)uid, (unsigned int)gid);
	if (json_add_string(container, "user", text) < 0 || copy(user, oci, "additionalGids") < 0)
		return err_oom(err);
	return 0;
}

static int capabilities_translate(struct json_object *caps, struct json_object *process,
                                  struct err *err)
{
	static const char *const sets[] = {"bounding", "permitted", "effective", NULL};
	struct json_object *ours = json_object_new_object();
	int r;

	if (json_add(process, "capabilities", ours) < 0)
		return err_oom(err);
	r = ONLY_MEMBERS(caps, "process.capabilities", err, "bounding", "permitted", "effective",
	                 "inheritable", "ambient");
	if (r == 0)
		r = refuse(caps, "process.capabilities", "inheritable", err);
	return r < 0 ? r : copy_all(caps, ours, sets, err);
}

static int process_translate(struct json_object *from, struct json_object *container,
                             struct json_object *oci, struct json_object *config, struct err *err)
{
	static const char *const copied[] = {"args",         "env",
	                                     "cwd",          "terminal",
	                                     "rlimits",      "noNewPrivileges",
	                                     "oomScoreAdj",  "apparmorProfile",
	                                     "selinuxLabel", NULL};
	struct json_object *process = json_object_new_object(), *caps = NULL, *user = NULL;
	bool terminal = false;
	int r;

	if (json_add(config, "process", process) < 0)
		return err_oom(err);
	r = ONLY_MEMBERS(from, "process", err, "args", "env", "cwd", "terminal", "consoleSize",
	                 "user", "capabilities", "rlimits", "noNewPrivileges", "oomScoreAdj",
	                 "apparmorProfile", "selinuxLabel");
	if (r == 0)
		r = json_optional(json_get_bool(from, "terminal", &terminal, err));
	if (r == 0)
		r = copy_all(from, process, copied, err);
	/* As the specification has it, a size without a terminal is to be ignored. */
	if (r == 0 && terminal && copy(from, process, "consoleSize") < 0)
		r = err_oom(err);
	if (r == 0)
		r = json_optional(json_get_object(from, "user", &user, err));
	if (r == 0 && user)
		r = user_translate(user, container, oci, err);
	if (r == 0)
		r = json_optional(json_get_object(from, "capabilities", &caps, err));
	if (r == 0 && caps)
		r = capabilities_translate(caps, process, err);
	return r;
}

/* --- mounts --- */

/* What every container has, and the options that describe it. */
static const struct {
	const char *destination, *type, *options;
} default_mounts[] = {
	{"/proc", "proc", "nosuid noexec nodev"},
	{"/dev", "tmpfs", "nosuid strictatime mode=755 size=65536k"},
	{"/dev/pts", "devpts", "nosuid noexec newinstance ptmxmode=0666 mode=0620 gid=5"},
	{"/dev/mqueue", "mqueue", "nosuid noexec nodev"},
	{"/sys", "sysfs", "nosuid noexec nodev ro"},
	{"/sys/fs/cgroup", "cgroup", "nosuid noexec nodev relatime ro"},
};

static bool has_word(const char *words, const char *word)
{
	size_t len = strlen(word);

	for (const char *p = words; (p = strstr(p, word)); p += len)
		if ((p == words || p[-1] == ' ') && (p[len] == ' ' || p[len] == '\0'))
			return true;
	return false;
}

/* The one that is always there; another size or mode is mounted over it. */
static bool is_default_shm(struct json_object *mount)
{
	struct json_object *options = json_get(mount, "options");
	size_t n = json_object_is_type(options, json_type_array) ? json_object_array_length(options)
	                                                         : 0;
	bool has_size = false;

	for (size_t i = 0; i < n; i++) {
		const char *word = json_object_get_string(json_object_array_get_idx(options, i));

		if (!word || !has_word("nosuid noexec nodev mode=1777 size=65536k", word))
			return false;
		has_size |= strncmp(word, "size=", 5) == 0;
	}
	return has_size && json_text(mount, "type") &&
	       strcmp(json_text(mount, "type"), "tmpfs") == 0;
}

static int check_default_mount(struct json_object *mount, size_t i, struct err *err)
{
	struct json_object *options = NULL;
	const char *type = json_text(mount, "type");
	bool is_readonly = false;
	int r;

	if (!type)
		return err_text(err, -EINVAL, "mount at %s has no type",
		                default_mounts[i].destination);
	if (strcmp(type, default_mounts[i].type) != 0 &&
	    !(strcmp(type, "cgroup2") == 0 && strcmp(default_mounts[i].type, "cgroup") == 0))
		return err_text(err, -EINVAL,
		                "mount at %s: type \"%.64s\" is not supported; it must be %s",
		                default_mounts[i].destination, type, default_mounts[i].type);
	r = json_optional(json_get_array(mount, "options", &options, err));
	if (r < 0)
		return err_prefix(err, r, "mount at %s", default_mounts[i].destination);
	for (size_t k = 0; options && k < json_object_array_length(options); k++) {
		const char *word = json_object_get_string(json_object_array_get_idx(options, k));

		if (!word || !has_word(default_mounts[i].options, word))
			return err_text(
				err, -EINVAL,
				"mount at %s: option \"%.100s\" is not supported; there are "
				"%s",
				default_mounts[i].destination, word ? word : "null",
				default_mounts[i].options);
		is_readonly |= strcmp(word, "ro") == 0;
	}
	if (has_word(default_mounts[i].options, "ro") && !is_readonly)
		return err_text(
			err, -EINVAL,
			"mount at %s: a writable one is not supported; option ro is missing",
			default_mounts[i].destination);
	return 0;
}

static int mounts_translate(struct json_object *from, struct json_object *config, struct err *err)
{
	struct json_object *mounts = json_object_new_array();

	if (json_add(config, "mounts", mounts) < 0)
		return err_oom(err);
	for (size_t i = 0; i < json_object_array_length(from); i++) {
		struct json_object *mount = json_object_array_get_idx(from, i);
		const char *destination = json_text(mount, "destination");
		size_t k = 0;

		if (!json_object_is_type(mount, json_type_object) || !destination)
			return err_text(err, -EINVAL, "mounts[%zu] must have a destination", i);
		if (strcmp(destination, "/dev/shm") == 0 && is_default_shm(mount))
			continue;
		while (k < ARRAY_SIZE(default_mounts) &&
		       strcmp(default_mounts[k].destination, destination) != 0)
			k++;
		if (k < ARRAY_SIZE(default_mounts)) {
			int r = check_default_mount(mount, k, err);

			if (r < 0)
				return r;
		} else if (json_append(mounts, json_object_get(mount)) < 0) {
			return err_oom(err);
		}
	}
	return 0;
}

/* --- linux --- */

/* What is in them is checked by the parser of tasks. */
static int mappings_translate(struct json_object *linux_, bool has_userns, struct oci_config *ret,
                              struct err *err)
{
	static const char *const names[] = {"uidMappings", "gidMappings"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		struct json_object *map = json_get(linux_, names[i]);
		bool is_empty = !map || (json_object_is_type(map, json_type_array) &&
		                         json_object_array_length(map) == 0);

		if (has_userns && is_empty)
			return err_text(err, -EINVAL,
			                "linux.%s is missing, without which a user namespace has "
			                "no ids",
			                names[i]);
		if (!has_userns && !is_empty)
			return err_text(err, -EINVAL,
			                "linux.%s is for a container with a user namespace: "
			                "linux.namespaces has none",
			                names[i]);
		if (has_userns && copy(linux_, json_get(ret->container, "oci"), names[i]) < 0)
			return err_oom(err);
	}
	return 0;
}

/* One that is there already. Others than of the network cannot be entered: a container's process
 * namespace lies in its supervisor's, and its mounts are made anew. */
static int namespace_path(struct json_object *item, const char *type, struct oci_config *ret,
                          struct err *err)
{
	const char *path = json_text(item, "path");

	if (!path || !*path || strcmp(type, "network") != 0)
		return refuse(item, "linux.namespaces", "path", err);
	if (json_add_string(json_get(ret->container, "oci"), "networkNamespace", path) < 0)
		return err_oom(err);
	return 0;
}

static int namespaces_translate(struct json_object *linux_, struct oci_config *ret, struct err *err)
{
	static const char *const known[] = {"ipc",     "pid",    "uts", "mount",
	                                    "network", "cgroup", "user"};
	bool has[ARRAY_SIZE(known)] = {};
	struct json_object *list = NULL;
	int r = json_optional(json_get_array(linux_, "namespaces", &list, err));

	for (size_t i = 0; r == 0 && list && i < json_object_array_length(list); i++) {
		struct json_object *item = json_object_array_get_idx(list, i);
		const char *type = json_text(item, "type");
		size_t k = 0;

		while (type && k < ARRAY_SIZE(known) && strcmp(known[k], type) != 0)
			k++;
		if (!type || k == ARRAY_SIZE(known))
			return err_text(err, -EINVAL,
			                "linux.namespaces: type \"%.32s\" is not supported",
			                type ? type : "");
		r = ONLY_MEMBERS(item, "linux.namespaces", err, "type", "path");
		if (r == 0)
			r = namespace_path(item, type, ret, err);
		has[k] = true;
	}
	if (r < 0)
		return r;
	/* The first is the one that can be the host's. */
	if (!has[0] && json_add_string(ret->container, "ipcMode", "host") < 0)
		return err_oom(err);
	for (size_t k = 1; k < 4; k++)
		if (!has[k])
			return err_text(
				err, -EINVAL,
				"linux.namespaces: a container without a %s namespace of its "
				"own is not supported",
				known[k]);
	ret->host_network = !has[4];
	return mappings_translate(linux_, has[6], ret, err);
}

/* "Deny everything" first is what is done anyway; rules that allow come after it. */
static int device_rules_translate(struct json_object *resources, struct json_object *ours,
                                  struct err *err)
{
	struct json_object *list = NULL, *rules;
	int r = json_optional(json_get_array(resources, "devices", &list, err));

	if (r < 0 || !list)
		return r;
	rules = json_object_new_array();
	if (json_add(ours, "devices", rules) < 0)
		return err_oom(err);
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		struct json_object *rule = json_object_array_get_idx(list, i);
		const char *type = json_text(rule, "type"), *access = json_text(rule, "access");
		bool allow = false;
		int64_t number;

		r = json_get_bool(rule, "allow", &allow, err);
		if (r < 0)
			return err_prefix(err, -EINVAL, "linux.resources.devices[%zu]", i);
		if (!allow && i == 0 && (!type || !*type || strcmp(type, "a") == 0) &&
		    (!access || !*access || strcmp(access, "rwm") == 0) &&
		    json_get_i64(rule, "major", 0, INT64_MAX, &number, NULL) < 0 &&
		    json_get_i64(rule, "minor", 0, INT64_MAX, &number, NULL) < 0)
			continue;
		if (json_append(rules, json_object_get(rule)) < 0)
			return err_oom(err);
	}
	return 0;
}

static int resources_translate(struct json_object *from, struct json_object *linux_,
                               struct err *err)
{
	struct json_object *ours = json_object_new_object();
	int r = 0;

	if (json_add(linux_, "resources", ours) < 0)
		return err_oom(err);
	json_object_object_foreach (from, key, value)
		if (r == 0 && strcmp(key, "devices") != 0 &&
		    json_add(ours, key, json_object_get(value)) < 0)
			r = err_oom(err);
	return r < 0 ? r : device_rules_translate(from, ours, err);
}

/* As text: it is read by the unprivileged process that reads those of tasks. */
static int seccomp_translate(struct json_object *from, struct json_object *container,
                             struct err *err)
{
	struct json_object *profile = NULL, *source;
	int r = json_optional(json_get_object(from, "seccomp", &profile, err));

	if (r < 0)
		return err_prefix(err, r, "linux");
	if (!profile)
		return json_add_string(container, "seccomp", "unconfined") < 0 ? err_oom(err) : 0;
	source = json_object_new_object();
	if (json_add_string(source, "profile", json_to_text(profile, NULL)) < 0) {
		json_object_put(source);
		return err_oom(err);
	}
	return json_add(container, "seccomp", source) < 0 ? err_oom(err) : 0;
}

static int linux_translate(struct json_object *from, struct json_object *config,
                           struct oci_config *ret, struct err *err)
{
	static const char *const refused[] = {"cgroupsPath", "intelRdt", "personality", NULL};
	static const char *const copied[] = {"maskedPaths", "readonlyPaths", "sysctl",
	                                     "devices",     "mountLabel",    NULL};
	struct json_object *linux_ = json_object_new_object(), *resources = NULL;
	const char *propagation = "private";
	int r;

	if (json_add(config, "linux", linux_) < 0)
		return err_oom(err);
	r = ONLY_MEMBERS(from, "linux", err, "namespaces", "uidMappings", "gidMappings", "devices",
	                 "cgroupsPath", "resources", "intelRdt", "sysctl", "seccomp",
	                 "rootfsPropagation", "maskedPaths", "readonlyPaths", "mountLabel",
	                 "personality");
	for (size_t i = 0; r == 0 && refused[i]; i++)
		r = refuse(from, "linux", refused[i], err);
	if (r == 0)
		r = namespaces_translate(from, ret, err);
	if (r == 0)
		r = json_optional(json_get_string(from, "rootfsPropagation", &propagation, err));
	if (r < 0)
		return r;
	if (*propagation && strcmp(propagation, "private") != 0 &&
	    strcmp(propagation, "rprivate") != 0)
		return err_text(err, -EINVAL,
		                "linux.rootfsPropagation is \"%.32s\"; only private is supported",
		                propagation);
	r = copy_all(from, linux_, copied, err);
	if (r == 0)
		r = seccomp_translate(from, ret->container, err);
	if (r == 0)
		r = json_optional(json_get_object(from, "resources", &resources, err));
	return r == 0 && resources ? resources_translate(resources, linux_, err) : r;
}

/* --- the whole --- */

static int root_translate(struct json_object *from, const char *bundle, struct json_object *oci,
                          struct json_object *config, struct err *err)
{
	struct json_object *root = json_object_new_object();
	char joined[PATH_MAX], path[PATH_MAX];
	const char *text;
	int r;

	if (json_add(config, "root", root) < 0)
		return err_oom(err);
	r = ONLY_MEMBERS(from, "root", err, "path", "readonly");
	if (r == 0)
		r = json_get_string(from, "path", &text, err);
	if (r < 0)
		return err_prefix(err, -EINVAL, "root");
	if (snprintf(joined, sizeof(joined), "%s%s%s", *text == '/' ? "" : bundle,
	             *text == '/' ? "" : "/", text) >= (int)sizeof(joined))
		return err_text(err, -ENAMETOOLONG, "root.path is too long");
	if (!realpath(joined, path))
		return err_set(err, -errno, "root.path %.200s", joined);
	if (json_add_string(oci, "rootfs", path) < 0 || copy(from, root, "readonly") < 0)
		return err_oom(err);
	return 0;
}

static int hostname_translate(struct json_object *from, struct json_object *config, struct err *err)
{
	const char *hostname = "";
	struct utsname host;
	int r = json_optional(json_get_string(from, "hostname", &hostname, err));

	if (r < 0)
		return r;
	if (!*hostname && uname(&host) == 0)
		hostname = host.nodename;
	return json_add_string(config, "hostname", hostname) < 0 ? err_oom(err) : 0;
}

static int check_version(struct json_object *from, struct err *err)
{
	const char *version;

	if (json_get_string(from, "ociVersion", &version, err) < 0)
		return -EINVAL;
	if (strncmp(version, "1.", 2) != 0)
		return err_text(err, -EINVAL, "ociVersion is \"%.32s\"; it must be 1.x.y", version);
	return 0;
}

static int translate(struct json_object *from, const char *bundle, struct oci_config *ret,
                     struct err *err)
{
	struct json_object *config = json_object_new_object(), *oci = json_object_new_object();
	struct json_object *process, *root, *linux_, *mounts = NULL;
	int r;

	r = json_add(ret->container, "config", config);
	if (json_add(ret->container, "oci", oci) < 0 || r < 0 ||
	    json_add_bool(oci, "hold", true) < 0)
		return err_oom(err);
	r = ONLY_MEMBERS(from, "config", err, "ociVersion", "process", "root", "hostname",
	                 "domainname", "mounts", "hooks", "annotations", "linux");
	if (r == 0)
		r = check_version(from, err);
	if (r == 0)
		r = refuse(from, "config", "domainname", err);
	if (r == 0)
		r = refuse(from, "config", "hooks", err);
	if (r == 0)
		r = json_get_object(from, "root", &root, err);
	if (r == 0)
		r = json_get_object(from, "process", &process, err);
	if (r == 0)
		r = json_get_object(from, "linux", &linux_, err);
	if (r == 0)
		r = json_optional(json_get_array(from, "mounts", &mounts, err));
	if (r == 0)
		r = json_optional(json_get_object(from, "annotations", &ret->annotations, err));
	if (r < 0)
		return r == -ENOENT ? -EINVAL : r;
	json_object_get(ret->annotations);
	(void)json_get_bool(process, "terminal", &ret->terminal, NULL); /* checked below */

	r = root_translate(root, bundle, oci, config, err);
	if (r == 0)
		r = hostname_translate(from, config, err);
	if (r == 0)
		r = process_translate(process, ret->container, oci, config, err);
	if (r == 0 && mounts)
		r = mounts_translate(mounts, config, err);
	return r < 0 ? r : linux_translate(linux_, config, ret, err);
}

/* Before anything is made; the supervisor checks again. A copy, since a specification is wiped with
 * the environment that it holds. */
static int check(const struct oci_config *config, struct err *err)
{
	_cleanup_(container_spec_freep) struct container_spec *spec = NULL;
	_cleanup_json_ struct json_object *container = NULL;
	const struct task_spec task = {
		.network_mode = config->host_network ? NETWORK_HOST : NETWORK_NONE,
	};

	if (json_object_deep_copy(config->container, &container, NULL) < 0)
		return err_oom(err);
	return container_spec_parse(container, &task, &spec, err);
}

int oci_config_parse(struct json_object *config, const char *bundle, const char *id,
                     struct oci_config *ret, struct err *err)
{
	struct oci_config parsed = {.container = json_object_new_object()};
	int r = -ENOMEM;

	if (!parsed.container ||
	    json_add_string(parsed.container, "name", OCI_CONTAINER_NAME) < 0 ||
	    json_add_string(parsed.container, "id", id) < 0)
		(void)err_oom(err);
	else
		r = translate(config, bundle, &parsed, err);
	if (r == 0)
		r = check(&parsed, err);
	if (r < 0) {
		oci_config_done(&parsed);
		return r;
	}
	*ret = parsed;
	return 0;
}

void oci_config_done(struct oci_config *config)
{
	json_object_put(config->container);
	json_object_put(config->annotations);
	*config = (struct oci_config){};
}
