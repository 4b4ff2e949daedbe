/* lib/http: requests against a small server in a child process. */
#include "tests/unit/cmocka_prelude.h"

#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/http.h"
#include "lib/loop.h"

#define LARGE (4 * 1024 * 1024)

/* ---- the server: one connection after the other, each with its own process ---- */

static void answer(int fd, const char *request)
{
	static char large[LARGE];
	char text[8192];

	if (strncmp(request, "GET /large ", 11) == 0) {
		memset(large, 'x', sizeof(large));
		dprintf(fd, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", LARGE);
		(void)fd_write_all(fd, large, sizeof(large));
	} else if (strncmp(request, "GET /hang ", 10) == 0) {
		pause();
	} else if (strncmp(request, "GET /cut ", 9) == 0) {
		dprintf(fd, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
		_exit(0);
	} else if (strncmp(request, "GET /garbage ", 13) == 0) {
		dprintf(fd, "220 mail.example ESMTP\r\n\r\n");
		_exit(0);
	} else if (strncmp(request, "GET /moved ", 11) == 0) {
		dprintf(fd, "HTTP/1.1 302 X\r\nLocation: http://127.0.0.1:1/\r\n"
		            "Content-Length: 0\r\n\r\n");
	} else {
		snprintf(text, sizeof(text), "%s", request);
		dprintf(fd,
		        "HTTP/1.1 100 Continue\r\nX-Interim: 1\r\n\r\nHTTP/1.1 404 No\r\n"
		        "X-Twice: a\r\nx-twice:  b \r\nContent-Length: %zu\r\n\r\n%s",
		        strlen(text), text);
	}
}

static void serve_connection(int fd)
{
	char request[8192];
	size_t n = 0;
	ssize_t got;

	while ((got = read(fd, request + n, sizeof(request) - 1 - n)) > 0) {
		n += (size_t)got;
		request[n] = '\0';
		if (strstr(request, "\r\n\r\n")) {
			answer(fd, request);
			n = 0;
		}
	}
	_exit(0);
}

struct fixture {
	pid_t server;
	int port;
	sd_event *loop;
	struct http_client *client;
	struct http_request *request;
	struct http_request *other;
	int n_done;
	int r;
	struct err err;
	size_t n_body;
	int n_pauses;
};

static int listen_anywhere(int *ret_port)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
	socklen_t len = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, len), 0);
	assert_int_equal(listen(fd, 64), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
	*ret_port = ntohs(address.sin_port);
	return fd;
}

static void serve(int listener)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGCHLD, SIG_IGN);
	for (;;) {
		int fd = accept(listener, NULL, NULL);

		if (fd >= 0 && fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			close(listener);
			serve_connection(fd);
		}
		close(fd);
	}
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	int listener = listen_anywhere(&f->port);

	f->server = fork();
	if (f->server == 0)
		serve(listener);
	close(listener);
	assert_int_equal(sd_event_new(&f->loop), 0);
	assert_int_equal(http_client_new(f->loop, NULL, "test/1", &f->client, NULL), 0);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	http_request_free(f->request);
	http_request_free(f->other);
	http_client_free(f->client);
	sd_event_unref(f->loop);
	kill(f->server, SIGKILL);
	waitpid(f->server, NULL, 0);
	free(f);
	return 0;
}

static void done(int r, const struct err *err, void *userdata)
{
	struct fixture *f = userdata;

	f->n_done++;
	f->r = r;
	f->err = *err;
}

static int start(struct fixture *f, const char *path, struct http_request_options options,
                 struct http_request **ret)
{
	char url[128];

	snprintf(url, sizeof(url), "http://127.0.0.1:%d%s", f->port, path);
	options.url = url;
	return http_request_start(f->client, &options, done, f, ret, NULL);
}

/* Run the loop until so many requests are done. */
static void run_until_done(struct fixture *f, int n)
{
	uint64_t deadline = now_usec() + 60 * 1000000ULL;

	while (f->n_done < n) {
		assert_true(now_usec() < deadline);
		assert_true(sd_event_run(f->loop, 1000000) >= 0);
	}
}

