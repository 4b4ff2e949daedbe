/* A layer's bytes as they come from the registry, made plain piece by piece. */
#pragma once

#include <stddef.h>

#include "agent/image/manifest.h"
#include "lib/cleanup.h"
#include "lib/err.h"

struct inflater;

/* Takes plain bytes; a negative errno ends it and is what inflater_feed() returns. */
typedef int (*inflate_sink_fn)(const void *bytes, size_t n, void *userdata);

int inflater_new(enum layer_compression compression, inflate_sink_fn sink, void *userdata,
                 struct inflater **ret);
struct inflater *inflater_free(struct inflater *inflater);
DEFINE_CLEANUP(struct inflater *, inflater_free)

/* Several gzip members or zstd frames may follow each other. -EBADMSG for what is malformed. */
int inflater_feed(struct inflater *inflater, const void *bytes, size_t n, struct err *err);
/* -EBADMSG when the last member or frame is not complete. */
int inflater_finish(struct inflater *inflater, struct err *err);
