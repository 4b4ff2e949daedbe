/*
 * No more files and no outgoing connections, for a process that has all it needs open
 * (landlock(7)). What is open stays usable, sockets with a path can still be reached.
 */
#pragma once

#include "lib/err.h"

/* Call with no_new_privs set. list_fd: a directory at and below which directories can still be
 * listed, -EBADF: none. 0 also where the kernel has no Landlock (before Linux 5.13, or
 * switched off), which is said at debug level: then the file system's own permissions are what is
 * left. */
int landlock_close_files(int list_fd, struct err *err);
