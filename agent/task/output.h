/*
 * What a container writes: two pipes into the log spool. Without a writer (driver "none") there are
 * no pipes and the container writes to its own /dev/null. A container with a terminal writes to
 * that: its other side is read in place of the first pipe, with a writer or without.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/err.h"
#include "lib/spool_writer.h"

struct output {
	struct spool_writer *writer; /* owned; NULL: discard */
	int read_fds[2];             /* stdout, stderr; non-blocking; -EBADF: closed */
	int write_fds[2];            /* for the container; closed after the start */
	bool terminal;               /* read_fds[0] is the master of one */
};

void output_init(struct output *output);
void output_done(struct output *output);

/* New pipes for a start; nothing to do without a writer. */
int output_open_pipes(struct output *output, struct err *err);
void output_close_write_ends(struct output *output);

/* The master side of the container's terminal; takes fd, also on failure. */
int output_set_terminal(struct output *output, int fd, struct err *err);

/* May the pipes be read now: false at the spool's bound in mode blocking (ask again soon). */
bool output_has_room(struct output *output);

/* One read from pipe i (0 stdout, 1 stderr), which poll(2) says is readable. */
void output_read(struct output *output, int i);

/*
 * Everything that is in the pipes, whatever the spool's bound, then close them. For when no process
 * of the container is left: one of another container may hold a pipe, so this stops at what was
 * written up to now.
 */
void output_drain(struct output *output);
