/* The block that survives: whole or not at all, and nothing of the one before. */
#include "tests/unit/cmocka_prelude.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "iam-creds/vault.h"
#include "lib/fd.h"

#define HEAD_BYTES 4096

static struct vault *make(void)
{
	struct vault *vault = NULL;

	assert_int_equal(vault_create(&vault, NULL), 0);
	return vault;
}

/* As the next process would. */
static struct vault *open_again(const struct vault *vault)
{
	struct vault *again = NULL;
	struct err err = {0};

	assert_int_equal(vault_open(fcntl(vault_fd(vault), F_DUPFD_CLOEXEC, 3), &again, &err), 0);
	return again;
}

static void put(struct vault *vault, const char *text)
{
	memcpy(vault_begin(vault), text, strlen(text));
	vault_commit(vault, strlen(text));
}

static void assert_holds(const struct vault *vault, const char *text)
{
	size_t len;
	const char *bytes = vault_bytes(vault, &len);

	assert_int_equal(len, strlen(text));
	if (len > 0)
		assert_memory_equal(bytes, text, len);
}

/* How often text stands anywhere in the file. */
static int count(const struct vault *vault, const char *text)
{
	off_t size = lseek(vault_fd(vault), 0, SEEK_END);
	char *bytes = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, vault_fd(vault), 0), *at;
	int n = 0;

	assert_ptr_not_equal(bytes, MAP_FAILED);
	at = bytes;
	while ((at = memmem(at, (size_t)(bytes + size - at), text, strlen(text)))) {
		n++;
		at++;
	}
	munmap(bytes, (size_t)size);
	return n;
}

static void test_the_next_process_finds_the_last_block(void **state)
{
	_cleanup_(vault_freep) struct vault *vault = make(), *again = NULL;

	(void)state;
	assert_holds(vault, "");
	put(vault, "first");
	put(vault, "second");
	put(vault, "third");
	assert_holds(vault, "third");
	again = open_again(vault);
	assert_holds(again, "third");
	put(again, "fourth");
	assert_holds(again, "fourth");
}

static void test_what_was_replaced_is_wiped(void **state)
{
	_cleanup_(vault_freep) struct vault *vault = make();

	(void)state;
	put(vault, "canary-one-which-is-long");
	assert_int_equal(count(vault, "canary-one"), 1);
	put(vault, "canary-two");
	assert_int_equal(count(vault, "canary-one"), 0);
	assert_int_equal(count(vault, "which-is-long"), 0);
	put(vault, "");
	assert_int_equal(count(vault, "canary"), 0);
}

static void test_memory_is_given_back(void **state)
{
	_cleanup_(vault_freep) struct vault *vault = make();
	struct stat st;

	(void)state;
	memset(vault_begin(vault), 'x', VAULT_BYTES_MAX);
	vault_commit(vault, VAULT_BYTES_MAX);
	put(vault, "small");
	assert_int_equal(fstat(vault_fd(vault), &st), 0);
	assert_true(st.st_blocks * 512 <= 4 * HEAD_BYTES);
}

static void test_a_write_that_was_cut_off_is_wiped_and_the_block_stays(void **state)
{
	_cleanup_(vault_freep) struct vault *vault = make(), *again = NULL;

	(void)state;
	put(vault, "before");
	memcpy((char *)vault_begin(vault) + 100000, "canary", 6); /* and then SIGKILL */
	again = open_again(vault);
	assert_holds(again, "before");
	assert_int_equal(count(again, "canary"), 0);
}

/* A writer is killed over and over; each block has one letter, in a length of its own. */
static void test_a_kill_at_any_moment_leaves_a_whole_block(void **state)
{
	_cleanup_(vault_freep) struct vault *vault = make();
	int seen = 0;

	(void)state;
	for (int i = 0; i < 200; i++) {
		_cleanup_(vault_freep) struct vault *again = NULL;
		const char *bytes;
		size_t len;
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (pid == 0) {
			struct vault *mine;

			if (vault_open(vault_fd(vault), &mine, NULL) < 0)
				_exit(1);
			for (unsigned n = 0;; n++) {
				size_t size = 1000 + n % 26 * 40000;

				memset(vault_begin(mine), 'a' + (int)(n % 26), size);
				vault_commit(mine, size);
			}
		}
		usleep((useconds_t)(500 + i * 37 % 4000));
		assert_int_equal(kill(pid, SIGKILL), 0);
		assert_int_equal(waitpid(pid, NULL, 0), pid);

		again = open_again(vault);
		bytes = vault_bytes(again, &len);
		if (len == 0)
			continue; /* before the first */
		seen++;
		assert_int_equal(len, 1000 + (size_t)(bytes[0] - 'a') * 40000);
		for (size_t k = 1; k < len; k++)
			assert_int_equal(bytes[k], bytes[0]);
	}
	assert_true(seen > 0);
}

static int make_file(off_t size, unsigned seals)
{
	int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, size), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

static void test_other_descriptors_are_refused_by_name(void **state)
{
	const off_t size = HEAD_BYTES + 2 * (off_t)VAULT_BYTES_MAX;
	const unsigned seals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW;
	struct {
		int fd, r;
		const char *says;
	} cases[] = {
		{open("/dev/null", O_RDWR | O_CLOEXEC), -EINVAL, "no memory file"},
		{open("/proc/self/exe", O_RDONLY | O_CLOEXEC), -EINVAL, "no memory file"},
		{make_file(size, F_SEAL_GROW), -EINVAL, "seals"},
		{make_file(size, seals | F_SEAL_WRITE), -EINVAL, "seals"},
		{make_file(4096, seals), -EPROTONOSUPPORT, "bytes"},
		{make_file(size, seals), -EPROTONOSUPPORT, "version"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct vault *vault = NULL;
		struct err err = {0};

		if (vault_open(cases[i].fd, &vault, &err) != cases[i].r ||
		    !strstr(err.text, cases[i].says))
			fail_msg("case %zu: %s", i, err.text);
		assert_null(vault);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_next_process_finds_the_last_block),
		cmocka_unit_test(test_what_was_replaced_is_wiped),
		cmocka_unit_test(test_memory_is_given_back),
		cmocka_unit_test(test_a_write_that_was_cut_off_is_wiped_and_the_block_stays),
		cmocka_unit_test(test_a_kill_at_any_moment_leaves_a_whole_block),
		cmocka_unit_test(test_other_descriptors_are_refused_by_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
