/* Finding the cgroup mounts in the text of /proc/self/mountinfo (proc(5)). */
#include "cgroups/hierarchy.h"

#include <errno.h>
#include <string.h>

#include "lib/cleanup.h"

static const char *const controller_names[_CONTROLLER_MAX] = {
	[CONTROLLER_CPU] = "cpu",
	[CONTROLLER_CPUACCT] = "cpuacct",
	[CONTROLLER_CPUSET] = "cpuset",
	[CONTROLLER_MEMORY] = "memory",
	[CONTROLLER_DEVICES] = "devices",
	[CONTROLLER_FREEZER] = "freezer",
	[CONTROLLER_BLKIO] = "blkio",
	[CONTROLLER_PIDS] = "pids",
	[CONTROLLER_SYSTEMD] = "name=systemd",
};

const char *controller_to_string(enum controller controller)
{
	return controller_names[controller];
}

/* Bits of the controllers in mount options such as "rw,cpu,cpuacct". */
static unsigned controllers_in(char *options)
{
	unsigned bits = 0;
	char *rest = NULL;

	for (char *word = strtok_r(options, ",", &rest); word; word = strtok_r(NULL, ",", &rest))
		for (size_t i = 0; i < _CONTROLLER_MAX; i++)
			if (strcmp(word, controller_names[i]) == 0)
				bits |= 1u << i;
	return bits;
}

static bool is_octal(char c)
{
	return c >= '0' && c <= '7';
}

/* Blanks and backslashes in paths stand as "\040", in place. */
static void unescape(char *text)
{
	char *out = text;

	for (const char *in = text; *in; out++) {
		if (in[0] == '\\' && is_octal(in[1]) && is_octal(in[2]) && is_octal(in[3])) {
			*out = (char)((in[1] - '0') * 64 + (in[2] - '0') * 8 + (in[3] - '0'));
			in += 4;
		} else {
			*out = *in++;
		}
	}
	*out = '\0';
}

static bool is_at_or_below(const char *path, const char *base)
{
	size_t n = strlen(base);

	return strncmp(path, base, n) == 0 && (path[n] == '\0' || path[n] == '/');
}

/* The fields of one line that matter: mount point, type and options of the file system. */
struct line {
	char *mount_point, *type, *options;
};

static int line_split(char *text, struct line *ret)
{
	char *field[5], *rest = NULL, *tail = strstr(text, " - ");

	if (!tail)
		return -EINVAL;
	*tail = '\0';
	tail += 3;
	for (size_t i = 0; i < ARRAY_SIZE(field); i++) {
		field[i] = strtok_r(i == 0 ? text : NULL, " ", &rest);
		if (!field[i])
			return -EINVAL;
	}
	ret->mount_point = field[4];
	ret->type = strtok_r(tail, " ", &rest);
	if (!ret->type || !strtok_r(NULL, " ", &rest))
		return -EINVAL;
	ret->options = strtok_r(NULL, " ", &rest);
	return ret->options ? 0 : -EINVAL;
}

/* A mount hides what was mounted at its place or below it before. */
static size_t drop_covered(struct cgroup_mount *mounts, size_t n, const char *mount_point)
{
	size_t kept = 0;

	for (size_t i = 0; i < n; i++)
		if (!is_at_or_below(mounts[i].path, mount_point))
			mounts[kept++] = mounts[i];
	return kept;
}

int cgroup_mounts_parse(char *mountinfo, const char *base, struct cgroup_mount *ret,
                        struct err *err)
{
	char *rest = NULL;
	size_t n = 0;

	for (char *text = strtok_r(mountinfo, "\n", &rest); text;
	     text = strtok_r(NULL, "\n", &rest)) {
		struct cgroup_mount mount = {0};
		struct line line;

		if (line_split(text, &line) < 0)
			return err_text(err, -EINVAL, "malformed line in /proc/self/mountinfo");
		unescape(line.mount_point);
		n = drop_covered(ret, n, line.mount_point);
		if (!is_at_or_below(line.mount_point, base))
			continue;

		mount.unified = strcmp(line.type, "cgroup2") == 0;
		if (strcmp(line.type, "cgroup") == 0)
			mount.controllers = controllers_in(line.options);
		if (!mount.unified && mount.controllers == 0)
			continue;
		if (strlen(line.mount_point) >= sizeof(mount.path) || n == HIERARCHIES_MAX)
			continue; /* neither happens to the mounts that systemd or an init makes */
		memcpy(mount.path, line.mount_point, strlen(line.mount_point) + 1);
		ret[n++] = mount;
	}
	return (int)n;
}
