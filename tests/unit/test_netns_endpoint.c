/* The link-local endpoint, seen from inside its namespace. Needs root. (Neighbours, which need
 * links, are in tests/integration/test_network.py.) */
#include "tests/unit/cmocka_prelude.h"

#include "lib/fd.h"
#include "netns/endpoint.h"
#include "netns/netns.h"

#include <arpa/inet.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

struct fixture {
	int netns;
	struct endpoint endpoint;
};

static int fixture_open(void **state)
{
	static struct fixture fixture;
	struct err err = {0};

	*state = NULL;
	if (geteuid() != 0)
		return 0;
	fixture = (struct fixture){.netns = -EBADF, .endpoint = ENDPOINT_EMPTY};
	if (netns_create(&fixture.netns, &err) < 0 ||
	    endpoint_open(fixture.netns, &fixture.endpoint, &err) < 0) {
		print_error("%s\n", err.text);
		return -1;
	}
	*state = &fixture;
	return 0;
}

static int fixture_close(void **state)
{
	struct fixture *f = *state;

	if (!f)
		return 0;
	endpoint_close(&f->endpoint);
	f->netns = fd_close(f->netns);
	return 0;
}

static struct fixture *fixture_get(void **state)
{
	if (!*state) {
		print_message("network namespaces and BPF need root\n");
		skip();
	}
	return *state;
}

struct socket_plan {
	const char *address;
	uint16_t port;
	int options[3]; /* of SOL_SOCKET, ends with 0 */
	bool listens;   /* or connects */
	int fd;         /* -errno of bind(2), listen(2) or connect(2) */
};

static int socket_make(void *arg, struct err *err)
{
	struct socket_plan *plan = arg;
	_cleanup_close_ int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in address = {.sin_family = AF_INET,
	                              .sin_port = htons(plan->port),
	                              .sin_addr.s_addr = inet_addr(plan->address)};

	(void)err;
	for (const int *option = plan->options; *option; option++)
		assert_int_equal(setsockopt(fd, SOL_SOCKET, *option, &(int){1}, sizeof(int)), 0);
	if (plan->listens) {
		if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 8) < 0)
			return -errno;
	} else if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		return -errno;
	}
	return TAKE_FD(fd);
}

static int listen_inside(struct fixture *f, const char *address, uint16_t port, const int *options)
{
	struct socket_plan plan = {.address = address, .port = port, .listens = true};

	for (size_t i = 0; options && options[i]; i++)
		plan.options[i] = options[i];
	return netns_run(f->netns, socket_make, &plan, NULL);
}

static int connect_inside(struct fixture *f, const char *address, uint16_t port)
{
	struct socket_plan plan = {.address = address, .port = port};

	return netns_run(f->netns, socket_make, &plan, NULL);
}

static bool has_connection(int listener)
{
	struct pollfd waiting = {.fd = listener, .events = POLLIN};

	return poll(&waiting, 1, 0) == 1;
}

/* A connection over loopback is in the queue of its listener when connect(2) returns. The client
 * closes first, so that TIME_WAIT is on its side: on port 80 it would be in the way of a later
 * bind(2) without SO_REUSEADDR. */
static void expect_endpoint_gets(struct fixture *f, uint16_t port, int other)
{
	struct sockaddr_in peer;
	socklen_t len = sizeof(peer);
	_cleanup_close_ int server = -EBADF;
	_cleanup_close_ int client = connect_inside(f, ENDPOINT_ADDRESS, port);

	assert_true(client >= 0);
	assert_true(has_connection(f->endpoint.socket_fd));
	if (other >= 0)
		assert_false(has_connection(other));
	server = accept4(f->endpoint.socket_fd, (struct sockaddr *)&peer, &len, SOCK_CLOEXEC);
	assert_true(server >= 0);
	assert_string_equal(inet_ntoa(peer.sin_addr), ENDPOINT_ADDRESS);
	assert_int_equal(write(client, "x", 1), 1);
	assert_int_equal(read(server, &(char){0}, 1), 1);
}

static void test_port_80_and_51679_lead_to_the_socket(void **state)
{
	struct fixture *f = fixture_get(state);

	assert_true(fcntl(f->endpoint.socket_fd, F_GETFL) & O_NONBLOCK);
	expect_endpoint_gets(f, 80, -EBADF);
	expect_endpoint_gets(f, ENDPOINT_PORT, -EBADF);
	assert_int_equal(connect_inside(f, ENDPOINT_ADDRESS, 81), -ECONNREFUSED);
	assert_int_equal(connect_inside(f, "127.0.0.1", 80), -ECONNREFUSED);
	assert_int_equal(connect_inside(f, "127.0.0.1", ENDPOINT_PORT), -ECONNREFUSED);
}

static void test_a_container_may_bind_port_80_and_gets_only_its_own_connections(void **state)
{
	static const int options[][3] = {
		{0}, {SO_REUSEADDR}, {SO_REUSEPORT}, {SO_REUSEADDR, SO_REUSEPORT}};
	static const char *const addresses[] = {"0.0.0.0", "127.0.0.1", ENDPOINT_ADDRESS};
	struct fixture *f = fixture_get(state);

	for (size_t i = 0; i < ARRAY_SIZE(options); i++)
		for (size_t j = 0; j < ARRAY_SIZE(addresses); j++) {
			_cleanup_close_ int own = listen_inside(f, addresses[j], 80, options[i]);
			_cleanup_close_ int client = -EBADF;

			print_message("options %zu address %s\n", i, addresses[j]);
			assert_true(own >= 0);
			expect_endpoint_gets(f, 80, own);
			if (j == 2)
				continue;
			client = connect_inside(f, "127.0.0.1", 80);
			assert_true(client >= 0);
			assert_true(has_connection(own));
			assert_false(has_connection(f->endpoint.socket_fd));
		}
}

