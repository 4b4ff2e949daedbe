/*
 * ecs-keeper: the main process of ecs-tasks.service, whose delegated cgroup all tasks live in. It
 * makes room there (a cgroup that has others below it may hold no process), says where that is, and
 * waits: the service is there as long as it, or any task. It starts no task and is no parent of
 * one, so that its end is felt by none.
 *
 * "ecs-keeper --stop", run by the service manager when the service is to stop, has each supervisor
 * stop its task in order, and returns when the last one has ended.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "agent/launcher/notify.h"
#include "agent/launcher/parent.h"
#include "lib/cleanup.h"
#include "lib/fd.h"
#include "lib/log.h"
#include "lib/options.h"
#include "lib/parse.h"

#define LEAF         "keeper"
#define PROCS_MAX    (1u << 20)
#define ROUND_NSEC   (20 * 1000 * 1000) /* between two looks for supervisors */
#define TASK_PREFIX  "ecstasks-"
#define OWN_LINE_MAX 4096

/*
 * Where systemd keeps the hierarchy by which it tells services apart (systemd.unit hierarchy of
 * "CGROUP_DELEGATION.md"): cgroup2 alone, cgroup2 beside v1 (hybrid), or v1 alone. The first that
 * is mounted is the one; key begins its line in /proc/self/cgroup behind the number.
 */
static const struct tree {
	const char *mount;
	long magic;
	const char *key;
} trees[] = {
	{"/sys/fs/cgroup", CGROUP2_SUPER_MAGIC, "::"},
	{"/sys/fs/cgroup/unified", CGROUP2_SUPER_MAGIC, "::"},
	{"/sys/fs/cgroup/systemd", CGROUP_SUPER_MAGIC, ":name=systemd:"},
};

static const struct tree *find_tree(void)
{
	struct statfs st;

	for (size_t i = 0; i < ARRAY_SIZE(trees); i++)
		if (statfs(trees[i].mount, &st) == 0 && (long)st.f_type == trees[i].magic)
			return &trees[i];
	return NULL;
}

/* systemd starts what belongs to a service that is delegated in ".control". */
static void strip_leaf(char *path)
{
	char *last = strrchr(path, '/');

	if (last && (strcmp(last, "/" LEAF) == 0 || strcmp(last, "/.control") == 0))
		*last = '\0';
}

/* The cgroup of the service: owned, with a leading slash. */
static int find_own_path(const struct tree *tree, char **ret, struct err *err)
{
	_cleanup_free_ char *text = NULL;
	char *rest = NULL;
	int r;

	r = file_read(AT_FDCWD, "/proc/self/cgroup", 16 * OWN_LINE_MAX, &text, NULL);
	if (r < 0)
		return err_set(err, r, "read /proc/self/cgroup");
	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		const char *at = line + strspn(line, "0123456789");

		if (strncmp(at, tree->key, strlen(tree->key)) != 0)
			continue;
		*ret = strdup(at + strlen(tree->key));
		if (!*ret)
			return err_oom(err);
		strip_leaf(*ret);
		if ((*ret)[0] == '/' && (*ret)[1] != '\0')
			return 0;
		free(*ret);
		*ret = NULL;
		break;
	}
	return err_text(err, -ENOENT,
	                "ecs-keeper is in the root cgroup; a service manager must start it in one "
	                "of its own");
}

static int open_own_cgroup(char **ret_path, struct err *err)
{
	_cleanup_free_ char *path = NULL;
	const struct tree *tree = find_tree();
	char dir[PATH_MAX];
	int fd, r;

	if (!tree)
		return err_text(err, -EOPNOTSUPP,
		                "no cgroup file system is mounted at /sys/fs/cgroup");
	r = find_own_path(tree, &path, err);
	if (r < 0)
		return r;
	if (snprintf(dir, sizeof(dir), "%s%s", tree->mount, path) >= (int)sizeof(dir))
		return err_text(err, -ENAMETOOLONG, "cgroup %s is too long", path);
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return err_set(err, -errno, "open %s", dir);
	*ret_path = TAKE_PTR(path);
	return fd;
}

static int run_path(const struct options *options, const char *name, char *ret, size_t n,
                    struct err *err)
{
	if (snprintf(ret, n, "%s/%s", options->runtime_dir, name) < (int)n)
		return 0;
	return err_text(err, -ENAMETOOLONG, "runtime directory %s is too long",
	                options->runtime_dir);
}

