/*
 * Messages between our programs over an AF_UNIX stream socket: 4 bytes of length (little-endian),
 * then one JSON object of that length; file descriptors travel with the first byte of the message.
 * Every message has a string member "type"; a request may carry an integer "seq", which the answer
 * repeats. An error is answered with
 *     {"type":"error","seq":N,"message":"...","name":"CannotStartContainerError","code":"ENOENT"}
 * where name and code may be missing.
 *
 * A connection has no loop of its own: the owner polls ipc_conn_fd() for reading, and for writing
 * while ipc_conn_wants_write(). lib/ipc_event.h does that on sd_event.
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "lib/cleanup.h"
#include "lib/err.h"

#define IPC_FDS_MAX     64                /* descriptors with one message */
#define IPC_MESSAGE_MAX (4 * 1024 * 1024) /* bytes of JSON, unless a smaller bound is given */

struct ipc_message {
	struct json_object *body; /* owned */
	int fds[IPC_FDS_MAX];     /* owned, O_CLOEXEC; -EBADF once taken */
	size_t n_fds;
};

/* Releases body and the descriptors not taken (TAKE_FD(msg.fds[0])); leaves it empty. */
void ipc_message_done(struct ipc_message *msg);

struct ipc_conn;

/* Takes fd, also on failure, and makes it non-blocking. max_bytes: 0 means IPC_MESSAGE_MAX.
 * wiped: buffers are cleared after use, for connections that carry credentials. */
int ipc_conn_new(int fd, size_t max_bytes, bool wiped, struct ipc_conn **ret);
struct ipc_conn *ipc_conn_free(struct ipc_conn *conn);
DEFINE_CLEANUP(struct ipc_conn *, ipc_conn_free)

int ipc_conn_fd(const struct ipc_conn *conn);

/*
 * Take the next message. *msg must be empty and is owned by the caller afterwards.
 * Returns 1 with a message, 0 when more bytes must come first (poll again), or
 *   -EPIPE    the peer closed between two messages
 *   -EPROTO   the peer closed within one, or sent no object or one without "type" (err says it)
 *   -EMSGSIZE the announced length is over the bound
 *   -errno    of recvmsg(2), or -ENOMEM
 * After an error the connection is of no more use.
 */
int ipc_conn_receive(struct ipc_conn *conn, struct ipc_message *msg, struct err *err);

/*
 * Queue a message and try to send. body is borrowed. fds are duplicated, so the caller keeps its
 * own. Unsent messages wait (at most 64 MiB, else -ENOBUFS) for ipc_conn_flush().
 * Returns 0, or -errno of sendmsg(2) or dup(2).
 */
int ipc_conn_send(struct ipc_conn *conn, struct json_object *body, const int *fds, size_t n_fds);

/* Send what is queued: 0 (all or as much as fits now) or -errno. */
int ipc_conn_flush(struct ipc_conn *conn);
bool ipc_conn_wants_write(const struct ipc_conn *conn);

/* Answer a request with an error; code is a negative errno whose name is sent ("ENOENT"). */
int ipc_conn_send_error(struct ipc_conn *conn, struct json_object *request, int code,
                        const struct err *err);

/* A new message of this type; if request has "seq", it is repeated. NULL when out of memory. */
struct json_object *ipc_message_new(const char *type, struct json_object *request);

/* The errno of an "error" message (its "code"), -EIO if it has none; fills err from it.
 * err->name is set only for the ECS names in ecs_reason_name(). */
int ipc_message_error(struct json_object *body, struct err *err);

/* A static string equal to name if that is a reason class of ECS, such as
 * "CannotStartContainerError"; NULL otherwise. */
const char *ecs_reason_name(const char *name);

/* Blocking request for small clients and tests: send body, wait for one answer (timeout_usec).
 * fd stays the caller's. An "error" answer is returned as its negative errno. */
int ipc_call(int fd, struct json_object *body, const int *fds, size_t n_fds,
             unsigned long timeout_usec, struct ipc_message *ret, struct err *err);

/* Connect to a socket at path; -errno of connect(2). Returns the descriptor (blocking). */
int ipc_connect(const char *path, struct err *err);

/* Listen at path, replacing a socket that nobody listens on any more. mode and group as given
 * (gid -1 keeps it). Returns the descriptor (non-blocking). -EADDRINUSE if someone does listen. */
int ipc_listen(const char *path, mode_t mode, gid_t gid, struct err *err);

/* uid, gid, pid of the peer at connect time (SO_PEERCRED); any pointer may be NULL. */
int ipc_peer(int fd, uid_t *ret_uid, gid_t *ret_gid, pid_t *ret_pid);
