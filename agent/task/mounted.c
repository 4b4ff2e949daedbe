/* A mount comes from a root process by way of ecs-agent, which could not make one up. */
#include "agent/task/mounted.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "agent/task/mount.h"
#include "agent/task/volume.h"
#include "agent/volume/protocol.h"
#include "lib/fd.h"
#include "lib/ipc.h"
#include "lib/json.h"
#include "lib/log.h"
#include "lib/parse.h"

#define ABORT_AGAIN_USEC (5 * 1000000ull)

struct mounted_volume {
	struct mounted_volume *next;
	int lifeline_fd;
	char name[VOLUME_NAME_MAX + 1];
};

int mounted_init(struct mounted_volumes *volumes, const char *run_dir, const char *dir,
                 struct err *err)
{
	char path[PATH_MAX];
	int r;

	volumes->dir = dir;
	if (snprintf(path, sizeof(path), "%s/" VOLUME_MOUNTS_DIR, run_dir) >= PATH_MAX)
		return err_text(err, -ENAMETOOLONG, "the runtime directory's path is too long");
	r = sys_umount(path, MNT_DETACH);
	return r < 0 && r != -EINVAL && r != -ENOENT ? err_set(err, r, "unmount %s", path) : 0;
}

void mounted_done(struct mounted_volumes *volumes)
{
	while (volumes->first) {
		struct mounted_volume *volume = volumes->first;

		volumes->first = volume->next;
		fd_close(volume->lifeline_fd);
		free(volume);
	}
	volumes->n = 0;
}

static struct mounted_volume *find(const struct mounted_volumes *volumes, const char *name)
{
	for (struct mounted_volume *v = volumes->first; v; v = v->next)
		if (strcmp(v->name, name) == 0)
			return v;
	return NULL;
}

/* --- the lifeline --- */

/* It lies there since before ecs-agent was told: nothing is waited for. */
static int receive_mount(int lifeline_fd, int *ret_mount_fd)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))];
	char text[16];
	struct iovec iov = {.iov_base = text, .iov_len = sizeof(text) - 1};
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	const struct cmsghdr *header;
	ssize_t n = recvmsg(lifeline_fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n < 0)
		return -errno;
	header = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
	if (!header || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS ||
	    header->cmsg_len != CMSG_LEN(sizeof(int)))
		return -EPROTO;
	memcpy(ret_mount_fd, CMSG_DATA(header), sizeof(int));
	text[n] = '\0';
	if (strcmp(text, VOLUME_MOUNT) == 0)
		return 0;
	*ret_mount_fd = fd_close(*ret_mount_fd);
	return -EPROTO;
}

