/*
 * What ecs-volume gives up, in two steps: first what no mount needs, then what only mount.efs and
 * the programs that it starts need.
 */
#pragma once

#include "lib/err.h"

/* Before anything of a request is read. What is executed from here on has no more either. */
int privileges_drop(struct err *err);

/* After that, and for good: nothing can be executed any more. */
int privileges_drop_helpers(struct err *err);
