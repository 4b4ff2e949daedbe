/* The unprivileged child, what is asked of it, and the cache of what it made. */
#include "agent/task/seccomp_task.h"

#include <dirent.h>
#include <errno.h>
#include <grp.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent/task/seccomp_profile.h"
#include "lib/confine.h"
#include "lib/fd.h"
#include "lib/spool.h"

#define NOBODY       65534
#define JOB_SECONDS  30
#define CACHE_SUFFIX "-profile"

/* One thing done by the child: its product goes to out_fd. */
struct job {
	int (*run)(const struct job *job, uint32_t *ret_flags, struct err *err);
	const struct policy *policy;
	const char *path, *text;
	size_t text_len;
	uint64_t capabilities;
	int out_fd;
};

/* What the child says at its end; shorter than PIPE_BUF. */
struct job_report {
	int32_t error;
	uint32_t flags;
	char text[sizeof(((struct err *)NULL)->text)];
};

/* --- in the child --- */

static int open_profile(const struct job *job, struct err *err)
{
	_cleanup_close_ int fd = open(job->path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	char link[32], real[PATH_MAX];
	struct stat st;
	ssize_t n;

	if (fd < 0 && errno == EACCES)
		return err_text(err, -EACCES, "it must be readable for every user");
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_set(err, -errno, "open it");
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, real, sizeof(real) - 1);
	if (n < 0)
		return err_set(err, -errno, "find out where it is");
	real[n] = '\0';
	if (!policy_allows_host_path(job->policy, real))
		return err_text(err, -EACCES, "it is not within ECS_ALLOWED_HOST_PATHS");
	if (!S_ISREG(st.st_mode))
		return err_text(err, -EINVAL, "it must be a regular file");
	if (st.st_size > SECCOMP_PROFILE_MAX)
		return err_text(err, -EFBIG, "it has %lld bytes; at most %d are taken",
		                (long long)st.st_size, SECCOMP_PROFILE_MAX);
	return TAKE_FD(fd);
}

static int copy_profile(const struct job *job, uint32_t *ret_flags, struct err *err)
{
	_cleanup_close_ int fd = open_profile(job, err);
	_cleanup_free_ char *text = malloc(SECCOMP_PROFILE_MAX + 1);
	ssize_t n;
	int r;

	(void)ret_flags;
	if (fd < 0)
		return fd;
	if (!text)
		return err_oom(err);
	n = fd_read_all(fd, text, SECCOMP_PROFILE_MAX + 1);
	if (n < 0)
		return err_set(err, (int)n, "read it");
	if (n > SECCOMP_PROFILE_MAX)
		return err_text(err, -EFBIG, "it is growing beyond %d bytes", SECCOMP_PROFILE_MAX);
	r = fd_write_all(job->out_fd, text, (size_t)n);
	return r < 0 ? err_set(err, r, "copy it") : 0;
}

static int compile_profile(const struct job *job, uint32_t *ret_flags, struct err *err)
{
	_cleanup_(seccomp_profile_freep) struct seccomp_profile *profile = NULL;
	int r = seccomp_profile_parse(job->text, job->text_len, &profile, err);

	if (r < 0)
		return r;
	*ret_flags = profile->flags;
	return seccomp_compile(profile, job->capabilities, job->out_fd, err);
}

