/*
 * A connection to one of our programs on which requests carry a "seq" and are answered by it, with
 * a deadline for each.
 *
 * Callbacks run from the event loop. peer_free() cancels all of them and may be called inside any.
 * When the connection ends, every open request is answered with its error first, then on_end runs,
 * once; nothing is called after that.
 */
#pragma once

#include <systemd/sd-event.h>

#include "lib/ipc_event.h"

struct peer;

/*
 * The answer to a request: r is 0 and msg the answer (descriptors may be taken from it), or r is
 * negative, msg NULL and err says why:
 *   -ETIMEDOUT  no answer in time; one that comes later is dropped
 *   -EPIPE and others of the connection's end
 *   the errno of an "error" answer, of which peer_error() is the whole message
 */
typedef void (*peer_answer_fn)(int r, struct ipc_message *msg, const struct err *err,
                               void *userdata);

struct peer_ops {
	/* A message without "seq"; may be NULL. */
	void (*on_event)(struct peer *peer, struct ipc_message *msg, void *userdata);
	void (*on_end)(struct peer *peer, int r, const struct err *err, void *userdata);
};

/* Takes fd, also on failure. wiped: as ipc_conn_new(). userdata is borrowed. */
int peer_new(sd_event *loop, int fd, bool wiped, const struct peer_ops *ops, void *userdata,
             struct peer **ret);
struct peer *peer_free(struct peer *peer);
DEFINE_CLEANUP(struct peer *, peer_free)

/*
 * Send a request; "seq" is added to body, which is taken, also on failure (NULL is -ENOMEM). fds
 * are borrowed. timeout_usec 0: no deadline. fn may be NULL. Not 0: fn will not be called.
 */
int peer_request(struct peer *peer, struct json_object *body, const int *fds, size_t n_fds,
                 uint64_t timeout_usec, peer_answer_fn fn, void *userdata);

/* Drop the callbacks of all open requests that have this userdata. */
void peer_forget(struct peer *peer, void *userdata);

/* Requests that have no answer yet. */
size_t peer_pending(const struct peer *peer);

/* The "error" message being reported, inside a peer_answer_fn only; else NULL. */
struct json_object *peer_error(const struct peer *peer);

/*
 * Ask the launcher below runtime_dir for a program: verb "task", "image", "network", "volume" or
 * "reap", task_id NULL where the verb takes none. Returns a connected descriptor, or -errno.
 */
int launcher_connect(const char *runtime_dir, const char *verb, const char *task_id,
                     struct err *err);
