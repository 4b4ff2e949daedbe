/*
 * What the instance has and what its tasks take of it: CPU units, memory, fixed host ports. ECS
 * places a task as soon as the one it replaces is told to stop, so a task waits here until there
 * is room, in strict order of arrival.
 *
 * A task's share is taken by host_resources_take() and given back by host_resources_give(), each
 * at most once per task; the engine keeps the queue.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "agent/engine/task.h"
#include "lib/err.h"

struct host_resources;

struct host_capacity {
	int64_t cpu_units;                                   /* 1024 per CPU */
	int64_t memory_mib;                                  /* without ECS_RESERVED_MEMORY */
	const uint16_t *reserved_ports, *reserved_ports_udp; /* borrowed for the call */
	size_t n_reserved_ports, n_reserved_ports_udp;
};

/* CPUs that are online and MemTotal of /proc/meminfo, as they are registered. */
int host_capacity_read(uint64_t reserved_memory_mib, struct host_capacity *ret, struct err *err);

int host_resources_new(const struct host_capacity *capacity, struct host_resources **ret);
struct host_resources *host_resources_free(struct host_resources *host);
DEFINE_CLEANUP(struct host_resources *, host_resources_free)

/*
 * -EAGAIN   not now: try again when another task has given back
 * -EINVAL   never: it needs more than the instance has; err says what
 */
int host_resources_take(struct host_resources *host, const struct task *task, struct err *err);
/* For tasks found again after a restart: they have their share already, whatever the sum. */
void host_resources_take_anyway(struct host_resources *host, const struct task *task);
void host_resources_give(struct host_resources *host, const struct task *task);
