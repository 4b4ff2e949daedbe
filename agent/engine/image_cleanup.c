/*
 * A cycle is one connection to ecs-image: list, then remove one image after the other, then sweep.
 * Whether an image is used is asked before the choice and again right before each removal, since
 * tasks arrive in between. What is asked for while a cycle runs waits for the next one.
 */
#include "agent/engine/image_cleanup.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "agent/engine/peer.h"
#include "agent/image/reference.h"
#include "lib/aws_keys.h"
#include "lib/json.h"
#include "lib/loop.h"

#define SEC_USEC           (1000 * 1000ull)
#define LOOK_USEC          (60 * SEC_USEC)
#define LOOK_ACCURACY_USEC (5 * SEC_USEC)
/* After a look at a full disk that has found nothing to remove. */
#define NOTHING_TO_DO_USEC  (600 * SEC_USEC)
#define REQUEST_USEC        (600 * SEC_USEC) /* removing layers waits for the disk */
#define SWEEP_TRIES_MAX     20
#define SWEEP_AGAIN_USEC    (2 * SEC_USEC)
#define LOW_WATER_MAX_BYTES (2ull << 30)

_Static_assert(IMAGE_REFERENCE_MAX >= REFERENCE_TEXT_N, "a normal form has its place");

enum cycle_kind {
	CYCLE_NONE,
	CYCLE_REGULAR,
	CYCLE_LOW,  /* until there is room again */
	CYCLE_FULL, /* everything that may go */
};

struct waiter {
	struct waiter *next;
	image_cleanup_done_fn done;
	void *userdata;
	bool in_cycle; /* else it waits for the next one */
};

struct image_cleanup {
	struct image_cleanup_options o;
	sd_event_source *look, *again;
	uint64_t cycle_due_usec;  /* monotonic, as the next */
	uint64_t not_before_usec; /* of a cycle for a low disk */
	struct json_object *last_used;
	struct waiter *waiters;

	/* The cycle that runs. */
	enum cycle_kind kind;
	struct peer *peer;
	struct json_object *references;
	size_t next, removed;
	uint64_t layers_removed;
	unsigned int sweeps;
};

static void begin(struct image_cleanup *cleanup, enum cycle_kind kind);
static void on_list(int r, struct ipc_message *msg, const struct err *err, void *userdata);
static void remove_next(struct image_cleanup *cleanup);
static void on_removed(int r, struct ipc_message *msg, const struct err *err, void *userdata);
static void sweep(struct image_cleanup *cleanup);
static void on_swept(int r, struct ipc_message *msg, const struct err *err, void *userdata);
static void finish(struct image_cleanup *cleanup);

int image_reference_normalize(const char *text, char ret[static IMAGE_REFERENCE_MAX],
                              struct err *err)
{
	struct reference reference;
	int r = reference_parse(text, &reference, err);

	if (r < 0)
		return r;
	reference_to_string(&reference, ret);
	return 0;
}

/* The choice. */

struct candidate {
	const char *reference;
	bool untracked;
	uint64_t used_usec; /* realtime */
};

static bool is_excluded(const struct config *config, const char *reference)
{
	char normal[IMAGE_REFERENCE_MAX];

	for (size_t i = 0; i < config->image_cleanup_excluded.n; i++)
		if (image_reference_normalize(config->image_cleanup_excluded.items[i], normal,
		                              NULL) == 0 &&
		    strcmp(normal, reference) == 0)
			return true;
	return false;
}

/* Whether the image may go; an image without a reference or a time is left alone. */
static bool consider(const struct image_choice *choice, struct json_object *image,
                     struct candidate *ret)
{
	const struct config *config = choice->config;
	const char *reference = json_text(image, "reference");
	const char *pulled_at = json_text(image, "pulledAt");
	uint64_t pulled_usec, age_usec, last_used = 0;

	if (!reference || !pulled_at || aws_time_parse(pulled_at, &pulled_usec) < 0)
		return false;
	*ret = (struct candidate){.reference = reference, .used_usec = pulled_usec};
	(void)json_get_bool(image, "byOperator", &ret->untracked, NULL); /* absent: false */
	if ((ret->untracked && !config->untracked_image_cleanup) ||
	    is_excluded(config, reference) ||
	    choice->is_used(reference, !choice->everything, choice->userdata))
		return false;

	age_usec = ret->untracked ? config->untracked_image_cleanup_age_usec
	                          : config->image_cleanup_age_usec;
	if (!choice->everything && (pulled_usec > choice->now_realtime_usec ||
	                            choice->now_realtime_usec - pulled_usec < age_usec))
		return false;
	if (json_get_u64(choice->last_used, reference, UINT64_MAX, &last_used, NULL) == 0 &&
	    last_used > pulled_usec)
		ret->used_usec = last_used;
	return true;
}

