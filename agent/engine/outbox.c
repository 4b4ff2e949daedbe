/* One queue for each task that has events; the head is what is sent. */
#include "agent/engine/outbox.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "lib/backoff.h"
#include "lib/json.h"
#include "lib/log.h"
#include "lib/loop.h"

struct event {
	struct event *next;
	struct queue *queue;
	uint64_t id;
	bool is_durable; /* only then it may leave */
	char *body;
};

struct queue {
	struct queue *next;
	struct outbox *outbox;
	char *arn;
	struct event *first, **end;
	bool is_busy; /* sender.start() was given the head */
	void *call;
	sd_event_source *retry; /* the head waits for its next try */
	struct backoff backoff;
};

struct outbox {
	struct outbox_options o;
	struct queue *queues;
	size_t n_busy;
};

static void event_free(struct event *event)
{
	free(event->body);
	free(event);
}

static void queue_free(struct queue *queue)
{
	struct outbox *outbox = queue->outbox;

	for (struct queue **p = &outbox->queues; *p; p = &(*p)->next)
		if (*p == queue) {
			*p = queue->next;
			break;
		}
	while (queue->first) {
		struct event *event = queue->first;

		queue->first = event->next;
		state_forget(outbox->o.state, event);
		event_free(event);
	}
	if (queue->is_busy)
		outbox->o.sender.cancel(queue->call, outbox->o.sender.userdata);
	sd_event_source_disable_unref(queue->retry);
	free(queue->arn);
	free(queue);
}

static struct queue *queue_find(const struct outbox *outbox, const char *arn)
{
	for (struct queue *queue = outbox->queues; queue; queue = queue->next)
		if (strcmp(queue->arn, arn) == 0)
			return queue;
	return NULL;
}

static int queue_get(struct outbox *outbox, const char *arn, struct queue **ret)
{
	struct queue *queue = queue_find(outbox, arn), **end = &outbox->queues;

	if (queue) {
		*ret = queue;
		return 0;
	}
	queue = calloc(1, sizeof(*queue));
	if (!queue)
		return -ENOMEM;
	*queue = (struct queue){
		.outbox = outbox,
		.arn = strdup(arn),
		.backoff = {.min_usec = 1000 * 1000,
	                    .max_usec = 30 * 1000 * 1000,
	                    .multiple = 1.3,
	                    .jitter = 0.2},
	};
	if (!queue->arn) {
		free(queue);
		return -ENOMEM;
	}
	queue->end = &queue->first;
	while (*end) /* those who wait longest come first */
		end = &(*end)->next;
	*end = queue;
	*ret = queue;
	return 0;
}

static int queue_append(struct queue *queue, uint64_t id, const char *body, struct event **ret)
{
	struct event *event = calloc(1, sizeof(*event));

	if (!event)
		return -ENOMEM;
	event->queue = queue;
	event->id = id;
	event->body = strdup(body);
	if (!event->body) {
		free(event);
		return -ENOMEM;
	}
	*queue->end = event;
	queue->end = &event->next;
	*ret = event;
	return 0;
}

static void send_waiting(struct outbox *outbox);

static void remove_head(struct queue *queue)
{
	struct outbox *outbox = queue->outbox;
	struct event *event = queue->first;
	_cleanup_free_ char *arn = NULL;
	int r;

	r = state_remove_event(outbox->o.state, event->id);
	if (r < 0)
		log_warning(NULL, r,
		            "remove event %" PRIu64 " from the outbox: it may be sent again",
		            event->id);
	queue->first = event->next;
	if (!queue->first)
		queue->end = &queue->first;
	event_free(event);
	backoff_reset(&queue->backoff);
	if (queue->first)
		return;
	arn = TAKE_PTR(queue->arn);
	queue->arn = strdup("");
	queue_free(queue);
	if (outbox->o.emptied)
		outbox->o.emptied(arn, outbox->o.userdata);
}

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct queue *queue = userdata;

	(void)source;
	(void)usec;
	queue->retry = sd_event_source_disable_unref(queue->retry);
	send_waiting(queue->outbox);
	return 0;
}

static void retry_later(struct queue *queue)
{
	uint64_t usec = backoff_next(&queue->backoff, random_fraction());

	(void)loop_add_timer(queue->outbox->o.loop, usec, usec / 20, on_retry, queue,
	                     &queue->retry);
}

