/* Names of tar entries and of link targets, made plain before they reach the file system. */
#pragma once

#include <stddef.h>

#include "lib/err.h"

#define ENTRY_DEPTH_MAX 255

/*
 * Resolve "", "." and ".." by their text alone and drop leading '/': "/a//b/../c/" is "a/c", and
 * "./" is "" (the root of the layer). That is what Docker does with names of entries.
 *
 * Returns 0, -EBADMSG when ".." leads above the root, or -ENAMETOOLONG when a component is longer
 * than NAME_MAX, there are more than ENTRY_DEPTH_MAX, or the result does not fit in n bytes.
 */
int entry_path_clean(const char *name, char *buf, size_t n, struct err *err);
