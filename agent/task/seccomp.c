/* From rules to BPF, and the cache in between. */
#include "agent/task/seccomp.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/spool.h"

#define NAME_BYTES (SECCOMP_NAME_MAX + 1)
#define X32_BIT    0x40000000u

uint64_t seccomp_profile_capabilities(const struct seccomp_profile *profile)
{
	uint64_t all = 0;

	for (size_t i = 0; i < profile->n_rules; i++)
		all |= profile->rules[i].with | profile->rules[i].without;
	return all;
}

/* Copy the next name of *names; false at the end. */
static bool next_name(const char **names, char name[NAME_BYTES])
{
	const char *start = *names + strspn(*names, " ");
	size_t len = strcspn(start, " ");

	if (len == 0 || len >= NAME_BYTES)
		return false;
	memcpy(name, start, len);
	name[len] = '\0';
	*names = start + len;
	return true;
}

/*
 * A condition on the same argument twice is not one condition for libseccomp: then, as with runc,
 * each is a rule of its own, of which one must hold.
 */
static bool has_argument_twice(const struct seccomp_rule *rule)
{
	unsigned int seen = 0;

	for (size_t i = 0; i < rule->n_args; i++) {
		if (seen & 1u << rule->args[i].arg)
			return true;
		seen |= 1u << rule->args[i].arg;
	}
	return false;
}

static int add_call(scmp_filter_ctx ctx, const struct seccomp_rule *rule, int nr)
{
	int r = 0;

	if (!has_argument_twice(rule))
		return seccomp_rule_add_array(ctx, rule->action, nr, (unsigned int)rule->n_args,
		                              rule->args);
	for (size_t i = 0; r == 0 && i < rule->n_args; i++)
		r = seccomp_rule_add_array(ctx, rule->action, nr, 1, &rule->args[i]);
	return r;
}

static int add_rule(scmp_filter_ctx ctx, const struct seccomp_rule *rule, struct err *err)
{
	const char *names = rule->names;
	char name[NAME_BYTES];
	int r;

	while (next_name(&names, name)) {
		int nr = seccomp_syscall_resolve_name(name);

		if (nr == __NR_SCMP_ERROR)
			continue; /* newer than this libseccomp: see the ENOSYS stub */
		r = add_call(ctx, rule, nr);
		if (r < 0)
			return err_set(err, r, "seccomp rule for %s", name);
	}
	return 0;
}

