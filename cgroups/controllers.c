/* Which controllers a host has, as far as everybody may read it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cgroups/cgroup.h"
#include "lib/fd.h"

#define TABLE_MAX (64 * 1024)

/* cgroup.controllers: names, parted by blanks. */
static bool has_word(const char *text, const char *word)
{
	size_t n = strlen(word);

	for (text += strspn(text, " \n"); *text; text += strspn(text, " \n")) {
		size_t len = strcspn(text, " \n");

		if (len == n && memcmp(text, word, n) == 0)
			return true;
		text += len;
	}
	return false;
}

/* /proc/cgroups: "memory 4 49 1". Without a hierarchy it is not mounted, or bound to cgroup2. */
static bool has_row(const char *text, const char *controller)
{
	for (; *text; text += strcspn(text, "\n"), text += *text == '\n') {
		unsigned int hierarchy, n_cgroups, enabled;
		char name[32];

		if (sscanf(text, "%31s %u %u %u", name, &hierarchy, &n_cgroups, &enabled) == 4 &&
		    strcmp(name, controller) == 0)
			return hierarchy != 0 && enabled != 0;
	}
	return false;
}

int cgroup_check_controllers(const char *mount, const char *proc_cgroups, struct err *err)
{
	static const char *const needed[] = {"cpu", "memory"};
	_cleanup_free_ char *path = NULL, *text = NULL;
	bool is_v2;
	int r;

	if (asprintf(&path, "%s/cgroup.controllers", mount ? mount : "/sys/fs/cgroup") < 0) {
		path = NULL;
		return err_oom(err);
	}
	r = file_read(AT_FDCWD, path, TABLE_MAX, &text, NULL);
	is_v2 = r == 0;
	if (!is_v2) {
		if (!proc_cgroups)
			proc_cgroups = "/proc/cgroups";
		r = file_read(AT_FDCWD, proc_cgroups, TABLE_MAX, &text, NULL);
	}
	if (r < 0)
		return err_text(err, -EOPNOTSUPP, "neither %s nor %s can be read", path,
		                proc_cgroups);
	for (size_t i = 0; i < ARRAY_SIZE(needed); i++)
		if (!(is_v2 ? has_word(text, needed[i]) : has_row(text, needed[i])))
			return err_text(err, -EOPNOTSUPP,
			                "this host has no cgroup controller %s, says %s", needed[i],
			                is_v2 ? path : proc_cgroups);
	return 0;
}
