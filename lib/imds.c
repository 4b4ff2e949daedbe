/*
 * One session token serves all requests; those that come before it is there wait in a list. A
 * request takes each of its steps from its own timer, so that no callback runs inside another.
 */
#include "lib/imds.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/backoff.h"
#include "lib/loop.h"
#include "lib/secret.h"

#define IMDS_ENDPOINT_DEFAULT "http://169.254.169.254"
#define TOKEN_SECONDS         "21600"
#define TOKEN_USEC            (21600ULL * 1000000)
#define TOKEN_MARGIN_USEC     (60ULL * 1000000)
#define ANSWER_MAX            (64 * 1024)
#define CONNECT_TIMEOUT_USEC  (1000000ULL)
#define REQUEST_TIMEOUT_USEC  (5 * 1000000ULL)
#define ATTEMPTS_MAX          5

struct imds {
	sd_event *loop;
	struct http_client *http;
	char *endpoint;
	struct secret *token;
	uint64_t token_until_usec;
	struct http_request *token_request;
	struct imds_request *requests;
};

struct imds_request {
	struct imds *imds; /* NULL once that is freed */
	struct imds_request *next;
	char *path;
	imds_done_fn done;
	void *userdata;
	sd_event_source *step;
	struct http_request *http;
	bool waits_for_token;
	int token_error; /* how waiting for it ended */
	struct err token_err;
	unsigned attempts;
	struct backoff backoff;
};

int imds_new(sd_event *loop, struct http_client *http, const char *endpoint, struct imds **ret,
             struct err *err)
{
	_cleanup_(imds_freep) struct imds *imds = calloc(1, sizeof(*imds));
	size_t n;

	if (!imds)
		return err_oom(err);
	imds->loop = sd_event_ref(loop);
	imds->http = http;
	imds->endpoint = strdup(endpoint && *endpoint ? endpoint : IMDS_ENDPOINT_DEFAULT);
	if (!imds->endpoint)
		return err_oom(err);
	n = strlen(imds->endpoint);
	while (n > 0 && imds->endpoint[n - 1] == '/')
		imds->endpoint[--n] = '\0';
	*ret = TAKE_PTR(imds);
	return 0;
}

struct imds *imds_free(struct imds *imds)
{
	if (!imds)
		return NULL;
	for (struct imds_request *request = imds->requests; request; request = request->next) {
		request->http = http_request_free(request->http);
		request->step = sd_event_source_disable_unref(request->step);
		request->imds = NULL; /* still its owner's to free; done is never called */
	}
	http_request_free(imds->token_request);
	secret_free(imds->token);
	free(imds->endpoint);
	sd_event_unref(imds->loop);
	free(imds);
	return NULL;
}

struct imds_request *imds_request_free(struct imds_request *request)
{
	if (!request)
		return NULL;
	if (request->imds) {
		struct imds_request **link = &request->imds->requests;

		while (*link != request)
			link = &(*link)->next;
		*link = request->next;
	}
	http_request_free(request->http);
	sd_event_source_disable_unref(request->step);
	free(request->path);
	free(request);
	return NULL;
}

/* Take the next step of the request from the loop, usec from now. */
static void step_in(struct imds_request *request, uint64_t usec)
{
	(void)sd_event_source_set_time(request->step, now_usec() + usec);
	(void)sd_event_source_set_enabled(request->step, SD_EVENT_ONESHOT);
}

/* ---- the session token ---- */

static void token_failed(struct imds *imds, int r, const struct err *err)
{
	for (struct imds_request *request = imds->requests; request; request = request->next)
		if (request->waits_for_token) {
			request->waits_for_token = false;
			request->token_error = r;
			request->token_err = *err;
			step_in(request, 0);
		}
}

static void token_arrived(struct imds *imds)
{
	for (struct imds_request *request = imds->requests; request; request = request->next)
		if (request->waits_for_token) {
			request->waits_for_token = false;
			step_in(request, 0);
		}
}

static int take_token(struct imds *imds, struct err *err)
{
	unsigned status = http_request_status(imds->token_request);
	size_t len;
	const char *body = http_request_body(imds->token_request, &len);

	if (status == 403)
		return err_text(err, -ENETUNREACH, "the instance metadata service is switched off");
	if (status != 200)
		return err_text(
			err, -EIO,
			"the instance metadata service answers %u to the request for a token",
			status);
	if (len == 0 || len > 4096 || strpbrk(body, "\r\n") || strlen(body) != len)
		return err_text(err, -EIO,
		                "the instance metadata service hands out no usable token");
	secret_free(imds->token);
	imds->token = secret_new(body, len);
	if (!imds->token)
		return err_oom(err);
	imds->token_until_usec = now_usec() + TOKEN_USEC - TOKEN_MARGIN_USEC;
	return 0;
}

/* No connection: there is no such service on this host. */
static int connection_error(int r)
{
	return r == -ETIMEDOUT || r == -ECONNREFUSED || r == -EHOSTUNREACH ? -ENETUNREACH : r;
}

