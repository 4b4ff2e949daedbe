/*
 * The mounts of a container: words as in fstab(5), of which a later one wins, become attributes of
 * mount_setattr(2); they are put in an order in which each finds the place it is mounted on.
 */
#include "agent/task/spec.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/task/mount.h"
#include "agent/task/spec_parse.h"
#include "lib/json.h"

#define MOUNTS_MAX 512
#define LABELS_MAX 2048 /* an extended attribute on ext4 takes some 4000 bytes */

/* A later word wins over an earlier one: "noexec" then "exec" is exec. */
static const struct {
	const char *word;
	unsigned int set, clear;
	unsigned long propagation;
	bool recursive, recursive_attr;
} mount_words[] = {
	{"defaults", .set = 0},
	{"rw", .clear = MOUNT_ATTR_RDONLY},
	{"ro", .set = MOUNT_ATTR_RDONLY},
	{"rro", .set = MOUNT_ATTR_RDONLY, .recursive_attr = true},
	{"nosuid", .set = MOUNT_ATTR_NOSUID},
	{"suid", .clear = MOUNT_ATTR_NOSUID},
	{"nodev", .set = MOUNT_ATTR_NODEV},
	{"dev", .clear = MOUNT_ATTR_NODEV},
	{"noexec", .set = MOUNT_ATTR_NOEXEC},
	{"exec", .clear = MOUNT_ATTR_NOEXEC},
	{"noatime", .set = MOUNT_ATTR_NOATIME, .clear = MOUNT_ATTR__ATIME},
	{"atime", .clear = MOUNT_ATTR_NOATIME},
	{"relatime", .clear = MOUNT_ATTR__ATIME},
	{"strictatime", .set = MOUNT_ATTR_STRICTATIME, .clear = MOUNT_ATTR__ATIME},
	{"norelatime", .set = 0}, /* what it turns off is nobody's wish but the kernel's */
	{"nostrictatime", .clear = MOUNT_ATTR_STRICTATIME},
	{"nodiratime", .set = MOUNT_ATTR_NODIRATIME},
	{"diratime", .clear = MOUNT_ATTR_NODIRATIME},
	{"async", .set = 0},
	{"nomand", .set = 0},
	{"bind", .set = 0},
	{"rbind", .recursive = true},
	{"private", .propagation = MS_PRIVATE},
	{"rprivate", .propagation = MS_PRIVATE | MS_REC},
	{"slave", .propagation = MS_SLAVE},
	{"rslave", .propagation = MS_SLAVE | MS_REC},
};

/* What tmpfs takes itself. Source: Linux Documentation/filesystems/tmpfs.rst. */
static const struct {
	const char *key;
	const char *suffixes; /* of which one may follow the digits; NULL: any value */
	const char *digits;
	const char *words;
} tmpfs_keys[] = {
	{"size", "kKmMgGtTpPeE%", "0123456789", "a number with k, m, g or % after it"},
	{"nr_inodes", "kKmMgG", "0123456789", "a number with k, m or g after it"},
	{"nr_blocks", "kKmMgG", "0123456789", "a number with k, m or g after it"},
	{"mode", "", "01234567", "an octal number"},
	{"uid", "", "0123456789", "a number"},
	{"gid", "", "0123456789", "a number"},
	{"mpol", NULL, "", ""},
};

static const char *const tmpfs_flags[] = {"sync", "dirsync", "mand"};

static bool tmpfs_value_is_good(size_t key, const char *value)
{
	size_t n = strspn(value, tmpfs_keys[key].digits);

	if (!tmpfs_keys[key].suffixes)
		return *value != '\0';
	if (n == 0 || n > 19)
		return false;
	return value[n] == '\0' ||
	       (strchr(tmpfs_keys[key].suffixes, value[n]) && value[n + 1] == '\0');
}

