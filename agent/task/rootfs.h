/*
 * The root file system of a container: an overlay of the image's layers, and finding places in it.
 *
 *   <state>/tasks/<task id>/<container>/   root 0700, on the disk
 *       upper/ work/                       what the container writes
 *   <state>/tasks/.base/                   the lowest layer of every container: what is mounted on,
 *                                          and the link /etc/mtab, for images that do not bring it
 *   <state>/tasks/.private/<container>/    a small tmpfs of the supervisor's own mount namespace
 *       l/0 l/1 ... u w                    links to layers, upper and work: names short enough for
 *                                          one mount of a hundred layers
 *       root/                              where the overlay is mounted
 *       hosts hostname resolv.conf         mounted in /etc of the container
 *   <state>/tasks/.private/.layers .base   <state>/images/layers and .base once more, id-mapped,
 *                                          for containers in a user namespace (userns.h)
 *
 * Only what must be on the disk is: making an inode there costs up to a millisecond where many were
 * deleted shortly before (ext4 keeps from using them again), as on a busy node.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "agent/task/userns.h"
#include "lib/err.h"

#define ROOTFS_LAYERS_MAX 127 /* as many as Docker takes */

/* Make <tasks_dir>/.base, and mount the tmpfs at <tasks_dir>/.private of this mount namespace. */
int rootfs_prepare(const char *tasks_dir, struct err *err);

/* Mount .layers and .base in .private, once, after rootfs_prepare(). */
int rootfs_prepare_mapped(const char *tasks_dir, const char *layers_dir,
                          const struct userns *userns, struct err *err);

struct rootfs {
	const char *mount_label;   /* SELinux: of all files in the overlay; NULL: none */
	const char *directory;     /* not NULL: bound in place of an overlay of layers */
	const char *tasks_dir;     /* <state>/tasks */
	const char *disk_dir;      /* <state>/tasks/<task id>/<container>, exists and is empty */
	const char *container;     /* its name */
	const char *layers_dir;    /* <state>/images/layers */
	bool mapped;               /* layers by way of .private/.layers: rootfs_prepare_mapped() */
	const char *const *layers; /* lowest first */
	size_t n_layers;           /* each kept from being removed by its lock (layer_lock.h) */
};

/*
 * Make the directories and mount the overlay. -ENOENT when a layer is missing. What was made is
 * removed by rootfs_remove(), also after a failure.
 */
int rootfs_mount(const struct rootfs *rootfs, struct err *err);

/* Take the overlay away and remove the container's part of .private; nothing there is no error. */
void rootfs_remove(const char *tasks_dir, const char *container);

/* <tasks_dir>/.private/<container>: -ENAMETOOLONG */
int rootfs_private_dir(const char *tasks_dir, const char *container, char *buf, size_t n);

enum rootfs_kind {
	ROOTFS_DIRECTORY,
	ROOTFS_FILE, /* anything but a directory; made as an empty regular file */
};

/*
 * Find path inside root_fd as the container would, links included, and make what is missing
 * (directories 0755). No link leads out of the root. Nothing is made through a link whose target
 * changes meanwhile. Returns an O_PATH descriptor, or -ELOOP, -ENOTDIR, -EISDIR, -ENAMETOOLONG or
 * -errno of the openat2(2) or mkdirat(2). Allocates nothing.
 */
int rootfs_target(int root_fd, const char *path, enum rootfs_kind kind);

/*
 * The directory name (one component) right below root_fd, made if missing. A link there is
 * refused (-ELOOP): an image must not choose where /proc, /sys and /dev are mounted.
 */
int rootfs_own_directory(int root_fd, const char *name);
