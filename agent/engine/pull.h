/*
 * Image pulls: one ecs-image process each, a few at a time, and one for all who want the same
 * reference with the same credentials.
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "lib/cleanup.h"
#include "lib/err.h"

#define PULLS_MAX      6  /* at a time; others wait in order */
#define REMEMBERED_MAX 64 /* images, the latest */

struct puller;
struct pull;

/* runtime_dir: borrowed. */
int puller_new(sd_event *loop, const char *runtime_dir, struct puller **ret);
/* Cancels every pull; owners' struct pull must be freed before. */
struct puller *puller_free(struct puller *puller);
DEFINE_CLEANUP(struct puller *, puller_free)

struct pull_options {
	const char *reference;
	struct json_object *auth; /* as in agent/image/protocol.h, borrowed; NULL: anonymous */
	bool local;               /* "inspect": look in the local store only */
	uint64_t manifest_timeout_usec, inactivity_timeout_usec, timeout_usec;
};

struct pull_result {
	const char *digest;   /* "sha256:..." or NULL */
	const char *image_id; /* the same */
	struct json_object *layers;
	struct json_object *config;
};

struct pull_ops {
	/* A process was started for it; may be NULL. */
	void (*started)(void *userdata);
	/* The tag names this digest. */
	void (*resolved)(const char *digest, void *userdata);
	/* r: 0 with result (borrowed for the call); negative with err: the errors of
	 * agent/image/protocol.h, -ETIMEDOUT when ecs-image does not answer at all. */
	void (*done)(int r, const struct err *err, const struct pull_result *result,
	             void *userdata);
};

int pull_start(struct puller *puller, const struct pull_options *options,
               const struct pull_ops *ops, void *userdata, struct pull **ret);
/* What ecs-image said of an image is remembered, so that a look into the local store needs no
 * process; forgotten when it proves wrong (a layer that an operator has removed). */
void puller_forget(struct puller *puller, const char *reference);
void puller_forget_all(struct puller *puller);

/*
 * A pull that has met a full disk (-ENOSPC) calls make_room and waits for puller_room_made(): it is
 * started once more if something was freed, else it fails as it did. Without this, or when
 * make_room fails, it fails at once.
 */
void puller_on_full_disk(struct puller *puller, int (*make_room)(void *userdata), void *userdata);
void puller_room_made(struct puller *puller, bool freed);

/* Cancels; the process ends when nobody waits for it any more. */
struct pull *pull_free(struct pull *pull);
DEFINE_CLEANUP(struct pull *, pull_free)

/* Overwrites every string in a JSON value that held secrets, before it is put. */
void json_wipe(struct json_object *value);
