/*
 * The host's mounts, as bind mounts bring them into containers.
 *
 * Docker binds host paths "rprivate" unless it is told otherwise, and ECS has no word for anything
 * else. So a container sees what the host has mounted at and below the source when the container is
 * started, a restart included; what either side mounts or unmounts later the other does not see.
 * ("slave" and "rslave", which an OCI bundle may ask for, follow the host where its mounts are
 * shared.)
 *
 * The supervisor's mount namespace was copied when the task began. Where the host's mounts are
 * shared, as systemd makes them, the copy follows the host. Where "/" is private it does not: what
 * was mounted since the task began would be missing in containers that start later, and what was
 * unmounted would live on in the copy and keep its device busy for as long as the task runs.
 * Therefore sources are found in the mount namespace of ecs-launcher, of which it hands us a
 * descriptor (LAUNCHER_MOUNTS_FD), and the copy is rid of the mounts that do not follow the host,
 * but for those that the supervisor itself needs. Without the descriptor, from an older launcher or
 * on the OCI command line, both stay as they were copied.
 *
 * Source: Docker documentation, "Bind mounts", bind propagation; Linux
 * Documentation/filesystems/sharedsubtree.rst.
 */
#pragma once

#include <stddef.h>

#include "lib/err.h"

/* Is fd a mount namespace? Then it is returned, close-on-exec, else -EBADF. */
int host_mounts_take(int fd);

/*
 * Unmount, in this mount namespace only, what does not follow the host: all but the mounts that the
 * n absolute paths, and those of the system that the supervisor reads and writes (/proc, /sys,
 * /dev, /run, /etc, /usr, /var/lib, /var/log), are on or have below them. Every mount must be a
 * slave or private.
 */
int host_mounts_prune(const char *const *needed, size_t n, struct err *err);

/*
 * Look for host paths from here on (the root and the working directory are the host's) and come
 * back. For the child of a start; allocate nothing. *ret: for the way back, owned; -EBADF where
 * host_fd is none and nothing is changed. -errno of setns(2); the process must end then.
 */
int host_mounts_enter(int host_fd, int *ret);
int host_mounts_leave(int own_fd);
