/*
 * System call filters of containers. A profile is compiled by libseccomp once for each set of
 * capabilities that matters to it, in a child process (libseccomp needs half a megabyte that a
 * supervisor would keep), and kept as BPF in <run>/seccomp/ (root 0700). Docker's default profile
 * is here; profiles that tasks bring are read by seccomp_profile.h and kept by seccomp_task.h.
 */
#pragma once

#include <linux/filter.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/cleanup.h"
#include "lib/err.h"

#define SECCOMP_ARGS_MAX     6
#define SECCOMP_ARCHES_MAX   24
#define SECCOMP_NAME_MAX     63 /* bytes of a call's name */
#define SECCOMP_FILTER_BYTES ((size_t)BPF_MAXINSNS * sizeof(struct sock_filter))

/* What happens to these calls. One that this architecture or this libseccomp does not know is
 * passed over. */
struct seccomp_rule {
	const char *names; /* separated by blanks */
	uint64_t with;     /* only for containers with all of these capabilities */
	uint64_t without;  /* only for containers with none of these */
	uint32_t action;   /* SCMP_ACT_* */
	size_t n_args;     /* 0: whatever the arguments are; else all of these must hold */
	struct scmp_arg_cmp args[SECCOMP_ARGS_MAX];
};

struct seccomp_profile {
	uint32_t default_action;             /* of all other calls */
	uint32_t arches[SECCOMP_ARCHES_MAX]; /* SCMP_ARCH_* beside the native one; 0 ends them */
	uint32_t flags;                      /* SECCOMP_FILTER_FLAG_* */
	const struct seccomp_rule *rules;
	size_t n_rules;
};

/* Docker's default profile. */
extern const struct seccomp_profile seccomp_default;

/* Names in the profile whose rules depend on them: the only capabilities that make a difference. */
uint64_t seccomp_profile_capabilities(const struct seccomp_profile *profile);

/*
 * Compile for a container whose bounding set is capabilities, to BPF at fd. Where the default
 * action is to refuse, calls newer than every one in the profile fail with ENOSYS instead, so that
 * programs fall back to older ones.
 */
int seccomp_compile(const struct seccomp_profile *profile, uint64_t capabilities, int fd,
                    struct err *err);

struct seccomp_filter {
	struct sock_fprog program; /* .filter is owned */
	uint32_t flags;            /* SECCOMP_FILTER_FLAG_* */
};
void seccomp_filter_done(struct seccomp_filter *filter);

/* Take n bytes of BPF: -EINVAL when they cannot be a filter; -ENOMEM. */
int seccomp_filter_set(struct seccomp_filter *filter, const void *code, size_t n);

/*
 * The cache's directory, made if it is missing: a descriptor, or -errno. -EPERM when others than
 * root can write there.
 */
int seccomp_cache_open(const char *cache_dir, struct err *err);

/* *ret: the content of a file in it. -ENOENT when it is missing, larger than max, or not one that
 * only root can have written. */
int seccomp_cache_read(int dir_fd, const char *name, size_t max, char **ret, size_t *ret_len);

/*
 * The filter from the cache at cache_dir, made there first if it is missing. A file that others
 * could have written is made anew.
 */
int seccomp_filter_get(const char *cache_dir, const struct seccomp_profile *profile,
                       uint64_t capabilities, struct seccomp_filter *ret, struct err *err);

/* Put the filter on the calling thread; -errno. Needs CAP_SYS_ADMIN or no_new_privs. */
int seccomp_filter_install(const struct seccomp_filter *filter);
