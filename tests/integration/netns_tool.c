/* Opens the endpoint of the network namespace at a path, and hands its socket and BPF link over
 * with one byte through an AF_UNIX socket: netns_tool PATH FD. */
#include "lib/fd.h"
#include "netns/endpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static int send_endpoint(int fd, const struct endpoint *endpoint)
{
	union {
		char bytes[CMSG_SPACE(2 * sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct iovec byte = {.iov_base = "e", .iov_len = 1};
	struct msghdr message = {.msg_iov = &byte,
	                         .msg_iovlen = 1,
	                         .msg_control = control.bytes,
	                         .msg_controllen = sizeof(control.bytes)};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	int fds[2] = {endpoint->socket_fd, endpoint->link_fd};

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(fds));
	memcpy(CMSG_DATA(header), fds, sizeof(fds));
	return sendmsg(fd, &message, 0) == 1 ? 0 : -errno;
}

int main(int argc, char **argv)
{
	struct endpoint endpoint = ENDPOINT_EMPTY;
	struct err err = {0};
	_cleanup_close_ int netns = -EBADF;

	if (argc != 3)
		return EXIT_FAILURE;
	netns = open(argv[1], O_RDONLY | O_CLOEXEC);
	if (netns < 0 || endpoint_open(netns, &endpoint, &err) < 0) {
		fprintf(stderr, "%s: %s\n", argv[1], err.text);
		return EXIT_FAILURE;
	}
	/* Not endpoint_close(): that would take the program off for the receiver as well. */
	return send_endpoint((int)strtol(argv[2], NULL, 10), &endpoint) < 0 ? EXIT_FAILURE
	                                                                    : EXIT_SUCCESS;
}
