/*
 * libcurl says through two callbacks which sockets and which timeout it waits for; both become
 * event sources. After each of their events all finished transfers are read off, in a loop, since
 * one event can finish several.
 */
#include "lib/http_multi.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>

#include "lib/loop.h"
#include "lib/url.h"

#define IDLE_CONNECTIONS_MAX         16L
#define CONNECT_TIMEOUT_DEFAULT_USEC (30 * 1000000ULL)

struct http_client {
	unsigned n_refs; /* its owner, each transfer, and a dispatch under way */
	sd_event *loop;
	CURLM *multi;
	sd_event_source *timer;
	bool is_inside; /* libcurl is on the stack and must not lose a handle */
	struct transfer *released;
	char *user_agent;
	char *ca_file;
	char *ca_dir;
	char *https_proxy;
	char *http_proxy;
	char *no_proxy;
};

static struct http_client *client_unref(struct http_client *client)
{
	if (!client || --client->n_refs > 0)
		return NULL;
	if (client->multi)
		curl_multi_cleanup(client->multi);
	sd_event_source_disable_unref(client->timer);
	sd_event_unref(client->loop);
	free(client->user_agent);
	free(client->ca_file);
	free(client->ca_dir);
	free(client->https_proxy);
	free(client->http_proxy);
	free(client->no_proxy);
	free(client);
	return NULL;
}

DEFINE_CLEANUP(struct http_client *, client_unref)

struct http_client *http_client_free(struct http_client *client)
{
	return client_unref(client);
}

sd_event *http_client_loop(struct http_client *client)
{
	return client->loop;
}

static void dispose_released(struct http_client *client)
{
	while (client->released) {
		struct transfer *transfer = client->released;

		client->released = transfer->next_released;
		transfer->dispose(transfer);
	}
}

static void read_finished(struct http_client *client)
{
	struct transfer *transfer;
	CURLMsg *message;
	CURLcode code;
	int n_left;

	while ((message = curl_multi_info_read(client->multi, &n_left))) {
		if (message->msg != CURLMSG_DONE)
			continue;
		code = message->data.result;
		if (curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer) ==
		    CURLE_OK)
			transfer->finished(transfer, code); /* may release transfer and client */
	}
}

static void act(struct http_client *client, curl_socket_t fd, int events)
{
	_cleanup_(client_unrefp) struct http_client *held = client;
	int n_running;

	held->n_refs++;
	client->is_inside = true;
	(void)curl_multi_socket_action(client->multi, fd, events, &n_running);
	client->is_inside = false;
	dispose_released(client);
	read_finished(client);
}

static int on_socket(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
	int action = 0;

	(void)source;
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		action |= CURL_CSELECT_IN;
	if (events & EPOLLOUT)
		action |= CURL_CSELECT_OUT;
	if (events & EPOLLERR)
		action |= CURL_CSELECT_ERR;
	act(userdata, fd, action);
	return 0;
}

static int on_timeout(sd_event_source *source, uint64_t usec, void *userdata)
{
	(void)source;
	(void)usec;
	act(userdata, CURL_SOCKET_TIMEOUT, 0);
	return 0;
}

static int watch_socket(CURL *easy, curl_socket_t fd, int what, void *userdata, void *socket_data)
{
	struct http_client *client = userdata;
	sd_event_source *source = socket_data;
	uint32_t events = 0;

	(void)easy;
	if (what == CURL_POLL_REMOVE) {
		(void)curl_multi_assign(client->multi, fd, NULL);
		sd_event_source_disable_unref(source);
		return 0;
	}
	if (what == CURL_POLL_IN || what == CURL_POLL_INOUT)
		events |= EPOLLIN;
	if (what == CURL_POLL_OUT || what == CURL_POLL_INOUT)
		events |= EPOLLOUT;
	if (source)
		return sd_event_source_set_io_events(source, events) < 0 ? -1 : 0;

	if (sd_event_add_io(client->loop, &source, fd, events, on_socket, client) < 0)
		return -1;
	(void)sd_event_source_set_description(source, "http-socket");
	if (curl_multi_assign(client->multi, fd, source) != CURLM_OK) {
		sd_event_source_disable_unref(source);
		return -1;
	}
	return 0;
}

