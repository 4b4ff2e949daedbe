/* Making and entering network namespaces. Needs root. */
#include "tests/unit/cmocka_prelude.h"

#include "lib/fd.h"
#include "netns/netns.h"

#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

static void need_root(void)
{
	if (geteuid() != 0) {
		print_message("network namespaces need root\n");
		skip();
	}
}

static ino_t namespace_inode(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_ino;
}

static ino_t descriptor_inode(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return st.st_ino;
}

static int read_inode(void *arg, struct err *err)
{
	(void)err;
	*(ino_t *)arg = namespace_inode("/proc/thread-self/ns/net");
	return 7;
}

static void test_a_new_namespace_is_another_one_and_the_caller_stays(void **state)
{
	ino_t before = namespace_inode("/proc/thread-self/ns/net");
	ino_t inside = 0;
	int fd = -EBADF;
	struct err err = {0};

	(void)state;
	need_root();
	assert_int_equal(netns_create(&fd, &err), 0);
	assert_int_equal(namespace_inode("/proc/thread-self/ns/net"), before);
	assert_int_not_equal(descriptor_inode(fd), before);
	assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);

	assert_int_equal(netns_run(fd, read_inode, &inside, &err), 7);
	assert_int_equal(inside, descriptor_inode(fd));
	assert_int_equal(namespace_inode("/proc/thread-self/ns/net"), before);
	close(fd);
}

static int check_contents(void *arg, struct err *err)
{
	static const char *const sysctls[][2] = {
		{"/proc/sys/net/ipv4/ping_group_range", "0\t2147483647\n"},
		{"/proc/sys/net/ipv4/ip_unprivileged_port_start", "0\n"},
	};
	_cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq request = {.ifr_name = "lo"};

	(void)arg;
	(void)err;
	assert_int_equal(ioctl(fd, SIOCGIFFLAGS, &request), 0);
	assert_true(request.ifr_flags & IFF_UP);
	for (size_t i = 0; i < ARRAY_SIZE(sysctls); i++) {
		_cleanup_free_ char *text = NULL;
		size_t len;

		assert_int_equal(file_read(AT_FDCWD, sysctls[i][0], 100, &text, &len), 0);
		assert_string_equal(text, sysctls[i][1]);
	}
	return 0;
}

static void test_a_new_namespace_has_lo_and_the_sysctls_of_docker(void **state)
{
	int fd = -EBADF;

	(void)state;
	need_root();
	assert_int_equal(netns_create(&fd, NULL), 0);
	assert_int_equal(netns_run(fd, check_contents, NULL, NULL), 0);
	close(fd);
}

static int fail_with_words(void *arg, struct err *err)
{
	(void)arg;
	return err_text(err, -ENOTUNIQ, "not unique");
}

static void test_a_failure_inside_comes_out_and_the_caller_is_back(void **state)
{
	ino_t before = namespace_inode("/proc/thread-self/ns/net");
	int fd = -EBADF;
	struct err err = {0};

	(void)state;
	need_root();
	assert_int_equal(netns_create(&fd, NULL), 0);
	assert_int_equal(netns_run(fd, fail_with_words, NULL, &err), -ENOTUNIQ);
	assert_string_equal(err.text, "not unique");
	assert_int_equal(namespace_inode("/proc/thread-self/ns/net"), before);
	close(fd);
}

static int must_not_run(void *arg, struct err *err)
{
	(void)err;
	*(bool *)arg = true;
	return 0;
}

static void test_a_descriptor_that_is_no_namespace_is_refused(void **state)
{
	_cleanup_close_ int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	_cleanup_close_ int uts = open("/proc/self/ns/uts", O_RDONLY | O_CLOEXEC);
	bool ran = false;
	struct err err = {0};

	(void)state;
	need_root();
	assert_int_equal(netns_run(fd, must_not_run, &ran, &err), -EINVAL);
	assert_int_equal(netns_run(uts, must_not_run, &ran, &err), -EINVAL);
	assert_int_equal(netns_run(-EBADF, must_not_run, &ran, &err), -EBADF);
	assert_false(ran);
	assert_non_null(strstr(err.text, "enter the network namespace"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_new_namespace_is_another_one_and_the_caller_stays),
		cmocka_unit_test(test_a_new_namespace_has_lo_and_the_sysctls_of_docker),
		cmocka_unit_test(test_a_failure_inside_comes_out_and_the_caller_is_back),
		cmocka_unit_test(test_a_descriptor_that_is_no_namespace_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
