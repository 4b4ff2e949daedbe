/*
 * One signed POST per call. An answer counts as a confirmation only if it is what the service says
 * on success, a JSON object (or nothing, for those that return nothing): a proxy's friendly page
 * with status 200 must not make us delete anything.
 */
#include "agent/logs/awslogs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/logs/json_escape.h"
#include "lib/aws_json.h"
#include "lib/json.h"

#define CONNECT_TIMEOUT_USEC (10 * 1000000ull)
#define SILENCE_MAX_USEC     (30 * 1000000ull)  /* no byte in either direction */
#define CALL_MAX_USEC        (180 * 1000000ull) /* a MiB at 6 KiB/s */
#define ANSWER_MAX           (64 * 1024)

struct awslogs_call {
	struct http_request *request;
	enum awslogs_operation operation;
	uint64_t n_events, rejected;
	awslogs_done_fn done;
	void *userdata;
};

static const char *const targets[] = {
	[AWSLOGS_PUT_LOG_EVENTS] = "Logs_20140328.PutLogEvents",
	[AWSLOGS_CREATE_STREAM] = "Logs_20140328.CreateLogStream",
	[AWSLOGS_CREATE_GROUP] = "Logs_20140328.CreateLogGroup",
};

struct awslogs_call *awslogs_call_free(struct awslogs_call *call)
{
	if (!call)
		return NULL;
	http_request_free(call->request);
	free(call);
	return NULL;
}

uint64_t awslogs_call_rejected(const struct awslogs_call *call)
{
	return call->rejected;
}

static uint64_t count_rejected(struct json_object *answer, uint64_t n_events)
{
	struct json_object *info = json_get(answer, "rejectedLogEventsInfo");
	uint64_t old = 0, expired = 0, new_from = n_events;

	(void)json_get_u64(info, "tooOldLogEventEndIndex", n_events, &old, NULL);
	(void)json_get_u64(info, "expiredLogEventEndIndex", n_events, &expired, NULL);
	(void)json_get_u64(info, "tooNewLogEventStartIndex", n_events, &new_from, NULL);
	if (expired > old)
		old = expired;
	return old >= new_from ? n_events : old + (n_events - new_from);
}

/* Only what the service itself is known to say: a proxy's 403 may be gone tomorrow. Signatures are
 * checked before rights, so that a wrong clock is not among these.
 * Source: Amazon CloudWatch Logs API Reference, "Common Errors" and "InvalidParameterException". */
static bool is_denied(const char *code)
{
	static const char *const codes[] = {
		"AccessDenied",        "AccessDeniedException", "InvalidParameterException",
		"NotAuthorized",       "OptInRequired",         "ValidationError",
		"ValidationException",
	};

	for (size_t i = 0; i < ARRAY_SIZE(codes); i++)
		if (strcmp(code, codes[i]) == 0)
			return true;
	return false;
}

static enum awslogs_outcome parse_error(enum awslogs_operation operation, unsigned int http_status,
                                        const char *body, size_t len, struct err *err)
{
	struct aws_error error;

	aws_error_parse(http_status, NULL, body, len, &error);
	err_text(err, 0, "%s: %s%s%.300s", targets[operation] + strlen("Logs_20140328."),
	         error.code, error.message[0] ? ": " : "", error.message);
	if (operation == AWSLOGS_PUT_LOG_EVENTS &&
	    strcmp(error.code, "DataAlreadyAcceptedException") == 0)
		return AWSLOGS_DONE;
	if (operation != AWSLOGS_PUT_LOG_EVENTS &&
	    strcmp(error.code, "ResourceAlreadyExistsException") == 0)
		return AWSLOGS_DONE;
	if (strcmp(error.code, "ResourceNotFoundException") == 0)
		return AWSLOGS_MISSING;
	if (error.class == AWS_ERROR_EXPIRED)
		return AWSLOGS_REFUSED_KEYS;
	if (http_status == 413 || strcmp(error.code, "RequestEntityTooLargeException") == 0)
		return AWSLOGS_TOO_LARGE;
	if (http_status >= 500)
		return AWSLOGS_UNKNOWN;
	return is_denied(error.code) ? AWSLOGS_DENIED : AWSLOGS_REFUSED;
}

