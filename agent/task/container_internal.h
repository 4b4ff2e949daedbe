/* What the files about a container share: container.c has its making, its end and what is left of
 * it, container_start.c a start. */
#pragma once

#include "agent/task/container.h"

uint64_t now_realtime_usec(void);

/* To the first process; what fails is logged, but for one that has ended. */
void container_send_signal(struct container *container, int signal);

void container_close_ports(struct container *container);

/* Unless it may be started again, its log is complete. */
void container_settle(struct container *container);

/* Before the next start: the exit file and all that tells of the last run. */
void container_forget_exit(struct container *container);
