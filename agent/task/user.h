/*
 * Who a container runs as: Docker's Config.User, with the names of the image's own /etc/passwd and
 * /etc/group. Both files are the image's, so they are read as hostile text: bounded, regular files
 * only, lines that do not fit are passed over.
 */
#pragma once

#include <stddef.h>
#include <sys/types.h>

#define USER_GROUPS_MAX 1024
#define USER_HOME_MAX   256

struct user_ids {
	uid_t uid;
	gid_t gid;
	gid_t groups[USER_GROUPS_MAX]; /* supplementary, the primary gid first */
	size_t n_groups;
	char home[USER_HOME_MAX]; /* "/" when the user has none */
};

/*
 * user, group: as in "user:group", a name or a number each, and a number is never a name; NULL or
 * "" for none. Without a user it is 0; without a group it is the user's of passwd, else 0.
 * Supplementary groups are those of /etc/group that list the user, unless a group was given.
 *
 * Returns 0, or
 *   -ESRCH   no such user in passwd
 *   -ENXIO   no such group in group
 *   -ERANGE  a number above 2147483647
 *   -EFBIG   more than 16 MiB of passwd or group
 *   -errno   of reading them; a missing file is an empty one
 * Allocates nothing.
 */
int user_resolve(int root_fd, const char *user, const char *group, struct user_ids *ret);
