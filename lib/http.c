/* One HTTP request: options in, libcurl handle, answer out. The multi interface is
 * lib/http_multi.c. */
#include "lib/http_multi.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "lib/loop.h"
#include "lib/secret.h"
#include "lib/sigv4.h"
#include "lib/url.h"

#define BODY_MAX_DEFAULT (1024 * 1024)
#define HEADERS_MAX      (64 * 1024)

/* Bytes that may be secret: growing and releasing wipe. */
struct buffer {
	char *data;
	size_t len;
	size_t size;
};

struct http_request {
	struct transfer transfer;
	char *url;
	http_done_fn done;
	http_body_fn on_body;
	void *userdata;
	struct curl_slist *headers;
	struct buffer sent_body;
	struct buffer body;
	struct buffer answer_headers; /* "name\0value\0" repeated */
	size_t max_body_bytes;
	int body_error;          /* what ended the request in a body callback */
	sd_event_source *resume; /* deferred */
};

static void buffer_done(struct buffer *buffer)
{
	if (buffer->data)
		explicit_bzero(buffer->data, buffer->size);
	free(buffer->data);
	*buffer = (struct buffer){0};
}

/* Keeps one byte more for a NUL. */
static int buffer_append(struct buffer *buffer, const void *data, size_t n)
{
	size_t size = buffer->size ? buffer->size : 1024;
	char *grown;

	while (size < buffer->len + n + 1)
		size *= 2;
	if (size != buffer->size) {
		grown = malloc(size);
		if (!grown)
			return -ENOMEM;
		if (buffer->len)
			memcpy(grown, buffer->data, buffer->len);
		if (buffer->data)
			explicit_bzero(buffer->data, buffer->size);
		free(buffer->data);
		buffer->data = grown;
		buffer->size = size;
	}
	if (n)
		memcpy(buffer->data + buffer->len, data, n);
	buffer->len += n;
	buffer->data[buffer->len] = '\0';
	return 0;
}

static void header_list_free(struct curl_slist *list)
{
	for (struct curl_slist *item = list; item; item = item->next)
		explicit_bzero(item->data, strlen(item->data)); /* perhaps a token */
	curl_slist_free_all(list);
}

static void dispose(struct transfer *transfer)
{
	struct http_request *request = (struct http_request *)transfer; /* its first member */

	sd_event_source_disable_unref(request->resume);
	transfer_done(&request->transfer);
	header_list_free(request->headers);
	buffer_done(&request->sent_body);
	buffer_done(&request->body);
	buffer_done(&request->answer_headers);
	free(request->url);
	free(request);
}

struct http_request *http_request_free(struct http_request *request)
{
	if (request)
		transfer_release(&request->transfer, dispose);
	return NULL;
}

/* ---- the request ---- */

static int add_header(struct http_request *request, const char *name, const char *value,
                      struct err *err)
{
	_cleanup_secret_ char *line = NULL;
	struct curl_slist *list;

	if (!*name || strpbrk(name, " :\r\n") || strpbrk(value, "\r\n"))
		return err_text(err, -EINVAL, "header '%.64s' is malformed", name);
	/* To libcurl "Name:" means "do not send it"; an empty one is "Name;". */
	if (asprintf(&line, *value ? "%s: %s" : "%s;", name, value) < 0) {
		line = NULL;
		return err_oom(err);
	}
	list = curl_slist_append(request->headers, line);
	if (!list)
		return err_oom(err);
	request->headers = list;
	return 0;
}

/* Headers that libcurl would add of itself and that are not wanted. */
static int suppress_header(struct http_request *request, const char *name, struct err *err)
{
	char line[64];
	struct curl_slist *list;

	snprintf(line, sizeof(line), "%s:", name);
	list = curl_slist_append(request->headers, line);
	if (!list)
		return err_oom(err);
	request->headers = list;
	return 0;
}

static bool has_header(const struct http_request_options *options, const char *name)
{
	for (size_t i = 0; i < options->n_headers; i++)
		if (strcasecmp(options->headers[i].name, name) == 0)
			return true;
	return false;
}

static int add_signature(struct http_request *request, const struct http_request_options *options,
                         struct err *err)
{
	const struct sigv4_request unsigned_request = {
		.keys = options->signing->keys,
		.region = options->signing->region,
		.service = options->signing->service,
		.method = options->method ? options->method : "GET",
		.url = options->url,
		.headers = options->headers,
		.n_headers = options->n_headers,
		.body = options->body,
		.body_len = options->body_len,
	};
	_cleanup_sigv4_ struct sigv4_signature signature = {0};
	int r;

