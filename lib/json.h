/*
 * JSON from outside, strictly (RFC 8259), behind json-c objects. On top of json-c's strict mode
 * this refuses duplicate members, NaN and infinities, single quotes, comments, NUL in member names,
 * malformed UTF-8, integers beyond 64 bits, trailing bytes, and what is deeper or larger than
 * allowed.
 *
 * Member names: json_get() takes the exact name first, else the same name in other case, since
 * ACS and Docker documents are matched that way by the agent that users know.
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/cleanup.h"
#include "lib/err.h"

#define JSON_DEPTH_MAX 64

static inline void json_put(struct json_object *obj)
{
	json_object_put(obj);
}
DEFINE_CLEANUP(struct json_object *, json_put)
#define _cleanup_json_ _cleanup_(json_putp)

/*
 * Parse exactly one value of len bytes. *ret is owned by the caller (json_object_put()).
 * Returns 0, -EFBIG (len > max), -EINVAL (err says what and at which byte), -ENOMEM.
 */
int json_parse(const char *text, size_t len, size_t max, struct json_object **ret, struct err *err);

/* The same for a text that must be an object. */
int json_parse_object(const char *text, size_t len, size_t max, struct json_object **ret,
                      struct err *err);

/* Borrowed; NULL when obj is NULL or no object, or the member is absent or null. */
struct json_object *json_get(struct json_object *obj, const char *name);

/*
 * Typed members. All return 0, -ENOENT (absent or null; err says "missing member ..."), -EINVAL
 * (another type) or -ERANGE; *ret is untouched on failure. Strings are borrowed; one that holds a
 * NUL byte is -EINVAL.
 */
int json_get_string(struct json_object *obj, const char *name, const char **ret, struct err *err);
int json_get_bool(struct json_object *obj, const char *name, bool *ret, struct err *err);
int json_get_i64(struct json_object *obj, const char *name, int64_t min, int64_t max, int64_t *ret,
                 struct err *err);
int json_get_u64(struct json_object *obj, const char *name, uint64_t max, uint64_t *ret,
                 struct err *err);
int json_get_double(struct json_object *obj, const char *name, double *ret, struct err *err);
int json_get_array(struct json_object *obj, const char *name, struct json_object **ret,
                   struct err *err);
int json_get_object(struct json_object *obj, const char *name, struct json_object **ret,
                    struct err *err);

/* For optional members: 0 also when absent (leaving *ret as it is). */
#define json_optional(call)                                                                        \
	({                                                                                         \
		int _r = (call);                                                                   \
		_r == -ENOENT ? 0 : _r;                                                            \
	})

/* The text of a member, or NULL: for values that need no message, such as "type". */
const char *json_text(struct json_object *obj, const char *name);

/* Build objects: each adds one member and returns 0 or -ENOMEM. json_add() takes value, also on
 * failure; a NULL value is -ENOMEM, so that constructors can be written inline. */
int json_add(struct json_object *obj, const char *name, struct json_object *value);
int json_add_string(struct json_object *obj, const char *name, const char *value);
int json_add_i64(struct json_object *obj, const char *name, int64_t value);
int json_add_u64(struct json_object *obj, const char *name, uint64_t value);
int json_add_bool(struct json_object *obj, const char *name, bool value);

/* Append to an array; takes value, also on failure. */
int json_append(struct json_object *array, struct json_object *value);

/* Bytes that may be anything (output of a program) as text for a JSON string: NUL and malformed
 * UTF-8 become U+FFFD. Owned by the caller; NULL when out of memory. */
char *json_printable(const char *bytes, size_t n);

/* Compact text, borrowed from obj until it changes; len may be NULL. '/' is not escaped. */
const char *json_to_text(struct json_object *obj, size_t *ret_len);
