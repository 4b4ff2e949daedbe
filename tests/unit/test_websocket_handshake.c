/* lib/websocket_handshake: the answer to an upgrade, byte by byte. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/cleanup.h"
#include "lib/websocket_handshake.h"

/* RFC 6455 section 1.3. */
#define KEY    "dGhlIHNhbXBsZSBub25jZQ=="
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
#define GOOD                                                                                       \
	"HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nConnection:Upgrade\r\n"         \
	"Sec-WebSocket-Accept: " ACCEPT " \r\n"

static int read_text(const char *text, struct websocket_answer *answer, struct err *err)
{
	return websocket_read_answer(text, strlen(text), KEY, answer, err);
}

static void test_answer_to_our_key_is_taken_and_frames_behind_it_kept(void **state)
{
	struct websocket_answer answer;

	(void)state;
	assert_int_equal(read_text(GOOD "\r\n\x81\x01x", &answer, NULL), 0);
	assert_int_equal(answer.status, 101);
	assert_true(answer.is_complete);
	assert_int_equal(answer.head_len, strlen(GOOD "\r\n"));
}

static void test_incomplete_answer_waits_at_every_length(void **state)
{
	struct websocket_answer answer;

	(void)state;
	for (size_t n = 0; n < strlen(GOOD "\r\n"); n++)
		if (websocket_read_answer(GOOD "\r\n", n, KEY, &answer, NULL) != -EAGAIN)
			fail_msg("%zu bytes", n);
}

static void test_wrong_answers_are_refused(void **state)
{
	static const char *const cases[] = {
		"SSH-2.0-OpenSSH_9.2\r\n\r\n",
		"HTTP/1.1 101 X\r\n\r\n",
		"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
		"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
		"Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n",
		"HTTP/1.1 101 X\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " ACCEPT
		"\r\n\r\n",
		GOOD "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
		GOOD "Sec-WebSocket-Protocol: x\r\n\r\n",
		"HTTP/1.1 xyz\r\n\r\n",
		"HTTP/1.1 000 X\r\n\r\n",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct websocket_answer answer;
		struct err err = {0};

		if (read_text(cases[i], &answer, &err) != -EPROTO || !err.text[0])
			fail_msg("row %zu was taken", i);
	}
}

static void test_body_of_a_refusal_ends_by_length_or_last_chunk(void **state)
{
	static const struct {
		const char *text;
		bool complete;
		const char *body;
	} cases[] = {
		{"HTTP/1.1 400 X\r\nContent-Length: 4\r\n\r\nab", false, "ab"},
		{"HTTP/1.1 400 X\r\nContent-Length: 4\r\n\r\nabcd", true, "abcd"},
		{"HTTP/1.1 400 X\r\nContent-Length: 0\r\n\r\n", true, ""},
		{"HTTP/1.1 400 X\r\nContent-Length: -1\r\n\r\n", false, ""},
		{"HTTP/1.1 400 X\r\n\r\nabcd", false, "abcd"},
		{"HTTP/1.1 400 X\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", false,
	         "1\r\na\r\n"},
		{"HTTP/1.1 400 X\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", true,
	         "1\r\na\r\n0\r\n\r\n"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct websocket_answer answer;

		assert_int_equal(read_text(cases[i].text, &answer, NULL), 0);
		assert_int_equal(answer.status, 400);
		if (answer.is_complete != cases[i].complete ||
		    answer.body_len != strlen(cases[i].body) ||
		    strcmp(answer.body, cases[i].body) != 0)
			fail_msg("row %zu", i);
	}
}

static void test_request_holds_path_query_and_signature(void **state)
{
	char host[] = "h:1", authorization[] = "AWS4 x", token[] = "tok";
	const struct sigv4_signature signature = {.host = host,
	                                          .authorization = authorization,
	                                          .security_token = token,
	                                          .date = "20260701T100000Z"};
	_cleanup_free_ char *request = NULL;
	struct url url;

	(void)state;
	assert_int_equal(url_split("wss://h:1/ws?a=b%20c", &url, NULL), 0);
	request = websocket_request(&url, &signature, KEY);
	assert_string_equal(request,
	                    "GET /ws?a=b%20c HTTP/1.1\r\nHost: h:1\r\nUpgrade: websocket\r\n"
	                    "Connection: Upgrade\r\nSec-WebSocket-Key: " KEY "\r\n"
	                    "Sec-WebSocket-Version: 13\r\nX-Amz-Date: 20260701T100000Z\r\n"
	                    "X-Amz-Security-Token: tok\r\nAuthorization: AWS4 x\r\n\r\n");
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_answer_to_our_key_is_taken_and_frames_behind_it_kept),
		cmocka_unit_test(test_incomplete_answer_waits_at_every_length),
		cmocka_unit_test(test_wrong_answers_are_refused),
		cmocka_unit_test(test_body_of_a_refusal_ends_by_length_or_last_chunk),
		cmocka_unit_test(test_request_holds_path_query_and_signature),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
