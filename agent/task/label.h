/*
 * What the kernel's security modules add to a container: an AppArmor profile or an SELinux label,
 * which its program gets with execve(2). Whatever is named must be there: a profile or a label that
 * this host cannot apply is refused, never left out.
 *
 *   apparmor_profile  NULL: LABEL_APPARMOR_DEFAULT, if it is loaded (the package installs it and
 *                     apparmor_parser(8) loads it; it is what docker-default is for Docker), else
 *                     none; "unconfined": none; any other must be loaded
 *   selinux_label     of the process and its session keyring; NULL: as the policy has it
 *   mount_label       of all files of file systems that are made for the container
 *
 * Sources: Linux Documentation/admin-guide/LSM/apparmor.rst; proc_pid_attr(5).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "lib/err.h"

#define LABEL_APPARMOR_DEFAULT    "ecs-default"
#define LABEL_APPARMOR_UNCONFINED "unconfined"
#define LABEL_MAX                 1024 /* bytes of a profile's name or a label */

/* All borrowed; NULL: see above. */
struct labels {
	const char *apparmor_profile;
	const char *selinux_label, *mount_label;
	bool no_default; /* no AppArmor profile is none */
};

/* Can this host do it; an SELinux label must be one of its policy. -EINVAL, -EOPNOTSUPP. An
 * AppArmor profile that is not loaded shows at the start only, as -ENOENT of label_prepare_exec().
 */
int label_check(const struct labels *labels, struct err *err);

/* --- in the child (child_steps.h); these allocate nothing --- */

/* For the next execve(2) of this thread or of one that it forks. With the host's /proc and /sys. */
int label_prepare_exec(const struct labels *labels);

/* Is it in the list at fd, which has lines of "NAME (MODE)" as the kernel's: 1, 0, or -errno of
 * read(2). */
int label_profile_is_listed(int fd, const char *profile);

/* Give a file of ours the label that all containers may use (that of mount_label without
 * categories), or the container's alone. Nothing without mount_label. */
int label_file_shared(const struct labels *labels, int fd);
int label_file_private(const struct labels *labels, int fd);

/* "system_u:object_r:container_file_t:s0:c1,c2": without the categories. -EINVAL: no label. */
int label_without_categories(const char *label, char *buf, size_t n);
