/* What is not honoured is refused, with the words of the task definition. */
#include "agent/engine/refuse.h"

#include <errno.h>
#include <strings.h>

#include "lib/json.h"

bool json_is_zero(struct json_object *value)
{
	switch (json_object_get_type(value)) {
	case json_type_null:
		return true;
	case json_type_boolean:
		return !json_object_get_boolean(value);
	case json_type_int:
		return json_object_get_int64(value) == 0;
	case json_type_double:
		return json_object_get_double(value) == 0;
	case json_type_string:
		return json_object_get_string_len(value) == 0;
	case json_type_array:
		return json_object_array_length(value) == 0;
	case json_type_object:
		return json_object_object_length(value) == 0;
	}
	return false;
}

int refuse_members(struct json_object *obj, const struct refused *table, size_t n,
                   const char *where, struct err *err)
{
	for (size_t i = 0; i < n; i++)
		if (!json_is_zero(json_get(obj, table[i].member)))
			return err_text(err, -EOPNOTSUPP, "%s: %s is not supported by this agent",
			                where, table[i].parameter);
	return 0;
}

int refuse_unknown_members(struct json_object *obj, const char *const *known, size_t n,
                           const char *where, struct err *err)
{
	struct json_object_iterator it = json_object_iter_begin(obj),
				    end = json_object_iter_end(obj);

	for (; !json_object_iter_equal(&it, &end); json_object_iter_next(&it)) {
		const char *name = json_object_iter_peek_name(&it);
		bool found = false;

		for (size_t i = 0; i < n && !found; i++)
			found = strcasecmp(name, known[i]) == 0;
		if (!found && !json_is_zero(json_object_iter_peek_value(&it)))
			return err_text(err, -EOPNOTSUPP,
			                "%s: %.64s is not supported by this agent", where, name);
	}
	return 0;
}

int refuse_ambiguous_members(struct json_object *obj, struct err *err)
{
	struct json_object_iterator end = json_object_iter_end(obj);

	for (struct json_object_iterator one = json_object_iter_begin(obj);
	     !json_object_iter_equal(&one, &end); json_object_iter_next(&one)) {
		struct json_object_iterator other = one;

		for (json_object_iter_next(&other); !json_object_iter_equal(&other, &end);
		     json_object_iter_next(&other))
			if (strcasecmp(json_object_iter_peek_name(&one),
			               json_object_iter_peek_name(&other)) == 0)
				return err_text(err, -EINVAL,
				                "%.64s and %.64s are the same member; it must be "
				                "there once",
				                json_object_iter_peek_name(&one),
				                json_object_iter_peek_name(&other));
	}
	return 0;
}

int refuse_other_types(struct json_object *obj, const struct typed *table, size_t n,
                       struct err *err)
{
	for (size_t i = 0; i < n; i++) {
		struct json_object *value = json_get(obj, table[i].member);

		if (value && !json_object_is_type(value, table[i].type))
			return err_text(err, -EINVAL, "%s must be of type %s, it is of type %s",
			                table[i].member, json_type_to_name(table[i].type),
			                json_type_to_name(json_object_get_type(value)));
	}
	return 0;
}
