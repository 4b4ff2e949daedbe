/*
 * Volumes: directories of the host that we make, and that containers mount.
 *
 *   <state>/tasks/<task id>/.volumes/<name>     of the task, shared by its containers
 *   <state>/tasks/<task id>/.anonymous/<name>   what an image declares by VOLUME
 *   <state>/volumes/<name>                      shared by tasks; nobody removes it
 *
 * A new volume gets what the image has at the place where it is mounted first, as Docker does it.
 * Everything here runs in the child before execve(2) and allocates nothing.
 */
#pragma once

#include <stdbool.h>

#define VOLUME_NAME_MAX 255

enum volume_scope {
	VOLUME_TASK,
	VOLUME_ANONYMOUS,
	VOLUME_SHARED,
};

struct volume {
	enum volume_scope scope;
	const char *name; /* one path component */
	const char
		*labels; /* JSON object, kept as extended attribute trusted.ecs.labels; or NULL */
	bool existing;   /* one that is missing is an error and not made */
};

/* "task/NAME", "anonymous/NAME" or "shared/NAME", NAME of letters, digits, '_', '.' and '-' and not
 * beginning with '.': 0 with scope and name (borrowed from text), or -EINVAL. */
int volume_parse(const char *text, struct volume *ret);

/*
 * The directory of a volume, made if it is missing. task_dir: <state>/tasks/<task id>; volumes_dir:
 * <state>/volumes. Returns a descriptor that can be read, or -ENOENT for an existing one that is
 * not there, or -errno.
 */
int volume_open(const struct volume *volume, const char *task_dir, const char *volumes_dir);

/*
 * Fill an empty volume with what is at path in the root file system root_fd, with owners, modes,
 * times and extended attributes; sockets are left out, hard links become files of their own.
 * Nothing there, a path through another mount, and a volume that has something are no error.
 * Containers that start at the same time wait for each other here. -ENOSPC and other errors of
 * writing; -ELOOP: more than 128 directories deep.
 */
int volume_fill(int volume_fd, int root_fd, const char *path);
