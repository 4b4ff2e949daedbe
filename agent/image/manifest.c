/*
 * The one idea: a document is what its media type says, and it must not look like anything else.
 * Content-Type and mediaType have to agree, and members of the other kind are refused.
 */
#include "agent/image/manifest.h"

#include "lib/json.h"

#include <errno.h>
#include <string.h>
#include <strings.h>
#include <sys/utsname.h>

#define OCI    "application/vnd.oci.image."
#define DOCKER "application/vnd.docker."

enum media_kind {
	MEDIA_IMAGE,
	MEDIA_INDEX,
	MEDIA_SCHEMA1,
	MEDIA_GENERAL, /* says nothing */
	MEDIA_OTHER,
};

static const struct {
	const char *type;
	enum media_kind kind;
} media_types[] = {
	{OCI "manifest.v1+json", MEDIA_IMAGE},
	{DOCKER "distribution.manifest.v2+json", MEDIA_IMAGE},
	{OCI "index.v1+json", MEDIA_INDEX},
	{DOCKER "distribution.manifest.list.v2+json", MEDIA_INDEX},
	{DOCKER "distribution.manifest.v1+json", MEDIA_SCHEMA1},
	{DOCKER "distribution.manifest.v1+prettyjws", MEDIA_SCHEMA1},
	{"application/json", MEDIA_GENERAL},
	{"application/octet-stream", MEDIA_GENERAL},
	{"text/plain", MEDIA_GENERAL},
	{"", MEDIA_GENERAL},
};

static const struct {
	const char *type;
	enum layer_compression compression;
} layer_types[] = {
	{OCI "layer.v1.tar", LAYER_PLAIN},
	{OCI "layer.v1.tar+gzip", LAYER_GZIP},
	{OCI "layer.v1.tar+zstd", LAYER_ZSTD},
	{DOCKER "image.rootfs.diff.tar", LAYER_PLAIN},
	{DOCKER "image.rootfs.diff.tar.gzip", LAYER_GZIP},
	{DOCKER "image.rootfs.diff.tar.zstd", LAYER_ZSTD},
};

/* A media type may carry parameters: "application/json; charset=utf-8". */
static size_t media_type_len(const char *type)
{
	size_t n = strcspn(type, ";");

	while (n > 0 && (type[n - 1] == ' ' || type[n - 1] == '\t'))
		n--;
	return n;
}

static enum media_kind media_kind(const char *type)
{
	size_t n = media_type_len(type);

	for (size_t i = 0; i < ARRAY_SIZE(media_types); i++)
		if (strlen(media_types[i].type) == n && !strncasecmp(media_types[i].type, type, n))
			return media_types[i].kind;
	return MEDIA_OTHER;
}

static int parse_descriptor(struct json_object *obj, uint64_t size_max, struct descriptor *ret,
                            struct err *err)
{
	const char *digest;
	uint64_t size;
	int r;

	if (!json_object_is_type(obj, json_type_object))
		return err_text(err, -EBADMSG, "descriptor is no object");

	r = json_get_string(obj, "digest", &digest, err);
	if (r < 0)
		return -EBADMSG;
	if (digest_parse(digest, &ret->digest, err) < 0)
		return -EOPNOTSUPP;
	r = json_get_u64(obj, "size", UINT64_MAX, &size, err);
	if (r < 0)
		return -EBADMSG;
	if (size > size_max)
		return err_text(err, -EBADMSG, "size %llu is over the limit of %llu bytes",
		                (unsigned long long)size, (unsigned long long)size_max);
	ret->size = size;
	return 0;
}

static int parse_layer(struct json_object *obj, struct descriptor *ret, struct err *err)
{
	const char *type;
	int r;

	r = parse_descriptor(obj, LAYER_BYTES_MAX, ret, err);
	if (r < 0)
		return r;
	r = json_get_string(obj, "mediaType", &type, err);
	if (r < 0)
		return -EBADMSG;
	for (size_t i = 0; i < ARRAY_SIZE(layer_types); i++)
		if (!strcmp(layer_types[i].type, type)) {
			ret->compression = layer_types[i].compression;
			return 0;
		}
	return err_text(err, -EOPNOTSUPP, "layers of media type \"%.120s\" are not supported",
	                type);
}

