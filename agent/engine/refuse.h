/* Refusing by name: tables of members that this agent cannot honour. */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>

#include "lib/err.h"

/* Does the value ask for nothing: null, false, 0, "", [], {}. */
bool json_is_zero(struct json_object *value);

/* A member that must ask for nothing, and how users call it. */
struct refused {
	const char *member;
	const char *parameter; /* in the task definition, such as "secrets" */
};

/* -EOPNOTSUPP naming the first one that asks for something: "container app: secrets is not
 * supported by this agent". where: such as "container app". */
int refuse_members(struct json_object *obj, const struct refused *table, size_t n,
                   const char *where, struct err *err);

/* -EOPNOTSUPP for a member of obj that asks for something and is not in known (matched without
 * regard to case). */
int refuse_unknown_members(struct json_object *obj, const char *const *known, size_t n,
                           const char *where, struct err *err);

/* -EINVAL naming a member that is there and of another type; for those that nothing reads. */
struct typed {
	const char *member;
	enum json_type type;
};
int refuse_other_types(struct json_object *obj, const struct typed *table, size_t n,
                       struct err *err);

/* -EINVAL for two members whose names differ only in case: one would be honoured, one not. */
int refuse_ambiguous_members(struct json_object *obj, struct err *err);
