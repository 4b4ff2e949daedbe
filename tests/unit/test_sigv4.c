/*
 * The signer. Known answers come from AWS's documentation; with --lines the program signs what it
 * reads, one JSON object a line, so that tests/integration/test_sigv4.py can hold it against
 * botocore.
 */
#include "tests/unit/cmocka_prelude.h"

#include "lib/json.h"
#include "lib/secret.h"
#include "lib/sigv4.h"
#include "lib/url.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define HEADERS_MAX 16

/* AWS documentation, "Signature Version 4 signing process": GET ListUsers. */
static void test_example_of_the_documentation(void **state)
{
	_cleanup_(aws_keys_unrefp) struct aws_keys *keys =
		aws_keys_new("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", NULL,
	                     AWS_KEYS_NO_EXPIRY);
	const struct http_header type = {"Content-Type",
	                                 "application/x-www-form-urlencoded; charset=utf-8"};
	const struct sigv4_request request = {
		.keys = keys,
		.region = "us-east-1",
		.service = "iam",
		.method = "GET",
		.url = "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08",
		.headers = &type,
		.n_headers = 1,
		.realtime_usec = 1440938160ULL * 1000000,
	};
	_cleanup_sigv4_ struct sigv4_signature signature = {0};
	struct err err = {0};

	(void)state;
	assert_int_equal(sigv4_sign(&request, &signature, &err), 0);
	assert_string_equal(signature.date, "20150830T123600Z");
	assert_string_equal(
		signature.authorization,
		"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, "
		"SignedHeaders=content-type;host;x-amz-date, "
		"Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7");
}

static void test_what_cannot_be_signed_is_refused_by_name(void **state)
{
	static const struct {
		const char *url, *region, *method, *header, *value, *want;
	} cases[] = {
		{"https://h/?a=b+c", "r", "GET", NULL, NULL, "%20"},
		{"https://h/a b", "r", "GET", NULL, NULL, "blank"},
		{"https://user@h/", "r", "GET", NULL, NULL, "host"},
		{"https://:1/", "r", "GET", NULL, NULL, "host"},
		{"https://h:65536/", "r", "GET", NULL, NULL, "port"},
		{"h/", "r", "GET", NULL, NULL, "scheme"},
		{"https://h/", "", "GET", NULL, NULL, "region"},
		{"https://h/", "a/b", "GET", NULL, NULL, "region"},
		{"https://h/", "r", "GE T", NULL, NULL, "method"},
		{"https://h/", "r", "GET", "X", "a\r\nY: b", "header"},
		{"https://h/", "r", "GET", "X Y", "a", "header"},
		{"https://h/", "r", "GET", "Host", "other", "host"},
		{"https://h/", "r", "GET", "X-Amz-Date", "20150830T123600Z", "x-amz-date"},
	};
	_cleanup_(aws_keys_unrefp) struct aws_keys *keys =
		aws_keys_new("AKID", "secret", "token", AWS_KEYS_NO_EXPIRY);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const struct http_header header = {cases[i].header, cases[i].value};
		const struct sigv4_request request = {
			.keys = keys,
			.region = cases[i].region,
			.service = "ecs",
			.method = cases[i].method,
			.url = cases[i].url,
			.headers = &header,
			.n_headers = cases[i].header ? 1 : 0,
		};
		_cleanup_sigv4_ struct sigv4_signature signature = {0};
		struct err err = {0};

		if (sigv4_sign(&request, &signature, &err) != -EINVAL ||
		    !strstr(err.text, cases[i].want))
			fail_msg("row %zu: '%s'", i, err.text);
		assert_null(signature.authorization);
	}
}

static void test_header_block_is_sorted_and_ends_with_an_empty_line(void **state)
{
	_cleanup_(aws_keys_unrefp) struct aws_keys *keys =
		aws_keys_new("AKID", "secret", "the-token", AWS_KEYS_NO_EXPIRY);
	const struct sigv4_request request = {.keys = keys,
	                                      .region = "r",
	                                      .service = "ecs",
	                                      .method = "GET",
	                                      .url = "wss://Host.Example:443/ws?a=b",
	                                      .body = "{}",
	                                      .body_len = 2,
	                                      .realtime_usec = 1000000};
	_cleanup_sigv4_ struct sigv4_signature signature = {0};
	_cleanup_secret_ char *block = NULL;
	char want[1024];

	(void)state;
	assert_int_equal(sigv4_sign(&request, &signature, NULL), 0);
	block = sigv4_header_block(&signature);
	snprintf(want, sizeof(want),
	         "Authorization: %s\r\nHost: host.example\r\nX-Amz-Date: 19700101T000001Z\r\n"
	         "X-Amz-Security-Token: the-token\r\n\r\n",
	         signature.authorization);
	assert_string_equal(block, want);
}

