/* User namespaces in a specification: see the header. */
#include "agent/task/spec_userns.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/task/mount.h"
#include "agent/task/spec_parse.h"
#include "lib/json.h"
#include "lib/parse.h"

/* --- parsing --- */

static int extent_parse(struct json_object *obj, struct id_extent *ret, struct err *err)
{
	uint64_t inside = 0, outside = 0, count = 0;
	int r;

	if (!json_object_is_type(obj, json_type_object))
		return err_text(err, -EINVAL, "it must be an object");
	r = ONLY_MEMBERS(obj, "an id mapping", err, "containerID", "hostID", "size");
	if (r == 0)
		r = json_get_u64(obj, "containerID", UINT32_MAX, &inside, err);
	if (r == 0)
		r = json_get_u64(obj, "hostID", UINT32_MAX, &outside, err);
	if (r == 0)
		r = json_get_u64(obj, "size", UINT32_MAX, &count, err);
	if (r < 0)
		return r == -ENOENT ? -EINVAL : r;
	*ret = (struct id_extent){(uint32_t)inside, (uint32_t)outside, (uint32_t)count};
	return 0;
}

static int map_parse(struct json_object *oci, const char *name, struct id_map *map, struct err *err)
{
	struct json_object *array = NULL;
	struct id_extent extent;
	uint32_t host;
	int r = json_get_array(oci, name, &array, err);

	if (r < 0)
		return r == -ENOENT ? -EINVAL : r;
	for (size_t i = 0; i < json_object_array_length(array); i++) {
		r = extent_parse(json_object_array_get_idx(array, i), &extent, err);
		if (r == 0)
			r = id_map_add(map, extent, err);
		if (r < 0)
			return err_prefix(err, r, "%s[%zu]", name, i);
	}
	if (!id_map_to_host(map, 0, &host))
		return err_text(err, -EINVAL,
		                "%s has nothing for containerID 0, which a container starts as",
		                name);
	return 0;
}

static int maps_parse(struct json_object *oci, struct container_spec *spec, struct err *err)
{
	int r;

	if (!json_get(oci, "uidMappings") && !json_get(oci, "gidMappings"))
		return 0;
	spec->id_maps = calloc(1, sizeof(*spec->id_maps));
	if (!spec->id_maps)
		return err_oom(err);
	r = map_parse(oci, "uidMappings", &spec->id_maps->uids, err);
	return r < 0 ? r : map_parse(oci, "gidMappings", &spec->id_maps->gids, err);
}

int spec_parse_userns(struct json_object *container, struct json_object *oci,
                      struct container_spec *spec, struct err *err)
{
	const char *mode = "";
	int r = json_optional(json_get_string(container, "userns", &mode, err));

	if (r < 0)
		return err_prefix(err, r, "container");
	if (*mode && strcmp(mode, "host") != 0)
		return err_text(err, -EINVAL,
		                "container.userns is \"%.64s\"; it must be host, or absent", mode);
	spec->userns_host = *mode;
	return oci ? maps_parse(oci, spec, err) : 0;
}

/* --- ids of the host --- */

static int map_option(struct mount_option *option, const char *target, const struct id_map *map,
                      struct err *err)
{
	uint64_t inside;
	uint32_t host;
	char *text;

	if (parse_u64(option->value, UINT32_MAX, &inside) < 0 ||
	    !id_map_to_host(map, (uint32_t)inside, &host))
		return err_text(err, -EINVAL,
		                "mount at %.200s: %s=%.32s is no id of the container's user "
		                "namespace",
		                target, option->key, option->value);
	if (asprintf(&text, "%u", host) < 0)
		return err_oom(err);
	free((char *)option->value);
	option->value = text;
	return 0;
}

static int map_mount(struct mount_spec *mount, const struct id_maps *maps, struct err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < mount->n_options; i++) {
		if (strcmp(mount->options[i].key, "uid") == 0)
			r = map_option(&mount->options[i], mount->target, &maps->uids, err);
		else if (strcmp(mount->options[i].key, "gid") == 0)
			r = map_option(&mount->options[i], mount->target, &maps->gids, err);
	}
	return r;
}

static int map_device(struct device_spec *device, const struct id_maps *maps, struct err *err)
{
	uint32_t uid, gid;

	if (!id_map_to_host(&maps->uids, device->uid, &uid) ||
	    !id_map_to_host(&maps->gids, device->gid, &gid))
		return err_text(err, -EINVAL,
		                "device %.200s: its owner %u:%u is not in the container's user "
		                "namespace",
		                device->path, device->uid, device->gid);
	device->uid = uid;
	device->gid = gid;
	return 0;
}

int spec_map_ids(struct container_spec *spec, const struct userns *userns, struct err *err)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < spec->n_mounts; i++)
		r = map_mount(&spec->mounts[i], &userns->maps, err);
	for (size_t i = 0; r == 0 && i < spec->n_devices; i++)
		r = map_device(&spec->devices[i], &userns->maps, err);
	return r;
}
