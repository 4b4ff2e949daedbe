/*
 * The requests of protocol.h by which an agent takes a task up again: "record" (what to keep for
 * it), "state" (the containers, their execs, the volumes, the record) and "sockets" (the endpoints
 * of the containers). Each answers and returns 0, or leaves the error to the caller to answer.
 */
#pragma once

#include <json-c/json.h>

#include "agent/task/supervisor_internal.h"

/* -E2BIG: above TASK_RECORD_MAX; the record of before stays. */
int supervisor_keep_record(struct supervisor *s, struct json_object *request,
                           struct ipc_message *msg, struct err *err);
int supervisor_tell_state(struct supervisor *s, struct json_object *request,
                          struct ipc_message *msg, struct err *err);
int supervisor_tell_sockets(struct supervisor *s, struct json_object *request,
                            struct ipc_message *msg, struct err *err);
