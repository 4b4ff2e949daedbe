/*
 * What an ended log leaves in the spool while its sink refuses it: no such log group, or the role
 * may not write to it. It stays for some time, since somebody may put that right, but not for ever:
 * each container of a crash loop leaves one, and they would take the disk from all tasks.
 *
 * Logs whose sink is down, is in trouble or asks to be called less often are none of these.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* All leftovers together, unless it is one alone: this, or a tenth of the file system if that is
 * less. Each counts as a segment at least, since it takes a descriptor, a watch and retries, too.
 */
#define LEFTOVERS_BYTES_MAX (1024ull * 1024 * 1024)
#define LEFTOVERS_FS_PART   10

/* Source: Amazon CloudWatch Logs API Reference, PutLogEvents: "None of the log events in the batch
 * can be more than 14 days in the past." */
#define LEFTOVER_DAYS_MAX 14

struct leftover {
	uint64_t bytes; /* of its segments */
	uint64_t ended_realtime_usec;
};

/* dir_fd: of the stream. Returns 1, or 0 when the stream has not ended, -errno of reading it. */
int leftover_measure(int dir_fd, struct leftover *ret);

/* What it counts as. */
uint64_t leftover_cost_bytes(const struct leftover *leftover);
/* Has it ended so long ago that CloudWatch Logs takes nothing of it any more. */
bool leftover_is_too_old(const struct leftover *leftover);

/* What all may cost below this directory. */
uint64_t leftovers_bytes_max(int spool_fd);
