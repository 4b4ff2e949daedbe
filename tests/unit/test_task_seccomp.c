/* The compiled profile, interpreted: what each call is answered with, on each architecture. */
#include "agent/task/seccomp.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/fd.h"
#include "tests/unit/bpf.h"
#include "tests/unit/cmocka_prelude.h"

#if defined(__x86_64__)
#	define NATIVE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#	define NATIVE AUDIT_ARCH_AARCH64
#endif

#define CAP(name) (1ull << CAP_##name)

/* errno of a call, 0 when it is allowed, -1 for anything else. */
static int answer(const struct seccomp_filter *filter, uint32_t arch, int nr, uint64_t arg0)
{
	const struct seccomp_data data = {.nr = nr, .arch = arch, .args = {arg0}};
	uint32_t action = interpret(&filter->program, &data);

	if (action == SECCOMP_RET_ALLOW)
		return 0;
	if ((action & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_ERRNO)
		return (int)(action & SECCOMP_RET_DATA);
	return -1;
}

static char cache[64];

static int set_up(void **state)
{
	(void)state;
	snprintf(cache, sizeof(cache), "/tmp/test_task_seccomp.XXXXXX");
	return mkdtemp(cache) ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	return dir_remove_all(AT_FDCWD, cache);
}

static struct seccomp_filter get(uint64_t capabilities)
{
	struct seccomp_filter filter = {};
	struct err err = {};
	int r = seccomp_filter_get(cache, &seccomp_default, capabilities, &filter, &err);

	if (r < 0)
		fail_msg("%s", err.text);
	return filter;
}

static void test_calls_of_the_default_profile(void **state)
{
	static const struct {
		const char *name;
		uint64_t arg0;
		uint64_t capabilities;
		int error;
	} rows[] = {
		{"read", 0, 0, 0},
		{"openat2", 0, 0, 0},
		{"ptrace", 0, 0, 0},
		{"io_uring_setup", 0, 0, EPERM},
		{"keyctl", 0, 0, EPERM},
		{"add_key", 0, 0, EPERM},
		{"userfaultfd", 0, 0, EPERM},
		{"kexec_load", 0, 0, EPERM},
		{"unshare", 0, 0, EPERM},
		{"unshare", 0, CAP(SYS_ADMIN), 0},
		{"mount", 0, 0, EPERM},
		{"mount", 0, CAP(SYS_ADMIN), 0},
		{"clone3", 0, 0, ENOSYS},
		{"clone3", 0, CAP(SYS_ADMIN), 0},
		{"clone", 0x11, 0, 0},
		{"clone", 0x10000000 /* CLONE_NEWUSER */, 0, EPERM},
		{"clone", 0x00020000 /* CLONE_NEWNS */, 0, EPERM},
		{"clone", 0x10000000, CAP(SYS_ADMIN), 0},
		{"socket", 2, 0, 0},
		{"socket", 16, 0, 0},
		{"socket", 38, 0, EPERM},
		{"socket", 39, 0, 0},
		{"socket", 40, 0, EPERM},
		{"socket", 41, 0, 0},
		{"personality", 0, 0, 0},
		{"personality", 0x0400000, 0, EPERM},
		{"personality", 0xffffffff, 0, 0},
		{"bpf", 0, 0, EPERM},
		{"bpf", 0, CAP(BPF), 0},
		{"perf_event_open", 0, CAP(PERFMON), 0},
		{"chroot", 0, 0, EPERM},
		{"chroot", 0, CAP(SYS_CHROOT), 0},
		{"init_module", 0, CAP(SYS_ADMIN), EPERM},
		{"init_module", 0, CAP(SYS_MODULE), 0},
		{"clock_settime", 0, CAP(SYS_TIME), 0},
		{"settimeofday", 0, 0, EPERM},
		{"open_by_handle_at", 0, CAP(DAC_READ_SEARCH), 0},
		{"open_by_handle_at", 0, 0, EPERM},
		{"process_madvise", 0, CAP(SYS_PTRACE), 0},
		{"mbind", 0, CAP(SYS_NICE), 0},
		{"mbind", 0, 0, EPERM},
		{"syslog", 0, CAP(SYSLOG), 0},
		{"reboot", 0, 0, EPERM},
		{"reboot", 0, CAP(SYS_BOOT), 0},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct seccomp_filter filter = get(rows[i].capabilities);
		int nr = seccomp_syscall_resolve_name(rows[i].name);

		print_message("%s(0x%llx) with %llx\n", rows[i].name,
		              (unsigned long long)rows[i].arg0,
		              (unsigned long long)rows[i].capabilities);
		assert_true(nr >= 0);
		assert_int_equal(answer(&filter, NATIVE, nr, rows[i].arg0), rows[i].error);
		seccomp_filter_done(&filter);
	}
}

static void test_calls_newer_than_the_profile_are_absent(void **state)
{
	struct seccomp_filter filter = get(0);

	(void)state;
	assert_int_equal(answer(&filter, NATIVE, 5000, 0), ENOSYS);
	assert_int_equal(answer(&filter, NATIVE, 1 << 20, 0), ENOSYS);
#if defined(__x86_64__)
	assert_int_equal(answer(&filter, AUDIT_ARCH_I386, 5000, 0), ENOSYS);
	assert_int_equal(answer(&filter, AUDIT_ARCH_I386, 3 /* read */, 0), 0);
	assert_int_equal(answer(&filter, AUDIT_ARCH_I386, 21 /* mount */, 0), EPERM);
	/* x32: the same table with a bit set, checked like the rest. */
	assert_int_equal(answer(&filter, AUDIT_ARCH_X86_64, 0x40000000 | 0 /* read */, 0), 0);
	assert_int_equal(answer(&filter, AUDIT_ARCH_X86_64, 0x40000000 | 165 /* mount */, 0),
	                 EPERM);
#endif
	seccomp_filter_done(&filter);
}

static void test_an_architecture_that_is_not_ours_is_ended(void **state)
{
	struct seccomp_filter filter = get(0);

	(void)state;
	assert_int_equal(answer(&filter, AUDIT_ARCH_S390X, 3, 0), -1);
	seccomp_filter_done(&filter);
}

/* Number of files in the cache. */
static int cached(void)
{
	char command[128];
	int n = -1;
	FILE *pipe;

	snprintf(command, sizeof(command), "ls -A %s | wc -l", cache);
	pipe = popen(command, "r");
	assert_non_null(pipe);
	assert_int_equal(fscanf(pipe, "%d", &n), 1);
	pclose(pipe);
	return n;
}

static void test_one_file_for_each_set_that_differs(void **state)
{
	uint64_t sets[] = {0, CAP(CHOWN), CAP(CHOWN) | CAP(KILL), CAP(SYS_ADMIN), CAP(SYS_ADMIN)};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sets); i++) {
		struct seccomp_filter filter = get(sets[i]);

		assert_true(filter.program.len > 100);
		seccomp_filter_done(&filter);
	}
	assert_int_equal(cached(), 2);
	assert_true(seccomp_profile_capabilities(&seccomp_default) & CAP(SYS_ADMIN));
	assert_false(seccomp_profile_capabilities(&seccomp_default) & CAP(CHOWN));
}

static void test_a_cache_that_others_can_write_is_refused(void **state)
{
	struct seccomp_filter filter = {};
	struct err err = {};

	(void)state;
	assert_int_equal(chmod(cache, 0755), 0);
	assert_int_equal(seccomp_filter_get(cache, &seccomp_default, 0, &filter, &err), -EPERM);
	assert_non_null(strstr(err.text, "0700"));
	assert_null(filter.program.filter);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_calls_of_the_default_profile),
		TEST(test_calls_newer_than_the_profile_are_absent),
		TEST(test_an_architecture_that_is_not_ours_is_ended),
		TEST(test_one_file_for_each_set_that_differs),
		TEST(test_a_cache_that_others_can_write_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
