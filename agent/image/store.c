/*
 * All paths are one hex name below a directory descriptor, so nothing a registry says can become a
 * path. The order of writes is the point of this file; store.h tells it.
 */
#include "agent/image/store.h"

#include "agent/image/reference.h"
#include "lib/fd.h"
#include "lib/json.h"
#include "lib/log.h"
#include "lib/parse.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define LOCK_SUFFIX ".lock"
#define LOCK_NAME_N (DIGEST_HEX_LEN + sizeof(LOCK_SUFFIX))
#define RECORD_N    (DIGEST_HEX_LEN + sizeof(".json"))
#define IMAGES_MAX  100000

struct store {
	int dir_fd;
	int layers_fd;
	int index_fd;
	int staging_fd;
	int hold_fd; /* "lock", held shared; -EBADF */
};

static int open_subdirectory(int dir_fd, const char *name, int *ret_fd, struct err *err)
{
	bool exists = mkdirat(dir_fd, name, 0700) < 0;

	if (exists && errno != EEXIST)
		return err_set(err, -errno, "make %s of the image store", name);
	/* What is synced into it later must not hang below a name that is not on disk. */
	if (!exists && fsync(dir_fd) < 0)
		return err_set(err, -errno, "sync the image store");
	*ret_fd = openat(dir_fd, name, O_DIRECTORY | O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (*ret_fd < 0)
		return err_set(err, -errno, "open %s of the image store", name);
	return 0;
}

int store_open(int dir_fd, struct store **ret, struct err *err)
{
	_cleanup_(store_freep) struct store *store = calloc(1, sizeof(*store));
	int r;

	if (!store) {
		fd_close(dir_fd);
		return err_oom(err);
	}
	*store = (struct store){dir_fd, -EBADF, -EBADF, -EBADF, -EBADF};

	r = open_subdirectory(dir_fd, "layers", &store->layers_fd, err);
	if (r == 0)
		r = open_subdirectory(dir_fd, "index", &store->index_fd, err);
	if (r == 0)
		r = open_subdirectory(dir_fd, "staging", &store->staging_fd, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(store);
	return 0;
}

struct store *store_free(struct store *store)
{
	if (!store)
		return NULL;

	fd_close(store->hold_fd);
	fd_close(store->staging_fd);
	fd_close(store->index_fd);
	fd_close(store->layers_fd);
	fd_close(store->dir_fd);
	free(store);
	return NULL;
}

int store_dir_fd(const struct store *store)
{
	return store->dir_fd;
}

static int take_store_lock(struct store *store, int operation, int *ret_fd, struct err *err)
{
	_cleanup_close_ int fd =
		openat(store->dir_fd, "lock", O_RDONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (fd < 0)
		return err_set(err, -errno, "open lock of the image store");
	while (flock(fd, operation) < 0) {
		if (errno == EWOULDBLOCK)
			return -EAGAIN;
		if (errno != EINTR)
			return err_set(err, -errno, "lock the image store");
	}
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int store_hold(struct store *store, struct err *err)
{
	if (store->hold_fd >= 0)
		return 0;
	return take_store_lock(store, LOCK_SH, &store->hold_fd, err);
}

/* A twentieth of the file system, but no more than 256 MiB. */
uint64_t store_reserve_bytes(const struct store *store)
{
	const uint64_t most = 256ull << 20;
	struct statfs fs;
	uint64_t part;

	if (fstatfs(store->dir_fd, &fs) < 0)
		return most;
	part = (uint64_t)fs.f_blocks * (uint64_t)fs.f_bsize / 20;
	return part < most ? part : most;
}

bool store_has_layer(struct store *store, const struct digest *diff_id)
{
	struct stat st;

	return fstatat(store->layers_fd, diff_id->hex, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       S_ISDIR(st.st_mode);
}

static void lock_name(const struct digest *diff_id, char buf[static LOCK_NAME_N])
{
	snprintf(buf, LOCK_NAME_N, "%s" LOCK_SUFFIX, diff_id->hex);
}

/* The holder of a lock removes its file at the end, so what was locked may be no longer there. */
static int lock_layer(struct store *store, const struct digest *diff_id, int operation, int *ret_fd)
{
	char name[LOCK_NAME_N];

	lock_name(diff_id, name);
	for (;;) {
		_cleanup_close_ int fd = openat(store->staging_fd, name,
		                                O_RDONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
		struct stat st;

		if (fd < 0)
			return -errno;
		if (flock(fd, operation) < 0) {
			if (errno == EINTR)
				continue;
			return errno == EWOULDBLOCK ? -EAGAIN : -errno;
		}
		if (fstat(fd, &st) < 0)
			return -errno;
		if (st.st_nlink == 0)
			continue;
		*ret_fd = TAKE_FD(fd);
		return 0;
	}
}

/*
 * What is in staging/ may have come out of layers/ a moment ago, by a process that was killed
 * since: that move has to be on disk before the first file is gone, or a power loss brings half a
 * layer back.
 */
static int remove_staged(struct store *store, const char *name)
{
	struct stat st;

	if (fstatat(store->staging_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (fsync(store->layers_fd) < 0)
		return -errno;
	return dir_remove_all(store->staging_fd, name);
}

void store_layer_discard(struct store *store, const struct digest *diff_id)
{
	char name[LOCK_NAME_N];
	int r;

	r = remove_staged(store, diff_id->hex);
	if (r < 0)
		log_warning(NULL, r, "cannot remove staging directory of layer %s", diff_id->hex);
	lock_name(diff_id, name);
	(void)unlinkat(store->staging_fd, name, 0); /* an empty file does no harm */
}

int store_layer_begin(struct store *store, const struct digest *diff_id, int *ret_lock_fd,
                      int *ret_root_fd, struct err *err)
{
	_cleanup_close_ int lock_fd = -EBADF;
	int fd, r;

	if (store_has_layer(store, diff_id))
		return 1;
	r = lock_layer(store, diff_id, LOCK_EX, &lock_fd);
	if (r < 0)
		return err_set(err, r, "lock layer %s", diff_id->hex);
	if (store_has_layer(store, diff_id)) {
		store_layer_discard(store, diff_id);
		return 1;
	}

	r = remove_staged(store, diff_id->hex);
	if (r < 0)
		return err_set(err, r, "remove what was left of layer %s", diff_id->hex);
	if (mkdirat(store->staging_fd, diff_id->hex, 0755) < 0)
		return err_set(err, -errno, "make staging directory of layer %s", diff_id->hex);
	fd = openat(store->staging_fd, diff_id->hex,
	            O_DIRECTORY | O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return err_set(err, -errno, "open staging directory of layer %s", diff_id->hex);
	*ret_lock_fd = TAKE_FD(lock_fd);
	*ret_root_fd = fd;
	return 0;
}

int store_layer_commit(struct store *store, const struct digest *diff_id, int root_fd,
                       struct err *err)
{
	if (syncfs(root_fd) < 0)
		return err_set(err, -errno, "sync layer %s", diff_id->hex);
	if (renameat2(store->staging_fd, diff_id->hex, store->layers_fd, diff_id->hex,
	              RENAME_NOREPLACE) < 0 &&
	    errno != EEXIST)
		return err_set(err, -errno, "commit layer %s", diff_id->hex);
	if (fsync(store->layers_fd) < 0)
		return err_set(err, -errno, "sync layers of the image store");
	return 0;
}

/* Calls fn for each name in a directory of the store. */
typedef int (*name_fn)(struct store *store, const char *name, void *userdata);

static int for_each_name(struct store *store, int dir_fd, name_fn fn, void *userdata)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	struct dirent *entry;
	int r;

	r = dir_open(dir_fd, ".", &dir);
	if (r < 0)
		return r;
	while ((errno = 0, entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		r = fn(store, entry->d_name, userdata);
		if (r < 0)
			return r;
	}
	return -errno;
}

static int clean_name(struct store *store, const char *name, void *userdata)
{
	struct digest diff_id;
	_cleanup_close_ int lock_fd = -EBADF;

	(void)userdata;
	/* A lock file may be left alone: its name without the suffix is the layer's, too. */
	snprintf(diff_id.hex, sizeof(diff_id.hex), "%.*s", DIGEST_HEX_LEN, name);
	if (!name_is_hex(diff_id.hex, DIGEST_HEX_LEN))
		return 0;
	if (lock_layer(store, &diff_id, LOCK_EX | LOCK_NB, &lock_fd) == 0)
		store_layer_discard(store, &diff_id);
	return 0;
}

/* "<hex>.json.<16 hex digits>.tmp" of file_replace(), whose writer is gone: we hold the lock. */
static int clean_record(struct store *store, const char *name, void *userdata)
{
	size_t len = strlen(name);

	(void)userdata;
	if (len > RECORD_N && strcmp(name + len - strlen(".tmp"), ".tmp") == 0 &&
	    unlinkat(store->index_fd, name, 0) < 0)
		return -errno;
	return 0;
}

void store_clean(struct store *store)
{
	int r = for_each_name(store, store->staging_fd, clean_name, NULL);

	if (r < 0)
		log_warning(NULL, r, "cannot clean the staging directory of the image store");
	if (flock(store->index_fd, LOCK_EX | LOCK_NB) < 0)
		return; /* somebody writes a record now; the next start cleans */
	r = for_each_name(store, store->index_fd, clean_record, NULL);
	(void)flock(store->index_fd, LOCK_UN);
	if (r < 0)
		log_warning(NULL, r, "cannot clean the index of the image store");
}

static void record_name(const char *reference, char buf[static RECORD_N])
{
	struct digest key = {};

	(void)digest_of(reference, strlen(reference), &key);
	snprintf(buf, RECORD_N, "%s.json", key.hex);
}

static int check_layers(struct store *store, struct json_object *record, struct err *err)
{
	struct json_object *layers;
	int r;

	r = json_get_array(record, "layers", &layers, err);
	if (r < 0)
		return -EINVAL;
	for (size_t i = 0; i < json_object_array_length(layers); i++) {
		struct json_object *item = json_object_array_get_idx(layers, i);
		struct digest diff_id;

		if (!json_object_is_type(item, json_type_string) ||
		    !name_is_hex(json_object_get_string(item), DIGEST_HEX_LEN))
			return err_text(err, -EINVAL, "layers[%zu] is no digest", i);
		snprintf(diff_id.hex, sizeof(diff_id.hex), "%s", json_object_get_string(item));
		if (!store_has_layer(store, &diff_id))
			return err_text(err, -ENOENT, "layer %s is not in the store", diff_id.hex);
	}
	return 0;
}

static int check_record(struct store *store, struct json_object *record, const char **ret_reference,
                        struct err *err)
{
	const char *reference, *digest, *image_id, *pulled_at;
	char normal[REFERENCE_TEXT_N];
	struct json_object *config;
	struct reference ref;
	struct digest parsed;

	if (json_get_string(record, "reference", &reference, err) < 0 ||
	    json_get_string(record, "digest", &digest, err) < 0 ||
	    json_get_string(record, "imageId", &image_id, err) < 0 ||
	    json_get_string(record, "pulledAt", &pulled_at, err) < 0 ||
	    json_get_object(record, "config", &config, err) < 0 ||
	    reference_parse(reference, &ref, err) < 0 || digest_parse(digest, &parsed, err) < 0 ||
	    digest_parse(image_id, &parsed, err) < 0)
		return -EINVAL;

	reference_to_string(&ref, normal);
	if (strcmp(normal, reference) != 0)
		return err_text(err, -EINVAL, "reference %.200s is not in its normal form",
		                reference);
	*ret_reference = reference;
	return check_layers(store, record, err);
}

int store_image_put(struct store *store, struct json_object *record, struct err *err)
{
	const char *reference, *text;
	char name[RECORD_N];
	size_t len;
	int r;

	r = check_record(store, record, &reference, err);
	if (r < 0)
		return r;

	text = json_to_text(record, &len);
	if (!text)
		return err_oom(err);
	if (len > STORE_RECORD_BYTES_MAX)
		return err_text(err, -EINVAL, "image record is over the limit of %d bytes",
		                STORE_RECORD_BYTES_MAX);
	record_name(reference, name);
	/* Whoever showed a layer that we found there may have been killed before its own sync. */
	if (fsync(store->layers_fd) < 0)
		return err_set(err, -errno, "sync layers of the image store");
	/* So that store_clean() takes none of our temporary files for one of a dead process. */
	if (flock(store->index_fd, LOCK_EX) < 0)
		return err_set(err, -errno, "lock index of the image store");
	r = file_replace(store->index_fd, name, text, len, 0600);
	(void)flock(store->index_fd, LOCK_UN);
	return r < 0 ? err_set(err, r, "write image record") : 0;
}

static int read_record(struct store *store, const char *name, struct json_object **ret,
                       struct err *err)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	int r;

	r = file_read(store->index_fd, name, STORE_RECORD_BYTES_MAX, &text, &len);
	if (r == -ENOENT)
		return r;
	if (r < 0)
		return err_set(err, r, "read image record %s", name);
	r = json_parse_object(text, len, STORE_RECORD_BYTES_MAX, ret, err);
	return r < 0 ? err_prefix(err, -EUCLEAN, "image record %s", name) : 0;
}

int store_image_get(struct store *store, const char *reference, struct json_object **ret,
                    struct err *err)
{
	_cleanup_json_ struct json_object *record = NULL;
	const char *own;
	char name[RECORD_N];
	int r;

	record_name(reference, name);
	r = read_record(store, name, &record, err);
	if (r < 0)
		return r;
	r = check_record(store, record, &own, err);
	if (r == -ENOENT)
		return r;
	if (r < 0)
		return err_prefix(err, -EUCLEAN, "image record %s", name);
	if (strcmp(own, reference) != 0)
		return err_text(err, -EUCLEAN, "image record %s is of another image", name);
	*ret = TAKE_PTR(record);
	return 0;
}

int store_image_remove(struct store *store, const char *reference, struct err *err)
{
	char name[RECORD_N];

	record_name(reference, name);
	if (unlinkat(store->index_fd, name, 0) < 0)
		return errno == ENOENT ? -ENOENT : err_set(err, -errno, "remove image record");
	if (fsync(store->index_fd) < 0)
		return err_set(err, -errno, "sync index of the image store");
	return 0;
}

static bool is_record_name(const char *name)
{
	char hex[DIGEST_HEX_LEN + 1];

	if (strlen(name) != RECORD_N - 1 || strcmp(name + DIGEST_HEX_LEN, ".json") != 0)
		return false;
	snprintf(hex, sizeof(hex), "%.*s", DIGEST_HEX_LEN, name);
	return name_is_hex(hex, DIGEST_HEX_LEN);
}

static int list_name(struct store *store, const char *name, void *userdata)
{
	_cleanup_json_ struct json_object *record = NULL;
	struct json_object *list = userdata;
	struct err err = {};
	int r;

	if (!is_record_name(name))
		return 0;
	r = read_record(store, name, &record, &err);
	if (r < 0) {
		log_warning(NULL, 0, "%s", err.text);
		return 0;
	}
	if (json_object_array_length(list) >= IMAGES_MAX)
		return 0;
	json_object_object_del(record, "config");
	return json_append(list, TAKE_PTR(record));
}

int store_image_list(struct store *store, struct json_object **ret, struct err *err)
{
	_cleanup_json_ struct json_object *list = json_object_new_array();
	int r;

	if (!list)
		return err_oom(err);
	r = for_each_name(store, store->index_fd, list_name, list);
	if (r < 0)
		return err_set(err, r, "list the image store");
	*ret = TAKE_PTR(list);
	return 0;
}

struct sweep {
	struct json_object *used; /* object with a member for each diffID in use */
	size_t removed;
};

/* Notes the layers of a record. -EUCLEAN when it cannot be understood. */
static int collect_layers(struct sweep *sweep, struct json_object *record, struct err *err)
{
	struct json_object *layers;
	int r = json_get_array(record, "layers", &layers, err);

	if (r < 0)
		return -EUCLEAN;
	for (size_t i = 0; i < json_object_array_length(layers); i++) {
		struct json_object *item = json_object_array_get_idx(layers, i);

		if (!json_object_is_type(item, json_type_string))
			return err_text(err, -EUCLEAN, "layers[%zu] is no digest", i);
		r = json_add_bool(sweep->used, json_object_get_string(item), true);
		if (r < 0)
			return err_oom(err);
	}
	return 0;
}

static int collect_used(struct store *store, const char *name, void *userdata)
{
	_cleanup_json_ struct json_object *record = NULL;
	struct sweep *sweep = userdata;
	struct err err = {};
	int r;

	if (!is_record_name(name))
		return 0;
	r = read_record(store, name, &record, &err);
	if (r == 0)
		r = collect_layers(sweep, record, &err);
	/* No pull will ever use it again, and whatever was meant by it can be pulled again. */
	if (r == -EUCLEAN || r == -EFBIG) {
		log_warning(NULL, 0, "removing damaged image record %s: %s", name, err.text);
		return unlinkat(store->index_fd, name, 0) < 0 && errno != ENOENT ? -errno : 0;
	}
	/* One that cannot be read now hides what it needs: then nothing is removed. */
	if (r < 0 && r != -ENOENT)
		log_warning(NULL, 0, "%s", err.text);
	return r == -ENOENT ? 0 : r;
}

/* Out of layers/ as a whole: half a layer must never be found there. */
static int sweep_layer(struct store *store, const char *name, void *userdata)
{
	struct sweep *sweep = userdata;
	_cleanup_close_ int lock_fd = -EBADF, mount_fd = -EBADF;
	struct digest diff_id;

	if (!name_is_hex(name, DIGEST_HEX_LEN) ||
	    json_object_object_get_ex(sweep->used, name, NULL))
		return 0;
	memcpy(diff_id.hex, name, DIGEST_HEX_LEN + 1);
	mount_fd = openat(store->layers_fd, name, O_DIRECTORY | O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (mount_fd < 0 || flock(mount_fd, LOCK_EX | LOCK_NB) < 0)
		return 0;
	if (lock_layer(store, &diff_id, LOCK_EX | LOCK_NB, &lock_fd) < 0)
		return 0;
	(void)remove_staged(store, name); /* if that fails, so does the next line */
	if (renameat2(store->layers_fd, name, store->staging_fd, name, RENAME_NOREPLACE) == 0)
		sweep->removed++;
	return 0;
}

int store_sweep(struct store *store, size_t *ret_removed, struct err *err)
{
	_cleanup_json_ struct json_object *used = json_object_new_object();
	_cleanup_close_ int fd = -EBADF;
	struct sweep sweep = {.used = used};
	int r;

	if (!used)
		return err_oom(err);
	r = take_store_lock(store, LOCK_EX | LOCK_NB, &fd, err);
	if (r < 0)
		return r;
	r = for_each_name(store, store->index_fd, collect_used, &sweep);
	/* Removed images first: one that comes back would lack its layers. */
	if (r == 0 && fsync(store->index_fd) < 0)
		r = -errno;
	if (r == 0)
		r = for_each_name(store, store->layers_fd, sweep_layer, &sweep);
	store_clean(store);
	if (r < 0)
		return err_set(err, r, "remove layers that no image has");
	*ret_removed = sweep.removed;
	return 0;
}
