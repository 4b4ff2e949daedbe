/* agent/logs/keys: against an ecs-metadata that is made of lib/ipc in the same loop. */
#include "tests/unit/spool_fixture.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "agent/logs/keys.h"
#include "iam-creds/protocol.h"
#include "lib/ipc_event.h"
#include "lib/json.h"
#include "lib/loop.h"

struct metadata {
	sd_event *loop;
	int listen_fd;
	struct ipc_event *conn;
	const char *answer; /* JSON of what is sent, but for "seq"; NULL: nothing */
	unsigned int asked, changed;
};

static void on_request(struct ipc_event *conn, struct ipc_message *msg, void *userdata)
{
	struct metadata *m = userdata;
	_cleanup_json_ struct json_object *body = NULL;
	uint64_t seq = 0;

	assert_string_equal(json_text(msg->body, "type"), "get-credentials");
	assert_string_equal(json_text(msg->body, "credentialsId"), "exec");
	assert_int_equal(json_get_u64(msg->body, "seq", UINT64_MAX, &seq, NULL), 0);
	m->asked++;
	if (!m->answer)
		return;
	assert_int_equal(json_parse_object(m->answer, strlen(m->answer), 4096, &body, NULL), 0);
	assert_int_equal(json_add_u64(body, "seq", seq), 0);
	assert_int_equal(ipc_event_send(conn, body, NULL, 0), 0);
}

static void on_end(struct ipc_event *conn, int r, const struct err *err, void *userdata)
{
	struct metadata *m = userdata;

	(void)r;
	(void)err;
	assert_ptr_equal(conn, m->conn);
	m->conn = ipc_event_free(m->conn);
}

static int on_connect(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
	struct metadata *m = userdata;
	struct ipc_conn *conn = NULL;
	int peer = accept4(fd, NULL, NULL, SOCK_CLOEXEC);

	(void)s;
	(void)revents;
	assert_true(peer >= 0);
	m->conn = ipc_event_free(m->conn);
	assert_int_equal(ipc_conn_new(peer, 0, false, &conn), 0);
	assert_int_equal(ipc_event_new(m->loop, conn, on_request, on_end, m, &m->conn), 0);
	return 0;
}

static void on_changed(void *userdata)
{
	struct metadata *m = userdata;

	m->changed++;
}

static void start(struct metadata *m, const struct spool_fixture *f)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", f->path, METADATA_SOCKET);
	(void)mkdirat(f->dir_fd, "metadata", 0755);
	m->listen_fd = ipc_listen(path, 0600, (gid_t)-1, NULL);
	assert_true(m->listen_fd >= 0);
	assert_true(sd_event_add_io(m->loop, NULL, m->listen_fd, EPOLLIN, on_connect, m) >= 0);
}

static int on_deadline(sd_event_source *s, uint64_t usec, void *userdata)
{
	(void)s;
	(void)usec;
	(void)userdata;
	fail_msg("not within 20 s");
	return -1;
}

/* Runs the loop until the keys answer as expected. */
static struct aws_keys *run_until(struct metadata *m, struct log_keys *keys, int r)
{
	_cleanup_(sd_event_source_disable_unrefp) sd_event_source *deadline = NULL;
	struct aws_keys *found = NULL;

	assert_true(loop_add_timer(m->loop, 20000000, 0, on_deadline, NULL, &deadline) >= 0);
	while (log_keys_get(keys, "exec", &found, NULL) != r)
		assert_true(sd_event_run(m->loop, UINT64_MAX) >= 0);
	return found;
}

static void run_until_changed(struct metadata *m, unsigned int n)
{
	_cleanup_(sd_event_source_disable_unrefp) sd_event_source *deadline = NULL;

	assert_true(loop_add_timer(m->loop, 20000000, 0, on_deadline, NULL, &deadline) >= 0);
	while (m->changed < n)
		assert_true(sd_event_run(m->loop, UINT64_MAX) >= 0);
}

