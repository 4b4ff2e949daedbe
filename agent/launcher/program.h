/*
 * Programs of ours as sealed copies in memory. Started from such a copy, a program cannot be
 * overwritten through /proc/<pid>/exe by a container it has set up (CVE-2019-5736).
 *
 * A copy is made at first use and made anew when the file has changed, so that an upgrade counts
 * for what is started after it.
 */
#pragma once

#include <sys/stat.h>

#include "lib/err.h"

struct program {
	const char *name;   /* file name in the directory of our programs; borrowed */
	int fd;             /* the sealed copy, or -EBADF */
	struct stat copied; /* the file it was made of */
};

/* Make sure that program->fd is a copy of the file as it is now. -EPERM (err says it) when users
 * other than root could have written the file. */
int program_refresh(struct program *program, const char *dir, struct err *err);
