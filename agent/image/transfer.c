/*
 * libcurl's progress callback runs at least once a second, also while a name is resolved or a
 * connection made: there the deadline, the silence and the hang-up of the peer are looked at.
 */
#include "agent/image/transfer.h"

#include "agent/image/reference.h"
#include "lib/loop.h"
#include "lib/parse.h"
#include "lib/secret.h"
#include "lib/url.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

DEFINE_CLEANUP(struct curl_slist *, curl_slist_free_all)

#define ERROR_BODY_MAX      (64 * 1024)
#define CONNECT_TIMEOUT_SEC 30L
#define RETRY_AFTER_MAX_SEC 60

struct transfer {
	CURL *curl;
	const struct http_settings *settings;
	const struct transfer_limits *limits;
	bool loopback_allowed;

	/* of the request under way */
	const struct transfer_request *request;
	struct transfer_response *response;
	bool is_proxied;
	bool is_plain;
	uint64_t last_activity_usec;
	curl_off_t last_bytes;
	int stop; /* why a callback of ours ended the request */
	struct err stop_err;
	char server[300];
	char curl_error[CURL_ERROR_SIZE];
};

int transfer_new(const struct http_settings *settings, const struct transfer_limits *limits,
                 bool loopback_allowed, struct transfer **ret, struct err *err)
{
	_cleanup_(transfer_freep) struct transfer *transfer = calloc(1, sizeof(*transfer));

	if (!transfer)
		return err_oom(err);
	transfer->settings = settings;
	transfer->limits = limits;
	transfer->loopback_allowed = loopback_allowed;
	transfer->curl = curl_easy_init();
	if (!transfer->curl)
		return err_oom(err);
	*ret = TAKE_PTR(transfer);
	return 0;
}

struct transfer *transfer_free(struct transfer *transfer)
{
	if (!transfer)
		return NULL;

	curl_easy_cleanup(transfer->curl);
	free(transfer);
	return NULL;
}

void transfer_response_done(struct transfer_response *response)
{
	if (response->body)
		explicit_bzero(response->body, response->body_len);
	free(response->body);
	*response = (struct transfer_response){};
}

bool transfer_error_is_transient(int r)
{
	return r == -ETIMEDOUT || r == -ECONNREFUSED || r == -EHOSTUNREACH || r == -ECONNRESET;
}

static bool is_hung_up(int fd)
{
	struct pollfd pfd = {.fd = fd, .events = POLLRDHUP};

	return fd >= 0 && poll(&pfd, 1, 0) > 0 &&
	       pfd.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL);
}

static int check_limits(const struct transfer_limits *limits, struct err *err)
{
	if (is_hung_up(limits->cancel_fd))
		return err_text(err, -ECANCELED, "the pull was cancelled");
	if (limits->deadline_usec && now_usec() >= limits->deadline_usec)
		return err_text(err, -ETIME, "timed out");
	return 0;
}

int transfer_wait(const struct transfer_limits *limits, uint64_t usec, struct err *err)
{
	uint64_t end = now_usec() + usec;

	for (;;) {
		struct pollfd pfd = {.fd = limits->cancel_fd, .events = POLLRDHUP};
		uint64_t now = now_usec();
		int r = check_limits(limits, err);

		if (r < 0 || now >= end)
			return r;
		/* Also woken for the deadline, at most a second late. */
		usec = end - now < 1000000 ? end - now : 1000000;
		(void)poll(&pfd, 1, (int)(usec / 1000) + 1);
	}
}

static void copy_host(const struct url *url, char *buf, size_t n)
{
	const char *host = url->host;
	size_t len = url->host_len;

	if (len >= 2 && host[0] == '[') {
		host++;
		len -= 2;
	}
	snprintf(buf, n, "%.*s", (int)len, host);
}

static bool scheme_is(const struct url *url, const char *scheme)
{
	return url->scheme_len == strlen(scheme) &&
	       strncasecmp(url->scheme, scheme, url->scheme_len) == 0;
}

int transfer_check_url(const char *text, bool loopback_allowed, struct err *err)
{
	struct url url;
	char host[256];
	int r;

	r = url_split(text, &url, err);
	if (r < 0)
		return r;
	copy_host(&url, host, sizeof(host));
	if (host_is_link_local(host))
		return err_text(err, -EACCES, "link-local address %s is no place for a registry",
		                host);
	if (host_is_loopback(host) && !loopback_allowed)
		return err_text(err, -EACCES, "registry points at %s, which is this host", host);
	if (scheme_is(&url, "https"))
		return 0;
	if (!scheme_is(&url, "http"))
		return err_text(err, -EACCES, "URL of %s is neither http nor https", host);
	if (!host_is_loopback(host))
		return err_text(err, -EACCES,
		                "registry points at http://%s: without TLS only loopback addresses "
		                "are spoken to",
		                host);
	return 0;
}