static void test_a_container_cannot_share_the_port_of_the_endpoint(void **state)
{
	static const int options[][3] = {
		{0}, {SO_REUSEADDR}, {SO_REUSEPORT}, {SO_REUSEADDR, SO_REUSEPORT}};
	struct fixture *f = fixture_get(state);

	for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
		print_message("options %zu\n", i);
		assert_int_equal(listen_inside(f, ENDPOINT_ADDRESS, ENDPOINT_PORT, options[i]),
		                 -EADDRINUSE);
		assert_int_equal(listen_inside(f, "0.0.0.0", ENDPOINT_PORT, options[i]),
		                 -EADDRINUSE);
	}
}

static void test_a_second_endpoint_is_refused_and_the_first_goes_on(void **state)
{
	struct fixture *f = fixture_get(state);
	struct endpoint second = ENDPOINT_EMPTY;
	struct err err = {0};

	assert_int_equal(endpoint_open(f->netns, &second, &err), -EADDRINUSE);
	assert_int_equal(second.socket_fd, -EBADF);
	assert_int_equal(second.link_fd, -EBADF);
	expect_endpoint_gets(f, 80, -EBADF);
}

static void test_an_open_connection_is_in_the_way_only_without_reuseaddr(void **state)
{
	struct fixture *f = fixture_get(state);
	_cleanup_close_ int client = connect_inside(f, ENDPOINT_ADDRESS, 80);
	_cleanup_close_ int server = accept4(f->endpoint.socket_fd, NULL, NULL, SOCK_CLOEXEC);
	_cleanup_close_ int own = -EBADF;

	assert_true(client >= 0);
	assert_true(server >= 0);
	assert_int_equal(listen_inside(f, "0.0.0.0", 80, NULL), -EADDRINUSE);
	own = listen_inside(f, "0.0.0.0", 80, (const int[]){SO_REUSEADDR, 0});
	assert_true(own >= 0);
}

static void test_without_the_socket_nobody_gets_its_connections(void **state)
{
	struct fixture *f = fixture_get(state);
	_cleanup_close_ int own = listen_inside(f, "0.0.0.0", 80, NULL);

	assert_true(own >= 0);
	f->endpoint.socket_fd = fd_close(f->endpoint.socket_fd);
	assert_int_equal(connect_inside(f, ENDPOINT_ADDRESS, 80), -ECONNREFUSED);
	assert_false(has_connection(own));
}

static void test_close_takes_the_program_off_though_the_link_was_copied(void **state)
{
	struct fixture *f = fixture_get(state);
	_cleanup_close_ int link_copy = fcntl(f->endpoint.link_fd, F_DUPFD_CLOEXEC, 0);
	_cleanup_close_ int own = listen_inside(f, "0.0.0.0", 80, NULL);
	_cleanup_close_ int client = -EBADF;

	endpoint_close(&f->endpoint);
	assert_int_equal(f->endpoint.socket_fd, -EBADF);
	assert_int_equal(f->endpoint.link_fd, -EBADF);
	client = connect_inside(f, ENDPOINT_ADDRESS, 80);
	assert_true(client >= 0);
	assert_true(has_connection(own));
	/* And it can be made once more: the address that is there already is no error. */
	assert_int_equal(endpoint_open(f->netns, &f->endpoint, NULL), 0);
	expect_endpoint_gets(f, 80, -EBADF);
}

static void test_a_failure_leaves_no_address_behind(void **state)
{
	struct fixture *f = fixture_get(state);
	_cleanup_close_ int fresh = -EBADF;
	_cleanup_close_ int blocker = -EBADF;
	struct endpoint endpoint = ENDPOINT_EMPTY;
	struct fixture other = {.endpoint = ENDPOINT_EMPTY};
	struct err err = {0};

	(void)f;
	assert_int_equal(netns_create(&fresh, NULL), 0);
	other.netns = fresh;
	blocker = listen_inside(&other, "0.0.0.0", ENDPOINT_PORT, NULL);
	assert_true(blocker >= 0);
	assert_int_equal(endpoint_open(fresh, &endpoint, &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, "169.254.170.2:51679"));
	/* No address: no route either. */
	assert_int_equal(connect_inside(&other, ENDPOINT_ADDRESS, ENDPOINT_PORT), -ENETUNREACH);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_open, fixture_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_port_80_and_51679_lead_to_the_socket),
		TEST(test_a_container_may_bind_port_80_and_gets_only_its_own_connections),
		TEST(test_a_container_cannot_share_the_port_of_the_endpoint),
		TEST(test_a_second_endpoint_is_refused_and_the_first_goes_on),
		TEST(test_an_open_connection_is_in_the_way_only_without_reuseaddr),
		TEST(test_without_the_socket_nobody_gets_its_connections),
		TEST(test_close_takes_the_program_off_though_the_link_was_copied),
		TEST(test_a_failure_leaves_no_address_behind),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
