/*
 * The shared locks that keep an image's layers on the disk while a container has them mounted.
 *
 * ecs-image removes a layer only when it gets flock(2) LOCK_EX on the layer's directory
 * (agent/image/store.h); the container holds LOCK_SH on each from before its overlay is mounted
 * until after that is gone. The kernel drops the locks with the supervisor, as it does the mount.
 *
 * One descriptor per layer and container: 64 containers of 127 layers hold 8128, which the limit of
 * open files of a service (524288 with systemd) has room for.
 */
#pragma once

#include <stddef.h>

#include "lib/err.h"

struct layer_locks {
	int *fds; /* owned, close-on-exec */
	size_t n;
};

/*
 * Lock <layers_dir>/<layer> for each; never waits. ret is empty or holds locks of before, which
 * stay if this fails and are dropped if it does not.
 *
 * -ENOENT names the layer that is gone or being removed; -ENOTDIR what is no directory; -EMFILE,
 * -ENOMEM; nothing is locked by a call that failed.
 */
int layer_locks_take(const char *layers_dir, const char *const *layers, size_t n,
                     struct layer_locks *ret, struct err *err);

/* Drop all; an empty one is no error. */
void layer_locks_drop(struct layer_locks *locks);
