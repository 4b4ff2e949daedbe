/* What an AWS service says when it refuses, and whether asking again can help. */
#include <stdio.h>
#include <string.h>

#include "lib/aws_json.h"
#include "lib/json.h"

/* Source: AWS SDKs and Tools Reference Guide, "Retry behavior", standard mode. */
static const char *const throttling_codes[] = {
	"BandwidthLimitExceeded",
	"EC2ThrottledException",
	"LimitExceededException",
	"PriorRequestNotComplete",
	"ProvisionedThroughputExceededException",
	"RequestLimitExceeded",
	"RequestThrottled",
	"RequestThrottledException",
	"SlowDown",
	"ThrottledException",
	"Throttling",
	"ThrottlingException",
	"TooManyRequestsException",
	"TransactionInProgressException",
};

static const char *const server_codes[] = {
	"InternalError",   "InternalFailure",    "InternalServerError",
	"ServerException", "ServiceUnavailable", "ServiceUnavailableException",
};

static const char *const expired_codes[] = {
	"ExpiredToken",   "ExpiredTokenException",       "InvalidClientTokenId",
	"RequestExpired", "UnrecognizedClientException",
};

static bool is_one_of(const char *code, const char *const *codes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (strcmp(code, codes[i]) == 0)
			return true;
	return false;
}

static enum aws_error_class classify(unsigned http_status, const char *code)
{
	if (http_status == 429 || is_one_of(code, throttling_codes, ARRAY_SIZE(throttling_codes)))
		return AWS_ERROR_THROTTLING;
	if (is_one_of(code, expired_codes, ARRAY_SIZE(expired_codes)))
		return AWS_ERROR_EXPIRED;
	if (http_status >= 500 || is_one_of(code, server_codes, ARRAY_SIZE(server_codes)))
		return AWS_ERROR_SERVER;
	return AWS_ERROR_CLIENT;
}

/* "com.amazonaws.ecs#ClusterNotFoundException:http://..." is ClusterNotFoundException. */
static void set_code(struct aws_error *error, const char *text)
{
	const char *hash = strchr(text, '#');
	size_t len;

	if (hash)
		text = hash + 1;
	len = strcspn(text, ":");
	snprintf(error->code, sizeof(error->code), "%.*s", len > 127 ? 127 : (int)len, text);
}

void aws_error_parse(unsigned http_status, const char *error_type_header, const char *body,
                     size_t body_len, struct aws_error *ret)
{
	struct aws_error error = {.http_status = http_status};
	_cleanup_json_ struct json_object *answer = NULL;
	const char *type = NULL, *message = NULL;

	if (json_parse_object(body, body_len, 1024 * 1024, &answer, NULL) == 0) {
		type = json_text(answer, "__type");
		if (!type)
			type = json_text(answer, "code");
		message = json_text(answer, "message");
	}
	if (!type)
		type = error_type_header;
	if (type)
		set_code(&error, type);
	else
		snprintf(error.code, sizeof(error.code), "HTTP%u", http_status);
	snprintf(error.message, sizeof(error.message), "%s", message ? message : "");
	for (char *p = error.message; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = ' ';
	error.class = classify(http_status, error.code);
	*ret = error;
}
