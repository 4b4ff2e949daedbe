/* Reports to ECS as the store has them. */
#include "tests/unit/engine_world.h"

#include <string.h>

#include "lib/json.h"

static int read_event(uint64_t id, const char *arn, const char *body, void *userdata)
{
	struct json_object *obj = NULL;
	struct err err = {0};

	(void)id;
	(void)arn;
	if (json_parse_object(body, strlen(body), 1 << 20, &obj, &err) < 0)
		fail_msg("%s in %s", err.text, body);
	json_append(userdata, obj);
	return 0;
}

struct json_object *world_events(struct world *world)
{
	struct json_object *array = json_object_new_array();

	assert_int_equal(state_commit(world->state, NULL), 0);
	assert_int_equal(state_read_events(world->state, read_event, array, NULL), 0);
	return array;
}

struct json_object *event_at(struct json_object *events, size_t i)
{
	struct json_object *event = json_object_array_get_idx(events, i);

	if (!event)
		fail_msg("no event %zu in %s", i, json_to_text(events, NULL));
	return event;
}

struct json_object *last_event(struct json_object *events)
{
	return event_at(events, json_object_array_length(events) - 1);
}

struct json_object *container_of(struct json_object *event, const char *name)
{
	struct json_object *array = json_get(event, "containers");

	for (size_t i = 0; array && i < json_object_array_length(array); i++)
		if (strcmp(json_text(json_object_array_get_idx(array, i), "containerName"), name) ==
		    0)
			return json_object_array_get_idx(array, i);
	fail_msg("no container %s in %s", name, json_to_text(event, NULL));
	return NULL;
}

int64_t exit_code(struct json_object *container)
{
	int64_t code = -1;

	(void)json_get_i64(container, "exitCode", 0, 255, &code, NULL);
	return code;
}
