/*
 * The spool's tree (tasks, and streams below them) and two queues of streams that want a turn:
 * those that do well, then those that have failed before. One turn is taken per turn of the loop.
 */
#include "agent/logs/shipper.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <unistd.h>

#include "agent/logs/json_file.h"
#include "agent/logs/stream.h"
#include "lib/fd.h"
#include "lib/heap.h"
#include "lib/log.h"
#include "lib/loop.h"
#include "lib/parse.h"

#define LOOK_AGAIN_USEC (5 * 1000000ull)
/* IN_ATTRIB: the writer makes a directory first and gives it to our group then. IN_DELETE: a
 * stream's own watch does not tell, since the stream holds its directory open. */
#define TREE_MASK (IN_CREATE | IN_MOVED_TO | IN_ATTRIB | IN_DELETE | IN_DELETE_SELF)

struct item { /* a stream and its place here */
	struct shipper *shipper;
	struct log_stream *stream;
	char *task_id, *container;
	bool is_queued, was_failing; /* in the queue of failing ones, or under way as one */
	LIST_ENTRY(item) all;
	TAILQ_ENTRY(item) queue;
};

struct task_dir {
	struct shipper *shipper;
	char *id;
	struct watch *watch; /* NULL: there was none to be had */
	LIST_ENTRY(task_dir) all;
};

TAILQ_HEAD(item_queue, item);

struct shipper {
	sd_event *loop; /* borrowed */
	char *spool_path;
	int spool_fd, logs_fd;
	struct watcher *watcher;
	struct watch *watch;
	struct log_keys *keys;
	struct stream_env env;
	struct heap_trimmer *heap;
	LIST_HEAD(, item) items;
	LIST_HEAD(, task_dir) tasks;
	struct item_queue queues[2]; /* [1]: failing */
	sd_event_source *turns, *look_again, *idle, *stop;
	uint64_t leftovers_max_bytes;
	uint64_t requests[2], bytes[2]; /* under way; [1]: of failing streams */
	bool stopping, said_no_watch;
};

static int take_turn(sd_event_source *s, void *userdata);
static int on_look_again(sd_event_source *s, uint64_t usec, void *userdata);
static int on_idle(sd_event_source *s, uint64_t usec, void *userdata);
static void on_spool(uint32_t mask, const char *name, void *userdata);
static void on_task_dir(uint32_t mask, const char *name, void *userdata);
static void scan_spool(struct shipper *shipper);
static void keys_changed(void *userdata);
static void item_wants_turn(void *userdata);
static void item_sending(void *userdata, uint64_t bytes);
static void item_sent(void *userdata, uint64_t bytes);
static void item_refused(void *userdata);
static void item_finished(void *userdata);

static void item_free(struct item *item)
{
	if (item->is_queued)
		TAILQ_REMOVE(&item->shipper->queues[item->was_failing], item, queue);
	LIST_REMOVE(item, all);
	log_stream_free(item->stream);
	free(item->task_id);
	free(item->container);
	free(item);
}

static void task_dir_free(struct task_dir *task)
{
	LIST_REMOVE(task, all);
	watch_free(task->watch);
	free(task->id);
	free(task);
}

struct shipper *shipper_free(struct shipper *shipper)
{
	if (!shipper)
		return NULL;
	while (!LIST_EMPTY(&shipper->items))
		item_free(LIST_FIRST(&shipper->items));
	while (!LIST_EMPTY(&shipper->tasks))
		task_dir_free(LIST_FIRST(&shipper->tasks));
	log_keys_free(shipper->keys);
	heap_trimmer_free(shipper->heap);
	watch_free(shipper->watch);
	watcher_free(shipper->watcher);
	sd_event_source_disable_unref(shipper->turns);
	sd_event_source_disable_unref(shipper->look_again);
	sd_event_source_disable_unref(shipper->idle);
	sd_event_source_disable_unref(shipper->stop);
	fd_close(shipper->spool_fd);
	fd_close(shipper->logs_fd);
	free(shipper->spool_path);
	free(shipper);
	return NULL;
}