static void test_keys_are_asked_for_once_and_kept(void **state)
{
	struct spool_fixture *f = *state;
	_cleanup_(sd_event_unrefp) sd_event *loop = NULL;
	_cleanup_(log_keys_freep) struct log_keys *keys = NULL;
	struct metadata m = {
		.answer =
			"{\"type\":\"credentials\",\"accessKeyId\":\"A\",\"secretAccessKey\":\"S\","
			"\"sessionToken\":\"T\",\"expiration\":\"2999-01-01T00:00:00Z\"}"};
	struct aws_keys *found;

	assert_true(sd_event_new(&loop) >= 0);
	m.loop = loop;
	start(&m, f);
	assert_int_equal(log_keys_new(loop, f->path, on_changed, &m, &keys, NULL), 0);
	assert_int_equal(log_keys_get(keys, "exec", &found, NULL), -EAGAIN);
	assert_int_equal(log_keys_get(keys, "exec", &found, NULL), -EAGAIN);
	found = run_until(&m, keys, 0);
	assert_string_equal(aws_keys_access_key_id(found), "A");
	assert_string_equal(aws_keys_session_token(found), "T");
	assert_int_equal(m.asked, 1);
	assert_int_equal(m.changed, 1);

	/* Refused by AWS: asked for again. */
	log_keys_refused(keys, "exec");
	assert_int_equal(log_keys_get(keys, "exec", &found, NULL), -EAGAIN);
	run_until(&m, keys, 0);
	assert_int_equal(m.asked, 2);
	ipc_event_free(m.conn);
	close(m.listen_fd);
}

static void test_every_failure_is_told_and_tried_again(void **state)
{
	static const struct {
		const char *answer, *says;
		int r; /* 0: -EAGAIN */
	} rows[] = {
		{"{\"type\":\"error\",\"code\":\"EAGAIN\",\"message\":\"announced\"}", "announced",
	         0},
		{"{\"type\":\"error\",\"code\":\"ENOENT\",\"message\":\"unknown\"}", "unknown",
	         -ENOENT},
		{"{\"type\":\"credentials\",\"accessKeyId\":\"A\"}", "secretAccessKey", 0},
		{"{\"type\":\"credentials\",\"accessKeyId\":\"A\",\"secretAccessKey\":\"S\","
	         "\"expiration\":\"2001-01-01T00:00:00Z\"}",
	         "expired", 0},
		{"{\"type\":\"credentials\",\"accessKeyId\":\"A\",\"secretAccessKey\":\"S\","
	         "\"expiration\":\"tomorrow\"}",
	         "tomorrow", 0},
		{"{\"type\":\"surprise\"}", "surprise", 0},
	};
	struct spool_fixture *f = *state;
	_cleanup_(sd_event_unrefp) sd_event *loop = NULL;
	_cleanup_(log_keys_freep) struct log_keys *keys = NULL;
	struct metadata m = {0};
	struct aws_keys *found;
	struct err err = {0};

	assert_true(sd_event_new(&loop) >= 0);
	m.loop = loop;
	assert_int_equal(log_keys_new(loop, f->path, on_changed, &m, &keys, NULL), 0);
	assert_int_equal(log_keys_get(keys, "exec", &found, &err), -EAGAIN);
	assert_non_null(strstr(err.text, "No such file"));
	start(&m, f);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		m.answer = rows[i].answer;
		run_until_changed(&m, m.changed + 1);
		assert_int_equal(log_keys_get(keys, "exec", &found, &err),
		                 rows[i].r ? rows[i].r : -EAGAIN);
		if (!strstr(err.text, rows[i].says))
			print_error("row %zu: %s\n", i, err.text);
		assert_non_null(strstr(err.text, rows[i].says));
	}
	m.answer = "{\"type\":\"credentials\",\"accessKeyId\":\"A\",\"secretAccessKey\":\"S\"}";
	run_until(&m, keys, 0);
	ipc_event_free(m.conn);
	close(m.listen_fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		spool_test(test_keys_are_asked_for_once_and_kept),
		spool_test(test_every_failure_is_told_and_tried_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
