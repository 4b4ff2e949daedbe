/*
 * The socket of ecs-launcher and the life of one connection: accepted and its peer checked, one
 * line read within a deadline, the program started, and closed here as soon as that one runs (it
 * has its own copy) or was refused in words.
 */
#pragma once

#include <sys/types.h>

#include "cgroups/cgroup.h"
#include "lib/err.h"
#include "lib/options.h"

struct server_config {
	const struct options *options;   /* passed on to the programs */
	const char *cgroup_parent;       /* the same */
	const char *program_dir;         /* where the programs are */
	struct cgroup_root *cgroup_root; /* borrowed */
	char **env;                      /* of the programs; borrowed */
	uid_t agent_uid;                 /* who may ask, beside root */
	gid_t agent_gid;
};

struct server;

/* Listen at <run>/launcher.sock. -EADDRINUSE when another ecs-launcher does. */
int server_new(const struct server_config *config, struct server **ret, struct err *err);
struct server *server_free(struct server *server);
DEFINE_CLEANUP(struct server *, server_free)

/* Serve until SIGTERM or SIGINT (0) or an error of the loop itself. What was started goes on. */
int server_run(struct server *server, struct err *err);
