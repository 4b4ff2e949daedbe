/* The notification protocol: a datagram of lines to a path, or to an abstract name after '@'. */
#include "agent/launcher/notify.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "lib/fd.h"
#include "lib/log.h"

void notify_ready(void)
{
	static const char state[] = "READY=1";
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
	if (fd < 0 || sendto(fd, state, sizeof(state) - 1, MSG_NOSIGNAL,
	                     (const struct sockaddr *)&address, n) < 0)
		log_warning(NULL, -errno, "tell the service manager that ecs-launcher is ready");
}
