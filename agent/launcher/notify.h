/* Speaking to the service manager without libsystemd (sd_notify(3), "NOTES"). */
#pragma once

#include <stdint.h>

/* One datagram to $NOTIFY_SOCKET; nothing when it is not set. A failure is no reason to end. */
void notify_ready(void);
void notify_alive(void);

/* How often the manager wants notify_alive() at most: half of $WATCHDOG_USEC, which is the time
 * after which it ends a silent service. 0: it does not ask for it. */
uint64_t notify_alive_msec(void);
