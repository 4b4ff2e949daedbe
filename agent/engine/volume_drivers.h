/*
 * Volumes that are mounted before their task starts: EFS, and Docker volumes with driverOpts. What
 * a task definition says of them, and what ecs-volume is asked for (agent/volume/protocol.h).
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>

#include "agent/engine/task.h"
#include "lib/err.h"

/* Check efsVolumeConfiguration, or driverOpts of dockerVolumeConfiguration: -EINVAL or -EOPNOTSUPP,
 * err names the member and what would be right. */
int volume_check_efs(struct json_object *volume, struct err *err);
int volume_check_driver_opts(struct json_object *docker, struct err *err);

/* An element of "volumes" that was checked. */
bool volume_is_efs(struct json_object *volume);
bool volume_is_mounted(struct json_object *volume);
bool volume_needs_task_role(struct json_object *volume);
/* Whatever is there belongs to whom the access point says, so that no file could be copied to it
 * with the owner it has in the image. */
bool volume_is_filled_elsewhere(struct json_object *volume);

/*
 * The members of "mount" for this volume, owned by the caller. domain: of AWS in the region, such
 * as "amazonaws.com". -EINVAL: IAM, and the task has no role; -ENOMEM.
 */
int volume_mount_request(const struct task *task, struct json_object *volume, const char *region,
                         const char *domain, struct json_object **ret, struct err *err);
