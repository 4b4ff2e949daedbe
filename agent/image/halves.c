/* The parent becomes the unpack half: what the launcher waits for is the one that holds the store.
 */
#include "agent/image/halves.h"

#include "agent/image/network.h"
#include "agent/image/unpack.h"
#include "lib/envfile.h"
#include "lib/fd.h"
#include "lib/log.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int open_images(const char *state_dir, char path[static PATH_MAX], int *ret_fd,
                       struct err *err)
{
	if (snprintf(path, PATH_MAX, "%s/images", state_dir) >= PATH_MAX)
		return err_text(err, -ENAMETOOLONG, "state directory %.60s... is too long",
		                state_dir);
	/* ecs-launcher makes both; by hand this may be the first program that runs. */
	if (mkdir(state_dir, 0755) < 0 && errno != EEXIST)
		return err_set(err, -errno, "make %s", state_dir);
	if (mkdir(path, 0711) < 0 && errno != EEXIST)
		return err_set(err, -errno, "make %s", path);
	*ret_fd = open(path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
	return *ret_fd < 0 ? err_set(err, -errno, "open %s", path) : 0;
}

static _Noreturn void run_network_half(const struct options *options,
                                       const struct http_settings *settings, int client_fd,
                                       int unpack_fd)
{
	const struct network_options network = {
		.settings = settings,
		.runtime_dir = options->runtime_dir,
		.client_fd = client_fd,
		.unpack_fd = unpack_fd,
	};
	struct err err = {};
	int r = network_serve(&network, &err);

	if (r < 0)
		log_err(NULL, 0, "network half: %s", err.text);
	exit(r < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
}

int halves_run(const struct options *options, int client_fd, struct err *err)
{
	_cleanup_close_ int client = client_fd, images_fd = -EBADF, ours = -EBADF, theirs = -EBADF;
	_cleanup_(envfile_freep) struct envfile *config = NULL;
	struct http_settings settings;
	char path[PATH_MAX];
	int fds[2], status = 0, r;
	pid_t pid;

	r = envfile_open(options->config, &config, err);
	if (r < 0)
		return err_prefix(err, r, "%s", options->config);
	http_settings_load(config, &settings);
	r = open_images(options->state_dir, path, &images_fd, err);
	if (r < 0)
		return r;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return err_set(err, -errno, "make a socket");
	ours = fds[0];
	theirs = fds[1];

	pid = fork();
	if (pid < 0)
		return err_set(err, -errno, "split into two halves");
	if (pid == 0) {
		fd_close(images_fd);
		fd_close(ours);
		run_network_half(options, &settings, client, theirs);
	}
	client = fd_close(client);
	theirs = fd_close(theirs);

	(void)signal(SIGPIPE, SIG_IGN);
	r = unpack_serve(TAKE_FD(ours), TAKE_FD(images_fd), path, err);
	if (r < 0)
		(void)kill(pid, SIGKILL); /* it would wait for answers */
	if (waitpid(pid, &status, 0) == pid && r == 0 && status != 0)
		return err_text(err, -EIO, "the network half failed");
	return r;
}
