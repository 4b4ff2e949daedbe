/* Maps of ids as data: what the kernel would refuse with EINVAL alone is refused here in words. */
#include "agent/task/idmap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "lib/cleanup.h"
#include "lib/fd.h"
#include "lib/parse.h"

#define FILE_MAX (1024 * 1024)
#define ID_LAST  (UINT32_MAX - 1) /* the one after it is none */

static bool overlap(uint32_t a, uint32_t b, const struct id_extent *x, const struct id_extent *y)
{
	return (uint64_t)a < (uint64_t)b + y->count && (uint64_t)b < (uint64_t)a + x->count;
}

int id_map_add(struct id_map *map, struct id_extent extent, struct err *err)
{
	if (map->n == ID_MAP_EXTENTS_MAX)
		return err_text(err, -E2BIG, "more than %d ranges of ids", ID_MAP_EXTENTS_MAX);
	if (extent.count == 0 || (uint64_t)extent.inside + extent.count - 1 > ID_LAST ||
	    (uint64_t)extent.outside + extent.count - 1 > ID_LAST)
		return err_text(err, -EINVAL,
		                "%u ids from %u (%u of the host) on; there must be one at least, "
		                "and none above %u",
		                extent.count, extent.inside, extent.outside, ID_LAST);
	for (size_t i = 0; i < map->n; i++) {
		const struct id_extent *other = &map->extents[i];

		if (overlap(extent.inside, other->inside, &extent, other) ||
		    overlap(extent.outside, other->outside, &extent, other))
			return err_text(
				err, -EINVAL,
				"%u ids from %u (%u of the host) on are also among the %u from %u "
				"(%u) on",
				extent.count, extent.inside, extent.outside, other->count,
				other->inside, other->outside);
	}
	map->extents[map->n++] = extent;
	return 0;
}

bool id_map_to_host(const struct id_map *map, uint32_t inside, uint32_t *ret)
{
	for (size_t i = 0; i < map->n; i++) {
		const struct id_extent *extent = &map->extents[i];

		if (inside < extent->inside || inside - extent->inside >= extent->count)
			continue;
		*ret = extent->outside + (inside - extent->inside);
		return true;
	}
	return false;
}

void id_map_text(const struct id_map *map, char text[ID_MAP_TEXT_MAX])
{
	size_t used = 0;

	text[0] = '\0';
	for (size_t i = 0; i < map->n; i++)
		used += (size_t)snprintf(text + used, ID_MAP_TEXT_MAX - used, "%u %u %u\n",
		                         map->extents[i].inside, map->extents[i].outside,
		                         map->extents[i].count);
}

/* The next ids of the container are these of the host. */
static int append(struct id_map *map, uint64_t first, uint64_t count, struct err *err)
{
	const struct id_extent *last = map->n > 0 ? &map->extents[map->n - 1] : NULL;
	struct id_extent extent = {
		.inside = last ? last->inside + last->count : 0,
		.outside = (uint32_t)first,
		.count = (uint32_t)count,
	};

	if (first < ID_MAP_HOST_MIN)
		return err_text(err, -EINVAL,
		                "the range begins at id %llu of the host; it must begin at %d or "
		                "above, where no users of the host are",
		                (unsigned long long)first, ID_MAP_HOST_MIN);
	return id_map_add(map, extent, err);
}

static int check_count(const struct id_map *map, struct err *err)
{
	const struct id_extent *last = map->n > 0 ? &map->extents[map->n - 1] : NULL;
	uint32_t n = last ? last->inside + last->count : 0;

	if (n >= ID_MAP_COUNT_MIN)
		return 0;
	return err_text(err, -EINVAL, "%u ids; there must be %d at least", n, ID_MAP_COUNT_MIN);
}

/* "FIRST:COUNT"; the text is cut at the colon. */
static int append_text(struct id_map *map, char *text, struct err *err)
{
	char *colon = strchr(text, ':');
	uint64_t first, count;

	if (!colon)
		return err_text(err, -EINVAL, "\"%.64s\" is no FIRST:COUNT", text);
	*colon = '\0';
	if (parse_u64(text, UINT32_MAX, &first) < 0 || parse_u64(colon + 1, UINT32_MAX, &count) < 0)
		return err_text(err, -EINVAL,
		                "\"%.32s:%.32s\" must be two numbers of up to 4294967295", text,
		                colon + 1);
	return append(map, first, count, err);
}

/* All lines "NAME:FIRST:COUNT" of that name. */
static int append_lines(struct id_map *map, char *text, const char *name, struct err *err)
{
	size_t len = strlen(name);
	char *line;
	int r = 0;

	for (unsigned int number = 1; r == 0 && (line = strsep(&text, "\n")); number++)
		if (strncmp(line, name, len) == 0 && line[len] == ':') {
			r = append_text(map, line + len + 1, err);
			if (r < 0)
				err_prefix(err, r, "line %u", number);
		}
	return r;
}

static int read_file(struct id_map *map, const char *path, const char *name, struct err *err)
{
	_cleanup_free_ char *text = NULL;
	int r = file_read(AT_FDCWD, path, FILE_MAX, &text, NULL);

	if (r < 0 && r != -ENOENT)
		return err_set(err, r, "read %s", path);
	r = text ? append_lines(map, text, name, err) : 0;
	if (r == 0 && map->n == 0)
		return err_text(err, -EINVAL,
		                "%s has no range for \"%.64s\"; there must be a line such as "
		                "%.64s:100000:65536",
		                path, name, name);
	if (r == 0)
		r = check_count(map, err);
	return r < 0 ? err_prefix(err, r, "%s", path) : 0;
}

static int from_range(const char *setting, struct id_maps *maps, struct err *err)
{
	char text[64];
	int r;

	snprintf(text, sizeof(text), "%s", setting);
	r = append_text(&maps->uids, text, err);
	if (r == 0)
		r = check_count(&maps->uids, err);
	maps->gids = maps->uids;
	return r;
}

int id_maps_from_setting(const char *setting, const char *subuid, const char *subgid,
                         struct id_maps *ret, struct err *err)
{
	struct id_maps maps = {};
	const char *name = setting;
	bool on;
	int r;

	if (strcmp(setting, "default") == 0 || (parse_bool(setting, &on) == 0 && on))
		name = ID_MAP_NAME;
	if (strchr(setting, ':')) {
		r = from_range(setting, &maps, err);
	} else if (strpbrk(name, " \t\"'") || !*name || strlen(name) > 64) {
		r = err_text(err, -EINVAL,
		             "it must be true, false, default, FIRST:COUNT or a name of %s",
		             subuid);
	} else {
		r = read_file(&maps.uids, subuid, name, err);
		if (r == 0)
			r = read_file(&maps.gids, subgid, name, err);
	}
	if (r < 0)
		return err_prefix(err, r, "ECS_USERNS_REMAP is \"%.64s\"", setting);
	*ret = maps;
	return 0;
}
