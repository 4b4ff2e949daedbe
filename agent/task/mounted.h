/*
 * Volumes that ecs-volume has mounted for this task (agent/volume/protocol.h). They are attached at
 * <run>/volumes/<name>, on a file system that is there in this mount namespace only, and go with
 * it; nothing of them is below a directory that anybody removes.
 *
 * No call here waits for a server.
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "agent/task/container.h"
#include "lib/err.h"

#define MOUNTED_VOLUMES_MAX 64
#define MOUNTED_STUCK_USEC  (15 * 1000000ull) /* after SIGKILL, before its requests are given up */

struct mounted_volume;

struct mounted_volumes {
	const char *dir; /* <run>/volumes; borrowed */
	struct mounted_volume *first;
	size_t n;
	bool has_place;
	uint64_t kill_usec, abort_usec; /* monotonic; 0: no container is being killed */
};

/* Drop what this namespace has of the host's mounts by mount.efs, which it would keep busy. */
int mounted_init(struct mounted_volumes *volumes, const char *run_dir, const char *dir,
                 struct err *err);
void mounted_done(struct mounted_volumes *volumes);

/*
 * Take the mount that lies in this lifeline (taken, also on failure), attach it, and say so.
 * -EACCES: the other end is not root's, so that it may be any mount; -EINVAL: a name that is none;
 * -E2BIG. A name that is there already is kept, and 0 returned.
 */
int mounted_take(struct mounted_volumes *volumes, const char *name, int lifeline_fd,
                 struct err *err);

/* Array of names; NULL: out of memory. */
struct json_object *mounted_names(const struct mounted_volumes *volumes);

/*
 * A container that got SIGKILL and does not end may wait for a server, uninterruptibly: have what
 * the task waits for fail, again and again until it has ended.
 */
void mounted_check_stuck(struct mounted_volumes *volumes, const struct container *containers,
                         uint64_t now_usec);
/* When that is to be looked at next, monotonic; 0: nothing is due. */
uint64_t mounted_deadline(const struct mounted_volumes *volumes,
                          const struct container *containers);
