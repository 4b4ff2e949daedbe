/* Profiles that tasks bring: what each call is answered with, what is refused, what is cached. */
#include "agent/task/seccomp_profile.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent/task/seccomp_task.h"
#include "lib/fd.h"
#include "tests/unit/bpf.h"
#include "tests/unit/cmocka_prelude.h"

#if defined(__x86_64__)
#	define NATIVE      AUDIT_ARCH_X86_64
#	define NATIVE_NAME "SCMP_ARCH_X86_64"
#	define NATIVE_GO   "amd64"
#elif defined(__aarch64__)
#	define NATIVE      AUDIT_ARCH_AARCH64
#	define NATIVE_NAME "SCMP_ARCH_AARCH64"
#	define NATIVE_GO   "arm64"
#endif

#define DENY  "{\"defaultAction\":\"SCMP_ACT_ERRNO\",\"syscalls\":["
#define ALLOW "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":["
#define END   "]}"

static struct seccomp_filter compile(const char *text, uint64_t capabilities)
{
	_cleanup_(seccomp_profile_freep) struct seccomp_profile *profile = NULL;
	_cleanup_close_ int fd = memfd_create("bpf", MFD_CLOEXEC);
	struct seccomp_filter filter = {};
	char code[SECCOMP_FILTER_BYTES];
	struct err err = {};
	ssize_t n;
	int r = seccomp_profile_parse(text, strlen(text), &profile, &err);

	if (r == 0)
		r = seccomp_compile(profile, capabilities, fd, &err);
	if (r < 0)
		fail_msg("%s: %s", text, err.text);
	assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
	n = fd_read_all(fd, code, sizeof(code));
	assert_int_equal(seccomp_filter_set(&filter, code, (size_t)n), 0);
	return filter;
}

static uint32_t answer(const char *text, uint64_t capabilities, uint32_t arch, int nr,
                       const uint64_t args[2])
{
	const struct seccomp_data data = {.nr = nr, .arch = arch, .args = {args[0], args[1]}};
	struct seccomp_filter filter = compile(text, capabilities);
	uint32_t action = interpret(&filter.program, &data);

	seccomp_filter_done(&filter);
	return action;
}

#define CAP(name) (1ull << CAP_##name)
#define ERRNO(e)  (SECCOMP_RET_ERRNO | (e))