static int in_order(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;

	if (x->untracked != y->untracked)
		return x->untracked ? 1 : -1;
	if (x->used_usec != y->used_usec)
		return x->used_usec < y->used_usec ? -1 : 1;
	return strcmp(x->reference, y->reference);
}

int image_cleanup_choose(const struct image_choice *choice, struct json_object *images,
                         struct json_object **ret)
{
	size_t n_images = json_object_array_length(images), n = 0;
	_cleanup_free_ struct candidate *candidates = calloc(n_images + 1, sizeof(*candidates));
	_cleanup_json_ struct json_object *chosen = json_object_new_array();

	if (!candidates || !chosen)
		return -ENOMEM;
	for (size_t i = 0; i < n_images; i++)
		n += consider(choice, json_object_array_get_idx(images, i), &candidates[n]);
	qsort(candidates, n, sizeof(*candidates), in_order);
	if (!choice->everything && n > choice->config->image_cleanup_count)
		n = choice->config->image_cleanup_count;
	for (size_t i = 0; i < n; i++)
		if (json_append(chosen, json_object_new_string(candidates[i].reference)) < 0)
			return -ENOMEM;
	*ret = TAKE_PTR(chosen);
	return 0;
}

/* When. */

/* Bytes that should be free at the least, and those that are; false: not known. */
static bool look_at_disk(const struct image_cleanup *cleanup, uint64_t *ret_low, uint64_t *ret_free)
{
	struct statvfs fs;
	uint64_t low;

	if (!cleanup->o.images_dir || statvfs(cleanup->o.images_dir, &fs) < 0)
		return false;
	low = (uint64_t)fs.f_blocks * fs.f_frsize / 10;
	*ret_low = low < LOW_WATER_MAX_BYTES ? low : LOW_WATER_MAX_BYTES;
	*ret_free = (uint64_t)fs.f_bavail * fs.f_frsize;
	return true;
}

static bool is_low(const struct image_cleanup *cleanup)
{
	uint64_t low, left;

	return look_at_disk(cleanup, &low, &left) && left < low;
}

static bool has_room_again(const struct image_cleanup *cleanup)
{
	uint64_t low, left;

	return look_at_disk(cleanup, &low, &left) && left >= low + low / 2;
}

static void arm(struct image_cleanup *cleanup)
{
	uint64_t usec = cleanup->o.config->image_cleanup_interval_usec;

	(void)sd_event_source_set_time(cleanup->look,
	                               now_usec() + (usec < LOOK_USEC ? usec : LOOK_USEC));
	(void)sd_event_source_set_enabled(cleanup->look, SD_EVENT_ONESHOT);
}

static int on_look(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct image_cleanup *cleanup = userdata;
	uint64_t now = now_usec();

	(void)source;
	(void)usec;
	arm(cleanup);
	if (cleanup->kind != CYCLE_NONE)
		return 0;
	if (now >= cleanup->not_before_usec && is_low(cleanup)) {
		begin(cleanup, CYCLE_LOW);
	} else if (now >= cleanup->cycle_due_usec) {
		cleanup->cycle_due_usec = now + cleanup->o.config->image_cleanup_interval_usec;
		begin(cleanup, CYCLE_REGULAR);
	}
	return 0;
}

int image_cleanup_new(const struct image_cleanup_options *options, struct image_cleanup **ret,
                      struct err *err)
{
	_cleanup_(image_cleanup_freep) struct image_cleanup *cleanup = calloc(1, sizeof(*cleanup));
	const struct config *config = options->config;
	uint64_t interval = config->image_cleanup_interval_usec;
	struct err bad = {0};
	int r;

	if (!cleanup)
		return err_oom(err);
	cleanup->o = *options;
	cleanup->last_used = json_object_new_object();
	if (!cleanup->last_used)
		return err_oom(err);
	cleanup->cycle_due_usec = now_usec() + interval;
	for (size_t i = 0; i < config->image_cleanup_excluded.n; i++) {
		const char *item = config->image_cleanup_excluded.items[i];
		char normal[IMAGE_REFERENCE_MAX];

		if (image_reference_normalize(item, normal, &bad) < 0)
			log_warning(options->log, 0,
			            "ECS_EXCLUDE_UNTRACKED_IMAGE: \"%.200s\" names no image: %s",
			            item, bad.text);
	}
	if (!config->image_cleanup_disabled) {
		r = loop_add_timer(options->loop, interval < LOOK_USEC ? interval : LOOK_USEC,
		                   interval < LOOK_USEC ? interval : LOOK_ACCURACY_USEC, on_look,
		                   cleanup, &cleanup->look);
		if (r < 0)
			return err_set(err, r, "set a timer for the cleanup of images");
	}
	*ret = TAKE_PTR(cleanup);
	return 0;
}