static void test_query_strings_encode_all_but_the_unreserved(void **state)
{
	const struct url_parameter parameters[] = {
		{"clusterArn", "arn:aws:ecs:r:1:cluster/blue"},
		{"left", NULL},
		{"dockerVersion", "DockerVersion: 25 \xc3\xa9~-._"},
	};
	_cleanup_free_ char *url =
		url_with_query("https://h/ws", parameters, ARRAY_SIZE(parameters));

	(void)state;
	assert_string_equal(url, "https://h/ws?clusterArn=arn%3Aaws%3Aecs%3Ar%3A1%3Acluster%2Fblue&"
	                         "dockerVersion=DockerVersion%3A%2025%20%C3%A9~-._");
}

static void test_times_of_aws_are_read_and_written(void **state)
{
	static const struct {
		const char *text;
		uint64_t usec;
	} cases[] = {
		{"1970-01-01T00:00:00Z", 0},
		{"2026-07-01T10:00:00Z", 1782900000000000ULL},
		{"2026-07-01T10:00:00.25Z", 1782900000250000ULL},
		{"2026-07-01T12:00:00+02:00", 1782900000000000ULL},
		{"2026-07-01T09:30:00.123456789-00:30", 1782900000123456ULL},
	};
	static const char *const bad[] = {"",
	                                  "2026-07-01",
	                                  "2026-07-01T10:00:00",
	                                  "2026-07-01T10:00:00Zx",
	                                  "2026-07-01T10:00:00+2:00",
	                                  "2026-13-01T10:00:00Z",
	                                  "1969-12-31T23:59:59Z"};
	uint64_t usec = 7;
	char text[21];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		if (aws_time_parse(cases[i].text, &usec) != 0 || usec != cases[i].usec)
			fail_msg("row %zu: %llu", i, (unsigned long long)usec);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (aws_time_parse(bad[i], &usec) != -EINVAL)
			fail_msg("'%s' was taken", bad[i]);
	assert_int_equal(aws_time_parse(NULL, &usec), -EINVAL);
	aws_time_to_string(1782900000999999ULL, text);
	assert_string_equal(text, "2026-07-01T10:00:00Z");
}

static size_t read_headers(struct json_object *line, struct http_header headers[HEADERS_MAX])
{
	struct json_object *array = json_get(line, "headers");
	size_t n = array ? json_object_array_length(array) : 0;

	for (size_t i = 0; i < n && i < HEADERS_MAX; i++) {
		struct json_object *pair = json_object_array_get_idx(array, i);

		headers[i].name = json_object_get_string(json_object_array_get_idx(pair, 0));
		headers[i].value = json_object_get_string(json_object_array_get_idx(pair, 1));
	}
	return n < HEADERS_MAX ? n : HEADERS_MAX;
}

static void print_signature(const struct sigv4_signature *signature)
{
	_cleanup_json_ struct json_object *answer = json_object_new_object();

	json_add_string(answer, "authorization", signature->authorization);
	json_add_string(answer, "date", signature->date);
	json_add_string(answer, "host", signature->host);
	json_add_string(answer, "bodySha256", signature->body_sha256);
	if (signature->security_token)
		json_add_string(answer, "token", signature->security_token);
	puts(json_to_text(answer, NULL));
}

static int sign_line(const char *text, size_t len)
{
	_cleanup_json_ struct json_object *line = NULL;
	_cleanup_(aws_keys_unrefp) struct aws_keys *keys = NULL;
	_cleanup_sigv4_ struct sigv4_signature signature = {0};
	struct http_header headers[HEADERS_MAX];
	struct sigv4_request request = {0};
	struct err err = {0};
	uint64_t seconds = 0;

	if (json_parse_object(text, len, 1 << 20, &line, &err) < 0 ||
	    json_get_u64(line, "time", UINT32_MAX, &seconds, &err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	keys = aws_keys_new(json_text(line, "accessKeyId"), json_text(line, "secretAccessKey"),
	                    json_text(line, "token"), AWS_KEYS_NO_EXPIRY);
	request = (struct sigv4_request){
		.keys = keys,
		.region = json_text(line, "region"),
		.service = json_text(line, "service"),
		.method = json_text(line, "method"),
		.url = json_text(line, "url"),
		.headers = headers,
		.n_headers = read_headers(line, headers),
		.body = json_text(line, "body"),
		.body_len = strlen(json_text(line, "body")),
		.realtime_usec = seconds * 1000000,
	};
	if (sigv4_sign(&request, &signature, &err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	print_signature(&signature);
	return 0;
}

static int sign_lines(void)
{
	_cleanup_free_ char *line = NULL;
	size_t size = 0;
	ssize_t n;

	while ((n = getline(&line, &size, stdin)) > 0)
		if (sign_line(line, (size_t)n) != 0)
			return 1;
	return 0;
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_example_of_the_documentation),
		cmocka_unit_test(test_what_cannot_be_signed_is_refused_by_name),
		cmocka_unit_test(test_header_block_is_sorted_and_ends_with_an_empty_line),
		cmocka_unit_test(test_query_strings_encode_all_but_the_unreserved),
		cmocka_unit_test(test_times_of_aws_are_read_and_written),
	};

	if (argc == 2 && strcmp(argv[1], "--lines") == 0)
		return sign_lines();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
