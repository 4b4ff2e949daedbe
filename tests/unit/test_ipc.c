/* lib/ipc: framing, descriptors, limits and broken peers, over real sockets. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/ipc_event.h"
#include "lib/json.h"
#include "lib/loop.h"

struct pair {
	struct ipc_conn *a, *b;
	int raw; /* the end of a, when b is not made */
};

static void pair_make(struct pair *pair, size_t max, bool raw)
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(ipc_conn_new(fds[0], max, true, &pair->a), 0);
	pair->b = NULL;
	pair->raw = fds[1];
	if (!raw)
		assert_int_equal(ipc_conn_new(fds[1], max, false, &pair->b), 0);
}

static void pair_done(struct pair *pair)
{
	ipc_conn_free(pair->a);
	if (pair->b)
		ipc_conn_free(pair->b);
	else
		fd_close(pair->raw);
}

static void send_type(struct ipc_conn *conn, const char *type, const int *fds, size_t n)
{
	_cleanup_json_ struct json_object *body = ipc_message_new(type, NULL);

	assert_int_equal(ipc_conn_send(conn, body, fds, n), 0);
}

static void test_descriptors_stay_with_their_message(void **state)
{
	struct pair pair;
	struct ipc_message msg = {0};
	int pipes[2];
	char c;

	(void)state;
	pair_make(&pair, 0, false);
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	send_type(pair.a, "first", NULL, 0);
	send_type(pair.a, "second", &pipes[0], 1);
	send_type(pair.a, "third", NULL, 0);
	fd_close(pipes[0]);

	assert_int_equal(ipc_conn_receive(pair.b, &msg, NULL), 1);
	assert_string_equal(json_text(msg.body, "type"), "first");
	assert_int_equal(msg.n_fds, 0);
	ipc_message_done(&msg);
	assert_int_equal(ipc_conn_receive(pair.b, &msg, NULL), 1);
	assert_int_equal(msg.n_fds, 1);
	assert_true(fcntl(msg.fds[0], F_GETFD) & FD_CLOEXEC);
	assert_int_equal(write(pipes[1], "x", 1), 1);
	assert_int_equal(read(msg.fds[0], &c, 1), 1);
	ipc_message_done(&msg);
	assert_int_equal(ipc_conn_receive(pair.b, &msg, NULL), 1);
	assert_int_equal(msg.n_fds, 0);
	ipc_message_done(&msg);
	assert_int_equal(ipc_conn_receive(pair.b, &msg, NULL), 0);
	fd_close(pipes[1]);
	pair_done(&pair);
}

static void test_a_large_message_goes_through_in_pieces(void **state)
{
	_cleanup_json_ struct json_object *body = ipc_message_new("large", NULL);
	_cleanup_free_ char *text = malloc(2000001);
	struct ipc_message msg = {0};
	struct pair pair;
	int r = 0;

	(void)state;
	memset(text, 'x', 2000000);
	text[2000000] = '\0';
	assert_int_equal(json_add_string(body, "text", text), 0);
	pair_make(&pair, 0, false);
	assert_int_equal(ipc_conn_send(pair.a, body, NULL, 0), 0);
	assert_true(ipc_conn_wants_write(pair.a));
	for (int i = 0; i < 10000 && r == 0; i++) {
		assert_int_equal(ipc_conn_flush(pair.a), 0);
		r = ipc_conn_receive(pair.b, &msg, NULL);
	}
	assert_int_equal(r, 1);
	assert_string_equal(json_text(msg.body, "text"), text);
	ipc_message_done(&msg);
	pair_done(&pair);
}

static void test_broken_peers_are_told_apart(void **state)
{
	static const struct {
		const char *bytes;
		size_t n;
		int r;
	} cases[] = {
		{"", 0, -EPIPE},
		{"\x02\x00", 2, -EPROTO},
		{"\x05\x00\x00\x00{}", 6, -EPROTO},
		{"\x02\x00\x00\x00{}", 6, -EPROTO},
		{"\x02\x00\x00\x00[]", 6, -EPROTO},
		{"\x03\x00\x00\x00{x}", 7, -EPROTO},
		{"\x00\x00\x00\x00", 4, -EPROTO},
		{"\xff\xff\xff\x7f", 4, -EMSGSIZE},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct ipc_message msg = {0};
		struct err err = {0};
		struct pair pair;

		pair_make(&pair, 1024, true);
		assert_int_equal(write(pair.raw, cases[i].bytes, cases[i].n), cases[i].n);
		shutdown(pair.raw, SHUT_WR);
		assert_int_equal(ipc_conn_receive(pair.a, &msg, &err), cases[i].r);
		assert_true(err.text[0]);
		pair_done(&pair);
	}
}

static void test_errors_keep_code_name_and_seq(void **state)
{
	static const char text[] = "{\"type\":\"start\",\"seq\":7}";
	_cleanup_json_ struct json_object *request = NULL;
	struct err err = {.name = "CannotStartContainerError"}, got = {0};
	struct ipc_message msg = {0};
	struct pair pair;

	(void)state;
	assert_int_equal(json_parse_object(text, strlen(text), 100, &request, NULL), 0);
	err_text(&err, 0, "no such file");
	pair_make(&pair, 0, false);
	assert_int_equal(ipc_conn_send_error(pair.a, request, -ENOENT, &err), 0);
	assert_int_equal(ipc_conn_receive(pair.b, &msg, NULL), 1);
	assert_int_equal(ipc_message_error(msg.body, &got), -ENOENT);
	assert_string_equal(got.text, "no such file");
	assert_string_equal(got.name, "CannotStartContainerError");
	assert_int_equal(json_object_get_int(json_get(msg.body, "seq")), 7);
	ipc_message_done(&msg);
	pair_done(&pair);
	assert_null(ecs_reason_name("NoSuchName"));
}

