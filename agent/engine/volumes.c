/*
 * Volumes as Docker has them. A destination has one mount: volumesFrom comes first, the container's
 * own mount points and tmpfs stand over it, and what its image declares is only for places that are
 * left.
 */
#include "agent/engine/volumes.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/engine/refuse.h"
#include "agent/engine/volume_drivers.h"
#include "lib/cleanup.h"
#include "lib/json.h"
#include "lib/parse.h"

#define VOLUME_NAME_MAX      255
#define IMAGE_VOLUMES_MAX    64
#define CONTAINER_MOUNTS_MAX 400 /* with those of volumesFrom */

static size_t list_length(struct json_object *list)
{
	return json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
}

/* --- what a task definition says --- */

static int check_labels(struct json_object *docker, struct err *err)
{
	struct json_object *labels = NULL;
	int r;

	r = json_optional(json_get_object(docker, "labels", &labels, err));
	if (r < 0 || !labels)
		return r;
	json_object_object_foreach (labels, key, value)
		if (!json_object_is_type(value, json_type_string))
			return err_text(err, -EINVAL, "label %.80s must be a string", key);
	return 0;
}

static int check_docker_volume(struct json_object *docker, struct err *err)
{
	const char *scope = "task", *driver = "local";
	bool autoprovision = false;
	int r;

	r = json_optional(json_get_string(docker, "scope", &scope, err));
	if (r == 0)
		r = json_optional(json_get_string(docker, "driver", &driver, err));
	if (r == 0)
		r = json_optional(json_get_bool(docker, "autoprovision", &autoprovision, err));
	if (r < 0)
		return r;
	if (*scope && strcmp(scope, "task") != 0 && strcmp(scope, "shared") != 0)
		return err_text(err, -EINVAL, "scope is \"%.80s\", it must be task or shared",
		                scope);
	if (autoprovision && strcmp(scope, "shared") != 0)
		return err_text(err, -EINVAL, "autoprovision is for volumes of scope shared only");
	if (*driver && strcmp(driver, "local") != 0)
		return err_text(err, -EOPNOTSUPP,
		                "volume driver %.80s is not supported by this agent; it must be "
		                "local",
		                driver);
	r = volume_check_driver_opts(docker, err);
	return r < 0 ? r : check_labels(docker, err);
}

static int check_host_volume(struct json_object *volume, struct err *err)
{
	struct json_object *host = json_get(volume, "host");
	const char *path = "";
	int r;

	if (!host)
		return err_text(err, -EINVAL, "a volume of type host needs the member host");
	r = json_optional(json_get_string(host, "sourcePath", &path, err));
	if (r == 0 && *path && *path != '/')
		r = err_text(err, -EINVAL, "sourcePath is \"%.100s\", it must be absolute", path);
	return r;
}

static int check_volume(struct json_object *volume, const char **ret_name, struct err *err)
{
	static const struct refused table[] = {
		{"fsxWindowsFileServerVolumeConfiguration",
	         "fsxWindowsFileServerVolumeConfiguration"},
		{"ebsVolumeConfiguration", "ebsVolumeConfiguration"},
	};
	const char *type = "host";
	int r;

	r = json_get_string(volume, "name", ret_name, err);
	if (r == 0)
		r = json_optional(json_get_string(volume, "type", &type, err));
	if (r < 0)
		return r;
	if (!name_is_component(*ret_name, VOLUME_NAME_MAX))
		return err_text(err, -EINVAL,
		                "name \"%.80s\" must be 1 to %d letters, digits, '_', '-' or '.'",
		                *ret_name, VOLUME_NAME_MAX);
	r = refuse_members(volume, table, ARRAY_SIZE(table), *ret_name, err);
	if (r < 0)
		return r;
	if (!*type || strcmp(type, "host") == 0)
		r = check_host_volume(volume, err);
	else if (strcmp(type, "docker") == 0)
		r = check_docker_volume(json_get(volume, "dockerVolumeConfiguration"), err);
	else if (strcmp(type, "efs") == 0)
		r = volume_check_efs(volume, err);
	else
		r = err_text(err, -EOPNOTSUPP,
		             "volumes of type %.80s are not supported by this agent", type);
	return r < 0 ? err_prefix(err, r, "%s", *ret_name) : 0;
}

struct json_object *volumes_find(struct json_object *document, const char *name)
{
	struct json_object *list = json_get(document, "volumes");

