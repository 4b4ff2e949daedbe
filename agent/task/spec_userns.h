/*
 * What a container says about its user namespace, and its numbers as the host counts.
 *
 *   "userns":"host"                          not remapped (userns.h), where that is allowed
 *   "oci":{"uidMappings":[...],
 *          "gidMappings":[...]}              OCI runtime-spec, config-linux.md: the maps themselves
 */
#pragma once

#include <json-c/json.h>

#include "agent/task/spec.h"
#include "agent/task/userns.h"
#include "lib/err.h"

/* spec->userns_host and ->id_maps; oci may be NULL. -EINVAL names the member. */
int spec_parse_userns(struct json_object *container, struct json_object *oci,
                      struct container_spec *spec, struct err *err);

/*
 * Put ids of the host where spec has the container's: the owners of devices and uid= and gid= of
 * tmpfs. Once. -EINVAL, with err: one that is not in the map.
 */
int spec_map_ids(struct container_spec *spec, const struct userns *userns, struct err *err);
