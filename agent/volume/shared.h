/* Shared volumes that are mounted: <state>/volumes/<name> remembers with what. */
#pragma once

#include "agent/volume/request.h"
#include "lib/err.h"

/*
 * Make the directory of the volume with its driver and labels as extended attributes, or check that
 * it was made with the same driver. -ENOENT: it must exist and does not; -EEXIST: it was made with
 * another driver, or none.
 */
int shared_volume_check(const char *state_dir, const struct volume_request *request,
                        struct err *err);
