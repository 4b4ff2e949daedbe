/*
 * The audit log of credentials requests: one line each, blank-separated,
 *     <time> <status> <address:port> "<path>" "<user agent>" <task ARN or -> <event> 1 <cluster>
 * <instance ARN> to the file that ecs-agent has opened for it, else to the log.
 */
#pragma once

#include <stdint.h>

#include "iam-creds/store.h"
#include "lib/cleanup.h"
#include "lib/err.h"

struct audit;

int audit_new(struct audit **ret);
struct audit *audit_free(struct audit *audit);
DEFINE_CLEANUP(struct audit *, audit_free)

/* cluster and instance_arn: copied, "" if not known. */
int audit_configure(struct audit *audit, const char *cluster, const char *instance_arn,
                    struct err *err);
/* Borrowed; "" if not known. */
const char *audit_cluster(const struct audit *audit);
const char *audit_instance_arn(const struct audit *audit);
/* Takes fd, which is open for appending; -EBADF goes back to the log. */
void audit_set_file(struct audit *audit, int fd);

struct audit_request {
	unsigned status;
	const char *remote;                    /* "169.254.170.2:40122" */
	const char *path;                      /* without a credentials id */
	const char *user_agent;                /* NULL if none; anything */
	const struct credentials *credentials; /* NULL if unknown */
	uint64_t now_realtime_usec;
};

void audit_write(struct audit *audit, const struct audit_request *request);
void audit_flush(struct audit *audit);

/* The line without its newline, cut to n. Returns its length. */
size_t audit_format(const struct audit *audit, const struct audit_request *request, char *buf,
                    size_t n);
