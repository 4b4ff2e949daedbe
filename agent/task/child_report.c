/*
 * In the parent: words for what a child reports. The report crossed a pipe from a process of root,
 * so its numbers are checked before they are used.
 */
#include "agent/task/child_steps.h"

#include <errno.h>
#include <string.h>

#include "lib/cleanup.h"

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
	else
		err_set(err, r, "read the image's /etc/passwd and /etc/group");
}

static void describe_mount(const struct container_spec *spec, const struct child_report *report,
                           struct err *err)
{
	const struct mount_spec *mount = &spec->mounts[report->item];
	int r = report->error;

	if (report->step == CHILD_MOUNT_REFUSED)
		err_text(err, r, "host path %.200s is not one of ECS_ALLOWED_HOST_PATHS",
		         mount->source);
	else if (report->step == CHILD_MOUNT_SOURCE)
		err_set(err, r, "host path %.200s", mount->source);
	else if (r == -EPERM)
		err_text(err, r, "mount at %.200s: nothing can be mounted inside /proc",
		         mount->target);
	else
		err_set(err, r, "mount at %.200s", mount->target);
}

static const char *const step_words[_CHILD_STEP_MAX] = {
	[CHILD_CGROUP] = "enter the container's cgroup",
	[CHILD_NETWORK] = "enter the network namespace",
	[CHILD_HOSTNAME] = "set the host name",
	[CHILD_KEYRING] = "make a session keyring",
	[CHILD_PROC] = "mount /proc",
	[CHILD_OOM_SCORE] = "set oom_score_adj",
	[CHILD_DEV] = "make /dev",
	[CHILD_SYS] = "mount /sys",
	[CHILD_CGROUP_MOUNT] = "mount /sys/fs/cgroup",
	[CHILD_READONLY_ROOT] = "make the root file system read-only",
	[CHILD_PIVOT] = "change the root",
	[CHILD_STDIO] = "set standard input and output",
	[CHILD_SECCOMP] = "install the seccomp filter",
	[CHILD_CAPABILITIES] = "set user and capabilities",
	[CHILD_NO_NEW_PRIVS] = "set no_new_privs",
	[CHILD_INIT] = "start the init process",
	[CHILD_READY] = "start the program",
};

/* Is item an index that this step can have; the report crossed a pipe from a process of root. */
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
	case CHILD_USER:
		describe_user(spec, r, err);
		break;
	case CHILD_RLIMITS:
		describe_rlimit(spec, report->item, r, err);
		break;
	default:
		err_set(err, r, "%s", step_words[report->step]);
	}
	return -1;
}