static void on_done(int r, const struct err *err, bool final, void *userdata)
{
	struct queue *queue = userdata;
	struct outbox *outbox = queue->outbox;
	const struct log_ctx ctx = {.field = "ECS_TASK_ARN", .value = queue->arn};

	queue->is_busy = false;
	queue->call = NULL;
	outbox->n_busy--;
	if (r < 0 && !final) {
		log_warning(&ctx, 0, "report of a state change failed and is sent again: %s",
		            err->text);
		retry_later(queue);
	} else {
		if (r < 0)
			log_err(&ctx, 0, "report of a state change was refused and is dropped: %s",
			        err->text);
		remove_head(queue);
	}
	send_waiting(outbox);
}

static void send_head(struct queue *queue)
{
	_cleanup_json_ struct json_object *body = NULL;
	struct outbox *outbox = queue->outbox;
	struct err err = {0};
	int r;

	r = json_parse_object(queue->first->body, strlen(queue->first->body), SIZE_MAX, &body,
	                      &err);
	if (r == -EINVAL || r == -EFBIG) {
		log_err(NULL, 0, "event %" PRIu64 " of the outbox is unreadable and dropped: %s",
		        queue->first->id, err.text);
		remove_head(queue);
		return;
	}
	if (r >= 0) {
		queue->is_busy = true;
		outbox->n_busy++;
		r = outbox->o.sender.start(body, on_done, queue, &queue->call, &err,
		                           outbox->o.sender.userdata);
	}
	if (r < 0) {
		if (queue->is_busy)
			outbox->n_busy--;
		queue->is_busy = false;
		log_warning(NULL, 0, "report of a state change: %s", err.text);
		retry_later(queue);
	}
}

static void send_waiting(struct outbox *outbox)
{
	struct queue *next;

	if (!outbox->o.sender.start)
		return;
	for (struct queue *queue = outbox->queues; queue && outbox->n_busy < OUTBOX_CONCURRENT_MAX;
	     queue = next) {
		next = queue->next;
		if (queue->first && queue->first->is_durable && !queue->is_busy && !queue->retry)
			send_head(queue);
	}
}

static void on_committed(void *userdata)
{
	struct event *event = userdata;

	event->is_durable = true;
	send_waiting(event->queue->outbox);
}

int outbox_new(const struct outbox_options *options, struct outbox **ret)
{
	struct outbox *outbox = calloc(1, sizeof(*outbox));

	if (!outbox)
		return -ENOMEM;
	outbox->o = *options;
	*ret = outbox;
	return 0;
}

struct outbox *outbox_free(struct outbox *outbox)
{
	if (!outbox)
		return NULL;
	while (outbox->queues)
		queue_free(outbox->queues);
	free(outbox);
	return NULL;
}

static int read_event(uint64_t id, const char *arn, const char *body, void *userdata)
{
	struct outbox *outbox = userdata;
	struct queue *queue = NULL;
	struct event *event = NULL;
	int r;

	r = queue_get(outbox, arn, &queue);
	if (r >= 0)
		r = queue_append(queue, id, body, &event);
	/* Durable already, but sent from the loop. */
	return r < 0 ? r : state_after_commit(outbox->o.state, on_committed, event);
}

int outbox_read(struct outbox *outbox, struct err *err)
{
	return state_read_events(outbox->o.state, read_event, outbox, err);
}

int outbox_add(struct outbox *outbox, const char *task_arn, struct json_object *body)
{
	const char *text = json_to_text(body, NULL);
	struct queue *queue = NULL;
	struct event *event = NULL;
	uint64_t id = 0;
	int r;

	if (!text)
		return -ENOMEM;
	r = queue_get(outbox, task_arn, &queue);
	if (r >= 0)
		r = state_add_event(outbox->o.state, task_arn, text, &id);
	if (r >= 0)
		r = queue_append(queue, id, text, &event);
	return r < 0 ? r : state_after_commit(outbox->o.state, on_committed, event);
}

bool outbox_has(const struct outbox *outbox, const char *task_arn)
{
	const struct queue *queue = queue_find(outbox, task_arn);

	return queue && queue->first;
}

size_t outbox_count(const struct outbox *outbox)
{
	size_t n = 0;

	for (const struct queue *queue = outbox->queues; queue; queue = queue->next)
		for (const struct event *event = queue->first; event; event = event->next)
			n++;
	return n;
}
