/*
 * What a supervisor sends to ecs-agent (protocol.h): answers, errors, and the events that nobody
 * asked for. Without a connection nothing is sent; what cannot be sent drops the connection, and
 * is told again by exit files and by the answer to "state".
 */
#pragma once

#include <json-c/json.h>
#include <stddef.h>

#include "agent/task/supervisor_internal.h"

void supervisor_drop_connection(struct supervisor *s);

/* body: borrowed; NULL (no memory to make it) drops the connection. fds: n, borrowed. */
void supervisor_send(struct supervisor *s, struct json_object *body, const int *fds, size_t n);
/* As ipc_conn_send_error(). */
void supervisor_send_error(struct supervisor *s, struct json_object *request, int code,
                           const struct err *err);

void supervisor_send_exited(struct supervisor *s, struct container *container);
/* Of the container's output, and of all containers: where there is news that was not told yet. */
void supervisor_send_dropped(struct supervisor *s, struct container *container);
void supervisor_send_health(struct supervisor *s);
void supervisor_send_managed_agents(struct supervisor *s);
