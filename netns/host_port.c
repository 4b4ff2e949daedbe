/* Taking ports of the host by binding sockets. */
#include "netns/host_port.h"

#include "lib/fd.h"

#include <linux/filter.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <sys/socket.h>

const char *port_protocol_to_string(int protocol)
{
	return protocol == IPPROTO_UDP ? "udp" : "tcp";
}

/* A socket that takes nothing in: datagrams would fill its buffer, and connections wait for nobody.
 */
static int socket_mute(int fd)
{
	struct sock_filter drop = BPF_STMT(BPF_RET | BPF_K, 0);
	struct sock_fprog program = {.len = 1, .filter = &drop};

	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) < 0 ? -errno
	                                                                                   : 0;
}

/* Returns the descriptor, or -errno of bind(2) or listen(2). */
static int port_bind(int protocol, uint16_t port, bool listens)
{
	_cleanup_close_ int fd =
		socket(AF_INET, (protocol == IPPROTO_UDP ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC,
	               protocol);
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
	int r;

	if (fd < 0)
		return -errno;
	r = socket_mute(fd);
	if (r < 0)
		return r;
	if (listens && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)) < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -errno;
	if (listens && listen(fd, 0) < 0)
		return -errno;
	return TAKE_FD(fd);
}

/*
 * The connections of whatever listened on a TCP port before stay in TIME_WAIT for a minute: only
 * SO_REUSEADDR gets past them. Others that set it too are kept out by a socket that listens, not by
 * one that is merely bound. Of UDP, SO_REUSEADDR would let anybody else in.
 */
static int given_port_bind(const struct port_mapping *mapping, int *ret_fd, struct err *err)
{
	int fd = port_bind(mapping->protocol, mapping->host_port, mapping->protocol == IPPROTO_TCP);

	if (fd == -EADDRINUSE)
		return err_text(err, fd, "host port %u/%s is already in use", mapping->host_port,
		                port_protocol_to_string(mapping->protocol));
	if (fd < 0)
		return err_set(err, fd, "bind host port %u/%s", mapping->host_port,
		               port_protocol_to_string(mapping->protocol));
	*ret_fd = fd;
	return 0;
}

static int free_port_bind(struct port_mapping *mapping, struct port_range *range, int *ret_fd,
                          struct err *err)
{
	unsigned count = (unsigned)range->last - range->first + 1;
	unsigned next = range->cursor >= range->first && range->cursor < range->last
	                        ? range->cursor + 1u
	                        : range->first;

	for (unsigned i = 0; i < count; i++) {
		int fd = port_bind(mapping->protocol, (uint16_t)next, false);

		if (fd >= 0) {
			mapping->host_port = range->cursor = (uint16_t)next;
			*ret_fd = fd;
			return 0;
		}
		if (fd != -EADDRINUSE && fd != -EACCES)
			return err_set(err, fd, "bind a host port");
		next = next == range->last ? range->first : next + 1;
	}
	return err_text(err, -EADDRINUSE, "a host port is unavailable");
}

int host_ports_bind(struct port_mapping *mappings, size_t n, struct port_range *range, int *fds,
                    struct err *err)
{
	struct port_range left = *range;
	int r = 0;

	for (size_t i = 0; i < n; i++)
		fds[i] = -EBADF;
	for (size_t i = 0; r == 0 && i < n; i++)
		if (mappings[i].host_port)
			r = given_port_bind(&mappings[i], &fds[i], err);
	for (size_t i = 0; r == 0 && i < n; i++)
		if (!mappings[i].host_port)
			r = free_port_bind(&mappings[i], &left, &fds[i], err);

	for (size_t i = 0; r < 0 && i < n; i++)
		fds[i] = fd_close(fds[i]);
	if (r == 0)
		*range = left;
	return r;
}
