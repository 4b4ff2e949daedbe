/*
 * A lib/ipc connection on an sd_event loop.
 *
 * on_message runs from the loop, once for each message, at most 16 in one turn; the message is
 * the callee's to take from (what it leaves is released after). on_end runs once, when the peer has
 * closed (r = -EPIPE) or the connection broke; after it nothing else is called. Freeing the object,
 * also inside a callback, cancels both.
 */
#pragma once

#include <systemd/sd-event.h>

#include "lib/ipc.h"

struct ipc_event;

typedef void (*ipc_event_message_fn)(struct ipc_event *conn, struct ipc_message *msg,
                                     void *userdata);
typedef void (*ipc_event_end_fn)(struct ipc_event *conn, int r, const struct err *err,
                                 void *userdata);

/* Takes conn, also on failure. userdata is borrowed. */
int ipc_event_new(sd_event *loop, struct ipc_conn *conn, ipc_event_message_fn on_message,
                  ipc_event_end_fn on_end, void *userdata, struct ipc_event **ret);
struct ipc_event *ipc_event_free(struct ipc_event *conn);
DEFINE_CLEANUP(struct ipc_event *, ipc_event_free)

/*
 * As ipc_conn_send(); what does not fit now is sent by the loop. That the peer has gone is told by
 * on_end alone, after what it has sent before; -EPIPE once that was called.
 */
int ipc_event_send(struct ipc_event *conn, struct json_object *body, const int *fds, size_t n_fds);
int ipc_event_send_error(struct ipc_event *conn, struct json_object *request, int code,
                         const struct err *err);
int ipc_event_fd(const struct ipc_event *conn);
