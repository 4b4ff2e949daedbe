/*
 * The image store, one directory (<state>/images):
 *
 *   layers/<diffID>/    a finished layer, never changed again
 *   index/<hex>.json    what a reference names: {"reference","digest","imageId","layers","config",
 *                       "pulledAt"}; hex is the SHA-256 of the normal form of the reference
 *   staging/<diffID>/   a layer while it is unpacked
 *   staging/<diffID>.lock   held (flock(2)) by who works on that layer
 *   lock                held shared by every pull, exclusively while layers are removed
 *
 * A layer appears in layers/ by rename(2) after its data are on disk, and an image in index/ after
 * its layers are there for good; a layer leaves layers/ by a rename(2) that is on disk before its
 * first file is removed. So a crash or a power loss at any moment leaves only staging/ and, in
 * index/, names that end in ".tmp": the next start clears both. That a rename(2) is on disk as a
 * whole or not at all is what journaling file systems and Btrfs give.
 *
 * Who has a layer mounted holds flock(2) LOCK_SH on the layer's directory: then it is not removed.
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>

#include "agent/image/digest.h"
#include "lib/cleanup.h"
#include "lib/err.h"

#define STORE_RECORD_BYTES_MAX (4 * 1024 * 1024)

struct store;

/* Open the store in dir_fd (taken), making its directories where they are missing. */
int store_open(int dir_fd, struct store **ret, struct err *err);
struct store *store_free(struct store *store);
DEFINE_CLEANUP(struct store *, store_free)

int store_dir_fd(const struct store *store);

/* Remove what killed processes left in staging/ and index/. What another process works on stays. */
void store_clean(struct store *store);

/* Hold "lock" shared until the store is freed: no layer is removed meanwhile. */
int store_hold(struct store *store, struct err *err);

/* Bytes of the file system that unpacking must leave free. */
uint64_t store_reserve_bytes(const struct store *store);

bool store_has_layer(struct store *store, const struct digest *diff_id);

/*
 * Begin a layer: waits while another process works on the same one.
 * Returns 1 when that one has finished it (or it was there), 0 with *ret_lock_fd (hold it until
 * the layer is committed or discarded) and *ret_root_fd (its empty directory), or -errno.
 */
int store_layer_begin(struct store *store, const struct digest *diff_id, int *ret_lock_fd,
                      int *ret_root_fd, struct err *err);
/* Sync the file system, then show the layer in layers/. */
int store_layer_commit(struct store *store, const struct digest *diff_id, int root_fd,
                       struct err *err);
/* Remove the staging directory if it is there still, and the lock file. lock_fd is borrowed. */
void store_layer_discard(struct store *store, const struct digest *diff_id);

/* Check a record's form and that its layers are there, then write it. -EINVAL, -ENOENT, -errno. */
int store_image_put(struct store *store, struct json_object *record, struct err *err);
/* reference in its normal form. *ret is owned. -ENOENT without err when there is none. */
int store_image_get(struct store *store, const char *reference, struct json_object **ret,
                    struct err *err);
/* -ENOENT without err when there is none. Layers stay; see store_sweep(). */
int store_image_remove(struct store *store, const char *reference, struct err *err);
/* An array of all records without their "config". Unreadable ones are left out and logged. */
int store_image_list(struct store *store, struct json_object **ret, struct err *err);

/*
 * Remove layers that no image has, nobody has mounted, and no pull may be about to use; and records
 * that cannot be understood. -EAGAIN (without err) while a pull runs: the next sweep will do.
 */
int store_sweep(struct store *store, size_t *ret_removed, struct err *err);