static int add_rules(scmp_filter_ctx ctx, const struct seccomp_profile *profile,
                     uint64_t capabilities, struct err *err)
{
	for (size_t i = 0; i < profile->n_rules; i++) {
		const struct seccomp_rule *rule = &profile->rules[i];
		int r;

		if ((rule->with & ~capabilities) || (rule->without & capabilities))
			continue;
		if (rule->action == profile->default_action)
			continue; /* says nothing, and libseccomp takes no such rule */
		r = add_rule(ctx, rule, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* The highest number of any call in the profile, whether this container may make it or not. */
static uint32_t newest_call(const struct seccomp_profile *profile, uint32_t arch)
{
	int newest = 0;

	for (size_t i = 0; i < profile->n_rules; i++) {
		const char *names = profile->rules[i].names;
		char name[NAME_BYTES];

		while (next_name(&names, name)) {
			int nr = seccomp_syscall_resolve_name_arch(arch, name);

			if (nr > newest)
				newest = nr;
		}
	}
	return (uint32_t)newest;
}

static size_t stub_for_arch(struct sock_filter *at, uint32_t audit_arch, uint32_t newest)
{
	const struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, audit_arch, 0, 4),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, X32_BIT, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, newest, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
	};

	memcpy(at, code, sizeof(code));
	return ARRAY_SIZE(code);
}

static bool needs_enosys_stub(uint32_t default_action)
{
	switch (default_action & SECCOMP_RET_ACTION_FULL) {
	case SECCOMP_RET_ALLOW:
	case SECCOMP_RET_LOG:
	case SECCOMP_RET_TRACE:
		return false;
	default:
		return default_action != SCMP_ACT_ERRNO(ENOSYS);
	}
}

/* A call that no rule names because it is newer than the profile must look absent, not forbidden:
 * C libraries try the new one and fall back on ENOSYS only. */
static int write_enosys_stub(const struct seccomp_profile *profile, int fd)
{
	struct sock_filter code[6 * (SECCOMP_ARCHES_MAX + 1)];
	uint32_t native = seccomp_arch_native();
	size_t n = 0;

	if (!needs_enosys_stub(profile->default_action))
		return 0;
	/* For libseccomp the token of an architecture is its AUDIT_ARCH number; x32 shares that of
	 * x86-64 and is told by a bit of the call's number. */
	n += stub_for_arch(code + n, native, newest_call(profile, native));
	for (size_t i = 0; i < SECCOMP_ARCHES_MAX && profile->arches[i]; i++) {
		uint32_t arch = profile->arches[i];

		if (arch != SCMP_ARCH_X32 && arch != native)
			n += stub_for_arch(code + n, arch, newest_call(profile, arch));
	}
	return fd_write_all(fd, code, n * sizeof(code[0]));
}

static int compile_with(scmp_filter_ctx ctx, const struct seccomp_profile *profile,
                        uint64_t capabilities, int fd, struct err *err)
{
	int r;

	for (size_t i = 0; i < SECCOMP_ARCHES_MAX && profile->arches[i]; i++) {
		r = seccomp_arch_add(ctx, profile->arches[i]);
		if (r < 0 && r != -EEXIST)
			return err_set(err, r, "seccomp architecture 0x%x", profile->arches[i]);
	}
	/* Sorted instead of linear: a call is found in a few steps. Older libraries cannot. */
	(void)seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2);

	r = add_rules(ctx, profile, capabilities, err);
	if (r < 0)
		return r;
	r = write_enosys_stub(profile, fd);
	if (r < 0)
		return err_set(err, r, "write seccomp filter");
	r = seccomp_export_bpf(ctx, fd);
	return r < 0 ? err_set(err, r, "export seccomp filter") : 0;
}

int seccomp_compile(const struct seccomp_profile *profile, uint64_t capabilities, int fd,
                    struct err *err)
{
	scmp_filter_ctx ctx = seccomp_init(profile->default_action);
	int r;

	if (!ctx)
		return err_oom(err);
	r = compile_with(ctx, profile, capabilities, fd, err);
	seccomp_release(ctx);
	return r;
}

void seccomp_filter_done(struct seccomp_filter *filter)
{
	free(filter->program.filter);
	*filter = (struct seccomp_filter){};
}

int seccomp_filter_set(struct seccomp_filter *filter, const void *code, size_t n)
{
	struct sock_filter *copy;

	if (n == 0 || n > SECCOMP_FILTER_BYTES || n % sizeof(*copy))
		return -EINVAL;
	copy = malloc(n);
	if (!copy)
		return -ENOMEM;
	memcpy(copy, code, n);
	free(filter->program.filter);
	filter->program.filter = copy;
	filter->program.len = (unsigned short)(n / sizeof(*copy));
	return 0;
}

/* Compile in a child into a temporary file and put it in place. */
static int cache_fill(int dir_fd, const char *name, const struct seccomp_profile *profile,
                      uint64_t capabilities, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	uint64_t number;
	char tmp[160];
	int status;
	pid_t pid;

	/* Many supervisors may do this at once, and each is process 1 of its own namespace. */
	if (getrandom(&number, sizeof(number), 0) != sizeof(number))
		return err_set(err, -errno, "name a file of the seccomp cache");
	snprintf(tmp, sizeof(tmp), "%s.%016" PRIx64 ".tmp", name, number);
	fd = openat(dir_fd, tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_set(err, -errno, "create seccomp cache %s", tmp);

	pid = fork();
	if (pid < 0)
		return err_set(err, -errno, "fork to compile the seccomp profile");
	if (pid == 0) {
		int r = seccomp_compile(profile, capabilities, fd, NULL);

		if (r == 0)
			r = renameat(dir_fd, tmp, dir_fd, name) < 0 ? -errno : 0;
		_exit(-r & 0xff);
	}
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return err_set(err, -errno, "wait for the seccomp compiler");
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return 0;

	(void)unlinkat(dir_fd, tmp, 0);
	if (WIFEXITED(status))
		return err_set(err, -WEXITSTATUS(status), "compile the seccomp profile");
	return err_text(err, -EIO, "the seccomp compiler was killed by signal %d",
	                WTERMSIG(status));
}

int seccomp_cache_read(int dir_fd, const char *name, size_t max, char **ret, size_t *ret_len)
{
	_cleanup_close_ int fd = -EBADF;
	_cleanup_free_ char *content = NULL;
	struct stat st;
	ssize_t n;

	fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 0077) ||
	    st.st_size <= 0 || (size_t)st.st_size > max)
		return -ENOENT;

	content = malloc((size_t)st.st_size);
	if (!content)
		return -ENOMEM;
	n = fd_read_all(fd, content, (size_t)st.st_size);
	if (n < 0)
		return (int)n;
	if (n != st.st_size)
		return -ENOENT;
	*ret = TAKE_PTR(content);
	*ret_len = (size_t)n;
	return 0;
}

