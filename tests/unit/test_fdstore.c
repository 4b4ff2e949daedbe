/* Messages to the service manager, read at its end of the socket. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "iam-creds/fdstore.h"
#include "lib/fd.h"

static char path[64];
static int manager = -EBADF;

static int set_up(void **state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	(void)state;
	snprintf(path, sizeof(path), "/tmp/test_fdstore.%d", (int)getpid());
	memcpy(address.sun_path, path, strlen(path));
	manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	setenv("NOTIFY_SOCKET", path, 1);
	return bind(manager, (struct sockaddr *)&address, sizeof(address));
}

static int tear_down(void **state)
{
	(void)state;
	manager = fd_close(manager);
	unsetenv("NOTIFY_SOCKET");
	return unlink(path);
}

/* The next message; the number of descriptors with it, which are closed. -EAGAIN: none. */
static int next_message(char *text, size_t size)
{
	char control[CMSG_SPACE(16 * sizeof(int))];
	struct iovec iov = {.iov_base = text, .iov_len = size - 1};
	struct msghdr msg = {.msg_iov = &iov,
	                     .msg_iovlen = 1,
	                     .msg_control = control,
	                     .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(manager, &msg, MSG_CMSG_CLOEXEC);
	int n_fds = 0;

	if (n < 0)
		return -errno;
	text[n] = '\0';
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
		if (c->cmsg_type != SCM_RIGHTS)
			continue;
		n_fds = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		for (int i = 0; i < n_fds; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + (size_t)i * sizeof(int), sizeof(fd));
			close(fd);
		}
	}
	return n_fds;
}

static void assert_message(const char *text, int n_fds)
{
	char got[256] = "";

	assert_int_equal(next_message(got, sizeof(got)), n_fds);
	assert_string_equal(got, text);
}

static void test_names_are_made_short_and_given_up(void **state)
{
	_cleanup_(fdstore_freep) struct fdstore *store = NULL;
	struct fdstore_name a, b, own;

	(void)state;
	assert_int_equal(fdstore_new(&store, NULL), 0);
	assert_true(fdstore_is_there(store));
	fdstore_put(store, 0, NULL, &a);
	assert_message("FDSTORE=1\nFDPOLL=0\nFDNAME=1", 1);
	fdstore_put(store, 0, NULL, &b);
	assert_message("FDSTORE=1\nFDPOLL=0\nFDNAME=2", 1);
	fdstore_put(store, 0, "memory", &own);
	assert_message("FDSTORE=1\nFDPOLL=0\nFDNAME=memory", 1);
	assert_string_equal(own.text, "memory");
	fdstore_remove(store, &a);
	assert_message("FDSTOREREMOVE=1\nFDNAME=1", 0);
	assert_string_equal(a.text, "");
	fdstore_remove(store, &a); /* nothing */
	/* Not the one that has just become free. */
	fdstore_put(store, 0, NULL, &a);
	assert_message("FDSTORE=1\nFDPOLL=0\nFDNAME=3", 1);
	assert_int_equal(next_message((char[64]){0}, 64), -EAGAIN);
}

/* All of them come back in one string of the environment, of at most 128 KiB. */
static void test_all_names_fit_into_the_environment(void **state)
{
	_cleanup_(fdstore_freep) struct fdstore *store = NULL;
	struct fdstore_name name;
	char got[256];
	size_t total = 0;

	(void)state;
	assert_int_equal(fdstore_new(&store, NULL), 0);
	/* Again and again, as tasks come and go, so that the numbers grow. */
	for (int i = 0; i < 0x10000; i++) {
		fdstore_put(store, 0, NULL, &name);
		assert_int_equal(next_message(got, sizeof(got)), 1);
		if (i >= 0x10000 - FDSTORE_MAX)
			total += strlen(name.text) + 1;
		else {
			fdstore_remove(store, &name);
			assert_int_equal(next_message(got, sizeof(got)), 0);
		}
	}
	assert_true(total + strlen("LISTEN_FDNAMES=") < 128 * 1024);
}

static void test_without_a_service_manager_nothing_is_kept(void **state)
{
	_cleanup_(fdstore_freep) struct fdstore *store = NULL;
	struct fdstore_name name = {"x"};

	(void)state;
	unsetenv("NOTIFY_SOCKET");
	assert_int_equal(fdstore_new(&store, NULL), 0);
	assert_false(fdstore_is_there(store));
	fdstore_put(store, 0, NULL, &name);
	assert_string_equal(name.text, "");
	assert_int_equal(fdstore_take(store, &name), -ENOENT);
	assert_int_equal(next_message((char[64]){0}, 64), -EAGAIN);
}

static void test_a_service_manager_that_is_away_is_no_failure(void **state)
{
	_cleanup_(fdstore_freep) struct fdstore *store = NULL;
	struct fdstore_name name = {"x"};

	(void)state;
	setenv("NOTIFY_SOCKET", "/nonexistent/notify", 1);
	assert_int_equal(fdstore_new(&store, NULL), 0);
	fdstore_put(store, 0, NULL, &name);
	assert_string_equal(name.text, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_names_are_made_short_and_given_up, set_up,
	                                        tear_down),
		cmocka_unit_test_setup_teardown(test_all_names_fit_into_the_environment, set_up,
	                                        tear_down),
		cmocka_unit_test_setup_teardown(test_without_a_service_manager_nothing_is_kept,
	                                        set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_a_service_manager_that_is_away_is_no_failure,
	                                        set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