/* Takes key and value, which is NULL for a flag. A later one of that key wins. */
static int add_tmpfs_option(struct mount_spec *mount, char *key, char *value, struct err *err)
{
	struct mount_option *options = NULL;
	int r = key ? 0 : err_oom(err);

	if (r == 0 && mount->n_options == SPEC_MOUNT_OPTIONS_MAX)
		r = err_text(err, -EINVAL, "mount at %.100s: more than %d options", mount->target,
		             SPEC_MOUNT_OPTIONS_MAX);
	if (r == 0)
		options = reallocarray(mount->options, mount->n_options + 1, sizeof(*options));
	if (r == 0 && !options)
		r = err_oom(err);
	if (r < 0) {
		free(key);
		free(value);
		return r;
	}
	mount->options = options;
	options[mount->n_options++] = (struct mount_option){key, value};
	return 0;
}

static int tmpfs_option(const char *option, const char *where, struct mount_spec *mount,
                        struct err *err)
{
	size_t len = strcspn(option, "=");

	for (size_t i = 0; i < ARRAY_SIZE(tmpfs_flags); i++)
		if (strcmp(tmpfs_flags[i], option) == 0)
			return add_tmpfs_option(mount, strdup(option), NULL, err);
	for (size_t i = 0; i < ARRAY_SIZE(tmpfs_keys); i++) {
		const char *value = option + len + 1;
		char *copy;

		if (strlen(tmpfs_keys[i].key) != len || option[len] != '=' ||
		    strncmp(tmpfs_keys[i].key, option, len) != 0)
			continue;
		if (!tmpfs_value_is_good(i, value))
			return err_text(err, -EINVAL, "%s: %s is \"%.60s\"; it must be %s", where,
			                tmpfs_keys[i].key, value, tmpfs_keys[i].words);
		copy = strdup(value);
		if (!copy)
			return err_oom(err);
		return add_tmpfs_option(mount, strndup(option, len), copy, err);
	}
	return err_text(err, -EINVAL, "%s: mount option \"%.100s\" is not supported", where,
	                option);
}

static int mount_option(const char *option, const char *where, struct mount_spec *mount,
                        struct err *err)
{
	bool is_bind = strcmp(option, "bind") == 0 || strcmp(option, "rbind") == 0;

	for (size_t i = 0; i < ARRAY_SIZE(mount_words); i++) {
		if (strcmp(mount_words[i].word, option) != 0 ||
		    (is_bind && mount->type == MOUNT_TMPFS))
			continue;
		mount->attr = (mount->attr & ~mount_words[i].clear) | mount_words[i].set;
		mount->recursive |= mount_words[i].recursive;
		mount->recursive_attr |= mount_words[i].recursive_attr;
		if (mount_words[i].propagation)
			mount->propagation = mount_words[i].propagation;
		return 0;
	}
	if (mount->type == MOUNT_VOLUME && strcmp(option, "nocopy") == 0)
		mount->nocopy = true;
	else if (mount->type == MOUNT_VOLUME && strcmp(option, "existing") == 0)
		mount->volume.existing = true;
	else if (mount->type == MOUNT_TMPFS)
		return tmpfs_option(option, where, mount, err);
	else
		return err_text(err, -EINVAL, "%s: mount option \"%.100s\" is not supported", where,
		                option);
	return 0;
}

static int volume_source(struct json_object *obj, const char *where, struct mount_spec *mount,
                         struct err *err)
{
	struct json_object *labels = NULL;
	int r;

	if (volume_parse(mount->source, &mount->volume) < 0)
		return err_text(
			err, -EINVAL,
			"%s: \"%.100s\" is no volume; it must be task/NAME, anonymous/NAME, "
			"shared/NAME or mounted/NAME",
			where, mount->source);
	r = json_optional(json_get_object(obj, "labels", &labels, err));
	if (r < 0)
		return err_prefix(err, r, "%s", where);
	if (!labels)
		return 0;
	mount->volume.labels = json_to_text(labels, NULL);
	if (!mount->volume.labels)
		return err_oom(err);
	if (strlen(mount->volume.labels) > LABELS_MAX)
		return err_text(err, -EINVAL, "%s: labels of more than %d bytes", where,
		                LABELS_MAX);
	return 0;
}