static void test_answer_is_collected_whatever_its_status(void **state)
{
	static const struct http_header header = {"X-Mine", "v"};
	struct fixture *f = *state;
	const char *body;
	size_t len;

	assert_int_equal(start(f, "/echo?a=%20b",
	                       (struct http_request_options){
				       .method = "PUT", .headers = &header, .n_headers = 1},
	                       &f->request),
	                 0);
	assert_int_equal(f->n_done, 0); /* never before start has returned */
	run_until_done(f, 1);
	assert_int_equal(f->r, 0);
	assert_int_equal(http_request_status(f->request), 404);
	assert_string_equal(http_request_header(f->request, "X-TWICE"), "b");
	assert_null(http_request_header(f->request, "X-Interim"));
	body = http_request_body(f->request, &len);
	assert_int_equal(strlen(body), len);
	assert_non_null(strstr(body, "PUT /echo?a=%20b HTTP/1.1\r\n"));
	assert_non_null(strstr(body, "X-Mine: v\r\n"));
	assert_non_null(strstr(body, "User-Agent: test/1\r\n"));
	assert_non_null(strstr(body, "Content-Length: 0\r\n"));
	assert_null(strstr(body, "Content-Type"));
	assert_null(strstr(body, "Expect"));
}

static void test_redirects_are_not_followed(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(start(f, "/moved", (struct http_request_options){0}, &f->request), 0);
	run_until_done(f, 1);
	assert_int_equal(f->r, 0);
	assert_int_equal(http_request_status(f->request), 302);
	assert_string_equal(http_request_header(f->request, "Location"), "http://127.0.0.1:1/");
}

static void test_signed_request_carries_what_was_signed(void **state)
{
	_cleanup_(aws_keys_unrefp) struct aws_keys *keys =
		aws_keys_new("AKID", "secret", "the-token", AWS_KEYS_NO_EXPIRY);
	_cleanup_(aws_keys_unrefp) struct aws_keys *ended = aws_keys_new("AKID", "secret", NULL, 1);
	struct http_signing signing = {.keys = keys, .region = "r", .service = "ecs"};
	struct fixture *f = *state;
	char host[64];

	assert_int_equal(
		start(f, "/x", (struct http_request_options){.signing = &signing}, &f->request), 0);
	run_until_done(f, 1);
	snprintf(host, sizeof(host), "Host: 127.0.0.1:%d\r\n", f->port);
	assert_non_null(strstr(http_request_body(f->request, NULL), host));
	assert_non_null(
		strstr(http_request_body(f->request, NULL), "X-Amz-Security-Token: the-token"));
	assert_non_null(strstr(http_request_body(f->request, NULL),
	                       "SignedHeaders=host;x-amz-date;x-amz-security-token"));
	signing.keys = ended;
	assert_int_equal(
		start(f, "/x", (struct http_request_options){.signing = &signing}, &f->other),
		-EKEYEXPIRED);
}

static void test_failures_have_their_errno_and_name_only_the_server(void **state)
{
	static const struct {
		const char *path;
		int want;
	} cases[] = {
		{"/large", -EFBIG},
		{"/cut", -ECONNRESET},
		{"/garbage", -EPROTO},
		{"/hang", -ETIMEDOUT},
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		f->request = http_request_free(f->request);
		assert_int_equal(start(f, cases[i].path,
		                       (struct http_request_options){.timeout_usec = 300000,
		                                                     .max_body_bytes = 1000},
		                       &f->request),
		                 0);
		run_until_done(f, (int)i + 1);
		if (f->r != cases[i].want || !f->err.text[0] || strstr(f->err.text, cases[i].path))
			fail_msg("%s: %d '%s'", cases[i].path, f->r, f->err.text);
	}
	kill(f->server, SIGKILL);
	waitpid(f->server, NULL, 0);
	http_client_free(f->client); /* with its idle connections */
	assert_int_equal(http_client_new(f->loop, NULL, NULL, &f->client, NULL), 0);
	f->request = http_request_free(f->request);
	assert_int_equal(start(f, "/secret", (struct http_request_options){0}, &f->request), 0);
	run_until_done(f, (int)ARRAY_SIZE(cases) + 1);
	assert_int_equal(f->r, -ECONNREFUSED);
	assert_null(strstr(f->err.text, "secret"));
}

