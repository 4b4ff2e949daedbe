/*
 * Requests to ecs-network, one at a time and in order. The process is started through the launcher
 * when there is something to ask, and ends when there was nothing for a while.
 */
#pragma once

#include "agent/engine/peer.h"

struct network_client;

/* runtime_dir: borrowed. */
int network_client_new(sd_event *loop, const char *runtime_dir, struct network_client **ret);
struct network_client *network_client_free(struct network_client *client);
DEFINE_CLEANUP(struct network_client *, network_client_free)

/*
 * body is taken, also on failure; fds are duplicated. fn as peer_answer_fn, with the deadline
 * counted from when the request is sent; it runs from the loop. A request whose connection breaks
 * is not sent again: r is -EPIPE or what connecting to the launcher gave.
 */
int network_request(struct network_client *client, struct json_object *body, const int *fds,
                    size_t n_fds, uint64_t timeout_usec, peer_answer_fn fn, void *userdata);
/* Inside a callback with an error: it is one that ecs-network has answered, so nothing was done.
 * Else the answer is lost, and what became of the request is unknown. */
bool network_has_refused(const struct network_client *client);
/* Drop the callbacks of requests with this userdata; they are still carried out. */
void network_forget(struct network_client *client, void *userdata);
