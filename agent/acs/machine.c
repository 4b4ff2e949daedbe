/* The table, and what entering each state does to the deadlines. */
#include "agent/acs/machine.h"

#include <stddef.h>

#include "lib/cleanup.h"

#define SEC                (1000000ULL)
#define MINUTE             (60 * SEC)
#define SILENCE_USEC       MINUTE        /* and at random as much again */
#define STABLE_USEC        MINUTE        /* the same */
#define LIFE_USEC          (30 * MINUTE) /* and at random up to LIFE_EXTRA_USEC */
#define LIFE_EXTRA_USEC    (5 * MINUTE)
#define CLOSE_TIMEOUT_USEC (10 * SEC)
#define INACTIVE_USEC      (60 * MINUTE)
#define SHORT_LIVED_USEC   SEC
#define LATE_USEC          MINUTE /* a deadline's event comes within this after it */
#define ATTEMPT_USEC                                                                               \
	(5 * MINUTE) /* over DiscoverPollEndpoint's two minutes, and one each                      \
	                for keys and for a handshake */

static uint64_t at_random(const struct acs_machine *machine, uint64_t usec)
{
	return (uint64_t)(machine->random() * (double)usec);
}

static void stop_clocks(struct acs_machine *machine)
{
	machine->due_usec = machine->silent_usec = ACS_NEVER;
	machine->expired_usec = machine->stable_usec = ACS_NEVER;
}

/* ---- what a transition does beside changing the state ---- */

static void try_later(struct acs_machine *machine, uint64_t now_usec)
{
	stop_clocks(machine);
	machine->due_usec = now_usec + backoff_next(&machine->backoff, machine->random());
}

/* A server that accepts connections only to end them must not make us spin. */
static void try_now(struct acs_machine *machine, uint64_t now_usec)
{
	if (now_usec - machine->opened_usec < SHORT_LIVED_USEC) {
		try_later(machine, now_usec);
		return;
	}
	stop_clocks(machine);
	backoff_reset(&machine->backoff);
	machine->due_usec = now_usec;
}

static void try_in_an_hour(struct acs_machine *machine, uint64_t now_usec)
{
	stop_clocks(machine);
	backoff_reset(&machine->backoff);
	machine->due_usec = now_usec + INACTIVE_USEC;
}

static void restart_silence(struct acs_machine *machine, uint64_t now_usec)
{
	machine->silent_usec = now_usec + SILENCE_USEC + at_random(machine, SILENCE_USEC);
}

static void start_clocks(struct acs_machine *machine, uint64_t now_usec)
{
	machine->opened_usec = now_usec;
	restart_silence(machine, now_usec);
	machine->stable_usec = now_usec + STABLE_USEC + at_random(machine, STABLE_USEC);
	machine->expired_usec = now_usec + LIFE_USEC + at_random(machine, LIFE_EXTRA_USEC);
}

static void call_it_stable(struct acs_machine *machine, uint64_t now_usec)
{
	(void)now_usec;
	machine->stable_usec = ACS_NEVER;
	backoff_reset(&machine->backoff);
}

static void await_close(struct acs_machine *machine, uint64_t now_usec)
{
	stop_clocks(machine);
	machine->due_usec = now_usec + CLOSE_TIMEOUT_USEC;
}

static void stop_waiting(struct acs_machine *machine, uint64_t now_usec)
{
	(void)now_usec;
	stop_clocks(machine);
}

