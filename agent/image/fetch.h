/*
 * The download of one layer: a child process of the network half that reads the blob from the
 * registry, verifies and inflates it and writes the plain tar into a pipe, whose other end a worker
 * of the unpack half reads (agent/image/unpack.h). It blocks wherever it has to wait, so a slow
 * disk slows down its own connection and nothing else.
 */
#pragma once

#include <stdint.h>

#include "agent/image/manifest.h"
#include "agent/image/registry.h"
#include "lib/cleanup.h"
#include "lib/err.h"

struct fetch;

struct fetch_options {
	struct registry *registry;      /* without open connections: registry_disconnect() */
	struct transfer_limits *limits; /* of the registry */
	const struct descriptor *blob;
	const struct digest *diff_id;
	int unpack_fd; /* connection to the unpack half */
};

/* Returns 0 or -errno. Freeing kills the child, and with its pipe the worker. */
int fetch_start(const struct fetch_options *options, struct fetch **ret, struct err *err);
struct fetch *fetch_free(struct fetch *fetch);
DEFINE_CLEANUP(struct fetch *, fetch_free)

/* To be polled for reading. */
int fetch_fd(const struct fetch *fetch);
/* Bytes of the blob that have come so far. */
uint64_t fetch_bytes(const struct fetch *fetch);

/*
 * Take what the child has to say. Returns 1 when the layer is in the store, 0 when it is not yet,
 * or the error of the download or of the unpacking.
 */
int fetch_receive(struct fetch *fetch, struct err *err);
