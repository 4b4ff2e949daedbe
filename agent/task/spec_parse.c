/*
 * Refusing what a specification must not have. Each object has a list of the members it may have:
 * what is not in it is refused, since a setting that is taken and not applied is worse than none.
 */
#include "agent/task/spec_parse.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/json.h"

#define STRINGS_MAX 65536 /* of one list, such as env */

int spec_only_members(struct json_object *obj, const char *where, const char *const *known,
                      struct err *err)
{
	json_object_object_foreach (obj, key, value) {
		size_t i = 0;

		(void)value;
		while (known[i] && strcmp(known[i], key) != 0)
			i++;
		if (!known[i])
			return err_text(err, -EINVAL, "%s%s%.100s is not supported", where,
			                *where ? "." : "", key);
	}
	return 0;
}

int spec_get_strings(struct json_object *obj, const char *where, const char *name,
                     const char ***ret, size_t *ret_n, struct err *err)
{
	_cleanup_free_ const char **list = NULL;
	struct json_object *array;
	size_t n;
	int r;

	r = json_get_array(obj, name, &array, err);
	if (r < 0)
		return r == -ENOENT ? 0 : err_prefix(err, r, "%s", where);
	n = json_object_array_length(array);
	if (n > STRINGS_MAX)
		return err_text(err, -EINVAL, "%s.%s has %zu entries; at most %d are taken", where,
		                name, n, STRINGS_MAX);

	list = calloc(n + 1, sizeof(*list));
	if (!list)
		return err_oom(err);
	for (size_t i = 0; i < n; i++) {
		struct json_object *item = json_object_array_get_idx(array, i);

		if (!json_object_is_type(item, json_type_string))
			return err_text(err, -EINVAL, "%s.%s[%zu] must be a string", where, name,
			                i);
		list[i] = json_object_get_string(item);
		if (strlen(list[i]) != (size_t)json_object_get_string_len(item))
			return err_text(err, -EINVAL, "%s.%s[%zu] contains a NUL byte", where, name,
			                i);
	}
	free(*ret);
	*ret = TAKE_PTR(list);
	if (ret_n)
		*ret_n = n;
	return 0;
}

int spec_check_path(const char *path, const char *where, struct err *err)
{
	if (path[0] != '/')
		return err_text(err, -EINVAL, "%s is \"%.200s\"; it must be an absolute path",
		                where, path);
	for (const char *p = path; (p = strstr(p, "/..")); p += 3)
		if (p[3] == '/' || p[3] == '\0')
			return err_text(err, -EINVAL,
			                "%s is \"%.200s\"; it must not contain \"..\"", where,
			                path);
	if (strlen(path) > 4000)
		return err_text(err, -EINVAL, "%s is longer than 4000 bytes", where);
	return 0;
}