static int become_nobody(struct err *err)
{
	static const struct rlimit seconds = {JOB_SECONDS, JOB_SECONDS};
	static const struct rlimit bytes = {2 * SECCOMP_PROFILE_MAX, 2 * SECCOMP_PROFILE_MAX};
	/* libseccomp asks the kernel which actions it has. */
	static const char *const more[] = {"seccomp", "prctl", NULL};
	static const struct confinement confinement = {.syscalls = more};

	alarm(JOB_SECONDS); /* the file may be on a server that does not answer */
	if (setrlimit(RLIMIT_CPU, &seconds) < 0 || setrlimit(RLIMIT_FSIZE, &bytes) < 0)
		return err_set(err, -errno, "limit the reader of seccomp profiles");
	if (setgroups(0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 ||
	    setresuid(NOBODY, NOBODY, NOBODY) < 0)
		return err_set(err, -errno, "become nobody to read a seccomp profile");
	return confine(&confinement, err);
}

static void reset_signals(void)
{
	sigset_t none;

	(void)signal(SIGALRM, SIG_DFL); /* cannot fail for these */
	(void)signal(SIGXCPU, SIG_DFL);
	sigemptyset(&none);
	(void)sigprocmask(SIG_SETMASK, &none, NULL);
}

static _Noreturn void child_main(const struct job *job, int report_fd)
{
	const int lower = job->out_fd < report_fd ? job->out_fd : report_fd;
	const int keep[] = {lower, job->out_fd + report_fd - lower};
	struct job_report report = {};
	struct err err = {};
	int r;

	reset_signals();
	r = fd_close_from(STDERR_FILENO + 1, keep, ARRAY_SIZE(keep));
	if (r < 0)
		(void)err_set(&err, r, "close what the reader of seccomp profiles must not have");
	else
		r = become_nobody(&err);
	if (r == 0)
		r = job->run(job, &report.flags, &err);
	report.error = r;
	memcpy(report.text, err.text, sizeof(report.text));
	_exit(fd_write_all(report_fd, &report, sizeof(report)) < 0);
}

/* --- in the parent --- */

static int take_report(int fd, uint32_t *ret_flags, struct err *err)
{
	struct job_report report;
	ssize_t n = fd_read_all(fd, &report, sizeof(report));

	if (n != sizeof(report))
		return err_text(err, -ETIMEDOUT, "its reader ended without an answer");
	report.text[sizeof(report.text) - 1] = '\0';
	for (char *c = report.text; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 0x7f)
			*c = '?';
	if (report.error == 0) {
		*ret_flags = report.flags;
		return 0;
	}
	return err_text(err, report.error < 0 ? report.error : -EPROTO, "%s", report.text);
}

static int start_child(const struct job *job, int *ret_report_fd, pid_t *ret_pid, struct err *err)
{
	int fds[2];
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_set(err, -errno, "make a pipe");
	pid = fork();
	if (pid == 0)
		child_main(job, fds[1]);
	fd_close(fds[1]);
	if (pid < 0) {
		int r = err_set(err, -errno, "fork");

		fd_close(fds[0]);
		return r;
	}
	*ret_report_fd = fds[0];
	*ret_pid = pid;
	return 0;
}

/* *ret: what the child wrote, at most max bytes. */
static int run_job(struct job *job, size_t max, char **ret, size_t *ret_len, uint32_t *ret_flags,
                   struct err *err)
{
	_cleanup_close_ int report_fd = -EBADF, out_fd = -EBADF;
	_cleanup_free_ char *product = NULL;
	ssize_t n;
	pid_t pid = 0;
	int r;

	out_fd = job->out_fd = memfd_create("seccomp", MFD_CLOEXEC);
	if (out_fd < 0)
		return err_set(err, -errno, "make a file in memory");
	r = start_child(job, &report_fd, &pid, err);
	if (r < 0)
		return r;
	r = take_report(report_fd, ret_flags, err);
	while (waitpid(pid, NULL, 0) < 0)
		if (errno != EINTR)
			return err_set(err, -errno, "wait for the reader of seccomp profiles");
	if (r < 0)
		return r;

	product = malloc(max + 1);
	if (!product)
		return err_oom(err);
	if (lseek(out_fd, 0, SEEK_SET) < 0)
		return err_set(err, -errno, "go to the start of a file in memory");
	n = fd_read_all(out_fd, product, max + 1);
	if (n < 0)
		return err_set(err, (int)n, "read a file in memory");
	if ((size_t)n > max)
		return err_text(err, -EFBIG, "it is too long: more than %zu bytes", max);
	*ret = TAKE_PTR(product);
	*ret_len = (size_t)n;
	return 0;
}

/* --- the cache --- */

/* A file of the cache: this, the text, the instructions. */
struct entry {
	uint32_t flags;
	uint32_t text_len;
};

static void entry_name(const char *text, size_t len, uint64_t capabilities, char *buf, size_t n)
{
	const struct scmp_version *version = seccomp_version();

	snprintf(buf, n, "%08" PRIx32 "-%" PRIx64 "-libseccomp-%u.%u.%u" CACHE_SUFFIX,
	         spool_crc32(0, text, len), capabilities, version->major, version->minor,
	         version->micro);
}

/* -ENOENT: not there, or of another text. */
static int entry_read(int dir_fd, const char *name, const char *text, size_t len,
                      struct seccomp_filter *ret)
{
	_cleanup_free_ char *content = NULL;
	struct entry entry;
	size_t n, start = sizeof(entry) + len;
	int r = seccomp_cache_read(dir_fd, name, start + SECCOMP_FILTER_BYTES, &content, &n);

	if (r < 0)
		return r;
	if (n <= start)
		return -ENOENT;
	memcpy(&entry, content, sizeof(entry));
	if (entry.text_len != len || memcmp(content + sizeof(entry), text, len) != 0)
		return -ENOENT;
	r = seccomp_filter_set(ret, content + start, n - start);
	if (r == 0)
		ret->flags = entry.flags;
	return r == -EINVAL ? -ENOENT : r;
}

static bool is_entry(const char *name)
{
	size_t len = strlen(name), suffix = strlen(CACHE_SUFFIX);

	return len > suffix && strcmp(name + len - suffix, CACHE_SUFFIX) == 0;
}

/* Calls for each entry; returns how many there are. */
static size_t each_entry(int dir_fd, bool remove)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	struct dirent *found;
	size_t n = 0;

	if (dir_open(dir_fd, ".", &dir) < 0)
		return 0;
	while ((found = readdir(dir)))
		if (is_entry(found->d_name)) {
			n++;
			if (remove)
				(void)unlinkat(dir_fd, found->d_name, 0); /* another may have */
		}
	return n;
}

