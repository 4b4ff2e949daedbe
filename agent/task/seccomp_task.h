/*
 * The filter of a profile that a task brings: inline, or in a file of the host.
 *
 * The text is a tenant's, and so is the path: a child that has become nobody (65534), without
 * capabilities and behind a filter of its own, opens the file, reads the JSON and runs libseccomp.
 * So a file must be readable for everybody, lie within ECS_ALLOWED_HOST_PATHS, and be a regular one
 * of at most SECCOMP_PROFILE_MAX bytes; nothing of it is ever learnt that any user could not read.
 * Root compares text and copies BPF, of which the kernel checks every instruction.
 *
 * Compiled filters stay in the cache of seccomp.h, found by a checksum and used only if the text is
 * the same, byte by byte. At most SECCOMP_CACHED_MAX are kept; then all make room for new ones.
 */
#pragma once

#include <stdint.h>

#include "agent/task/policy.h"
#include "agent/task/seccomp.h"
#include "lib/err.h"

#define SECCOMP_CACHED_MAX      64
#define SECCOMP_CACHED_TEXT_MAX (64 * 1024) /* longer ones are compiled each time */

struct seccomp_source {
	const char *text; /* JSON, or */
	const char *path; /* absolute */
};

/* Blocks while the child works, for at most half a minute. -EINVAL, -EACCES: err says what is
 * wrong with the profile or its file. */
int seccomp_task_filter(const char *cache_dir, const struct policy *policy,
                        const struct seccomp_source *source, uint64_t capabilities,
                        struct seccomp_filter *ret, struct err *err);