static int open_dirs(struct shipper *shipper, const char *state_dir, struct err *err)
{
	char logs[PATH_MAX];

	if (asprintf(&shipper->spool_path, "%s/spool", state_dir) < 0) {
		shipper->spool_path = NULL;
		return err_oom(err);
	}
	shipper->spool_fd = open(shipper->spool_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (shipper->spool_fd < 0)
		return err_set(err, -errno, "open the spool %s", shipper->spool_path);
	if (snprintf(logs, sizeof(logs), "%s/logs", state_dir) >= (int)sizeof(logs))
		return err_text(err, -ENAMETOOLONG, "%s is too long", state_dir);
	/* Needed by streams of the json-file driver only, which say so if it is missing. */
	shipper->logs_fd = open(logs, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (shipper->logs_fd < 0)
		shipper->logs_fd = -errno;
	return 0;
}

static int add_sources(struct shipper *shipper, bool exit_when_idle)
{
	int r;

	r = sd_event_add_defer(shipper->loop, &shipper->turns, take_turn, shipper);
	if (r >= 0)
		r = sd_event_source_set_enabled(shipper->turns, SD_EVENT_OFF);
	/* After what has come in from the network or the spool. */
	if (r >= 0)
		r = sd_event_source_set_priority(shipper->turns, SD_EVENT_PRIORITY_IDLE);
	if (r >= 0)
		r = loop_add_timer(shipper->loop, LOOK_AGAIN_USEC, 1000000, on_look_again, shipper,
		                   &shipper->look_again);
	if (r >= 0)
		r = sd_event_source_set_enabled(shipper->look_again, SD_EVENT_OFF);
	if (r >= 0)
		r = heap_trimmer_new(shipper->loop, &shipper->heap);
	if (r >= 0 && exit_when_idle)
		r = loop_add_timer(shipper->loop, SHIPPER_IDLE_USEC, 1000000, on_idle, shipper,
		                   &shipper->idle);
	return r;
}

int shipper_new(sd_event *loop, const struct shipper_options *options, struct shipper **ret,
                struct err *err)
{
	_cleanup_(shipper_freep) struct shipper *shipper = calloc(1, sizeof(*shipper));
	int r;

	if (!shipper)
		return err_oom(err);
	*shipper = (struct shipper){.loop = loop, .spool_fd = -EBADF, .logs_fd = -EBADF};
	TAILQ_INIT(&shipper->queues[0]);
	TAILQ_INIT(&shipper->queues[1]);
	r = open_dirs(shipper, options->state_dir, err);
	if (r == 0)
		r = watcher_new(loop, &shipper->watcher, err);
	if (r == 0)
		r = log_keys_new(loop, options->runtime_dir, keys_changed, shipper, &shipper->keys,
		                 err);
	if (r < 0)
		return r;
	r = add_sources(shipper, options->exit_when_idle);
	if (r < 0)
		return err_set(err, r, "make event sources");

	shipper->env = (struct stream_env){
		.loop = loop,
		.watcher = shipper->watcher,
		.http = options->http,
		.keys = shipper->keys,
		.defaults = options->defaults,
		.spool_path = shipper->spool_path,
		.spool_fd = shipper->spool_fd,
		.logs_fd = shipper->logs_fd,
		.wants_turn = item_wants_turn,
		.sending = item_sending,
		.sent = item_sent,
		.refused = item_refused,
		.finished = item_finished,
	};
	shipper->leftovers_max_bytes = leftovers_bytes_max(shipper->spool_fd);
	scan_spool(shipper);
	*ret = TAKE_PTR(shipper);
	return 0;
}

static void look_again_later(struct shipper *shipper)
{
	(void)sd_event_source_set_time(shipper->look_again, now_usec() + LOOK_AGAIN_USEC);
	(void)sd_event_source_set_enabled(shipper->look_again, SD_EVENT_ONESHOT);
}

/* Nothing tells us of changes there: look every few seconds. Said once. */
static void go_without_watch(struct shipper *shipper, const struct err *err)
{
	if (!shipper->said_no_watch)
		log_warning(NULL, 0, "%s; looking every few seconds instead", err->text);
	shipper->said_no_watch = true;
	look_again_later(shipper);
}

/* Called for each directory below one of the spool, with its name. */
typedef void (*found_fn)(int dir_fd, const char *name, void *userdata);

static int for_each_dir(int at_fd, const char *path, found_fn found, void *userdata)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	struct dirent *entry;
	int r;

	r = dir_open(at_fd, path, &dir);
	if (r < 0)
		return r;
	while ((errno = 0, entry = readdir(dir))) {
		if (entry->d_type != DT_DIR && entry->d_type != DT_UNKNOWN)
			continue;
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			found(dirfd(dir), entry->d_name, userdata);
	}
	return -errno;
}

static struct item *item_find(struct shipper *shipper, const char *task_id, const char *container)
{
	struct item *item;

	LIST_FOREACH(item, &shipper->items, all)
	if (strcmp(item->container, container) == 0 && strcmp(item->task_id, task_id) == 0)
		return item;
	return NULL;
}

static void stream_found(int dir_fd, const char *name, void *userdata)
{
	struct task_dir *task = userdata;
	struct shipper *shipper = task->shipper;
	struct err err = {0};
	struct item *item;

	if (strncmp(name, STREAM_REMOVING_PREFIX, strlen(STREAM_REMOVING_PREFIX)) == 0) {
		(void)dir_remove_all(dir_fd, name); /* what an earlier process did not finish */
		return;
	}
	if (!name_is_component(name, NAME_MAX) || item_find(shipper, task->id, name))
		return;
	if (faccessat(dir_fd, name, R_OK | X_OK, AT_EACCESS) < 0)
		return; /* not ours yet: IN_ATTRIB follows */
	item = calloc(1, sizeof(*item));
	if (!item) {
		look_again_later(shipper);
		return;
	}
	item->shipper = shipper;
	LIST_INSERT_HEAD(&shipper->items, item, all);
	item->task_id = strdup(task->id);
	item->container = strdup(name);
	if (!item->task_id || !item->container ||
	    log_stream_new(&shipper->env, task->id, name, item, &item->stream, &err) < 0) {
		log_warning(NULL, 0, "log stream %s/%s: %s", task->id, name, err.text);
		item_free(item);
		look_again_later(shipper);
		return;
	}
	if (!log_stream_is_watched(item->stream))
		look_again_later(shipper);
	if (shipper->idle)
		(void)sd_event_source_set_enabled(shipper->idle, SD_EVENT_OFF);
	log_stream_look(item->stream);
}

static void scan_task(struct task_dir *task)
{
	int r = for_each_dir(task->shipper->spool_fd, task->id, stream_found, task);

	if (r < 0 && r != -ENOENT) {
		log_warning(NULL, r, "list the log streams of task %s", task->id);
		look_again_later(task->shipper);
	}
}

static int watch_task(struct shipper *shipper, struct task_dir *task)
{
	char path[PATH_MAX];
	struct err err = {0};
	int r;

	snprintf(path, sizeof(path), "%s/%s", shipper->spool_path, task->id);
	r = watch_new(shipper->watcher, path, TREE_MASK, on_task_dir, task, &task->watch, &err);
	if (r < 0 && r != -ENOENT)
		go_without_watch(shipper, &err);
	return r == -ENOENT ? r : 0;
}

static void task_found(int dir_fd, const char *name, void *userdata)
{
	struct shipper *shipper = userdata;
	struct task_dir *task;

	if (!name_is_component(name, NAME_MAX) ||
	    faccessat(dir_fd, name, R_OK | X_OK, AT_EACCESS) < 0)
		return; /* not ours, at least not yet */
	LIST_FOREACH(task, &shipper->tasks, all)
	if (strcmp(task->id, name) == 0) {
		scan_task(task);
		return;
	}
	task = calloc(1, sizeof(*task));
	if (!task) {
		look_again_later(shipper);
		return;
	}
	task->shipper = shipper;
	LIST_INSERT_HEAD(&shipper->tasks, task, all);
	task->id = strdup(name);
	if (!task->id || watch_task(shipper, task) < 0) {
		task_dir_free(task);
		return;
	}
	scan_task(task);
}

static void scan_spool(struct shipper *shipper)
{
	struct err err = {0};
	int r;

	if (!shipper->watch && watch_new(shipper->watcher, shipper->spool_path, TREE_MASK, on_spool,
	                                 shipper, &shipper->watch, &err) < 0)
		go_without_watch(shipper, &err);
	r = for_each_dir(shipper->spool_fd, ".", task_found, shipper);
	if (r < 0) {
		log_warning(NULL, r, "list the spool");
		look_again_later(shipper);
	}
}

static void forget_task(struct shipper *shipper, const char *id)
{
	struct task_dir *task;

	LIST_FOREACH(task, &shipper->tasks, all)
	if (strcmp(task->id, id) == 0) {
		task_dir_free(task);
		return;
	}
}

static void on_spool(uint32_t mask, const char *name, void *userdata)
{
	struct shipper *shipper = userdata;

	if (mask & IN_Q_OVERFLOW) {
		scan_spool(shipper);
		return;
	}
	/* While anybody holds the removed directory open its own watch says nothing, and one of the
	 * same name may be there again: a container that begins after another's log is delivered.
	 */
	if (mask & IN_DELETE)
		forget_task(shipper, name);
	if (*name)
		task_found(shipper->spool_fd, name, shipper);
}

/* The directory goes with the last stream that is delivered, and comes again with the next
 * container that the task starts. That it is gone may be told after the new one was, which then has
 * no watch yet. */
static void task_dir_gone(struct task_dir *task)
{
	struct shipper *shipper = task->shipper;
	char id[NAME_MAX + 1];

	snprintf(id, sizeof(id), "%s", task->id);
	task_dir_free(task);
	task_found(shipper->spool_fd, id, shipper);
}

static void on_task_dir(uint32_t mask, const char *name, void *userdata)
{
	struct task_dir *task = userdata;
	struct item *item;

	if (mask & (IN_DELETE_SELF | IN_IGNORED))
		task_dir_gone(task);
	else if (mask & IN_DELETE && (item = item_find(task->shipper, task->id, name)))
		log_stream_removed(item->stream);
	else if (mask & IN_Q_OVERFLOW || (*name && *name != '.'))
		scan_task(task);
}

static int on_look_again(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct shipper *shipper = userdata;
	struct task_dir *task, *next_task;
	struct item *item, *next;

	(void)s;
	(void)usec;
	/* Tasks without a watch are taken anew, so that those that are gone are forgotten. */
	for (task = LIST_FIRST(&shipper->tasks); task; task = next_task) {
		next_task = LIST_NEXT(task, all);
		if (!task->watch)
			task_dir_free(task);
	}
	scan_spool(shipper);
	for (item = LIST_FIRST(&shipper->items); item; item = next) {
		next = LIST_NEXT(item, all);
		if (log_stream_is_watched(item->stream))
			continue;
		look_again_later(shipper);
		log_stream_look(item->stream); /* may free it */
	}
	return 0;
}

/* May another request begin: in all, and as a part of those of failing streams? */
static bool has_room(const struct shipper *shipper, bool failing)
{
	if (shipper->requests[0] + shipper->requests[1] >= SHIPPER_REQUESTS_MAX ||
	    shipper->bytes[0] + shipper->bytes[1] >= SHIPPER_BYTES_MAX)
		return false;
	return !failing || (shipper->requests[1] < SHIPPER_REQUESTS_MAX_FAILING &&
	                    shipper->bytes[1] < SHIPPER_BYTES_MAX_FAILING);
}

static struct item *next_item(struct shipper *shipper)
{
	for (int failing = 0; failing < 2; failing++)
		if (!TAILQ_EMPTY(&shipper->queues[failing]) && has_room(shipper, failing))
			return TAILQ_FIRST(&shipper->queues[failing]);
	return NULL;
}

static void arm_turns(struct shipper *shipper)
{
	bool more = !shipper->stopping && next_item(shipper);

	(void)sd_event_source_set_enabled(shipper->turns, more ? SD_EVENT_ONESHOT : SD_EVENT_OFF);
}

static int take_turn(sd_event_source *s, void *userdata)
{
	struct shipper *shipper = userdata;
	struct item *item = next_item(shipper);

	(void)s;
	if (item) {
		TAILQ_REMOVE(&shipper->queues[item->was_failing], item, queue);
		item->is_queued = false;
		log_stream_run(item->stream); /* may free it */
	}
	arm_turns(shipper);
	return 0;
}

static void item_wants_turn(void *userdata)
{
	struct item *item = userdata;

	if (item->is_queued)
		return;
	item->is_queued = true;
	item->was_failing = log_stream_is_failing(item->stream);
	TAILQ_INSERT_TAIL(&item->shipper->queues[item->was_failing], item, queue);
	arm_turns(item->shipper);
}

static void item_sending(void *userdata, uint64_t bytes)
{
	struct item *item = userdata;

	item->shipper->requests[item->was_failing]++;
	item->shipper->bytes[item->was_failing] += bytes;
}

static void item_sent(void *userdata, uint64_t bytes)
{
	struct item *item = userdata;
	struct shipper *shipper = item->shipper;

	shipper->requests[item->was_failing]--;
	shipper->bytes[item->was_failing] -= bytes;
	arm_turns(shipper);
	if (shipper->stopping && shipper->requests[0] + shipper->requests[1] == 0)
		(void)sd_event_exit(shipper->loop, 0);
}

/* The one that ended first, when several cost too much together; else NULL. */
static struct item *leftover_too_many(struct shipper *shipper)
{
	uint64_t n = 0, bytes = 0, first_usec = UINT64_MAX;
	struct item *item, *first = NULL;

	LIST_FOREACH(item, &shipper->items, all)
	{
		const struct leftover *leftover = log_stream_leftover(item->stream);

		if (!leftover)
			continue;
		n++;
		bytes += leftover_cost_bytes(leftover);
		if (leftover->ended_realtime_usec < first_usec) {
			first_usec = leftover->ended_realtime_usec;
			first = item;
		}
	}
	return n > 1 && bytes > shipper->leftovers_max_bytes ? first : NULL;
}

static void item_refused(void *userdata)
{
	struct shipper *shipper = ((struct item *)userdata)->shipper;
	struct item *first;
	char why[128];

	snprintf(
		why, sizeof(why),
		"it is the oldest of ended logs that are refused, which may take %llu bytes in all",
		(unsigned long long)shipper->leftovers_max_bytes);
	while ((first = leftover_too_many(shipper)))
		log_stream_drop(first->stream, why);
}

static bool task_is_live(const char *task_id, void *userdata)
{
	struct shipper *shipper = userdata;
	struct item *item;

	LIST_FOREACH(item, &shipper->items, all)
	if (strcmp(item->task_id, task_id) == 0)
		return true;
	return false;
}

static void item_finished(void *userdata)
{
	struct item *item = userdata;
	struct shipper *shipper = item->shipper;
	bool files = log_stream_writes_files(item->stream) && shipper->logs_fd >= 0;
	int r;

	item_free(item);
	heap_trim_soon(shipper->heap);
	if (files) {
		r = json_file_prune(shipper->logs_fd, JSON_FILE_TASKS_KEPT, JSON_FILE_BYTES_KEPT,
		                    task_is_live, shipper);
		if (r < 0)
			log_warning(NULL, r, "remove the oldest log files");
	}
	if (shipper->idle && LIST_EMPTY(&shipper->items)) {
		(void)sd_event_source_set_time(shipper->idle, now_usec() + SHIPPER_IDLE_USEC);
		(void)sd_event_source_set_enabled(shipper->idle, SD_EVENT_ONESHOT);
	}
}

static void keys_changed(void *userdata)
{
	struct shipper *shipper = userdata;
	struct item *item;

	LIST_FOREACH(item, &shipper->items, all)
	log_stream_keys_changed(item->stream);
}

static int on_idle(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct shipper *shipper = userdata;

	(void)s;
	(void)usec;
	return LIST_EMPTY(&shipper->items) ? sd_event_exit(shipper->loop, 0) : 0;
}

static int on_stop_deadline(sd_event_source *s, uint64_t usec, void *userdata)
{
	struct shipper *shipper = userdata;

	(void)s;
	(void)usec;
	log_warning(NULL, 0, "%llu requests are not answered yet: their batches may be sent again",
	            (unsigned long long)(shipper->requests[0] + shipper->requests[1]));
	return sd_event_exit(shipper->loop, 0);
}

void shipper_stop(struct shipper *shipper)
{
	if (shipper->stopping)
		return;
	shipper->stopping = true;
	arm_turns(shipper);
	if (shipper->requests[0] + shipper->requests[1] == 0 ||
	    loop_add_timer(shipper->loop, SHIPPER_STOP_USEC, 100000, on_stop_deadline, shipper,
	                   &shipper->stop) < 0)
		(void)sd_event_exit(shipper->loop, 0);
}
