/*
 * The root file system of a container: an overlay of the image's layers, and finding places in it.
 *
 *   <state>/tasks/<task id>/<container>/   root 0700
 *       upper/ work/                       what the container writes
 *       l/0 l/1 ...                        links to the layers: names short enough for one mount
 *       root/                              where the overlay is mounted, in this mount namespace
 *       hosts hostname resolv.conf         mounted in /etc of the container
 */
#pragma once

#include <stddef.h>

#include "lib/err.h"

#define ROOTFS_LAYERS_MAX 127 /* as many as Docker takes */

struct rootfs_layers {
	const char *layers_dir;   /* <state>/images/layers */
	const char *const *names; /* lowest first */
	size_t n;
};

/*
 * Make the directories below dir_fd (that of the container, empty or with what an earlier life
 * left) and mount the overlay at "root". dir is the path of dir_fd.
 * -ENOENT when a layer is missing. What was made is removed with the container's directory.
 */
int rootfs_mount(int dir_fd, const char *dir, const struct rootfs_layers *layers, struct err *err);

/* Take the overlay away from this mount namespace; not mounted is no error. */
void rootfs_unmount(const char *dir);

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
