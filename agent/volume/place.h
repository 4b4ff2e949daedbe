/*
 * Where a file system is mounted while it is held: in a mount namespace of this process, which ends
 * with it; or, for mount.efs, below <run>/mounts of the host (protocol.h).
 */
#pragma once

#include <limits.h>
#include <stdbool.h>

#include "agent/volume/request.h"
#include "lib/err.h"

struct place {
	bool on_host;
	char path[PATH_MAX]; /* of the mount */
	char base[PATH_MAX]; /* <run>/mounts */
	char run_dir[PATH_MAX];
	int task_fd; /* on_host: <run>/mounts/<task id>, locked while we are there; else -EBADF */
};

/* Make the directory; *ret is for place_done() also on failure. */
int place_make(const char *run_dir, const struct volume_request *request, bool on_host,
               struct place *ret, struct err *err);

/* Is something mounted there. */
bool place_is_mounted(const struct place *place);

/* Leave the file systems of the host, so that none is kept busy by us: from here on there is only
 * the mount. Nothing on_host. */
void place_leave_host(struct place *place);

/* Fail what waits for the server. The mount stays as long as a descriptor of it is open. */
void place_abort(const struct place *place);

/* Unmount, and remove what was made. */
void place_done(struct place *place);
