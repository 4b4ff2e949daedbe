/*
 * How a container is confined beside its namespaces and capabilities: system call filter, AppArmor
 * profile, SELinux labels. Whether the host can do it is looked at later (label.h, seccomp_task.h).
 */
#include "agent/task/spec.h"

#include <errno.h>
#include <string.h>

#include "agent/task/seccomp_profile.h"
#include "agent/task/spec_parse.h"
#include "lib/json.h"

static int profile_source_parse(struct json_object *obj, struct seccomp_source *ret,
                                struct err *err)
{
	int r = ONLY_MEMBERS(obj, "seccomp", err, "profile", "path");

	if (r == 0)
		r = json_optional(json_get_string(obj, "profile", &ret->text, err));
	if (r == 0)
		r = json_optional(json_get_string(obj, "path", &ret->path, err));
	if (r < 0)
		return err_prefix(err, r, "seccomp");
	if (!ret->text == !ret->path)
		return err_text(err, -EINVAL, "seccomp must have either profile or path");
	if (ret->path)
		return spec_check_path(ret->path, "seccomp.path", err);
	if (strlen(ret->text) > SECCOMP_PROFILE_MAX)
		return err_text(err, -EFBIG, "seccomp.profile has %zu bytes; at most %d are taken",
		                strlen(ret->text), SECCOMP_PROFILE_MAX);
	return 0;
}

int spec_parse_seccomp(struct json_object *container, struct container_spec *spec, struct err *err)
{
	struct json_object *value = json_get(container, "seccomp");
	const char *word = spec->privileged ? "unconfined" : "default";
	int r;

	if (json_object_is_type(value, json_type_object)) {
		spec->seccomp = true;
		return profile_source_parse(value, &spec->seccomp_source, err);
	}
	r = json_optional(json_get_string(container, "seccomp", &word, err));
	if (r < 0)
		return err_prefix(err, r, "container");
	if (strcmp(word, "default") != 0 && strcmp(word, "unconfined") != 0)
		return err_text(err, -EINVAL,
		                "seccomp is \"%.100s\"; it must be default, unconfined or an "
		                "object",
		                word);
	spec->seccomp = strcmp(word, "default") == 0;
	return 0;
}

/* A name that the kernel takes in one write(2). An empty one is none, as in OCI's documents. */
static int label_parse(struct json_object *obj, const char *where, const char *name,
                       const char **ret, struct err *err)
{
	const char *text = "";
	int r = json_optional(json_get_string(obj, name, &text, err));

	if (r < 0)
		return err_prefix(err, r, "%s", where);
	if (strlen(text) > LABEL_MAX)
		return err_text(err, -EINVAL, "%s.%s is longer than %d bytes", where, name,
		                LABEL_MAX);
	for (const char *c = text; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			return err_text(err, -EINVAL, "%s.%s has a control character", where, name);
	if (*text)
		*ret = text;
	return 0;
}

static int selinux_parse(struct json_object *obj, const char *where, const char *name,
                         const char **ret, struct err *err)
{
	char unused[LABEL_MAX + 1];
	int r = label_parse(obj, where, name, ret, err);

	if (r == 0 && *ret && label_without_categories(*ret, unused, sizeof(unused)) < 0)
		return err_text(err, -EINVAL,
		                "%s.%s is \"%.200s\"; it must be user:role:type:level", where, name,
		                *ret);
	if (r == 0 && *ret && strpbrk(*ret, "\" \\"))
		return err_text(err, -EINVAL, "%s.%s is \"%.200s\"; no label has quotes or blanks",
		                where, name, *ret);
	return r;
}

int spec_parse_labels(struct json_object *process, struct json_object *linux_,
                      struct container_spec *spec, struct err *err)
{
	int r = label_parse(process, "process", "apparmorProfile", &spec->labels.apparmor_profile,
	                    err);

	/* What is privileged or from the OCI command line gets no more than it names. */
	spec->labels.no_default = spec->privileged || spec->bare;
	if (r == 0)
		r = selinux_parse(process, "process", "selinuxLabel", &spec->labels.selinux_label,
		                  err);
	if (r == 0 && linux_)
		r = selinux_parse(linux_, "linux", "mountLabel", &spec->labels.mount_label, err);
	return r;
}