static int enter_leaf(int cgroup_fd, struct err *err)
{
	int r;

	if (mkdirat(cgroup_fd, LEAF, 0755) < 0 && errno != EEXIST)
		return err_set(err, -errno, "make the cgroup " LEAF);
	r = file_write(cgroup_fd, LEAF "/cgroup.procs", "0");
	return r < 0 ? err_set(err, r, "enter the cgroup " LEAF) : 0;
}

/* Tell ecs-launcher where tasks belong, and that they may start. */
static int open_door(const struct options *options, const char *cgroup, struct err *err)
{
	char file[PATH_MAX], text[PATH_MAX];
	int n, r;

	n = snprintf(text, sizeof(text), "%s\n", cgroup + 1);
	r = dir_create_all(options->runtime_dir, 0755);
	if (r < 0)
		return err_set(err, r, "make %s", options->runtime_dir);
	r = run_path(options, PARENT_FILE, file, sizeof(file), err);
	if (r < 0)
		return r;
	r = file_replace(AT_FDCWD, file, text, (size_t)n, 0644);
	if (r < 0)
		return err_set(err, r, "write %s", file);
	r = run_path(options, PARENT_STOPPING, file, sizeof(file), err);
	if (r < 0)
		return r;
	return unlink(file) < 0 && errno != ENOENT ? err_set(err, -errno, "remove %s", file) : 0;
}

static int keep(const struct options *options, struct err *err)
{
	_cleanup_free_ char *cgroup = NULL;
	_cleanup_close_ int fd = -EBADF;
	sigset_t mask;
	int r, signal_number;

	sigemptyset(&mask);
	sigaddset(&mask, SIGTERM);
	sigaddset(&mask, SIGINT);
	if (sigprocmask(SIG_BLOCK, &mask, NULL) < 0)
		return err_set(err, -errno, "block signals");
	fd = open_own_cgroup(&cgroup, err);
	if (fd < 0)
		return fd;
	r = enter_leaf(fd, err);
	if (r == 0)
		r = open_door(options, cgroup, err);
	if (r < 0)
		return err_prefix(err, r, "cgroup %s", cgroup);
	notify_ready();
	log_info(NULL, "tasks live in %s", cgroup + 1);
	return -sigwait(&mask, &signal_number);
}

/* The processes of a file cgroup.procs: owned. */
static int read_pids(int cgroup_fd, const char *file, pid_t **ret, size_t *ret_n)
{
	_cleanup_free_ char *text = NULL;
	_cleanup_free_ pid_t *pids = NULL;
	char *rest = NULL;
	size_t n = 0, len;
	int r;

	r = file_read(cgroup_fd, file, PROCS_MAX, &text, &len);
	if (r < 0)
		return r;
	pids = calloc(len / 2 + 1, sizeof(*pids)); /* each has a digit and a newline */
	if (!pids)
		return -ENOMEM;
	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		uint64_t pid;

		if (parse_u64(line, INT_MAX, &pid) == 0 && pid > 0)
			pids[n++] = (pid_t)pid;
	}
	*ret = TAKE_PTR(pids);
	*ret_n = n;
	return 0;
}

static bool is_in(int cgroup_fd, const char *file, pid_t pid)
{
	_cleanup_free_ pid_t *pids = NULL;
	size_t n = 0;

	if (read_pids(cgroup_fd, file, &pids, &n) < 0)
		return false;
	for (size_t i = 0; i < n; i++)
		if (pids[i] == pid)
			return true;
	return false;
}

/* pidfds of the supervisors that were asked to end in this round. */
struct supervisors {
	int *fds;
	size_t n;
};

static void supervisors_done(struct supervisors *s)
{
	for (size_t i = 0; i < s->n; i++)
		fd_close(s->fds[i]);
	free(s->fds);
}

static int ask_to_end(struct supervisors *s, int cgroup_fd, const char *file, pid_t pid)
{
	_cleanup_close_ int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	int *grown;

	if (fd < 0)
		return errno == ESRCH ? 0 : -errno;
	/* The number may have become another process's before it was opened. */
	if (!is_in(cgroup_fd, file, pid))
		return 0;
	grown = reallocarray(s->fds, s->n + 1, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	s->fds = grown;
	if (syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0) < 0)
		return errno == ESRCH ? 0 : -errno;
	s->fds[s->n++] = TAKE_FD(fd);
	return 0;
}

