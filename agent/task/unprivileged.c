/* The specification as it came: what the supervisor itself adds is not looked at. */
#include "agent/task/unprivileged.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "agent/task/default_paths.h"

static bool has_path(const char *const *paths, const char *wanted)
{
	for (size_t i = 0; paths && paths[i]; i++)
		if (strcmp(paths[i], wanted) == 0)
			return true;
	return false;
}

static int check_paths(const struct container_spec *spec, struct err *err)
{
	static const char *const masked[] = DEFAULT_MASKED_PATHS;
	static const char *const readonly[] = DEFAULT_READONLY_PATHS;

	for (size_t i = 0; i < ARRAY_SIZE(masked); i++)
		if (!has_path(spec->masked_paths, masked[i]))
			return err_text(err, -EPERM,
			                "container %s: linux.maskedPaths is without %s, which "
			                "ECS_DISABLE_PRIVILEGED forbids",
			                spec->name, masked[i]);
	for (size_t i = 0; i < ARRAY_SIZE(readonly); i++)
		if (!has_path(spec->readonly_paths, readonly[i]))
			return err_text(err, -EPERM,
			                "container %s: linux.readonlyPaths is without %s, which "
			                "ECS_DISABLE_PRIVILEGED forbids",
			                spec->name, readonly[i]);
	return 0;
}

/* Making nodes of all kinds is in everyone's default: it opens none of them. */
static int check_device_rules(const struct container_spec *spec, struct err *err)
{
	for (size_t i = 0; i < spec->n_device_rules; i++) {
		const struct cgroup_device *rule = &spec->device_rules[i];

		if (rule->type != 'a' && rule->major >= 0 && rule->minor >= 0)
			continue;
		if (!strpbrk(rule->access, "rw"))
			continue;
		return err_text(err, -EPERM,
		                "container %s: linux.resources.devices[%zu] lets use more than one "
		                "device, which ECS_DISABLE_PRIVILEGED forbids",
		                spec->name, i);
	}
	return 0;
}

int unprivileged_check(const struct container_spec *spec, struct err *err)
{
	int r;

	if (spec->privileged)
		return err_text(err, -EPERM,
		                "container %s is privileged, which ECS_DISABLE_PRIVILEGED forbids",
		                spec->name);
	r = check_paths(spec, err);
	return r < 0 ? r : check_device_rules(spec, err);
}
