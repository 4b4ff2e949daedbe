/*
 * Image manifests, indexes and configurations: OCI image-spec 1.0/1.1 and Docker Image Manifest
 * version 2, schema 2. Everything here was sent by a registry and is checked before it is used.
 */
#pragma once

#include <json-c/json.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/image/digest.h"
#include "lib/err.h"

#define MANIFEST_BYTES_MAX     (4 * 1024 * 1024)
#define IMAGE_CONFIG_BYTES_MAX (8 * 1024 * 1024)
/* The "config" object within it, which must fit into a message together with the rest. */
#define IMAGE_CONFIG_OBJECT_MAX (3 * 1024 * 1024)
#define LAYERS_MAX              127           /* as Docker: more cannot be stacked */
#define LAYER_BYTES_MAX         (64ull << 30) /* compressed */

/* Media types to ask for, as an Accept header's value. */
#define MANIFEST_ACCEPT                                                                            \
	"application/vnd.oci.image.index.v1+json, "                                                \
	"application/vnd.docker.distribution.manifest.list.v2+json, "                              \
	"application/vnd.oci.image.manifest.v1+json, "                                             \
	"application/vnd.docker.distribution.manifest.v2+json"

enum layer_compression {
	LAYER_PLAIN,
	LAYER_GZIP,
	LAYER_ZSTD,
};

struct descriptor {
	struct digest digest;
	uint64_t size;
	enum layer_compression compression; /* of layers */
};

enum manifest_kind {
	MANIFEST_IMAGE, /* config and layers are set */
	MANIFEST_INDEX, /* image is the manifest for this machine */
};

struct manifest {
	enum manifest_kind kind;
	struct descriptor image;
	struct descriptor config;
	struct descriptor layers[LAYERS_MAX]; /* lowest first */
	size_t n_layers;
};

/*
 * Parse what came with this Content-Type (NULL or a general one such as "text/plain": the
 * document's own word counts). architecture: in Go's words, "amd64" or "arm64".
 *
 * Returns 0, or
 *   -EBADMSG     no JSON, a member is missing or out of bounds, or the document is two things at
 *                once (CVE-2021-41190: manifests and layers, or mediaType and Content-Type differ)
 *   -EOPNOTSUPP  schema version 1, another media type, or a digest that is not sha256
 *   -ENOENT      an index without an image for linux on this architecture
 */
int manifest_parse(const char *text, size_t len, const char *content_type, const char *architecture,
                   struct manifest *ret, struct err *err);

/* The architecture of this machine in Go's words. */
const char *machine_architecture(void);

struct image_config {
	struct digest diff_ids[LAYERS_MAX]; /* lowest first */
	size_t n_diff_ids;
	struct json_object *config; /* the "config" object; {} when absent. Owned. */
};

void image_config_done(struct image_config *config);
#define _cleanup_image_config_ _cleanup_(image_config_done)

/*
 * Parse an image configuration that must have one diffID for each of n_layers.
 * Returns 0, -EBADMSG, or -EOPNOTSUPP (an image for another operating system).
 */
int image_config_parse(const char *text, size_t len, size_t n_layers, struct image_config *ret,
                       struct err *err);
