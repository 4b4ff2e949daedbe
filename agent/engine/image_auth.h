/* Which credentials a pull gets: what the task says, else the node's own registry settings. */
#pragma once

#include <json-c/json.h>

#include "agent/config/registry_auth.h"
#include "agent/engine/task.h"
#include "lib/err.h"

/*
 * *ret: the "auth" object of agent/image/protocol.h, owned by the caller, to be wiped with
 * json_wipe(); NULL for an anonymous pull. ecr_endpoint: of the node's settings, where the task
 * gives none; may be NULL. -EOPNOTSUPP with err->name for a kind of credentials that is not
 * carried out, -EINVAL when the task names the execution role and has none, -ENOMEM.
 */
int image_auth(const struct task *task, const struct container *container,
               const struct registry_auth *node, const char *ecr_endpoint, const char *region,
               struct json_object **ret, struct err *err);

/* The id of the execution role's credentials if the pull of this container needs them; borrowed,
 * or NULL. */
const char *image_auth_credentials_id(const struct task *task, const struct container *container);

/* The registry of an image reference ("docker.io" for Docker Hub, by whatever name, and where it
 * names none), in buf. Returns what follows it in the reference. */
const char *image_registry(const char *reference, char *buf, size_t n);
