/*
 * Volumes: directories of the host that we make, and that containers mount.
 *
 *   <state>/tasks/<task id>/.volumes/<name>     of the task, shared by its containers
 *   <state>/tasks/<task id>/.anonymous/<name>   what an image declares by VOLUME
 *   <state>/volumes/<name>                      shared by tasks; nobody removes it
 *   <run>/volumes/<name>                        mounted by ecs-volume, in this namespace
 * (mounted.h)
 *
 * A new volume gets what the image has at the place where it is mounted first, as Docker does it
 * (volume_fill.h).
 * Everything here runs in the child before execve(2) and allocates nothing.
 */
#pragma once

#include <stdbool.h>

#define VOLUME_NAME_MAX 255

/* Extended attributes of a shared volume: JSON objects. One with a driver is no directory to be
 * mounted, but says with what ecs-volume mounts it. */
#define VOLUME_XATTR_LABELS "trusted.ecs.labels"
#define VOLUME_XATTR_DRIVER "trusted.ecs.driver"

enum volume_scope {
	VOLUME_TASK,
	VOLUME_ANONYMOUS,
	VOLUME_SHARED,
	VOLUME_MOUNTED,
};

/* Borrowed paths. */
struct volume_dirs {
	const char *task;    /* <state>/tasks/<task id> */
	const char *shared;  /* <state>/volumes */
	const char *mounted; /* <run>/volumes */
};

struct volume {
	enum volume_scope scope;
	const char *name; /* one path component */
	const char
		*labels; /* JSON object, kept as extended attribute trusted.ecs.labels; or NULL */
	bool existing;   /* one that is missing is an error and not made */
};

/* "task/NAME", "anonymous/NAME", "shared/NAME" or "mounted/NAME", NAME of letters, digits, '_', '.'
 * and '-' and not beginning with '.': 0 with scope and name (borrowed from text), or -EINVAL. */
int volume_parse(const char *text, struct volume *ret);

/*
 * The directory of a volume, made if it is missing. Returns a descriptor that can be read, or
 * -ENOENT for an existing one that is not there, -EMEDIUMTYPE for a shared one that has a driver,
 * or -errno. One that is mounted must be there, may wait for its server, and is opened O_PATH.
 */
int volume_open(const struct volume *volume, const struct volume_dirs *dirs);

/* The directory in which volumes of that scope are: a descriptor, or -errno. */
int volume_open_scope(enum volume_scope scope, const struct volume_dirs *dirs);

/*
 * What the image itself has at path in the root file system root_fd, through no other mount.
 * Returns a descriptor, -ENOENT or -ENOTDIR if there is no directory, -EXDEV if another mount is in
 * the way, or -errno.
 */
int volume_open_image(int root_fd, const char *path);

/*
 * Copy what is in a directory into another, with owners, modes, times and extended attributes,
 * those of the directory itself last; sockets are left out, hard links become files of their own.
 * -EEXIST: one of them is there; -ELOOP: more than 128 directories deep; -ENOSPC and other errors
 * of writing leave a part.
 */
int volume_copy(int from_fd, int to_fd);

/* Those of the directory itself alone. */
int volume_copy_attributes(int from_fd, int to_fd);