struct image_cleanup *image_cleanup_free(struct image_cleanup *cleanup)
{
	if (!cleanup)
		return NULL;
	while (cleanup->waiters) {
		struct waiter *waiter = cleanup->waiters;

		cleanup->waiters = waiter->next;
		free(waiter);
	}
	peer_free(cleanup->peer);
	sd_event_source_disable_unref(cleanup->look);
	sd_event_source_disable_unref(cleanup->again);
	json_object_put(cleanup->references);
	json_object_put(cleanup->last_used);
	free(cleanup);
	return NULL;
}

/* A cycle. */

static int on_again(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct image_cleanup *cleanup = userdata;

	(void)source;
	(void)usec;
	cleanup->again = sd_event_source_disable_unref(cleanup->again);
	if (cleanup->kind != CYCLE_NONE)
		sweep(cleanup);
	else
		begin(cleanup, CYCLE_FULL);
	return 0;
}

static int come_again(struct image_cleanup *cleanup, uint64_t usec)
{
	cleanup->again = sd_event_source_disable_unref(cleanup->again);
	return loop_add_timer(cleanup->o.loop, usec, usec / 10 + 1, on_again, cleanup,
	                      &cleanup->again);
}

int image_cleanup_make_room(struct image_cleanup *cleanup, image_cleanup_done_fn done,
                            void *userdata)
{
	struct waiter *waiter, **end = &cleanup->waiters;
	int r = 0;

	if (cleanup->o.config->image_cleanup_disabled)
		return -EOPNOTSUPP;
	waiter = calloc(1, sizeof(*waiter));
	if (!waiter)
		return -ENOMEM;
	waiter->done = done;
	waiter->userdata = userdata;
	if (cleanup->kind == CYCLE_NONE)
		r = come_again(cleanup, 0);
	if (r < 0) {
		free(waiter);
		return r;
	}
	while (*end)
		end = &(*end)->next;
	*end = waiter;
	return 0;
}

static void on_end(struct peer *peer, int r, const struct err *err, void *userdata)
{
	struct image_cleanup *cleanup = userdata;

	(void)peer;
	(void)r;
	log_warning(cleanup->o.log, 0, "cleanup of images: ecs-image has ended: %s", err->text);
	finish(cleanup);
}

static bool is_used(const struct image_cleanup *cleanup, const char *reference)
{
	return cleanup->o.is_used(reference, cleanup->kind == CYCLE_REGULAR, cleanup->o.userdata);
}

static void request(struct image_cleanup *cleanup, const char *type, const char *reference,
                    peer_answer_fn fn)
{
	_cleanup_json_ struct json_object *body = ipc_message_new(type, NULL);
	int r = body ? 0 : -ENOMEM;

	if (r == 0 && reference)
		r = json_add_string(body, "reference", reference);
	if (r == 0)
		r = peer_request(cleanup->peer, TAKE_PTR(body), NULL, 0, REQUEST_USEC, fn, cleanup);
	if (r < 0) {
		log_warning(cleanup->o.log, r, "cleanup of images: cannot ask ecs-image");
		finish(cleanup);
	}
}

static void begin(struct image_cleanup *cleanup, enum cycle_kind kind)
{
	static const struct peer_ops ops = {.on_end = on_end};
	struct err err = {0};
	int fd, r;

	cleanup->kind = cleanup->waiters ? CYCLE_FULL : kind;
	cleanup->again = sd_event_source_disable_unref(cleanup->again);
	cleanup->next = cleanup->removed = 0;
	cleanup->layers_removed = 0;
	cleanup->sweeps = 0;
	for (struct waiter *waiter = cleanup->waiters; waiter; waiter = waiter->next)
		waiter->in_cycle = true;

	fd = launcher_connect(cleanup->o.runtime_dir, "image", NULL, &err);
	r = fd < 0 ? fd : peer_new(cleanup->o.loop, fd, false, &ops, cleanup, &cleanup->peer);
	if (r < 0) {
		log_warning(cleanup->o.log, r, "cleanup of images: %s", err.text);
		finish(cleanup);
		return;
	}
	request(cleanup, "list", NULL, on_list);
}

/* Remembers of the images that are there when each was last seen in use. */
static int note_uses(struct image_cleanup *cleanup, struct json_object *images)
{
	_cleanup_json_ struct json_object *noted = json_object_new_object();
	uint64_t now = now_realtime_usec();

	if (!noted)
		return -ENOMEM;
	for (size_t i = 0; i < json_object_array_length(images); i++) {
		const char *reference =
			json_text(json_object_array_get_idx(images, i), "reference");
		uint64_t usec;

		if (!reference)
			continue;
		if (is_used(cleanup, reference))
			usec = now;
		else if (json_get_u64(cleanup->last_used, reference, UINT64_MAX, &usec, NULL) < 0)
			continue;
		if (json_add_u64(noted, reference, usec) < 0)
			return -ENOMEM;
	}
	json_object_put(cleanup->last_used);
	cleanup->last_used = TAKE_PTR(noted);
	return 0;
}