static void test_bad_options_are_refused_at_once(void **state)
{
	static const struct http_header bad = {"X", "a\nb"};
	struct fixture *f = *state;
	struct err err = {0};

	assert_int_equal(start(f, "/a b", (struct http_request_options){0}, &f->request), -EINVAL);
	assert_int_equal(start(f, "/",
	                       (struct http_request_options){.headers = &bad, .n_headers = 1},
	                       &f->request),
	                 -EINVAL);
	assert_int_equal(start(f, "/", (struct http_request_options){.method = "G T"}, &f->request),
	                 -EINVAL);
	assert_int_equal(
		http_request_start(f->client,
	                           &(struct http_request_options){.url = "file:///etc/passwd"},
	                           done, f, &f->request, &err),
		-EINVAL);
	assert_int_equal(http_request_start(f->client,
	                                    &(struct http_request_options){.url = "ftp://host/x"},
	                                    done, f, &f->request, &err),
	                 -EPERM);
	assert_null(f->request);
}

static int take_with_pauses(struct http_request *request, const void *data, size_t n,
                            void *userdata)
{
	struct fixture *f = userdata;

	(void)data;
	if (f->n_pauses < 3 && f->n_body >= (size_t)(f->n_pauses + 1) * 100000) {
		f->n_pauses++;
		http_request_resume(request);
		return HTTP_PAUSE;
	}
	f->n_body += n;
	return 0;
}

static void test_paused_body_comes_whole_after_it_is_resumed(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(start(f, "/large",
	                       (struct http_request_options){.on_body = take_with_pauses},
	                       &f->request),
	                 0);
	run_until_done(f, 1);
	assert_int_equal(f->r, 0);
	assert_int_equal(f->n_pauses, 3);
	assert_int_equal(f->n_body, LARGE);
}

static int refuse_body(struct http_request *request, const void *data, size_t n, void *userdata)
{
	(void)request;
	(void)data;
	(void)n;
	(void)userdata;
	return -EBADMSG;
}

static void test_body_callback_ends_the_request_with_its_error(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(start(f, "/large", (struct http_request_options){.on_body = refuse_body},
	                       &f->request),
	                 0);
	run_until_done(f, 1);
	assert_int_equal(f->r, -EBADMSG);
}

static int free_both(struct http_request *request, const void *data, size_t n, void *userdata)
{
	struct fixture *f = userdata;

	(void)request;
	(void)data;
	(void)n;
	f->n_body++;
	f->request = http_request_free(f->request);
	f->other = http_request_free(f->other);
	return 0;
}

static void test_freed_in_a_body_callback_nothing_is_called_any_more(void **state)
{
	struct fixture *f = *state;
	struct http_request *last = NULL;

	assert_int_equal(start(f, "/large", (struct http_request_options){.on_body = free_both},
	                       &f->request),
	                 0);
	assert_int_equal(
		start(f, "/large", (struct http_request_options){.on_body = free_both}, &f->other),
		0);
	while (f->n_body == 0)
		assert_true(sd_event_run(f->loop, 1000000) >= 0);
	assert_int_equal(start(f, "/x", (struct http_request_options){0}, &last), 0);
	run_until_done(f, 1);
	assert_int_equal(f->n_body, 1);
	assert_int_equal(f->n_done, 1);
	http_request_free(last);
}

static void free_in_done(int r, const struct err *err, void *userdata)
{
	struct fixture *f = userdata;

	done(r, err, f);
	f->request = http_request_free(f->request);
	f->client = http_client_free(f->client);
}

static void test_request_and_client_may_be_freed_in_done(void **state)
{
	struct fixture *f = *state;
	char url[64];

	snprintf(url, sizeof(url), "http://127.0.0.1:%d/x", f->port);
	assert_int_equal(http_request_start(f->client, &(struct http_request_options){.url = url},
	                                    free_in_done, f, &f->request, NULL),
	                 0);
	run_until_done(f, 1);
	assert_null(f->request);
}

int main(void)
{
#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
	static const struct CMUnitTest tests[] = {
		TEST(test_answer_is_collected_whatever_its_status),
		TEST(test_redirects_are_not_followed),
		TEST(test_signed_request_carries_what_was_signed),
		TEST(test_failures_have_their_errno_and_name_only_the_server),
		TEST(test_bad_options_are_refused_at_once),
		TEST(test_paused_body_comes_whole_after_it_is_resumed),
		TEST(test_body_callback_ends_the_request_with_its_error),
		TEST(test_freed_in_a_body_callback_nothing_is_called_any_more),
		TEST(test_request_and_client_may_be_freed_in_done),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
