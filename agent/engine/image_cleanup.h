/*
 * Removal of images that no task needs any more.
 *
 * Every ECS_IMAGE_CLEANUP_INTERVAL at most ECS_NUM_IMAGES_DELETE_PER_CYCLE images go, the least
 * recently used first: those that were pulled longer than ECS_IMAGE_MINIMUM_CLEANUP_AGE ago and are
 * neither of a task that the engine still knows nor in ECS_EXCLUDE_UNTRACKED_IMAGE. Images that an
 * operator pulled by hand are "untracked": they go only with ECS_ENABLE_UNTRACKED_IMAGE_CLEANUP,
 * after the others, once they are older than NON_ECS_IMAGE_MINIMUM_CLEANUP_AGE.
 * Source: Amazon ECS developer guide, "Automatic task and image cleanup".
 *
 * A deployment that fails again and again fills a disk faster than that. So there is no lower bound
 * of age and no upper one of number, and tasks that have ended keep no image, when the disk is
 * nearly full (less than a tenth of it is free, and less than 2 GiB; looked at every minute), until
 * it is half as much again; and when a pull has met a full disk, which then is tried once more.
 *
 * Layers go with the last image that has them, never while a container has them mounted; a cycle
 * also takes those that a pull left that was broken off. ECS_DISABLE_IMAGE_CLEANUP stops all of it.
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>
#include <systemd/sd-event.h>

#include "agent/config/config.h"
#include "lib/cleanup.h"
#include "lib/err.h"
#include "lib/log.h"

struct image_cleanup;

/* Does a task need the image, which is named in its normal form; by_ended: also one that has ended
 * altogether, and that the engine only remembers. */
typedef bool (*image_is_used_fn)(const char *reference, bool by_ended, void *userdata);

/* All borrowed until image_cleanup_free(). References are in their normal form. */
struct image_cleanup_options {
	sd_event *loop;
	const struct config *config;
	const char *runtime_dir;
	const char *images_dir; /* on the file system to look at; NULL: none is */
	const struct log_ctx *log;
	image_is_used_fn is_used;
	void (*removed)(const char *reference, void *userdata);
	void *userdata;
};

int image_cleanup_new(const struct image_cleanup_options *options, struct image_cleanup **ret,
                      struct err *err);
struct image_cleanup *image_cleanup_free(struct image_cleanup *cleanup);
DEFINE_CLEANUP(struct image_cleanup *, image_cleanup_free)

/*
 * A disk is full: remove every image that may go. done is called once, later, from the loop; freed:
 * something was removed, so that it is worth to try again. Of several callers each has its own
 * answer. Not called after image_cleanup_free().
 */
typedef void (*image_cleanup_done_fn)(bool freed, void *userdata);
int image_cleanup_make_room(struct image_cleanup *cleanup, image_cleanup_done_fn done,
                            void *userdata);

/*
 * Which of these images go, and in which order.
 *
 * images:   as in agent/image/protocol.h, "list"
 * last_used: object, reference -> realtime microseconds when a task was last seen to need it; it
 *           counts only if it is later than the pull
 * everything: regardless of age and number, and of tasks that have ended
 * ret:      array of references, owned by the caller
 */
struct image_choice {
	const struct config *config;
	struct json_object *last_used;
	uint64_t now_realtime_usec;
	bool everything;
	image_is_used_fn is_used;
	void *userdata;
};
int image_cleanup_choose(const struct image_choice *choice, struct json_object *images,
                         struct json_object **ret);

/* An image as a user or a task definition names it, in its normal form. -EINVAL */
#define IMAGE_REFERENCE_MAX 1024
int image_reference_normalize(const char *text, char ret[static IMAGE_REFERENCE_MAX],
                              struct err *err);