static int on_progress(void *userdata, curl_off_t total, curl_off_t now_bytes, curl_off_t up_total,
                       curl_off_t up_now)
{
	struct transfer *transfer = userdata;
	uint64_t now = now_usec();

	(void)total;
	(void)up_total;
	if (transfer->stop < 0)
		return 1; /* libcurl comes by here once more on its way out */
	transfer->stop = check_limits(transfer->limits, &transfer->stop_err);
	if (transfer->stop < 0)
		return 1;
	if (now_bytes + up_now != transfer->last_bytes) {
		transfer->last_bytes = now_bytes + up_now;
		transfer->last_activity_usec = now;
	}
	if (transfer->limits->inactivity_usec &&
	    now - transfer->last_activity_usec >= transfer->limits->inactivity_usec) {
		transfer->stop = err_text(&transfer->stop_err, -ETIME,
		                          "inactivity time exceeded timeout while pulling image");
		return 1;
	}
	return 0;
}

static bool address_is_loopback(const struct sockaddr *address, const char *text)
{
	return (address->sa_family == AF_INET || address->sa_family == AF_INET6) &&
	       host_is_loopback(text);
}

static curl_socket_t on_open_socket(void *userdata, curlsocktype purpose,
                                    struct curl_sockaddr *address)
{
	struct transfer *transfer = userdata;
	char text[INET6_ADDRSTRLEN] = "";
	bool is_loopback;

	(void)purpose;
	if (address->family == AF_INET)
		inet_ntop(AF_INET, &((const struct sockaddr_in *)&address->addr)->sin_addr, text,
		          sizeof(text));
	else if (address->family == AF_INET6)
		inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)&address->addr)->sin6_addr, text,
		          sizeof(text));

	is_loopback = address_is_loopback(&address->addr, text);
	if (host_is_link_local(text))
		transfer->stop = err_text(&transfer->stop_err, -EACCES,
		                          "%s has the link-local address %s, which is no place for "
		                          "a registry",
		                          transfer->server, text);
	else if (!transfer->is_proxied && is_loopback && !transfer->loopback_allowed)
		transfer->stop = err_text(&transfer->stop_err, -EACCES,
		                          "%s has the address %s, which is this host",
		                          transfer->server, text);
	else if (!transfer->is_proxied && transfer->is_plain && !is_loopback)
		transfer->stop = err_text(&transfer->stop_err, -EACCES,
		                          "%s has the address %s: without TLS only loopback "
		                          "addresses are spoken to",
		                          transfer->server, text);
	if (transfer->stop < 0)
		return CURL_SOCKET_BAD;
	return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

static void copy_value(char *buf, size_t n, const char *value, size_t len)
{
	if (len < n)
		snprintf(buf, n, "%.*s", (int)len, value);
}

static void append_value(char *buf, size_t n, const char *value, size_t len)
{
	size_t used = strlen(buf);

	if (used + len + 3 < n)
		snprintf(buf + used, n - used, "%s%.*s", used ? ", " : "", (int)len, value);
}

static void take_header(struct transfer_response *response, const char *name, size_t name_len,
                        const char *value, size_t len)
{
	char number[32] = "";
	uint64_t seconds;

	copy_value(number, sizeof(number), value, len);
#define IS(text) (name_len == strlen(text) && strncasecmp(name, text, name_len) == 0)
	if (IS("Content-Type"))
		copy_value(response->content_type, sizeof(response->content_type), value, len);
	else if (IS("Docker-Content-Digest"))
		copy_value(response->content_digest, sizeof(response->content_digest), value, len);
	else if (IS("WWW-Authenticate"))
		append_value(response->authenticate, sizeof(response->authenticate), value, len);
	else if (IS("Retry-After") && parse_u64(number, UINT32_MAX, &seconds) == 0)
		response->retry_after_usec =
			(seconds < RETRY_AFTER_MAX_SEC ? seconds : RETRY_AFTER_MAX_SEC) * 1000000;
	else if (IS("Content-Range") && len > 6 && strncasecmp(value, "bytes ", 6) == 0) {
		copy_value(number, sizeof(number), value + 6, strcspn(value + 6, "-"));
		response->has_content_range =
			parse_u64(number, INT64_MAX, &response->content_range_start) == 0;
	}
#undef IS
}

static size_t on_header(char *line, size_t size, size_t n, void *userdata)
{
	struct transfer *transfer = userdata;
	struct transfer_response *response = transfer->response;
	size_t len = size * n;
	const char *colon;

	/* The answer of a proxy, or "100 Continue", comes before the one that counts. */
	if (len > 5 && strncmp(line, "HTTP/", 5) == 0) {
		transfer_response_done(response);
		return len;
	}
	colon = memchr(line, ':', len);
	if (colon) {
		const char *value = colon + 1, *end = line + len;

		while (value < end && (*value == ' ' || *value == '\t'))
			value++;
		while (end > value && strchr(" \t\r\n", end[-1]))
			end--;
		take_header(response, line, (size_t)(colon - line), value, (size_t)(end - value));
	}
	return len;
}

