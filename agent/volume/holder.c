/* What may hang forever happens in a child, so that this process can make it fail. */
#include "agent/volume/holder.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "agent/volume/protocol.h"
#include "lib/fd.h"
#include "lib/log.h"

#define PATIENCE_MSEC 30000 /* of what the server is waited for before it is given up */
#define ABORT_MSEC    1000  /* from one attempt to make requests fail to the next */
#define ABORTS_MAX    60    /* then whoever still waits does so without us */

/* Wait for a process: 1 when it has ended, 0 after the time. */
static int wait_pidfd(int fd, int msec)
{
	struct pollfd pollfd = {.fd = fd, .events = POLLIN};

	return poll(&pollfd, 1, msec) > 0;
}

/* Until the process has ended; patiently first, then making requests fail. */
static void wait_or_abort(const struct holder *holder, int pidfd, const char *what)
{
	if (wait_pidfd(pidfd, PATIENCE_MSEC))
		return;
	log_warning(NULL, 0, "volume %s: %s: the server does not answer, giving up its requests",
	            holder->name, what);
	for (int i = 0; i < ABORTS_MAX; i++) {
		place_abort(holder->place);
		if (wait_pidfd(pidfd, ABORT_MSEC))
			return;
	}
	log_err(NULL, 0, "volume %s: %s: still waiting for the server", holder->name, what);
}

struct lifeline_message {
	char text[16];
	int fd; /* owned; -EBADF: none */
};

/* false: the other end is closed. */
static bool receive(int lifeline_fd, struct lifeline_message *ret)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = {.iov_base = ret->text, .iov_len = sizeof(ret->text) - 1};
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *header;
	ssize_t n;

	ret->fd = -EBADF;
	n = recvmsg(lifeline_fd, &msg, MSG_CMSG_CLOEXEC);
	if (n <= 0)
		return n < 0 && errno == EINTR;
	ret->text[n] = '\0';
	header = CMSG_FIRSTHDR(&msg);
	if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
		memcpy(&ret->fd, CMSG_DATA(header), sizeof(int));
	return true;
}

/* The pidfd of the supervisor, or -EBADF: it never took the mount. */
static int serve_lifeline(const struct holder *holder)
{
	_cleanup_close_ int pidfd = -EBADF;
	struct lifeline_message message = {.text = ""};

	while (receive(holder->lifeline_fd, &message)) {
		if (strcmp(message.text, VOLUME_ABORT) == 0) {
			log_warning(NULL, 0,
			            "volume %s: processes that were killed wait for the server, "
			            "giving up their requests",
			            holder->name);
			place_abort(holder->place);
		} else if (strcmp(message.text, VOLUME_HELD) == 0 && message.fd >= 0) {
			fd_close(pidfd);
			pidfd = TAKE_FD(message.fd);
		}
		fd_close(message.fd);
	}
	return TAKE_FD(pidfd);
}

/* Nobody else has the file system any more: what is not written yet is written by this. */
static void flush(const struct holder *holder)
{
	_cleanup_close_ int pidfd = -EBADF;
	pid_t pid = fork();

	if (pid < 0)
		return;
	if (pid == 0) {
		int fd = openat(holder->root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		(void)prctl(PR_SET_NAME, "ecs-volume-sync");
		_exit(fd < 0 || syncfs(fd) < 0);
	}
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (pidfd >= 0)
		wait_or_abort(holder, pidfd, "flush");
	(void)waitpid(pid, NULL, WNOHANG);
}

void holder_run(struct holder *holder)
{
	_cleanup_close_ int supervisor = serve_lifeline(holder);

	if (supervisor >= 0)
		wait_or_abort(holder, supervisor, "end of the task");
	flush(holder);
	holder->root_fd = fd_close(holder->root_fd);
	place_done(holder->place);
}
