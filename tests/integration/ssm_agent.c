/*
 * Stands in for the SSM agent of ECS Exec in test_execute_command.py: one static program under the
 * names of its three. It looks for its files where that does, relative to its own place, and writes
 * what it has found into its log, line by line "<pid> <what> <value>".
 *
 * The variable STANDIN of the container: "exit" ends it at once with code 3.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LOG "/var/log/amazon/ssm/amazon-ssm-agent.log"

static void __attribute__((format(printf, 2, 3))) tell(const char *what, const char *fmt, ...)
{
	FILE *log = fopen(LOG, "ae");
	va_list ap;

	if (!log)
		exit(4);
	fprintf(log, "%d %s ", (int)getpid(), what);
	va_start(ap, fmt);
	vfprintf(log, fmt, ap);
	va_end(ap);
	fputc('\n', log);
	if (fclose(log) != 0)
		exit(5);
}

static void tell_file(const char *what, const char *dir, const char *name)
{
	char path[512], text[4096];
	ssize_t n = -1;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0)
		n = read(fd, text, sizeof(text) - 1);
	text[n > 0 ? n : 0] = '\0';
	for (char *p = text; *p; p++)
		if (*p == '\n')
			*p = ' ';
	tell(what, "%s", n < 0 ? strerror(errno) : text);
	close(fd);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	tell("write", "%s: %s", name, fd < 0 ? strerror(errno) : "is open");
	close(fd);
}

/* One line of /proc/self/status. */
static void tell_status(const char *name)
{
	FILE *status = fopen("/proc/self/status", "re");
	char line[256];

	while (status && fgets(line, sizeof(line), status))
		if (strncmp(line, name, strlen(name)) == 0)
			tell(name, "%.*s", (int)strcspn(line, "\n"), line);
	if (status)
		fclose(status);
}

static void tell_credentials(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(80)};
	const char *path = getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"), *body;
	char text[8192];
	size_t have = 0;
	ssize_t n;
	int fd;

	if (!path)
		return;
	address.sin_addr.s_addr = inet_addr("169.254.170.2");
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		tell("credentials", "%s", strerror(errno));
		return;
	}
	dprintf(fd, "GET %s HTTP/1.1\r\nHost: 169.254.170.2\r\nConnection: close\r\n\r\n", path);
	while (have < sizeof(text) - 1 && (n = read(fd, text + have, sizeof(text) - 1 - have)) > 0)
		have += (size_t)n;
	text[have] = '\0';
	close(fd);
	body = strstr(text, "\r\n\r\n");
	tell("credentials", "%s", body ? body + 4 : text);
}

static void start_worker(const char *dir)
{
	char path[512], *args[] = {path, NULL};
	pid_t pid;
	int r;

	snprintf(path, sizeof(path), "%s/ssm-agent-worker", dir);
	r = posix_spawn(&pid, path, NULL, NULL, args, environ);
	if (r != 0)
		tell("worker", "%s", strerror(r));
}

int main(int argc, char **argv)
{
	const char *mode = getenv("STANDIN");
	char exe[512], *dir;
	ssize_t n;

	(void)argc;
	if (strcmp(basename(argv[0]), "amazon-ssm-agent") != 0) {
		tell("worker", "%s of %d", argv[0], (int)getppid());
		for (;;)
			pause();
	}
	n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	exe[n > 0 ? n : 0] = '\0';
	dir = dirname(exe);
	tell("start", "%s uid %d gid %d", dir, (int)getuid(), (int)getgid());
	if (mode && strcmp(mode, "exit") == 0)
		return 3;
	tell_file("config", dir, "configuration/amazon-ssm-agent.json");
	tell_file("seelog", dir, "configuration/seelog.xml");
	tell_file("certificates", dir, "certs/amazon-ssm-agent.crt");
	tell_file("program", dir, "ssm-session-worker");
	tell_status("CapEff");
	tell_status("Seccomp:");
	tell_credentials();
	start_worker(dir);
	tell("ready", "%s", getenv("COLOUR") ? getenv("COLOUR") : "");
	for (;;)
		pause();
}
