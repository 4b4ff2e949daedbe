/*
 * The requests of protocol.h, by a table: which there are, when each is allowed, and who handles
 * it. Those about the task as a whole are handled here ("setup", "volume", "stop-order", "exec",
 * "exec-signal", "end"), the others in supervisor_containers.h and supervisor_state.h.
 */
#pragma once

#include <json-c/json.h>
#include <stddef.h>

#include "agent/task/supervisor_internal.h"

/* One request, answered or failed. */
void supervisor_handle(struct supervisor *s, struct ipc_message *msg);

/* --- calls of exec_requests.h; userdata: the supervisor --- */

int supervisor_container_for_exec(void *userdata, struct json_object *request,
                                  struct container **ret, struct err *err);
void supervisor_send_for_exec(void *userdata, struct json_object *body, const int *fds, size_t n);

/* What fails is logged and left to the reaper. */
void supervisor_remove_runtime_directory(struct supervisor *s);
