/*
 * Folders that have one directory per version of something, of which the newest complete one is
 * used: what is half unpacked or half removed beside it is passed over.
 */
#pragma once

#include <stddef.h>

#define VERSION_DIR_NAME_MAX 63

/* Numbers with dots between them, "3.2.2172.0": less than, equal to or greater than 0, as a is
 * older than b, the same or newer. "1.2" is older than "1.2.0". Names of another form are older
 * than all. */
int version_compare(const char *a, const char *b);

/*
 * The newest version below dir_fd (borrowed, a directory opened for reading) that has all of the n
 * files as regular files that somebody may execute.
 *
 * Returns 0 with the name of its directory in ret, or -ENOENT when there is none, or -errno of
 * reading the folder.
 */
int version_dir_newest(int dir_fd, const char *const *files, size_t n,
                       char ret[static VERSION_DIR_NAME_MAX + 1]);
