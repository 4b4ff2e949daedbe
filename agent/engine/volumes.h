/*
 * The volumes of a task: what a task definition says of them, and which of them a container mounts,
 * by its mount points, by volumesFrom and by VOLUME of its image.
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>

#include "agent/engine/task.h"
#include "lib/err.h"

enum volume_kind {
	VOLUME_KIND_HOST,      /* a path of the host: host.sourcePath */
	VOLUME_KIND_TASK,      /* ends with the task: host without sourcePath, scope task */
	VOLUME_KIND_SHARED,    /* outlives it: scope shared */
	VOLUME_KIND_ANONYMOUS, /* VOLUME of an image; ends with the task */
	VOLUME_KIND_MOUNTED,   /* EFS, or with driverOpts (volume_drivers.h) */
};

/* Strings and labels are borrowed from the task, but for anonymous[]. */
struct volume_mount {
	enum volume_kind kind;
	const char *source; /* host path, or name; NULL for VOLUME_KIND_ANONYMOUS */
	char anonymous[72]; /* its name */
	const char *destination;
	struct json_object *labels; /* NULL if none */
	bool readonly;
	bool existing; /* autoprovision is false: must be there */
	bool nocopy;   /* of volumesFrom: filled by whom it is from */
};

struct volume_mounts {
	struct volume_mount *items; /* owned */
	size_t n;
};

/* Check "volumes" of a task's document: -EINVAL or -EOPNOTSUPP, err names the volume and what is
 * wrong with it. */
int volumes_check(struct json_object *document, struct err *err);

/* Check the mountPoints and volumesFrom of a container against its task. */
int volumes_check_container(struct json_object *document, const struct task *task,
                            const struct container *container, struct err *err);

/* What the container mounts, one for each destination and none where it has a tmpfs; image_config
 * must be known, also that of containers in volumesFrom. Free ret->items. -ENOMEM, -EINVAL (an
 * image with a bad VOLUME). */
int volumes_of(const struct task *task, const struct container *container,
               struct volume_mounts *ret, struct err *err);

/* The element of "volumes" of this name; borrowed, NULL if there is none. */
struct json_object *volumes_find(struct json_object *document, const char *name);

/* Is the volume a mount point of any container. */
bool volumes_is_used(const struct task *task, const char *name);

/* Add those mounts to an array of OCI mounts (agent/task/protocol.h has the type "volume"). */
int volumes_add_mounts(const struct task *task, const struct container *container,
                       struct json_object *mounts, struct err *err);
