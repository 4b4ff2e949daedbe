/* The kernel says it in sysfs. */
#include "lib/lsm.h"

#include <linux/magic.h>
#include <sys/vfs.h>

#include "lib/fd.h"

bool lsm_has_apparmor(void)
{
	_cleanup_close_ int fd =
		open("/sys/module/apparmor/parameters/enabled", O_RDONLY | O_CLOEXEC);
	char enabled = 'N';

	return fd >= 0 && fd_read_all(fd, &enabled, 1) == 1 && enabled == 'Y';
}

/* Mounted there only if it is enabled. */
bool lsm_has_selinux(void)
{
	struct statfs fs;

	return statfs(LSM_SELINUX_DIR, &fs) == 0 && fs.f_type == SELINUX_MAGIC;
}
