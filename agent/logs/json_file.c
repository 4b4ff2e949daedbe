/* Files of the json-file driver. Names come from the spool's directories, one component each. */
#include "agent/logs/json_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/parse.h"

static int open_task_dir(const struct json_file *file, struct err *err)
{
	int fd;

	if (mkdirat(file->logs_fd, file->task_id, 0750) < 0 && errno != EEXIST)
		return err_set(err, -errno, "make the log directory of task %s", file->task_id);
	fd = openat(file->logs_fd, file->task_id, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? err_set(err, -errno, "open the log directory of task %s", file->task_id)
	              : fd;
}

static void numbered(const char *name, unsigned int i, char *buf, size_t n)
{
	if (i == 0)
		snprintf(buf, n, "%s", name);
	else
		snprintf(buf, n, "%s.%u", name, i);
}

static int rotate(int dir_fd, const char *name, unsigned int max_file, struct err *err)
{
	char from[NAME_MAX + 16], to[NAME_MAX + 16];

	if (max_file == 1 && unlinkat(dir_fd, name, 0) < 0)
		return err_set(err, -errno, "remove %s", name);
	for (unsigned int i = max_file - 1; i > 0; i--) {
		numbered(name, i - 1, from, sizeof(from));
		numbered(name, i, to, sizeof(to));
		if (renameat(dir_fd, from, dir_fd, to) < 0 && errno != ENOENT)
			return err_set(err, -errno, "rename %s to %s", from, to);
	}
	return 0;
}

static int open_file(int dir_fd, const char *name, uint64_t *ret_bytes, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	struct stat st;

	fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0640);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_set(err, -errno, "open %s", name);
	*ret_bytes = (uint64_t)st.st_size;
	return TAKE_FD(fd);
}

/* Cuts what is behind the last newline; *bytes is the size. */
static int cut_half_line(int fd, uint64_t *bytes)
{
	uint64_t end = *bytes;

	while (end > 0) {
		char buf[4096];
		size_t n = end < sizeof(buf) ? (size_t)end : sizeof(buf);
		ssize_t k = pread(fd, buf, n, (off_t)(end - n));
		const char *newline;

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return -errno;
		newline = memrchr(buf, '\n', (size_t)k);
		if (newline) {
			end -= n - (size_t)(newline + 1 - buf);
			break;
		}
		end -= n;
	}
	if (end < *bytes && ftruncate(fd, (off_t)end) < 0)
		return -errno;
	*bytes = end;
	return 0;
}

int json_file_open(const struct json_file *file, const struct log_config *config, bool undo,
                   uint64_t undo_bytes, int *ret_fd, uint64_t *ret_bytes, struct err *err)
{
	_cleanup_close_ int dir_fd = -EBADF, fd = -EBADF;
	char name[NAME_MAX + 1];
	uint64_t bytes = 0;
	int r;

	if (snprintf(name, sizeof(name), "%s-json.log", file->container) >= NAME_MAX - 4)
		return err_text(err, -ENAMETOOLONG, "container name %s is too long",
		                file->container);
	dir_fd = open_task_dir(file, err);
	if (dir_fd < 0)
		return dir_fd;
	fd = open_file(dir_fd, name, &bytes, err);
	if (fd < 0)
		return fd;
	if (undo && bytes > undo_bytes) {
		if (ftruncate(fd, (off_t)undo_bytes) < 0)
			return err_set(err, -errno, "cut %s", name);
		bytes = undo_bytes;
	}
	if (file->check_end) {
		r = cut_half_line(fd, &bytes);
		if (r < 0)
			return err_set(err, r, "cut half a line at the end of %s", name);
	}
	if (!undo && bytes >= config->max_size_bytes) {
		/* The spool may hold its lines no longer, and nobody else will sync it. */
		if (fdatasync(fd) < 0)
			return err_set(err, -errno, "sync %s", name);
		fd = fd_close(fd);
		r = rotate(dir_fd, name, config->max_file, err);
		if (r < 0)
			return r;
		fd = open_file(dir_fd, name, &bytes, err);
		if (fd < 0)
			return fd;
	}
	*ret_fd = TAKE_FD(fd);
	*ret_bytes = bytes;
	return 0;
}

struct kept {
	char *name;
	uint64_t bytes;
	time_t newest;
};

static int measure(int logs_fd, const char *name, struct kept *ret)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	struct dirent *entry;
	struct stat st;
	int r;

	r = dir_open(logs_fd, name, &dir);
	if (r < 0)
		return r;
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.' ||
		    fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			continue;
		ret->bytes += (uint64_t)st.st_size;
		if (st.st_mtime > ret->newest)
			ret->newest = st.st_mtime;
	}
	return 0;
}

static int newest_first(const void *a, const void *b)
{
	const struct kept *x = a, *y = b;

	if (x->newest != y->newest)
		return x->newest < y->newest ? 1 : -1;
	return strcmp(x->name, y->name);
}

struct kept_list {
	struct kept *items;
	size_t n;
};

static void kept_list_done(struct kept_list *list)
{
	for (size_t i = 0; i < list->n; i++)
		free(list->items[i].name);
	free(list->items);
}

static int list_ended(int logs_fd, json_file_is_live_fn is_live, void *userdata,
                      struct kept_list *list)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	struct dirent *entry;
	int r;

	r = dir_open(logs_fd, ".", &dir);
	if (r < 0)
		return r;
	while ((errno = 0, entry = readdir(dir))) {
		struct kept kept = {0}, *items;

		if (!name_is_component(entry->d_name, NAME_MAX) ||
		    is_live(entry->d_name, userdata) || measure(logs_fd, entry->d_name, &kept) < 0)
			continue;
		items = realloc(list->items, (list->n + 1) * sizeof(*items));
		if (!items)
			return -ENOMEM;
		list->items = items;
		kept.name = strdup(entry->d_name);
		if (!kept.name)
			return -ENOMEM;
		list->items[list->n++] = kept;
	}
	return -errno;
}

int json_file_prune(int logs_fd, uint64_t max_tasks, uint64_t max_bytes,
                    json_file_is_live_fn is_live, void *userdata)
{
	_cleanup_(kept_list_done) struct kept_list list = {0};
	uint64_t bytes = 0;
	int r, removed = 0;

	r = list_ended(logs_fd, is_live, userdata, &list);
	if (r < 0 || list.n == 0)
		return r;
	qsort(list.items, list.n, sizeof(*list.items), newest_first);
	for (size_t i = 0; i < list.n; i++) {
		bytes += list.items[i].bytes;
		if (i < max_tasks && bytes <= max_bytes)
			continue;
		r = dir_remove_all(logs_fd, list.items[i].name);
		if (r < 0)
			return r;
		removed++;
	}
	return removed;
}
