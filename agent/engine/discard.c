/* One task after the other, each by a program that the launcher starts. */
#include "agent/engine/discard.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/engine/peer.h"
#include "lib/json.h"
#include "lib/log.h"
#include "lib/loop.h"

#define ANSWER_USEC (60 * 1000 * 1000ull)

struct task_id {
	struct task_id *next;
	char id[];
};

struct discard {
	sd_event *loop;
	const char *runtime_dir;
	discard_done_fn done;
	void *userdata;
	struct task_id *ids; /* those that are left */
	struct peer *peer;
	sd_event_source *timer; /* of the next step: to begin with it, or to give it up */
};

static void next_one(struct discard *discard);

struct discard *discard_free(struct discard *discard)
{
	if (!discard)
		return NULL;
	while (discard->ids) {
		struct task_id *id = discard->ids;

		discard->ids = id->next;
		free(id);
	}
	peer_free(discard->peer);
	sd_event_source_disable_unref(discard->timer);
	sd_event_unref(discard->loop);
	free(discard);
	return NULL;
}

/* why: NULL when it is done. */
static void finish_one(struct discard *discard, const char *why)
{
	struct task_id *id = discard->ids;

	discard->peer = peer_free(discard->peer);
	if (why)
		log_err(NULL, 0, "task %s of another host could not be removed: %s", id->id, why);
	else
		log_info(NULL, "task %s of another host was removed", id->id);
	discard->ids = id->next;
	free(id);
	next_one(discard); /* may free discard */
}

static void on_event(struct peer *peer, struct ipc_message *msg, void *userdata)
{
	const char *type = json_text(msg->body, "type");
	struct err err = {0};

	(void)peer;
	if (type && strcmp(type, "reaped") == 0) {
		finish_one(userdata, NULL);
		return;
	}
	(void)ipc_message_error(msg->body, &err);
	finish_one(userdata, err.text);
}

static void on_end(struct peer *peer, int r, const struct err *err, void *userdata)
{
	(void)peer;
	(void)r;
	finish_one(userdata, err->text);
}

static int on_timeout(sd_event_source *source, uint64_t usec, void *userdata)
{
	(void)source;
	(void)usec;
	finish_one(userdata, "no answer in time");
	return 0;
}

static int ask(struct discard *discard, struct err *err)
{
	static const struct peer_ops ops = {.on_event = on_event, .on_end = on_end};
	int fd, r;

	fd = launcher_connect(discard->runtime_dir, "discard", discard->ids->id, err);
	if (fd < 0)
		return fd;
	r = peer_new(discard->loop, fd, false, &ops, discard, &discard->peer);
	if (r >= 0)
		r = loop_add_timer(discard->loop, ANSWER_USEC, ANSWER_USEC / 100, on_timeout,
		                   discard, &discard->timer);
	return r < 0 ? err_set(err, r, "ask the launcher") : 0;
}

static void next_one(struct discard *discard)
{
	struct err err = {0};

	discard->timer = sd_event_source_disable_unref(discard->timer);
	if (!discard->ids)
		discard->done(discard->userdata);
	else if (ask(discard, &err) < 0)
		finish_one(discard, err.text);
}

static int on_begin(sd_event_source *source, uint64_t usec, void *userdata)
{
	(void)source;
	(void)usec;
	next_one(userdata);
	return 0;
}

static int note_task(const struct state_task *task, void *userdata)
{
	struct discard *discard = userdata;
	const char *slash = strrchr(task->arn, '/');
	const char *name = slash ? slash + 1 : task->arn;
	struct task_id *id = malloc(sizeof(*id) + strlen(name) + 1);

	if (!id)
		return -ENOMEM;
	strcpy(id->id, name);
	id->next = discard->ids;
	discard->ids = id;
	return 0;
}

int discard_start(sd_event *loop, const char *runtime_dir, struct state *state,
                  discard_done_fn done, void *userdata, struct discard **ret, struct err *err)
{
	_cleanup_(discard_freep) struct discard *discard = calloc(1, sizeof(*discard));
	int r;

	if (!discard)
		return err_oom(err);
	discard->loop = sd_event_ref(loop);
	discard->runtime_dir = runtime_dir;
	discard->done = done;
	discard->userdata = userdata;
	r = state_read_tasks(state, note_task, discard, err);
	if (r < 0)
		return r;
	r = loop_add_timer(loop, 0, 1, on_begin, discard, &discard->timer);
	if (r < 0)
		return err_set(err, r, "remove the tasks of another host");
	*ret = TAKE_PTR(discard);
	return 0;
}
