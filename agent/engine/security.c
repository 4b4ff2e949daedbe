/* Reading the options into one structure, and from there into the specification. */
#include "agent/engine/security.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/json.h"
#include "lib/parse.h"

#define SELINUX_ETC_DIR "/etc/selinux"
#define OPTION          "dockerSecurityOptions: "

struct security {
	bool privileged;
	bool no_new_privileges;
	bool paths_unconfined;
	const char *apparmor; /* borrowed; NULL: not said */
	const char *seccomp;  /* the same */
	const char *task_id;
	bool is_labelled, is_label_disabled;
	struct security_labels labels; /* if is_labelled */
};

/* --- reading the options --- */

static int set_no_new_privileges(struct security *s, const char *value, struct err *err)
{
	if (parse_bool(value, &s->no_new_privileges) < 0)
		return err_text(err, -EINVAL,
		                OPTION "no-new-privileges is \"%.40s\"; it must be true or false",
		                value);
	return 0;
}

static int set_seccomp(struct security *s, const char *value, struct err *err)
{
	const char *start = value + strspn(value, " \t\r\n");

	if (*start != '{' && *start != '/' && strcmp(value, "unconfined") != 0 &&
	    strcmp(value, "builtin") != 0)
		return err_text(err, -EINVAL,
		                OPTION "seccomp is \"%.100s\"; it must be unconfined, builtin, the "
		                       "absolute path of a profile, or a profile in JSON",
		                value);
	s->seccomp = *start == '{' ? start : value;
	return 0;
}

static int set_apparmor(struct security *s, const char *value, struct err *err)
{
	(void)err;
	s->apparmor = value;
	return 0;
}

static int start_labels(struct security *s, struct err *err)
{
	if (s->is_labelled)
		return 0;
	s->is_labelled = true;
	return security_labels_default(SELINUX_ETC_DIR, s->task_id, &s->labels, err);
}

static int set_label(struct security *s, const char *value, struct err *err)
{
	int r;

	if (strcmp(value, "disable") == 0) {
		s->is_label_disabled = true;
		return 0;
	}
	if (s->privileged)
		return err_text(err, -EINVAL,
		                OPTION "label \"%.100s\" does not go with privileged, which has "
		                       "none",
		                value);
	r = start_labels(s, err);
	return r < 0 ? r : security_labels_change(&s->labels, value, err);
}

static int set_system_paths(struct security *s, const char *value, struct err *err)
{
	if (strcmp(value, "unconfined") != 0)
		return err_text(err, -EINVAL,
		                OPTION "systempaths is \"%.100s\"; it must be unconfined", value);
	s->paths_unconfined = true;
	return 0;
}

static const struct {
	const char *name;
	int (*set)(struct security *s, const char *value, struct err *err);
} known[] = {
	{"no-new-privileges", set_no_new_privileges},
	{"seccomp", set_seccomp},
	{"apparmor", set_apparmor},
	{"label", set_label},
	{"systempaths", set_system_paths},
};

static int read_option(struct security *s, const char *option, struct err *err)
{
	size_t len = strcspn(option, "=:");
	const char *value = option[len] ? option + len + 1 : NULL;

	if (strcmp(option, "no-new-privileges") == 0)
		value = "true";
	if (strcmp(option, "disable") == 0)
		return set_label(s, "disable", err);
	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		if (strlen(known[i].name) != len || strncmp(known[i].name, option, len) != 0)
			continue;
		if (!value || !*value)
			return err_text(err, -EINVAL, OPTION "\"%.100s\" needs a value: %s=...",
			                option, known[i].name);
		return known[i].set(s, value, err);
	}
	if (len == strlen("credentialspec") && strncmp(option, "credentialspec", len) == 0)
		return err_text(err, -EOPNOTSUPP,
		                OPTION "\"%.100s\": group Managed Service Accounts are not "
		                       "supported by this agent",
		                option);
	return err_text(err, -EOPNOTSUPP, OPTION "\"%.100s\" is not supported by this agent",
	                option);
}

