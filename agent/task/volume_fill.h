/*
 * The first filling of a volume, which may end half way: a full disk, a start that takes too long
 * and is killed, a power cut. What is copied is therefore no part of the volume until all of it is
 * there:
 *
 *   <volumes>/.fill/<name>        one process at a time works on volume <name>: it has a lock on
 * this <volumes>/.fill/<name>/new    copied so far; the next start begins again
 *   <volumes>/.fill/<name>/done   all of it; it moves into the volume, the next start goes on
 *
 * with <volumes> the directory in which the volume is. No container sees any of it, so none can
 * hold the lock and keep others from starting, and nothing that a container wrote to the volume is
 * ever removed or replaced.
 *
 * Two kinds cannot be filled by moving: volumes of ecs-volume, and one on which the host has
 * mounted something. They are copied to in place, where a part is all that an interrupted copy
 * leaves, and which then counts as filled. The lock of the former is that of their file system and
 * inode, below <state>/volumes: containers of several tasks may mount the same.
 *
 * Everything here runs in the child before execve(2) and allocates nothing.
 */
#pragma once

#include <errno.h>
#include <stdbool.h>

#include "agent/task/volume.h"

struct volume_fill {
	int volume_fd; /* borrowed */
	int copy_fd;   /* where to copy to, an empty directory of the volume's label; -EBADF: to the
	                * volume itself */
	int fills_fd;  /* <volumes>/.fill */
	int own_fd;    /* <volumes>/.fill/<name>, locked */
	bool durable;  /* the volume outlives this boot */
	char key[VOLUME_NAME_MAX + 1];
};

#define VOLUME_FILL_EMPTY                                                                          \
	(struct volume_fill)                                                                       \
	{                                                                                          \
		.volume_fd = -EBADF, .copy_fd = -EBADF, .fills_fd = -EBADF, .own_fd = -EBADF,      \
	}

/*
 * Make the volume ready to be mounted: wait for another process that fills it, and finish what one
 * has left. 1: it is empty and image_fd is to be copied (volume_copy()), then call
 * volume_fill_commit(). 0: there is nothing to do. Or -errno.
 *
 * volume_fd: the volume's directory, readable, by way of the mount that holds the volumes;
 * borrowed. image_fd:  what the image has there, or negative for nothing. ret: VOLUME_FILL_EMPTY,
 * and for volume_fill_done() whatever is returned.
 */
int volume_fill_begin(const struct volume *volume, const struct volume_dirs *dirs, int volume_fd,
                      int image_fd, struct volume_fill *ret);

/* All is copied. Returns 0 when it is in the volume, or -errno: a later start goes on. */
int volume_fill_commit(struct volume_fill *fill);

/* Let others go on. A copy without volume_fill_commit() is removed. */
void volume_fill_done(struct volume_fill *fill);
