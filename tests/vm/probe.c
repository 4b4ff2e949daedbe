/*
 * What runs in the containers of test_upgrade.py, statically linked.
 *
 * "probe ask INTERVAL_MS" asks for its credentials over and over and writes numbered lines: how
 * many requests were answered, which were not and why, and at SIGTERM the end.
 *
 * "probe mortal CODE" does nothing until SIGUSR1; then writes a few lines and exits with CODE.
 *
 * A failing window is the time from the end of a failed request to that of the last one in a row
 * that fails, each tried at once after the other, as an SDK does. It is 0 when the next one
 * succeeds, however late this program gets to try it. A request that is answered late has not
 * failed.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define LINE_EVERY_USEC 500000
#define LAST_LINES      5

static volatile sig_atomic_t told;
static unsigned line_number;

static void on_signal(int signo)
{
	(void)signo;
	told = 1;
}

static uint64_t now_usec(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *fmt, ...)
{
	char text[256];
	int n = snprintf(text, sizeof(text), "%u ", ++line_number);
	va_list ap;

	va_start(ap, fmt);
	n += vsnprintf(text + n, sizeof(text) - (size_t)n - 1, fmt, ap);
	va_end(ap);
	text[n++] = '\n';
	/* One line is one write, however often a signal comes. */
	while (write(STDOUT_FILENO, text, (size_t)n) < 0 && errno == EINTR)
		;
}

/* The whole answer, until the other end closes; its length or -errno. */
static ssize_t exchange(const char *request, char *answer, size_t size)
{
	const struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_port = htons(80), .sin_addr.s_addr = htonl(0xa9feaa02)};
	const struct timeval limit = {.tv_sec = 30};
	size_t len = 0;
	ssize_t n;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	if (connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 ||
	    send(fd, request, strlen(request), MSG_NOSIGNAL) < 0) {
		n = -errno;
		close(fd);
		return n;
	}
	do {
		n = recv(fd, answer + len, size - 1 - len, 0);
		if (n > 0)
			len += (size_t)n;
	} while (n > 0 || (n < 0 && errno == EINTR));
	n = n < 0 ? -errno : (ssize_t)len;
	close(fd);
	answer[len] = '\0';
	return n;
}

/* NULL, or why it has failed. */
static const char *ask(const char *request)
{
	static char answer[65536], why[64];
	ssize_t n = exchange(request, answer, sizeof(answer));

	if (n < 0)
		return strerror((int)-n);
	if (n == 0)
		return "no answer";
	if (strncmp(answer, "HTTP/1.1 200 ", 13) != 0) {
		snprintf(why, sizeof(why), "status %.3s", answer + 9);
		return why;
	}
	return strstr(answer, "\"SecretAccessKey\"") && answer[n - 1] == '}' ? NULL : "cut off";
}

static int run_ask(uint64_t interval_usec)
{
	const char *path = getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
	uint64_t failing_since = 0, failing_until = 0, worst_usec = 0, slowest_usec = 0;
	uint64_t next_line = 0;
	unsigned ok = 0, failed = 0;
	char request[512];

	if (!path)
		return 3;
	snprintf(request, sizeof(request),
	         "GET %s HTTP/1.1\r\nHost: 169.254.170.2\r\nConnection: close\r\n\r\n", path);
	while (!told) {
		uint64_t begin = now_usec(CLOCK_MONOTONIC), end;
		const char *why = ask(request);

		end = now_usec(CLOCK_MONOTONIC);
		if (end - begin > slowest_usec)
			slowest_usec = end - begin;
		if (why) {
			failed++;
			say("FAIL (%s) after_us=%llu at_ms=%llu", why,
			    (unsigned long long)(end - begin),
			    (unsigned long long)now_usec(CLOCK_REALTIME) / 1000);
			if (!failing_since)
				failing_since = end;
			failing_until = end;
			usleep(1000);
			continue;
		}
		ok++;
		if (failing_since) {
			uint64_t window = failing_until - failing_since;

			say("BACK window_us=%llu", (unsigned long long)window);
			if (window > worst_usec)
				worst_usec = window;
			failing_since = 0;
		}
		if (end >= next_line) {
			say("ok=%u failed=%u", ok, failed);
			next_line = end + LINE_EVERY_USEC;
		}
		usleep((useconds_t)interval_usec);
	}
	say("END ok=%u failed=%u window_us=%llu slowest_us=%llu", ok, failed,
	    (unsigned long long)worst_usec, (unsigned long long)slowest_usec);
	return failing_since ? 4 : 0;
}

static int run_mortal(int code)
{
	sigset_t none;

	sigemptyset(&none);
	say("up");
	while (!told)
		sigsuspend(&none);
	for (int i = 0; i < LAST_LINES; i++)
		say("last words");
	return code;
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
	bool is_mortal = argc == 3 && strcmp(argv[1], "mortal") == 0;
	sigset_t mask;

	if (argc != 3)
		return 2;
	/* The mortal gets it in sigsuspend(2) only, so that it cannot come too early. */
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	if (is_mortal)
		sigprocmask(SIG_BLOCK, &mask, NULL);
	sigaction(is_mortal ? SIGUSR1 : SIGTERM, &action, NULL);
	return is_mortal ? run_mortal(atoi(argv[2])) : run_ask((uint64_t)atoi(argv[2]) * 1000);
}
