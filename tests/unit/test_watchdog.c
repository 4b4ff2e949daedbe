/* What the service manager hears, on a socket in its place. */
#include "tests/unit/cmocka_prelude.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "agent/watchdog.h"
#include "lib/loop.h"

#define WATCHDOG_USEC 200000

static int manager_fd;
static unsigned int asked;

static int listen_as_manager(void **state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	socklen_t len = sizeof(sa_family_t);
	char name[64];

	(void)state;
	manager_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	/* Autobind: an abstract name that nobody else has. */
	if (manager_fd < 0 || bind(manager_fd, (struct sockaddr *)&address, len) < 0)
		return -1;
	len = sizeof(address);
	if (getsockname(manager_fd, (struct sockaddr *)&address, &len) < 0)
		return -1;
	snprintf(name, sizeof(name), "@%.*s", (int)(len - sizeof(sa_family_t) - 1),
	         address.sun_path + 1);
	setenv("NOTIFY_SOCKET", name, 1);
	snprintf(name, sizeof(name), "%d", WATCHDOG_USEC);
	setenv("WATCHDOG_USEC", name, 1);
	unsetenv("WATCHDOG_PID");
	asked = 0;
	return 0;
}

static int stop_listening(void **state)
{
	(void)state;
	return close(manager_fd);
}

static unsigned int count_fed(void)
{
	unsigned int n = 0;
	char text[256];
	ssize_t len;

	while ((len = recv(manager_fd, text, sizeof(text) - 1, 0)) > 0) {
		text[len] = '\0';
		n += strstr(text, "WATCHDOG=1") != NULL;
	}
	return n;
}

static bool answer(uint64_t now, char *why, size_t n, void *userdata)
{
	bool *is_alive = userdata;

	(void)now;
	asked++;
	snprintf(why, n, "the test says so");
	return *is_alive;
}

static void turn_until_asked(sd_event *loop, unsigned int n)
{
	uint64_t end = now_usec() + 20 * 1000000ull;

	while (asked < n) {
		assert_true(now_usec() < end);
		assert_true(sd_event_run(loop, WATCHDOG_USEC) >= 0);
	}
}

static void test_watchdog_is_fed_while_there_is_progress_and_only_then(void **state)
{
	_cleanup_(sd_event_unrefp) sd_event *loop = NULL;
	_cleanup_(watchdog_freep) struct watchdog *watchdog = NULL;
	bool is_alive = true;

	(void)state;
	assert_int_equal(loop_new(&loop, NULL), 0);
	(void)count_fed(); /* the loop feeds it as soon as it is made */
	assert_int_equal(watchdog_new(loop, answer, &is_alive, &watchdog, NULL), 0);
	turn_until_asked(loop, 5);
	assert_int_equal(count_fed(), 5);

	is_alive = false;
	turn_until_asked(loop, 12);
	assert_int_equal(count_fed(), 0); /* by the loop neither */

	is_alive = true;
	turn_until_asked(loop, 14);
	assert_int_equal(count_fed(), 2);
}

static void test_without_a_watchdog_nothing_is_asked(void **state)
{
	_cleanup_(sd_event_unrefp) sd_event *loop = NULL;
	_cleanup_(watchdog_freep) struct watchdog *watchdog = NULL;
	bool is_alive = true;

	(void)state;
	unsetenv("WATCHDOG_USEC");
	assert_int_equal(loop_new(&loop, NULL), 0);
	assert_int_equal(watchdog_new(loop, answer, &is_alive, &watchdog, NULL), 0);
	assert_true(sd_event_run(loop, WATCHDOG_USEC) >= 0);
	assert_int_equal(asked, 0);
	assert_int_equal(count_fed(), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, listen_as_manager, stop_listening)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_watchdog_is_fed_while_there_is_progress_and_only_then),
		TEST(test_without_a_watchdog_nothing_is_asked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
