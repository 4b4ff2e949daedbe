/*
 * SELinux labels: user:role:type:level, where the level ends with the categories that keep
 * containers of one type apart. Source: container-selinux, "container_contexts"; Docker
 * documentation, "Security labels for each container (--security-opt)".
 */
#include "agent/engine/security.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/envfile.h"
#include "lib/fd.h"

#define CATEGORIES     1024
#define CONTEXTS_BYTES 65536

enum {
	USER,
	ROLE,
	TYPE,
	LEVEL,
	N_PARTS
};

static const char *const part_names[N_PARTS] = {"user", "role", "type", "level"};

/* Replace one part of a label; the level is all that follows the third ':'. */
static int replace_part(char *label, int part, const char *value)
{
	char old[SECURITY_LABEL_MAX + 1];
	const char *start = old, *end;

	snprintf(old, sizeof(old), "%s", label);
	for (int i = 0; i < part; i++) {
		start = strchr(start, ':');
		if (!start)
			return -EINVAL;
		start++;
	}
	end = part == LEVEL ? start + strlen(start) : strchrnul(start, ':');
	if (snprintf(label, SECURITY_LABEL_MAX + 1, "%.*s%s%s", (int)(start - old), old, value,
	             end) > SECURITY_LABEL_MAX)
		return -ENAMETOOLONG;
	return 0;
}

/* A name of the policy; a level has more: "s0:c1,c2", "s0-s1:c0.c1023". */
static bool is_valid(const char *value, bool is_level)
{
	if (!*value || strlen(value) > SECURITY_LABEL_MAX / 4)
		return false;
	for (const char *c = value; *c; c++)
		if (!isalnum((unsigned char)*c) && *c != '_' &&
		    !(is_level ? strchr(":,.-", *c) != NULL : *c == '.' || *c == '-'))
			return false;
	return true;
}

int security_labels_change(struct security_labels *labels, const char *option, struct err *err)
{
	size_t len = strcspn(option, ":");
	const char *value = option[len] ? option + len + 1 : "";
	bool is_filetype = len == 8 && strncmp(option, "filetype", len) == 0;
	int part = 0, r = 0;

	while (part < N_PARTS &&
	       (strlen(part_names[part]) != len || strncmp(part_names[part], option, len) != 0))
		part++;
	if (part == N_PARTS && !is_filetype)
		return err_text(err, -EINVAL,
		                "dockerSecurityOptions: label \"%.100s\" is not supported; it must "
		                "be disable, or user, role, type, filetype or level, ':' and a "
		                "value",
		                option);
	if (!is_valid(value, part == LEVEL))
		return err_text(err, -EINVAL,
		                "dockerSecurityOptions: label \"%.100s\": \"%.100s\" is no name of "
		                "an SELinux policy",
		                option, value);
	if (!is_filetype)
		r = replace_part(labels->process, part, value);
	if (r == 0 && (is_filetype || part == USER || part == LEVEL))
		r = replace_part(labels->mount, is_filetype ? TYPE : part, value);
	return r < 0 ? err_set(err, r, "dockerSecurityOptions: label \"%.100s\"", option) : 0;
}

/* --- the default --- */

/* Lines of lxc_contexts: name = "label". */
static void take_context(const char *text, const char *name, char *label)
{
	for (const char *line = text; *line; line = strchrnul(line, '\n')) {
		const char *at;
		size_t len;

		line += strspn(line, "\n \t");
		len = strlen(name);
		if (strncmp(line, name, len) != 0)
			continue;
		at = line + len + strspn(line + len, " \t");
		if (*at != '=')
			continue;
		at += 1 + strspn(at + 1, " \t\"");
		len = strcspn(at, "\" \t\n");
		if (len == 0 || len > SECURITY_LABEL_MAX - 64)
			continue;
		memcpy(label, at, len);
		label[len] = '\0';
	}
}

static int read_contexts(const char *etc_dir, struct security_labels *ret, struct err *err)
{
	_cleanup_(envfile_freep) struct envfile *config = NULL;
	_cleanup_free_ char *text = NULL;
	char path[PATH_MAX];
	const char *type;
	int r;

	snprintf(path, sizeof(path), "%s/config", etc_dir);
	r = envfile_open(path, &config, err);
	if (r < 0)
		return r;
	type = envfile_get(config, "SELINUXTYPE");
	if (!type || !*type || strchr(type, '/'))
		return 0;
	snprintf(path, sizeof(path), "%s/%s/contexts/lxc_contexts", etc_dir, type);
	r = file_read(AT_FDCWD, path, CONTEXTS_BYTES, &text, NULL);
	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return err_set(err, r, "read %s", path);
	take_context(text, "process", ret->process);
	take_context(text, "file", ret->mount);
	return 0;
}

/* Two different categories of a thousand; FNV-1a spreads ids that differ by little. */
static void choose_level(const char *task_id, char *buf, size_t n)
{
	uint64_t hash = 0xcbf29ce484222325ull;
	unsigned int a, b;

	for (; *task_id; task_id++)
		hash = (hash ^ (unsigned char)*task_id) * 0x100000001b3ull;
	a = (unsigned int)(hash >> 40) % CATEGORIES;
	b = (a + 1 + (unsigned int)(hash >> 16) % (CATEGORIES - 1)) % CATEGORIES;
	snprintf(buf, n, "s0:c%u,c%u", a < b ? a : b, a < b ? b : a);
}

int security_labels_default(const char *etc_dir, const char *task_id, struct security_labels *ret,
                            struct err *err)
{
	struct security_labels labels = {
		.process = "system_u:system_r:container_t:s0",
		.mount = "system_u:object_r:container_file_t:s0",
	};
	char level[32];
	int r = read_contexts(etc_dir, &labels, err);

	choose_level(task_id, level, sizeof(level));
	if (r == 0)
		r = replace_part(labels.process, LEVEL, level);
	if (r == 0)
		r = replace_part(labels.mount, LEVEL, level);
	if (r < 0)
		return err_prefix(err, r, "SELinux contexts in %s", etc_dir);
	*ret = labels;
	return 0;
}
