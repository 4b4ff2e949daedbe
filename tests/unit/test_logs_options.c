/* agent/logs/options: every option works or is refused by name. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <string.h>

#include "agent/logs/options.h"
#include "lib/json.h"

static const struct {
	const char *driver, *options;
	int r;
	const char *says; /* in the error */
} rows[] = {
	{"awslogs", "{\"awslogs-group\":\"g\"}", 0, NULL},
	{"awslogs",
         "{\"awslogs-group\":\"/ecs/app.1#x\",\"awslogs-region\":\"us-west-2\",\"awslogs-stream\":\"a/b/c\","
         "\"awslogs-stream-prefix\":\"web\",\"awslogs-create-group\":\"true\","
         "\"awslogs-create-stream\":\"false\",\"awslogs-endpoint\":\"http://127.0.0.1:8080\","
         "\"awslogs-force-flush-interval-seconds\":\"1\",\"awslogs-format\":\"json/emf\","
         "\"mode\":\"non-blocking\",\"max-buffer-size\":\"25m\"}",
         0, NULL},
	{"awslogs", "{}", -EINVAL, "awslogs-group is required"},
	{"awslogs", "{\"awslogs-group\":\"a b\"}", -EINVAL, "a b"},
	{"awslogs", "{\"awslogs-group\":\"\"}", -EINVAL, "awslogs-group"},
	{"awslogs", "{\"awslogs-group\":\"g\",\"awslogs-stream\":\"a:b\"}", -EINVAL, "a:b"},
	{"awslogs", "{\"awslogs-group\":\"g\",\"awslogs-stream-prefix\":\"*\"}", -EINVAL, "prefix"},
	{"awslogs", "{\"awslogs-group\":\"g\",\"awslogs-region\":\"../x\"}", -EINVAL, "region"},
	{"awslogs", "{\"awslogs-group\":\"g\",\"awslogs-endpoint\":\"file:///etc\"}", -EINVAL,
         "URL"},
	{"awslogs", "{\"awslogs-group\":\"g\",\"awslogs-endpoint\":\"http://a@b\"}", -EINVAL,
         "URL"},
	{"awslogs", "{\"awslogs-group\":\"g\",\"awslogs-create-group\":\"yes\"}", -EINVAL, "yes"},
	{"awslogs", "{\"awslogs-group\":\"g\",\"awslogs-force-flush-interval-seconds\":\"0\"}",
         -EINVAL, "1 to 3600"},
	{"awslogs", "{\"awslogs-group\":\"g\",\"awslogs-multiline-pattern\":\"^x\"}", -EOPNOTSUPP,
         "awslogs-multiline-pattern"},
	{"awslogs", "{\"awslogs-group\":\"g\",\"awslogs-datetime-format\":\"%Y\"}", -EOPNOTSUPP,
         "awslogs-datetime-format"},
	{"awslogs", "{\"awslogs-group\":\"g\",\"tag\":\"x\"}", -EOPNOTSUPP, "tag"},
	{"awslogs", "{\"awslogs-group\":\"g\",\"max-size\":\"10m\"}", -EOPNOTSUPP, "max-size"},
	{"awslogs", "{\"awslogs-group\":\"g\",\"mode\":\"fast\"}", -EINVAL, "fast"},
	{"awslogs", "{\"awslogs-group\":\"g\",\"max-buffer-size\":\"1m\"}", -EINVAL,
         "non-blocking"},
	{"awslogs", "{\"awslogs-group\":1}", -EINVAL, "string"},
	{"json-file", NULL, 0, NULL},
	{"json-file", "{\"max-size\":\"10m\",\"max-file\":\"5\"}", 0, NULL},
	{"json-file", "{\"max-size\":\"-1\"}", 0, NULL},
	{"json-file", "{\"max-size\":\"0\"}", -EINVAL, "max-size"},
	{"json-file", "{\"max-file\":\"0\"}", -EINVAL, "max-file"},
	{"json-file", "{\"compress\":\"true\"}", -EOPNOTSUPP, "compress"},
	{"json-file", "{\"awslogs-group\":\"g\"}", -EOPNOTSUPP, "awslogs-group"},
	{"none", "{}", 0, NULL},
	{"none", "{\"mode\":\"blocking\"}", -EOPNOTSUPP, "mode"},
	{"syslog", "{}", -EOPNOTSUPP, "syslog"},
	{"", "{}", -EOPNOTSUPP, "supported: awslogs"},
};

static void test_options_are_taken_or_refused_by_name(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		_cleanup_json_ struct json_object *options = NULL;
		struct err err = {0};
		int r;

		if (rows[i].options)
			assert_int_equal(json_parse(rows[i].options, strlen(rows[i].options), 4096,
			                            &options, NULL),
			                 0);
		r = log_options_check(rows[i].driver, options, &err);
		if (r != rows[i].r || (rows[i].says && !strstr(err.text, rows[i].says)))
			print_error("row %zu: %d %s\n", i, r, err.text);
		assert_int_equal(r, rows[i].r);
		if (rows[i].says)
			assert_non_null(strstr(err.text, rows[i].says));
	}
}

static void test_sizes_are_dockers(void **state)
{
	static const struct {
		const char *text;
		int r;
		uint64_t bytes;
	} sizes[] = {
		{"512", 0, 512},       {"10k", 0, 10240},         {"10m", 0, 10485760},
		{"1G", 0, 1073741824}, {"10mb", 0, 10485760},     {"10MiB", 0, 10485760},
		{"7b", 0, 7},          {"", -EINVAL, 0},          {"m", -EINVAL, 0},
		{"10x", -EINVAL, 0},   {"10mm", -EINVAL, 0},      {"-1", -EINVAL, 0},
		{"1.5m", -EINVAL, 0},  {"99999999t", -ERANGE, 0},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		uint64_t bytes = 0;
		int r = log_size_parse(sizes[i].text, &bytes);

		if (r != sizes[i].r || bytes != sizes[i].bytes)
			print_error("row %zu \"%s\": %d\n", i, sizes[i].text, r);
		assert_int_equal(r, sizes[i].r);
		assert_int_equal(bytes, sizes[i].bytes);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_options_are_taken_or_refused_by_name),
		cmocka_unit_test(test_sizes_are_dockers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