static void token_done(int r, const struct err *http_err, void *userdata)
{
	struct imds *imds = userdata;
	struct err err = {0};

	if (r < 0) {
		err_text(&err, 0, "%s", http_err->text);
		r = err_prefix(&err, connection_error(r), "instance metadata service");
	} else {
		r = take_token(imds, &err);
	}
	imds->token_request = http_request_free(imds->token_request);
	if (r < 0)
		token_failed(imds, r, &err);
	else
		token_arrived(imds);
}

static int token_start(struct imds *imds, struct err *err)
{
	static const struct http_header ttl = {"X-aws-ec2-metadata-token-ttl-seconds",
	                                       TOKEN_SECONDS};
	_cleanup_free_ char *url = NULL;
	struct http_request_options options = {
		.method = "PUT",
		.headers = &ttl,
		.n_headers = 1,
		.connect_timeout_usec = CONNECT_TIMEOUT_USEC,
		.timeout_usec = REQUEST_TIMEOUT_USEC,
		.max_body_bytes = ANSWER_MAX,
		.no_proxy = true,
	};

	if (asprintf(&url, "%s/latest/api/token", imds->endpoint) < 0) {
		url = NULL;
		return err_oom(err);
	}
	options.url = url;
	return http_request_start(imds->http, &options, token_done, imds, &imds->token_request,
	                          err);
}

/* ---- a request ---- */

static bool is_worth_retrying(int r)
{
	return r != -ENOENT && r != -EINVAL && r != -ENOMEM && r != -EPERM;
}

/* Last statement of its callers: done may free the request. */
static void attempt_failed(struct imds_request *request, int r, const struct err *err)
{
	if (is_worth_retrying(r) && ++request->attempts < ATTEMPTS_MAX) {
		step_in(request, backoff_next(&request->backoff, random_fraction()));
		return;
	}
	request->done(r, err, NULL, request->userdata);
}

static int read_answer(struct imds_request *request, struct err *err)
{
	unsigned status = http_request_status(request->http);
	size_t len;
	const char *text = http_request_body(request->http, &len);

	if (status == 404)
		return err_text(err, -ENOENT, "the instance metadata service has no %s",
		                request->path);
	if (status == 401) { /* the token is not valid any more */
		request->imds->token = secret_free(request->imds->token);
		return err_text(err, -EIO, "the instance metadata service refuses its own token");
	}
	if (status != 200)
		return err_text(err, -EIO, "the instance metadata service answers %u for %s",
		                status, request->path);
	if (strlen(text) != len)
		return err_text(err, -EIO, "the instance metadata service sends no text for %s",
		                request->path);
	return 0;
}

static void get_done(int r, const struct err *http_err, void *userdata)
{
	struct imds_request *request = userdata;
	struct err err = {0};

	if (r < 0) {
		err_text(&err, 0, "%s", http_err->text);
		r = err_prefix(&err, connection_error(r), "instance metadata service");
	} else {
		r = read_answer(request, &err);
	}
	if (r < 0) {
		request->http = http_request_free(request->http);
		attempt_failed(request, r, &err);
		return;
	}
	request->done(0, &err, http_request_body(request->http, NULL), request->userdata);
}

static int get_start(struct imds_request *request, struct err *err)
{
	struct imds *imds = request->imds;
	const struct http_header token = {"X-aws-ec2-metadata-token", secret_bytes(imds->token)};
	_cleanup_free_ char *url = NULL;
	struct http_request_options options = {
		.headers = &token,
		.n_headers = 1,
		.connect_timeout_usec = CONNECT_TIMEOUT_USEC,
		.timeout_usec = REQUEST_TIMEOUT_USEC,
		.max_body_bytes = ANSWER_MAX,
		.no_proxy = true,
	};

	if (asprintf(&url, "%s/latest/%s", imds->endpoint, request->path) < 0) {
		url = NULL;
		return err_oom(err);
	}
	options.url = url;
	return http_request_start(imds->http, &options, get_done, request, &request->http, err);
}

static int on_step(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct imds_request *request = userdata;
	struct imds *imds = request->imds;
	struct err err = {0};
	int r = 0;

	(void)source;
	(void)usec;
	if (request->token_error) {
		r = request->token_error;
		err = request->token_err;
		request->token_error = 0;
	} else if (imds->token && now_usec() < imds->token_until_usec) {
		r = get_start(request, &err);
	} else {
		request->waits_for_token = true;
		if (!imds->token_request)
			r = token_start(imds, &err);
		if (r < 0)
			request->waits_for_token = false;
	}
	if (r < 0)
		attempt_failed(request, r, &err);
	return 0;
}

int imds_get_start(struct imds *imds, const char *path, imds_done_fn done, void *userdata,
                   struct imds_request **ret, struct err *err)
{
	_cleanup_(imds_request_freep) struct imds_request *request = calloc(1, sizeof(*request));
	int r;

	if (!request)
		return err_oom(err);
	request->done = done;
	request->userdata = userdata;
	request->backoff = (struct backoff){
		.min_usec = 100000, .max_usec = 5000000, .multiple = 2, .jitter = 0.2};
	request->path = strdup(path);
	if (!request->path)
		return err_oom(err);
	r = loop_add_timer(imds->loop, 0, 1000, on_step, request, &request->step);
	if (r < 0)
		return err_set(err, r, "add timer");
	request->imds = imds;
	request->next = imds->requests;
	imds->requests = request;
	*ret = TAKE_PTR(request);
	return 0;
}
