/*
 * Which ids of the host the ids of a user namespace are (user_namespaces(7), "User and group ID
 * mappings"), and where root's configuration says so:
 *
 *   ECS_USERNS_REMAP=true, or default    the lines of "ecs-remap" in /etc/subuid and /etc/subgid
 *   ECS_USERNS_REMAP=NAME                the lines of NAME there, as dockerd's --userns-remap
 *   ECS_USERNS_REMAP=FIRST:COUNT         ids FIRST to FIRST+COUNT-1 of the host, users and groups
 *
 * Several lines of one name follow upon each other, as the container counts: 0 is the first id of
 * the first line. There must be 65536 ids, for images use up to 65534 (nobody), and none of the
 * host below 65536, where its own users are.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/err.h"

#define ID_MAP_EXTENTS_MAX 32
#define ID_MAP_TEXT_MAX    (ID_MAP_EXTENTS_MAX * 33 + 1)
#define ID_MAP_COUNT_MIN   65536
#define ID_MAP_HOST_MIN    65536
#define ID_MAP_NAME        "ecs-remap"

struct id_extent {
	uint32_t inside, outside, count;
};

struct id_map {
	struct id_extent extents[ID_MAP_EXTENTS_MAX];
	size_t n;
};

struct id_maps {
	struct id_map uids, gids;
};

/* -EINVAL, with err: none at all, beyond 4294967294, or in the way of an earlier one; -E2BIG. */
int id_map_add(struct id_map *map, struct id_extent extent, struct err *err);

/* The host's id; false: the map has none. */
bool id_map_to_host(const struct id_map *map, uint32_t inside, uint32_t *ret);

/* What is written to /proc/<pid>/uid_map. */
void id_map_text(const struct id_map *map, char text[ID_MAP_TEXT_MAX]);

/*
 * The maps of a setting that is not off. subuid, subgid: paths of the files. -EINVAL names the
 * setting, what is wrong with it or with the file, and what would be right; -errno of reading.
 */
int id_maps_from_setting(const char *setting, const char *subuid, const char *subgid,
                         struct id_maps *ret, struct err *err);
