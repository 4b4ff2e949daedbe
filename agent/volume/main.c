/*
 * ecs-volume: mounts one file system for one task and holds it (protocol.h). Root, started by
 * ecs-launcher, with few privileges (privileges.h); whatever hangs here hangs alone.
 */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "agent/launcher/protocol.h"
#include "agent/task/mount.h"
#include "agent/volume/holder.h"
#include "agent/volume/mounter.h"
#include "agent/volume/place.h"
#include "agent/volume/privileges.h"
#include "agent/volume/protocol.h"
#include "agent/volume/request.h"
#include "agent/volume/shared.h"
#include "lib/fd.h"
#include "lib/ipc.h"
#include "lib/json.h"
#include "lib/log.h"
#include "lib/options.h"

#define REQUEST_MAX_BYTES (64 * 1024)
#define REQUEST_MSEC      10000
#define OUTPUT_MAX        400

/* --- the child that mounts --- */

struct output {
	char text[OUTPUT_MAX + 1];
	size_t n;
};

static pid_t start_mounter(const struct mounter *mounter, int *ret_output_fd, struct err *err)
{
	_cleanup_close_ int read_fd = -EBADF, write_fd = -EBADF;
	int fds[2];
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_set(err, -errno, "make a pipe");
	read_fd = fds[0];
	write_fd = fds[1];
	pid = fork();
	if (pid < 0)
		return err_set(err, -errno, "fork");
	if (pid == 0) {
		/* Not of mount.efs: its tunnel stays. */
		if (!mounter->helper)
			(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)setpgid(0, 0);
		if (dup2(write_fd, STDOUT_FILENO) < 0 || dup2(write_fd, STDERR_FILENO) < 0)
			_exit(EXIT_FAILURE);
		(void)signal(SIGPIPE, SIG_DFL);
		mounter_run(mounter);
	}
	(void)setpgid(pid, pid); /* here and there: whoever comes first */
	if (fd_set_nonblock(read_fd, true) < 0)
		return err_text(err, -EIO, "make a pipe non-blocking");
	*ret_output_fd = TAKE_FD(read_fd);
	return pid;
}

/* What comes first is kept: it is the cause. Control characters would break lines of logs. */
static bool read_output(int fd, struct output *output)
{
	char buf[512];
	ssize_t n = read(fd, buf, sizeof(buf));

	for (ssize_t i = 0; i < n; i++)
		if (output->n < OUTPUT_MAX && (output->n > 0 || buf[i] > ' '))
			output->text[output->n++] = (unsigned char)buf[i] < ' ' ? ' ' : buf[i];
	return n > 0;
}

/* 0, -EPIPE when nobody waits for the mount any more, or what the child said. */
static int wait_mounter(struct ipc_conn *conn, pid_t pid, int output_fd, struct err *err)
{
	_cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct output output = {0};
	int status = 0;

	if (pidfd < 0)
		return err_set(err, -errno, "watch the mount");
	for (;;) {
		struct pollfd fds[] = {{.fd = ipc_conn_fd(conn), .events = POLLIN},
		                       {.fd = output_fd, .events = POLLIN},
		                       {.fd = pidfd, .events = POLLIN}};

		if (poll(fds, ARRAY_SIZE(fds), -1) < 0 && errno != EINTR)
			return err_set(err, -errno, "poll");
		if (fds[0].revents) { /* nothing more is asked for on this connection */
			(void)kill(-pid, SIGKILL);
			return err_text(err, -EPIPE, "the mount was given up");
		}
		if (fds[1].revents && !read_output(output_fd, &output) &&
		    !(fds[1].revents & POLLIN))
			output_fd = fd_close(output_fd);
		if (fds[2].revents)
			break;
	}
	while (output_fd >= 0 && read_output(output_fd, &output))
		;
	fd_close(output_fd);
	while (output.n > 0 && output.text[output.n - 1] <= ' ')
		output.text[--output.n] = '\0';
	if (waitpid(pid, &status, 0) < 0)
		return err_set(err, -errno, "wait for the mount");
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;
	return err_text(err, -EIO, "%s",
	                output.n > 0 ? output.text : "the mount failed without a word");
}

/* --- handing over --- */

static int send_mount(int lifeline_fd, int mount_fd, struct err *err)
{
	_Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec iov = {.iov_base = (char *)VOLUME_MOUNT, .iov_len = strlen(VOLUME_MOUNT)};
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&msg);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(header), &mount_fd, sizeof(int));
	return sendmsg(lifeline_fd, &msg, MSG_NOSIGNAL) < 0
	               ? err_set(err, -errno, "hand over the mount")
	               : 0;
}

/* Our end of the lifeline; the other one goes to ecs-agent with the answer. */
static int hand_over(struct ipc_conn *conn, struct json_object *request, int root_fd,
                     struct err *err)
{
	_cleanup_close_ int ours = -EBADF, theirs = -EBADF, mount_fd = mount_clone(root_fd, true);
	_cleanup_json_ struct json_object *answer = ipc_message_new("mounted", request);
	int fds[2], r;

	if (mount_fd < 0)
		return err_set(err, mount_fd, "copy the mount");
	if (!answer)
		return err_oom(err);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
		return err_set(err, -errno, "make a lifeline");
	ours = fds[0];
	theirs = fds[1];
	r = send_mount(ours, mount_fd, err);
	if (r == 0) {
		r = ipc_conn_send(conn, answer, &theirs, 1);
		if (r < 0)
			(void)err_set(err, r, "answer ecs-agent");
	}
	return r < 0 ? r : TAKE_FD(ours);
}

