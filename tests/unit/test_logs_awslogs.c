/* agent/logs/awslogs: what an answer of CloudWatch Logs means for a batch. */
#include "tests/unit/cmocka_prelude.h"

#include <stdio.h>
#include <string.h>

#include "agent/logs/awslogs.h"

static const enum awslogs_operation put = AWSLOGS_PUT_LOG_EVENTS, stream = AWSLOGS_CREATE_STREAM,
				    group = AWSLOGS_CREATE_GROUP;

static void test_answers_are_told_apart(void **state)
{
	static const struct {
		const enum awslogs_operation *operation;
		unsigned int status;
		const char *body;
		enum awslogs_outcome outcome;
		uint64_t rejected; /* of 10 */
	} rows[] = {
		{&put, 200, "{}", AWSLOGS_DONE, 0},
		{&put, 200, "{\"nextSequenceToken\":\"1\"}", AWSLOGS_DONE, 0},
		{&put, 200, "{\"rejectedLogEventsInfo\":{\"tooOldLogEventEndIndex\":3}}",
	         AWSLOGS_DONE, 3},
		{&put, 200, "{\"rejectedLogEventsInfo\":{\"tooNewLogEventStartIndex\":8}}",
	         AWSLOGS_DONE, 2},
		{&put, 200,
	         "{\"rejectedLogEventsInfo\":{\"tooOldLogEventEndIndex\":1,\"expiredLogEventEndIndex\":4,"
	         "\"tooNewLogEventStartIndex\":9}}",
	         AWSLOGS_DONE, 5},
		{&put, 200,
	         "{\"rejectedLogEventsInfo\":{\"tooOldLogEventEndIndex\":10,\"tooNewLogEventStartIndex\":0}}",
	         AWSLOGS_DONE, 10},
		{&put, 200, "{\"rejectedLogEventsInfo\":{\"tooOldLogEventEndIndex\":-1}}",
	         AWSLOGS_DONE, 0},
		{&put, 200, "", AWSLOGS_UNKNOWN, 0},
		{&put, 200, "<html>Welcome to the airport</html>", AWSLOGS_UNKNOWN, 0},
		{&put, 200, "{\"truncated\":", AWSLOGS_UNKNOWN, 0},
		{&put, 204, "", AWSLOGS_REFUSED, 0},
		{&put, 302, "", AWSLOGS_REFUSED, 0},
		{&put, 400, "{\"__type\":\"ResourceNotFoundException\"}", AWSLOGS_MISSING, 0},
		{&put, 400, "{\"__type\":\"com.amazonaws.logs#ResourceNotFoundException\"}",
	         AWSLOGS_MISSING, 0},
		{&put, 400, "{\"__type\":\"DataAlreadyAcceptedException\"}", AWSLOGS_DONE, 0},
		{&put, 400, "{\"__type\":\"ThrottlingException\"}", AWSLOGS_REFUSED, 0},
		{&put, 400, "{\"__type\":\"InvalidParameterException\"}", AWSLOGS_DENIED, 0},
		{&put, 400, "{\"__type\":\"InvalidSignatureException\"}", AWSLOGS_REFUSED, 0},
		{&put, 403, "<html>Ask your administrator</html>", AWSLOGS_REFUSED, 0},
		{&put, 403, "{\"__type\":\"AccessDenied\"}", AWSLOGS_DENIED, 0},
		{&put, 503, "{\"__type\":\"AccessDeniedException\"}", AWSLOGS_UNKNOWN, 0},
		{&put, 400, "{\"__type\":\"ExpiredTokenException\"}", AWSLOGS_REFUSED_KEYS, 0},
		{&put, 400, "{\"__type\":\"UnrecognizedClientException\"}", AWSLOGS_REFUSED_KEYS,
	         0},
		{&put, 413, "", AWSLOGS_TOO_LARGE, 0},
		{&put, 400, "{\"__type\":\"ResourceAlreadyExistsException\"}", AWSLOGS_REFUSED, 0},
		{&put, 500, "", AWSLOGS_UNKNOWN, 0},
		{&put, 503, "{\"__type\":\"ServiceUnavailableException\"}", AWSLOGS_UNKNOWN, 0},
		{&stream, 200, "", AWSLOGS_DONE, 0},
		{&stream, 200, "{}", AWSLOGS_DONE, 0},
		{&stream, 400, "{\"__type\":\"ResourceAlreadyExistsException\"}", AWSLOGS_DONE, 0},
		{&stream, 400, "{\"__type\":\"ResourceNotFoundException\"}", AWSLOGS_MISSING, 0},
		{&stream, 400, "{\"__type\":\"DataAlreadyAcceptedException\"}", AWSLOGS_REFUSED, 0},
		{&group, 400, "{\"__type\":\"ResourceAlreadyExistsException\"}", AWSLOGS_DONE, 0},
		{&group, 400, "{\"__type\":\"AccessDeniedException\",\"message\":\"no\"}",
	         AWSLOGS_DENIED, 0},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct err err = {0};
		uint64_t rejected = 99;
		enum awslogs_outcome outcome =
			awslogs_answer_parse(*rows[i].operation, rows[i].status, rows[i].body,
		                             strlen(rows[i].body), 10, &rejected, &err);

		if (outcome != rows[i].outcome || rejected != rows[i].rejected)
			print_error("row %zu: %d, %llu rejected, %s\n", i, (int)outcome,
			            (unsigned long long)rejected, err.text);
		assert_int_equal(outcome, rows[i].outcome);
		assert_int_equal(rejected, rows[i].rejected);
		if (outcome != AWSLOGS_DONE)
			assert_true(err.text[0]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_answers_are_told_apart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
