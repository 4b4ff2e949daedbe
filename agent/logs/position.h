/*
 * How far the delivery of one stream has got: the file "position" in its spool directory.
 *
 * It is written before a batch is sent (with the number of its lines) and after the sink has
 * confirmed it. So whoever continues after a crash knows which lines were delivered for certain,
 * and sends again exactly the one batch of which it is not known, never a larger one.
 *
 * The file is replaced by rename(2) without fsync(2): a crash of ours leaves the old or the new
 * one. After a power loss it may be an older one, or empty, and then more is repeated, at most what
 * the spool still has; nothing that was confirmed is lost by it. That happens to come with a
 * reboot, while a flush for each batch would cost each batch a disk's latency.
 *
 * Format: one line of JSON, then the begun lines of stdout and of stderr, as many bytes as it says.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "agent/logs/lines.h"
#include "lib/err.h"

struct position {
	struct lines_state lines;
	uint64_t in_flight;  /* lines of the batch that was being sent; 0: none was */
	uint64_t file_bytes; /* driver json-file: size of the file before that batch */
};
void position_done(struct position *position);
#define _cleanup_position_ _cleanup_(position_done)

/*
 * dir_fd: directory of the stream. Returns 0; -ENOENT when there is no file; -EBADMSG when it can't
 * be understood (err says why), which a power loss may do; -errno of reading it.
 */
int position_load(int dir_fd, struct position *ret, struct err *err);
int position_save(int dir_fd, const struct position *position, struct err *err);
