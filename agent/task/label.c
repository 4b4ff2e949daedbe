/* The attributes of a process that a security module reads when it executes a program. */
#include "agent/task/label.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "lib/cleanup.h"
#include "lib/fd.h"
#include "lib/lsm.h"

#define APPARMOR_PROFILES "/sys/kernel/security/apparmor/profiles" /* securityfs */

/* --- what the host has --- */

/* The kernel takes what is written there if its policy has it. */
static int check_label(const char *label, const char *what, struct err *err)
{
	_cleanup_close_ int fd = open(LSM_SELINUX_DIR "/context", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return err_set(err, -errno, "open " LSM_SELINUX_DIR "/context");
	if (write(fd, label, strlen(label) + 1) < 0)
		return err_set(err, -errno, "SELinux %s \"%.200s\" is not valid on this host", what,
		               label);
	return 0;
}

static int check_selinux(const struct labels *labels, struct err *err)
{
	const char *first = labels->selinux_label ? labels->selinux_label : labels->mount_label;
	int r = 0;

	if (!first)
		return 0;
	if (!lsm_has_selinux())
		return err_text(err, -EOPNOTSUPP,
		                "SELinux label \"%.200s\" is asked for, but SELinux is not enabled "
		                "on this host",
		                first);
	if (labels->selinux_label)
		r = check_label(labels->selinux_label, "label", err);
	return r == 0 && labels->mount_label ? check_label(labels->mount_label, "mount label", err)
	                                     : r;
}

static bool is_named(const struct labels *labels)
{
	return labels->apparmor_profile &&
	       strcmp(labels->apparmor_profile, LABEL_APPARMOR_UNCONFINED) != 0;
}

int label_check(const struct labels *labels, struct err *err)
{
	if (is_named(labels) && !lsm_has_apparmor())
		return err_text(err, -EOPNOTSUPP,
		                "AppArmor profile \"%.200s\" is asked for, but AppArmor is not "
		                "enabled on this host",
		                labels->apparmor_profile);
	return check_selinux(labels, err);
}

/* --- in the child --- */

int label_profile_is_listed(int fd, const char *profile)
{
	char wanted[LABEL_MAX + 8], chunk[4096];
	size_t len = (size_t)snprintf(wanted, sizeof(wanted), "\n%s (", profile);
	size_t matched = 1; /* the list begins as if after a line's end */
	ssize_t n;

	while ((n = read(fd, chunk, sizeof(chunk))) != 0) {
		if (n < 0 && errno != EINTR)
			return -errno;
		for (ssize_t i = 0; i < n; i++) {
			if (chunk[i] != wanted[matched])
				matched = 0;
			if (chunk[i] == wanted[matched] && ++matched == len)
				return 1;
		}
	}
	return 0;
}

/* The kernel logs a denial when one is asked for that is not there. Where no list can be read,
 * asking is the only way to know. */
static bool default_is_missing(void)
{
	_cleanup_close_ int fd = open(APPARMOR_PROFILES, O_RDONLY | O_CLOEXEC);

	return fd >= 0 && label_profile_is_listed(fd, LABEL_APPARMOR_DEFAULT) == 0;
}

/* Only if it is procfs: the path is looked up in a root that an image has filled. */
static int write_attr(const char *path, const char *text)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
	size_t n = strlen(text);
	struct statfs fs;

	if (fd < 0 || fstatfs(fd, &fs) < 0)
		return -errno;
	if (fs.f_type != PROC_SUPER_MAGIC)
		return -EXDEV;
	return write(fd, text, n) == (ssize_t)n ? 0 : -errno;
}

static int prepare_apparmor(const struct labels *labels)
{
	const char *profile = labels->apparmor_profile;
	char text[LABEL_MAX + 32];
	int r;

	if (!profile && (labels->no_default || default_is_missing()))
		return 0;
	snprintf(text, sizeof(text), "exec %s", profile ? profile : LABEL_APPARMOR_DEFAULT);
	r = write_attr("/proc/thread-self/attr/apparmor/exec", text);
	/* ENOENT: there is no such profile or no AppArmor; EINVAL: that is switched off. */
	return (r == -ENOENT || r == -EINVAL) && !is_named(labels) ? 0 : r;
}

int label_prepare_exec(const struct labels *labels)
{
	int r = prepare_apparmor(labels);

	if (r < 0 || !labels->selinux_label)
		return r;
	r = write_attr("/proc/thread-self/attr/exec", labels->selinux_label);
	/* The session keyring is made next, and must be the program's to use. */
	return r < 0 ? r : write_attr("/proc/thread-self/attr/keycreate", labels->selinux_label);
}

static int set_label(int fd, const char *label)
{
	char path[32];

	/* The descriptor may be an O_PATH one. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (setxattr(path, "security.selinux", label, strlen(label) + 1, 0) < 0)
		return -errno;
	return 0;
}

int label_file_private(const struct labels *labels, int fd)
{
	return labels->mount_label ? set_label(fd, labels->mount_label) : 0;
}

int label_file_shared(const struct labels *labels, int fd)
{
	char label[LABEL_MAX + 1];
	int r;

	if (!labels->mount_label)
		return 0;
	r = label_without_categories(labels->mount_label, label, sizeof(label));
	return r < 0 ? r : set_label(fd, label);
}

int label_without_categories(const char *label, char *buf, size_t n)
{
	const char *at = label;
	size_t len;

	/* user:role:type:level; what comes after another ':' are categories. */
	for (int i = 0; i < 3; i++) {
		at = strchr(at, ':');
		if (!at)
			return -EINVAL;
		at++;
	}
	len = (size_t)(at - label) + strcspn(at, ":");
	if (len >= n)
		return -ENAMETOOLONG;
	memcpy(buf, label, len);
	buf[len] = '\0';
	return 0;
}