/* --- one mount --- */

static int mount_it(struct ipc_conn *conn, const struct options *options,
                    const struct volume_request *request, struct place *place, int *ret_root_fd,
                    struct err *err)
{
	struct mounter mounter = {.request = request};
	struct policy policy = {0};
	char helper[PATH_MAX];
	int output_fd = -EBADF, r;
	pid_t pid;

	if (request->is_efs && program_find("mount.efs", helper, sizeof(helper)) == 0)
		mounter.helper = helper;
	r = mounter_check(&mounter, err);
	if (r == 0 && request->shared)
		r = shared_volume_check(options->state_dir, request, err);
	if (r == 0)
		r = policy_read(options->config, &policy, err);
	if (r < 0)
		return r;
	mounter.policy = &policy;
	mounter.place = place->path;
	r = place_make(options->runtime_dir, request, mounter.helper != NULL, place, err);
	if (r == 0) {
		pid = start_mounter(&mounter, &output_fd, err);
		r = pid < 0 ? pid : wait_mounter(conn, pid, output_fd, err);
	}
	policy_done(&policy);
	if (r == 0)
		r = privileges_drop_helpers(err);
	if (r < 0)
		return r;
	if (!place_is_mounted(place))
		return err_text(err, -EIO, "mount.efs mounted nothing at %s", place->path);
	/* Not for reading: a server that gives root no rights may refuse that. */
	*ret_root_fd = open(place->path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return *ret_root_fd < 0 ? err_set(err, -errno, "open the file system") : 0;
}

static int receive_request(struct ipc_conn *conn, struct ipc_message *ret, struct err *err)
{
	struct pollfd pollfd = {.fd = ipc_conn_fd(conn), .events = POLLIN};
	int r = 0;

	while (r == 0) {
		if (poll(&pollfd, 1, REQUEST_MSEC) <= 0)
			return err_text(err, -ETIMEDOUT, "no request in time");
		r = ipc_conn_receive(conn, ret, err);
	}
	if (r < 0)
		return r;
	if (strcmp(json_text(ret->body, "type"), "mount") != 0)
		return err_text(err, -ENOSYS, "unknown request \"%.64s\"",
		                json_text(ret->body, "type"));
	return 0;
}

/* Answered or refused; then *ret_holder says what is to be held, if anything (root_fd). */
static int serve(struct ipc_conn *conn, const struct options *options, struct place *place,
                 struct holder *ret_holder, struct err *err)
{
	struct ipc_message message = {0};
	struct volume_request request;
	int r;

	r = receive_request(conn, &message, err);
	if (r == 0)
		r = volume_request_parse(message.body, &request, err);
	if (r == 0) {
		ret_holder->name = strdup(request.name);
		r = mount_it(conn, options, &request, place, &ret_holder->root_fd, err);
	}
	if (r == 0)
		r = hand_over(conn, message.body, ret_holder->root_fd, err);
	if (r >= 0)
		ret_holder->lifeline_fd = r;
	else
		(void)ipc_conn_send_error(conn, message.body, r, err); /* it may have gone */
	if (r >= 0 && !volume_request_has_server(&request))
		ret_holder->lifeline_fd = fd_close(ret_holder->lifeline_fd);
	ipc_message_done(&message);
	return r < 0 ? r : 0;
}

static int run(const struct options *options, struct err *err)
{
	struct place place = {.task_fd = -EBADF};
	struct holder holder = {.place = &place, .root_fd = -EBADF, .lifeline_fd = -EBADF};
	struct ipc_conn *conn = NULL;
	int r;

	if (fd_set_cloexec(LAUNCHER_CONTROL_FD, true) < 0)
		return err_text(err, -EBADF, "descriptor %d must be the connection of ecs-agent",
		                LAUNCHER_CONTROL_FD);
	r = ipc_conn_new(LAUNCHER_CONTROL_FD, REQUEST_MAX_BYTES, true, &conn);
	if (r < 0)
		return err_set(err, r, "take the connection");
	r = serve(conn, options, &place, &holder, err);
	ipc_conn_free(conn);
	if (r == 0 && holder.lifeline_fd >= 0) {
		place_leave_host(&place);
		(void)malloc_trim(0);
		holder_run(&holder);
	} else {
		fd_close(holder.root_fd);
		place_done(&place);
	}
	fd_close(holder.lifeline_fd);
	free((char *)holder.name);
	return r;
}

int main(int argc, char **argv)
{
	struct options options;
	struct err err = {0};
	int r, first;

	log_init("ecs-volume");
	(void)prctl(PR_SET_NAME, "ecs-volume");
	r = options_parse(argc, argv, "ecs-volume [OPTION]...", NULL, 0, &options, &first, &err);
	if (r > 0)
		return EXIT_SUCCESS;
	if (r == 0 && first < argc)
		r = err_text(&err, -EINVAL, "ecs-volume takes no argument: %s", argv[first]);
	(void)signal(SIGPIPE, SIG_IGN);
	if (r == 0)
		r = privileges_drop(&err);
	if (r == 0)
		r = run(&options, &err);
	if (r < 0)
		log_err(NULL, 0, "%s", err.text);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
