/*
 * Asynchronous HTTP(S) requests: libcurl's multi interface on an sd_event loop. HTTP/1.1, TLS 1.2
 * or later, certificates verified, connections reused, redirects never followed (the caller reads
 * "Location" and decides whom to trust with what).
 *
 * Life of a request: http_request_start() returns before anything is reported; done runs once,
 * later, from the loop; http_request_free() at any time, also in its callbacks, cancels, and no
 * callback follows. Any HTTP status is a success of the request: look at http_request_status().
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "lib/aws_keys.h"
#include "lib/cleanup.h"
#include "lib/envfile.h"
#include "lib/err.h"
#include "lib/http_header.h"

/* Where to find CAs and proxies. NULL members: libcurl's default CAs, no proxy. */
struct http_settings {
	const char *ca_file;     /* PEM bundle that replaces the system's */
	const char *ca_dir;      /* hashed directory that replaces the system's */
	const char *https_proxy; /* proxy for https:// and wss:// */
	const char *http_proxy;  /* proxy for http:// */
	const char *no_proxy;    /* comma-separated hosts */
};

/*
 * Read them from the environment, else from ecs.config (file may be NULL): AWS_CA_BUNDLE, else
 * SSL_CERT_FILE; SSL_CERT_DIR; HTTPS_PROXY, HTTP_PROXY, NO_PROXY and their lower-case forms. The
 * strings are borrowed from the environment and file.
 */
void http_settings_load(const struct envfile *file, struct http_settings *ret);

struct http_client;

/* user_agent may be NULL. Settings are copied. -ENOMEM, -EIO (libcurl). */
int http_client_new(sd_event *loop, const struct http_settings *settings, const char *user_agent,
                    struct http_client **ret, struct err *err);
/* Requests under way keep what they need of the client; free them to cancel them. */
struct http_client *http_client_free(struct http_client *client);
DEFINE_CLEANUP(struct http_client *, http_client_free)

/* Sign with SigV4 when the request leaves (lib/sigv4.h). */
struct http_signing {
	struct aws_keys *keys; /* borrowed for the call */
	const char *region;
	const char *service;
};

struct http_request;

/*
 * r: 0 when an answer came, whatever its status; otherwise
 *   -ETIMEDOUT     connecting, the whole request, or silence took too long
 *   -ECONNREFUSED  no connection to the server or proxy
 *   -EHOSTUNREACH  the name of the server or proxy could not be resolved
 *   -EKEYREJECTED  the server's certificate is not trusted, or TLS failed
 *   -ECONNRESET    the connection broke before the answer was complete
 *   -EFBIG         the answer is larger than max_body_bytes
 *   -EPROTO        the answer is not HTTP
 *   or what on_body returned. err names the server and the reason, never path, query or headers.
 */
typedef void (*http_done_fn)(int r, const struct err *err, void *userdata);

/*
 * A piece of the body as it arrives, instead of collecting it; any status (look at it first).
 * Returns 0, HTTP_PAUSE to get this same piece again after http_request_resume(), or a negative
 * errno to end the request.
 */
typedef int (*http_body_fn)(struct http_request *request, const void *data, size_t n,
                            void *userdata);
#define HTTP_PAUSE 1

struct http_request_options {
	const char *method; /* NULL: "GET" */
	const char *url;    /* http or https; path and query percent-encoded */
	const struct http_header *headers;
	size_t n_headers;
	const void *body; /* copied; wiped when released */
	size_t body_len;
	const struct http_signing *signing; /* NULL: not signed */
	uint64_t connect_timeout_usec;      /* 0: 30 s; includes TLS */
	uint64_t timeout_usec;              /* whole request; 0: no limit */
	uint64_t idle_timeout_usec;         /* no byte for so long (whole seconds); 0: no limit */
	size_t max_body_bytes;              /* of the answer; 0: 1 MiB. on_body: 0 is no limit */
	http_body_fn on_body;               /* NULL: collect */
	const char *ca_file;                /* NULL: the client's */
	bool no_proxy;                      /* link-local endpoints */
};

/* -EINVAL (URL, header), -EPERM (URL scheme), -EKEYEXPIRED (signing keys), -ENOMEM, -EIO. */
int http_request_start(struct http_client *client, const struct http_request_options *options,
                       http_done_fn done, void *userdata, struct http_request **ret,
                       struct err *err);
struct http_request *http_request_free(struct http_request *request);
DEFINE_CLEANUP(struct http_request *, http_request_free)

void http_request_resume(struct http_request *request);

unsigned http_request_status(const struct http_request *request); /* 0 before there is one */
/* Value of a header of the answer, borrowed; NULL. The last one if repeated; at most 64 KiB of
 * headers are kept. */
const char *http_request_header(const struct http_request *request, const char *name);
/* What was collected, NUL-terminated beyond its *ret_len bytes; wiped with the request. */
const char *http_request_body(const struct http_request *request, size_t *ret_len);