/* That it cannot be kept is no failure: it is compiled again then. */
static void entry_write(int dir_fd, const char *name, const char *text, size_t len,
                        const struct seccomp_filter *filter)
{
	const struct entry entry = {.flags = filter->flags, .text_len = (uint32_t)len};
	size_t code = filter->program.len * sizeof(*filter->program.filter);
	_cleanup_free_ char *content = NULL;

	if (len > SECCOMP_CACHED_TEXT_MAX)
		return;
	content = malloc(sizeof(entry) + len + code);
	if (!content)
		return;
	memcpy(content, &entry, sizeof(entry));
	memcpy(content + sizeof(entry), text, len);
	memcpy(content + sizeof(entry) + len, filter->program.filter, code);
	if (each_entry(dir_fd, false) >= SECCOMP_CACHED_MAX)
		(void)each_entry(dir_fd, true);
	(void)file_replace(dir_fd, name, content, sizeof(entry) + len + code, 0600);
}

/* --- the whole --- */

static int compile(struct job *job, struct seccomp_filter *ret, struct err *err)
{
	_cleanup_free_ char *code = NULL;
	size_t n;
	int r = run_job(job, SECCOMP_FILTER_BYTES, &code, &n, &ret->flags, err);

	if (r < 0)
		return r;
	r = seccomp_filter_set(ret, code, n);
	return r < 0 ? err_set(err, r, "take the filter of %zu bytes", n) : 0;
}

static int filter_of_text(const char *cache_dir, const char *text, size_t len,
                          uint64_t capabilities, struct seccomp_filter *ret, struct err *err)
{
	struct job job = {.run = compile_profile,
	                  .text = text,
	                  .text_len = len,
	                  .capabilities = capabilities};
	_cleanup_close_ int dir_fd = -EBADF;
	char name[128];
	int r;

	dir_fd = seccomp_cache_open(cache_dir, err);
	if (dir_fd < 0)
		return dir_fd;
	entry_name(text, len, capabilities, name, sizeof(name));
	r = entry_read(dir_fd, name, text, len, ret);
	if (r != -ENOENT)
		return r < 0 ? err_set(err, r, "read %s/%s", cache_dir, name) : 0;
	r = compile(&job, ret, err);
	if (r == 0)
		entry_write(dir_fd, name, text, len, ret);
	return r;
}

int seccomp_task_filter(const char *cache_dir, const struct policy *policy,
                        const struct seccomp_source *source, uint64_t capabilities,
                        struct seccomp_filter *ret, struct err *err)
{
	struct job job = {.run = copy_profile, .policy = policy, .path = source->path};
	_cleanup_free_ char *copy = NULL;
	const char *text = source->text;
	size_t len = text ? strlen(text) : 0;
	uint32_t flags;
	int r = 0;

	if (!text) {
		r = run_job(&job, SECCOMP_PROFILE_MAX, &copy, &len, &flags, err);
		text = copy;
	}
	if (r == 0)
		r = filter_of_text(cache_dir, text, len, capabilities, ret, err);
	if (r < 0)
		seccomp_filter_done(ret);
	if (r < 0 && source->path)
		return err_prefix(err, r, "seccomp profile %.200s", source->path);
	return r < 0 ? err_prefix(err, r, "seccomp profile") : 0;
}
