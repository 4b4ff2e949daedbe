/* The body of RegisterContainerInstance, and the check of what comes back. */
#pragma once

#include <json-c/json.h>

#include "agent/config/config.h"
#include "agent/ecs/capabilities.h"
#include "agent/ecs/instance.h"

struct node_resources {
	uint64_t cpus;         /* online */
	uint64_t memory_bytes; /* MemTotal */
};

int node_resources_read(struct node_resources *ret, struct err *err);

struct registration_request {
	const struct config *config;
	const struct instance *instance;
	const struct node_facts *facts;
	const struct node_resources *resources;
	const char *container_instance_arn; /* NULL: the first time */
	const char *client_token;
};

/* *ret is the caller's. -ERANGE: ECS_RESERVED_MEMORY is more than there is; -ENOMEM. */
int registration_request_to_json(const struct registration_request *request,
                                 struct json_object **ret, struct err *err);

/* Does every attribute of the request stand in the answer with the same value? -EBADMSG names the
 * first that does not. */
int registration_check_attributes(struct json_object *request, struct json_object *answer,
                                  struct err *err);
