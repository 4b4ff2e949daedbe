/*
 * Members that requests of ecs-network have in common (netns/protocol.h), checked.
 * All return 0 or -EINVAL with the words for an error message; results are set on success only.
 */
#pragma once

#include "lib/err.h"
#include "netns/bridge.h"
#include "netns/host_port.h"

#include <json-c/json.h>
#include <stddef.h>
#include <stdint.h>

/* A member that is missing is as wrong as one that is malformed: -ENOENT becomes -EINVAL. */
int member_required(int r);

/* A member that we do not know asks for something we would not do. names ends with NULL. */
int members_check(struct json_object *object, const char *const *names, struct err *err);

/* "id": CONTAINER_ID_LENGTH lower-case hex digits; borrowed from body. */
int container_id_get(struct json_object *body, const char **ret, struct err *err);

/* "address": one that the bridge can give; in host order. */
int container_address_get(const struct bridge *bridge, struct json_object *body, uint32_t *ret,
                          struct err *err);

/* The array of that name. mappings: IPC_FDS_MAX entries. lowest_host_port: 0 where a port may be
 * found, else 1. */
int port_mappings_get(struct json_object *body, const char *name, int64_t lowest_host_port,
                      struct port_mapping *mappings, size_t *ret_n, struct err *err);

/* "portRange" and "portCursor". */
int port_range_get(struct json_object *body, struct port_range *ret, struct err *err);
