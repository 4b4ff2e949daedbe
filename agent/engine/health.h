/*
 * Health checks of containers: what dockerConfig.config.Healthcheck asks for, and what ecs-task has
 * found out. HEALTHCHECK of an image is not carried out: ECS monitors only what the task definition
 * says (Amazon ECS Developer Guide, "Determine Amazon ECS task health using container health
 * checks"). But times and retries that the definition leaves out are the image's, as with Docker.
 */
#pragma once

#include <json-c/json.h>

#include "agent/engine/task.h"
#include "lib/err.h"

/* Check config.Healthcheck of the container and set has_health_check. healthCheckType "docker"
 * needs one. -EINVAL names what is wrong. */
int health_parse(struct container *container, struct err *err);

/* Times and retries without a command are Docker's way to change those of the image's HEALTHCHECK:
 * -EOPNOTSUPP. */
int health_check_own(const struct container *container, struct err *err);

/* Add "healthCheck" of agent/task/protocol.h to obj, where the container has one. */
int health_add_check(const struct container *container, struct json_object *obj);

/* Take over a "health" event of ecs-task, or that part of its state: 1 if something is new, 0, or
 * -EINVAL or -ENOMEM with everything as it was. */
int health_update(struct container *container, struct json_object *event);

/* Add "Health" to a document of the metadata endpoint. */
int health_add_document(const struct container *container, struct json_object *obj);