	for (size_t i = 0; name && i < list_length(list); i++) {
		struct json_object *volume = json_object_array_get_idx(list, i);
		const char *other = json_text(volume, "name");

		if (other && strcmp(other, name) == 0)
			return volume;
	}
	return NULL;
}

int volumes_check(struct json_object *document, struct err *err)
{
	struct json_object *list = NULL;
	int r;

	r = json_optional(json_get_array(document, "volumes", &list, err));
	for (size_t i = 0; r == 0 && i < list_length(list); i++) {
		struct json_object *volume = json_object_array_get_idx(list, i);
		const char *name = NULL;

		r = check_volume(volume, &name, err);
		if (r == 0 && volumes_find(document, name) != volume)
			r = err_text(err, -EINVAL, "two volumes are named %.80s", name);
		if (r < 0)
			return err_prefix(err, r, "volumes[%zu]", i);
	}
	return r;
}

bool volumes_is_used(const struct task *task, const char *name)
{
	for (size_t i = 0; i < task->n_containers; i++) {
		struct json_object *points = json_get(task->containers[i].document, "mountPoints");

		for (size_t k = 0; k < list_length(points); k++) {
			const char *source =
				json_text(json_object_array_get_idx(points, k), "sourceVolume");

			if (source && strcmp(source, name) == 0)
				return true;
		}
	}
	return false;
}

static bool is_tmpfs(const struct container *c, const char *path)
{
	struct json_object *map = json_get(c->host_config, "Tmpfs");

	if (!json_object_is_type(map, json_type_object))
		return false;
	json_object_object_foreach (map, destination, options) {
		(void)options;
		if (path_is_same(destination, path))
			return true;
	}
	return false;
}

static int check_mount_point(struct json_object *document, struct json_object *list, size_t i,
                             struct err *err)
{
	struct json_object *item = json_object_array_get_idx(list, i);
	const char *volume, *path;
	bool readonly;
	int r;

	r = json_get_string(item, "sourceVolume", &volume, err);
	if (r == 0)
		r = json_get_string(item, "containerPath", &path, err);
	if (r == 0)
		r = json_optional(json_get_bool(item, "readOnly", &readonly, err));
	if (r < 0)
		return r;
	if (!volumes_find(document, volume))
		return err_text(err, -EINVAL, "sourceVolume \"%.100s\" is not a volume of the task",
		                volume);
	if (*path != '/')
		return err_text(err, -EINVAL, "containerPath is \"%.100s\", it must be absolute",
		                path);
	for (size_t k = 0; k < i; k++)
		if (path_is_same(path,
		                 json_text(json_object_array_get_idx(list, k), "containerPath")))
			return err_text(err, -EINVAL, "containerPath \"%.100s\" is taken already",
			                path);
	return 0;
}

static int check_volumes_from(const struct task *task, const struct container *c,
                              struct json_object *item, struct err *err)
{
	const char *source;
	bool readonly;
	int r;

	r = json_get_string(item, "sourceContainer", &source, err);
	if (r == 0)
		r = json_optional(json_get_bool(item, "readOnly", &readonly, err));
	if (r < 0)
		return r;
	if (!task_container(task, source))
		return err_text(err, -EINVAL, "sourceContainer \"%.100s\" is not in the task",
		                source);
	if (strcmp(source, c->name) == 0)
		return err_text(err, -EINVAL, "sourceContainer \"%.100s\" is the container itself",
		                source);
	return 0;
}

int volumes_check_container(struct json_object *document, const struct task *task,
                            const struct container *c, struct err *err)
{
	struct json_object *points = NULL, *from = NULL;
	int r;

	r = json_optional(json_get_array(c->document, "mountPoints", &points, err));
	if (r == 0)
		r = json_optional(json_get_array(c->document, "volumesFrom", &from, err));
	for (size_t i = 0; r == 0 && i < list_length(points); i++) {
		r = check_mount_point(document, points, i, err);
		if (r == 0 &&
		    is_tmpfs(c, json_text(json_object_array_get_idx(points, i), "containerPath")))
			r = err_text(
				err, -EINVAL, "containerPath \"%.100s\" is a tmpfs, too",
				json_text(json_object_array_get_idx(points, i), "containerPath"));
		if (r < 0)
			(void)err_prefix(err, r, "mountPoints[%zu]", i);
	}
	for (size_t i = 0; r == 0 && i < list_length(from); i++) {
		r = check_volumes_from(task, c, json_object_array_get_idx(from, i), err);
		if (r < 0)
			(void)err_prefix(err, r, "volumesFrom[%zu]", i);
	}
	return r < 0 ? err_prefix(err, r, "container %s", c->name) : 0;
}

