/*
 * Single calls of the CloudWatch Logs API. Nothing is repeated here: the stream decides what comes
 * next, since it can make its batch again and others must get their turn meanwhile.
 *
 * Source: Amazon CloudWatch Logs API Reference; AWS JSON 1.1 protocol.
 */
#pragma once

#include <stdint.h>
#include <systemd/sd-event.h>

#include "agent/logs/log_config.h"
#include "agent/logs/text.h"
#include "lib/aws_keys.h"
#include "lib/cleanup.h"
#include "lib/err.h"
#include "lib/http.h"

enum awslogs_operation {
	AWSLOGS_PUT_LOG_EVENTS,
	AWSLOGS_CREATE_STREAM,
	AWSLOGS_CREATE_GROUP,
};

enum awslogs_outcome {
	AWSLOGS_DONE, /* also: what was to be made is there already; the batch was taken before */
	AWSLOGS_MISSING,      /* ResourceNotFoundException: no group, or no stream in it */
	AWSLOGS_REFUSED_KEYS, /* expired or unknown */
	AWSLOGS_TOO_LARGE,    /* the body of the request */
	AWSLOGS_DENIED,       /* the same answer will come until somebody changes rights or names */
	AWSLOGS_REFUSED,      /* an answer that says the call had no effect */
	AWSLOGS_UNKNOWN, /* no answer, or one of a server in trouble: it may have had an effect */
};

struct awslogs_call;

/* err: what happened, unless AWSLOGS_DONE. */
typedef void (*awslogs_done_fn)(enum awslogs_outcome outcome, const struct err *err,
                                void *userdata);

/*
 * body: of PutLogEvents with n_events (agent/logs/batch.h), copied; NULL for the other operations.
 * keys and config are borrowed for the call. done runs once, from the loop, unless the call is
 * freed before. Returns 0 or -errno of http_request_start().
 */
int awslogs_call_start(struct http_client *http, const struct log_config *config,
                       struct aws_keys *keys, enum awslogs_operation operation,
                       const struct text *body, uint64_t n_events, awslogs_done_fn done,
                       void *userdata, struct awslogs_call **ret, struct err *err);
struct awslogs_call *awslogs_call_free(struct awslogs_call *call);
DEFINE_CLEANUP(struct awslogs_call *, awslogs_call_free)

/* Events of the batch that were not taken, for good: too old, too new, or older than the group
 * keeps them. In done. */
uint64_t awslogs_call_rejected(const struct awslogs_call *call);

/* What an answer means; for PutLogEvents also how many of n_events it says were not taken. */
enum awslogs_outcome awslogs_answer_parse(enum awslogs_operation operation,
                                          unsigned int http_status, const char *body, size_t len,
                                          uint64_t n_events, uint64_t *ret_rejected,
                                          struct err *err);