struct seen {
	sd_event *loop;
	struct ipc_event *conn;
	int messages, ends, end_r;
};

static void on_message(struct ipc_event *conn, struct ipc_message *msg, void *userdata)
{
	struct seen *seen = userdata;

	(void)msg;
	if (++seen->messages == 2) {
		seen->conn = ipc_event_free(conn); /* freeing inside a callback cancels the rest */
		sd_event_exit(seen->loop, 0);
	}
}

static void on_end(struct ipc_event *conn, int r, const struct err *err, void *userdata)
{
	struct seen *seen = userdata;

	(void)conn;
	(void)err;
	seen->ends++;
	seen->end_r = r;
	sd_event_exit(seen->loop, 0);
}

static void run_loop(struct seen *seen, int messages)
{
	struct pair pair;
	struct ipc_conn *b;
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(ipc_conn_new(fds[0], 0, false, &pair.a), 0);
	assert_int_equal(ipc_conn_new(fds[1], 0, false, &b), 0);
	assert_int_equal(ipc_event_new(seen->loop, b, on_message, on_end, seen, &seen->conn), 0);
	for (int i = 0; i < messages; i++)
		send_type(pair.a, "tick", NULL, 0);
	ipc_conn_free(pair.a);
	assert_int_equal(sd_event_loop(seen->loop), 0);
}

static void test_the_loop_reports_messages_then_the_end(void **state)
{
	struct err err = {0};
	struct seen seen = {0};

	(void)state;
	assert_int_equal(loop_new(&seen.loop, &err), 0);
	run_loop(&seen, 1);
	assert_int_equal(seen.messages, 1);
	assert_int_equal(seen.ends, 1);
	assert_int_equal(seen.end_r, -EPIPE);
	ipc_event_free(seen.conn);
	sd_event_unref(seen.loop);
}

/* As of a launcher that refuses: it answers and closes before it is asked. */
static void test_the_last_message_is_read_though_nothing_can_be_sent(void **state)
{
	struct json_object *body = ipc_message_new("ask", NULL);
	struct ipc_message answer;
	struct ipc_conn *a, *b;
	struct err err = {0};
	struct seen seen = {0};
	int fds[2];

	(void)state;
	assert_int_equal(loop_new(&seen.loop, &err), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(ipc_conn_new(fds[0], 0, false, &a), 0);
	assert_int_equal(ipc_conn_new(fds[1], 0, false, &b), 0);
	assert_int_equal(ipc_event_new(seen.loop, b, on_message, on_end, &seen, &seen.conn), 0);
	send_type(a, "refused", NULL, 0);
	ipc_conn_free(a);
	assert_int_equal(ipc_event_send(seen.conn, body, NULL, 0), 0);
	assert_int_equal(sd_event_loop(seen.loop), 0);
	assert_int_equal(seen.messages, 1);
	assert_int_equal(seen.ends, 1);
	assert_int_equal(ipc_event_send(seen.conn, body, NULL, 0), -EPIPE);
	ipc_event_free(seen.conn);
	sd_event_unref(seen.loop);

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	assert_int_equal(ipc_conn_new(fds[0], 0, false, &a), 0);
	send_type(a, "refused", NULL, 0);
	ipc_conn_free(a);
	assert_int_equal(ipc_call(fds[1], body, NULL, 0, 10000000, &answer, &err), 0);
	assert_string_equal(json_text(answer.body, "type"), "refused");
	ipc_message_done(&answer);
	fd_close(fds[1]);
	json_object_put(body);
}

static void test_freeing_inside_a_callback_cancels(void **state)
{
	struct err err = {0};
	struct seen seen = {0};

	(void)state;
	assert_int_equal(loop_new(&seen.loop, &err), 0);
	run_loop(&seen, 3);
	assert_int_equal(seen.messages, 2);
	assert_int_equal(seen.ends, 0);
	sd_event_unref(seen.loop);
}

static void test_a_socket_has_one_listener_and_its_mode(void **state)
{
	char dir[] = "/tmp/test-ipc-XXXXXX", path[64];
	struct err err = {0};
	struct stat st;
	int fd, again;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/s", dir);
	fd = ipc_listen(path, 0600, (gid_t)-1, &err);
	assert_true(fd >= 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(ipc_listen(path, 0600, (gid_t)-1, &err), -EADDRINUSE);
	fd_close(fd);
	again = ipc_listen(path, 0600, (gid_t)-1, &err);
	assert_true(again >= 0);
	fd_close(again);
	unlink(path);
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_descriptors_stay_with_their_message),
		cmocka_unit_test(test_a_large_message_goes_through_in_pieces),
		cmocka_unit_test(test_broken_peers_are_told_apart),
		cmocka_unit_test(test_errors_keep_code_name_and_seq),
		cmocka_unit_test(test_the_loop_reports_messages_then_the_end),
		cmocka_unit_test(test_the_last_message_is_read_though_nothing_can_be_sent),
		cmocka_unit_test(test_freeing_inside_a_callback_cancels),
		cmocka_unit_test(test_a_socket_has_one_listener_and_its_mode),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
