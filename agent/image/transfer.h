/*
 * One HTTP request after the other with libcurl, blocking: the network half is a process of its
 * own that has nothing else to do. Redirects are not followed here, since whom to trust with what
 * is the registry client's to decide.
 *
 * Where requests may go is checked on the address that is connected to, not on the name alone:
 * never to link-local addresses (metadata services), to loopback only if allowed, and without TLS
 * to loopback only. Behind a proxy the name is all there is.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/cleanup.h"
#include "lib/err.h"
#include "lib/http.h"

struct transfer_limits {
	uint64_t deadline_usec;   /* monotonic; 0: none */
	uint64_t inactivity_usec; /* without a byte; 0: none */
	int cancel_fd;            /* its peer hanging up ends everything; -EBADF: none */
};

struct transfer;

/* settings and limits are borrowed; limits may change between requests. */
int transfer_new(const struct http_settings *settings, const struct transfer_limits *limits,
                 bool loopback_allowed, struct transfer **ret, struct err *err);
struct transfer *transfer_free(struct transfer *transfer);
DEFINE_CLEANUP(struct transfer *, transfer_free)

/* Takes pieces of a 2xx body; a negative errno ends the request with it. */
struct transfer_response;
typedef int (*transfer_sink_fn)(const struct transfer_response *response, const void *bytes,
                                size_t n, void *userdata);

struct transfer_request {
	const char *url;
	const char *accept;        /* NULL: none */
	const char *authorization; /* NULL: none */
	const char *ca_file;       /* CAs beside the system's; NULL: none */
	uint64_t range_from;       /* 0: all */
	const struct http_header *headers;
	size_t n_headers;
	const char *post; /* body; NULL: GET */
	size_t post_len;
	size_t max_bytes;      /* of a collected body */
	transfer_sink_fn sink; /* NULL: collect */
	void *userdata;
};

struct transfer_response {
	unsigned status;
	char content_type[256];
	char content_digest[160];  /* Docker-Content-Digest */
	char location[8192];       /* absolute; a signed URL: never to be shown */
	char authenticate[6144];   /* all WWW-Authenticate values, with ", " between */
	uint64_t retry_after_usec; /* 0: none */
	uint64_t content_range_start;
	bool has_content_range;
	char *body; /* collected, NUL-terminated; wiped on release */
	size_t body_len;
};

void transfer_response_done(struct transfer_response *response);
#define _cleanup_response_ _cleanup_(transfer_response_done)

/*
 * Returns 0 when an answer came, whatever its status (body of at most max_bytes, 64 KiB for what is
 * not 2xx), or
 *   -ETIMEDOUT, -ECONNREFUSED, -EHOSTUNREACH, -ECONNRESET   worth another try
 *   -EPROTONOSUPPORT   the server does not speak TLS
 *   -EKEYREJECTED      its certificate is not trusted
 *   -EACCES            an address that must not be spoken to
 *   -ETIME             the deadline or the inactivity limit
 *   -ECANCELED         the peer of cancel_fd hung up
 *   -EFBIG             the body is over max_bytes
 *   or what sink returned. err names the server, never path or query.
 */
int transfer_perform(struct transfer *transfer, const struct transfer_request *request,
                     struct transfer_response *ret, struct err *err);

/* Is r worth another try. */
bool transfer_error_is_transient(int r);

/* Sleep: 0, or -ETIME or -ECANCELED as above. */
int transfer_wait(const struct transfer_limits *limits, uint64_t usec, struct err *err);

/*
 * May a request go to this URL: http or https, no user information, no link-local literal;
 * loopback and plain HTTP only if loopback_allowed. -EACCES or -EINVAL. ret_host holds the host
 * without brackets, may be NULL.
 */
int transfer_check_url(const char *url, bool loopback_allowed, struct err *err);
