/*
 * The socket of ecs-launcher and the life of one connection: accepted and its peer checked, one
 * line read within a deadline, the program started, and closed here as soon as that one runs (it
 * has its own copy) or was refused in words.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "agent/launcher/parent.h"
#include "lib/err.h"
#include "lib/options.h"

struct server_config {
	const struct options *options; /* passed on to the programs */
	struct parent *parent;         /* where tasks live; borrowed */
	const char *program_dir;       /* where the programs are */
	char **env;                    /* of the programs; borrowed */
	uint64_t alive_msec;           /* tell the service manager so often; 0: never */
	uid_t agent_uid;               /* who may ask, beside root */
	gid_t agent_gid;
};

struct server;

/* Listen at <run>/launcher.sock. -EADDRINUSE when another ecs-launcher does. */
int server_new(const struct server_config *config, struct server **ret, struct err *err);
struct server *server_free(struct server *server);
DEFINE_CLEANUP(struct server *, server_free)

/* Serve until SIGTERM or SIGINT (0) or an error of the loop itself. What was started goes on. */
int server_run(struct server *server, struct err *err);
