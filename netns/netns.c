/*
 * Network namespaces by descriptor. A thread that has left its namespace must never go on outside
 * it: the next socket it makes would be a container's, or the host's. So there is one pair of
 * functions that remembers where the thread was and takes it back.
 */
#include "netns/netns.h"

#include "lib/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

/* The namespace of this thread, which need not be that of the process (/proc/self). */
static int own_namespace_open(struct err *err)
{
	int fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);

	return fd < 0 ? err_set(err, -errno, "open /proc/thread-self/ns/net") : fd;
}

static void own_namespace_return(int own_fd)
{
	if (setns(own_fd, CLONE_NEWNET) < 0)
		abort();
}

static int loopback_up(struct err *err)
{
	_cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq request = {.ifr_name = "lo"};

	if (fd < 0)
		return err_set(err, -errno, "socket");
	if (ioctl(fd, SIOCGIFFLAGS, &request) < 0)
		return err_set(err, -errno, "read the flags of lo");
	request.ifr_flags |= IFF_UP;
	if (ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		return err_set(err, -errno, "set lo up");
	return 0;
}

/* What images made for Docker rely on: ping and ports below 1024 work for every user. */
static int namespace_fill(struct err *err)
{
	static const char *const sysctls[][2] = {
		{"/proc/sys/net/ipv4/ping_group_range", "0 2147483647"},
		{"/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"},
	};
	int r = loopback_up(err);

	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(sysctls); i++) {
		r = file_write(AT_FDCWD, sysctls[i][0], sysctls[i][1]);
		if (r < 0)
			r = err_set(err, r, "write %s to %s", sysctls[i][1], sysctls[i][0]);
	}
	return r;
}

int netns_create(int *ret_fd, struct err *err)
{
	_cleanup_close_ int own = -EBADF;
	_cleanup_close_ int created = -EBADF;
	int r;

	own = own_namespace_open(err);
	if (own < 0)
		return err_prefix(err, own, "create a network namespace");
	if (unshare(CLONE_NEWNET) < 0)
		return err_set(err, -errno, "create a network namespace");

	r = namespace_fill(err);
	if (r == 0) {
		created = own_namespace_open(err);
		r = created < 0 ? created : 0;
	}
	own_namespace_return(own);
	if (r < 0)
		return err_prefix(err, r, "create a network namespace");

	*ret_fd = TAKE_FD(created);
	return 0;
}

static int fill_here(void *arg, struct err *err)
{
	(void)arg;
	return namespace_fill(err);
}

int netns_fill(int netns_fd, struct err *err)
{
	int r = netns_run(netns_fd, fill_here, NULL, err);

	return r < 0 ? err_prefix(err, r, "create a network namespace") : 0;
}

int netns_run(int netns_fd, int (*fn)(void *arg, struct err *err), void *arg, struct err *err)
{
	_cleanup_close_ int own = -EBADF;
	int r;

	own = own_namespace_open(err);
	if (own < 0)
		return own;
	if (setns(netns_fd, CLONE_NEWNET) < 0)
		return err_set(err, -errno, "enter the network namespace");

	r = fn(arg, err);
	own_namespace_return(own);
	return r;
}
