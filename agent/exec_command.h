/* "ecs-agent exec": an operator's command in a container of this host. */
#pragma once

#include "lib/options.h"

/*
 * argv[0] is "exec". Runs to the end of the command and returns the exit code for the process: that
 * of the command (128 + n after a signal), 127 or 126 when it could not be run, 125 when it did not
 * come so far; words for that are on standard error then.
 */
int exec_command(int argc, char **argv, const struct options *options);
