/* What is shared is made once, with the task; a container's part is a few flags of clone3(2). */
#include "agent/task/namespaces.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "agent/task/mount.h"
#include "agent/task/pause.h"
#include "lib/fd.h"

#define SHM_BYTES (64ull * 1024 * 1024) /* Docker's default */
#define SHM_ATTR  (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)

static int forbidden(const char *what, struct err *err)
{
	return err_text(err, -EPERM, "%s host is not allowed here (ECS_DISABLE_HOST_PID_IPC)",
	                what);
}

int namespaces_check(const struct policy *policy, enum ipc_mode mode, struct err *err)
{
	return mode == IPC_MODE_HOST && policy->host_pid_ipc_disabled ? forbidden("ipcMode", err)
	                                                              : 0;
}

static int check(const struct task_spec *spec, const struct namespaces_config *config,
                 struct err *err)
{
	if (spec->pid_mode == PID_MODE_HOST && config->policy->host_pid_ipc_disabled)
		return forbidden("pidMode", err);
	if ((spec->pid_mode == PID_MODE_HOST) != config->host_pid)
		return err_text(err, -EINVAL,
		                "pidMode host is for a supervisor that was started with "
		                "--host-pid, and no other mode is");
	return namespaces_check(config->policy, spec->ipc_mode, err);
}

/* Beside the containers' own directories, whose names do not begin with a dot. */
static int mount_in_private(const char *tasks_dir, const char *name, int mount_fd, char *buf,
                            struct err *err)
{
	_cleanup_close_ int target = -EBADF;
	int r;

	if (snprintf(buf, PATH_MAX, "%s/.private/%s", tasks_dir, name) >= PATH_MAX)
		return err_text(err, -ENAMETOOLONG, "the state directory's path is too long");
	if (mkdir(buf, 0700) < 0)
		return err_set(err, -errno, "create %s", buf);
	target = open(buf, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (target < 0)
		return err_set(err, -errno, "open %s", buf);
	r = mount_attach(mount_fd, target);
	return r < 0 ? err_set(err, r, "mount at %s", buf) : 0;
}

static int share_pids(const struct namespaces_config *config, struct namespaces *ret,
                      struct err *err)
{
	struct seccomp_filter filter = {};
	const struct pause_config start = {.empty_dir = config->tasks_dir, .filter = &filter};
	struct pause_process pause_process;
	int r;

	r = seccomp_filter_get(config->seccomp_dir, &seccomp_default, 0, &filter, err);
	if (r < 0)
		return r;
	r = pause_process_start(&start, &pause_process, err);
	seccomp_filter_done(&filter);
	if (r < 0)
		return r;
	ret->pause_pid = pause_process.pid;
	ret->pid_ns_fd = pause_process.pid_ns_fd;
	r = mount_in_private(config->tasks_dir, ".proc", pause_process.proc_fd, ret->proc_dir, err);
	fd_close(pause_process.proc_fd);
	return r;
}

static int share_ipc(const struct task_spec *spec, const struct namespaces_config *config,
                     struct namespaces *ret, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	char size[32];
	const struct mount_option options[] = {{"mode", "1777"}, {"size", size}};

	/* Containers are clones of ours; we have no other use for one. */
	if (unshare(CLONE_NEWIPC) < 0)
		return err_set(err, -errno, "make an IPC namespace");
	snprintf(size, sizeof(size), "%" PRIu64,
	         spec->shm_bytes ? spec->shm_bytes : (uint64_t)SHM_BYTES);
	fd = mount_new("tmpfs", options, ARRAY_SIZE(options), SHM_ATTR);
	if (fd < 0)
		return err_set(err, fd, "make a /dev/shm of %s bytes", size);
	return mount_in_private(config->tasks_dir, ".shm", fd, ret->shm_dir, err);
}

int namespaces_open(const struct task_spec *spec, const struct namespaces_config *config,
                    struct namespaces *ret, struct err *err)
{
	struct namespaces made = NAMESPACES_EMPTY;
	int r = check(spec, config, err);

	if (r == 0 && spec->pid_mode == PID_MODE_TASK)
		r = share_pids(config, &made, err);
	if (r == 0 && spec->ipc_mode == IPC_MODE_TASK)
		r = share_ipc(spec, config, &made, err);
	if (r < 0)
		namespaces_close(&made);
	else
		*ret = made;
	return r;
}

static void unmount(char *dir)
{
	if (!dir[0])
		return;
	(void)sys_umount(dir, MNT_DETACH); /* else it ends with the mount namespace */
	(void)rmdir(dir);
	dir[0] = '\0';
}

/*
 * Its end takes all others of its namespace along, and waits until they have been collected. What
 * was started by us there (containers, execs) is ours to collect, though it is not its parent.
 */
static void end_pause_process(pid_t pause_pid)
{
	pid_t pid;

	(void)kill(pause_pid, SIGKILL); /* ours, and not collected */
	do
		pid = waitpid(-1, NULL, 0);
	while (pid >= 0 ? pid != pause_pid : errno == EINTR);
}

void namespaces_close(struct namespaces *namespaces)
{
	if (namespaces->pause_pid > 0) {
		end_pause_process(namespaces->pause_pid);
		namespaces->pause_pid = 0;
	}
	namespaces->pid_ns_fd = fd_close(namespaces->pid_ns_fd);
	unmount(namespaces->proc_dir);
	unmount(namespaces->shm_dir);
}

uint64_t namespaces_clone_flags(enum pid_mode pid_mode, enum ipc_mode ipc_mode)
{
	uint64_t flags = CLONE_NEWNS | CLONE_NEWUTS;

	if (pid_mode == PID_MODE_PRIVATE)
		flags |= CLONE_NEWPID;
	if (ipc_mode == IPC_MODE_PRIVATE || ipc_mode == IPC_MODE_NONE)
		flags |= CLONE_NEWIPC;
	return flags;
}
