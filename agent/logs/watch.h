/*
 * Directories watched with inotify on the event loop. Nothing is polled: an idle node costs
 * nothing.
 */
#pragma once

#include <stdint.h>
#include <sys/inotify.h>
#include <systemd/sd-event.h>

#include "lib/cleanup.h"
#include "lib/err.h"

struct watcher;
struct watch;

/* mask: the events, as inotify(7) has them; IN_Q_OVERFLOW: events were lost, so look at everything.
 * name: the entry, "" for the directory itself. The watch may be freed here. */
typedef void (*watch_fn)(uint32_t mask, const char *name, void *userdata);

int watcher_new(sd_event *loop, struct watcher **ret, struct err *err);
/* After all of its watches. */
struct watcher *watcher_free(struct watcher *watcher);
DEFINE_CLEANUP(struct watcher *, watcher_free)

/*
 * Watch a directory, one watch for each. -ENOENT or -ENOTDIR when it is none; -ENOSPC when the user
 * has no inotify watches left (fs.inotify.max_user_watches).
 */
int watch_new(struct watcher *watcher, const char *path, uint32_t mask, watch_fn fn, void *userdata,
              struct watch **ret, struct err *err);
struct watch *watch_free(struct watch *watch);
DEFINE_CLEANUP(struct watch *, watch_free)

/* Replace the mask. What happened before is not told: look after the call, not before it. */
int watch_set_mask(struct watch *watch, uint32_t mask, struct err *err);