static void on_list(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct image_cleanup *cleanup = userdata;
	const struct image_choice choice = {
		.config = cleanup->o.config,
		.now_realtime_usec = now_realtime_usec(),
		.everything = cleanup->kind != CYCLE_REGULAR,
		.is_used = cleanup->o.is_used,
		.userdata = cleanup->o.userdata,
	};
	struct image_choice with_uses = choice;
	struct json_object *images = NULL;
	struct err bad = {0};

	if (r < 0)
		bad = *err;
	else
		r = json_get_array(msg->body, "images", &images, &bad);
	if (r == 0)
		r = note_uses(cleanup, images);
	with_uses.last_used = cleanup->last_used;
	if (r == 0)
		r = image_cleanup_choose(&with_uses, images, &cleanup->references);
	if (r < 0) {
		log_warning(cleanup->o.log, r, "cleanup of images: cannot list them: %s", bad.text);
		finish(cleanup);
		return;
	}
	remove_next(cleanup);
}

static void remove_next(struct image_cleanup *cleanup)
{
	size_t n = json_object_array_length(cleanup->references);

	if (cleanup->kind == CYCLE_LOW && has_room_again(cleanup))
		n = 0;
	for (; cleanup->next < n; cleanup->next++) {
		const char *reference = json_object_get_string(
			json_object_array_get_idx(cleanup->references, cleanup->next));

		if (is_used(cleanup, reference))
			continue;
		request(cleanup, "remove", reference, on_removed);
		return;
	}
	sweep(cleanup);
}

static uint64_t count_layers(struct ipc_message *msg)
{
	uint64_t n = 0;

	(void)json_get_u64(msg->body, "layersRemoved", UINT64_MAX, &n, NULL); /* only for people */
	return n;
}

static void on_removed(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct image_cleanup *cleanup = userdata;
	const char *reference = json_object_get_string(
		json_object_array_get_idx(cleanup->references, cleanup->next++));

	if (r == 0) {
		cleanup->removed++;
		cleanup->layers_removed += count_layers(msg);
		log_info(cleanup->o.log, "image %s was removed%s", reference,
		         cleanup->kind == CYCLE_REGULAR ? "" : ", since the disk is full");
		cleanup->o.removed(reference, cleanup->o.userdata);
	} else if (r != -ENOENT) { /* an operator was faster */
		log_warning(cleanup->o.log, 0, "image %s cannot be removed: %s", reference,
		            err->text);
	}
	remove_next(cleanup);
}

static void sweep(struct image_cleanup *cleanup)
{
	request(cleanup, "sweep", NULL, on_swept);
}

static void on_swept(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct image_cleanup *cleanup = userdata;

	if (r == 0) {
		cleanup->layers_removed += count_layers(msg);
	} else if (r == -EAGAIN && ++cleanup->sweeps < SWEEP_TRIES_MAX) {
		if (come_again(cleanup, SWEEP_AGAIN_USEC) == 0)
			return;
	} else if (r != -EAGAIN) { /* a pull runs for long: the next cycle will do */
		log_warning(cleanup->o.log, 0, "layers without an image cannot be removed: %s",
		            err->text);
	}
	finish(cleanup);
}

static void finish(struct image_cleanup *cleanup)
{
	bool freed = cleanup->removed > 0 || cleanup->layers_removed > 0;
	bool was_low = cleanup->kind == CYCLE_LOW;

	cleanup->peer = peer_free(cleanup->peer);
	json_object_put(cleanup->references);
	cleanup->references = NULL;
	cleanup->kind = CYCLE_NONE;
	if (cleanup->layers_removed > 0)
		log_info(cleanup->o.log, "%" PRIu64 " layers without an image were removed",
		         cleanup->layers_removed);
	if (was_low && !freed) {
		cleanup->not_before_usec = now_usec() + NOTHING_TO_DO_USEC;
		log_warning(cleanup->o.log, 0,
		            "the disk of %s is nearly full, and no image there can be removed",
		            cleanup->o.images_dir);
	}

	/* Those who came during the cycle have theirs next. A callee may ask again, which appends.
	 */
	while (cleanup->waiters && cleanup->waiters->in_cycle) {
		struct waiter *waiter = cleanup->waiters;
		image_cleanup_done_fn done = waiter->done;
		void *userdata = waiter->userdata;

		cleanup->waiters = waiter->next;
		free(waiter);
		done(freed, userdata);
	}
	if (cleanup->waiters && !cleanup->again)
		(void)come_again(cleanup, 0); /* without memory the next regular look serves them */
}
