/*
 * State changes on their way to SubmitTaskStateChange: in order for each task, up to ten tasks at
 * once, each at least once. A failed one is sent again after 1 to 30 seconds (times 1.3, jitter
 * 0.2); one that the service calls invalid for good is dropped and logged. One task's failure
 * delays no other.
 *
 * Events are rows of the store: added in the transaction of the change they report, sent when that
 * is committed, removed when accepted.
 */
#pragma once

#include <json-c/json.h>
#include <systemd/sd-event.h>

#include "agent/state/state.h"
#include "lib/cleanup.h"
#include "lib/err.h"

#define OUTBOX_CONCURRENT_MAX 10

struct outbox;

typedef void (*outbox_done_fn)(int r, const struct err *err, bool final, void *userdata);

/* Sends one body; done runs later, from the loop, once, unless cancelled. final: the same body can
 * never succeed. */
struct outbox_sender {
	int (*start)(struct json_object *body, outbox_done_fn done, void *done_userdata,
	             void **ret_call, struct err *err, void *userdata);
	void (*cancel)(void *call, void *userdata);
	void *userdata;
};

struct outbox_options {
	sd_event *loop;
	struct state *state;         /* borrowed */
	struct outbox_sender sender; /* start NULL: everything stays here */
	/* The last event of a task was accepted or dropped; may be NULL. */
	void (*emptied)(const char *task_arn, void *userdata);
	void *userdata;
};

int outbox_new(const struct outbox_options *options, struct outbox **ret);
struct outbox *outbox_free(struct outbox *outbox);
DEFINE_CLEANUP(struct outbox *, outbox_free)

/* Take up what an earlier run left in the store. */
int outbox_read(struct outbox *outbox, struct err *err);

/* Queue a body (borrowed), in the transaction of this turn. -ENOMEM or -ENOBUFS. */
int outbox_add(struct outbox *outbox, const char *task_arn, struct json_object *body);
bool outbox_has(const struct outbox *outbox, const char *task_arn);
size_t outbox_count(const struct outbox *outbox); /* bodies that are queued */
