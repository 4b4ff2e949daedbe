/* glibc's malloc with settings for a small process that never ends, and a timer that trims it. */
#include "lib/heap.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>

#include "lib/loop.h"

#define LARGE_BYTES   (128 * 1024) /* from here on a buffer is a mapping of its own */
#define KEPT_BYTES    (128 * 1024) /* free bytes at the end of the heap */
#define DELAY_USEC    (3 * 1000 * 1000ull)
#define ACCURACY_USEC (1000 * 1000ull)

struct heap_trimmer {
	sd_event_source *timer;
};

void heap_init(void)
{
	/* libcurl's resolver threads would get heaps that stay when they have ended. */
	(void)mallopt(M_ARENA_MAX, 1);
	(void)mallopt(M_MMAP_THRESHOLD, LARGE_BYTES);
	(void)mallopt(M_TRIM_THRESHOLD, KEPT_BYTES);
}

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata)
{
	(void)source;
	(void)usec;
	(void)userdata;
	(void)malloc_trim(0);
	return 0;
}

int heap_trimmer_new(sd_event *loop, struct heap_trimmer **ret)
{
	_cleanup_(heap_trimmer_freep) struct heap_trimmer *trimmer = calloc(1, sizeof(*trimmer));
	int r;

	if (!trimmer)
		return -ENOMEM;
	r = loop_add_timer(loop, 0, ACCURACY_USEC, on_timer, trimmer, &trimmer->timer);
	if (r >= 0)
		r = sd_event_source_set_enabled(trimmer->timer, SD_EVENT_OFF);
	if (r < 0)
		return r;
	(void)sd_event_source_set_description(trimmer->timer, "heap");
	*ret = TAKE_PTR(trimmer);
	return 0;
}

struct heap_trimmer *heap_trimmer_free(struct heap_trimmer *trimmer)
{
	if (!trimmer)
		return NULL;
	sd_event_source_disable_unref(trimmer->timer);
	free(trimmer);
	return NULL;
}

void heap_trim_soon(struct heap_trimmer *trimmer)
{
	int enabled = SD_EVENT_OFF;

	if (!trimmer || sd_event_source_get_enabled(trimmer->timer, &enabled) < 0 ||
	    enabled != SD_EVENT_OFF)
		return;
	(void)sd_event_source_set_time(trimmer->timer, now_usec() + DELAY_USEC);
	(void)sd_event_source_set_enabled(trimmer->timer, SD_EVENT_ONESHOT);
}

struct heap_size heap_size(void)
{
	struct heap_size size = {0};
#ifdef HAVE_MALLINFO2
	struct mallinfo2 info = mallinfo2();

	size = (struct heap_size){.used_bytes = info.uordblks + info.hblkhd,
	                          .total_bytes = info.arena + info.hblkhd};
#endif
	return size;
}
