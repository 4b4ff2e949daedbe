/*
 * What the measured containers run: says when its first instruction ran, as realtime nanoseconds in
 * the file /out/<name> ("-": the host name), then waits for a signal if asked to. Static, so that
 * nothing else is timed.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void end(int signal_number)
{
	(void)signal_number;
	_exit(0);
}

int main(int argc, char **argv)
{
	char host[65] = "", path[256], temporary[256], text[64];
	const char *name;
	struct timespec now;
	int fd, n;

	clock_gettime(CLOCK_REALTIME, &now);
	if (argc < 2)
		return 2;
	signal(SIGTERM, end);
	if (gethostname(host, sizeof(host) - 1) < 0)
		return 1;
	name = strcmp(argv[1], "-") == 0 ? host : argv[1];
	snprintf(path, sizeof(path), "/out/%s", name);
	snprintf(temporary, sizeof(temporary), "/out/.%s", name);
	n = snprintf(text, sizeof(text), "%lld%09ld\n", (long long)now.tv_sec, now.tv_nsec);
	fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0644);
	if (fd < 0 || write(fd, text, (size_t)n) != n || rename(temporary, path) < 0)
		return 1;
	close(fd);
	while (argc > 2 && strcmp(argv[2], "wait") == 0)
		pause();
	return 0;
}
