/*
 * One inotify descriptor for all. A watch keeps the path of its directory, since the kernel's way
 * to change a mask is to add the same path again.
 */
#include "agent/logs/watch.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/loop.h"

struct watch {
	struct watcher *watcher; /* borrowed */
	char *path;
	int wd;
	watch_fn fn;
	void *userdata;
	struct watch *next;
};

struct watcher {
	int fd;
	sd_event_source *io;
	struct watch *watches;
	struct watch *cursor; /* next one to be told, while all are */
};

static int on_io(sd_event_source *s, int fd, uint32_t revents, void *userdata);

int watcher_new(sd_event *loop, struct watcher **ret, struct err *err)
{
	_cleanup_(watcher_freep) struct watcher *watcher = calloc(1, sizeof(*watcher));
	int r;

	if (!watcher)
		return err_oom(err);
	watcher->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (watcher->fd < 0)
		return err_set(err, -errno, "make an inotify descriptor");
	r = sd_event_add_io(loop, &watcher->io, watcher->fd, EPOLLIN, on_io, watcher);
	if (r < 0)
		return err_set(err, r, "watch inotify");
	(void)sd_event_source_set_description(watcher->io, "inotify");
	*ret = TAKE_PTR(watcher);
	return 0;
}

struct watcher *watcher_free(struct watcher *watcher)
{
	if (!watcher)
		return NULL;
	sd_event_source_disable_unref(watcher->io);
	fd_close(watcher->fd);
	free(watcher);
	return NULL;
}

static int add(struct watch *watch, uint32_t mask, struct err *err)
{
	int wd = inotify_add_watch(watch->watcher->fd, watch->path,
	                           mask | IN_ONLYDIR | IN_DONT_FOLLOW | IN_EXCL_UNLINK);

	if (wd < 0)
		return err_set(err, -errno, "watch %s", watch->path);
	watch->wd = wd;
	return 0;
}

int watch_new(struct watcher *watcher, const char *path, uint32_t mask, watch_fn fn, void *userdata,
              struct watch **ret, struct err *err)
{
	_cleanup_(watch_freep) struct watch *watch = calloc(1, sizeof(*watch));
	int r;

	if (!watch)
		return err_oom(err);
	*watch = (struct watch){.watcher = watcher,
	                        .wd = -1,
	                        .fn = fn,
	                        .userdata = userdata,
	                        .next = watcher->watches};
	watcher->watches = watch;
	watch->path = strdup(path);
	if (!watch->path)
		return err_oom(err);
	r = add(watch, mask, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(watch);
	return 0;
}

struct watch *watch_free(struct watch *watch)
{
	if (!watch)
		return NULL;
	for (struct watch **p = &watch->watcher->watches; *p; p = &(*p)->next)
		if (*p == watch) {
			*p = watch->next;
			break;
		}
	if (watch->watcher->cursor == watch)
		watch->watcher->cursor = watch->next;
	if (watch->wd >= 0)
		(void)inotify_rm_watch(watch->watcher->fd, watch->wd); /* gone with its directory */
	free(watch->path);
	free(watch);
	return NULL;
}

int watch_set_mask(struct watch *watch, uint32_t mask, struct err *err)
{
	return add(watch, mask, err);
}

static void tell_all(struct watcher *watcher)
{
	for (struct watch *watch = watcher->watches; watch; watch = watcher->cursor) {
		watcher->cursor = watch->next;
		watch->fn(IN_Q_OVERFLOW, "", watch->userdata);
	}
	watcher->cursor = NULL;
}

static void tell(struct watcher *watcher, const struct inotify_event *event)
{
	if (event->mask & IN_Q_OVERFLOW) {
		tell_all(watcher);
		return;
	}
	for (struct watch *watch = watcher->watches; watch; watch = watch->next) {
		if (watch->wd != event->wd)
			continue;
		if (event->mask & IN_IGNORED)
			watch->wd =
				-1; /* the kernel has dropped it: the number may be used again */
		watch->fn(event->mask, event->len ? event->name : "", watch->userdata);
		return; /* it may be freed */
	}
}

static int on_io(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
	_Alignas(struct inotify_event) char buf[16384];
	struct watcher *watcher = userdata;
	ssize_t n = read(fd, buf, sizeof(buf));

	(void)s;
	(void)revents;
	for (char *p = buf; n > 0 && p < buf + n;) {
		const struct inotify_event *event = (const struct inotify_event *)p;

		tell(watcher, event);
		p += sizeof(*event) + event->len;
	}
	return 0;
}
