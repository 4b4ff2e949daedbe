/* Entries of a directory, read with the system call: readdir(3) would allocate. */
#include "agent/task/dir_entries.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/fd.h"

#define ENTRIES_SIZE 4096 /* of one getdents64(2); a walk of a tree has one for each level */

struct linux_dirent64 {
	uint64_t d_ino;
	int64_t d_off;
	unsigned short d_reclen;
	unsigned char d_type;
	char d_name[];
};

static bool is_dots(const char *name)
{
	return name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'));
}

int dir_each_entry(int dir_fd, dir_entry_fn fn, void *userdata)
{
	_Alignas(struct linux_dirent64) char buf[ENTRIES_SIZE];
	long n;

	if (lseek(dir_fd, 0, SEEK_SET) < 0)
		return -errno;
	while ((n = syscall(SYS_getdents64, dir_fd, buf, sizeof(buf))) > 0)
		for (long at = 0; at < n;) {
			const struct linux_dirent64 *entry = (const void *)(buf + at);
			int r = is_dots(entry->d_name) ? 0 : fn(dir_fd, entry->d_name, userdata);

			if (r != 0)
				return r;
			at += entry->d_reclen;
		}
	return n < 0 ? -errno : 0;
}

static int found(int dir_fd, const char *name, void *userdata)
{
	(void)dir_fd;
	(void)name;
	(void)userdata;
	return 1;
}

int dir_has_entries(int dir_fd)
{
	return dir_each_entry(dir_fd, found, NULL);
}

static int remove_entry(int dir_fd, const char *name, void *userdata)
{
	(void)userdata;
	if (unlinkat(dir_fd, name, 0) == 0 || errno == ENOENT)
		return 0;
	return errno == EISDIR || errno == EPERM ? dir_remove_tree(dir_fd, name) : -errno;
}

int dir_remove_tree(int dir_fd, const char *name)
{
	_cleanup_close_ int fd =
		openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int r;

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	do { /* again for what was left out */
		r = dir_each_entry(fd, remove_entry, NULL);
		if (r == 0 && unlinkat(dir_fd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
			r = -errno;
	} while (r == -ENOTEMPTY);
	return r;
}
