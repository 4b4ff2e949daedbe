/*
 * AWS keys for sending logs, asked of ecs-metadata by credentials id and kept until shortly before
 * they end (iam-creds/protocol.h). ecs-metadata may be away, or not have the keys of a task yet:
 * both pass, so a question is repeated, with growing waits, as long as somebody asks for the id.
 */
#pragma once

#include <systemd/sd-event.h>

#include "lib/aws_keys.h"
#include "lib/cleanup.h"
#include "lib/err.h"

struct log_keys;

/* There is news: ask again with log_keys_get(). Called from the loop. */
typedef void (*log_keys_changed_fn)(void *userdata);

/* runtime_dir is borrowed. */
int log_keys_new(sd_event *loop, const char *runtime_dir, log_keys_changed_fn changed,
                 void *userdata, struct log_keys **ret, struct err *err);
struct log_keys *log_keys_free(struct log_keys *keys);
DEFINE_CLEANUP(struct log_keys *, log_keys_free)

/* 0 with *ret borrowed until the next call of any function here, -EAGAIN while they are being asked
 * for (err says what is known of it), -ENOENT when the last answer was that there are none of this
 * id (they are asked for all the same), -ENOMEM. Keys that have ended are never returned. */
int log_keys_get(struct log_keys *keys, const char *id, struct aws_keys **ret, struct err *err);

/* AWS has refused them: ask again. */
void log_keys_refused(struct log_keys *keys, const char *id);