static int cache_read(int dir_fd, const char *name, struct seccomp_filter *ret)
{
	_cleanup_free_ char *code = NULL;
	size_t n;
	int r = seccomp_cache_read(dir_fd, name, SECCOMP_FILTER_BYTES, &code, &n);

	if (r == 0)
		r = seccomp_filter_set(ret, code, n);
	return r == -EINVAL ? -ENOENT : r;
}

/* So that a filter of other rules (an older release of ours) is never taken for this one. */
static uint32_t profile_checksum(const struct seccomp_profile *profile)
{
	uint32_t crc = spool_crc32(0, profile->arches, sizeof(profile->arches));

	crc = spool_crc32(crc, &profile->default_action, sizeof(profile->default_action));
	for (size_t i = 0; i < profile->n_rules; i++) {
		const struct seccomp_rule *rule = &profile->rules[i];
		const uint64_t rest[] = {rule->with, rule->without, rule->action};

		crc = spool_crc32(crc, rule->names, strlen(rule->names));
		crc = spool_crc32(crc, rest, sizeof(rest));
		for (size_t k = 0; k < rule->n_args; k++) {
			const uint64_t arg[] = {rule->args[k].arg, rule->args[k].op,
			                        rule->args[k].datum_a, rule->args[k].datum_b};

			crc = spool_crc32(crc, arg, sizeof(arg));
		}
	}
	return crc;
}

int seccomp_cache_open(const char *cache_dir, struct err *err)
{
	_cleanup_close_ int fd = -EBADF;
	struct stat st;

	if (mkdir(cache_dir, 0700) < 0 && errno != EEXIST)
		return err_set(err, -errno, "create %s", cache_dir);
	fd = open(cache_dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return err_set(err, -errno, "open %s", cache_dir);
	if (fstat(fd, &st) < 0)
		return err_set(err, -errno, "stat %s", cache_dir);
	if (st.st_uid != geteuid() || (st.st_mode & 0077))
		return err_text(err, -EPERM, "%s must be root's alone (mode 0700)", cache_dir);
	return TAKE_FD(fd);
}

int seccomp_filter_get(const char *cache_dir, const struct seccomp_profile *profile,
                       uint64_t capabilities, struct seccomp_filter *ret, struct err *err)
{
	const struct scmp_version *version = seccomp_version();
	_cleanup_close_ int dir_fd = seccomp_cache_open(cache_dir, err);
	char name[128];
	int r;

	if (dir_fd < 0)
		return dir_fd;
	snprintf(name, sizeof(name), "%08" PRIx32 "-%" PRIx64 "-libseccomp-%u.%u.%u",
	         profile_checksum(profile), capabilities & seccomp_profile_capabilities(profile),
	         version->major, version->minor, version->micro);
	ret->flags = profile->flags;
	r = cache_read(dir_fd, name, ret);
	if (r != -ENOENT)
		return r < 0 ? err_set(err, r, "read %s/%s", cache_dir, name) : 0;

	r = cache_fill(dir_fd, name, profile, capabilities, err);
	if (r < 0)
		return r;
	r = cache_read(dir_fd, name, ret);
	return r < 0 ? err_set(err, r, "read %s/%s", cache_dir, name) : 0;
}

int seccomp_filter_install(const struct seccomp_filter *filter)
{
	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, filter->flags, &filter->program) < 0)
		return -errno;
	return 0;
}
