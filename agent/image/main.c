/*
 * ecs-image: pulls container images and keeps the store they are in. Started by ecs-launcher with
 * --serve for each pull, or by hand with a command.
 */
#include "agent/image/command.h"
#include "agent/image/halves.h"
#include "agent/launcher/protocol.h"
#include "lib/cleanup.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "lib/options.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SYNOPSIS                                                                                   \
	"ecs-image [OPTIONS] COMMAND\n\n"                                                          \
	"Commands:\n"                                                                              \
	"  pull REF                 fetch an image into the store; prints its digest\n"            \
	"  ls                       list the images of the store\n"                                \
	"  inspect REF              show digest, layers and configuration of an image\n"           \
	"  rm REF                   remove an image and the layers that no other image has\n\n"    \
	"Options:"

int main(int argc, char **argv)
{
	struct command_options command = {};
	struct options options;
	bool serve = false;
	const struct option_spec specs[] = {
		{"serve", NULL, "serve the client on descriptor 3 (for ecs-launcher)", &serve,
	         NULL},
		{"username", "NAME", "of pull, with the password on standard input", NULL,
	         &command.username},
	};
	struct err err = {};
	int first, r;

	log_init("ecs-image");
	r = options_parse(argc, argv, SYNOPSIS, specs, ARRAY_SIZE(specs), &options, &first, &err);
	if (r > 0)
		return EXIT_SUCCESS;
	command.options = &options;
	if (r == 0 && serve && first < argc)
		r = err_text(&err, -EINVAL, "--serve takes no command");
	else if (r == 0 && serve && command.username)
		r = err_text(&err, -EINVAL, "--username is for pull only");
	else if (r == 0 && !serve && first >= argc)
		r = err_text(&err, -EINVAL, "a command is missing (see --help)");
	else if (r == 0 && serve)
		r = fd_set_cloexec(LAUNCHER_CONTROL_FD, true) < 0
		            ? err_text(&err, -EBADF, "--serve needs a connection as descriptor %d",
		                       LAUNCHER_CONTROL_FD)
		            : halves_run(&options, LAUNCHER_CONTROL_FD, &err);
	else if (r == 0)
		r = command_run(&command, argc - first, argv + first, &err);
	if (r == 0)
		return EXIT_SUCCESS;

	if (err.name)
		fprintf(stderr, "ecs-image: %s: %s\n", err.name, err.text);
	else
		fprintf(stderr, "ecs-image: %s\n", err.text);
	return EXIT_FAILURE;
}
