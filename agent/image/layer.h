/*
 * Unpack one layer, an uncompressed tar stream, as overlayfs wants it: whiteouts become character
 * devices 0/0, opaque directories get trusted.overlay.opaque. Runs with file capabilities and
 * nothing else (agent/image/unpack.h); the stream is as hostile as its author.
 * Source: OCI image-spec, layer.md; Linux Documentation/filesystems/overlayfs.rst.
 */
#pragma once

#include <stdint.h>

#include "agent/image/digest.h"
#include "lib/err.h"

struct layer_limits {
	uint64_t bytes_max;     /* of the stream, and of all files by their apparent size */
	uint64_t entries_max;   /* in the archive */
	uint64_t reserve_bytes; /* of the file system, that stay free */
};

/*
 * Read tar_fd (blocking) to its end and make its files below root_fd, an empty directory.
 *
 * Kept are owner, mode, times, hard and symbolic links, devices, security.capability and user.*
 * attributes. Dropped are other attributes: trusted.* and user.overlay.* above all, with which an
 * image could speak to overlayfs.
 * *ret_diff_id: digest of all bytes of the stream, also of those behind the end of the archive.
 *
 * Returns 0, or
 *   -EBADMSG  no tar archive, an entry that leaves the layer, or over a limit
 *   -ENOSPC   no room, or none beyond the reserve
 *   -errno    of the system call that failed; err names the entry
 * Nothing is removed on failure. Files are not synced.
 */
int layer_unpack(int tar_fd, int root_fd, const struct layer_limits *limits,
                 struct digest *ret_diff_id, struct err *err);