static void test_what_calls_are_answered(void **state)
{
	static const struct {
		const char *profile, *call;
		uint64_t args[2], capabilities;
		uint32_t action;
	} rows[] = {
		{DENY "{\"names\":[\"read\",\"write\"],\"action\":\"SCMP_ACT_ALLOW\"}" END,
	         "write",
	         {},
	         0,
	         SECCOMP_RET_ALLOW},
		{DENY "{\"names\":[\"read\"],\"action\":\"SCMP_ACT_ALLOW\"},"
	              "{\"names\":[\"openat2\"],\"action\":\"SCMP_ACT_ALLOW\"}" END,
	         "chmod",
	         {},
	         0,
	         ERRNO(EPERM)},
		{"{\"defaultAction\":\"SCMP_ACT_ERRNO\",\"defaultErrnoRet\":38,\"syscalls\":[]}",
	         "chmod",
	         {},
	         0,
	         ERRNO(ENOSYS)},
		{ALLOW "{\"name\":\"chmod\",\"action\":\"SCMP_ACT_ERRNO\",\"errnoRet\":13}" END,
	         "chmod",
	         {},
	         0,
	         ERRNO(EACCES)},
		{ALLOW "{\"name\":\"chmod\",\"action\":\"SCMP_ACT_ERRNO\"}" END,
	         "read",
	         {},
	         0,
	         SECCOMP_RET_ALLOW},
		{ALLOW "{\"name\":\"chmod\",\"action\":\"SCMP_ACT_KILL\"}" END,
	         "chmod",
	         {},
	         0,
	         SECCOMP_RET_KILL_THREAD},
		{ALLOW "{\"name\":\"chmod\",\"action\":\"SCMP_ACT_KILL_PROCESS\"}" END,
	         "chmod",
	         {},
	         0,
	         SECCOMP_RET_KILL_PROCESS},
		{ALLOW "{\"name\":\"chmod\",\"action\":\"SCMP_ACT_LOG\"}" END,
	         "chmod",
	         {},
	         0,
	         SECCOMP_RET_LOG},
		{ALLOW "{\"name\":\"chmod\",\"action\":\"SCMP_ACT_TRACE\",\"errnoRet\":7}" END,
	         "chmod",
	         {},
	         0,
	         SECCOMP_RET_TRACE | 7},
		{ALLOW "{\"name\":\"chmod\",\"action\":\"SCMP_ACT_TRAP\"}" END,
	         "chmod",
	         {},
	         0,
	         SECCOMP_RET_TRAP},
		/* A rule that says what is the case anyway. */
		{ALLOW "{\"names\":[\"chmod\"],\"action\":\"SCMP_ACT_ALLOW\"}" END,
	         "chmod",
	         {},
	         0,
	         SECCOMP_RET_ALLOW},
		/* Two arguments together, and one argument twice. */
		{DENY "{\"name\":\"socket\",\"action\":\"SCMP_ACT_ALLOW\",\"args\":["
	              "{\"index\":0,\"value\":2,\"op\":\"SCMP_CMP_EQ\"},"
	              "{\"index\":1,\"value\":1,\"op\":\"SCMP_CMP_EQ\"}]}" END,
	         "socket",
	         {2, 1},
	         0,
	         SECCOMP_RET_ALLOW},
		{DENY "{\"name\":\"socket\",\"action\":\"SCMP_ACT_ALLOW\",\"args\":["
	              "{\"index\":0,\"value\":2,\"op\":\"SCMP_CMP_EQ\"},"
	              "{\"index\":1,\"value\":1,\"op\":\"SCMP_CMP_EQ\"}]}" END,
	         "socket",
	         {2, 2},
	         0,
	         ERRNO(EPERM)},
		{DENY "{\"name\":\"socket\",\"action\":\"SCMP_ACT_ALLOW\",\"args\":["
	              "{\"index\":0,\"value\":1,\"op\":\"SCMP_CMP_EQ\"},"
	              "{\"index\":0,\"value\":40,\"op\":\"SCMP_CMP_GT\"}]}" END,
	         "socket",
	         {41, 0},
	         0,
	         SECCOMP_RET_ALLOW},
		{DENY "{\"name\":\"socket\",\"action\":\"SCMP_ACT_ALLOW\",\"args\":["
	              "{\"index\":0,\"value\":1,\"op\":\"SCMP_CMP_EQ\"},"
	              "{\"index\":0,\"value\":40,\"op\":\"SCMP_CMP_GT\"}]}" END,
	         "socket",
	         {2, 0},
	         0,
	         ERRNO(EPERM)},
		/* The first value is the mask. */
		{DENY "{\"name\":\"clone\",\"action\":\"SCMP_ACT_ALLOW\",\"args\":[{\"index\":0,"
	              "\"value\":2114060288,\"valueTwo\":0,\"op\":\"SCMP_CMP_MASKED_EQ\"}]}" END,
	         "clone",
	         {0x11},
	         0,
	         SECCOMP_RET_ALLOW},
		{DENY "{\"name\":\"clone\",\"action\":\"SCMP_ACT_ALLOW\",\"args\":[{\"index\":0,"
	              "\"value\":2114060288,\"op\":\"SCMP_CMP_MASKED_EQ\"}]}" END,
	         "clone",
	         {0x10000011},
	         0,
	         ERRNO(EPERM)},
		{DENY "{\"name\":\"lseek\",\"action\":\"SCMP_ACT_ALLOW\",\"args\":[{\"index\":1,"
	              "\"value\":18446744073709551615,\"op\":\"SCMP_CMP_EQ\"}]}" END,
	         "lseek",
	         {0, UINT64_MAX},
	         0,
	         SECCOMP_RET_ALLOW},
		/* Capabilities: all of those included, none of those excluded. */
		{DENY "{\"name\":\"mount\",\"action\":\"SCMP_ACT_ALLOW\","
	              "\"includes\":{\"caps\":[\"CAP_SYS_ADMIN\",\"CAP_CHOWN\"]}}" END,
	         "mount",
	         {},
	         CAP(SYS_ADMIN),
	         ERRNO(EPERM)},
		{DENY "{\"name\":\"mount\",\"action\":\"SCMP_ACT_ALLOW\","
	              "\"includes\":{\"caps\":[\"CAP_SYS_ADMIN\",\"CAP_CHOWN\"]}}" END,
	         "mount",
	         {},
	         CAP(SYS_ADMIN) | CAP(CHOWN),
	         SECCOMP_RET_ALLOW},
		{DENY "{\"name\":\"mount\",\"action\":\"SCMP_ACT_ALLOW\",\"comment\":\"x\","
	              "\"excludes\":{\"caps\":[\"CAP_SYS_ADMIN\",\"CAP_CHOWN\"]}}" END,
	         "mount",
	         {},
	         CAP(CHOWN),
	         ERRNO(EPERM)},
		/* Machine and kernel: a rule that does not count names no call. */
		{DENY "{\"name\":\"mount\",\"action\":\"SCMP_ACT_ALLOW\",\"includes\":"
	              "{\"arches\":[\"mips\",\"" NATIVE_GO "\"],\"minKernel\":\"4.8\"}}" END,
	         "mount",
	         {},
	         0,
	         SECCOMP_RET_ALLOW},
		{DENY "{\"name\":\"mount\",\"action\":\"SCMP_ACT_ALLOW\","
	              "\"includes\":{\"arches\":[\"mips\"]}}" END,
	         "mount",
	         {},
	         0,
	         ERRNO(ENOSYS)},
		{DENY "{\"name\":\"mount\",\"action\":\"SCMP_ACT_ALLOW\","
	              "\"includes\":{\"minKernel\":\"999.0\"}}" END,
	         "mount",
	         {},
	         0,
	         ERRNO(ENOSYS)},
		{DENY "{\"name\":\"mount\",\"action\":\"SCMP_ACT_ALLOW\","
	              "\"excludes\":{\"arches\":[\"" NATIVE_GO "\"]}}" END,
	         "mount",
	         {},
	         0,
	         ERRNO(ENOSYS)},
		{DENY "{\"name\":\"mount\",\"action\":\"SCMP_ACT_ALLOW\","
	              "\"excludes\":{\"minKernel\":\"4.8\"}}" END,
	         "mount",
	         {},
	         0,
	         ERRNO(ENOSYS)},
		/* Unknown to libseccomp, and more than the default gives. */
		{DENY "{\"names\":[\"call_of_2040\",\"mount\"],\"action\":\"SCMP_ACT_ALLOW\"}" END,
	         "mount",
	         {},
	         0,
	         SECCOMP_RET_ALLOW},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		int nr = seccomp_syscall_resolve_name(rows[i].call);

		print_message("row %zu: %s\n", i, rows[i].profile);
		assert_true(nr >= 0);
		assert_int_equal(
			answer(rows[i].profile, rows[i].capabilities, NATIVE, nr, rows[i].args),
			rows[i].action);
	}
}

