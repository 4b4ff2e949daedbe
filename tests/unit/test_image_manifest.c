/* agent/image/manifest: which documents are images, and which pretend. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/image/manifest.h"
#include "lib/cleanup.h"

#define HEX_A        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define HEX_B        "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define OCI_IMAGE    "application/vnd.oci.image.manifest.v1+json"
#define OCI_INDEX    "application/vnd.oci.image.index.v1+json"
#define DOCKER_IMAGE "application/vnd.docker.distribution.manifest.v2+json"
#define DOCKER_LIST  "application/vnd.docker.distribution.manifest.list.v2+json"

#define CONFIG      "\"config\":{\"mediaType\":\"x\",\"digest\":\"sha256:" HEX_A "\",\"size\":7}"
#define LAYER(type) "{\"mediaType\":\"" type "\",\"digest\":\"sha256:" HEX_B "\",\"size\":9}"
#define GZIP        "application/vnd.docker.image.rootfs.diff.tar.gzip"
#define ZSTD        "application/vnd.oci.image.layer.v1.tar+zstd"
#define IMAGE(more)                                                                                \
	"{\"schemaVersion\":2," more CONFIG ",\"layers\":[" LAYER(GZIP) "," LAYER(ZSTD) "]}"
#define ENTRY(type, hex, platform)                                                                 \
	"{\"mediaType\":\"" type "\",\"digest\":\"sha256:" hex                                     \
	"\",\"size\":5,\"platform\":" platform "}"
#define INDEX(entries) "{\"schemaVersion\":2,\"manifests\":[" entries "]}"

static void test_images_of_both_formats_are_read(void **state)
{
	static const struct {
		const char *text, *type;
	} cases[] = {
		{IMAGE(""), OCI_IMAGE},
		{IMAGE(""), DOCKER_IMAGE},
		{IMAGE("\"mediaType\":\"" DOCKER_IMAGE "\","), DOCKER_IMAGE},
		{IMAGE("\"mediaType\":\"" DOCKER_IMAGE "\","), DOCKER_IMAGE "; charset=utf-8"},
		{IMAGE("\"mediaType\":\"" OCI_IMAGE "\","), "application/json"},
		{IMAGE(""), NULL},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct manifest m;
		struct err err = {};

		if (manifest_parse(cases[i].text, strlen(cases[i].text), cases[i].type, "amd64", &m,
		                   &err) < 0)
			fail_msg("case %zu: %s", i, err.text);
		assert_int_equal(m.kind, MANIFEST_IMAGE);
		assert_string_equal(m.config.digest.hex, HEX_A);
		assert_int_equal(m.config.size, 7);
		assert_int_equal(m.n_layers, 2);
		assert_int_equal(m.layers[0].compression, LAYER_GZIP);
		assert_int_equal(m.layers[1].compression, LAYER_ZSTD);
		assert_int_equal(m.layers[1].size, 9);
	}
}

static void test_the_entry_for_this_machine_is_taken(void **state)
{
	static const char both[] = INDEX(
		ENTRY(OCI_IMAGE, HEX_A, "{\"os\":\"windows\",\"architecture\":\"amd64\"}") "," ENTRY(OCI_IMAGE, HEX_A, "{\"os\":\"linux\",\"architecture\":\"amd64\",\"variant\":\"v3\"}") "," ENTRY(
			OCI_IMAGE, HEX_B,
			"{\"os\":\"linux\",\"architecture\":\"amd64\"}") "," ENTRY(OCI_IMAGE, HEX_A,
	                                                                           "{\"os\":\"linux\",\"architecture\":\"arm64\",\"variant\":\"v8\"}"));
	struct manifest m;
	struct err err = {};

	(void)state;
	assert_int_equal(manifest_parse(both, strlen(both), OCI_INDEX, "amd64", &m, &err), 0);
	assert_int_equal(m.kind, MANIFEST_INDEX);
	assert_string_equal(m.image.digest.hex, HEX_B);
	assert_int_equal(manifest_parse(both, strlen(both), DOCKER_LIST, "arm64", &m, &err), 0);
	assert_string_equal(m.image.digest.hex, HEX_A);
	assert_int_equal(manifest_parse(both, strlen(both), OCI_INDEX, "riscv64", &m, &err),
	                 -ENOENT);
	assert_string_equal(err.text,
	                    "no matching manifest for linux/riscv64 in the manifest list entries");
}

static void test_what_is_two_things_or_nothing_is_refused(void **state)
{
	static const struct {
		const char *text, *type;
		int r;
	} cases[] = {
		{"{\"schemaVersion\":2," CONFIG ",\"layers\":[],\"manifests\":[]}", OCI_IMAGE,
	         -EBADMSG},
		{"{\"schemaVersion\":2,\"layers\":[],\"manifests\":[]}", OCI_INDEX, -EBADMSG},
		{IMAGE("\"mediaType\":\"" OCI_IMAGE "\","), DOCKER_IMAGE, -EBADMSG},
		{IMAGE(""), OCI_INDEX, -EBADMSG},
		{INDEX(""), OCI_IMAGE, -EBADMSG},
		{"{\"schemaVersion\":1,\"fsLayers\":[]}", NULL, -EOPNOTSUPP},
		{"{}", "application/vnd.docker.distribution.manifest.v1+prettyjws", -EOPNOTSUPP},
		{IMAGE(""), "text/html", -EOPNOTSUPP},
		{IMAGE("\"schemaVersion\":2,"), OCI_IMAGE, -EBADMSG},
		{"{\"schemaVersion\":3," CONFIG ",\"layers\":[]}", OCI_IMAGE, -EBADMSG},
		{"{\"schemaVersion\":2,\"layers\":[]}", OCI_IMAGE, -EBADMSG},
		{"{\"schemaVersion\":2," CONFIG "}", OCI_IMAGE, -EBADMSG},
		{"{\"schemaVersion\":2," CONFIG ",\"layers\":[7]}", OCI_IMAGE, -EBADMSG},
		{"{\"schemaVersion\":2," CONFIG ",\"layers\":[" LAYER("x/y") "]}", OCI_IMAGE,
	         -EOPNOTSUPP},
		{"{\"schemaVersion\":2,\"config\":{\"digest\":\"md5:00\",\"size\":1},\"layers\":[]}",
	         OCI_IMAGE, -EOPNOTSUPP},
		{"{\"schemaVersion\":2,\"config\":{\"digest\":\"sha256:" HEX_A
	         "\",\"size\":-1},\"layers\":[]}",
	         OCI_IMAGE, -EBADMSG},
		{"{\"schemaVersion\":2,\"config\":{\"digest\":\"sha256:" HEX_A
	         "\",\"size\":99999999},\"layers\":[]}",
	         OCI_IMAGE, -EBADMSG},
		{INDEX(ENTRY(OCI_INDEX, HEX_A, "{\"os\":\"linux\",\"architecture\":\"amd64\"}")),
	         OCI_INDEX, -EOPNOTSUPP},
		{"[]", OCI_IMAGE, -EBADMSG},
		{"<html>", OCI_IMAGE, -EBADMSG},
		{"", OCI_IMAGE, -EBADMSG},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct manifest m;
		struct err err = {};
		int r = manifest_parse(cases[i].text, strlen(cases[i].text), cases[i].type, "amd64",
		                       &m, &err);

		if (r != cases[i].r)
			fail_msg("case %zu: %d instead of %d (%s)", i, r, cases[i].r, err.text);
		assert_true(err.text[0]);
	}
}

static void test_layers_over_the_limit_are_refused(void **state)
{
	_cleanup_free_ char *text = malloc(64 * 1024);
	struct manifest m;
	size_t n;

	(void)state;
	assert_non_null(text);
	n = (size_t)sprintf(text, "{\"schemaVersion\":2," CONFIG ",\"layers\":[" LAYER(GZIP));
	for (int i = 1; i < LAYERS_MAX; i++)
		n += (size_t)sprintf(text + n, "," LAYER(GZIP));
	strcpy(text + n, "]}");
	assert_int_equal(manifest_parse(text, strlen(text), OCI_IMAGE, "amd64", &m, NULL), 0);
	assert_int_equal(m.n_layers, LAYERS_MAX);
	strcpy(text + n, "," LAYER(GZIP) "]}");
	assert_int_equal(manifest_parse(text, strlen(text), OCI_IMAGE, "amd64", &m, NULL),
	                 -EBADMSG);
}

static void test_configurations_must_match_their_layers(void **state)
{
	static const struct {
		const char *text;
		size_t n_layers;
		int r;
	} cases[] = {
		{"{\"os\":\"linux\",\"config\":{\"Env\":[\"A=b\"]},\"rootfs\":{\"diff_ids\":[\"sha256:" HEX_A
	         "\"]}}",
	         1, 0},
		{"{\"config\":null,\"rootfs\":{\"diff_ids\":[]}}", 0, 0},
		{"{\"rootfs\":{\"diff_ids\":[\"sha256:" HEX_A "\"]}}", 2, -EBADMSG},
		{"{\"rootfs\":{\"diff_ids\":[\"sha256:zz\"]}}", 1, -EBADMSG},
		{"{\"rootfs\":{\"diff_ids\":[1]}}", 1, -EBADMSG},
		{"{\"rootfs\":{}}", 1, -EBADMSG},
		{"{}", 1, -EBADMSG},
		{"{\"os\":\"windows\",\"rootfs\":{\"diff_ids\":[]}}", 0, -EOPNOTSUPP},
		{"{\"config\":7,\"rootfs\":{\"diff_ids\":[]}}", 0, -EBADMSG},
		{"null", 0, -EBADMSG},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_image_config_ struct image_config config = {};
		struct err err = {};
		int r = image_config_parse(cases[i].text, strlen(cases[i].text), cases[i].n_layers,
		                           &config, &err);

		if (r != cases[i].r)
			fail_msg("case %zu: %d instead of %d (%s)", i, r, cases[i].r, err.text);
		assert_int_equal(r == 0, config.config != NULL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_images_of_both_formats_are_read),
		cmocka_unit_test(test_the_entry_for_this_machine_is_taken),
		cmocka_unit_test(test_what_is_two_things_or_nothing_is_refused),
		cmocka_unit_test(test_layers_over_the_limit_are_refused),
		cmocka_unit_test(test_configurations_must_match_their_layers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
