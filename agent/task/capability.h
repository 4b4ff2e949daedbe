/* Capability sets as bit masks (1ULL << CAP_X), and putting one on the calling thread. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "agent/task/user.h"

/* "CAP_NET_RAW", in any case: -EINVAL when there is none of that name. */
int capability_from_name(const char *name, uint64_t *ret_bit);

/* Every capability that we can give: our own bounding set. */
uint64_t capability_all(void);

/*
 * Become the user with these capabilities, in one order: bounding set, groups, gid, uid, permitted
 * and effective; inheritable and ambient are emptied (CVE-2022-29162). Until the next execve(2)
 * nobody of that user can trace or read the process. The ids and sets are read back. Returns 0 or
 * -errno; the process must end then. Allocates nothing.
 */
int capability_become(const struct user_ids *ids, uint64_t bounding, uint64_t permitted,
                      uint64_t effective);
