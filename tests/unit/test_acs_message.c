/* agent/acs/message: what is a message, and what is not. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <string.h>

#include "agent/acs/message.h"
#include "lib/json.h"

#define ORIGIN "\"messageId\":\"m\",\"clusterArn\":\"c\",\"containerInstanceArn\":\"i\""

static void test_types_are_known_by_name(void **state)
{
	static const struct {
		const char *text;
		enum acs_message_type type;
		const char *notice;
	} cases[] = {
		{"{\"type\":\"PayloadMessage\",\"message\":{}}", ACS_MESSAGE_PAYLOAD, ""},
		{"{\"message\":{},\"type\":\"HeartbeatMessage\"}", ACS_MESSAGE_HEARTBEAT, ""},
		{"{\"type\":\"ConfirmAttachmentMessage\",\"message\":{}}", ACS_MESSAGE_UNSUPPORTED,
	         ""},
		{"{\"type\":\"payloadMessage\",\"message\":{}}", ACS_MESSAGE_UNKNOWN, ""},
		{"{\"type\":\"\",\"message\":{}}", ACS_MESSAGE_UNKNOWN, ""},
		{"{\"type\":\"CloseMessage\",\"message\":{\"message\":\"bye\"}}",
	         ACS_MESSAGE_NOTICE, "bye"},
		{"{\"ServerException\":\"oops\"}", ACS_MESSAGE_NOTICE, "oops"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_(acs_frame_done) struct acs_frame frame = {0};
		struct err err = {0};

		if (acs_frame_parse(cases[i].text, strlen(cases[i].text), &frame, &err) != 0 ||
		    frame.type != cases[i].type || strcmp(frame.notice, cases[i].notice) != 0)
			fail_msg("%s: %s", cases[i].text, err.text);
	}
}

static void test_what_is_no_message_is_refused(void **state)
{
	static const char *const cases[] = {
		"",
		"null",
		"[]",
		"\"x\"",
		"{}",
		"{\"type\":\"PayloadMessage\"}",
		"{\"message\":{}}",
		"{\"type\":1,\"message\":{}}",
		"{\"type\":\"PayloadMessage\",\"message\":[]}",
		"{\"type\":\"PayloadMessage\",\"message\":\"{}\"}",
		"{\"type\":\"PayloadMessage\",\"message\":null}",
		"{\"type\":\"a\\u0000b\",\"message\":{}}",
		"{\"type\":\"a\",\"type\":\"b\",\"message\":{}}",
		"{\"type\":\"a\",\"message\":{}} x",
		"{\"type\":\"a\",\"message\":{}",
		"{\"PayloadMessage\":\"text\"}",
		"{'type':'a','message':{}}",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct acs_frame frame = {0};
		struct err err = {0};
		int r = acs_frame_parse(cases[i], strlen(cases[i]), &frame, &err);

		if (r != -EINVAL || !err.text[0])
			fail_msg("%s: %d", cases[i], r);
	}
}

static struct json_object *object(const char *text)
{
	struct json_object *parsed = NULL;

	assert_int_equal(json_parse_object(text, strlen(text), 65536, &parsed, NULL), 0);
	return parsed;
}

static void test_payload_needs_its_three_names(void **state)
{
	static const struct {
		const char *text;
		int want;
		size_t n_tasks;
	} cases[] = {
		{"{" ORIGIN ",\"seqNum\":7,\"tasks\":[{},null]}", 0, 2},
		{"{" ORIGIN "}", 0, 0},
		{"{" ORIGIN ",\"tasks\":null,\"seqNum\":null}", 0, 0},
		{"{" ORIGIN ",\"tasks\":{}}", -EINVAL, 0},
		{"{" ORIGIN ",\"seqNum\":\"7\"}", -EINVAL, 0},
		{"{\"messageId\":\"m\",\"clusterArn\":\"c\"}", -ENOENT, 0},
		{"{\"messageId\":\"\",\"clusterArn\":\"c\",\"containerInstanceArn\":\"i\"}",
	         -EINVAL, 0},
		{"{\"messageId\":5,\"clusterArn\":\"c\",\"containerInstanceArn\":\"i\"}", -EINVAL,
	         0},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_json_ struct json_object *message = object(cases[i].text);
		struct acs_payload payload = {0};
		struct err err = {0};
		int r = acs_payload_read(message, &payload, &err);

		if (r != cases[i].want)
			fail_msg("%s: %d %s", cases[i].text, r, err.text);
		if (r < 0)
			continue;
		assert_int_equal(json_object_array_length(payload.tasks), cases[i].n_tasks);
		acs_payload_done(&payload);
	}
}

static void test_one_bad_entry_spoils_a_manifest(void **state)
{
	static const struct {
		const char *text;
		bool good;
		size_t n;
	} cases[] = {
		{"{" ORIGIN ",\"timeline\":5,\"tasks\":[]}", true, 0},
		{"{" ORIGIN ",\"timeline\":5,\"tasks\":[{\"taskArn\":\"a\",\"desiredStatus\":"
	         "\"RUNNING\"}]}",
	         true, 1},
		{"{" ORIGIN ",\"timeline\":5,\"tasks\":[{\"taskArn\":\"a\"},{}]}", false, 0},
		{"{" ORIGIN ",\"timeline\":5,\"tasks\":[null]}", false, 0},
		{"{" ORIGIN ",\"timeline\":5,\"tasks\":[{\"taskArn\":\"\"}]}", false, 0},
		{"{" ORIGIN ",\"timeline\":5,\"tasks\":[{\"taskArn\":\"a\",\"desiredStatus\":1}]}",
	         false, 0},
		{"{" ORIGIN ",\"timeline\":5,\"tasks\":\"a\"}", false, 0},
		{"{" ORIGIN ",\"timeline\":5.5,\"tasks\":[]}", false, 0},
		{"{" ORIGIN ",\"tasks\":[]}", false, 0},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_json_ struct json_object *message = object(cases[i].text);
		struct acs_manifest manifest = {0};
		struct err err = {0};
		int r = acs_manifest_read(message, &manifest, &err);

		if ((r == 0) != cases[i].good || manifest.n_tasks != cases[i].n)
			fail_msg("%s: %d %s", cases[i].text, r, err.text);
		if (r == 0)
			acs_manifest_done(&manifest);
	}
}

static void test_credentials_need_an_id_and_a_known_role_type(void **state)
{
	static const struct {
		const char *text;
		bool good;
	} cases[] = {
		{"{\"messageId\":\"m\",\"taskArn\":\"t\",\"roleType\":\"TaskExecution\","
	         "\"roleCredentials\":{\"credentialsId\":\"c\",\"expiration\":\"e\"}}",
	         true},
		{"{\"messageId\":\"m\",\"taskArn\":\"t\",\"roleType\":\"Instance\","
	         "\"roleCredentials\":{\"credentialsId\":\"c\"}}",
	         false},
		{"{\"messageId\":\"m\",\"taskArn\":\"t\",\"roleType\":\"TaskExecution\","
	         "\"roleCredentials\":{\"credentialsId\":\"\"}}",
	         false},
		{"{\"messageId\":\"m\",\"taskArn\":\"t\",\"roleType\":\"TaskExecution\"}", false},
		{"{\"messageId\":\"m\",\"roleType\":\"TaskExecution\","
	         "\"roleCredentials\":{\"credentialsId\":\"c\"}}",
	         false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		_cleanup_json_ struct json_object *message = object(cases[i].text);
		struct acs_role_credentials credentials = {0};
		int r = acs_role_credentials_read(message, &credentials, NULL);

		if ((r == 0) != cases[i].good)
			fail_msg("%s: %d", cases[i].text, r);
		if (r == 0) {
			assert_string_equal(credentials.expiration, "e");
			assert_string_equal(credentials.access_key_id, "");
		}
	}
}

static void test_refusals_are_read_in_both_forms_and_between_chunks(void **state)
{
	static const struct {
		const char *body, *name, *text;
	} cases[] = {
		{"{\"type\":\"InactiveInstanceException\",\"message\":{\"message\":\"gone\"}}",
	         "InactiveInstanceException", "gone"},
		{"{\"InvalidClusterException\":\"which?\"}", "InvalidClusterException", "which?"},
		{"1f\r\n{\"ServerException\":\"x\"}\r\n0\r\n\r\n", "ServerException", "x"},
		{"<html>", "", ""},
		{"", "", ""},
		{"}{", "", ""},
		{"{\"type\":[],\"message\":7}", "", ""},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct acs_refusal refusal;

		acs_refusal_read(cases[i].body, strlen(cases[i].body), &refusal);
		if (strcmp(refusal.name, cases[i].name) != 0 ||
		    strcmp(refusal.text, cases[i].text) != 0)
			fail_msg("row %zu: '%s' '%s'", i, refusal.name, refusal.text);
	}
}

static void test_answers_have_the_shape_of_the_service(void **state)
{
	static const struct acs_task_identifier task = {"t", "c", "RUNNING"};
	const struct {
		struct json_object *frame;
		const char *want;
	} cases[] = {
		{acs_ack_message("c", "i", "m"),
	         "{\"message\":{\"cluster\":\"c\",\"containerInstance\":\"i\",\"messageId\":\"m\"},"
	         "\"type\":\"AckRequest\"}"},
		{acs_nack_message("c", "i", "m", "r"),
	         "{\"message\":{\"cluster\":\"c\",\"containerInstance\":\"i\",\"messageId\":\"m\","
	         "\"reason\":\"r\"},\"type\":\"NackRequest\"}"},
		{acs_credentials_ack_message("m", "e", "id"),
	         "{\"message\":{\"messageId\":\"m\",\"expiration\":\"e\",\"credentialsId\":\"id\"},"
	         "\"type\":\"IAMRoleCredentialsAckRequest\"}"},
		{acs_heartbeat_ack_message("m"),
	         "{\"message\":{\"messageId\":\"m\"},\"type\":\"HeartbeatAckRequest\"}"},
		{acs_stop_candidates_message("m", &task, 1),
	         "{\"message\":{\"messageId\":\"m\",\"stopCandidates\":[{\"taskArn\":\"t\","
	         "\"taskClusterArn\":\"c\",\"desiredStatus\":\"STOPPED\"}]},"
	         "\"type\":\"TaskStopVerificationMessage\"}"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_string_equal(json_to_text(cases[i].frame, NULL), cases[i].want);
		json_object_put(cases[i].frame);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_types_are_known_by_name),
		cmocka_unit_test(test_what_is_no_message_is_refused),
		cmocka_unit_test(test_payload_needs_its_three_names),
		cmocka_unit_test(test_one_bad_entry_spoils_a_manifest),
		cmocka_unit_test(test_credentials_need_an_id_and_a_known_role_type),
		cmocka_unit_test(test_refusals_are_read_in_both_forms_and_between_chunks),
		cmocka_unit_test(test_answers_have_the_shape_of_the_service),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