enum awslogs_outcome awslogs_answer_parse(enum awslogs_operation operation,
                                          unsigned int http_status, const char *body, size_t len,
                                          uint64_t n_events, uint64_t *ret_rejected,
                                          struct err *err)
{
	_cleanup_json_ struct json_object *answer = NULL;

	*ret_rejected = 0;
	if (http_status != 200)
		return parse_error(operation, http_status, body, len, err);
	if (operation != AWSLOGS_PUT_LOG_EVENTS && len == 0)
		return AWSLOGS_DONE;
	if (json_parse_object(body, len, ANSWER_MAX, &answer, err) < 0) {
		err_prefix(err, 0, "%s: the answer is not one of CloudWatch Logs",
		           targets[operation] + strlen("Logs_20140328."));
		return AWSLOGS_UNKNOWN;
	}
	if (operation == AWSLOGS_PUT_LOG_EVENTS)
		*ret_rejected = count_rejected(answer, n_events);
	return AWSLOGS_DONE;
}

static void request_done(int r, const struct err *request_err, void *userdata)
{
	struct awslogs_call *call = userdata;
	enum awslogs_outcome outcome = AWSLOGS_UNKNOWN;
	struct err err = {0};
	size_t len = 0;

	if (r < 0) {
		err = *request_err;
	} else {
		const char *body = http_request_body(call->request, &len);

		outcome = awslogs_answer_parse(call->operation, http_request_status(call->request),
		                               body, len, call->n_events, &call->rejected, &err);
	}
	call->done(outcome, &err,
	           call->userdata); /* may free the call: always the last statement */
}

static int make_body(const struct log_config *config, enum awslogs_operation operation,
                     struct text *ret)
{
	int r;

	r = text_append_string(ret, "{\"logGroupName\":");
	if (r == 0)
		r = json_append_quoted(ret, config->group);
	if (r == 0 && operation == AWSLOGS_CREATE_STREAM)
		r = text_append_string(ret, ",\"logStreamName\":");
	if (r == 0 && operation == AWSLOGS_CREATE_STREAM)
		r = json_append_quoted(ret, config->stream);
	return r < 0 ? r : text_append_string(ret, "}");
}

int awslogs_call_start(struct http_client *http, const struct log_config *config,
                       struct aws_keys *keys, enum awslogs_operation operation,
                       const struct text *body, uint64_t n_events, awslogs_done_fn done,
                       void *userdata, struct awslogs_call **ret, struct err *err)
{
	const struct http_header headers[] = {
		{"Content-Type", "application/x-amz-json-1.1"},
		{"X-Amz-Target", targets[operation]},
		{"x-amzn-logs-format", "json/emf"},
	};
	const struct http_signing signing = {
		.keys = keys, .region = config->region, .service = "logs"};
	_cleanup_(awslogs_call_freep) struct awslogs_call *call = calloc(1, sizeof(*call));
	struct http_request_options options = {
		.method = "POST",
		.url = config->endpoint,
		.headers = headers,
		.n_headers = operation == AWSLOGS_PUT_LOG_EVENTS && config->emf ? 3 : 2,
		.signing = &signing,
		.connect_timeout_usec = CONNECT_TIMEOUT_USEC,
		.timeout_usec = CALL_MAX_USEC,
		.idle_timeout_usec = SILENCE_MAX_USEC,
		.max_body_bytes = ANSWER_MAX,
	};
	struct text own = {0};
	int r;

	if (!call || (!body && make_body(config, operation, &own) < 0)) {
		text_done(&own);
		return err_oom(err);
	}
	*call = (struct awslogs_call){
		.operation = operation, .n_events = n_events, .done = done, .userdata = userdata};
	options.body = body ? body->p : own.p;
	options.body_len = body ? body->len : own.len;
	r = http_request_start(http, &options, request_done, call, &call->request, err);
	text_done(&own);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(call);
	return 0;
}