/* --- what a container mounts --- */

static struct volume_mount *find_place(const struct volume_mounts *mounts, const char *destination)
{
	for (size_t i = 0; i < mounts->n; i++)
		if (path_is_same(mounts->items[i].destination, destination))
			return &mounts->items[i];
	return NULL;
}

/* In place of what was mounted there. */
static int put(struct volume_mounts *mounts, const struct volume_mount *mount, struct err *err)
{
	struct volume_mount *place = find_place(mounts, mount->destination), *items;

	if (place) {
		*place = *mount;
		return 0;
	}
	if (mounts->n == CONTAINER_MOUNTS_MAX)
		return err_text(err, -EINVAL, "more than %d volumes", CONTAINER_MOUNTS_MAX);
	items = reallocarray(mounts->items, mounts->n + 1, sizeof(*items));
	if (!items)
		return err_oom(err);
	items[mounts->n++] = *mount;
	mounts->items = items;
	return 0;
}

static int put_mount_point(const struct task *task, struct json_object *point,
                           struct volume_mounts *mounts, struct err *err)
{
	struct json_object *volume = volumes_find(task->document, json_text(point, "sourceVolume"));
	struct json_object *docker = json_get(volume, "dockerVolumeConfiguration");
	const char *type = json_text(volume, "type"), *scope = json_text(docker, "scope");
	const char *path = json_text(json_get(volume, "host"), "sourcePath");
	struct volume_mount mount = {
		.kind = VOLUME_KIND_TASK,
		.source = json_text(volume, "name"),
		.destination = json_text(point, "containerPath"),
	};
	bool autoprovision = false;

	(void)json_get_bool(point, "readOnly", &mount.readonly, NULL);
	if (volume_is_mounted(volume)) {
		mount.kind = VOLUME_KIND_MOUNTED;
		mount.nocopy = volume_is_filled_elsewhere(volume);
	} else if (type && strcmp(type, "docker") == 0) {
		(void)json_get_bool(docker, "autoprovision", &autoprovision, NULL);
		mount.kind = scope && strcmp(scope, "shared") == 0 ? VOLUME_KIND_SHARED
		                                                   : VOLUME_KIND_TASK;
		mount.existing = mount.kind == VOLUME_KIND_SHARED && !autoprovision;
		mount.labels = json_get(docker, "labels");
	} else if (path && *path) {
		mount.kind = VOLUME_KIND_HOST;
		mount.source = path;
	}
	return put(mounts, &mount, err);
}

