/* agent/logs/log_config: what log.json makes of a stream. */
#include "tests/unit/spool_fixture.h"

#include <errno.h>

#include "agent/logs/log_config.h"

static const struct log_defaults no_defaults;

static int load(struct spool_fixture *f, const char *text, const struct log_defaults *defaults,
                struct log_config **ret, struct err *err)
{
	(void)unlinkat(f->dir_fd, SPOOL_LOG_FILE, 0);
	if (text)
		spool_put_bytes(f, SPOOL_LOG_FILE, text, strlen(text));
	return log_config_load(f->dir_fd, defaults, ret, err);
}

static void test_awslogs_options_are_followed(void **state)
{
	struct spool_fixture *f = *state;
	_cleanup_(log_config_freep) struct log_config *config = NULL;

	assert_int_equal(
		load(f,
	             "{\"driver\":\"awslogs\",\"taskId\":\"t1\",\"taskArn\":\"arn:x\",\"containerName\":\"c1\","
	             "\"containerId\":\"id1\",\"credentialsId\":\"exec\",\"options\":{"
	             "\"awslogs-group\":\"g\",\"awslogs-stream\":\"s/1\",\"awslogs-region\":\"eu-west-1\","
	             "\"awslogs-endpoint\":\"http://127.0.0.1:1\",\"awslogs-create-group\":\"true\","
	             "\"awslogs-create-stream\":\"false\",\"awslogs-format\":\"json/emf\","
	             "\"awslogs-force-flush-interval-seconds\":\"7\"}}",
	             &no_defaults, &config, NULL),
		0);
	assert_int_equal(config->driver, LOG_DRIVER_AWSLOGS);
	assert_string_equal(config->group, "g");
	assert_string_equal(config->stream, "s/1");
	assert_string_equal(config->region, "eu-west-1");
	assert_string_equal(config->endpoint, "http://127.0.0.1:1");
	assert_string_equal(config->credentials_id, "exec");
	assert_true(config->create_group);
	assert_false(config->create_stream);
	assert_true(config->emf);
	assert_int_equal(config->flush_usec, 7000000);
}

static void test_names_and_endpoints_have_defaults(void **state)
{
	static const struct log_defaults regional = {.region = "us-west-2"};
	static const struct log_defaults local = {.region = "us-west-2", .endpoint = "http://x"};
	static const struct {
		const char *options;
		const struct log_defaults *defaults;
		const char *stream, *region, *endpoint;
	} rows[] = {
		{"", &regional, "id1", "us-west-2", "https://logs.us-west-2.amazonaws.com"},
		{",\"awslogs-stream-prefix\":\"web\"", &regional, "web/c1/t1", "us-west-2",
	         "https://logs.us-west-2.amazonaws.com"},
		{",\"awslogs-stream-prefix\":\"web\",\"awslogs-stream\":\"own\"", &regional, "own",
	         "us-west-2", "https://logs.us-west-2.amazonaws.com"},
		{",\"awslogs-region\":\"cn-north-1\"", &no_defaults, "id1", "cn-north-1",
	         "https://logs.cn-north-1.amazonaws.com.cn"},
		{",\"awslogs-region\":\"us-isob-east-1\"", &regional, "id1", "us-isob-east-1",
	         "https://logs.us-isob-east-1.sc2s.sgov.gov"},
		{",\"awslogs-region\":\"us-iso-east-1\"", &regional, "id1", "us-iso-east-1",
	         "https://logs.us-iso-east-1.c2s.ic.gov"},
		{",\"awslogs-region\":\"eu-west-1\"", &local, "id1", "eu-west-1", "http://x"},
		{",\"awslogs-endpoint\":\"https://y\"", &local, "id1", "us-west-2", "https://y"},
	};
	struct spool_fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		_cleanup_(log_config_freep) struct log_config *config = NULL;
		char text[512];
		struct err err = {0};

		snprintf(text, sizeof(text),
		         "{\"driver\":\"awslogs\",\"taskId\":\"t1\",\"containerName\":\"c1\","
		         "\"containerId\":\"id1\",\"options\":{\"awslogs-group\":\"g\"%s}}",
		         rows[i].options);
		if (load(f, text, rows[i].defaults, &config, &err) < 0)
			print_error("row %zu: %s\n", i, err.text);
		assert_non_null(config);
		assert_string_equal(config->stream, rows[i].stream);
		assert_string_equal(config->region, rows[i].region);
		assert_string_equal(config->endpoint, rows[i].endpoint);
		assert_string_equal(config->credentials_id, "instance");
		assert_false(config->create_group);
		assert_true(config->create_stream);
		assert_false(config->emf);
		assert_int_equal(config->flush_usec, 5000000);
	}
}

static void test_json_file_has_bounds_unless_told_otherwise(void **state)
{
	static const struct {
		const char *options;
		uint64_t max_size;
		unsigned int max_file;
	} rows[] = {
		{"{}", 10 * 1024 * 1024, 3},
		{"{\"max-size\":\"1k\",\"max-file\":\"7\"}", 1024, 7},
		{"{\"max-size\":\"-1\"}", UINT64_MAX, 3},
	};
	struct spool_fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		_cleanup_(log_config_freep) struct log_config *config = NULL;
		char text[256];

		snprintf(text, sizeof(text), "{\"driver\":\"json-file\",\"options\":%s}",
		         rows[i].options);
		assert_int_equal(load(f, text, &no_defaults, &config, NULL), 0);
		assert_int_equal(config->driver, LOG_DRIVER_JSON_FILE);
		assert_int_equal(config->max_size_bytes, rows[i].max_size);
		assert_int_equal(config->max_file, rows[i].max_file);
	}
}

static void test_what_cannot_be_followed_is_said(void **state)
{
	static const struct {
		const char *text;
		int r;
		const char *says;
	} rows[] = {
		{NULL, -ENOENT, "log.json"},
		{"", -EBADMSG, "log.json"},
		{"{\"driver\":\"aws", -EBADMSG, "log.json"},
		{"[]", -EBADMSG, "log.json"},
		{"{}", -EINVAL, "driver"},
		{"{\"driver\":\"awslogs\",\"options\":{}}", -EINVAL, "awslogs-group"},
		{"{\"driver\":\"awslogs\",\"options\":{\"awslogs-group\":\"g\"}}", -EINVAL,
	         "awslogs-region"},
		{"{\"driver\":\"awslogs\",\"options\":{\"awslogs-group\":\"g\",\"awslogs-region\":\"r\"}}",
	         -EINVAL, "containerId"},
		{"{\"driver\":\"splunk\",\"options\":{}}", -EOPNOTSUPP, "splunk"},
		{"{\"driver\":\"none\"}", -EOPNOTSUPP, "none"},
	};
	struct spool_fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct log_config *config = NULL;
		struct err err = {0};
		int r = load(f, rows[i].text, &no_defaults, &config, &err);

		if (r != rows[i].r || !strstr(err.text, rows[i].says))
			print_error("row %zu: %d %s\n", i, r, err.text);
		assert_int_equal(r, rows[i].r);
		assert_non_null(strstr(err.text, rows[i].says));
		assert_null(config);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		spool_test(test_awslogs_options_are_followed),
		spool_test(test_names_and_endpoints_have_defaults),
		spool_test(test_json_file_has_bounds_unless_told_otherwise),
		spool_test(test_what_cannot_be_followed_is_said),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
