/*
 * The node's own AWS keys, from the first of these that has any: AWS_ACCESS_KEY_ID and its
 * companions in the environment or ecs.config; the shared credentials file
 * (AWS_SHARED_CREDENTIALS_FILE, profile AWS_PROFILE); the instance role through IMDSv2.
 *
 * Role keys are renewed before they end (with jitter, one request at a time), and an expired key is
 * never handed out: who asks waits for the renewal or gets its error.
 */
#pragma once

#include <systemd/sd-event.h>

#include "lib/aws_keys.h"
#include "lib/cleanup.h"
#include "lib/envfile.h"
#include "lib/err.h"
#include "lib/imds.h"

struct aws_credentials;

/* file: ecs.config or NULL, borrowed. imds: borrowed; NULL: keys of the instance role are not
 * tried. */
int aws_credentials_new(sd_event *loop, const struct envfile *file, struct imds *imds,
                        struct aws_credentials **ret, struct err *err);
struct aws_credentials *aws_credentials_free(struct aws_credentials *credentials);
DEFINE_CLEANUP(struct aws_credentials *, aws_credentials_free)

struct aws_keys_get;

/* keys is borrowed for the call (aws_keys_ref() to keep it), NULL if r < 0:
 *   -ENOENT       no source has keys (err lists what was tried)
 *   -EKEYEXPIRED  the keys have ended and renewal fails (err says why)
 *   -EINVAL       a source has half a key or cannot be read */
typedef void (*aws_keys_fn)(int r, const struct err *err, struct aws_keys *keys, void *userdata);

/* done runs later, from the loop. */
int aws_credentials_get_start(struct aws_credentials *credentials, aws_keys_fn done, void *userdata,
                              struct aws_keys_get **ret, struct err *err);
struct aws_keys_get *aws_keys_get_free(struct aws_keys_get *get);
DEFINE_CLEANUP(struct aws_keys_get *, aws_keys_get_free)

/* AWS refused these keys as expired or unknown: ask the source again at the next get. */
void aws_credentials_refused(struct aws_credentials *credentials, const struct aws_keys *keys);

/* Called from the loop whenever there are new keys, such as to pass them on to ecs-metadata; also
 * once for those that are there already. NULL ends it. */
typedef void (*aws_credentials_changed_fn)(struct aws_keys *keys, void *userdata);
void aws_credentials_watch(struct aws_credentials *credentials, aws_credentials_changed_fn changed,
                           void *userdata);
