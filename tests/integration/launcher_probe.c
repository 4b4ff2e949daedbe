/*
 * Stands in for ecs-task, ecs-image and ecs-network: writes how it was started to its descriptor 3
 * as lines of "key value", then echoes what it reads there until the peer closes.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void tell_file(FILE *out, const char *key, const char *path)
{
	char line[4096];
	FILE *in = fopen(path, "re");

	while (in && fgets(line, sizeof(line), in))
		fprintf(out, "%s %s", key, line);
	if (in)
		fclose(in);
}

static void tell_descriptors(FILE *out)
{
	for (int fd = 0; fd < 1024; fd++) {
		char path[64], target[256];
		ssize_t n;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		n = readlink(path, target, sizeof(target) - 1);
		if (n < 0)
			continue;
		target[n] = '\0';
		fprintf(out, "fd %d %s\n", fd, target);
	}
}

static void tell_signals(FILE *out)
{
	struct sigaction action;
	sigset_t mask;

	for (int i = 1; i < NSIG; i++) {
#ifdef ECS_SANITIZERS
		if (i == SIGBUS || i == SIGFPE || i == SIGSEGV)
			continue; /* the runtime's own */
#endif
		if (sigaction(i, NULL, &action) == 0 && action.sa_handler != SIG_DFL)
			fprintf(out, "signal-not-default %d\n", i);
	}
	sigprocmask(SIG_BLOCK, NULL, &mask);
	for (int i = 1; i < NSIG; i++)
		if (sigismember(&mask, i) == 1)
			fprintf(out, "signal-blocked %d\n", i);
}

static const char *try_write(const char *path)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd >= 0 && write(fd, "x", 1) == 1)
		return "written";
	return strerrorname_np(errno);
}

int main(int argc, char **argv)
{
	FILE *out = fdopen(dup(3), "we");
	char buf[256], cwd[256];
	mode_t mask;
	ssize_t n;

	if (!out)
		return 1;
	fcntl(fileno(out), F_SETFD, FD_CLOEXEC);
	mask = umask(0);
	tell_descriptors(out); /* the duplicate is one of them */
	fprintf(out, "duplicate %d\n", fileno(out));
	for (int i = 0; i < argc; i++)
		fprintf(out, "arg %s\n", argv[i]);
	for (char **env = environ; *env; env++)
		fprintf(out, "env %s\n", *env);
	fprintf(out, "pid %d\nsession %d\numask %o\ncwd %s\n", (int)getpid(), (int)getsid(0), mask,
	        getcwd(cwd, sizeof(cwd)) ? cwd : "?");
	fprintf(out, "flags %d\n", fcntl(3, F_GETFL) & O_NONBLOCK);
	tell_signals(out);
	tell_file(out, "cgroup", "/proc/self/cgroup");
	tell_file(out, "mount", "/proc/self/mountinfo");
	tell_file(out, "oom", "/proc/self/oom_score_adj");
	n = readlink("/proc/self/ns/mnt", buf, sizeof(buf) - 1);
	fprintf(out, "mntns %.*s\n", (int)n, buf);
	n = readlink("/proc/self/ns/pid", buf, sizeof(buf) - 1);
	fprintf(out, "pidns %.*s\n", (int)n, buf);
	n = readlink("/proc/self/exe", buf, sizeof(buf) - 1);
	fprintf(out, "exe %.*s\n", (int)n, buf);
	fprintf(out, "write-exe %s\nend\n", try_write("/proc/self/exe"));
	fclose(out);

	while ((n = read(3, buf, sizeof(buf))) > 0)
		if (write(3, buf, (size_t)n) != n)
			return 1;
	return 0;
}
