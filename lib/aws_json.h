/*
 * Calls of the AWS JSON 1.1 protocol: POST with X-Amz-Target, signed, retried as the SDKs' standard
 * mode does (three attempts; throttling, 5xx and connection errors; random waits up to 20 s).
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "lib/aws_credentials.h"
#include "lib/cleanup.h"
#include "lib/err.h"
#include "lib/http.h"

/* All borrowed, for as long as calls are under way. */
struct aws_service {
	sd_event *loop;
	struct http_client *http;
	const char *endpoint; /* "https://ecs.us-west-2.amazonaws.com" */
	const char *region;
	const char *signing_name;  /* "ecs", "logs", "ecr" */
	const char *target_prefix; /* "AmazonEC2ContainerServiceV20141113" */
	/* Keys come from the provider, unless the call brings its own. */
	struct aws_credentials *credentials;
};

enum aws_error_class {
	AWS_ERROR_NONE,       /* no answer of the service at all: look at r and err */
	AWS_ERROR_THROTTLING, /* Throttling*, TooManyRequests*, LimitExceededException, SlowDown,
	                         ... */
	AWS_ERROR_SERVER,     /* 5xx, ServerException, InternalFailure, ServiceUnavailable */
	AWS_ERROR_EXPIRED,    /* the keys: ExpiredToken*, UnrecognizedClientException,
	                         InvalidClientTokenId */
	AWS_ERROR_CLIENT,     /* everything else: trying again changes nothing */
};

/* What the service answered instead of a result. */
struct aws_error {
	enum aws_error_class class;
	unsigned http_status;
	char code[128]; /* "ClusterNotFoundException" */
	char message[512];
};

struct aws_call_options {
	const char *operation;             /* "SubmitTaskStateChange" */
	struct json_object *body;          /* borrowed for the call */
	struct aws_keys *keys;             /* borrowed for the call; NULL: the service's provider */
	unsigned attempts;                 /* 0: 3 */
	uint64_t attempt_timeout_usec;     /* 0: 42 s */
	size_t max_response_bytes;         /* 0: 1 MiB */
	const struct http_header *headers; /* beyond those of the protocol, such as
	                                      x-amzn-logs-format; borrowed for the call */
	size_t n_headers;
};

struct aws_call;

/*
 * r: 0, or
 *   -EREMOTEIO  the service answered with an error: aws_call_error()
 *   -EBADMSG    the answer is no JSON object
 *   or the last error of http_done_fn or aws_keys_fn
 */
typedef void (*aws_call_done_fn)(int r, const struct err *err, void *userdata);

int aws_call_start(const struct aws_service *service, const struct aws_call_options *options,
                   aws_call_done_fn done, void *userdata, struct aws_call **ret, struct err *err);
struct aws_call *aws_call_free(struct aws_call *call);
DEFINE_CLEANUP(struct aws_call *, aws_call_free)

struct json_object *aws_call_result(const struct aws_call *call); /* borrowed; after r == 0 */
const struct aws_error *aws_call_error(const struct aws_call *call);

/* For protocols that are not this one: class and texts from an answer's body and headers. */
void aws_error_parse(unsigned http_status, const char *error_type_header, const char *body,
                     size_t body_len, struct aws_error *ret);
