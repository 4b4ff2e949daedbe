/*
 * ecs-network: the one owner of host-wide network state. The launcher starts it as root with the
 * connection to ecs-agent on descriptor 3; it gives up what it does not need, answers one request
 * after the other, and ends with the connection. A program that somebody killed half way has left
 * nothing that the next one does not find in the kernel.
 */
#include "lib/confine.h"
#include "lib/envfile.h"
#include "lib/fd.h"
#include "lib/ipc.h"
#include "lib/json.h"
#include "lib/log.h"
#include "lib/options.h"
#include "netns/bridge.h"
#include "netns/network.h"

#include <errno.h>
#include <linux/capability.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>

#define CONTROL_FD        3
#define REQUEST_MAX_BYTES (1024 * 1024) /* a prune that keeps 15000 containers */
#define LOCK_NAME         "network.lock"

/*
 * CAP_NET_ADMIN: links, nft, sysctls. CAP_SYS_ADMIN: entering namespaces and moving links there,
 * and bpf(2) (it includes CAP_BPF). CAP_NET_BIND_SERVICE: holding host ports below 1024.
 */
static int privileges_drop(struct err *err)
{
	static const char *const calls[] = {
		"bpf",   /* the host's endpoint */
		"setns", /* filling a container's namespace, and coming back */
		NULL,
	};

	return confine(&(struct confinement){.capabilities = 1ULL << CAP_NET_ADMIN |
	                                                     1ULL << CAP_SYS_ADMIN |
	                                                     1ULL << CAP_NET_BIND_SERVICE,
	                                     .syscalls = calls},
	               err);
}

/* One ecs-network at a time. The next one waits for the last request of the one before; the
 * administrator's --remove does not wait for a running agent, and needs no runtime directory. */
static int lock_take(const struct options *options, bool wait, struct err *err)
{
	_cleanup_close_ int dir_fd = open(options->runtime_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	_cleanup_close_ int fd = -EBADF;

	if (dir_fd < 0)
		return err_set(err, -errno, "open the runtime directory %s", options->runtime_dir);
	fd = openat(dir_fd, LOCK_NAME, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_set(err, -errno, "open %s/" LOCK_NAME, options->runtime_dir);
	while (flock(fd, wait ? LOCK_EX : LOCK_EX | LOCK_NB) < 0) {
		if (errno == EWOULDBLOCK)
			return err_text(err, -EBUSY,
			                "another ecs-network is at work; stop ecs.service first");
		if (errno != EINTR)
			return err_set(err, -errno, "lock %s/" LOCK_NAME, options->runtime_dir);
	}
	return TAKE_FD(fd); /* held until the process ends */
}

/* Wait until the connection can be read or, with something unsent, written. */
static int connection_wait(struct ipc_conn *conn)
{
	struct pollfd waiting = {.fd = ipc_conn_fd(conn),
	                         .events = ipc_conn_wants_write(conn) ? POLLOUT : POLLIN};

	if (poll(&waiting, 1, -1) < 0 && errno != EINTR)
		return -errno;
	return ipc_conn_wants_write(conn) ? ipc_conn_flush(conn) : 0;
}

/* The answer's descriptors are ours until it is sent, then the copies of the message's. */
static int request_answer(struct network *network, struct ipc_conn *conn,
                          struct ipc_message *request)
{
	struct ipc_message answer = {0};
	struct err err = {0};
	int r = network_handle(network, request, &answer, &err);

	if (r < 0) {
		log_debug(NULL, "%s: %s", json_text(request->body, "type"), err.text);
		return ipc_conn_send_error(conn, request->body, r, &err);
	}
	r = ipc_conn_send(conn, answer.body, answer.fds, answer.n_fds);
	ipc_message_done(&answer);
	return r;
}

static int connection_serve(struct network *network, struct ipc_conn *conn, struct err *err)
{
	int r = 0;

	while (r >= 0) {
		struct ipc_message request = {0};

		/* Answers leave before the next request is taken: one is done at a time. */
		r = ipc_conn_wants_write(conn) ? 0 : ipc_conn_receive(conn, &request, err);
		if (r > 0)
			r = request_answer(network, conn, &request);
		else if (r == 0)
			r = connection_wait(conn);
		ipc_message_done(&request);
	}
	return r;
}

static int run(const struct options *options, bool is_removal, struct err *err)
{
	_cleanup_(envfile_freep) struct envfile *config = NULL;
	_cleanup_(network_freep) struct network *network = NULL;
	_cleanup_(ipc_conn_freep) struct ipc_conn *conn = NULL;
	_cleanup_close_ int lock_fd = -EBADF;
	struct bridge bridge;
	int r;

	if (!is_removal) {
		r = ipc_conn_new(CONTROL_FD, REQUEST_MAX_BYTES, false, &conn);
		if (r < 0)
			return err_set(err, r, "descriptor %d, the connection to ecs-agent",
			               CONTROL_FD);
	}
	r = envfile_open(options->config, &config, err);
	if (r == 0)
		r = bridge_configure(config, &bridge, err);
	if (r < 0)
		return err_prefix(err, r, "%s", options->config);
	lock_fd = lock_take(options, !is_removal, err);
	if (lock_fd < 0 && !(is_removal && lock_fd == -ENOENT))
		return lock_fd;
	r = privileges_drop(err);
	if (r == 0)
		r = network_new(&bridge, &network, err);
	if (r < 0)
		return r;

	if (is_removal)
		return network_remove(network, err);
	r = connection_serve(network, conn, err);
	return r == -EPIPE ? 0 : r; /* ecs-agent is done with us */
}

int main(int argc, char **argv)
{
	bool is_removal = false;
	const struct option_spec specs[] = {
		{.name = "remove",
	         .help = "remove the bridge, its nft table and the host's endpoint address",
	         .flag = &is_removal},
	};
	struct options options;
	struct err err = {0};
	int first;
	int r;

	log_init("ecs-network");
	r = options_parse(argc, argv, "ecs-network [OPTION]...", specs, ARRAY_SIZE(specs), &options,
	                  &first, &err);
	if (r > 0)
		return EXIT_SUCCESS;
	if (r == 0 && first < argc)
		r = err_text(&err, -EINVAL, "argument %s: none is expected", argv[first]);
	if (r == 0)
		r = run(&options, is_removal, &err);
	if (r < 0) {
		log_err(NULL, 0, "%s", err.text);
		return EXIT_FAILURE;
	}
	return EXIT_SUCCESS;
}
