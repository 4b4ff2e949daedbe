/* log.json of a stream (lib/spool.h) and what its options mean. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/cleanup.h"
#include "lib/err.h"

enum log_driver {
	LOG_DRIVER_AWSLOGS,
	LOG_DRIVER_JSON_FILE,
};

/* credentials_id where no role of the task sends: those of the instance. */
#define LOG_CREDENTIALS_INSTANCE "instance"

/* What applies where the options are silent; borrowed strings or NULL. */
struct log_defaults {
	const char *region;   /* AWS_REGION, AWS_DEFAULT_REGION */
	const char *endpoint; /* AWS_ENDPOINT_URL_CLOUDWATCH_LOGS, AWS_ENDPOINT_URL */
};

struct log_config {
	enum log_driver driver;
	char *task_arn;

	/* awslogs */
	char *group, *stream;
	char *region, *endpoint;
	char *credentials_id;
	bool create_group, create_stream;
	bool emf; /* the header x-amzn-logs-format: json/emf */
	uint64_t flush_usec;

	/* json-file */
	uint64_t max_size_bytes; /* UINT64_MAX: no bound */
	unsigned int max_file;
};

/*
 * Returns 0, -ENOENT when there is no log.json yet, -EBADMSG when it is no JSON object (a power
 * loss has left a part of it), -EINVAL or -EOPNOTSUPP when it can't be followed (err says which
 * member), -errno of reading it.
 */
int log_config_load(int dir_fd, const struct log_defaults *defaults, struct log_config **ret,
                    struct err *err);
struct log_config *log_config_free(struct log_config *config);
DEFINE_CLEANUP(struct log_config *, log_config_free)

/* "https://logs.<region>.amazonaws.com" or what it is in that partition. Source: AWS General
 * Reference, endpoints of Amazon CloudWatch Logs, and the SDKs' partition tables. */
int log_endpoint(const char *region, char *buf, size_t n);
