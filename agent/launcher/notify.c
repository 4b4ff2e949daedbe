/* The notification protocol: a datagram of lines to a path, or to an abstract name after '@'. */
#include "agent/launcher/notify.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/log.h"
#include "lib/parse.h"

static void notify(const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	_cleanup_close_ int fd = -EBADF;
	socklen_t n;

	if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof(address.sun_path))
		return;
	memcpy(address.sun_path, path, strlen(path) + 1);
	n = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
	if (address.sun_path[0] == '@')
		address.sun_path[0] = '\0';

	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || sendto(fd, state, strlen(state), MSG_NOSIGNAL,
	                     (const struct sockaddr *)&address, n) < 0)
		log_warning(NULL, -errno, "tell the service manager \"%s\"", state);
}

void notify_ready(void)
{
	notify("READY=1");
}

void notify_alive(void)
{
	notify("WATCHDOG=1");
}

uint64_t notify_alive_msec(void)
{
	const char *usec_text = getenv("WATCHDOG_USEC"), *pid_text = getenv("WATCHDOG_PID");
	uint64_t usec, pid;

	if (!usec_text || parse_u64(usec_text, UINT64_MAX, &usec) < 0)
		return 0;
	if (pid_text && (parse_u64(pid_text, INT32_MAX, &pid) < 0 || (pid_t)pid != getpid()))
		return 0; /* meant for another process */
	return usec >= 2000 ? usec / 2000 : 1;
}
