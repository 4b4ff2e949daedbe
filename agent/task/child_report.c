/*
 * In the parent: taking what a child reports, and the words for it. The report crossed a socket
 * from a process of root, so its numbers are checked before they are used.
 */
#include "agent/task/child_steps.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/socket.h>

#include "agent/task/capability.h"
#include "lib/cleanup.h"
#include "lib/fd.h"

int child_report_open(int fds[2], struct err *err)
{
	static const int on = 1;
	int r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
		return err_set(err, -errno, "make a socket for the start");
	r = fd_set_nonblock(fds[0], true);
	if (r == 0 && setsockopt(fds[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0)
		r = -errno;
	if (r < 0) {
		fds[0] = fd_close(fds[0]);
		fds[1] = fd_close(fds[1]);
		return err_set(err, r, "set up the socket for the start");
	}
	return 0;
}

/* Descriptors that nobody asked for are closed, all but the first. */
static void take_control(struct msghdr *msg, struct child_message *ret)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET)
			continue;
		if (c->cmsg_type == SCM_CREDENTIALS) {
			struct ucred peer;

			memcpy(&peer, CMSG_DATA(c), sizeof(peer));
			ret->pid = peer.pid;
		} else if (c->cmsg_type == SCM_RIGHTS) {
			size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

			for (size_t i = 0; i < n; i++) {
				int fd;

				memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
				if (ret->console_fd < 0)
					ret->console_fd = fd;
				else
					fd_close(fd);
			}
		}
	}
}