static void test_newer_calls_are_absent_only_where_the_default_refuses(void **state)
{
	static const uint64_t none[2];

	(void)state;
	assert_int_equal(answer(DENY "{\"name\":\"read\",\"action\":\"SCMP_ACT_ALLOW\"}" END, 0,
	                        NATIVE, 5000, none),
	                 ERRNO(ENOSYS));
	assert_int_equal(answer(ALLOW END, 0, NATIVE, 5000, none), SECCOMP_RET_ALLOW);
	assert_int_equal(
		answer("{\"defaultAction\":\"SCMP_ACT_KILL_PROCESS\"}", 0, NATIVE, 0, none),
		SECCOMP_RET_KILL_PROCESS);
}

#if defined(__x86_64__)
static void test_architectures_are_those_of_the_profile(void **state)
{
	static const uint64_t none[2];
	static const char rule[] = "\"syscalls\":[{\"name\":\"read\",\"action\":"
				   "\"SCMP_ACT_ALLOW\"}],\"defaultAction\":\"SCMP_ACT_ERRNO\"";
	static const struct {
		const char *arches;
		uint32_t action; /* of read on i386 */
	} rows[] = {
		{"", SECCOMP_RET_KILL_THREAD},
		{",\"architectures\":[\"SCMP_ARCH_X86_64\"]", SECCOMP_RET_KILL_THREAD},
		{",\"architectures\":[\"SCMP_ARCH_X86\",\"SCMP_ARCH_X32\"]", SECCOMP_RET_ALLOW},
		{",\"archMap\":[{\"architecture\":\"SCMP_ARCH_AARCH64\",\"subArchitectures\":"
	         "[\"SCMP_ARCH_ARM\"]},{\"architecture\":\"SCMP_ARCH_X86_64\","
	         "\"subArchitectures\":[\"SCMP_ARCH_X86\"]}],\"architectures\":[]",
	         SECCOMP_RET_ALLOW},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		char text[512];

		snprintf(text, sizeof(text), "{%s%s}", rule, rows[i].arches);
		print_message("%s\n", text);
		assert_int_equal(answer(text, 0, AUDIT_ARCH_I386, 3, none), rows[i].action);
		assert_int_equal(answer(text, 0, NATIVE, 0, none), SECCOMP_RET_ALLOW);
	}
}
#endif

