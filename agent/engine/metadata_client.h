/*
 * The connection to ecs-metadata, kept up for as long as the object lives: lost, it is made again
 * after 200 ms to 10 s. Each new one begins with "hello", whose answer says what ecs-metadata has.
 */
#pragma once

#include "agent/engine/peer.h"

struct metadata_client;

struct metadata_client_ops {
	/* Connected: send what the answer to hello lacks. */
	void (*up)(struct json_object *hello, void *userdata);
	void (*down)(void *userdata);
};

/* runtime_dir and ops: borrowed. Connects from the loop. */
int metadata_client_new(sd_event *loop, const char *runtime_dir,
                        const struct metadata_client_ops *ops, void *userdata,
                        struct metadata_client **ret);
struct metadata_client *metadata_client_free(struct metadata_client *client);
DEFINE_CLEANUP(struct metadata_client *, metadata_client_free)

bool metadata_is_up(const struct metadata_client *client);

/* As peer_request() with METADATA's deadline; -ENOTCONN while it is down. fn may be NULL: a refusal
 * is logged. */
int metadata_request(struct metadata_client *client, struct json_object *body, const int *fds,
                     size_t n_fds, peer_answer_fn fn, void *userdata);
void metadata_forget(struct metadata_client *client, void *userdata);
/* Inside fn only: did ecs-metadata answer with an error; else it hangs or has gone. */
bool metadata_has_refused(const struct metadata_client *client);