	if (aws_keys_is_expired(options->signing->keys, now_realtime_usec()))
		return err_text(err, -EKEYEXPIRED, "the AWS keys to sign with have expired");
	r = sigv4_sign(&unsigned_request, &signature, err);
	if (r < 0)
		return r;
	r = add_header(request, "Host", signature.host, err);
	if (r == 0)
		r = add_header(request, "X-Amz-Date", signature.date, err);
	if (r == 0 && signature.security_token)
		r = add_header(request, "X-Amz-Security-Token", signature.security_token, err);
	if (r == 0 && signature.send_body_sha256)
		r = add_header(request, "X-Amz-Content-Sha256", signature.body_sha256, err);
	if (r == 0)
		r = add_header(request, "Authorization", signature.authorization, err);
	return r;
}

static int set_headers(struct http_request *request, const struct http_request_options *options,
                       struct err *err)
{
	int r;

	for (size_t i = 0; i < options->n_headers; i++) {
		r = add_header(request, options->headers[i].name, options->headers[i].value, err);
		if (r < 0)
			return r;
	}
	r = suppress_header(request, "Expect", err);
	if (r == 0 && !has_header(options, "Content-Type"))
		r = suppress_header(request, "Content-Type", err);
	if (r == 0 && options->signing)
		r = add_signature(request, options, err);
	if (r < 0)
		return r;
	curl_easy_setopt(request->transfer.easy, CURLOPT_HTTPHEADER, request->headers);
	return 0;
}

static int set_method(struct http_request *request, const struct http_request_options *options,
                      struct err *err)
{
	const char *method = options->method ? options->method : "GET";
	bool is_get = strcmp(method, "GET") == 0, is_head = strcmp(method, "HEAD") == 0;
	CURL *easy = request->transfer.easy;

	for (const char *p = method; *p; p++)
		if (!isupper((unsigned char)*p))
			return err_text(err, -EINVAL, "HTTP method '%.32s' is malformed", method);
	if (is_head) {
		curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
		return 0;
	}
	if (is_get && options->body_len == 0)
		return 0;
	if (buffer_append(&request->sent_body, options->body, options->body_len) < 0)
		return err_oom(err);
	curl_easy_setopt(easy, CURLOPT_POST, 1L);
	curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)options->body_len);
	curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request->sent_body.data);
	if (curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, method) != CURLE_OK)
		return err_oom(err);
	return 0;
}

/* ---- the answer ---- */

static size_t on_body_data(char *data, size_t size, size_t count, void *userdata)
{
	struct http_request *request = userdata;
	size_t n = size * count;
	int r;

	if (transfer_is_released(&request->transfer) || request->body_error)
		return 0;
	if (request->max_body_bytes && n > request->max_body_bytes - request->body.len) {
		request->body_error = -EFBIG;
		return 0;
	}
	if (!request->on_body) {
		r = buffer_append(&request->body, data, n);
	} else {
		r = request->on_body(request, data, n, request->userdata);
		if (r == HTTP_PAUSE)
			return CURL_WRITEFUNC_PAUSE;
		if (r == 0 && request->max_body_bytes)
			request->body.len += n; /* only counted */
	}
	if (r < 0) {
		request->body_error = r;
		return 0;
	}
	return n;
}

/* One header line of the answer, not NUL-terminated. */
static size_t on_header_line(char *line, size_t size, size_t count, void *userdata)
{
	struct http_request *request = userdata;
	struct buffer *headers = &request->answer_headers;
	size_t n = size * count, name_len, value_len;
	const char *colon, *value;

	if (n >= 5 && memcmp(line, "HTTP/", 5) == 0) {
		headers->len = 0; /* an interim answer came before */
		return n;
	}
	colon = memchr(line, ':', n);
	if (!colon || headers->len + n + 2 > HEADERS_MAX || memchr(line, '\0', n))
		return n;
	name_len = (size_t)(colon - line);
	for (value = colon + 1; value < line + n && isspace((unsigned char)*value);)
		value++;
	value_len = (size_t)(line + n - value);
	while (value_len && isspace((unsigned char)value[value_len - 1]))
		value_len--;
	if (buffer_append(headers, line, name_len) < 0 || buffer_append(headers, "", 1) < 0 ||
	    buffer_append(headers, value, value_len) < 0 || buffer_append(headers, "", 1) < 0)
		return 0;
	return n;
}

/* Why it failed, of the reasons that libcurl only knows as "the callback said so". */
static int request_error(const struct http_request *request, CURLcode code, struct err *err)
{
	if (request->body_error == -EFBIG)
		return err_text(err, -EFBIG, "the answer is larger than %zu bytes",
		                request->max_body_bytes);
	if (request->body_error)
		return err_set(err, request->body_error, "take the answer");
	return transfer_error(&request->transfer, code, request->url, err);
}

