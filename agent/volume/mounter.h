/*
 * Mounting: what blocks while a server does not answer, and so runs in a child process that can be
 * killed.
 */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "agent/task/policy.h"
#include "agent/volume/request.h"
#include "lib/err.h"

struct mounter {
	const struct volume_request *request;
	const struct policy *policy;
	const char *helper; /* path of mount.efs, which does it; NULL: mount(2) */
	const char *place;  /* where: a directory */
};

/* -EOPNOTSUPP names what of the EFS volume only mount.efs can do, if it is not there. */
int mounter_check(const struct mounter *mounter, struct err *err);

/* Does not return: exit code 0, or a text of why on standard error. */
_Noreturn void mounter_run(const struct mounter *mounter);
