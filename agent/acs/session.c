/*
 * The machine (machine.c) decides; this file does what it says: look up, connect, close, drop. All
 * changes of state go through apply(), and the one timer always stands at the machine's earliest
 * deadline.
 */
#include "agent/acs/acs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "agent/acs/dispatch.h"
#include "agent/acs/machine.h"
#include "agent/acs/message.h"
#include "agent/acs/session.h"
#include "lib/json.h"
#include "lib/loop.h"
#include "lib/url.h"
#include "lib/websocket.h"

#define QUEUED_MAX_BYTES    (4 * 1024 * 1024)
#define TIMER_ACCURACY_USEC (100000ULL)
#define EXPIRED_REASON      "ConnectionExpired: Reconnect to continue"

static void apply(struct acs_session *session, enum acs_event event);

static void set_timer(struct acs_session *session)
{
	uint64_t at_usec = acs_machine_deadline(&session->machine);

	(void)sd_event_source_set_time(session->timer, at_usec);
	(void)sd_event_source_set_enabled(session->timer,
	                                  at_usec == ACS_NEVER ? SD_EVENT_OFF : SD_EVENT_ONESHOT);
}

/* Something that was to be done could not be: say so, and let the machine wait. */
static void failed(struct acs_session *session, int r, const struct err *err)
{
	(void)r; /* its text is in err */
	log_warning(session->log, 0, "ACS: %s", err->text);
	apply(session, ACS_EVENT_FAILED);
}

/* ---- looking up ---- */

static bool is_inactive(const char *text)
{
	return strstr(text, "InactiveInstanceException");
}

static void became_inactive(struct acs_session *session)
{
	log_warning(session->log, 0,
	            "ACS: this container instance is not active; trying again in an hour");
	apply(session, ACS_EVENT_INACTIVE);
	if (session->handlers->inactive)
		session->handlers->inactive(session, session->userdata); /* may free session */
}

static void keys_done(int r, const struct err *err, struct aws_keys *keys, void *userdata)
{
	struct acs_session *session = userdata;

	if (r == 0) {
		aws_keys_unref(session->keys);
		session->keys = aws_keys_ref(keys);
	}
	session->keys_get = aws_keys_get_free(session->keys_get);
	if (r < 0)
		failed(session, r, err);
	else
		apply(session, ACS_EVENT_FOUND);
}

static void endpoint_done(int r, const struct err *found_err, const char *acs_url,
                          const char *telemetry_url, void *userdata)
{
	struct acs_session *session = userdata;
	struct err err = *found_err;

	(void)telemetry_url;
	if (r == 0) {
		free(session->endpoint_url);
		session->endpoint_url = strdup(acs_url);
		r = session->endpoint_url ? 0 : err_oom(&err);
	}
	session->endpoint_get = poll_endpoint_get_free(session->endpoint_get);
	if (r == 0)
		r = aws_credentials_get_start(session->credentials, keys_done, session,
		                              &session->keys_get, &err);
	if (r == 0)
		return;
	if (is_inactive(err.text))
		became_inactive(session);
	else
		failed(session, r, &err);
}

static int discover(struct acs_session *session, struct err *err)
{
	return poll_endpoint_get_start(session->endpoint, endpoint_done, session,
	                               &session->endpoint_get, err);
}

/* ---- the connection ---- */

/* The endpoint is https://host[/path]; owned by the caller. */
static char *session_url(const struct acs_session *session)
{
	const struct url_parameter query[] = {
		{"agentHash", ECS_VERSION_HASH},
		{"agentVersion", PACKAGE_VERSION},
		{"clusterArn", session->cluster},
		{"containerInstanceArn", session->container_instance_arn},
		{"protocolVersion", "2"},
		{"sendCredentials", session->was_connected ? "false" : "true"},
		{"seqNum", "1"},
	};
	const char *text = session->endpoint_url, *rest = strstr(text, "://");
	bool is_plain = strncasecmp(text, "http:", 5) == 0 || strncasecmp(text, "ws:", 3) == 0;
	_cleanup_free_ char *base = NULL;
	size_t n;

	rest = rest ? rest + 3 : text;
	n = strlen(rest);
	while (n > 0 && rest[n - 1] == '/')
		n--;
	if (asprintf(&base, "%s://%.*s/ws", is_plain ? "ws" : "wss", (int)n, rest) < 0) {
		base = NULL;
		return NULL;
	}
	return url_with_query(base, query, ARRAY_SIZE(query));
}

static void on_opened(struct websocket *websocket, void *userdata)
{
	struct acs_session *session = userdata;

	(void)websocket;
	session->was_connected = true;
	session->statistics.connects++;
	session->last_received_usec = now_usec();
	log_info(session->log, "ACS: connected");
	apply(session, ACS_EVENT_OPENED);
	if (session->handlers->connected)
		session->handlers->connected(session, true, session->userdata);
}

static void on_message(struct websocket *websocket, bool is_text, const char *data, size_t len,
                       void *userdata)
{
	struct acs_session *session = userdata;

	(void)websocket;
	session->last_received_usec = now_usec();
	session->statistics.received++;
	apply(session, ACS_EVENT_RECEIVED);
	if (!is_text) {
		session->statistics.malformed++;
		log_warning(session->log, 0, "ACS: a binary message was dropped");
		return;
	}
	acs_dispatch(session, data, len); /* may free session */
}

static void on_refused(struct acs_session *session, const struct websocket_end *how)
{
	struct acs_refusal refusal;

	acs_refusal_read(how->body, how->body_len, &refusal);
	if (is_inactive(refusal.name) || is_inactive(refusal.text)) {
		became_inactive(session);
		return;
	}
	log_warning(session->log, 0, "ACS: connection refused with status %u: %s%s%s",
	            how->http_status, refusal.name[0] ? refusal.name : "no reason given",
	            refusal.text[0] ? ": " : "", refusal.text);
	if (how->http_status == 401 || how->http_status == 403)
		aws_credentials_refused(session->credentials, session->keys);
	apply(session, ACS_EVENT_FAILED);
}

