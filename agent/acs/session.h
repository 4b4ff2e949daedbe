/* Private to agent/acs/: what session.c and dispatch.c share. */
#pragma once

#include "agent/acs/acs.h"
#include "agent/acs/machine.h"
#include "lib/websocket.h"

struct acs_session {
	struct acs_machine machine;
	sd_event *loop;
	sd_event_source *timer;
	struct http_settings http;
	struct aws_credentials *credentials;
	struct poll_endpoint *endpoint;
	char *region;
	char *cluster;
	char *container_instance_arn;
	const struct acs_handlers *handlers;
	void *userdata;
	const struct log_ctx *log;

	struct poll_endpoint_get *endpoint_get;
	char *endpoint_url;
	struct aws_keys_get *keys_get;
	struct aws_keys *keys; /* of the present connection */
	struct websocket *websocket;
	bool was_connected; /* once in this process: ACS need not send all credentials again */
	uint64_t last_received_usec;
	struct acs_statistics statistics;
};
