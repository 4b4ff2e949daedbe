/*
 * Private to lib/http.c and lib/stream.c: libcurl's multi interface on an sd_event loop, and what
 * every handle of a client has in common.
 */
#pragma once

#include <curl/curl.h>

#include "lib/http.h"

/* A handle in a client's multi. finished runs from the loop when libcurl has done with it; it may
 * release the transfer. */
struct transfer {
	CURL *easy;
	void (*finished)(struct transfer *transfer, CURLcode code);
	char error[CURL_ERROR_SIZE];
	/* private */
	struct http_client *client;
	void (*dispose)(struct transfer *transfer);
	struct transfer *next_released;
};

sd_event *http_client_loop(struct http_client *client);

struct transfer_options {
	const char *url;     /* scheme already checked */
	const char *ca_file; /* NULL: the client's */
	bool no_proxy;
	uint64_t connect_timeout_usec; /* 0: 30 s */
};

/* Make the handle with everything that is not about the request itself. -ENOMEM. */
int transfer_init(struct transfer *transfer, struct http_client *client,
                  const struct transfer_options *options, struct err *err);
/* Hand it to the loop. finished is not called before it returns. -EIO. */
int transfer_start(struct transfer *transfer, struct err *err);
/* Ends the transfer and releases its handle. Never while libcurl is on the stack, hence: */
void transfer_done(struct transfer *transfer);

/* Call dispose (which ends with transfer_done()) now, or, when a callback of libcurl asked for it,
 * as soon as libcurl has returned; finished is not called any more. */
void transfer_release(struct transfer *transfer, void (*dispose)(struct transfer *transfer));
bool transfer_is_released(const struct transfer *transfer);

/* curl_easy_pause(), which delivers what was held back before it returns. */
void transfer_unpause(struct transfer *transfer);

/* Describe why libcurl gave up; returns the errno of http_done_fn. */
int transfer_error(const struct transfer *transfer, CURLcode code, const char *url,
                   struct err *err);
