/* Strict parsing and typed access over json-c. The strictness itself is in json_check.c. */
#include "lib/json.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <strings.h>

#include "lib/json_check.h"

DEFINE_CLEANUP(struct json_tokener *, json_tokener_free)

int json_parse(const char *text, size_t len, size_t max, struct json_object **ret, struct err *err)
{
	_cleanup_(json_tokener_freep) struct json_tokener *tokener = NULL;
	struct json_object *obj;
	int r;

	if (len > max || len > INT_MAX)
		return err_text(err, -EFBIG, "JSON text of %zu bytes is over the limit of %zu", len,
		                max);
	r = json_check(text, len, JSON_DEPTH_MAX, err);
	if (r < 0)
		return r;

	tokener = json_tokener_new_ex(JSON_DEPTH_MAX + 1);
	if (!tokener)
		return err_oom(err);
	json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
	obj = json_tokener_parse_ex(tokener, text, (int)len);
	/* A number at the very end could go on, so json-c waits for what follows. */
	if (!obj && json_tokener_get_error(tokener) == json_tokener_continue)
		obj = json_tokener_parse_ex(tokener, "", 1);
	if (!obj && json_tokener_get_error(tokener) != json_tokener_success)
		return err_text(err, -EINVAL, "invalid JSON: %s",
		                json_tokener_error_desc(json_tokener_get_error(tokener)));
	*ret = obj;
	return 0;
}

int json_parse_object(const char *text, size_t len, size_t max, struct json_object **ret,
                      struct err *err)
{
	_cleanup_json_ struct json_object *obj = NULL;
	int r;

	r = json_parse(text, len, max, &obj, err);
	if (r < 0)
		return r;
	if (!json_object_is_type(obj, json_type_object))
		return err_text(err, -EINVAL, "invalid JSON: an object is needed, not %s",
		                json_type_to_name(json_object_get_type(obj)));
	*ret = TAKE_PTR(obj);
	return 0;
}

struct json_object *json_get(struct json_object *obj, const char *name)
{
	struct json_object *value;
	struct json_object_iterator it, end;

	if (!obj || !json_object_is_type(obj, json_type_object))
		return NULL;
	if (json_object_object_get_ex(obj, name, &value))
		return value;

	end = json_object_iter_end(obj);
	for (it = json_object_iter_begin(obj); !json_object_iter_equal(&it, &end);
	     json_object_iter_next(&it))
		if (strcasecmp(json_object_iter_peek_name(&it), name) == 0)
			return json_object_iter_peek_value(&it);
	return NULL;
}

static int get_typed(struct json_object *obj, const char *name, json_type type,
                     struct json_object **ret, struct err *err)
{
	struct json_object *value = json_get(obj, name);

	if (!value)
		return err_text(err, -ENOENT, "member \"%s\" is missing", name);
	if (!json_object_is_type(value, type))
		return err_text(err, -EINVAL, "member \"%s\" is of type %s, it must be %s", name,
		                json_type_to_name(json_object_get_type(value)),
		                json_type_to_name(type));
	*ret = value;
	return 0;
}

int json_get_string(struct json_object *obj, const char *name, const char **ret, struct err *err)
{
	struct json_object *value;
	int r;

	r = get_typed(obj, name, json_type_string, &value, err);
	if (r < 0)
		return r;
	if (strlen(json_object_get_string(value)) != (size_t)json_object_get_string_len(value))
		return err_text(err, -EINVAL, "member \"%s\" holds a NUL byte", name);
	*ret = json_object_get_string(value);
	return 0;
}

int json_get_bool(struct json_object *obj, const char *name, bool *ret, struct err *err)
{
	struct json_object *value;
	int r;

	r = get_typed(obj, name, json_type_boolean, &value, err);
	if (r == 0)
		*ret = json_object_get_boolean(value);
	return r;
}

int json_get_i64(struct json_object *obj, const char *name, int64_t min, int64_t max, int64_t *ret,
                 struct err *err)
{
	struct json_object *value;
	int64_t n;
	int r;

	r = get_typed(obj, name, json_type_int, &value, err);
	if (r < 0)
		return r;
	/* json-c gives INT64_MAX for what only fits unsigned. */
	n = json_object_get_int64(value);
	if (n < min || n > max || (n == INT64_MAX && json_object_get_uint64(value) > INT64_MAX))
		return err_text(err, -ERANGE, "member \"%s\" is %s, it must be %lld to %lld", name,
		                json_object_get_string(value), (long long)min, (long long)max);
	*ret = n;
	return 0;
}

int json_get_u64(struct json_object *obj, const char *name, uint64_t max, uint64_t *ret,
                 struct err *err)
{
	struct json_object *value;
	uint64_t n;
	int r;

	r = get_typed(obj, name, json_type_int, &value, err);
	if (r < 0)
		return r;
	n = json_object_get_uint64(value);
	if (n > max || (n == 0 && json_object_get_int64(value) < 0))
		return err_text(err, -ERANGE, "member \"%s\" is %s, it must be 0 to %llu", name,
		                json_object_get_string(value), (unsigned long long)max);
	*ret = n;
	return 0;
}

int json_get_double(struct json_object *obj, const char *name, double *ret, struct err *err)
{
	struct json_object *value = json_get(obj, name);

	if (!value)
		return err_text(err, -ENOENT, "member \"%s\" is missing", name);
	if (!json_object_is_type(value, json_type_double) &&
	    !json_object_is_type(value, json_type_int))
		return err_text(err, -EINVAL, "member \"%s\" is of type %s, it must be a number",
		                name, json_type_to_name(json_object_get_type(value)));
	*ret = json_object_get_double(value);
	return 0;
}

int json_get_array(struct json_object *obj, const char *name, struct json_object **ret,
                   struct err *err)
{
	return get_typed(obj, name, json_type_array, ret, err);
}

int json_get_object(struct json_object *obj, const char *name, struct json_object **ret,
                    struct err *err)
{
	return get_typed(obj, name, json_type_object, ret, err);
}

const char *json_text(struct json_object *obj, const char *name)
{
	const char *text = NULL;

	return json_get_string(obj, name, &text, NULL) == 0 ? text : NULL;
}

int json_add(struct json_object *obj, const char *name, struct json_object *value)
{
	if (!obj || !value || json_object_object_add(obj, name, value) < 0) {
		json_object_put(value);
		return -ENOMEM;
	}
	return 0;
}

int json_add_string(struct json_object *obj, const char *name, const char *value)
{
	return json_add(obj, name, json_object_new_string(value));
}

int json_add_i64(struct json_object *obj, const char *name, int64_t value)
{
	return json_add(obj, name, json_object_new_int64(value));
}

int json_add_u64(struct json_object *obj, const char *name, uint64_t value)
{
	return json_add(obj, name, json_object_new_uint64(value));
}

int json_add_bool(struct json_object *obj, const char *name, bool value)
{
	return json_add(obj, name, json_object_new_boolean(value));
}

int json_append(struct json_object *array, struct json_object *value)
{
	if (!array || !value || json_object_array_add(array, value) < 0) {
		json_object_put(value);
		return -ENOMEM;
	}
	return 0;
}

const char *json_to_text(struct json_object *obj, size_t *ret_len)
{
	return json_object_to_json_string_length(
		obj, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, ret_len);
}