static const struct transition {
	enum acs_state state;
	enum acs_event event;
	enum acs_state next;
	enum acs_action action;
	void (*enter)(struct acs_machine *machine, uint64_t now_usec);
} transitions[] = {
	{ACS_WAITING, ACS_EVENT_DUE, ACS_DISCOVERING, ACS_ACTION_DISCOVER, stop_waiting},

	{ACS_DISCOVERING, ACS_EVENT_FOUND, ACS_CONNECTING, ACS_ACTION_CONNECT, NULL},
	{ACS_DISCOVERING, ACS_EVENT_FAILED, ACS_WAITING, ACS_ACTION_NONE, try_later},
	{ACS_DISCOVERING, ACS_EVENT_INACTIVE, ACS_WAITING, ACS_ACTION_NONE, try_in_an_hour},

	{ACS_CONNECTING, ACS_EVENT_OPENED, ACS_CONNECTED, ACS_ACTION_NONE, start_clocks},
	{ACS_CONNECTING, ACS_EVENT_FAILED, ACS_WAITING, ACS_ACTION_DROP, try_later},
	{ACS_CONNECTING, ACS_EVENT_INACTIVE, ACS_WAITING, ACS_ACTION_DROP, try_in_an_hour},

	{ACS_CONNECTED, ACS_EVENT_RECEIVED, ACS_CONNECTED, ACS_ACTION_NONE, restart_silence},
	{ACS_CONNECTED, ACS_EVENT_STABLE, ACS_CONNECTED, ACS_ACTION_NONE, call_it_stable},
	{ACS_CONNECTED, ACS_EVENT_SILENT, ACS_WAITING, ACS_ACTION_DROP, try_later},
	{ACS_CONNECTED, ACS_EVENT_EXPIRED, ACS_CLOSING, ACS_ACTION_CLOSE, await_close},
	{ACS_CONNECTED, ACS_EVENT_CLOSED, ACS_WAITING, ACS_ACTION_DROP, try_now},
	{ACS_CONNECTED, ACS_EVENT_FAILED, ACS_WAITING, ACS_ACTION_DROP, try_later},

	{ACS_CLOSING, ACS_EVENT_CLOSED, ACS_WAITING, ACS_ACTION_DROP, try_now},
	{ACS_CLOSING, ACS_EVENT_FAILED, ACS_WAITING, ACS_ACTION_DROP, try_now},
	{ACS_CLOSING, ACS_EVENT_DUE, ACS_WAITING, ACS_ACTION_DROP, try_now},
};

void acs_machine_init(struct acs_machine *machine, double (*random)(void), uint64_t now_usec)
{
	*machine = (struct acs_machine){
		.state = ACS_WAITING,
		.random = random,
		.backoff = {.min_usec = 250000,
	                    .max_usec = 2 * MINUTE,
	                    .multiple = 1.5,
	                    .jitter = 0.2},
	};
	stop_clocks(machine);
	machine->due_usec = now_usec;
	machine->entered_usec = now_usec;
}

enum acs_action acs_machine_apply(struct acs_machine *machine, enum acs_event event,
                                  uint64_t now_usec)
{
	for (size_t i = 0; i < ARRAY_SIZE(transitions); i++) {
		const struct transition *transition = &transitions[i];

		if (transition->state != machine->state || transition->event != event)
			continue;
		if (machine->state != transition->next)
			machine->entered_usec = now_usec;
		machine->state = transition->next;
		if (transition->enter)
			transition->enter(machine, now_usec);
		return transition->action;
	}
	return ACS_ACTION_NONE;
}

uint64_t acs_machine_deadline(const struct acs_machine *machine)
{
	uint64_t earliest = machine->due_usec;

	if (machine->silent_usec < earliest)
		earliest = machine->silent_usec;
	if (machine->expired_usec < earliest)
		earliest = machine->expired_usec;
	if (machine->stable_usec < earliest)
		earliest = machine->stable_usec;
	return earliest;
}

bool acs_machine_passed(const struct acs_machine *machine, uint64_t now_usec, enum acs_event *ret)
{
	if (machine->due_usec <= now_usec)
		*ret = ACS_EVENT_DUE;
	else if (machine->silent_usec <= now_usec)
		*ret = ACS_EVENT_SILENT;
	else if (machine->expired_usec <= now_usec)
		*ret = ACS_EVENT_EXPIRED;
	else if (machine->stable_usec <= now_usec)
		*ret = ACS_EVENT_STABLE;
	else
		return false;
	return true;
}

bool acs_machine_is_overdue(const struct acs_machine *machine, uint64_t now_usec)
{
	uint64_t deadline = acs_machine_deadline(machine);

	if (machine->state == ACS_DISCOVERING || machine->state == ACS_CONNECTING)
		return now_usec > machine->entered_usec + ATTEMPT_USEC;
	/* In every other state some clock runs. */
	return deadline == ACS_NEVER || now_usec > deadline + LATE_USEC;
}

bool acs_close_is_orderly(unsigned code)
{
	return code == 1000 || code == 1001 || code == 1006 || code == 1011;
}

const char *acs_state_to_string(enum acs_state state)
{
	static const char *const names[_ACS_STATE_MAX] = {
		[ACS_WAITING] = "waiting",       [ACS_DISCOVERING] = "discovering",
		[ACS_CONNECTING] = "connecting", [ACS_CONNECTED] = "connected",
		[ACS_CLOSING] = "closing",
	};

	return names[state];
}