/* *n counts all of them, so that a name stays that of its path. */
static int put_anonymous(const struct container *c, struct json_object *map, const char *whose,
                         size_t *n, struct volume_mounts *mounts, struct err *err)
{
	if (!json_object_is_type(map, json_type_object))
		return 0;
	json_object_object_foreach (map, path, nothing) {
		struct volume_mount mount = {.kind = VOLUME_KIND_ANONYMOUS, .destination = path};
		int r;

		(void)nothing;
		if (*path != '/')
			return err_text(err, -EINVAL, "VOLUME \"%.100s\" of %s must be absolute",
			                path, whose);
		if (*n == IMAGE_VOLUMES_MAX)
			return err_text(err, -EINVAL, "%s has more than %d VOLUMEs", whose,
			                IMAGE_VOLUMES_MAX);
		snprintf(mount.anonymous, sizeof(mount.anonymous), "%s-%zu", c->runtime_id, (*n)++);
		if (find_place(mounts, path) || is_tmpfs(c, path))
			continue;
		r = put(mounts, &mount, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* dockerConfig.config may add to those of the image. */
static int put_image_volumes(const struct container *c, struct volume_mounts *mounts,
                             struct err *err)
{
	size_t n = 0;
	int r = put_anonymous(c, json_get(c->image_config, "Volumes"), "the image", &n, mounts,
	                      err);

	return r < 0 ? r
	             : put_anonymous(c, json_get(c->config, "Volumes"), "the container", &n, mounts,
	                             err);
}

static int collect(const struct task *task, const struct container *c, struct volume_mounts *mounts,
                   size_t depth, struct err *err);

static int put_volumes_from(const struct task *task, struct json_object *item,
                            struct volume_mounts *mounts, size_t depth, struct err *err)
{
	const struct container *source = task_container(task, json_text(item, "sourceContainer"));
	struct volume_mounts theirs = {0};
	bool readonly = false;
	int r = 0;

	(void)json_get_bool(item, "readOnly", &readonly, NULL);
	/* A circle is refused with the dependencies; this bounds what was stored otherwise. */
	if (source && depth < task->n_containers)
		r = collect(task, source, &theirs, depth + 1, err);
	for (size_t i = 0; r == 0 && i < theirs.n; i++) {
		theirs.items[i].readonly |= readonly;
		theirs.items[i].nocopy = true;
		r = put(mounts, &theirs.items[i], err);
	}
	free(theirs.items);
	return r;
}

static int collect(const struct task *task, const struct container *c, struct volume_mounts *mounts,
                   size_t depth, struct err *err)
{
	struct json_object *from = json_get(c->document, "volumesFrom");
	struct json_object *points = json_get(c->document, "mountPoints");
	int r = 0;

	for (size_t i = 0; r == 0 && i < list_length(from); i++)
		r = put_volumes_from(task, json_object_array_get_idx(from, i), mounts, depth, err);
	for (size_t i = 0; r == 0 && i < list_length(points); i++)
		r = put_mount_point(task, json_object_array_get_idx(points, i), mounts, err);
	return r < 0 ? r : put_image_volumes(c, mounts, err);
}

/* A tmpfs stands over what volumesFrom brings; a mount point in its place was refused. */
static void leave_room_for_tmpfs(const struct container *c, struct volume_mounts *mounts)
{
	size_t n = 0;

	for (size_t i = 0; i < mounts->n; i++)
		if (!is_tmpfs(c, mounts->items[i].destination))
			mounts->items[n++] = mounts->items[i];
	mounts->n = n;
}

int volumes_of(const struct task *task, const struct container *c, struct volume_mounts *ret,
               struct err *err)
{
	struct volume_mounts mounts = {0};
	int r = collect(task, c, &mounts, 0, err);

	if (r < 0) {
		free(mounts.items);
		return r;
	}
	leave_room_for_tmpfs(c, &mounts);
	*ret = mounts;
	return 0;
}

static int add_options(struct json_object *mount, const struct volume_mount *volume)
{
	struct json_object *options = json_object_new_array();
	const struct {
		const char *word;
		bool wanted;
	} words[] = {{"rbind", true},
	             {"rprivate", true},
	             {"ro", volume->readonly},
	             {"existing", volume->existing},
	             {"nocopy", volume->nocopy && volume->kind != VOLUME_KIND_HOST}};

	if (json_add(mount, "options", options) < 0)
		return -ENOMEM;
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (words[i].wanted &&
		    json_append(options, json_object_new_string(words[i].word)) < 0)
			return -ENOMEM;
	return 0;
}

static int add_mount(struct json_object *mounts, const struct volume_mount *volume)
{
	static const char *const scopes[] = {
		[VOLUME_KIND_HOST] = "",
		[VOLUME_KIND_TASK] = "task/",
		[VOLUME_KIND_SHARED] = "shared/",
		[VOLUME_KIND_ANONYMOUS] = "anonymous/",
		[VOLUME_KIND_MOUNTED] = "mounted/",
	};
	const char *name =
		volume->kind == VOLUME_KIND_ANONYMOUS ? volume->anonymous : volume->source;
	struct json_object *mount = json_object_new_object();
	_cleanup_free_ char *source = NULL;

	if (json_append(mounts, mount) < 0)
		return -ENOMEM;
	if (asprintf(&source, "%s%s", scopes[volume->kind], name) < 0) {
		source = NULL;
		return -ENOMEM;
	}
	if (json_add_string(mount, "destination", volume->destination) < 0 ||
	    json_add_string(mount, "type", volume->kind == VOLUME_KIND_HOST ? "bind" : "volume") <
	            0 ||
	    json_add_string(mount, "source", source) < 0 || add_options(mount, volume) < 0)
		return -ENOMEM;
	return json_is_zero(volume->labels)
	               ? 0
	               : json_add(mount, "labels", json_object_get(volume->labels));
}

int volumes_add_mounts(const struct task *task, const struct container *c,
                       struct json_object *mounts, struct err *err)
{
	struct volume_mounts volumes = {0};
	int r;

	r = volumes_of(task, c, &volumes, err);
	for (size_t i = 0; r == 0 && i < volumes.n; i++)
		if (add_mount(mounts, &volumes.items[i]) < 0)
			r = err_oom(err);
	free(volumes.items);
	return r;
}
