/*
 * What the files that parse a specification (spec.h) share: the ways to refuse a member that is
 * unknown or wrong, and the parts of a container that have files of their own.
 */
#pragma once

#include <json-c/json.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/task/spec.h"
#include "lib/err.h"

#define MEMORY_BYTES_MAX ((uint64_t)INT64_MAX)

/* Refuse members of obj that are not in the NULL-terminated list. where: "linux.resources". */
int spec_only_members(struct json_object *obj, const char *where, const char *const *known,
                      struct err *err);
#define ONLY_MEMBERS(obj, where, err, ...)                                                         \
	spec_only_members(obj, where, (const char *const[]){__VA_ARGS__, NULL}, err)

/*
 * A list of strings as a NULL-terminated array, owned by the caller, of strings that stay obj's;
 * absent leaves *ret and *ret_n alone. ret_n may be NULL.
 */
int spec_get_strings(struct json_object *obj, const char *where, const char *name,
                     const char ***ret, size_t *ret_n, struct err *err);

/* An absolute path without "..", which is about the container's own tree. */
int spec_check_path(const char *path, const char *where, struct err *err);

/* "seccomp" of a container; privileged must be known. */
int spec_parse_seccomp(struct json_object *container, struct container_spec *spec, struct err *err);
/* The labels in "process" and "linux" (NULL for none). */
int spec_parse_labels(struct json_object *process, struct json_object *linux_,
                      struct container_spec *spec, struct err *err);

/* "hostDevices" of a container, and "process", "mounts" and "linux" of its "config", into spec; the
 * rest stays untouched. */
int spec_parse_process(struct json_object *process, struct container_spec *spec, struct err *err);
int spec_parse_host_devices(struct json_object *container, struct container_spec *spec,
                            struct err *err);
int spec_parse_mounts(struct json_object *array, struct container_spec *spec, struct err *err);
int spec_parse_linux(struct json_object *linux_, enum network_mode mode,
                     struct container_spec *spec, struct err *err);