/* As Docker has it where it is started with --selinux-enabled. */
static bool is_labelled_by_default(const struct task *task, const struct container *c,
                                   const struct spec_options *options, bool privileged)
{
	const char *ipc = json_text(c->host_config, "IpcMode");

	return options->selinux && !privileged && task->pid_mode != TASK_PID_HOST &&
	       task->ipc_mode != TASK_IPC_HOST && !(ipc && strcmp(ipc, "host") == 0);
}

static int read_options(const struct task *task, const struct container *c,
                        const struct spec_options *options, struct security *ret, struct err *err)
{
	struct json_object *list = NULL;
	int r = 0;

	(void)json_get_bool(c->host_config, "Privileged", &ret->privileged, NULL); /* checked */
	ret->task_id = task->id;
	if (is_labelled_by_default(task, c, options, ret->privileged))
		r = start_labels(ret, err);
	if (r == 0)
		r = json_optional(json_get_array(c->host_config, "SecurityOpt", &list, err));
	for (size_t i = 0; r == 0 && list && i < json_object_array_length(list); i++) {
		struct json_object *item = json_object_array_get_idx(list, i);

		if (!json_object_is_type(item, json_type_string) ||
		    strlen(json_object_get_string(item)) !=
		            (size_t)json_object_get_string_len(item))
			return err_text(err, -EINVAL, "dockerSecurityOptions[%zu] must be a string",
			                i);
		r = read_option(ret, json_object_get_string(item), err);
	}
	ret->is_labelled &= !ret->is_label_disabled;
	return r;
}

bool security_opens_system_paths(struct json_object *host_config)
{
	struct json_object *list = json_get(host_config, "SecurityOpt");

	if (!json_object_is_type(list, json_type_array))
		return false; /* refused when it is read */
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		struct json_object *item = json_object_array_get_idx(list, i);
		const char *option = item ? json_object_get_string(item) : "";
		size_t len = strcspn(option, "=:");

		if (len == strlen("systempaths") && strncmp(option, "systempaths", len) == 0)
			return true;
	}
	return false;
}

/* --- writing the specification --- */

static int add_seccomp(const struct security *s, struct json_object *container)
{
	const char *word = s->privileged ? "unconfined" : "default";
	struct json_object *source;

	if (s->seccomp && (*s->seccomp == '{' || *s->seccomp == '/')) {
		source = json_object_new_object();
		if (json_add_string(source, *s->seccomp == '/' ? "path" : "profile", s->seccomp) <
		    0) {
			json_object_put(source);
			return -ENOMEM;
		}
		return json_add(container, "seccomp", source);
	}
	if (s->seccomp)
		word = strcmp(s->seccomp, "builtin") == 0 ? "default" : "unconfined";
	return json_add_string(container, "seccomp", word);
}

static int add_process(const struct security *s, struct json_object *process)
{
	const char *apparmor = s->apparmor ? s->apparmor : s->privileged ? "unconfined" : "";

	if (json_add_bool(process, "noNewPrivileges", s->no_new_privileges) < 0 ||
	    (*apparmor && json_add_string(process, "apparmorProfile", apparmor) < 0) ||
	    (s->is_labelled && json_add_string(process, "selinuxLabel", s->labels.process) < 0))
		return -ENOMEM;
	return 0;
}

static int add_linux(const struct security *s, struct json_object *linux_)
{
	if (s->is_labelled && json_add_string(linux_, "mountLabel", s->labels.mount) < 0)
		return -ENOMEM;
	if (!s->paths_unconfined)
		return 0;
	if (json_add(linux_, "maskedPaths", json_object_new_array()) < 0)
		return -ENOMEM;
	return json_add(linux_, "readonlyPaths", json_object_new_array());
}

int security_apply(const struct task *task, const struct container *c,
                   const struct spec_options *options, struct json_object *container,
                   struct json_object *config, struct err *err)
{
	struct security s = {};
	int r = read_options(task, c, options, &s, err);

	if (r < 0)
		return r;
	if (add_seccomp(&s, container) < 0 || add_process(&s, json_get(config, "process")) < 0 ||
	    add_linux(&s, json_get(config, "linux")) < 0)
		return err_oom(err);
	return 0;
}
