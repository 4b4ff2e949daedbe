/* What follows the host is told from /proc/self/mountinfo: it has a master there. */
#include "agent/task/host_mounts.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "agent/task/mount.h"
#include "lib/fd.h"

#define MOUNTINFO_MAX (64 * 1024 * 1024)

int host_mounts_take(int fd)
{
	if (ioctl(fd, NS_GET_NSTYPE) != CLONE_NEWNS || fd_set_cloexec(fd, true) < 0)
		return -EBADF;
	return fd;
}

/* Is path the same as, or below, dir (absolute, without a slash at the end). */
static bool is_in(const char *path, const char *dir)
{
	size_t n = strcmp(dir, "/") == 0 ? 0 : strlen(dir);

	return strncmp(path, dir, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

static bool is_needed(const char *mount, const char *const *needed, size_t n)
{
	static const char *const always[] = {"/proc", "/sys", "/dev",     "/run",
	                                     "/etc",  "/usr", "/var/lib", "/var/log"};

	for (size_t i = 0; i < ARRAY_SIZE(always); i++)
		if (is_in(mount, always[i]) || is_in(always[i], mount))
			return true;
	for (size_t i = 0; i < n; i++)
		if (is_in(mount, needed[i]) || is_in(needed[i], mount))
			return true;
	return false;
}

/* Blanks and the like are written as "\040". In place. */
static void unescape(char *text)
{
	char *to = text;

	for (const char *from = text; *from; to++) {
		if (from[0] == '\\' && isdigit(from[1]) && isdigit(from[2]) && isdigit(from[3])) {
			*to = (char)((from[1] - '0') * 64 + (from[2] - '0') * 8 + (from[3] - '0'));
			from += 4;
		} else {
			*to = *from++;
		}
	}
	*to = '\0';
}

/* "36 35 98:0 /root /mount/point rw,noatime master:1 - ext4 /dev/sda rw": the mount point of one
 * without a master, else NULL. Changes line. */
static char *point_without_master(char *line)
{
	char *end = strstr(line, " - "), *master, *point = line;

	if (!end)
		return NULL;
	*end = '\0';
	master = strstr(line, " master:");
	for (int i = 0; i < 4 && point; i++)
		point = strchr(point, ' ') ? strchr(point, ' ') + 1 : NULL;
	if (master || !point)
		return NULL;
	point[strcspn(point, " ")] = '\0';
	unescape(point);
	return point;
}

int host_mounts_prune(const char *const *needed, size_t n, struct err *err)
{
	_cleanup_free_ char *text = NULL;
	char *rest, *line;
	int r;

	r = file_read(AT_FDCWD, "/proc/self/mountinfo", MOUNTINFO_MAX, &text, NULL);
	if (r < 0)
		return err_set(err, r, "read /proc/self/mountinfo");
	for (rest = text; (line = strsep(&rest, "\n"));) {
		const char *point = point_without_master(line);

		if (!point || point[0] != '/' || is_needed(point, needed, n))
			continue;
		r = sys_umount(point, MNT_DETACH | UMOUNT_NOFOLLOW);
		/* What lay on another that has gone, or is covered by one. */
		if (r < 0 && r != -EINVAL && r != -ENOENT)
			return err_set(err, r, "unmount %s from the supervisor's copy", point);
	}
	return 0;
}

int host_mounts_enter(int host_fd, int *ret)
{
	_cleanup_close_ int own = -EBADF;

	*ret = -EBADF;
	if (host_fd < 0)
		return 0;
	/* /proc is still the host's, where "self" is this process. */
	own = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	if (own < 0 || setns(host_fd, CLONE_NEWNS) < 0)
		return -errno;
	*ret = TAKE_FD(own);
	return 0;
}

int host_mounts_leave(int own_fd)
{
	return own_fd >= 0 && setns(own_fd, CLONE_NEWNS) < 0 ? -errno : 0;
}