static int watch_timeout(CURLM *multi, long timeout_msec, void *userdata)
{
	struct http_client *client = userdata;
	uint64_t at_usec = timeout_msec > 0 ? now_usec() + (uint64_t)timeout_msec * 1000 : 0;

	(void)multi;
	if (timeout_msec < 0)
		return sd_event_source_set_enabled(client->timer, SD_EVENT_OFF) < 0 ? -1 : 0;
	if (sd_event_source_set_time(client->timer, at_usec) < 0 ||
	    sd_event_source_set_enabled(client->timer, SD_EVENT_ONESHOT) < 0)
		return -1;
	return 0;
}

static int make_multi(struct http_client *client)
{
	int r;

	r = sd_event_add_time(client->loop, &client->timer, CLOCK_MONOTONIC, 0, 1000, on_timeout,
	                      client);
	if (r < 0)
		return r;
	r = sd_event_source_set_enabled(client->timer, SD_EVENT_OFF);
	if (r < 0)
		return r;
	(void)sd_event_source_set_description(client->timer, "http-timeout");

	client->multi = curl_multi_init();
	if (!client->multi)
		return -ENOMEM;
	curl_multi_setopt(client->multi, CURLMOPT_SOCKETFUNCTION, watch_socket);
	curl_multi_setopt(client->multi, CURLMOPT_SOCKETDATA, client);
	curl_multi_setopt(client->multi, CURLMOPT_TIMERFUNCTION, watch_timeout);
	curl_multi_setopt(client->multi, CURLMOPT_TIMERDATA, client);
	curl_multi_setopt(client->multi, CURLMOPT_MAXCONNECTS, IDLE_CONNECTIONS_MAX);
	return 0;
}

static int copy_text(char **ret, const char *text)
{
	if (!text)
		return 0;
	*ret = strdup(text);
	return *ret ? 0 : -ENOMEM;
}

static int copy_settings(struct http_client *client, const struct http_settings *settings,
                         const char *user_agent)
{
	if (copy_text(&client->user_agent, user_agent) < 0 ||
	    copy_text(&client->ca_file, settings->ca_file) < 0 ||
	    copy_text(&client->ca_dir, settings->ca_dir) < 0 ||
	    copy_text(&client->https_proxy, settings->https_proxy) < 0 ||
	    copy_text(&client->http_proxy, settings->http_proxy) < 0 ||
	    copy_text(&client->no_proxy, settings->no_proxy) < 0)
		return -ENOMEM;
	return 0;
}

