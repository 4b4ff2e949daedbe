/* Telling the service manager "READY=1" without libsystemd (sd_notify(3), "NOTES"). */
#pragma once

/* One datagram to $NOTIFY_SOCKET; nothing when it is not set. A failure is no reason to end. */
void notify_ready(void);
