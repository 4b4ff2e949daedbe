/*
 * The supervisor of one task: the control socket, the requests of protocol.h, and a poll(2) loop
 * over its containers. It ends with "end", or after SIGTERM once every container has stopped.
 */
#pragma once

#include "lib/err.h"
#include "lib/options.h"

struct supervisor_config {
	const struct options *options;
	const char *cgroup_parent;
	const char *task_id;
	int control_fd;     /* the first connection */
	int host_mounts_fd; /* taken; -EBADF: none */
	bool oci;           /* of the OCI command line: a "create" may have "oci" */
	bool host_pid;      /* not in a process namespace of its own */
};

/* Returns 0 when the task has ended, or -errno when it could not be supervised. */
int supervisor_run(const struct supervisor_config *config, struct err *err);
