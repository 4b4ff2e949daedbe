/*
 * The requests of protocol.h that are about one container: "create", "start", "stop", "signal".
 *
 * Each answers on the connection of ecs-agent and returns 0, or leaves the error to the caller to
 * answer. msg has the descriptors that came with the request; those that are taken are -EBADF
 * after it. Only "start" is answered later: when the container runs, is held or has failed.
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>

#include "agent/task/supervisor_internal.h"

/* The container that a request names: borrowed, or -ENOENT with those that there are in err. */
int supervisor_get_container(struct supervisor *s, struct json_object *request,
                             struct container **ret, struct err *err);

int supervisor_create_container(struct supervisor *s, struct json_object *request,
                                struct ipc_message *msg, struct err *err);
int supervisor_start_container(struct supervisor *s, struct json_object *request,
                               struct ipc_message *msg, struct err *err);
int supervisor_stop_container(struct supervisor *s, struct json_object *request,
                              struct ipc_message *msg, struct err *err);
int supervisor_signal_container(struct supervisor *s, struct json_object *request,
                                struct ipc_message *msg, struct err *err);

/* Read what the child of a start reports, and answer the request when it is over. ended: the child
 * is gone. */
void supervisor_start_progress(struct supervisor *s, struct container *container, bool ended);
/* As supervisor_send_error(), and which container it is about. The request of a container that was
 * held is answered already: it has exited. */
void supervisor_answer_start_failed(struct supervisor *s, struct container *container,
                                    const struct err *err);
