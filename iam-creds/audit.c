/* Formatting and writing audit lines. What comes from a container is escaped, so that it cannot
 * forge a line or a field. */
#include "iam-creds/audit.h"

#include <errno.h>
#include <string.h>

#include "iam-creds/rfc3339.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "lib/loop.h"

#define USER_AGENT_MAX      256
#define LINE_MAX_BYTES      4096
#define LOG_LINES_IN_SECOND 100

/* Counted rather than listed, while the log would be flooded. */
struct unlisted {
	uint64_t second;
	unsigned listed; /* lines of this second that went to the log */
	unsigned ok, client_errors, limited, server_errors;
};

struct audit {
	int fd;
	bool failed; /* said once */
	char *cluster, *instance_arn;
	struct unlisted unlisted;
	size_t len; /* of what waits to be written to fd */
	char buf[16 * LINE_MAX_BYTES];
};

int audit_new(struct audit **ret)
{
	struct audit *audit = calloc(1, sizeof(*audit));

	if (!audit)
		return -ENOMEM;
	audit->fd = -EBADF;
	*ret = audit;
	return 0;
}

struct audit *audit_free(struct audit *audit)
{
	if (audit) {
		audit_flush(audit);
		fd_close(audit->fd);
		free(audit->cluster);
		free(audit->instance_arn);
		free(audit);
	}
	return NULL;
}

int audit_configure(struct audit *audit, const char *cluster, const char *instance_arn,
                    struct err *err)
{
	_cleanup_free_ char *new_cluster = strdup(cluster);
	_cleanup_free_ char *new_arn = strdup(instance_arn);

	if (!new_cluster || !new_arn)
		return err_oom(err);
	free(audit->cluster);
	free(audit->instance_arn);
	audit->cluster = TAKE_PTR(new_cluster);
	audit->instance_arn = TAKE_PTR(new_arn);
	return 0;
}

const char *audit_cluster(const struct audit *audit)
{
	return audit->cluster ? audit->cluster : "";
}

const char *audit_instance_arn(const struct audit *audit)
{
	return audit->instance_arn ? audit->instance_arn : "";
}

/* A full disk must not keep a container from its credentials; it is said once. */
static void write_buffer(struct audit *audit)
{
	int r = fd_write_all(audit->fd, audit->buf, audit->len);

	if (r < 0 && !audit->failed)
		log_err(NULL, r, "write the audit log");
	audit->failed = r < 0;
	audit->len = 0;
}

static void tell_unlisted(struct unlisted *u)
{
	if (u->ok + u->client_errors + u->limited + u->server_errors > 0)
		log_info(
			NULL,
			"audit: further requests of that second: %u answered, %u refused, %u limited, %u not ready",
			u->ok, u->client_errors, u->limited, u->server_errors);
	*u = (struct unlisted){0};
}

void audit_flush(struct audit *audit)
{
	if (audit->len > 0)
		write_buffer(audit);
	if (audit->unlisted.listed == LOG_LINES_IN_SECOND &&
	    now_realtime_usec() / 1000000 != audit->unlisted.second)
		tell_unlisted(&audit->unlisted);
}

void audit_set_file(struct audit *audit, int fd)
{
	audit_flush(audit);
	fd_close(audit->fd);
	audit->fd = fd;
	audit->failed = false;
}

/* A line being put together without printf(), which would cost more than the rest of a request. */
struct line {
	char *at, *end; /* end: where the last NUL goes */
};

static void put_char(struct line *line, char c)
{
	if (line->at < line->end)
		*line->at++ = c;
}

static void put(struct line *line, const char *text)
{
	size_t n = strlen(text), room = (size_t)(line->end - line->at);

	n = n < room ? n : room;
	memcpy(line->at, text, n);
	line->at += n;
}

/* In quotes, at most USER_AGENT_MAX bytes. */
static void put_quoted(struct line *line, const char *text)
{
	static const char hex[] = "0123456789abcdef";

	put_char(line, '"');
	for (const char *start = line->at; *text && line->at - start < USER_AGENT_MAX - 4; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\') {
			put_char(line, '\\');
			put_char(line, (char)c);
		} else if (c < 0x20 || c >= 0x7f) {
			put(line, "\\x");
			put_char(line, hex[c >> 4]);
			put_char(line, hex[c & 15]);
		} else {
			put_char(line, (char)c);
		}
	}
	put_char(line, '"');
}

static void put_status(struct line *line, unsigned status)
{
	put_char(line, (char)('0' + status / 100 % 10));
	put_char(line, (char)('0' + status / 10 % 10));
	put_char(line, (char)('0' + status % 10));
}

static void put_time(struct line *line, uint64_t realtime_usec)
{
	static uint64_t second = UINT64_MAX;
	static char text[32];

	if (realtime_usec / 1000000 != second) {
		second = realtime_usec / 1000000;
		rfc3339_format(realtime_usec, text, sizeof(text));
	}
	put(line, text);
}

static void put_credentials(struct line *line, const struct audit *audit,
                            const struct credentials *c)
{
	put(line,
	    c->role_type == ROLE_TASK_EXECUTION ? "GetCredentialsExecutionRole" : "GetCredentials");
	put(line, " 1 ");
	put(line, audit->cluster ? audit->cluster : "");
	put_char(line, ' ');
	put(line, audit->instance_arn ? audit->instance_arn : "");
}

size_t audit_format(const struct audit *audit, const struct audit_request *request, char *buf,
                    size_t n)
{
	const struct credentials *c = request->credentials;
	struct line line = {.at = buf, .end = buf + n - 1};

	put_time(&line, request->now_realtime_usec);
	put_char(&line, ' ');
	put_status(&line, request->status);
	put_char(&line, ' ');
	put(&line, request->remote);
	put_char(&line, ' ');
	put_quoted(&line, request->path);
	put_char(&line, ' ');
	put_quoted(&line, request->user_agent ? request->user_agent : "");
	put_char(&line, ' ');
	put(&line, c && c->task_arn[0] ? c->task_arn : "-");
	put_char(&line, ' ');
	if (c)
		put_credentials(&line, audit, c);
	*line.at = '\0';
	return (size_t)(line.at - buf);
}

static void count(struct unlisted *u, unsigned status)
{
	if (status < 400)
		u->ok++;
	else if (status == 429)
		u->limited++;
	else if (status < 500)
		u->client_errors++;
	else
		u->server_errors++;
}

static void write_log(struct audit *audit, const struct audit_request *request)
{
	struct unlisted *u = &audit->unlisted;
	char line[LINE_MAX_BYTES];

	if (request->now_realtime_usec / 1000000 != u->second) {
		tell_unlisted(u);
		u->second = request->now_realtime_usec / 1000000;
	}
	if (u->listed == LOG_LINES_IN_SECOND) {
		count(u, request->status);
		return;
	}
	u->listed++;
	(void)audit_format(audit, request, line, sizeof(line));
	log_info(NULL, "audit: %s", line);
}

void audit_write(struct audit *audit, const struct audit_request *request)
{
	if (audit->fd < 0) {
		write_log(audit, request);
		return;
	}
	if (sizeof(audit->buf) - audit->len < LINE_MAX_BYTES)
		write_buffer(audit);
	audit->len += audit_format(audit, request, audit->buf + audit->len, LINE_MAX_BYTES);
	audit->buf[audit->len++] = '\n';
}