static void on_ended(struct websocket *websocket, const struct websocket_end *how, void *userdata)
{
	struct acs_session *session = userdata;

	(void)websocket;
	if (how->http_status) {
		on_refused(session, how);
		return;
	}
	if (how->r < 0) {
		failed(session, how->r, &how->err);
		return;
	}
	log_info(session->log, "ACS: disconnected (close code %u)", how->close_code);
	apply(session, acs_close_is_orderly(how->close_code) ? ACS_EVENT_CLOSED : ACS_EVENT_FAILED);
}

static int connect_session(struct acs_session *session, struct err *err)
{
	static const struct websocket_handlers handlers = {
		.opened = on_opened, .message = on_message, .ended = on_ended};
	_cleanup_free_ char *url = session_url(session);
	const struct websocket_options options = {
		.loop = session->loop,
		.settings = &session->http,
		.url = url,
		.signing = {.keys = session->keys, .region = session->region, .service = "ecs"},
		.max_message_bytes = ACS_FRAME_MAX_BYTES,
		.max_queued_bytes = QUEUED_MAX_BYTES,
		.handlers = &handlers,
		.userdata = session,
	};

	if (!url)
		return err_oom(err);
	return websocket_open(&options, &session->websocket, err);
}

/* ---- what the machine says ---- */

static void drop(struct acs_session *session)
{
	session->websocket = websocket_free(session->websocket);
	session->keys = aws_keys_unref(session->keys);
}

static int act(struct acs_session *session, enum acs_action action, struct err *err)
{
	switch (action) {
	case ACS_ACTION_DISCOVER:
		return discover(session, err);
	case ACS_ACTION_CONNECT:
		return connect_session(session, err);
	case ACS_ACTION_CLOSE:
		(void)websocket_close(session->websocket, WEBSOCKET_CLOSE_NORMAL, EXPIRED_REASON);
		break; /* the machine waits for an answer, and not for ever */
	case ACS_ACTION_DROP:
		drop(session);
		break;
	case ACS_ACTION_NONE:
		break;
	}
	return 0;
}

/* "connected" handlers may free the session: callers do nothing with it after a state is left. */
static void apply(struct acs_session *session, enum acs_event event)
{
	bool was_up = acs_session_is_connected(session);
	enum acs_action action = acs_machine_apply(&session->machine, event, now_usec());
	struct err err = {0};
	int r;

	r = act(session, action, &err);
	if (r < 0) {
		log_warning(session->log, 0, "ACS: %s", err.text);
		(void)acs_machine_apply(&session->machine, ACS_EVENT_FAILED, now_usec());
		drop(session);
	}
	set_timer(session);
	if (was_up && !acs_session_is_connected(session) && session->handlers->connected)
		session->handlers->connected(session, false, session->userdata);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct acs_session *session = userdata;
	enum acs_event event;

	(void)source;
	(void)usec;
	if (!acs_machine_passed(&session->machine, now_usec(), &event)) {
		set_timer(session);
		return 0;
	}
	if (event == ACS_EVENT_SILENT)
		log_warning(session->log, 0, "ACS: nothing was received for too long");
	apply(session, event);
	return 0;
}

/* ---- the object ---- */

static int copy_options(struct acs_session *session, const struct acs_options *options)
{
	session->loop = sd_event_ref(options->loop);
	session->http = *options->http;
	session->credentials = options->credentials;
	session->endpoint = options->endpoint;
	session->handlers = options->handlers;
	session->userdata = options->userdata;
	session->log = options->log;
	session->region = strdup(options->region);
	session->cluster = strdup(options->cluster);
	session->container_instance_arn = strdup(options->container_instance_arn);
	return session->region && session->cluster && session->container_instance_arn ? 0 : -ENOMEM;
}

int acs_session_new(const struct acs_options *options, struct acs_session **ret, struct err *err)
{
	_cleanup_(acs_session_freep) struct acs_session *session = calloc(1, sizeof(*session));
	int r;

	if (!session || copy_options(session, options) < 0)
		return err_oom(err);
	acs_machine_init(&session->machine, random_fraction, now_usec());
	r = loop_add_timer(session->loop, 0, TIMER_ACCURACY_USEC, on_timer, session,
	                   &session->timer);
	if (r < 0)
		return err_set(err, r, "start the ACS session");
	(void)sd_event_source_set_description(session->timer, "acs");
	*ret = TAKE_PTR(session);
	return 0;
}

struct acs_session *acs_session_free(struct acs_session *session)
{
	if (!session)
		return NULL;
	drop(session);
	poll_endpoint_get_free(session->endpoint_get);
	aws_keys_get_free(session->keys_get);
	sd_event_source_disable_unref(session->timer);
	free(session->endpoint_url);
	free(session->region);
	free(session->cluster);
	free(session->container_instance_arn);
	sd_event_unref(session->loop);
	free(session);
	return NULL;
}

bool acs_session_is_connected(const struct acs_session *session)
{
	return session->machine.state == ACS_CONNECTED || session->machine.state == ACS_CLOSING;
}

uint64_t acs_session_last_received_usec(const struct acs_session *session)
{
	return session->last_received_usec;
}

bool acs_session_is_overdue(const struct acs_session *session)
{
	return acs_machine_is_overdue(&session->machine, now_usec());
}

void acs_session_statistics(const struct acs_session *session, struct acs_statistics *ret)
{
	*ret = session->statistics;
}
