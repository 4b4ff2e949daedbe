/* A rule set that handles every right its kernel knows and grants none of them, but one. */
#include "iam-creds/landlock.h"

#include <errno.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/log.h"

/* Since headers may be older than the kernel; the numbers are the same everywhere. */
#ifndef SYS_landlock_create_ruleset
#	define SYS_landlock_create_ruleset 444
#	define SYS_landlock_add_rule       445
#	define SYS_landlock_restrict_self  446
#endif
#define CREATE_RULESET_VERSION 1u
#define RULE_PATH_BENEATH      1
#define ACCESS_FS_READ_DIR     (UINT64_C(1) << 3)

struct ruleset {
	uint64_t files; /* LANDLOCK_ACCESS_FS_* */
	uint64_t net;   /* LANDLOCK_ACCESS_NET_*, from version 4 */
};

struct path_beneath {
	uint64_t allowed;
	int32_t parent_fd;
} __attribute__((packed));

/* How many LANDLOCK_ACCESS_FS_ bits each version has: 13, and then REFER, TRUNCATE and IOCTL_DEV.
 */
static uint64_t file_rights(long version)
{
	int bits = version == 1 ? 13 : version == 2 ? 14 : version <= 4 ? 15 : 16;

	return (UINT64_C(1) << bits) - 1;
}

static int allow_to_list(int rules_fd, int list_fd)
{
	const struct path_beneath rule = {.allowed = ACCESS_FS_READ_DIR, .parent_fd = list_fd};

	if (list_fd < 0)
		return 0;
	return syscall(SYS_landlock_add_rule, rules_fd, RULE_PATH_BENEATH, &rule, 0) < 0 ? -errno
	                                                                                 : 0;
}

int landlock_close_files(int list_fd, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	struct ruleset rules = {0};
	long version;
	int r;

	version = syscall(SYS_landlock_create_ruleset, NULL, 0, CREATE_RULESET_VERSION);
	if (version < 1) {
		log_debug(NULL, "this kernel has no Landlock");
		return 0;
	}
	rules.files = file_rights(version);
	rules.net = version >= 4 ? 3 : 0; /* binding and connecting TCP sockets */
	fd = (int)syscall(SYS_landlock_create_ruleset, &rules,
	                  version >= 4 ? sizeof(rules) : sizeof(rules.files), 0);
	if (fd < 0)
		return err_set(err, -errno, "make a Landlock rule set");
	r = allow_to_list(fd, list_fd);
	if (r < 0)
		return err_set(err, r, "add to the Landlock rule set");
	if (syscall(SYS_landlock_restrict_self, fd, 0) < 0)
		return err_set(err, -errno, "give up files");
	return 0;
}