static int ask_task(struct supervisors *s, int cgroup_fd, const char *name)
{
	_cleanup_free_ pid_t *pids = NULL;
	char file[NAME_MAX + sizeof("/supervisor/cgroup.procs")];
	size_t n = 0;
	int r;

	snprintf(file, sizeof(file), "%s/supervisor/cgroup.procs", name);
	r = read_pids(cgroup_fd, file, &pids, &n);
	for (size_t i = 0; r == 0 && i < n; i++)
		r = ask_to_end(s, cgroup_fd, file, pids[i]);
	return r == -ENOENT || r == -ENODEV ? 0 : r; /* removed meanwhile */
}

/* A task that cannot be asked does not keep the others from being asked. */
static int ask_all(struct supervisors *s, int cgroup_fd)
{
	_cleanup_(closedirp) DIR *dir = NULL;
	const struct dirent *entry;
	int r, first = 0;

	r = dir_open(cgroup_fd, ".", &dir);
	if (r < 0)
		return r;
	while ((entry = readdir(dir))) {
		if (strncmp(entry->d_name, TASK_PREFIX, strlen(TASK_PREFIX)) != 0)
			continue;
		r = ask_task(s, cgroup_fd, entry->d_name);
		if (r < 0) {
			log_warning(NULL, r, "end the supervisor in %s", entry->d_name);
			first = first < 0 ? first : r;
		}
	}
	return first;
}

static int wait_for_all(const struct supervisors *s)
{
	for (size_t i = 0; i < s->n; i++) {
		struct pollfd polled = {.fd = s->fds[i], .events = POLLIN};

		while (poll(&polled, 1, -1) < 0)
			if (errno != EINTR)
				return -errno;
	}
	return 0;
}

/* No new task from here on; ecs-launcher looks for this file. */
static int close_door(const struct options *options, struct err *err)
{
	char file[PATH_MAX];
	int r;

	r = run_path(options, PARENT_STOPPING, file, sizeof(file), err);
	if (r == 0)
		r = file_replace(AT_FDCWD, file, "", 0, 0644);
	return r < 0 ? err_set(err, r, "make %s/" PARENT_STOPPING, options->runtime_dir) : 0;
}

/* One descriptor for each task that is waited for. */
static void raise_descriptor_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &limit); /* more rounds, then */
}

/* Again until there is none: one may have been about to start when the door was closed. */
static int stop(const struct options *options, struct err *err)
{
	const struct timespec pause = {.tv_nsec = ROUND_NSEC};
	_cleanup_free_ char *cgroup = NULL;
	_cleanup_close_ int fd = -EBADF;
	struct err door = {0};
	bool first = true;

	raise_descriptor_limit();
	if (close_door(options, &door) < 0)
		log_warning(NULL, 0, "tasks may still start: %s", door.text);
	fd = open_own_cgroup(&cgroup, err);
	if (fd < 0)
		return fd;
	for (;;) {
		_cleanup_(supervisors_done) struct supervisors s = {0};
		int r = ask_all(&s, fd);

		if (s.n == 0)
			return r < 0 ? err_set(err, r, "stop the tasks in %s", cgroup) : 0;
		if (first)
			log_info(NULL, "stopping %zu tasks", s.n);
		first = false;
		r = wait_for_all(&s);
		if (r < 0)
			return err_set(err, r, "wait for the tasks in %s", cgroup);
		nanosleep(&pause, NULL);
	}
}

int main(int argc, char **argv)
{
	bool only_stop = false;
	const struct option_spec specs[] = {
		{"stop", NULL, "stop all tasks in order, then exit", &only_stop, NULL},
	};
	struct options options;
	struct err err = {0};
	int r, first;

	log_init("ecs-keeper");
	/* We are root without capabilities, and a container's root of pidMode host has no fewer: it
	 * must not get to the host's files through our /proc/<pid>/root. */
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0) {
		log_err(NULL, -errno, "forbid tracing");
		return EXIT_FAILURE;
	}
	r = options_parse(argc, argv, "ecs-keeper [OPTION]...", specs, ARRAY_SIZE(specs), &options,
	                  &first, &err);
	if (r > 0)
		return EXIT_SUCCESS;
	if (r == 0 && first < argc)
		r = err_text(&err, -EINVAL, "ecs-keeper takes no argument: %s", argv[first]);
	if (r == 0)
		r = only_stop ? stop(&options, &err) : keep(&options, &err);
	if (r < 0) {
		log_err(NULL, 0, "%s", err.text);
		return EXIT_FAILURE;
	}
	return EXIT_SUCCESS;
}
