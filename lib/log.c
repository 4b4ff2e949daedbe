/*
 * Logging with nothing but libc, since ecs-launcher and ecs-task link nothing more. The journal's
 * native protocol is one datagram of FIELD=value lines (systemd: Native Journal Protocol).
 */
#include "lib/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define LOG_LINE_MAX 2048

static struct {
	const char *program;
	int level;
	int journal_fd;
} log_state = {.program = "ecs", .level = LOG_INFO, .journal_fd = -1};

/* JOURNAL_STREAM holds device and inode of the stream that systemd put on standard error. */
static bool stderr_is_journal(void)
{
	const char *text = getenv("JOURNAL_STREAM");
	uintmax_t dev, ino;
	struct stat st;

	if (!text || sscanf(text, "%" SCNuMAX ":%" SCNuMAX, &dev, &ino) != 2)
		return false;
	return fstat(STDERR_FILENO, &st) == 0 && st.st_dev == dev && st.st_ino == ino;
}

void log_init(const char *program)
{
	static const struct sockaddr_un journal = {.sun_family = AF_UNIX,
	                                           .sun_path = "/run/systemd/journal/socket"};
	int fd;

	log_state.program = program;
	if (!stderr_is_journal())
		return;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd >= 0 && connect(fd, (const struct sockaddr *)&journal, sizeof(journal)) == 0)
		log_state.journal_fd = fd;
	else if (fd >= 0)
		close(fd);
}

int log_set_level(const char *word)
{
	static const struct {
		const char *word;
		int level;
	} levels[] = {{"crit", LOG_CRIT},
	              {"error", LOG_ERR},
	              {"warn", LOG_WARNING},
	              {"info", LOG_INFO},
	              {"debug", LOG_DEBUG}};

	for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++)
		if (strcasecmp(word, levels[i].word) == 0) {
			log_state.level = levels[i].level;
			return 0;
		}
	return -EINVAL;
}

bool log_is_on(int level)
{
	return level <= log_state.level;
}

static const char *level_name(int level)
{
	return level <= LOG_CRIT      ? "critical"
	       : level == LOG_ERR     ? "error"
	       : level == LOG_WARNING ? "warn"
	       : level == LOG_INFO    ? "info"
	                              : "debug";
}

/* Appends to a line that keeps room for its end; what does not fit is cut. */
static void append(char *line, size_t *n, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
static void append(char *line, size_t *n, const char *fmt, ...)
{
	va_list ap;
	int k;

	va_start(ap, fmt);
	k = vsnprintf(line + *n, LOG_LINE_MAX - *n, fmt, ap);
	va_end(ap);
	if (k > 0)
		*n = *n + (size_t)k < LOG_LINE_MAX ? *n + (size_t)k : LOG_LINE_MAX - 1;
}

static void append_quoted(char *line, size_t *n, const char *text)
{
	append(line, n, "\"");
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\')
			append(line, n, "\\%c", c);
		else if (c < 0x20 || c == 0x7f)
			append(line, n, "\\x%02x", c);
		else
			append(line, n, "%c", c);
	}
	append(line, n, "\"");
}

static void write_stderr(const struct log_ctx *ctx, int level, const char *message)
{
	char line[LOG_LINE_MAX + 1];
	struct timespec now;
	struct tm tm;
	size_t n = 0;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	append(line, &n, "level=%s time=%04d-%02d-%02dT%02d:%02d:%02d.%03ldZ program=%s msg=",
	       level_name(level), tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour,
	       tm.tm_min, tm.tm_sec, now.tv_nsec / 1000000, log_state.program);
	append_quoted(line, &n, message);
	for (; ctx; ctx = ctx->parent) {
		if (!ctx->field || !ctx->value)
			continue;
		append(line, &n, " %s=", ctx->field);
		append_quoted(line, &n, ctx->value);
	}
	line[n++] = '\n';
	/* A log that nobody reads must not end the program; there is no one to tell. */
	(void)!write(STDERR_FILENO, line, n);
}

static void write_journal(const struct log_ctx *ctx, int level, const char *message)
{
	char entry[2 * LOG_LINE_MAX];
	int n;

	/* err.c and vsnprintf keep the message; newlines would need the binary form, so they go. */
	n = snprintf(entry, sizeof(entry), "PRIORITY=%d\nSYSLOG_IDENTIFIER=%s\nMESSAGE=", level,
	             log_state.program);
	for (; *message && n < LOG_LINE_MAX; message++)
		entry[n++] = *message == '\n' ? ' ' : *message;
	entry[n++] = '\n';
	for (; ctx; ctx = ctx->parent) {
		size_t room = sizeof(entry) - (size_t)n;
		int k;

		if (!ctx->field || !ctx->value || strchr(ctx->value, '\n'))
			continue;
		k = snprintf(entry + n, room, "%s=%s\n", ctx->field, ctx->value);
		if (k < 0 || (size_t)k >= room)
			break;
		n += k;
	}
	if (send(log_state.journal_fd, entry, (size_t)n, MSG_NOSIGNAL) < 0)
		write_stderr(NULL, level, message);
}

void log_write(const struct log_ctx *ctx, int level, int error, const char *fmt, ...)
{
	char message[LOG_LINE_MAX];
	int saved = errno, n;
	va_list ap;

	if (!log_is_on(level))
		return;
	va_start(ap, fmt);
	n = vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	if (error < 0 && n >= 0 && (size_t)n < sizeof(message))
		snprintf(message + n, sizeof(message) - (size_t)n, ": %s", strerror(-error));

	if (log_state.journal_fd >= 0)
		write_journal(ctx, level, message);
	else
		write_stderr(ctx, level, message);
	errno = saved;
}
