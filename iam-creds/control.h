/*
 * The control socket (protocol.h): one table of requests, who may make each, and its handler. A
 * request is answered when what it has changed would survive this process (keep.h).
 */
#pragma once

#include <systemd/sd-event.h>

#include "iam-creds/audit.h"
#include "iam-creds/http.h"
#include "iam-creds/keep.h"
#include "iam-creds/store.h"

struct control;

struct control_config {
	struct store *store; /* all borrowed */
	struct http *http;
	struct audit *audit;
	struct keep *keep;
	uid_t agent_uid, logs_uid, image_uid;
};

/* Takes listen_fd, also on failure. */
int control_new(sd_event *loop, int listen_fd, const struct control_config *config,
                struct control **ret, struct err *err);
struct control *control_free(struct control *control);
DEFINE_CLEANUP(struct control *, control_free)
