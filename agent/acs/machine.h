/*
 * The life of an ACS session as a table: which state follows which event, when to try again, and
 * when a connection has been silent or alive for too long. No connection and no clock in here: the
 * caller says what happened and what time it is.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/backoff.h"

enum acs_state {
	ACS_WAITING,     /* until wait_until_usec */
	ACS_DISCOVERING, /* endpoint and keys are being looked up */
	ACS_CONNECTING,  /* TLS and handshake */
	ACS_CONNECTED,
	ACS_CLOSING, /* our Close frame waits for the server's */
	_ACS_STATE_MAX,
};

enum acs_event {
	ACS_EVENT_DUE,      /* the wait is over, or the server did not answer our Close */
	ACS_EVENT_FOUND,    /* endpoint and keys are there */
	ACS_EVENT_OPENED,   /* the handshake succeeded */
	ACS_EVENT_RECEIVED, /* any message */
	ACS_EVENT_STABLE,   /* the connection has stood for a while */
	ACS_EVENT_SILENT,   /* nothing was received for too long */
	ACS_EVENT_EXPIRED,  /* the connection has lived for long enough */
	ACS_EVENT_CLOSED,   /* by the server, in a way that asks for a new connection */
	ACS_EVENT_FAILED,   /* whatever was under way */
	ACS_EVENT_INACTIVE, /* InactiveInstanceException */
};

enum acs_action {
	ACS_ACTION_NONE,
	ACS_ACTION_DISCOVER, /* look up endpoint and keys */
	ACS_ACTION_CONNECT,
	ACS_ACTION_CLOSE, /* send a Close frame */
	ACS_ACTION_DROP,  /* drop the connection */
};

#define ACS_NEVER UINT64_MAX

struct acs_machine {
	enum acs_state state;
	struct backoff backoff;
	double (*random)(void); /* in [0,1) */
	/* Deadlines, monotonic; ACS_NEVER when not running. */
	uint64_t due_usec;
	uint64_t silent_usec;
	uint64_t expired_usec;
	uint64_t stable_usec;
	uint64_t opened_usec;  /* when the connection came up */
	uint64_t entered_usec; /* when this state was */
};

/* Starts in ACS_WAITING and due at once. */
void acs_machine_init(struct acs_machine *machine, double (*random)(void), uint64_t now_usec);

/* Apply an event; one that means nothing in the present state changes nothing. */
enum acs_action acs_machine_apply(struct acs_machine *machine, enum acs_event event,
                                  uint64_t now_usec);

/* The earliest deadline, and the event of one that has passed (false: none). */
uint64_t acs_machine_deadline(const struct acs_machine *machine);
bool acs_machine_passed(const struct acs_machine *machine, uint64_t now_usec, enum acs_event *ret);

/*
 * Has something that was to happen by now not happened? A deadline that passed a while ago, or a
 * look-up or an attempt to connect that goes on for longer than their own time limits allow. Never
 * while the session is what it should be, however long ECS is away.
 */
bool acs_machine_is_overdue(const struct acs_machine *machine, uint64_t now_usec);

/* Close codes after which the service wants a new connection at once: 1000, 1001, 1006, 1011. */
bool acs_close_is_orderly(unsigned code);

const char *acs_state_to_string(enum acs_state state);