int child_report_receive(int fd, struct child_message *ret)
{
	struct child_message message = {.console_fd = -EBADF};
	struct iovec data = {.iov_base = &message.report, .iov_len = sizeof(message.report)};
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
	} control = {};
	struct msghdr msg = {
		.msg_iov = &data,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t n;

	do
		n = recvmsg(fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	take_control(&msg, &message);
	if (n != sizeof(message.report)) {
		fd_close(message.console_fd);
		return n == 0 ? 0 : -EPROTO;
	}
	*ret = message;
	return 1;
}

static void describe_rlimit(const struct container_spec *spec, int item, int r, struct err *err)
{
	const struct rlimit_spec *rlimit = item >= 0 ? &spec->rlimits[item] : NULL;

	if (rlimit && r == -EPERM)
		err_text(err, r, "rlimit %s: hard limit %llu is more than this host allows",
		         rlimit_name(rlimit->resource), (unsigned long long)rlimit->limit.rlim_max);
	else
		err_set(err, r, "set rlimit %s",
		        rlimit ? rlimit_name(rlimit->resource) : "defaults");
}

static int describe_exec(const char *program, const struct child_report *report, struct err *err)
{
	int r = report->error;

	if (r == -ENOENT && !strchr(program, '/') && report->item != CHILD_ITEM_FOUND) {
		err_text(err, r, "exec: \"%.200s\": executable file not found in $PATH", program);
		return 127;
	}
	if (r == -ENOENT && report->item != CHILD_ITEM_FOUND)
		err_text(err, r, "exec: \"%.200s\": stat %.200s: no such file or directory",
		         program, program);
	else if (r == -EACCES)
		err_text(err, r, "exec: \"%.200s\": permission denied", program);
	else if (r == -EISDIR)
		err_text(err, r, "exec: \"%.200s\": is a directory", program);
	else if (r == -ENOEXEC)
		err_text(err, r, "exec %.200s: exec format error", program);
	else
		err_set(err, r, "exec %.200s", program);
	return r == -ENOENT ? 127 : 126;
}

static void describe_user(const struct container_spec *spec, int r, struct err *err)
{
	if (r == -ESRCH)
		err_text(err, r, "unable to find user %.100s: no matching entries in passwd file",
		         spec->user);
	else if (r == -ENXIO)
		err_text(err, r, "unable to find group %.100s: no matching entries in group file",
		         spec->group);
	else if (r == -ERANGE)
		err_text(err, r, "user \"%.100s:%.100s\": ids must be in range 0 to 2147483647",
		         spec->user ? spec->user : "", spec->group ? spec->group : "");
	else if (r == -EDOM)
		err_text(err, r,
		         "user \"%.100s:%.100s\", or one of its groups, is not among the ids of "
		         "the container's user namespace (ECS_USERNS_REMAP)",
		         spec->user ? spec->user : "", spec->group ? spec->group : "");
	else
		err_set(err, r, "read the image's /etc/passwd and /etc/group");
}

static void describe_capabilities(const struct container_spec *spec, int r, struct err *err)
{
	uint64_t missing = (spec->cap_permitted | spec->cap_effective) & ~capability_all();

	for (int cap = 0; cap < 64; cap++) {
		char *name = missing >> cap & 1 ? cap_to_name(cap) : NULL;

		if (!name)
			continue;
		for (char *c = name; *c; c++)
			*c = (char)toupper((unsigned char)*c);
		err_text(err, r, "capability %s is not available on this host", name);
		cap_free(name);
		return;
	}
	err_set(err, r, "%s", "set user and capabilities");
}

static void describe_map(const struct mount_spec *mount, const struct child_report *report,
                         struct err *err)
{
	char name[32];

	userns_file_system_name((long)report->detail, name, sizeof(name));
	if (report->error == -EINVAL || report->error == -ENOSYS || report->error == -EPERM)
		err_text(err, report->error,
		         "volume %.200s: its file system (%s) has no id-mapped mounts with this "
		         "kernel, which ECS_USERNS_REMAP needs",
		         mount->volume.name, name);
	else
		err_set(err, report->error, "volume %.200s: map its ids", mount->volume.name);
}

static void describe_mount(const struct container_spec *spec, const struct child_report *report,
                           struct err *err)
{
	const struct mount_spec *mount = &spec->mounts[report->item];
	int r = report->error;

	if (report->step == CHILD_MOUNT_REFUSED)
		err_text(err, r, "host path %.200s is not one of ECS_ALLOWED_HOST_PATHS",
		         mount->source);
	else if (report->step == CHILD_MAP_IDS)
		describe_map(mount, report, err);
	else if (report->step == CHILD_VOLUME && r == -ENOENT)
		err_text(err, r, "volume %.200s does not exist", mount->volume.name);
	else if (report->step == CHILD_VOLUME && r == -EMEDIUMTYPE)
		err_text(err, r,
		         "volume %.200s was made with driverOpts, which the task definition must "
		         "give as well",
		         mount->volume.name);
	else if (report->step == CHILD_VOLUME)
		err_set(err, r, "volume %.200s", mount->volume.name);
	else if (report->step == CHILD_MOUNT_SOURCE)
		err_set(err, r, "host path %.200s", mount->source);
	else if (r == -EPERM)
		err_text(err, r, "mount at %.200s: nothing can be mounted inside /proc",
		         mount->target);
	else
		err_set(err, r, "mount at %.200s", mount->target);
}

static void describe_label(const struct container_spec *spec, const struct child_report *report,
                           struct err *err)
{
	const char *profile = spec->labels.apparmor_profile;
	int r = report->error;

	if (r == -ENOENT && profile)
		err_text(err, r, "AppArmor profile \"%.200s\" is not loaded on this host", profile);
	else if (profile)
		err_set(err, r, "apply AppArmor profile \"%.200s\"", profile);
	else if (spec->labels.selinux_label)
		err_set(err, r, "apply SELinux label \"%.200s\"", spec->labels.selinux_label);
	else
		err_set(err, r, "apply AppArmor profile \"%s\"", LABEL_APPARMOR_DEFAULT);
}

static const char *const step_words[_CHILD_STEP_MAX] = {
	[CHILD_CGROUP] = "enter the container's cgroup",
	[CHILD_OWNED_NAMESPACES] = "enter the namespaces of the user namespace",
	[CHILD_USERNS] = "enter the user namespace",
	[CHILD_NETWORK] = "enter the network namespace",
	[CHILD_HOSTNAME] = "set the host name",
	[CHILD_LABEL] = "set the security label",
	[CHILD_KEYRING] = "make a session keyring",
	[CHILD_PROC] = "mount /proc",
	[CHILD_OOM_SCORE] = "set oom_score_adj",
	[CHILD_DEV] = "make /dev",
	[CHILD_SHM] = "mount /dev/shm",
	[CHILD_CONSOLE] = "make the terminal",
	[CHILD_SYS] = "mount /sys",
	[CHILD_CGROUP_MOUNT] = "mount /sys/fs/cgroup",
	[CHILD_EXECUTE_COMMAND] = "mount the files of ECS Exec",
	[CHILD_READONLY_ROOT] = "make the root file system read-only",
	[CHILD_PIVOT] = "change the root",
	[CHILD_STDIO] = "set standard input and output",
	[CHILD_SECCOMP] = "install the seccomp filter",
	[CHILD_NO_NEW_PRIVS] = "set no_new_privs",
	[CHILD_INIT] = "start the init process",
	[CHILD_NAMESPACES] = "enter the container",
	[CHILD_FORK] = "fork inside the container",
	[CHILD_HOLD] = "wait for the start",
	[CHILD_READY] = "start the program",
};

/* Is item an index that this step can have; the report comes from a process of root. */
static bool item_is_valid(const struct container_spec *spec, const struct child_report *report)
{
	size_t n = 0, i = (size_t)report->item;

	switch (report->step) {
	case CHILD_OWN_DIRECTORIES:
		n = ARRAY_SIZE(child_own_directories);
		break;
	case CHILD_SYSCTLS:
		n = spec->n_sysctls;
		break;
	case CHILD_MOUNTS:
	case CHILD_MOUNT_SOURCE:
	case CHILD_MOUNT_REFUSED:
	case CHILD_VOLUME:
	case CHILD_MAP_IDS:
		n = spec->n_mounts;
		break;
	case CHILD_ETC:
		n = ARRAY_SIZE(child_etc_files);
		break;
	case CHILD_READONLY_PATHS:
		while (spec->readonly_paths && spec->readonly_paths[n])
			n++;
		break;
	case CHILD_MASKED_PATHS:
		while (spec->masked_paths && spec->masked_paths[n])
			n++;
		break;
	case CHILD_DEVICES:
		return report->item == -1 || i < spec->n_devices;
	case CHILD_RLIMITS:
		return report->item == -1 || i < spec->n_rlimits;
	default:
		return true;
	}
	return report->item >= 0 && i < n;
}

int child_report_describe(const struct container_spec *spec, const struct child_report *report,
                          struct err *err)
{
	int r = report->error < 0 ? report->error : -EIO;

	err->name = "CannotStartContainerError";
	if (report->step < 0 || report->step >= _CHILD_STEP_MAX || !item_is_valid(spec, report)) {
		err_set(err, r, "start the container (step %d)", report->step);
		return -1;
	}
	switch ((enum child_step)report->step) {
	case CHILD_EXEC:
		return describe_exec(spec->args[0], report, err);
	case CHILD_OWN_DIRECTORIES:
		if (r == -ELOOP)
			err_text(err, r,
			         "the image's /%s is a symbolic link; it must be a directory",
			         child_own_directories[report->item]);
		else
			err_set(err, r, "make /%s", child_own_directories[report->item]);
		break;
	case CHILD_SYSCTLS:
		err_set(err, r, "set sysctl %s to \"%.100s\"", spec->sysctls[report->item].path,
		        spec->sysctls[report->item].value);
		break;
	case CHILD_DEVICES:
		err_set(err, r, "make device %.200s",
		        report->item >= 0 ? spec->devices[report->item].path : "of the host");
		break;
	case CHILD_MOUNTS:
	case CHILD_MOUNT_SOURCE:
	case CHILD_MOUNT_REFUSED:
	case CHILD_VOLUME:
	case CHILD_MAP_IDS:
		describe_mount(spec, report, err);
		break;
	case CHILD_ETC:
		err_set(err, r, "mount /etc/%s", child_etc_files[report->item]);
		break;
	case CHILD_MAKE_CWD:
	case CHILD_CWD:
		if (r == -EXDEV)
			err_text(err, r, "working directory %.200s is outside the container",
			         spec->cwd);
		else
			err_set(err, r, "working directory %.200s", spec->cwd);
		break;
	case CHILD_READONLY_PATHS:
		err_set(err, r, "make %.200s read-only", spec->readonly_paths[report->item]);
		break;
	case CHILD_MASKED_PATHS:
		err_set(err, r, "mask %.200s", spec->masked_paths[report->item]);
		break;
	case CHILD_LABEL:
		describe_label(spec, report, err);
		break;
	case CHILD_USER:
		describe_user(spec, r, err);
		break;
	case CHILD_RLIMITS:
		describe_rlimit(spec, report->item, r, err);
		break;
	case CHILD_CAPABILITIES:
		describe_capabilities(spec, r, err);
		break;
	default:
		err_set(err, r, "%s", step_words[report->step]);
	}
	return -1;
}
