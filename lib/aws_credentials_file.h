/* The shared credentials file of the AWS tools: sections of "name = value" lines. */
#pragma once

#include "lib/aws_keys.h"
#include "lib/err.h"

/*
 * The keys of a profile. Source: AWS SDKs and Tools Reference Guide, "Shared config and credentials
 * files".
 * Returns 0, -ENOENT (no such file, or no keys of that profile in it), -EINVAL (half a key), or
 * -errno of reading it.
 */
int aws_credentials_file_read(const char *path, const char *profile, struct aws_keys **ret,
                              struct err *err);
