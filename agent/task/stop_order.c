/* The order is kept as it came, checked once; a task has few containers, so it is searched. */
#include "agent/task/stop_order.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "lib/fd.h"
#include "lib/json.h"

static int check_rule(struct json_object *rule, struct err *err)
{
	struct json_object *after = NULL;
	uint64_t timeout;
	const char *name;
	int r;

	r = json_get_string(rule, "name", &name, err);
	if (r == 0)
		r = json_optional(json_get_u64(rule, "timeoutUsec", INT64_MAX / 2, &timeout, err));
	if (r == 0)
		r = json_optional(json_get_array(rule, "after", &after, err));
	if (r < 0)
		return -EINVAL;
	for (size_t i = 0; after && i < json_object_array_length(after); i++)
		if (!json_object_is_type(json_object_array_get_idx(after, i), json_type_string))
			return err_text(err, -EINVAL, "\"after\" of %s must be names", name);
	return 0;
}

int stop_order_take(struct json_object **order, struct json_object *request, struct err *err)
{
	struct json_object *list;
	int r;

	if (json_get_array(request, "containers", &list, err) < 0)
		return -EINVAL;
	if (json_object_array_length(list) > STOP_ORDER_MAX)
		return err_text(err, -E2BIG, "a task can have %d containers", STOP_ORDER_MAX);
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		r = check_rule(json_object_array_get_idx(list, i), err);
		if (r < 0)
			return r;
	}
	json_object_put(*order);
	*order = json_object_get(list);
	return 0;
}

static struct json_object *find_rule(struct json_object *order, const char *name)
{
	for (size_t i = 0; order && i < json_object_array_length(order); i++) {
		struct json_object *rule = json_object_array_get_idx(order, i);

		if (strcmp(json_text(rule, "name"), name) == 0)
			return rule;
	}
	return NULL;
}

bool stop_order_allows(struct json_object *order, const struct container *containers,
                       const struct container *container)
{
	struct json_object *after = json_get(find_rule(order, container->name), "after");

	for (size_t i = 0; after && i < json_object_array_length(after); i++) {
		const char *name = json_object_get_string(json_object_array_get_idx(after, i));

		for (const struct container *c = containers; c; c = c->next)
			if (c != container && c->status != CONTAINER_STOPPED &&
			    strcmp(c->name, name) == 0)
				return false;
	}
	return true;
}

uint64_t stop_order_timeout_usec(struct json_object *order, const struct container *container)
{
	uint64_t timeout = CONTAINER_STOP_USEC;

	(void)json_get_u64(find_rule(order, container->name), "timeoutUsec", INT64_MAX / 2,
	                   &timeout, NULL);
	return timeout;
}

int exits_create(const char *exits_dir, const char *task_id, struct err *err)
{
	_cleanup_close_ int parent = open(exits_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	_cleanup_close_ int fd = -EBADF;
	struct stat st;

	if (parent < 0 || fstat(parent, &st) < 0)
		return err_set(err, -errno, "open %s", exits_dir);
	if (mkdirat(parent, task_id, 0750) < 0 && errno != EEXIST)
		return err_set(err, -errno, "create %s/%s", exits_dir, task_id);
	fd = openat(parent, task_id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	/* set-group-ID: the files belong to ecs-agent's group, as in the runtime directory. */
	if (fd < 0 || fchown(fd, 0, st.st_gid) < 0 || fchmod(fd, 02750) < 0 || fsync(parent) < 0)
		return err_set(err, -errno, "set up %s/%s", exits_dir, task_id);
	return TAKE_FD(fd);
}
