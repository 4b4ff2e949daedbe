/*
 * One pull, from the request (agent/image/protocol.h, "pull") to the record in the store: resolve
 * the reference, read the configuration, fetch the layers that the store lacks, commit.
 *
 * Runs in the network half and blocks, looking all the while whether the client is still there.
 */
#pragma once

#include <json-c/json.h>
#include <stdint.h>

#include "lib/err.h"
#include "lib/http.h"

/* "resolved" and "progress" messages of the protocol, without their seq. A negative errno ends the
 * pull. */
typedef int (*pull_event_fn)(struct json_object *message, void *userdata);

struct pull_options {
	const struct http_settings *settings;
	const char *runtime_dir;
	const char *certs_dir;
	int unpack_fd; /* connection to the unpack half */
	int client_fd; /* cancelled when its peer hangs up */
	pull_event_fn on_event;
	void *userdata;
};

/*
 * ret_record: the image as the store keeps it, owned by the caller. Errors have their ECS name set
 * and are worded as ECS users know them; -ECANCELED when the client went away.
 */
int pull_run(const struct pull_options *options, struct json_object *request,
             struct json_object **ret_record, struct err *err);