static void finished(struct transfer *transfer, CURLcode code)
{
	struct http_request *request = (struct http_request *)transfer;
	struct err err = {0};
	int r = 0;

	if (code != CURLE_OK)
		r = request_error(request, code, &err);
	request->done(r, &err, request->userdata); /* may free request */
}

static void set_answer(struct http_request *request, const struct http_request_options *options)
{
	CURL *easy = request->transfer.easy;

	curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body_data);
	curl_easy_setopt(easy, CURLOPT_WRITEDATA, request);
	curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header_line);
	curl_easy_setopt(easy, CURLOPT_HEADERDATA, request);
	if (options->on_body)
		curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, 128 * 1024L);
	if (options->timeout_usec)
		curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS,
		                 (long)((options->timeout_usec + 999) / 1000));
	if (options->idle_timeout_usec) {
		curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
		curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME,
		                 (long)((options->idle_timeout_usec + 999999) / 1000000));
	}
	request->on_body = options->on_body;
	request->max_body_bytes = options->max_body_bytes;
	if (!options->on_body && !options->max_body_bytes)
		request->max_body_bytes = BODY_MAX_DEFAULT;
}

static int check_url(const char *text, struct err *err)
{
	struct url url;
	int r = url_split(text, &url, err);

	if (r < 0)
		return r;
	if ((url.scheme_len == 5 && strncasecmp(url.scheme, "https", 5) == 0) ||
	    (url.scheme_len == 4 && strncasecmp(url.scheme, "http", 4) == 0))
		return 0;
	return err_text(err, -EPERM, "URL of scheme '%.*s': only https and http are spoken",
	                url.scheme_len > 32 ? 32 : (int)url.scheme_len, url.scheme);
}

int http_request_start(struct http_client *client, const struct http_request_options *options,
                       http_done_fn done, void *userdata, struct http_request **ret,
                       struct err *err)
{
	_cleanup_(http_request_freep) struct http_request *request = NULL;
	const struct transfer_options transfer = {
		.url = options->url,
		.ca_file = options->ca_file,
		.no_proxy = options->no_proxy,
		.connect_timeout_usec = options->connect_timeout_usec,
	};
	int r;

	r = check_url(options->url, err);
	if (r < 0)
		return r;
	request = calloc(1, sizeof(*request));
	if (!request)
		return err_oom(err);
	request->transfer.finished = finished;
	request->done = done;
	request->userdata = userdata;
	request->url = strdup(options->url);
	if (!request->url)
		return err_oom(err);
	r = transfer_init(&request->transfer, client, &transfer, err);
	if (r == 0)
		r = set_method(request, options, err);
	if (r == 0)
		r = set_headers(request, options, err);
	if (r < 0)
		return r;
	set_answer(request, options);
	r = transfer_start(&request->transfer, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(request);
	return 0;
}

static int on_resume(sd_event_source *source, void *userdata)
{
	struct http_request *request = userdata;

	(void)sd_event_source_set_enabled(source, SD_EVENT_OFF);
	transfer_unpause(&request->transfer);
	return 0;
}

/* libcurl delivers the held piece from within curl_easy_pause(), hence the detour by the loop. */
void http_request_resume(struct http_request *request)
{
	if (!request->resume) {
		if (sd_event_add_defer(http_client_loop(request->transfer.client), &request->resume,
		                       on_resume, request) < 0)
			transfer_unpause(
				&request->transfer); /* out of memory: better early than never */
		return;
	}
	(void)sd_event_source_set_enabled(request->resume, SD_EVENT_ONESHOT);
}

unsigned http_request_status(const struct http_request *request)
{
	long status = 0;

	(void)curl_easy_getinfo(request->transfer.easy, CURLINFO_RESPONSE_CODE, &status);
	return status > 0 ? (unsigned)status : 0;
}

const char *http_request_header(const struct http_request *request, const char *name)
{
	const struct buffer *headers = &request->answer_headers;
	const char *found = NULL;

	for (size_t i = 0; i < headers->len;) {
		const char *key = headers->data + i, *value = key + strlen(key) + 1;

		if (strcasecmp(key, name) == 0)
			found = value;
		i = (size_t)(value + strlen(value) + 1 - headers->data);
	}
	return found;
}

const char *http_request_body(const struct http_request *request, size_t *ret_len)
{
	if (ret_len)
		*ret_len = request->body.data ? request->body.len : 0;
	return request->body.data ? request->body.data : "";
}