static int collect(struct transfer *transfer, const char *bytes, size_t n)
{
	struct transfer_response *response = transfer->response;
	bool is_error = response->status / 100 != 2;
	size_t max = is_error ? ERROR_BODY_MAX : transfer->request->max_bytes;
	char *grown;

	if (n > max - response->body_len) {
		if (is_error)
			return 0; /* its beginning tells enough */
		return err_text(&transfer->stop_err, -EFBIG,
		                "answer of %s is over the limit of %zu bytes", transfer->server,
		                max);
	}
	/* Not realloc(): what it frees may hold a token. */
	grown = malloc(response->body_len + n + 1);
	if (!grown)
		return err_oom(&transfer->stop_err);
	if (response->body) {
		memcpy(grown, response->body, response->body_len);
		explicit_bzero(response->body, response->body_len);
		free(response->body);
	}
	memcpy(grown + response->body_len, bytes, n);
	response->body = grown;
	response->body_len += n;
	response->body[response->body_len] = '\0';
	return 0;
}

static size_t on_body(char *bytes, size_t size, size_t n, void *userdata)
{
	struct transfer *transfer = userdata;
	const struct transfer_request *request = transfer->request;
	long status = 0;

	n *= size;
	curl_easy_getinfo(transfer->curl, CURLINFO_RESPONSE_CODE, &status);
	transfer->response->status = (unsigned int)status;
	if (request->sink && status / 100 == 2)
		transfer->stop = request->sink(transfer->response, bytes, n, request->userdata);
	else
		transfer->stop = collect(transfer, bytes, n);
	/* A sink may wait for a slow disk, which is no fault of the server's. */
	transfer->last_activity_usec = now_usec();
	return transfer->stop < 0 ? n + 1 : n;
}

static int set_server(struct transfer *transfer, const char *text, struct err *err)
{
	struct url url;
	char host[256];
	int r;

	r = transfer_check_url(text, transfer->loopback_allowed, err);
	if (r < 0)
		return r;
	r = url_split(text, &url, err);
	if (r < 0)
		return r;
	copy_host(&url, host, sizeof(host));
	if (url.port)
		snprintf(transfer->server, sizeof(transfer->server), "%.*s:%u", (int)url.host_len,
		         url.host, url.port);
	else
		snprintf(transfer->server, sizeof(transfer->server), "%.*s", (int)url.host_len,
		         url.host);

	transfer->is_plain = scheme_is(&url, "http");
	transfer->is_proxied = !host_is_loopback(host) &&
	                       (transfer->is_plain ? transfer->settings->http_proxy
	                                           : transfer->settings->https_proxy) != NULL;
	return 0;
}

static void set_certificates(struct transfer *transfer)
{
	const struct http_settings *settings = transfer->settings;
	CURL *curl = transfer->curl;

	if (settings->ca_file)
		curl_easy_setopt(curl, CURLOPT_CAINFO, settings->ca_file);
	if (settings->ca_dir)
		curl_easy_setopt(curl, CURLOPT_CAPATH, settings->ca_dir);
	else if (settings->ca_file)
		curl_easy_setopt(curl, CURLOPT_CAPATH, NULL);
	/* Beside the hashed directory of the system, which stays. */
	if (transfer->request->ca_file)
		curl_easy_setopt(curl, CURLOPT_CAINFO, transfer->request->ca_file);
}

static int add_header(struct curl_slist **list, const char *name, const char *value)
{
	_cleanup_secret_ char *line = NULL;
	struct curl_slist *grown;

	if (asprintf(&line, "%s: %s", name, value) < 0)
		return -ENOMEM;
	grown = curl_slist_append(*list, line);
	if (!grown)
		return -ENOMEM;
	*list = grown;
	return 0;
}

static int build_headers(const struct transfer_request *request, struct curl_slist **ret)
{
	int r = 0;

	if (request->accept)
		r = add_header(ret, "Accept", request->accept);
	if (r == 0 && request->authorization)
		r = add_header(ret, "Authorization", request->authorization);
	for (size_t i = 0; r == 0 && i < request->n_headers; i++)
		r = add_header(ret, request->headers[i].name, request->headers[i].value);
	return r;
}

