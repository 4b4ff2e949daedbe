/* Formatting and writing audit lines. What comes from a container is escaped, so that it cannot
 * forge a line or a field. */
#include "iam-creds/audit.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "iam-creds/rfc3339.h"
#include "lib/fd.h"
#include "lib/log.h"

#define USER_AGENT_MAX 256

struct audit {
	int fd;
	bool failed; /* said once */
	char *cluster, *instance_arn;
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

void audit_set_file(struct audit *audit, int fd)
{
	fd_close(audit->fd);
	audit->fd = fd;
	audit->failed = false;
}

static void escape(const char *text, char *buf, size_t n)
{
	size_t k = 0;

	for (; *text && k + 5 < n; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\')
			k += (size_t)snprintf(buf + k, n - k, "\\%c", c);
		else if (c < 0x20 || c >= 0x7f)
			k += (size_t)snprintf(buf + k, n - k, "\\x%02x", c);
		else
			buf[k++] = (char)c;
	}
	buf[k] = '\0';
}

static const char *event_name(const struct credentials *credentials)
{
	return credentials->role_type == ROLE_TASK_EXECUTION ? "GetCredentialsExecutionRole"
	                                                     : "GetCredentials";
}

void audit_format(const struct audit *audit, const struct audit_request *request, char *buf,
                  size_t n)
{
	const struct credentials *c = request->credentials;
	char time[32], agent[USER_AGENT_MAX], path[USER_AGENT_MAX];
	int k;

	rfc3339_format(request->now_realtime_usec, time, sizeof(time));
	escape(request->user_agent ? request->user_agent : "", agent, sizeof(agent));
	escape(request->path, path, sizeof(path));
	k = snprintf(buf, n, "%s %u %s \"%s\" \"%s\" %s ", time, request->status, request->remote,
	             path, agent, c && c->task_arn[0] ? c->task_arn : "-");
	if (c && k > 0 && (size_t)k < n)
		snprintf(buf + k, n - (size_t)k, "%s 1 %s %s", event_name(c),
		         audit->cluster ? audit->cluster : "",
		         audit->instance_arn ? audit->instance_arn : "");
}

void audit_write(struct audit *audit, const struct audit_request *request)
{
	char line[4096];
	size_t len;

	audit_format(audit, request, line, sizeof(line) - 1);
	if (audit->fd < 0) {
		log_info(NULL, "audit: %s", line);
		return;
	}
	len = strlen(line);
	line[len++] = '\n';
	/* A full disk must not keep a container from its credentials; it is said once. */
	if (write(audit->fd, line, len) != (ssize_t)len && !audit->failed) {
		audit->failed = true;
		log_err(NULL, errno ? -errno : -EIO, "write the audit log");
	}
}
