/*
 * A profile in Docker's format (JSON; Docker documentation, "Seccomp security profiles for Docker")
 * or that of linux.seccomp in an OCI config.json, which is a part of it:
 *
 *   defaultAction, defaultErrnoRet, flags, architectures or archMap (architecture,
 * subArchitectures), syscalls: names or name, action, errnoRet, args (index, value, valueTwo, op),
 * comment, includes and excludes (caps, arches, minKernel)
 *
 * What it says and cannot be done is refused by name: SCMP_ACT_NOTIFY (there is no listener), a
 * name that libseccomp does not know in a rule that takes away more than the default action does
 * (in one that gives more it is passed over, as everywhere: profiles name calls of newer kernels).
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "agent/task/seccomp.h"
#include "lib/cleanup.h"
#include "lib/err.h"

#define SECCOMP_PROFILE_MAX (1024 * 1024) /* bytes of text */

/* Owned: free with seccomp_profile_free(). Rules whose architecture or kernel is not ours are left
 * out; those about capabilities are in it with their condition. -EINVAL says what is wrong. */
int seccomp_profile_parse(const char *text, size_t len, struct seccomp_profile **ret,
                          struct err *err);
struct seccomp_profile *seccomp_profile_free(struct seccomp_profile *profile);
DEFINE_CLEANUP(struct seccomp_profile *, seccomp_profile_free)
