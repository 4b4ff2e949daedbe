/*
 * The task metadata documents, versions 4 and 3, that ecs-metadata serves to the containers of a
 * task. Members and their order are those that users know from the ECS agent.
 */
#pragma once

#include <json-c/json.h>

#include "agent/engine/task.h"
#include "lib/err.h"

struct document_options {
	const char *cluster;           /* configured name or ARN */
	const char *availability_zone; /* NULL: unknown or hidden */
};

/* A time as the documents have it: RFC 3339 with nanoseconds; nothing for 0. */
int document_add_time(struct json_object *obj, const char *name, uint64_t realtime_usec);

/*
 * All documents of a task: {"/v4/<uuid>":{...},"/v4/<uuid>/task":{...},"/v3/...":...}, for the
 * "documents" request of iam-creds/protocol.h. *ret is owned by the caller. 0 or -ENOMEM.
 */
int documents_build(const struct task *task, const struct document_options *options,
                    struct json_object **ret);