static int mount_parse(struct json_object *obj, size_t index, struct mount_spec *mount,
                       struct err *err)
{
	_cleanup_free_ const char **options = NULL;
	const char *type = "bind";
	char where[160];
	int r;

	snprintf(where, sizeof(where), "mounts[%zu]", index);
	if (!json_object_is_type(obj, json_type_object))
		return err_text(err, -EINVAL, "%s must be an object", where);
	r = ONLY_MEMBERS(obj, where, err, "destination", "source", "type", "options", "labels");
	if (r < 0)
		return r;
	r = json_get_string(obj, "destination", &mount->target, err);
	if (r < 0)
		return err_prefix(err, -EINVAL, "%s", where);
	snprintf(where, sizeof(where), "mount at %.100s", mount->target);
	r = spec_check_path(mount->target, where, err);
	if (r < 0)
		return r;
	if (mount->target[strspn(mount->target, "/.")] == '\0')
		return err_text(err, -EINVAL, "%s: the root cannot be mounted over", where);
	/* What procfs shows of the container must be procfs (CVE-2019-16884, CVE-2025-52881). */
	if (strncmp(mount->target + strspn(mount->target, "/") - 1, "/proc", 5) == 0 &&
	    strchr("/", mount->target[strspn(mount->target, "/") + 4]))
		return err_text(err, -EINVAL, "%s: nothing can be mounted inside /proc", where);

	r = json_optional(json_get_string(obj, "type", &type, err));
	if (r < 0)
		return err_prefix(err, r, "%s", where);
	if (strcmp(type, "tmpfs") == 0)
		mount->type = MOUNT_TMPFS;
	else if (strcmp(type, "volume") == 0)
		mount->type = MOUNT_VOLUME;
	else if (strcmp(type, "bind") != 0)
		return err_text(
			err, -EINVAL,
			"%s: type \"%.64s\" is not supported; it must be bind, volume or tmpfs",
			where, type);
	if (mount->type != MOUNT_VOLUME && json_get(obj, "labels"))
		return err_text(err, -EINVAL, "%s: labels are for mounts of type volume", where);

	if (mount->type != MOUNT_TMPFS) {
		r = json_get_string(obj, "source", &mount->source, err);
		if (r < 0)
			return err_prefix(err, -EINVAL, "%s", where);
		r = mount->type == MOUNT_BIND ? spec_check_path(mount->source, where, err)
		                              : volume_source(obj, where, mount, err);
		if (r < 0)
			return r;
	}
	mount->propagation = MS_PRIVATE | MS_REC;
	r = spec_get_strings(obj, where, "options", &options, NULL, err);
	for (size_t i = 0; r == 0 && options && options[i]; i++)
		r = mount_option(options[i], where, mount, err);
	return r;
}

static size_t path_components(const char *path)
{
	size_t n = 0;

	for (; *path; path++)
		if (path[0] == '/' && path[1] != '/' && path[1] != '\0')
			n++;
	return n;
}

/* A mount must come after the one it lies in; otherwise the order given stays. */
static void sort_mounts(struct mount_spec *mounts, size_t n)
{
	for (size_t i = 1; i < n; i++) {
		struct mount_spec moving = mounts[i];
		size_t k = i;

		for (; k > 0 &&
		       path_components(mounts[k - 1].target) > path_components(moving.target);
		     k--)
			mounts[k] = mounts[k - 1];
		mounts[k] = moving;
	}
}

int spec_parse_mounts(struct json_object *array, struct container_spec *spec, struct err *err)
{
	size_t n = json_object_array_length(array);
	int r;

	if (n > MOUNTS_MAX)
		return err_text(err, -EINVAL, "%zu mounts; at most %d are taken", n, MOUNTS_MAX);
	spec->mounts = calloc(n + 1, sizeof(*spec->mounts));
	if (!spec->mounts)
		return err_oom(err);
	for (size_t i = 0; i < n; i++) {
		spec->n_mounts = i + 1;
		r = mount_parse(json_object_array_get_idx(array, i), i, &spec->mounts[i], err);
		if (r < 0)
			return r;
	}
	sort_mounts(spec->mounts, n);
	return 0;
}