static int parse_image(struct json_object *doc, struct manifest *ret, struct err *err)
{
	struct json_object *config, *layers;
	size_t n;
	int r;

	r = json_get_object(doc, "config", &config, err);
	if (r < 0)
		return -EBADMSG;
	r = parse_descriptor(config, IMAGE_CONFIG_BYTES_MAX, &ret->config, err);
	if (r < 0)
		return err_prefix(err, r, "config");

	r = json_get_array(doc, "layers", &layers, err);
	if (r < 0)
		return -EBADMSG;
	n = json_object_array_length(layers);
	if (n > LAYERS_MAX)
		return err_text(err, -EBADMSG, "%zu layers are over the limit of %d", n,
		                LAYERS_MAX);
	for (size_t i = 0; i < n; i++) {
		r = parse_layer(json_object_array_get_idx(layers, i), &ret->layers[i], err);
		if (r < 0)
			return err_prefix(err, r, "layer %zu", i);
	}
	ret->n_layers = n;
	ret->kind = MANIFEST_IMAGE;
	return 0;
}

/*
 * How well an entry of an index fits: 0 not at all. Variants name instruction set levels: those of
 * arm64 begin at v8, those of amd64 at v1, which every machine has.
 */
static int platform_fit(struct json_object *entry, const char *architecture)
{
	struct json_object *platform = json_get(entry, "platform");
	const char *os = json_text(platform, "os");
	const char *arch = json_text(platform, "architecture");
	const char *variant = json_text(platform, "variant");

	if (!os || !arch || strcmp(os, "linux") != 0 || strcmp(arch, architecture) != 0)
		return 0;
	if (!variant || !*variant)
		return 2;
	if (!strcmp(arch, "amd64"))
		return !strcmp(variant, "v1") ? 1 : 0;
	if (!strcmp(arch, "arm64"))
		return !strcmp(variant, "v8") ? 1 : 0;
	return 0;
}

static int parse_index(struct json_object *doc, const char *architecture, struct manifest *ret,
                       struct err *err)
{
	struct json_object *entries, *best = NULL;
	int best_fit = 0;
	const char *type;
	int r;

	r = json_get_array(doc, "manifests", &entries, err);
	if (r < 0)
		return -EBADMSG;
	for (size_t i = 0; i < json_object_array_length(entries); i++) {
		struct json_object *entry = json_object_array_get_idx(entries, i);
		int fit = platform_fit(entry, architecture);

		if (fit > best_fit) {
			best = entry;
			best_fit = fit;
		}
	}
	if (!best)
		return err_text(err, -ENOENT,
		                "no matching manifest for linux/%s in the manifest list entries",
		                architecture);

	r = parse_descriptor(best, MANIFEST_BYTES_MAX, &ret->image, err);
	if (r < 0)
		return err_prefix(err, r, "manifest for linux/%s", architecture);
	type = json_text(best, "mediaType");
	if (!type || media_kind(type) != MEDIA_IMAGE)
		return err_text(
			err, -EOPNOTSUPP,
			"manifest for linux/%s has media type \"%.120s\", which is no image",
			architecture, type ? type : "");
	ret->kind = MANIFEST_INDEX;
	return 0;
}

/* What the document is, by all that speaks of it. */
static int document_kind(struct json_object *doc, const char *content_type, enum media_kind *ret,
                         struct err *err)
{
	bool has_image = json_get(doc, "layers") || json_get(doc, "config");
	bool has_index = json_get(doc, "manifests");
	const char *own_type = json_text(doc, "mediaType");
	enum media_kind kind = media_kind(content_type ? content_type : "");
	int64_t version = 0;

	if (json_get_i64(doc, "schemaVersion", INT64_MIN, INT64_MAX, &version, NULL) < 0)
		version = 0;
	if (kind == MEDIA_SCHEMA1 || version == 1 || json_get(doc, "fsLayers"))
		return err_text(
			err, -EOPNOTSUPP,
			"Docker Image Format v1 and Docker Image manifest version 2, schema "
			"1 are not supported: push the image again with a current tool");
	if (version != 2)
		return err_text(err, -EBADMSG, "schemaVersion must be 2");
	if (has_image && has_index)
		return err_text(err, -EBADMSG,
		                "document is a manifest and an index at once (it has \"manifests\" "
		                "and \"layers\" or \"config\")");

	if (own_type && kind != MEDIA_GENERAL &&
	    (media_type_len(content_type) != strlen(own_type) ||
	     strncasecmp(content_type, own_type, strlen(own_type)) != 0))
		return err_text(err, -EBADMSG,
		                "Content-Type \"%.100s\" and mediaType \"%.100s\" differ",
		                content_type, own_type);
	if (kind == MEDIA_GENERAL && own_type)
		kind = media_kind(own_type);
	if (kind == MEDIA_GENERAL)
		kind = has_index ? MEDIA_INDEX : MEDIA_IMAGE;

