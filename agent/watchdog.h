/*
 * The service manager's watchdog: fed only while the program gets on with its work, so that one
 * that merely turns its event loop is restarted too. Without WATCHDOG_USEC in the environment
 * nothing is done.
 *
 * Source: sd_watchdog_enabled(3), sd_notify(3).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "lib/cleanup.h"
#include "lib/err.h"

struct watchdog;

/* Does the program get on? Asked from the loop, several times within the watchdog's time; why, of n
 * bytes, is set when it does not. */
typedef bool (*watchdog_alive_fn)(uint64_t now_usec, char *why, size_t n, void *userdata);

/* Takes the feeding over from the loop. */
int watchdog_new(sd_event *loop, watchdog_alive_fn is_alive, void *userdata, struct watchdog **ret,
                 struct err *err);
struct watchdog *watchdog_free(struct watchdog *watchdog);
DEFINE_CLEANUP(struct watchdog *, watchdog_free)
