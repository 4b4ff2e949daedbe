/*
 * What ecs-network does for each request (netns/protocol.h): bridge, links, firewall and host
 * ports put together. Knows no state but the kernel's.
 */
#pragma once

#include "lib/cleanup.h"
#include "lib/err.h"
#include "lib/ipc.h"
#include "netns/bridge.h"

struct network;

/* Works on the namespace that the thread is in. */
int network_new(const struct bridge *bridge, struct network **ret, struct err *err);
struct network *network_free(struct network *network);
DEFINE_CLEANUP(struct network *, network_free)

/*
 * Do what one message asks. The message stays the caller's (its descriptors are borrowed), answer
 * must be empty and is the caller's afterwards.
 * Returns 0 with the answer, or -errno with the words for an error message: -EINVAL for a request
 * that is malformed or unknown, else what failed. The process goes on in either case.
 */
int network_handle(struct network *network, struct ipc_message *request, struct ipc_message *answer,
                   struct err *err);

/* Remove everything: links, table, bridge, the host's endpoint address. Nothing there is fine.
 * -EEXIST: all is gone but what has the bridge's name, which is not ours. */
int network_remove(struct network *network, struct err *err);