	if ((kind == MEDIA_IMAGE && has_index) || (kind == MEDIA_INDEX && has_image))
		return err_text(err, -EBADMSG, "document is not what its media type says");
	if (kind != MEDIA_IMAGE && kind != MEDIA_INDEX)
		return err_text(err, -EOPNOTSUPP, "media type \"%.120s\" is not supported",
		                own_type ? own_type : content_type);
	*ret = kind;
	return 0;
}

int manifest_parse(const char *text, size_t len, const char *content_type, const char *architecture,
                   struct manifest *ret, struct err *err)
{
	_cleanup_json_ struct json_object *doc = NULL;
	enum media_kind kind = MEDIA_OTHER;
	int r;

	r = json_parse_object(text, len, MANIFEST_BYTES_MAX, &doc, err);
	if (r < 0)
		return r == -ENOMEM ? r : -EBADMSG;
	r = document_kind(doc, content_type, &kind, err);
	if (r < 0)
		return r;

	*ret = (struct manifest){};
	return kind == MEDIA_INDEX ? parse_index(doc, architecture, ret, err)
	                           : parse_image(doc, ret, err);
}

const char *machine_architecture(void)
{
	static const char *const names[][2] = {
		{"x86_64", "amd64"},
		{"aarch64", "arm64"},
	};
	static struct utsname uts;

	if (uname(&uts) < 0)
		return "unknown";
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (!strcmp(uts.machine, names[i][0]))
			return names[i][1];
	return uts.machine;
}

void image_config_done(struct image_config *config)
{
	json_object_put(config->config);
	config->config = NULL;
}

static int parse_diff_ids(struct json_object *doc, size_t n_layers, struct image_config *ret,
                          struct err *err)
{
	struct json_object *rootfs, *ids;
	int r;

	r = json_get_object(doc, "rootfs", &rootfs, err);
	if (r < 0)
		return -EBADMSG;
	r = json_get_array(rootfs, "diff_ids", &ids, err);
	if (r == -ENOENT && n_layers == 0)
		return 0;
	if (r < 0)
		return -EBADMSG;
	if (json_object_array_length(ids) != n_layers)
		return err_text(err, -EBADMSG, "%zu diff_ids for %zu layers",
		                json_object_array_length(ids), n_layers);

	for (size_t i = 0; i < n_layers; i++) {
		struct json_object *id = json_object_array_get_idx(ids, i);

		if (!json_object_is_type(id, json_type_string))
			return err_text(err, -EBADMSG, "diff_ids[%zu] is no string", i);
		if (digest_parse(json_object_get_string(id), &ret->diff_ids[i], err) < 0)
			return err_prefix(err, -EBADMSG, "diff_ids[%zu]", i);
	}
	ret->n_diff_ids = n_layers;
	return 0;
}

int image_config_parse(const char *text, size_t len, size_t n_layers, struct image_config *ret,
                       struct err *err)
{
	_cleanup_image_config_ struct image_config config = {};
	_cleanup_json_ struct json_object *doc = NULL;
	struct json_object *obj = NULL;
	const char *os;
	size_t n;
	int r;

	r = json_parse_object(text, len, IMAGE_CONFIG_BYTES_MAX, &doc, err);
	if (r < 0)
		return r == -ENOMEM ? r : -EBADMSG;

	os = json_text(doc, "os");
	if (os && *os && strcmp(os, "linux") != 0)
		return err_text(err, -EOPNOTSUPP,
		                "image operating system \"%.32s\" cannot be used on this platform",
		                os);
	r = parse_diff_ids(doc, n_layers, &config, err);
	if (r < 0)
		return r;

	r = json_optional(json_get_object(doc, "config", &obj, err));
	if (r < 0)
		return -EBADMSG;
	config.config = obj ? json_object_get(obj) : json_object_new_object();
	if (!config.config)
		return err_oom(err);
	(void)json_to_text(config.config, &n);
	if (n > IMAGE_CONFIG_OBJECT_MAX)
		return err_text(err, -EBADMSG, "config of %zu bytes is over the limit of %d", n,
		                IMAGE_CONFIG_OBJECT_MAX);

	*ret = config;
	config.config = NULL;
	return 0;
}
