/* ACS messages as text: {"type":"<ShapeName>","message":{...}}. Everything here comes from outside.
 */
#pragma once

#include <json-c/json.h>
#include <stddef.h>

#include "agent/acs/acs.h"
#include "lib/cleanup.h"
#include "lib/err.h"

#define ACS_FRAME_MAX_BYTES (8 * 1024 * 1024)
#define ACS_TASKS_MAX       10000 /* in one manifest */

enum acs_message_type {
	ACS_MESSAGE_PAYLOAD,
	ACS_MESSAGE_CREDENTIALS,
	ACS_MESSAGE_HEARTBEAT,
	ACS_MESSAGE_MANIFEST,
	ACS_MESSAGE_STOP_VERIFICATION,
	ACS_MESSAGE_UPDATE,      /* StageUpdateMessage, PerformUpdateMessage */
	ACS_MESSAGE_UNSUPPORTED, /* known to the protocol, not carried out here */
	ACS_MESSAGE_NOTICE,      /* CloseMessage, ErrorMessage and the exceptions: for the log */
	ACS_MESSAGE_UNKNOWN,
};

struct acs_frame {
	enum acs_message_type type;
	char type_name[64];          /* as sent, cut */
	struct json_object *message; /* owned; an object */
	char notice[256];            /* text of a notice */
};

/* -EINVAL: no JSON object, or none with "type" and "message"; -EFBIG; -ENOMEM. */
int acs_frame_parse(const char *text, size_t len, struct acs_frame *ret, struct err *err);
void acs_frame_done(struct acs_frame *frame);

/*
 * The members of each type. -EINVAL or -ENOENT: one that is required is missing, empty or of
 * another type. What the results point to belongs to message, but for lists and the payload's
 * tasks, which
 * *_done() release.
 */
int acs_payload_read(struct json_object *message, struct acs_payload *ret, struct err *err);
void acs_payload_done(struct acs_payload *payload);
int acs_role_credentials_read(struct json_object *message, struct acs_role_credentials *ret,
                              struct err *err);
int acs_manifest_read(struct json_object *message, struct acs_manifest *ret, struct err *err);
void acs_manifest_done(struct acs_manifest *manifest);
int acs_stop_verification_read(struct json_object *message, struct acs_stop_verification *ret,
                               struct err *err);
void acs_stop_verification_done(struct acs_stop_verification *verification);

/* The body of a refused handshake: {"type":"X","message":{"message":"text"}} or {"X":"text"}. Both
 * texts are "" when it is neither. */
struct acs_refusal {
	char name[64]; /* "InactiveInstanceException" */
	char text[256];
};
void acs_refusal_read(const char *body, size_t len, struct acs_refusal *ret);

/* Messages of ours: each returns an owned object, NULL when out of memory. */
struct json_object *acs_ack_message(const char *cluster, const char *container_instance,
                                    const char *message_id);
struct json_object *acs_nack_message(const char *cluster, const char *container_instance,
                                     const char *message_id, const char *reason);
struct json_object *acs_credentials_ack_message(const char *message_id, const char *expiration,
                                                const char *credentials_id);
struct json_object *acs_heartbeat_ack_message(const char *message_id);
struct json_object *acs_stop_candidates_message(const char *message_id,
                                                const struct acs_task_identifier *candidates,
                                                size_t n);
