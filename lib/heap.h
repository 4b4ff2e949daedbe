/*
 * The heap of a daemon, which runs for months: what it frees goes back to the kernel. malloc() by
 * itself keeps it where anything above it is still in use, and lets threads have heaps of their
 * own.
 */
#pragma once

#include <stddef.h>
#include <systemd/sd-event.h>

#include "lib/cleanup.h"

/* One heap for all threads, and thresholds that stay what they are: by default each large buffer
 * that is freed raises the size up to which the next ones come from the heap, and what it may keep.
 * loop_new() calls it. */
void heap_init(void);

/* Gives back what is free, some seconds after it was asked to, once for all that asked meanwhile:
 * looking through the heap takes its time, and hundreds of tasks may end at once. */
struct heap_trimmer;

int heap_trimmer_new(sd_event *loop, struct heap_trimmer **ret);
struct heap_trimmer *heap_trimmer_free(struct heap_trimmer *trimmer);
DEFINE_CLEANUP(struct heap_trimmer *, heap_trimmer_free)
void heap_trim_soon(struct heap_trimmer *trimmer); /* NULL: never */

/* Bytes that are in use, and that the heap has in all; 0 where the C library does not tell. */
struct heap_size {
	size_t used_bytes, total_bytes;
};
struct heap_size heap_size(void);
