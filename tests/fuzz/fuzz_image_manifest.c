/* Manifests and configurations; the first byte picks the Content-Type. */
#include "agent/image/manifest.h"

#include "lib/cleanup.h"

#include <errno.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const types[] = {
		NULL,
		"application/vnd.oci.image.manifest.v1+json",
		"application/vnd.docker.distribution.manifest.v2+json",
		"application/vnd.oci.image.index.v1+json",
		"application/json; charset=utf-8",
	};
	_cleanup_image_config_ struct image_config config = {};
	struct manifest manifest;
	struct err err = {};
	const char *text;
	int r;

	if (size < 1)
		return 0;
	text = (const char *)data + 1;
	size--;

	r = manifest_parse(text, size, types[data[0] % ARRAY_SIZE(types)], "amd64", &manifest,
	                   &err);
	if (r == 0 && (manifest.n_layers > LAYERS_MAX ||
	               (manifest.kind == MANIFEST_INDEX && !manifest.image.digest.hex[0])))
		abort();
	if (r < 0 && !err.text[0])
		abort();

	err = (struct err){};
	r = image_config_parse(text, size, data[0] % 4, &config, &err);
	if (r == 0 && (!config.config || config.n_diff_ids != data[0] % 4))
		abort();
	if (r < 0 && !err.text[0])
		abort();
	return 0;
}