/* Counted by libcurl; once is enough for a process. */
static int init_libcurl(void)
{
	static bool done;

	if (!done && curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
		return -EIO;
	done = true;
	return 0;
}

int http_client_new(sd_event *loop, const struct http_settings *settings, const char *user_agent,
                    struct http_client **ret, struct err *err)
{
	static const struct http_settings no_settings;
	_cleanup_(client_unrefp) struct http_client *client = NULL;
	int r;

	r = init_libcurl();
	if (r < 0)
		return err_text(err, r, "libcurl cannot be initialised");
	client = calloc(1, sizeof(*client));
	if (!client)
		return err_oom(err);
	client->n_refs = 1;
	client->loop = sd_event_ref(loop);
	r = copy_settings(client, settings ? settings : &no_settings, user_agent);
	if (r == 0)
		r = make_multi(client);
	if (r < 0)
		return err_set(err, r, "create HTTP client");
	*ret = TAKE_PTR(client);
	return 0;
}

static void set_protocols(CURL *easy)
{
#if LIBCURL_VERSION_NUM >= 0x075500
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
#else
	curl_easy_setopt(easy, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
}

/* libcurl would also look into the environment: an empty proxy keeps it from that. */
static void set_proxy(struct transfer *transfer, const struct transfer_options *options)
{
	const struct http_client *client = transfer->client;
	const char *proxy = strncasecmp(options->url, "https:", 6) == 0 ? client->https_proxy
	                                                                : client->http_proxy;

	if (options->no_proxy || !proxy)
		proxy = "";
	curl_easy_setopt(transfer->easy, CURLOPT_PROXY, proxy);
	curl_easy_setopt(transfer->easy, CURLOPT_NOPROXY, client->no_proxy ? client->no_proxy : "");
	curl_easy_setopt(transfer->easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
}

static void set_certificates(struct transfer *transfer, const struct transfer_options *options)
{
	const struct http_client *client = transfer->client;
	const char *ca_file = options->ca_file ? options->ca_file : client->ca_file;

	if (ca_file || client->ca_dir) {
		curl_easy_setopt(transfer->easy, CURLOPT_CAINFO, ca_file);
		curl_easy_setopt(transfer->easy, CURLOPT_CAPATH, ca_file ? NULL : client->ca_dir);
	}
	curl_easy_setopt(transfer->easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
	curl_easy_setopt(transfer->easy, CURLOPT_SSL_VERIFYPEER, 1L);
	curl_easy_setopt(transfer->easy, CURLOPT_SSL_VERIFYHOST, 2L);
}

int transfer_init(struct transfer *transfer, struct http_client *client,
                  const struct transfer_options *options, struct err *err)
{
	uint64_t connect_usec = options->connect_timeout_usec ? options->connect_timeout_usec
	                                                      : CONNECT_TIMEOUT_DEFAULT_USEC;
	CURL *easy = curl_easy_init();

	if (!easy)
		return err_oom(err);
	transfer->easy = easy;
	transfer->client = client;
	client->n_refs++;
	curl_easy_setopt(easy, CURLOPT_PRIVATE, transfer);
	curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer->error);
	curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(easy, CURLOPT_NOPROGRESS, 1L);
	curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
	curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)((connect_usec + 999) / 1000));
	curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
	set_protocols(easy);
	set_proxy(transfer, options);
	set_certificates(transfer, options);
	if (client->user_agent &&
	    curl_easy_setopt(easy, CURLOPT_USERAGENT, client->user_agent) != CURLE_OK)
		return err_oom(err);
	if (curl_easy_setopt(easy, CURLOPT_URL, options->url) != CURLE_OK)
		return err_oom(err);
	return 0;
}

int transfer_start(struct transfer *transfer, struct err *err)
{
	CURLMcode code = curl_multi_add_handle(transfer->client->multi, transfer->easy);

	if (code != CURLM_OK)
		return err_text(err, -EIO, "libcurl: %s", curl_multi_strerror(code));
	return 0;
}

void transfer_done(struct transfer *transfer)
{
	if (transfer->easy) {
		/* Fine for one that was never added. */
		(void)curl_multi_remove_handle(transfer->client->multi, transfer->easy);
		curl_easy_cleanup(transfer->easy);
		transfer->easy = NULL;
	}
	transfer->client = client_unref(transfer->client);
}

void transfer_release(struct transfer *transfer, void (*dispose)(struct transfer *transfer))
{
	struct http_client *client = transfer->client;

	if (!client || !client->is_inside) {
		dispose(transfer);
		return;
	}
	if (transfer->dispose)
		return;
	transfer->dispose = dispose;
	transfer->next_released = client->released;
	client->released = transfer;
}

bool transfer_is_released(const struct transfer *transfer)
{
	return transfer->dispose != NULL;
}

void transfer_unpause(struct transfer *transfer)
{
	_cleanup_(client_unrefp) struct http_client *held = transfer->client;

	held->n_refs++;
	held->is_inside = true;
	(void)curl_easy_pause(transfer->easy, CURLPAUSE_CONT);
	held->is_inside = false;
	dispose_released(held);
}

static int errno_of(CURLcode code)
{
	switch (code) {
	case CURLE_OPERATION_TIMEDOUT:
		return -ETIMEDOUT;
	case CURLE_COULDNT_CONNECT:
		return -ECONNREFUSED;
	case CURLE_COULDNT_RESOLVE_HOST:
	case CURLE_COULDNT_RESOLVE_PROXY:
		return -EHOSTUNREACH;
	case CURLE_SSL_CONNECT_ERROR:
	case CURLE_PEER_FAILED_VERIFICATION:
	case CURLE_SSL_CACERT_BADFILE:
	case CURLE_SSL_CERTPROBLEM:
	case CURLE_SSL_CIPHER:
	case CURLE_SSL_ISSUER_ERROR:
		return -EKEYREJECTED;
	case CURLE_RECV_ERROR:
	case CURLE_SEND_ERROR:
	case CURLE_GOT_NOTHING:
	case CURLE_PARTIAL_FILE:
		return -ECONNRESET;
	case CURLE_OUT_OF_MEMORY:
		return -ENOMEM;
	default:
		return -EPROTO;
	}
}

/* Only the server is named: paths and queries may hold what must not be logged. */
int transfer_error(const struct transfer *transfer, CURLcode code, const char *url, struct err *err)
{
	const char *reason = transfer->error[0] ? transfer->error : curl_easy_strerror(code);
	struct url parts;

	if (url_split(url, &parts, NULL) < 0)
		return err_text(err, errno_of(code), "%s", reason);
	return err_text(err, errno_of(code), "%.*s: %s",
	                (int)(parts.path - parts.host < 200 ? parts.path - parts.host : 200),
	                parts.host, reason);
}
