/*
 * The EC2 instance metadata service, version 2: a session token fetched once and renewed, then
 * GETs with it. Each request is tried up to five times.
 *
 * Source: Amazon EC2 user guide, "Use the Instance Metadata Service".
 */
#pragma once

#include <stddef.h>
#include <systemd/sd-event.h>

#include "lib/cleanup.h"
#include "lib/err.h"
#include "lib/http.h"

struct imds;

/* endpoint: AWS_EC2_METADATA_SERVICE_ENDPOINT, or NULL for http://169.254.169.254. Copied; the
 * client is borrowed. */
int imds_new(sd_event *loop, struct http_client *http, const char *endpoint, struct imds **ret,
             struct err *err);
struct imds *imds_free(struct imds *imds);
DEFINE_CLEANUP(struct imds *, imds_free)

struct imds_request;

/* r: 0; -ENOENT: the service has no such item (404); -ENETUNREACH: there is no such service here;
 * -EIO: it answers otherwise than documented. text is NUL-terminated and wiped after done. */
typedef void (*imds_done_fn)(int r, const struct err *err, const char *text, void *userdata);

/* path: below /latest/, such as "meta-data/instance-id" or "dynamic/instance-identity/document". */
int imds_get_start(struct imds *imds, const char *path, imds_done_fn done, void *userdata,
                   struct imds_request **ret, struct err *err);
struct imds_request *imds_request_free(struct imds_request *request);
DEFINE_CLEANUP(struct imds_request *, imds_request_free)
