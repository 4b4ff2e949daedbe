/*
 * Messages in, answers out. A malformed message is counted, logged and dropped: neither the session
 * nor the agent ends because of what somebody sends.
 */
#include "agent/acs/dispatch.h"

#include <errno.h>

#include "agent/acs/message.h"
#include "agent/acs/session.h"
#include "lib/json.h"

#define UPDATES_ARE_DISABLED "Updates are disabled"

/* Takes frame. */
static int send_frame(struct acs_session *session, struct json_object *frame)
{
	_cleanup_json_ struct json_object *owned = frame;
	const char *text;
	size_t len;
	int r;

	if (!frame)
		return -ENOMEM;
	if (!session->websocket)
		return -ENOTCONN;
	text = json_to_text(frame, &len);
	if (!text)
		return -ENOMEM;
	r = websocket_send_text(session->websocket, text, len);
	if (r < 0)
		log_debug(session->log, "ACS: an answer was lost (%d)", r);
	return r;
}

int acs_ack(struct acs_session *session, const char *cluster, const char *container_instance,
            const char *message_id)
{
	return send_frame(session, acs_ack_message(cluster, container_instance, message_id));
}

int acs_credentials_ack(struct acs_session *session, const char *message_id, const char *expiration,
                        const char *credentials_id)
{
	return send_frame(session,
	                  acs_credentials_ack_message(message_id, expiration, credentials_id));
}

int acs_stop_candidates(struct acs_session *session, const char *message_id,
                        const struct acs_task_identifier *candidates, size_t n)
{
	return send_frame(session, acs_stop_candidates_message(message_id, candidates, n));
}

/* ---- one type each; the handler is always the last statement that uses the session ---- */

static int on_payload(struct acs_session *session, const struct acs_frame *frame, struct err *err)
{
	struct acs_payload payload;
	int r = acs_payload_read(frame->message, &payload, err);

	if (r < 0)
		return r;
	session->handlers->payload(session, &payload, session->userdata);
	acs_payload_done(&payload);
	return 0;
}

static int on_credentials(struct acs_session *session, const struct acs_frame *frame,
                          struct err *err)
{
	struct acs_role_credentials credentials;
	int r = acs_role_credentials_read(frame->message, &credentials, err);

	if (r < 0)
		return r;
	session->handlers->credentials(session, &credentials, session->userdata);
	return 0;
}

static int on_heartbeat(struct acs_session *session, const struct acs_frame *frame, struct err *err)
{
	const char *message_id;
	int r = json_get_string(frame->message, "messageId", &message_id, err);

	if (r < 0)
		return r;
	(void)send_frame(session, acs_heartbeat_ack_message(message_id));
	if (session->handlers->heartbeat)
		session->handlers->heartbeat(session, session->userdata);
	return 0;
}

static int on_manifest(struct acs_session *session, const struct acs_frame *frame, struct err *err)
{
	struct acs_manifest manifest;
	int r = acs_manifest_read(frame->message, &manifest, err);

	if (r < 0)
		return r;
	session->handlers->manifest(session, &manifest, session->userdata);
	acs_manifest_done(&manifest);
	return 0;
}

static int on_stop_verification(struct acs_session *session, const struct acs_frame *frame,
                                struct err *err)
{
	struct acs_stop_verification verification;
	int r = acs_stop_verification_read(frame->message, &verification, err);

	if (r < 0)
		return r;
	session->handlers->stop_verification(session, &verification, session->userdata);
	acs_stop_verification_done(&verification);
	return 0;
}

/* The package manager updates this agent; ACS is told so. */
static int on_update(struct acs_session *session, const struct acs_frame *frame, struct err *err)
{
	const char *message_id, *cluster, *container_instance;
	int r = json_get_string(frame->message, "messageId", &message_id, err);

	if (r == 0)
		r = json_get_string(frame->message, "clusterArn", &cluster, err);
	if (r == 0)
		r = json_get_string(frame->message, "containerInstanceArn", &container_instance,
		                    err);
	if (r < 0)
		return r;
	session->statistics.unsupported++;
	log_warning(session->log, 0, "ACS: %s was refused: %s", frame->type_name,
	            UPDATES_ARE_DISABLED);
	(void)send_frame(session, acs_nack_message(cluster, container_instance, message_id,
	                                           UPDATES_ARE_DISABLED));
	return 0;
}

static int on_unsupported(struct acs_session *session, const struct acs_frame *frame,
                          struct err *err)
{
	(void)err;
	session->statistics.unsupported++;
	log_warning(session->log, 0, "ACS: %s was dropped: this agent does not support it",
	            frame->type_name);
	return 0;
}

static int on_notice(struct acs_session *session, const struct acs_frame *frame, struct err *err)
{
	(void)err;
	log_warning(session->log, 0, "ACS says %s: %s", frame->type_name, frame->notice);
	return 0;
}

static int (*const handlers[])(struct acs_session *session, const struct acs_frame *frame,
                               struct err *err) = {
	[ACS_MESSAGE_PAYLOAD] = on_payload,
	[ACS_MESSAGE_CREDENTIALS] = on_credentials,
	[ACS_MESSAGE_HEARTBEAT] = on_heartbeat,
	[ACS_MESSAGE_MANIFEST] = on_manifest,
	[ACS_MESSAGE_STOP_VERIFICATION] = on_stop_verification,
	[ACS_MESSAGE_UPDATE] = on_update,
	[ACS_MESSAGE_UNSUPPORTED] = on_unsupported,
	[ACS_MESSAGE_NOTICE] = on_notice,
	[ACS_MESSAGE_UNKNOWN] = on_unsupported,
};

void acs_dispatch(struct acs_session *session, const char *text, size_t len)
{
	_cleanup_(acs_frame_done) struct acs_frame frame = {0};
	struct err err = {0};
	int r;

	r = acs_frame_parse(text, len, &frame, &err);
	if (r == 0)
		r = handlers[frame.type](session, &frame, &err); /* r < 0: no handler was called */
	if (r < 0) {
		session->statistics.malformed++;
		log_warning(session->log, 0, "ACS: a malformed message (%s) was dropped: %s",
		            frame.type_name[0] ? frame.type_name : "no type", err.text);
	}
}
