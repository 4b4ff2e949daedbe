/*
 * AWS Signature Version 4 in headers, for HTTP requests, WebSocket handshakes and telemetry frames.
 * Sign when sending, never when queueing: a signature is good for five minutes.
 *
 * What is signed is what must be sent: the URL's path and query stand as they are, so they have to
 * be percent-encoded ("%20", never "+": url_encode() in lib/url.h). Signed are Host, X-Amz-Date,
 * X-Amz-Security-Token, X-Amz-Content-Sha256 where it is sent, and the headers given; not those
 * that proxies change (User-Agent, Expect, Transfer-Encoding, Connection, X-Amzn-Trace-Id).
 *
 * Source: AWS Signature Version 4 for API requests, "Create a signed AWS API request".
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/aws_keys.h"
#include "lib/err.h"
#include "lib/http_header.h"

struct sigv4_request {
	const struct aws_keys *keys; /* not checked for expiry here */
	const char *region;
	const char *service; /* signing name: "ecs", "logs", "ecr", "s3", ... */
	const char *method;
	const char *url;                   /* absolute: http, https, ws or wss */
	const struct http_header *headers; /* to be signed as well */
	size_t n_headers;
	const void *body;
	size_t body_len;
	uint64_t realtime_usec; /* time of signing; 0: now */
};

/* Headers to send. Holds the session token: sigv4_signature_done() wipes it. */
struct sigv4_signature {
	char *host;            /* Host, which has to be sent in exactly this form */
	char *authorization;   /* Authorization */
	char *security_token;  /* X-Amz-Security-Token; NULL if the keys have none */
	char date[17];         /* X-Amz-Date, "20260701T100000Z" */
	char body_sha256[65];  /* X-Amz-Content-Sha256 */
	bool send_body_sha256; /* the service (s3) wants the header above */
};

/*
 * Returns 0 with *ret to be released by sigv4_signature_done(), or -EINVAL (the URL, a header or
 * another member cannot be signed; err names it), -ENOMEM, -EIO (libcrypto).
 */
int sigv4_sign(const struct sigv4_request *request, struct sigv4_signature *ret, struct err *err);
void sigv4_signature_done(struct sigv4_signature *signature);
#define _cleanup_sigv4_ _cleanup_(sigv4_signature_done)

/*
 * The signature as a block of "Name: value\r\n" lines in alphabetical order, ended by an empty
 * line: the form in which a telemetry frame carries it before its JSON. Owned by the caller, who
 * wipes it (secret_string_free()); NULL when out of memory.
 */
char *sigv4_header_block(const struct sigv4_signature *signature);