static void set_options(struct transfer *transfer, struct curl_slist *headers)
{
	const struct transfer_request *request = transfer->request;
	const char *proxy = transfer->is_plain ? transfer->settings->http_proxy
	                                       : transfer->settings->https_proxy;
	CURL *curl = transfer->curl;
	char range[32];

	curl_easy_reset(curl);
	curl_easy_setopt(curl, CURLOPT_URL, request->url);
#if LIBCURL_VERSION_NUM >= 0x075500
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
#else
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
	curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(curl, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, CONNECT_TIMEOUT_SEC);
	curl_easy_setopt(curl, CURLOPT_BUFFERSIZE, 256L * 1024);
	curl_easy_setopt(curl, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(curl, CURLOPT_USERAGENT, PACKAGE_NAME "/" PACKAGE_VERSION);
	curl_easy_setopt(curl, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
	curl_easy_setopt(curl, CURLOPT_PROXY, transfer->is_proxied ? proxy : "");
	if (transfer->is_proxied && transfer->settings->no_proxy)
		curl_easy_setopt(curl, CURLOPT_NOPROXY, transfer->settings->no_proxy);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, transfer->curl_error);
	curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(curl, CURLOPT_HEADERDATA, transfer);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, transfer);
	curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
	curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
	curl_easy_setopt(curl, CURLOPT_XFERINFODATA, transfer);
	curl_easy_setopt(curl, CURLOPT_OPENSOCKETFUNCTION, on_open_socket);
	curl_easy_setopt(curl, CURLOPT_OPENSOCKETDATA, transfer);
	set_certificates(transfer);
	if (request->post) {
		curl_easy_setopt(curl, CURLOPT_POST, 1L);
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, request->post);
		curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE, (long)request->post_len);
	}
	if (request->range_from > 0) {
		snprintf(range, sizeof(range), "%llu-", (unsigned long long)request->range_from);
		curl_easy_setopt(curl, CURLOPT_RANGE, range);
	}
}

static int result_of(struct transfer *transfer, CURLcode code, struct err *err)
{
	static const struct {
		CURLcode code;
		int r;
	} table[] = {
		{CURLE_COULDNT_RESOLVE_HOST, -EHOSTUNREACH},
		{CURLE_COULDNT_RESOLVE_PROXY, -EHOSTUNREACH},
		{CURLE_COULDNT_CONNECT, -ECONNREFUSED},
		{CURLE_OPERATION_TIMEDOUT, -ETIMEDOUT},
		{CURLE_SSL_CONNECT_ERROR, -EPROTONOSUPPORT},
		{CURLE_PEER_FAILED_VERIFICATION, -EKEYREJECTED},
		{CURLE_SSL_CACERT_BADFILE, -EKEYREJECTED},
		{CURLE_OUT_OF_MEMORY, -ENOMEM},
	};
	const char *words =
		transfer->curl_error[0] ? transfer->curl_error : curl_easy_strerror(code);
	int r = -ECONNRESET;

	if (transfer->stop < 0) {
		if (err)
			*err = transfer->stop_err;
		return transfer->stop;
	}
	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		if (table[i].code == code)
			r = table[i].r;
	if (r == -ECONNREFUSED || r == -EHOSTUNREACH)
		return err_text(err, r, "no connection to registry %s: %s", transfer->server,
		                words);
	if (r == -ETIMEDOUT)
		return err_text(err, r, "request canceled while waiting for connection to %s: %s",
		                transfer->server, words);
	return err_text(err, r, "registry %s: %s", transfer->server, words);
}

int transfer_perform(struct transfer *transfer, const struct transfer_request *request,
                     struct transfer_response *ret, struct err *err)
{
	_cleanup_(curl_slist_free_allp) struct curl_slist *headers = NULL;
	_cleanup_response_ struct transfer_response response = {};
	char *location = NULL;
	CURLcode code;
	long status = 0;
	int r;

	r = check_limits(transfer->limits, err);
	if (r < 0)
		return r;
	r = set_server(transfer, request->url, err);
	if (r < 0)
		return r;
	r = build_headers(request, &headers);
	if (r < 0)
		return err_oom(err);

	transfer->request = request;
	transfer->response = &response;
	transfer->stop = 0;
	transfer->stop_err = (struct err){};
	transfer->curl_error[0] = '\0';
	transfer->last_activity_usec = now_usec();
	transfer->last_bytes = 0;
	set_options(transfer, headers);

	code = curl_easy_perform(transfer->curl);
	if (code != CURLE_OK)
		return result_of(transfer, code, err);
	curl_easy_getinfo(transfer->curl, CURLINFO_RESPONSE_CODE, &status);
	curl_easy_getinfo(transfer->curl, CURLINFO_REDIRECT_URL, &location);
	response.status = (unsigned int)status;
	if (location)
		copy_value(response.location, sizeof(response.location), location,
		           strlen(location));
	*ret = response;
	response = (struct transfer_response){};
	return 0;
}
