/*
 * Who the program of a container is and what it may do: labels, keyring, user, resource limits,
 * seccomp filter, capabilities. What takes privileges away comes after all that needs them; the
 * table in child.c has the order.
 */
#include "agent/task/child_steps.h"

#include <errno.h>
#include <linux/keyctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/task/capability.h"
#include "lib/cleanup.h"

/* While /proc is the host's; nothing is executed before the program itself. */
int child_set_label(struct child *child)
{
	return label_prepare_exec(&child->spec->labels);
}

/* Keys of ours, or of another container, must not be found through the session. */
int child_new_keyring(struct child *child)
{
	(void)child;
	if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS)
		return -errno;
	return 0;
}

int child_find_user(struct child *child)
{
	struct user_ids *ids = &child->ids;
	int r = user_resolve(child->root_fd, child->spec->user, child->spec->group, ids);

	for (size_t i = 0; r == 0 && i < child->spec->n_additional_gids; i++)
		if (ids->n_groups < USER_GROUPS_MAX)
			ids->groups[ids->n_groups++] = child->spec->additional_gids[i];
	return r < 0 ? r : child_check_user(child);
}

/* What a limit is that nobody set: those of a process that the kernel and init(1) start; open files
 * as on Amazon's container hosts, so that an image finds what it was tried with. */
static const struct rlimit_spec default_rlimits[] = {
	{RLIMIT_AS, {RLIM_INFINITY, RLIM_INFINITY}},
	{RLIMIT_CORE, {RLIM_INFINITY, RLIM_INFINITY}},
	{RLIMIT_CPU, {RLIM_INFINITY, RLIM_INFINITY}},
	{RLIMIT_DATA, {RLIM_INFINITY, RLIM_INFINITY}},
	{RLIMIT_FSIZE, {RLIM_INFINITY, RLIM_INFINITY}},
	{RLIMIT_LOCKS, {RLIM_INFINITY, RLIM_INFINITY}},
	{RLIMIT_MEMLOCK, {8 << 20, 8 << 20}},
	{RLIMIT_MSGQUEUE, {819200, 819200}},
	{RLIMIT_NICE, {0, 0}},
	{RLIMIT_NOFILE, {32768, 65536}},
	{RLIMIT_NPROC, {RLIM_INFINITY, RLIM_INFINITY}},
	{RLIMIT_RSS, {RLIM_INFINITY, RLIM_INFINITY}},
	{RLIMIT_RTPRIO, {0, 0}},
	{RLIMIT_RTTIME, {RLIM_INFINITY, RLIM_INFINITY}},
	{RLIMIT_STACK, {8 << 20, RLIM_INFINITY}},
};

/* As near to the default as a root without CAP_SYS_RESOURCE comes. */
static int set_default_rlimit(const struct rlimit_spec *wanted)
{
	struct rlimit now, limit = wanted->limit;

	if (setrlimit(wanted->resource, &limit) == 0)
		return 0;
	if (errno != EPERM || getrlimit(wanted->resource, &now) < 0)
		return -errno;
	limit.rlim_max = now.rlim_max;
	if (limit.rlim_cur > limit.rlim_max)
		limit.rlim_cur = limit.rlim_max;
	return setrlimit(wanted->resource, &limit) < 0 ? -errno : 0;
}

int child_set_rlimits(struct child *child)
{
	int r;

	child->where.item = -1;
	for (size_t i = 0; i < ARRAY_SIZE(default_rlimits) && !child->spec->bare; i++) {
		r = set_default_rlimit(&default_rlimits[i]);
		if (r < 0)
			return r;
	}
	for (size_t i = 0; i < child->spec->n_rlimits; i++) {
		const struct rlimit_spec *rlimit = &child->spec->rlimits[i];

		child->where.item = (int32_t)i;
		if (setrlimit(rlimit->resource, &rlimit->limit) < 0)
			return -errno;
	}
	return 0;
}

/* Without no_new_privs a filter needs CAP_SYS_ADMIN, so it comes before the drop. */
int child_early_seccomp(struct child *child)
{
	if (!child->plan->seccomp || child->spec->no_new_privs)
		return 0;
	return seccomp_filter_install(child->plan->seccomp);
}

int child_drop_privileges(struct child *child)
{
	return capability_become(&child->ids, child->spec->cap_bounding, child->spec->cap_permitted,
	                         child->spec->cap_effective);
}

int child_no_new_privs(struct child *child)
{
	if (!child->spec->no_new_privs)
		return 0;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	return child->plan->seccomp ? seccomp_filter_install(child->plan->seccomp) : 0;
}
