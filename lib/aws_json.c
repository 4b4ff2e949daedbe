/* A call: keys, request, answer; and again after a wait for as long as that can help. */
#include "lib/aws_json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/backoff.h"
#include "lib/json.h"
#include "lib/loop.h"

#define ATTEMPTS_DEFAULT             3
#define ATTEMPT_TIMEOUT_DEFAULT_USEC (42 * 1000000ULL)
#define RESPONSE_MAX_DEFAULT         (1024 * 1024)
#define WAIT_MAX_USEC                20000000.0
#define HEADERS_MAX                  8

struct aws_call {
	const struct aws_service *service;
	aws_call_done_fn done;
	void *userdata;
	char *target;
	char *body;
	size_t body_len;
	char *headers[HEADERS_MAX][2]; /* of the caller */
	size_t n_headers;
	struct aws_keys *keys; /* of the caller, or of this attempt */
	bool keys_are_given;
	unsigned attempts_left;
	unsigned attempts_made;
	uint64_t attempt_timeout_usec;
	size_t max_response_bytes;
	sd_event_source *step;
	struct aws_keys_get *get;
	struct http_request *http;
	struct json_object *result;
	struct aws_error error;
};

struct aws_call *aws_call_free(struct aws_call *call)
{
	if (!call)
		return NULL;
	aws_keys_get_free(call->get);
	http_request_free(call->http);
	sd_event_source_disable_unref(call->step);
	aws_keys_unref(call->keys);
	if (call->result)
		json_object_put(call->result);
	for (size_t i = 0; i < HEADERS_MAX; i++) {
		free(call->headers[i][0]);
		free(call->headers[i][1]);
	}
	if (call->body)
		explicit_bzero(call->body, call->body_len);
	free(call->body);
	free(call->target);
	free(call);
	return NULL;
}

/* The standard mode: anything from nothing to 1, 2, 4 ... 20 seconds. */
static uint64_t retry_wait(const struct aws_call *call)
{
	double ceiling =
		1000000.0 *
		(double)(1ULL << (call->attempts_made > 10 ? 10 : call->attempts_made - 1));

	return (uint64_t)(random_fraction() * (ceiling < WAIT_MAX_USEC ? ceiling : WAIT_MAX_USEC));
}

static bool is_worth_retrying(const struct aws_call *call, int r)
{
	if (r == -EREMOTEIO)
		return call->error.class == AWS_ERROR_THROTTLING ||
		       call->error.class == AWS_ERROR_SERVER ||
		       (call->error.class == AWS_ERROR_EXPIRED && !call->keys_are_given);
	return r == -ETIMEDOUT || r == -ECONNREFUSED || r == -ECONNRESET || r == -EHOSTUNREACH;
}

/* Last statement of its callers: done may free the call. */
static void attempt_failed(struct aws_call *call, int r, const struct err *err)
{
	call->http = http_request_free(call->http);
	if (r == -EREMOTEIO && call->error.class == AWS_ERROR_EXPIRED && !call->keys_are_given)
		aws_credentials_refused(call->service->credentials, call->keys);
	if (call->attempts_left > 0 && is_worth_retrying(call, r)) {
		(void)sd_event_source_set_time(call->step, now_usec() + retry_wait(call));
		(void)sd_event_source_set_enabled(call->step, SD_EVENT_ONESHOT);
		return;
	}
	call->done(r, err, call->userdata);
}

static int read_answer(struct aws_call *call, struct err *err)
{
	unsigned status = http_request_status(call->http);
	const char *type = http_request_header(call->http, "x-amzn-ErrorType");
	size_t len;
	const char *body = http_request_body(call->http, &len);
	int r;

	if (status < 200 || status > 299) {
		aws_error_parse(status, type, body, len, &call->error);
		return err_text(err, -EREMOTEIO, "%s: %s%s%s", call->target, call->error.code,
		                call->error.message[0] ? ": " : "", call->error.message);
	}
	if (len == 0) { /* some operations answer nothing */
		call->result = json_object_new_object();
		return call->result ? 0 : err_oom(err);
	}
	r = json_parse_object(body, len, call->max_response_bytes, &call->result, err);
	return r == 0 || r == -ENOMEM ? r : err_prefix(err, -EBADMSG, "%s: answer", call->target);
}

static void http_done(int r, const struct err *http_err, void *userdata)
{
	struct aws_call *call = userdata;
	struct err err = {0};

	call->error = (struct aws_error){0};
	if (r < 0) {
		err_text(&err, r, "%s: %s", call->target, http_err->text);
		attempt_failed(call, r, &err);
		return;
	}
	r = read_answer(call, &err);
	if (r < 0) {
		attempt_failed(call, r, &err);
		return;
	}
	call->done(0, &err, call->userdata);
}

