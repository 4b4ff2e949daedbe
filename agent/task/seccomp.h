/*
 * System call filters of containers. A profile is compiled by libseccomp once for each set of
 * capabilities that matters to it, in a child process (libseccomp needs half a megabyte that a
 * supervisor would keep), and kept as BPF in <run>/seccomp/ (root 0700).
 */
#pragma once

#include <linux/filter.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/cleanup.h"
#include "lib/err.h"

/* Allow these calls, or fail them with .error. A call that this architecture or this libseccomp
 * does not know is passed over. */
struct seccomp_rule {
	const char *names;       /* separated by blanks */
	uint64_t with;           /* only for containers with this capability */
	uint64_t without;        /* only for containers without this capability */
	int error;               /* errno to fail with; 0: allow */
	struct scmp_arg_cmp arg; /* op 0: any arguments */
};

struct seccomp_profile {
	const struct seccomp_rule *rules;
	size_t n_rules;
};

/* Docker's default profile. */
extern const struct seccomp_profile seccomp_default;

/* Names in the profile whose rules depend on them: the only capabilities that make a difference. */
uint64_t seccomp_profile_capabilities(const struct seccomp_profile *profile);

/*
 * Compile for a container whose bounding set is capabilities, to BPF at fd. Calls newer than every
 * one in the profile fail with ENOSYS instead of EPERM, so that programs fall back to older ones.
 */
int seccomp_compile(const struct seccomp_profile *profile, uint64_t capabilities, int fd,
                    struct err *err);

struct seccomp_filter {
	struct sock_fprog program; /* .filter is owned */
};
void seccomp_filter_done(struct seccomp_filter *filter);

/*
 * The filter from the cache at cache_dir, made there first if it is missing. A file that others
 * could have written is made anew.
 */
int seccomp_filter_get(const char *cache_dir, const struct seccomp_profile *profile,
                       uint64_t capabilities, struct seccomp_filter *ret, struct err *err);

/* Put the filter on the calling thread; -errno. Needs CAP_SYS_ADMIN or no_new_privs. */
int seccomp_filter_install(const struct seccomp_filter *filter);