static void test_flags(void **state)
{
	_cleanup_(seccomp_profile_freep) struct seccomp_profile *profile = NULL;
	static const char text[] = "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"flags\":["
				   "\"SECCOMP_FILTER_FLAG_TSYNC\",\"SECCOMP_FILTER_FLAG_LOG\"]}";

	(void)state;
	assert_int_equal(seccomp_profile_parse(text, strlen(text), &profile, NULL), 0);
	assert_int_equal(profile->flags, SECCOMP_FILTER_FLAG_LOG);
}

static void test_what_is_wrong_is_named(void **state)
{
#define RULE(members) "{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[{" members "}]}"
#define READ          "\"name\":\"read\",\"action\":\"SCMP_ACT_ERRNO\","
#define ARG(members)  RULE(READ "\"args\":[{" members "}]")
	static const struct {
		const char *text, *words;
	} rows[] = {
		{"", "JSON"},
		{"[]", "object"},
		{"{}", "defaultAction"},
		{"{\"defaultAction\":\"ALLOW\"}", "\"ALLOW\""},
		{"{\"defaultAction\":\"SCMP_ACT_NOTIFY\"}", "no listener"},
		{"{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"listenerPath\":\"/x\"}", "listenerPath"},
		{"{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"defaultErrnoRet\":1}", "defaultErrnoRet"},
		{"{\"defaultAction\":\"SCMP_ACT_ERRNO\",\"defaultErrnoRet\":4096}", "4096"},
		{"{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"flags\":[\"X\"]}", "\"X\""},
		{"{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"architectures\":[\"x86\"]}", "\"x86\""},
		{"{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"architectures\":[\"SCMP_ARCH_Z80\"]}",
	         "Z80"},
		{"{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"architectures\":[\"" NATIVE_NAME "\"],"
	         "\"archMap\":[{\"architecture\":\"" NATIVE_NAME "\"}]}",
	         "exclude another"},
		{"{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"archMap\":[7]}", "archMap[0]"},
		{"{\"defaultAction\":\"SCMP_ACT_ALLOW\",\"syscalls\":[7]}", "syscalls[0]"},
		{RULE("\"name\":\"read\""), "action"},
		{RULE("\"action\":\"SCMP_ACT_ERRNO\""), "names"},
		{RULE("\"names\":[],\"action\":\"SCMP_ACT_ERRNO\""), "names"},
		{RULE("\"name\":\"a b\",\"action\":\"SCMP_ACT_ERRNO\""), "\"a b\""},
		{RULE(READ "\"names\":[\"write\"]"), "exclude another"},
		/* Passed over it would stay allowed. */
		{RULE("\"name\":\"ptrac\",\"action\":\"SCMP_ACT_ERRNO\""), "\"ptrac\""},
		{RULE("\"name\":\"read\",\"action\":\"SCMP_ACT_KILL\",\"errnoRet\":1"),
	         "errnoRet does not go with SCMP_ACT_KILL"},
		{RULE(READ "\"surprise\":1"), "surprise"},
		{RULE(READ "\"includes\":{\"caps\":[\"CAP_X\"]}"), "CAP_X"},
		{RULE(READ "\"includes\":{\"minKernel\":\"x\"}"), "minKernel"},
		{RULE(READ "\"excludes\":{\"kernel\":\"x\"}"), "excludes.kernel"},
		{ARG("\"index\":6,\"value\":0,\"op\":\"SCMP_CMP_EQ\""), "index"},
		{ARG("\"index\":0,\"op\":\"SCMP_CMP_EQ\""), "value"},
		{ARG("\"index\":0,\"value\":-1,\"op\":\"SCMP_CMP_EQ\""), "value"},
		{ARG("\"index\":0,\"value\":0,\"op\":\"==\""), "\"==\""},
		{ARG("\"index\":0,\"value\":0,\"op\":\"SCMP_CMP_EQ\",\"x\":1"), "args.x"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct seccomp_profile *profile = NULL;
		struct err err = {};

		print_message("%s\n", rows[i].text);
		assert_true(seccomp_profile_parse(rows[i].text, strlen(rows[i].text), &profile,
		                                  &err) < 0);
		assert_null(profile);
		if (!strstr(err.text, rows[i].words))
			fail_msg("\"%s\" should have %s", err.text, rows[i].words);
	}
}

/* --- the unprivileged reader and the cache --- */

static char base[64];

static int set_up(void **state)
{
	(void)state;
	snprintf(base, sizeof(base), "/tmp/test_seccomp_profile.XXXXXX");
	return mkdtemp(base) && chmod(base, 0755) == 0 ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	return dir_remove_all(AT_FDCWD, base);
}

static const char *in_base(const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/%s", base, name);
	return path;
}

static int get(const char *text, const char *path, const struct policy *policy,
               struct seccomp_filter *ret, struct err *err)
{
	const struct seccomp_source source = {.text = text, .path = path};
	char cache[128];

	snprintf(cache, sizeof(cache), "%s/cache", base);
	return seccomp_task_filter(cache, policy, &source, 0, ret, err);
}

static void write_file(const char *name, const char *text, mode_t mode)
{
	int fd = open(in_base(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
	assert_int_equal(fchmod(fd, mode), 0);
	fd_close(fd);
}

#define GOOD DENY "{\"name\":\"read\",\"action\":\"SCMP_ACT_ALLOW\"}" END

static void test_a_filter_is_compiled_once(void **state)
{
	struct seccomp_filter first = {}, second = {}, other = {};
	static const struct policy any;
	struct err err = {};

	(void)state;
	if (geteuid() != 0)
		skip(); /* becomes another user */
	write_file("p.json", GOOD, 0644);
	assert_int_equal(get(NULL, in_base("p.json"), &any, &first, &err), 0);
	/* The file has changed; the text that came of it is what counts. */
	assert_int_equal(get(GOOD, NULL, &any, &second, &err), 0);
	assert_int_equal(first.program.len, second.program.len);
	write_file("p.json", ALLOW END, 0644);
	assert_int_equal(get(NULL, in_base("p.json"), &any, &other, &err), 0);
	assert_int_not_equal(first.program.len, other.program.len);
	seccomp_filter_done(&first);
	seccomp_filter_done(&second);
	seccomp_filter_done(&other);
}

/* Another text of the same checksum must not be taken for this one: here, the entry is made up. */
static void test_the_cache_compares_the_text(void **state)
{
	struct seccomp_filter filter = {};
	static const struct policy any;
	struct err err = {};
	char command[256];
	unsigned short len;

	(void)state;
	if (geteuid() != 0)
		skip(); /* becomes another user */
	assert_int_equal(get(GOOD, NULL, &any, &filter, &err), 0);
	len = filter.program.len;
	snprintf(command, sizeof(command), "sed -i s/read/pread/ %s/cache/*-profile", base);
	assert_int_equal(system(command), 0);
	assert_int_equal(get(GOOD, NULL, &any, &filter, &err), 0);
	assert_int_equal(filter.program.len, len);
	snprintf(command, sizeof(command), "grep -q '\"read\"' %s/cache/*-profile", base);
	assert_int_equal(system(command), 0);
	seccomp_filter_done(&filter);
}

static void test_a_file_that_must_not_be_read_is_named(void **state)
{
	static const struct policy any;
	struct policy limited = {.host_paths_limited = true};
	const struct {
		const char *name, *words;
		const struct policy *policy;
	} rows[] = {
		{"none", "No such file", &any},     {"secret", "readable for every user", &any},
		{".", "regular file", &any},        {"fifo", "regular file", &any},
		{"large", "at most 1048576", &any}, {"link", "ECS_ALLOWED_HOST_PATHS", &limited},
		{"bad", "defaultAction", &any},
	};
	char allowed[128];

	(void)state;
	if (geteuid() != 0)
		skip(); /* becomes another user */
	write_file("secret", GOOD, 0600);
	write_file("bad", "{}", 0644);
	write_file("large", "", 0644);
	assert_int_equal(truncate(in_base("large"), SECCOMP_PROFILE_MAX + 1), 0);
	assert_int_equal(mkfifo(in_base("fifo"), 0644), 0);
	assert_int_equal(symlink("/etc/passwd", in_base("link")), 0);
	snprintf(allowed, sizeof(allowed), "%s", base);
	limited.host_paths[limited.n_host_paths++] = allowed;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct seccomp_filter filter = {};
		struct err err = {};

		print_message("%s\n", rows[i].name);
		assert_true(get(NULL, in_base(rows[i].name), rows[i].policy, &filter, &err) < 0);
		assert_null(filter.program.filter);
		if (!strstr(err.text, rows[i].words) || !strstr(err.text, rows[i].name))
			fail_msg("\"%s\" should have %s", err.text, rows[i].words);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_calls_are_answered),
		cmocka_unit_test(test_newer_calls_are_absent_only_where_the_default_refuses),
#if defined(__x86_64__)
		cmocka_unit_test(test_architectures_are_those_of_the_profile),
#endif
		cmocka_unit_test(test_flags),
		cmocka_unit_test(test_what_is_wrong_is_named),
		TEST(test_a_filter_is_compiled_once),
		TEST(test_the_cache_compares_the_text),
		TEST(test_a_file_that_must_not_be_read_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
