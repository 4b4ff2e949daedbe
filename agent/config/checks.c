/* The same parsers as ecs-task has, and what can be known of the kernel without privileges. */
#include "agent/config/checks.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include "agent/config/settings.h"
#include "agent/task/idmap.h"
#include "agent/task/policy.h"
#include "lib/fd.h"
#include "lib/parse.h"

int check_host_paths(const char *text, struct err *err)
{
	return policy_check_host_paths(text, err);
}

int check_no_host_paths(const char *text, struct err *err)
{
	if (!text || *text)
		return 0;
	return err_text(err, -EINVAL,
	                "ECS_ALLOWED_HOST_PATHS is empty, and every task would be refused; it must "
	                "be absolute paths, separated by ':', or, for any path, not be there");
}

/*
 * Overlayfs on id-mapped layers came with 5.19. Distributions have it in kernels that call
 * themselves older, and only root can try: so it is a warning, and ecs-task has the last word.
 */
static int warn_of_old_kernel(struct config *config, const char *text)
{
	unsigned int major, minor;
	struct utsname uts;

	if (uname(&uts) < 0 || sscanf(uts.release, "%5u.%5u", &major, &minor) != 2 || major > 5 ||
	    (major == 5 && minor >= 19))
		return 0;
	return config_warn(
		config,
		"ECS_USERNS_REMAP=%s needs id-mapped mounts as Linux 5.19 has them; this is "
		"Linux %s, and tasks are refused if it has none",
		text, uts.release);
}

static int warn_of_forbidden_namespaces(struct config *config, const char *text)
{
	_cleanup_free_ char *max = NULL;

	if (file_read(AT_FDCWD, "/proc/sys/user/max_user_namespaces", 32, &max, NULL) < 0 ||
	    strcmp(max, "0\n") != 0)
		return 0;
	return config_warn(
		config,
		"ECS_USERNS_REMAP=%s: this host allows no user namespaces, and tasks are "
		"refused; sysctl user.max_user_namespaces must be more than 0",
		text);
}

int check_userns_remap(struct config *config, const char *text, struct err *err)
{
	struct id_maps maps;
	bool on;
	int r;

	if (parse_bool(text, &on) == 0 && !on)
		return 0;
	r = id_maps_from_setting(text, "/etc/subuid", "/etc/subgid", &maps, err);
	if (r == 0)
		r = warn_of_old_kernel(config, text);
	if (r == 0)
		r = warn_of_forbidden_namespaces(config, text);
	return r;
}