static int send_request(struct aws_call *call, struct err *err)
{
	const struct aws_service *service = call->service;
	const struct http_signing signing = {
		.keys = call->keys, .region = service->region, .service = service->signing_name};
	struct http_header headers[HEADERS_MAX + 2] = {
		{"Content-Type", "application/x-amz-json-1.1"},
		{"X-Amz-Target", call->target},
	};
	_cleanup_free_ char *url = NULL;
	struct http_request_options options = {
		.method = "POST",
		.headers = headers,
		.n_headers = 2 + call->n_headers,
		.body = call->body,
		.body_len = call->body_len,
		.signing = &signing,
		.timeout_usec = call->attempt_timeout_usec,
		.max_body_bytes = call->max_response_bytes,
	};

	for (size_t i = 0; i < call->n_headers; i++)
		headers[2 + i] = (struct http_header){call->headers[i][0], call->headers[i][1]};
	if (asprintf(&url, "%s/", service->endpoint) < 0) {
		url = NULL;
		return err_oom(err);
	}
	options.url = url;
	call->attempts_left--;
	call->attempts_made++;
	return http_request_start(service->http, &options, http_done, call, &call->http, err);
}

static void keys_done(int r, const struct err *keys_err, struct aws_keys *keys, void *userdata)
{
	struct aws_call *call = userdata;
	struct err err = *keys_err;

	if (r == 0) {
		aws_keys_unref(call->keys);
		call->keys = aws_keys_ref(keys);
		call->get = aws_keys_get_free(call->get);
		r = send_request(call, &err);
	}
	if (r < 0) {
		err_prefix(&err, r, "%s", call->target);
		call->done(r, &err, call->userdata);
	}
}

static int on_step(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct aws_call *call = userdata;
	struct err err = {0};
	int r;

	(void)source;
	(void)usec;
	if (call->keys_are_given)
		r = send_request(call, &err);
	else
		r = aws_credentials_get_start(call->service->credentials, keys_done, call,
		                              &call->get, &err);
	if (r < 0) {
		err_prefix(&err, r, "%s", call->target);
		call->done(r, &err, call->userdata);
	}
	return 0;
}

static int copy_options(struct aws_call *call, const struct aws_call_options *options)
{
	const char *body = json_to_text(options->body, &call->body_len);

	if (options->n_headers > HEADERS_MAX)
		return -E2BIG;
	for (size_t i = 0; i < options->n_headers; i++) {
		call->headers[i][0] = strdup(options->headers[i].name);
		call->headers[i][1] = strdup(options->headers[i].value);
		if (!call->headers[i][0] || !call->headers[i][1])
			return -ENOMEM;
		call->n_headers++;
	}
	call->body = body ? strdup(body) : NULL;
	if (!call->body)
		return -ENOMEM;
	call->keys = aws_keys_ref(options->keys);
	call->keys_are_given = options->keys;
	call->attempts_left = options->attempts ? options->attempts : ATTEMPTS_DEFAULT;
	call->attempt_timeout_usec = options->attempt_timeout_usec ? options->attempt_timeout_usec
	                                                           : ATTEMPT_TIMEOUT_DEFAULT_USEC;
	call->max_response_bytes =
		options->max_response_bytes ? options->max_response_bytes : RESPONSE_MAX_DEFAULT;
	return 0;
}

int aws_call_start(const struct aws_service *service, const struct aws_call_options *options,
                   aws_call_done_fn done, void *userdata, struct aws_call **ret, struct err *err)
{
	_cleanup_(aws_call_freep) struct aws_call *call = calloc(1, sizeof(*call));
	int r;

	if (!call)
		return err_oom(err);
	if (!options->keys && !service->credentials)
		return err_text(err, -EINVAL, "%s: no AWS keys are given and no provider of them",
		                options->operation);
	call->service = service;
	call->done = done;
	call->userdata = userdata;
	r = copy_options(call, options);
	if (r < 0)
		return err_set(err, r, "call %s", options->operation);
	if (asprintf(&call->target, "%s.%s", service->target_prefix, options->operation) < 0) {
		call->target = NULL;
		return err_oom(err);
	}
	r = loop_add_timer(service->loop, 0, 1000, on_step, call, &call->step);
	if (r < 0)
		return err_set(err, r, "call %s", options->operation);
	*ret = TAKE_PTR(call);
	return 0;
}

struct json_object *aws_call_result(const struct aws_call *call)
{
	return call->result;
}

const struct aws_error *aws_call_error(const struct aws_call *call)
{
	return &call->error;
}
