/* A timer on the loop: that it runs shows that the loop turns; what else must be is asked. */
#include "agent/watchdog.h"

#include <stdlib.h>
#include <systemd/sd-daemon.h>

#include "lib/log.h"
#include "lib/loop.h"

#define LOOKS_PER_TIME 4

struct watchdog {
	sd_event *loop;
	watchdog_alive_fn is_alive;
	void *userdata;
	uint64_t interval_usec;
	sd_event_source *timer;
	bool was_alive;
};

static int on_timer(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct watchdog *watchdog = userdata;
	uint64_t now = now_usec();
	char why[128] = "";
	bool is_alive;

	(void)usec;
	is_alive = watchdog->is_alive(now, why, sizeof(why), watchdog->userdata);
	if (is_alive)
		(void)sd_notify(0, "WATCHDOG=1");
	else if (watchdog->was_alive)
		log_err(NULL, 0, "%s: without progress the watchdog ends this process", why);
	watchdog->was_alive = is_alive;
	(void)sd_event_source_set_time(source, now + watchdog->interval_usec);
	(void)sd_event_source_set_enabled(source, SD_EVENT_ONESHOT);
	return 0;
}

int watchdog_new(sd_event *loop, watchdog_alive_fn is_alive, void *userdata, struct watchdog **ret,
                 struct err *err)
{
	_cleanup_(watchdog_freep) struct watchdog *watchdog = calloc(1, sizeof(*watchdog));
	uint64_t usec = 0;
	int r;

	if (!watchdog)
		return err_oom(err);
	watchdog->loop = sd_event_ref(loop);
	watchdog->is_alive = is_alive;
	watchdog->userdata = userdata;
	watchdog->was_alive = true;
	r = sd_event_set_watchdog(loop, false);
	if (r >= 0)
		r = sd_watchdog_enabled(0, &usec);
	if (r < 0)
		return err_set(err, r, "feed the watchdog");
	watchdog->interval_usec = usec / LOOKS_PER_TIME;
	if (r > 0)
		r = loop_add_timer(loop, 0, watchdog->interval_usec / 4, on_timer, watchdog,
		                   &watchdog->timer);
	if (r < 0)
		return err_set(err, r, "feed the watchdog");
	*ret = TAKE_PTR(watchdog);
	return 0;
}

struct watchdog *watchdog_free(struct watchdog *watchdog)
{
	if (!watchdog)
		return NULL;
	sd_event_source_disable_unref(watchdog->timer);
	sd_event_unref(watchdog->loop);
	free(watchdog);
	return NULL;
}
