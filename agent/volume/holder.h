/*
 * Holding a mount for the supervisor of a task (protocol.h): until its lifeline is closed and it
 * has ended with all its processes, then flushing and unmounting.
 */
#pragma once

#include "agent/volume/place.h"

struct holder {
	struct place *place;
	const char *name; /* of the volume, for the log */
	int root_fd;      /* of the file system (O_PATH); closed at the end */
	int lifeline_fd;  /* our end */
};

void holder_run(struct holder *holder);