static int send_held(int lifeline_fd)
{
	_cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec iov = {.iov_base = (char *)VOLUME_HELD, .iov_len = strlen(VOLUME_HELD)};
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&msg);

	if (pidfd < 0)
		return -errno;
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &pidfd, sizeof(int));
	if (sendmsg(lifeline_fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
		return 0;
	/* Of a file system without a server it has ended already, which is as good. */
	return errno == EPIPE || errno == ECONNRESET ? 0 : -errno;
}

/* --- the place --- */

static int make_place(struct mounted_volumes *volumes, struct err *err)
{
	int r;

	if (volumes->has_place)
		return 0;
	if (mkdir(volumes->dir, 0700) < 0 && errno != EEXIST)
		return err_set(err, -errno, "make %s", volumes->dir);
	r = sys_mount("tmpfs", volumes->dir, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC,
	              "size=256k,nr_inodes=256,mode=0700");
	if (r == 0)
		r = sys_mount(NULL, volumes->dir, NULL, MS_PRIVATE, NULL);
	if (r < 0)
		return err_set(err, r, "mount a tmpfs at %s", volumes->dir);
	volumes->has_place = true;
	return 0;
}

static int attach(struct mounted_volumes *volumes, const char *name, int mount_fd, struct err *err)
{
	_cleanup_close_ int target = -EBADF;
	char path[PATH_MAX];
	int r;

	r = make_place(volumes, err);
	if (r < 0)
		return r;
	if (snprintf(path, sizeof(path), "%s/%s", volumes->dir, name) >= PATH_MAX)
		return err_text(err, -ENAMETOOLONG, "the path of volume %s is too long", name);
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return err_set(err, -errno, "make %s", path);
	target = open(path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (target < 0)
		return err_set(err, -errno, "open %s", path);
	r = mount_attach(mount_fd, target);
	return r < 0 ? err_set(err, r, "attach volume %s", name) : 0;
}

static int take(struct mounted_volumes *volumes, const char *name, int lifeline_fd, struct err *err)
{
	_cleanup_close_ int mount_fd = -EBADF;
	uid_t uid = (uid_t)-1;
	int r;

	r = ipc_peer(lifeline_fd, &uid, NULL, NULL);
	if (r < 0 || uid != 0)
		return err_text(err, -EACCES, "volume %s does not come from ecs-volume", name);
	r = receive_mount(lifeline_fd, &mount_fd);
	if (r < 0)
		return err_set(err, r, "take the mount of volume %s", name);
	r = attach(volumes, name, mount_fd, err);
	if (r < 0)
		return r;
	r = send_held(lifeline_fd);
	return r < 0 ? err_set(err, r, "say that volume %s is held", name) : 0;
}

int mounted_take(struct mounted_volumes *volumes, const char *name, int lifeline_fd,
                 struct err *err)
{
	_cleanup_close_ int lifeline = lifeline_fd;
	struct mounted_volume *volume;
	int r;

	if (!name_is_component(name, VOLUME_NAME_MAX) || name[0] == '.')
		return err_text(err, -EINVAL, "\"%.80s\" is no name of a volume", name);
	if (find(volumes, name))
		return 0;
	if (volumes->n == MOUNTED_VOLUMES_MAX)
		return err_text(err, -E2BIG, "a task can have %d mounted volumes",
		                MOUNTED_VOLUMES_MAX);
	volume = calloc(1, sizeof(*volume));
	if (!volume)
		return err_oom(err);
	r = take(volumes, name, lifeline, err);
	if (r < 0) {
		free(volume);
		return r;
	}
	strcpy(volume->name, name);
	volume->lifeline_fd = TAKE_FD(lifeline);
	volume->next = volumes->first;
	volumes->first = volume;
	volumes->n++;
	return 0;
}

struct json_object *mounted_names(const struct mounted_volumes *volumes)
{
	struct json_object *array = json_object_new_array();

	for (const struct mounted_volume *v = volumes->first; v && array; v = v->next)
		if (json_append(array, json_object_new_string(v->name)) < 0) {
			json_object_put(array);
			return NULL;
		}
	return array;
}

/* --- containers that do not end --- */

static bool is_being_killed(const struct container *containers)
{
	for (const struct container *c = containers; c; c = c->next)
		if (c->kill_sent && c->status == CONTAINER_RUNNING)
			return true;
	return false;
}

void mounted_check_stuck(struct mounted_volumes *volumes, const struct container *containers,
                         uint64_t now_usec)
{
	if (!volumes->first || !is_being_killed(containers)) {
		volumes->kill_usec = volumes->abort_usec = 0;
		return;
	}
	if (volumes->kill_usec == 0) {
		volumes->kill_usec = now_usec;
		volumes->abort_usec = now_usec + MOUNTED_STUCK_USEC;
	}
	if (now_usec < volumes->abort_usec)
		return;
	volumes->abort_usec = now_usec + ABORT_AGAIN_USEC;
	log_warning(NULL, 0,
	            "a container that was killed does not end: "
	            "giving up requests of the task's volumes");
	for (const struct mounted_volume *v = volumes->first; v; v = v->next)
		(void)send(v->lifeline_fd, VOLUME_ABORT, strlen(VOLUME_ABORT),
		           MSG_NOSIGNAL | MSG_DONTWAIT); /* without a server nobody is there */
}

uint64_t mounted_deadline(const struct mounted_volumes *volumes, const struct container *containers)
{
	return volumes->first && is_being_killed(containers) ? volumes->abort_usec : 0;
}
