/* What the engine has to do with the removal of images: which ones its tasks need, and that a pull
 * on a full disk waits for it. */
#include <stdio.h>
#include <string.h>

#include "agent/engine/engine_internal.h"

static bool image_is_used(const char *reference, bool by_ended, void *userdata)
{
	struct engine *engine = userdata;

	for (size_t i = 0; i < engine->n_tasks; i++) {
		const struct engine_task *et = engine->tasks[i];

		/* Until then its containers have layers mounted. */
		if (et->teardown == TEARDOWN_DONE && !by_ended)
			continue;
		for (size_t k = 0; k < et->task->n_containers; k++)
			if (et->containers[k].image &&
			    strcmp(et->containers[k].image, reference) == 0)
				return true;
	}
	return false;
}

/* What is remembered goes by the words of task definitions, not by the normal form. */
static void image_removed(const char *reference, void *userdata)
{
	struct engine *engine = userdata;

	(void)reference;
	puller_forget_all(engine->puller);
}

static void room_made(bool freed, void *userdata)
{
	struct engine *engine = userdata;

	puller_room_made(engine->puller, freed);
}

static int make_room(void *userdata)
{
	struct engine *engine = userdata;

	return image_cleanup_make_room(engine->image_cleanup, room_made, engine);
}

int images_start(struct engine *engine, struct err *err)
{
	const struct image_cleanup_options options = {
		.loop = engine->loop,
		.config = engine->o.config,
		.runtime_dir = engine->o.runtime_dir,
		.images_dir = engine->o.images_dir,
		.log = &engine->log,
		.is_used = image_is_used,
		.removed = image_removed,
		.userdata = engine,
	};
	int r = image_cleanup_new(&options, &engine->image_cleanup, err);

	if (r < 0)
		return r;
	puller_on_full_disk(engine->puller, make_room, engine);
	return 0;
}
