/* Dropping to a container's user and capabilities: every call checked, the result read back. */
#include "agent/task/capability.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int capability_from_name(const char *name, uint64_t *ret_bit)
{
	cap_value_t value;

	if (strncasecmp(name, "cap_", 4) != 0 || cap_from_name(name, &value) < 0)
		return -EINVAL;
	*ret_bit = 1ULL << value;
	return 0;
}

uint64_t capability_all(void)
{
	uint64_t all = 0;

	for (int cap = 0; cap < 64; cap++)
		if (prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 1)
			all |= 1ULL << cap;
	return all;
}

static int drop_bounding(uint64_t bounding)
{
	for (int cap = 0; cap < 64; cap++) {
		bool keep = bounding >> cap & 1;
		int now = prctl(PR_CAPBSET_READ, cap, 0, 0, 0);

		if (now < 0)
			continue; /* beyond the last one of this kernel */
		if (!keep && now && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			return -errno;
		if (prctl(PR_CAPBSET_READ, cap, 0, 0, 0) != (keep && now))
			return -EPERM;
	}
	return 0;
}

static int become_ids(const struct user_ids *ids)
{
	uid_t ruid, euid, suid;
	gid_t rgid, egid, sgid;

	if (setgroups(ids->n_groups, ids->groups) < 0)
		return -errno;
	if (setresgid(ids->gid, ids->gid, ids->gid) < 0)
		return -errno;
	if (setresuid(ids->uid, ids->uid, ids->uid) < 0)
		return -errno;

	if (getresuid(&ruid, &euid, &suid) < 0 || getresgid(&rgid, &egid, &sgid) < 0)
		return -errno;
	if (ruid != ids->uid || euid != ids->uid || suid != ids->uid)
		return -EPERM;
	if (rgid != ids->gid || egid != ids->gid || sgid != ids->gid)
		return -EPERM;
	return 0;
}

static int set_capabilities(uint64_t permitted, uint64_t effective)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct set[2] = {
		{.permitted = (uint32_t)permitted, .effective = (uint32_t)effective},
		{.permitted = (uint32_t)(permitted >> 32),
	         .effective = (uint32_t)(effective >> 32)},
	};
	struct __user_cap_data_struct now[2] = {};

	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return -errno;
	if (syscall(SYS_capset, &header, set) < 0)
		return -errno;
	if (syscall(SYS_capget, &header, now) < 0)
		return -errno;
	return memcmp(set, now, sizeof(set)) == 0 ? 0 : -EPERM;
}

int capability_become(const struct user_ids *ids, uint64_t bounding, uint64_t permitted,
                      uint64_t effective)
{
	int r;

	r = drop_bounding(bounding);
	if (r < 0)
		return r;
	/* Else the change of uid empties the permitted set before capset(2) can choose from it. */
	if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
		return -errno;
	r = become_ids(ids);
	if (r < 0)
		return r;
	/* With fs.suid_dumpable=1 that has let processes of the same user read us. */
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 || prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) < 0)
		return -errno;
	return set_capabilities(permitted, effective);
}
