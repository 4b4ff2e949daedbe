/*
 * The steps of a start between their files: child.c has the table and runs them, each file has the
 * steps of one kind. A step returns 0 or -errno, with its item in child->where; like all in the
 * child, it allocates nothing.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "agent/task/child.h"
#include "agent/task/mount.h"
#include "agent/task/user.h"

#define QUIET (MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)

struct child {
	const struct child_plan *plan;
	const struct container_spec *spec;
	struct child_report where; /* the step it is at */
	int root_fd;               /* of the overlay, O_PATH */
	int proc_fd;               /* of our own procfs */
	int dev_fd;                /* of our own /dev */
	int null_fd;               /* our own /dev/null, O_PATH */
	int null_rdwr_fd;          /* the same, opened */
	int console_fd;            /* the container's side of its terminal */
	int init_pipe[2];          /* at its end once the init process runs its program */
	struct user_ids ids;
};

/* What the items of CHILD_OWN_DIRECTORIES and CHILD_ETC count. */
extern const char *const child_own_directories[3];
extern const char *const child_etc_files[3];

/* The item of CHILD_EXEC that tells "found, but its interpreter is not" from "not found". */
#define CHILD_ITEM_FOUND 1

struct child_step_entry {
	enum child_step step;
	int (*run)(struct child *child);
};

/* child.c: run the steps; does not return, for the last one executes the program. */
_Noreturn void child_run_steps(struct child *child, const struct child_step_entry *steps, size_t n);
struct child child_init(const struct child_plan *plan);
/* fd: one to send along, or -EBADF. */
bool child_send_report(const struct child_plan *plan, struct child_report report, int fd);
int child_set_stdio(struct child *child);
/* Go on in a new process of the namespace for children: one of our parent, so that it is the one to
 * collect it. The calling process ends. */
int child_fork_inside(struct child *child);
int child_take_terminal(struct child *child);
int child_enter_cwd(struct child *child);
int child_execute(struct child *child);

/* child_userns.c: of a container in a user namespace; without one nothing is done. */
int child_join_owned(struct child *child);
int child_enter_userns(struct child *child);
int child_own_mounts(struct child *child);
/* Of a mount of source (any descriptor in it) that is attached nowhere: show the container's ids.
 */
int child_map_tree(struct child *child, int tree, bool recursive, int source);
/* Ids of the container as the host's; false: it has none of that number. */
bool child_host_ids(const struct child *child, uid_t uid, gid_t gid, uid_t *ret_uid,
                    gid_t *ret_gid);
int child_check_user(const struct child *child); /* -EDOM: an id that the container has not got */

/* mount_new() of a file system whose files have the container's label. */
int child_mount_new(const struct child *child, const char *type, const struct mount_option *options,
                    size_t n_options, unsigned int attr);

/* child_console.c: the terminal, where one is asked for. */
int child_make_console(struct child *child);      /* of a new /dev; it is /dev/console */
int child_make_exec_console(struct child *child); /* of a container that runs */

/* child_kernel.c: file systems of the kernel, and what is written there. */
int child_make_own_directories(struct child *child);
int child_mount_proc(struct child *child);
int child_set_oom_score(struct child *child);
int child_set_sysctls(struct child *child);
int child_mount_dev(struct child *child);
int child_mount_shm(struct child *child);
int child_make_devices(struct child *child);
int child_mount_sys(struct child *child);
int child_mount_cgroup(struct child *child);

/* child_mounts.c: the task's mounts, and what the container must not see or write. */
int child_make_mounts(struct child *child);
int child_mount_execute_command(struct child *child);
int child_mount_etc_files(struct child *child);
int child_make_cwd(struct child *child);
int child_make_readonly_paths(struct child *child);
int child_mask_paths(struct child *child);
int child_make_root_readonly(struct child *child);

/* child_identity.c: who the program is and what it may do. */
int child_set_label(struct child *child);
int child_new_keyring(struct child *child);
int child_find_user(struct child *child);
int child_set_rlimits(struct child *child);
int child_early_seccomp(struct child *child);
int child_drop_privileges(struct child *child);
int child_no_new_privs(struct child *child);
