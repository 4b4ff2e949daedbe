/*
 * The conformance table of cgroups/: what a limit means on the running kernel, tried with processes
 * and read back from the kernel's files. The rows, and what is expected of them, are the same on
 * every hierarchy.
 *
 *   cgroup_conformance <parent> [name of a row]...
 *
 * For each row one line: "<name> TAB <expected> TAB <observed>". What a host has nothing for (swap,
 * a disk) is observed as "skip: <reason>". Exit 1 when the rows cannot be run at all.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cgroups/cgroup.h"
#include "cgroups/hierarchy.h"
#include "lib/cleanup.h"

#define MIB          (1024ul * 1024)
#define MSEC         (1000ul * 1000) /* in nanoseconds */
#define WAIT_SECONDS 30
#define EXIT_JOIN    99

/* What the processes of a row and this one tell each other. */
struct shared {
	_Atomic uint64_t counters[2];
	atomic_bool stop;
};

struct bench {
	struct cgroup_root *root;
	struct cgroup *task, *container; /* "t" and "t/c", with the limits of the row */
	struct shared *shared;
	char seen[1024];
	struct err err;
};

__attribute__((format(printf, 2, 3))) static int see(struct bench *b, const char *fmt, ...)
{
	size_t used = strlen(b->seen);
	va_list args;

	if (used > 0)
		used += (size_t)snprintf(b->seen + used, sizeof(b->seen) - used, ", ");
	va_start(args, fmt);
	vsnprintf(b->seen + used, sizeof(b->seen) - used, fmt, args);
	va_end(args);
	return 0;
}

static int skip(struct bench *b, const char *reason)
{
	snprintf(b->seen, sizeof(b->seen), "skip: %s", reason);
	return 0;
}

static void sleep_msec(long msec)
{
	struct timespec t = {.tv_sec = msec / 1000, .tv_nsec = msec % 1000 * 1000000};

	nanosleep(&t, NULL);
}

/* --- processes --- */

typedef int (*child_fn)(struct shared *shared, uint64_t arg);

static pid_t spawn(struct bench *b, const struct cgroup *cgroup, child_fn fn, uint64_t arg)
{
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	_exit(cgroup_join(cgroup) < 0 ? EXIT_JOIN : fn(b->shared, arg));
}

static const char *outcome(pid_t pid, char *buf, size_t n)
{
	int status;

	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return "no process";
	if (WIFSIGNALED(status))
		snprintf(buf, n, "%s", WTERMSIG(status) == SIGKILL ? "killed" : "signalled");
	else
		snprintf(buf, n, WEXITSTATUS(status) == 0 ? "lives" : "exit %d",
		         WEXITSTATUS(status));
	return buf;
}

static int eat(struct shared *shared, uint64_t bytes)
{
	volatile char *memory =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)shared;
	if (memory == MAP_FAILED)
		return 1;
	for (uint64_t i = 0; i < bytes; i += 4096)
		memory[i] = (char)i + 1;
	return 0;
}

static int eat_and_stay(struct shared *shared, uint64_t bytes)
{
	int r = eat(shared, bytes);

	atomic_store(&shared->counters[0], 1);
	while (!atomic_load(&shared->stop))
		sleep_msec(1);
	return r;
}

static int burn(struct shared *shared, uint64_t cpu_msec)
{
	(void)shared;
	while ((uint64_t)clock() * 1000 / CLOCKS_PER_SEC < cpu_msec)
		;
	return 0;
}

static int pin_and_count(struct shared *shared, uint64_t index)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(0, &set);
	if (sched_setaffinity(0, sizeof(set), &set) < 0)
		return 1;
	while (!atomic_load(&shared->stop))
		atomic_fetch_add(&shared->counters[index], 1);
	return 0;
}

static int fork_until_refused(struct shared *shared, uint64_t max)
{
	for (uint64_t i = 0; i < max; i++) {
		pid_t pid = fork();

		if (pid == 0)
			for (;;)
				pause();
		if (pid < 0)
			return errno == EAGAIN ? 0 : 1;
		atomic_fetch_add(&shared->counters[0], 1);
	}
	return 2;
}

static int ignore_and_stay(struct shared *shared, uint64_t arg)
{
	(void)arg;
	signal(SIGTERM, SIG_IGN);
	if (fork() < 0)
		return 1;
	atomic_fetch_add(&shared->counters[0], 1);
	for (;;)
		pause();
}

static bool wait_counter(const struct bench *b, uint64_t at_least)
{
	for (int i = 0; i < WAIT_SECONDS * 1000; i++) {
		if (atomic_load(&b->shared->counters[0]) >= at_least)
			return true;
		sleep_msec(1);
	}
	return false;
}

/* --- the files of both hierarchies in common words --- */

static const struct hierarchy *hierarchy_of(const struct bench *b, enum controller controller)
{
	const struct hierarchy *h = NULL;

	(void)root_controller(b->root, controller, &h, NULL);
	return h;
}

/* The number of a file; "max" where there is no limit, in the ways in which the two say so. */
static const char *number(const struct bench *b, enum controller controller, const char *file,
                          char *buf, size_t n)
{
	const struct hierarchy *h = hierarchy_of(b, controller);
	char *text = buf;

	if (!h || hierarchy_read(h, b->container->path, file, buf, n) < 0)
		return "none";
	buf[strcspn(buf, "\n")] = '\0';
	if (strncmp(text, "default ", 8) == 0)
		text += 8;
	if (strcmp(text, "-1") == 0 || strtoull(text, NULL, 10) > INT64_MAX / 2)
		return "max";
	return text;
}

static void see_cpu(struct bench *b)
{
	char buf[64], period[64];

	if (cgroup_root_is_v2(b->root)) {
		see(b, "weight %s", number(b, CONTROLLER_CPU, "cpu.weight", buf, sizeof(buf)));
		see(b, "cpu %s", number(b, CONTROLLER_CPU, "cpu.max", buf, sizeof(buf)));
		return;
	}
	see(b, "weight %" PRIu64,
	    cpu_weight_of_shares(
		    strtoull(number(b, CONTROLLER_CPU, "cpu.shares", buf, sizeof(buf)), NULL, 10)));
	see(b, "cpu %s %s", number(b, CONTROLLER_CPU, "cpu.cfs_quota_us", buf, sizeof(buf)),
	    number(b, CONTROLLER_CPU, "cpu.cfs_period_us", period, sizeof(period)));
}

static void see_memory(struct bench *b)
{
	char max[64], low[64], swap[64];
	const char *total;

	if (!cgroup_root_is_v2(b->root)) {
		see(b, "memory %s",
		    number(b, CONTROLLER_MEMORY, "memory.limit_in_bytes", max, sizeof(max)));
		see(b, "with swap %s",
		    number(b, CONTROLLER_MEMORY, "memory.memsw.limit_in_bytes", swap,
		           sizeof(swap)));
		see(b, "reservation %s",
		    number(b, CONTROLLER_MEMORY, "memory.soft_limit_in_bytes", low, sizeof(low)));
		return;
	}
	see(b, "memory %s", number(b, CONTROLLER_MEMORY, "memory.max", max, sizeof(max)));
	total = number(b, CONTROLLER_MEMORY, "memory.swap.max", swap, sizeof(swap));
	if (strcmp(total, "max") == 0)
		see(b, "with swap max");
	else
		see(b, "with swap %llu", strtoull(max, NULL, 10) + strtoull(total, NULL, 10));
	total = number(b, CONTROLLER_MEMORY, "memory.low", low, sizeof(low));
	see(b, "reservation %s", strcmp(total, "0") == 0 ? "max" : total); /* none */
}

static int look_at_cpu(struct bench *b)
{
	see_cpu(b);
	return 0;
}

static int look_at_memory(struct bench *b)
{
	see_memory(b);
	return 0;
}

static int look_at_pids(struct bench *b)
{
	char buf[64];

	return see(b, "pids %s", number(b, CONTROLLER_PIDS, "pids.max", buf, sizeof(buf)));
}

static int look_at_io(struct bench *b)
{
	const struct cgroup_limits limits = {.io_weight = 300};
	static const char *const files[] = {"io.weight", "io.bfq.weight", "blkio.weight",
	                                    "blkio.bfq.weight"};
	char buf[64];
	int r;

	r = cgroup_set_limits(b->container, &limits, &b->err);
	if (r == -EOPNOTSUPP)
		return skip(b, "no I/O weights in this kernel");
	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		const char *text = number(b, CONTROLLER_BLKIO, files[i], buf, sizeof(buf));
		uint64_t weight = strtoull(text, NULL, 10);

		if (strcmp(text, "none") != 0)
			return see(b, "weight %" PRIu64,
			           i == 0 ? weight : io_weight_of_blkio(weight));
	}
	return see(b, "no file");
}

/* --- what limits do --- */

static void see_eating(struct bench *b, const struct cgroup *cgroup, uint64_t mib)
{
	char buf[32];

	see(b, "%" PRIu64 " MiB %s", mib,
	    outcome(spawn(b, cgroup, eat, mib * MIB), buf, sizeof(buf)));
}

static int see_oom_kills(struct bench *b)
{
	uint64_t kills;
	int r = cgroup_oom_kills(b->container, &kills);

	return r < 0 ? r : see(b, "%" PRIu64 " OOM kills", kills);
}

static int eat_to_the_limit(struct bench *b)
{
	see_eating(b, b->container, 16);
	see_eating(b, b->container, 64);
	return see_oom_kills(b);
}

static bool has_swap(void)
{
	struct sysinfo info;

	return sysinfo(&info) == 0 && info.freeswap * info.mem_unit >= 120 * MIB;
}

static int eat_into_swap(struct bench *b)
{
	return has_swap() ? eat_to_the_limit(b) : skip(b, "no 120 MiB of swap");
}

/* A container may make cgroups of its own: what happens there is still its. */
static int eat_in_a_nested_cgroup(struct bench *b)
{
	_cleanup_(cgroup_freep) struct cgroup *nested = NULL;
	int r = cgroup_create(b->root, "t/c/nested", false, NULL, &nested, &b->err);

	if (r < 0)
		return r;
	see_eating(b, nested, 64);
	return see_oom_kills(b);
}

static int is_throttled(const struct cgroup *cgroup, bool *ret)
{
	_cleanup_(cgroup_stats_done) struct cgroup_stats stats = {0};
	int r = cgroup_get_stats(cgroup, &stats);

	if (r == 0 && stats.cpu_throttled_periods > 0 && stats.cpu_throttled_nsec > 0)
		*ret = true;
	return r;
}

/* A limit of the task throttles in the task's cgroup. */
static int burn_cpu(struct bench *b, long msec)
{
	pid_t pid = spawn(b, b->container, pin_and_count, 0);
	bool throttled = false;
	char buf[32];
	int r = 0;

	for (; r == 0 && !throttled && msec > 0; msec -= 10) {
		sleep_msec(10);
		r = is_throttled(b->container, &throttled);
		if (r == 0)
			r = is_throttled(b->task, &throttled);
	}
	atomic_store(&b->shared->stop, true);
	see(b, "%s", outcome(pid, buf, sizeof(buf)));
	return r < 0 ? r : see(b, "%s", throttled ? "throttled" : "not throttled");
}

static int burn_freely(struct bench *b)
{
	return burn_cpu(b, 300);
}

static int burn_under_quota(struct bench *b)
{
	return burn_cpu(b, WAIT_SECONDS * 1000);
}

/* The container of the row against one with the default of v1, both on the same CPU. */
static int compete_for_cpu(struct bench *b)
{
	_cleanup_(cgroup_freep) struct cgroup *other = NULL;
	const struct cgroup_limits limits = {.cpu_shares = 1024};
	pid_t pids[2];
	uint64_t ours, theirs;
	char buf[32];
	int r;

	r = cgroup_create(b->root, "t/other", false, &limits, &other, &b->err);
	if (r < 0)
		return r;
	pids[0] = spawn(b, b->container, pin_and_count, 0);
	pids[1] = spawn(b, other, pin_and_count, 1);
	sleep_msec(500);
	atomic_store(&b->shared->stop, true);
	for (size_t i = 0; i < 2; i++)
		see(b, "%s", outcome(pids[i], buf, sizeof(buf)));
	ours = atomic_load(&b->shared->counters[0]);
	theirs = atomic_load(&b->shared->counters[1]);
	return see(b, "%s",
	           ours > 2 * theirs   ? "favoured"
	           : theirs > 2 * ours ? "behind"
	                               : "equal");
}

static int fork_to_the_limit(struct bench *b)
{
	char buf[32];

	see(b, "%s", outcome(spawn(b, b->container, fork_until_refused, 100), buf, sizeof(buf)));
	return see(b, "%" PRIu64 " forks", atomic_load(&b->shared->counters[0]));
}

/* --- devices --- */

static int open_device(struct shared *shared, uint64_t flags)
{
	(void)shared;
	return open("/dev/kmsg", (int)flags | O_NONBLOCK | O_CLOEXEC) < 0 ? errno : 0;
}

static int use_null(struct shared *shared, uint64_t arg)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	(void)shared;
	(void)arg;
	return fd < 0 || write(fd, "x", 1) != 1 ? errno : 0;
}

static int make_node(struct shared *shared, uint64_t arg)
{
	char dir[] = "/tmp/cgroup-conformance.XXXXXX", path[64];
	int r = 0;

	(void)shared;
	(void)arg;
	if (!mkdtemp(dir))
		return errno;
	snprintf(path, sizeof(path), "%s/node", dir);
	if (mknod(path, S_IFCHR | 0600, makedev(1, 11)) < 0)
		r = errno;
	(void)unlink(path);
	(void)rmdir(dir);
	return r;
}

static void see_devices(struct bench *b, const char *when)
{
	const struct {
		const char *name;
		child_fn fn;
		uint64_t arg;
	} uses[] = {{"null", use_null, 0},
	            {"read", open_device, O_RDONLY},
	            {"write", open_device, O_WRONLY},
	            {"mknod", make_node, 0}};

	see(b, "%s:", when);
	for (size_t i = 0; i < ARRAY_SIZE(uses); i++) {
		char buf[32];
		const char *text =
			outcome(spawn(b, b->container, uses[i].fn, uses[i].arg), buf, sizeof(buf));

		see(b, "%s %s", uses[i].name,
		    strcmp(text, "lives") == 0    ? "yes"
		    : strcmp(text, "exit 1") == 0 ? "EPERM"
		                                  : text);
	}
}

static int use_devices(struct bench *b)
{
	static const struct cgroup_device kmsg = {'c', 1, 11, "r"};
	int r;

	see_devices(b, "new");
	r = cgroup_set_devices(b->container, false, NULL, 0, &b->err);
	if (r < 0)
		return r;
	see_devices(b, "default");
	r = cgroup_set_devices(b->container, false, &kmsg, 1, &b->err);
	if (r < 0)
		return r;
	see_devices(b, "one more");
	r = cgroup_set_devices(b->container, true, NULL, 0, &b->err);
	if (r < 0)
		return r;
	see_devices(b, "all");
	return 0;
}

/* --- processes as a whole --- */

static int see_populated(struct bench *b)
{
	bool populated;
	int r = cgroup_is_populated(b->container, &populated);

	return r < 0 ? r : see(b, "%s", populated ? "populated" : "empty");
}

static const char *is_running(const struct bench *b)
{
	uint64_t before = atomic_load(&b->shared->counters[0]);

	for (int i = 0; i < 50; i++) {
		sleep_msec(1);
		if (atomic_load(&b->shared->counters[0]) != before)
			return "runs";
	}
	return "stands";
}

static int freeze_and_thaw(struct bench *b)
{
	pid_t pid = spawn(b, b->container, pin_and_count, 0);
	char buf[32];
	int r;

	if (!wait_counter(b, 1))
		return see(b, "never ran");
	r = cgroup_freeze(b->container, &b->err);
	if (r < 0)
		return r;
	see(b, "frozen: %s", is_running(b));
	r = cgroup_thaw(b->container, &b->err);
	if (r < 0)
		return r;
	(void)wait_counter(b, atomic_load(&b->shared->counters[0]) + 1);
	see(b, "thawed: %s", is_running(b));
	r = cgroup_freeze(b->container, &b->err);
	if (r == 0)
		r = cgroup_kill(b->container, &b->err);
	return r < 0 ? r : see(b, "frozen again: %s", outcome(pid, buf, sizeof(buf)));
}

static int kill_a_tree(struct bench *b)
{
	_cleanup_(cgroup_freep) struct cgroup *nested = NULL;
	pid_t pids[2];
	char buf[32];
	int r;

	see_populated(b);
	r = cgroup_create(b->root, "t/c/nested", false, NULL, &nested, &b->err);
	if (r < 0)
		return r;
	pids[0] = spawn(b, nested, ignore_and_stay, 0);
	if (!wait_counter(b, 2))
		return see(b, "never ran");
	see_populated(b); /* by the one below */
	pids[1] = spawn(b, b->container, ignore_and_stay, 0);
	if (!wait_counter(b, 4))
		return see(b, "never ran");
	r = cgroup_remove(b->root, "t/c", &b->err);
	see(b, "remove %s", r == -EBUSY ? "EBUSY" : "does not say EBUSY");
	r = cgroup_kill(b->container, &b->err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < 2; i++)
		see(b, "%s", outcome(pids[i], buf, sizeof(buf)));
	see_populated(b);
	r = cgroup_remove(b->root, "t/c", &b->err);
	return r < 0 ? r : see(b, "removed");
}

static bool has_pressure(const struct bench *b)
{
	return b->root->unified && access("/proc/pressure/cpu", F_OK) == 0;
}

static int use_after_removal(struct bench *b)
{
	_cleanup_(cgroup_stats_done) struct cgroup_stats stats = {0};
	const struct cgroup_limits limits = {.pids_max = 5};
	struct cgroup_pressure pressure;
	uint64_t kills;
	int r;

	r = cgroup_remove(b->root, "t/c", &b->err);
	if (r < 0)
		return r;
	see_populated(b);
	see(b, "kill %s", strerrorname_np(-cgroup_kill(b->container, NULL)));
	see(b, "stats %s", strerrorname_np(-cgroup_get_stats(b->container, &stats)));
	see(b, "OOM kills %s", strerrorname_np(-cgroup_oom_kills(b->container, &kills)));
	see(b, "limits %s", strerrorname_np(-cgroup_set_limits(b->container, &limits, NULL)));
	see(b, "freeze %s", strerrorname_np(-cgroup_freeze(b->container, NULL)));
	/* Without a hierarchy or a kernel that has it, it is not to be had of any cgroup. */
	r = cgroup_get_pressure(b->container, CGROUP_PRESSURE_CPU, &pressure);
	see(b, "pressure %s",
	    r == -EOPNOTSUPP && !has_pressure(b) ? "ENOENT" : strerrorname_np(-r));
	return see(b, "join %s", strerrorname_np(-cgroup_join(b->container)));
}

/* --- statistics --- */

static int count_memory_and_pids(struct bench *b)
{
	_cleanup_(cgroup_stats_done) struct cgroup_stats s = {0};
	pid_t pid = spawn(b, b->container, eat_and_stay, 24 * MIB);
	char buf[32];
	int r;

	if (!wait_counter(b, 1))
		return see(b, "never ran");
	r = cgroup_get_stats(b->container, &s);
	atomic_store(&b->shared->stop, true);
	see(b, "%s", outcome(pid, buf, sizeof(buf)));
	if (r < 0)
		return r;
	see(b, "used %s", s.memory_bytes >= 24 * MIB && s.memory_bytes <= 32 * MIB ? "24" : "?");
	see(b, "anonymous %s",
	    s.memory_anon_bytes >= 24 * MIB && s.memory_anon_bytes <= 32 * MIB ? "24" : "?");
	see(b, "peak %s", s.memory_peak_bytes >= s.memory_bytes / 2 ? "known" : "?");
	see(b, "of %" PRIu64 " MiB", s.memory_max_bytes / MIB);
	see(b, "counters %s", s.n_memory_counters > 20 ? "many" : "few");
	return see(b, "%" PRIu64 " of %" PRIu64 " processes", s.pids, s.pids_max);
}

static int count_limit_hits(struct bench *b)
{
	_cleanup_(cgroup_stats_done) struct cgroup_stats s = {0};
	char buf[32];
	int r;

	/* Killed, or in swap where the host has some. */
	(void)outcome(spawn(b, b->container, eat, 64 * MIB), buf, sizeof(buf));
	r = cgroup_get_stats(b->container, &s);
	return r < 0 ? r : see(b, "limit %s", s.memory_limit_hits > 0 ? "met" : "not met");
}

static int count_cpu(struct bench *b)
{
	_cleanup_(cgroup_stats_done) struct cgroup_stats s = {0};
	uint64_t sum = 0;
	char buf[32];
	int r;

	see(b, "%s", outcome(spawn(b, b->container, burn, 60), buf, sizeof(buf)));
	r = cgroup_get_stats(b->container, &s);
	if (r < 0)
		return r;
	see(b, "usage %s", s.cpu_usage_nsec >= 50 * MSEC ? "counted" : "?");
	/* v1 counts these two by the tick of a clock, which a slow machine may miss. */
	sum = s.cpu_user_nsec + s.cpu_system_nsec;
	see(b, "user and system %s",
	    sum > 0 && sum <= 2 * s.cpu_usage_nsec + 20 * MSEC ? "counted" : "?");
	sum = 0;
	for (size_t i = 0; i < s.n_cpus; i++)
		sum += s.cpu_usage_each_nsec[i];
	return see(b, "each %s",
	           cgroup_root_is_v2(b->root) ? (s.n_cpus == 0 ? "right" : "?")
	           : sum == s.cpu_usage_nsec  ? "right"
	                                      : "?");
}

/* Past the page cache, whose writes v1 counts to nobody. */
static int use_disk(struct shared *shared, uint64_t bytes)
{
	char path[] = "/var/tmp/cgroup-conformance.XXXXXX";
	void *buf;
	int fd;

	(void)shared;
	fd = mkostemp(path, O_DIRECT | O_CLOEXEC);
	if (fd < 0)
		return 2;
	(void)unlink(path);
	buf = aligned_alloc(4096, bytes);
	if (!buf)
		return 1;
	memset(buf, 'x', bytes);
	if (pwrite(fd, buf, bytes, 0) != (ssize_t)bytes || fsync(fd) < 0)
		return 1;
	return pread(fd, buf, bytes, 0) != (ssize_t)bytes;
}

/* The device, not the partition, that has /var/tmp: "8:0". */
static bool find_disk(char *ret, size_t n)
{
	char path[128];
	FILE *file;
	struct stat st;
	bool found;

	if (stat("/var/tmp", &st) < 0)
		return false;
	for (int up = 1; up >= 0; up--) {
		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%sdev", major(st.st_dev),
		         minor(st.st_dev), up ? "../" : "");
		file = fopen(path, "re");
		if (!file)
			continue;
		found = fgets(ret, (int)n, file) != NULL;
		fclose(file);
		if (found)
			ret[strcspn(ret, "\n")] = '\0';
		return found;
	}
	return false;
}

/* On v1 some kernels count only where I/O is throttled: to more than any disk can do. */
static void make_v1_count(const struct bench *b, const char *disk)
{
	static const char *const files[] = {"blkio.throttle.read_bps_device",
	                                    "blkio.throttle.write_bps_device"};
	const struct hierarchy *h = hierarchy_of(b, CONTROLLER_BLKIO);
	char text[64];

	snprintf(text, sizeof(text), "%s %lu", disk, MIB * MIB);
	for (size_t i = 0; h && !cgroup_root_is_v2(b->root) && i < ARRAY_SIZE(files); i++)
		(void)hierarchy_write(h, b->container->path, files[i], text, NULL);
}

/* The file system reads and writes a little for itself. */
static const char *is_about(uint64_t bytes, uint64_t requests)
{
	return bytes >= MIB && bytes < 3 * MIB && requests > 0 ? "1 MiB" : "?";
}

static int count_io(struct bench *b)
{
	_cleanup_(cgroup_stats_done) struct cgroup_stats s = {0};
	char buf[32], disk[32];
	int r;

	if (!find_disk(disk, sizeof(disk)))
		return skip(b, "/var/tmp is on no disk");
	make_v1_count(b, disk);
	see(b, "%s", outcome(spawn(b, b->container, use_disk, MIB), buf, sizeof(buf)));
	r = cgroup_get_stats(b->container, &s);
	if (r < 0)
		return r;
	for (size_t i = 0; i < s.n_io; i++) {
		char device[32];

		snprintf(device, sizeof(device), "%u:%u", s.io[i].major, s.io[i].minor);
		if (strcmp(device, disk) == 0)
			return see(b, "read %s, written %s",
			           is_about(s.io[i].read_bytes, s.io[i].reads),
			           is_about(s.io[i].write_bytes, s.io[i].writes));
	}
	return see(b, "not counted on %s", disk);
}

static int feel_pressure(struct bench *b)
{
	struct cgroup_pressure before, after;
	pid_t pids[2];
	char buf[32];
	int r;

	r = cgroup_get_pressure(b->container, CGROUP_PRESSURE_CPU, &before);
	if (r == -EOPNOTSUPP && !has_pressure(b))
		return skip(b, "no cgroup2 hierarchy, or a kernel without PSI");
	if (r < 0)
		return r;
	for (size_t i = 0; i < 2; i++)
		pids[i] = spawn(b, b->container, pin_and_count, i);
	sleep_msec(200);
	r = cgroup_get_pressure(b->container, CGROUP_PRESSURE_CPU, &after);
	atomic_store(&b->shared->stop, true);
	for (size_t i = 0; i < 2; i++)
		see(b, "%s", outcome(pids[i], buf, sizeof(buf)));
	if (r < 0)
		return r;
	see(b, "some %s",
	    after.some.total_usec > before.some.total_usec ? "waited" : "did not wait");
	r = cgroup_get_pressure(b->container, CGROUP_PRESSURE_MEMORY, &after);
	if (r == 0)
		r = cgroup_get_pressure(b->container, CGROUP_PRESSURE_IO, &after);
	return r < 0 ? r : see(b, "memory and io known");
}

/* --- the table --- */

static int set_anew(struct bench *b)
{
	const struct cgroup_limits steps[] = {
		{.memory_max_bytes = 256 * MIB,
	         .memory_swap_bytes = 512 * MIB,
	         .cpu_quota_usec = 50000},
		{.memory_max_bytes = 32 * MIB,
	         .memory_swap_bytes = 32 * MIB,
	         .cpu_period_usec = 50000},
	};

	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		_cleanup_(cgroup_freep) struct cgroup *again = NULL;
		int r = cgroup_create(b->root, "t/c", false, &steps[i], &again, &b->err);

		if (r < 0)
			return r;
	}
	see_memory(b);
	return 0;
}

static const struct row {
	const char *name;
	struct cgroup_limits task, container;
	int (*observe)(struct bench *b);
	const char *want;
} rows[] = {
	/* What the files say. */
	{.name = "nothing set",
         .observe = look_at_memory,
         .want = "memory max, with swap max, reservation max"},
	{.name = "memory, swap and reservation",
         .container = {.memory_max_bytes = 64 * MIB,
                       .memory_swap_bytes = 96 * MIB,
                       .memory_reservation_bytes = 32 * MIB},
         .observe = look_at_memory,
         .want = "memory 67108864, with swap 100663296, reservation 33554432"},
	{.name = "memory without swap",
         .container = {.memory_max_bytes = 64 * MIB, .memory_swap_bytes = 64 * MIB},
         .observe = look_at_memory,
         .want = "memory 67108864, with swap 67108864, reservation max"},
	{.name = "memory with any swap",
         .container = {.memory_max_bytes = 64 * MIB, .memory_swap_bytes = -1},
         .observe = look_at_memory,
         .want = "memory 67108864, with swap max, reservation max"},
	{.name = "limits set anew",
         .container = {.memory_max_bytes = 64 * MIB, .memory_swap_bytes = 64 * MIB},
         .observe = set_anew,
         .want = "memory 33554432, with swap 33554432, reservation max"},
	{.name = "least shares",
         .container = {.cpu_shares = 2},
         .observe = look_at_cpu,
         .want = "weight 1, cpu max 100000"},
	{.name = "shares of one vCPU",
         .container = {.cpu_shares = 1024},
         .observe = look_at_cpu,
         .want = "weight 39, cpu max 100000"},
	{.name = "most shares",
         .container = {.cpu_shares = 262144},
         .observe = look_at_cpu,
         .want = "weight 10000, cpu max 100000"},
	{.name = "quota and period",
         .container = {.cpu_shares = 512, .cpu_quota_usec = 12500, .cpu_period_usec = 50000},
         .observe = look_at_cpu,
         .want = "weight 20, cpu 12500 50000"},
	{.name = "processes",
         .container = {.pids_max = 64},
         .observe = look_at_pids,
         .want = "pids 64"},
	{.name = "I/O weight", .observe = look_at_io, .want = "weight 2930"},

	/* What the kernel does. */
	{.name = "a container at its memory limit",
         .container = {.memory_max_bytes = 32 * MIB, .memory_swap_bytes = 32 * MIB},
         .observe = eat_to_the_limit,
         .want = "16 MiB lives, 64 MiB killed, 1 OOM kills"},
	{.name = "a container at the memory limit of its task",
         .task = {.memory_max_bytes = 32 * MIB, .memory_swap_bytes = 32 * MIB},
         .observe = eat_to_the_limit,
         .want = "16 MiB lives, 64 MiB killed, 1 OOM kills"},
	{.name = "an OOM kill in a cgroup of the container's own",
         .container = {.memory_max_bytes = 32 * MIB, .memory_swap_bytes = 32 * MIB},
         .observe = eat_in_a_nested_cgroup,
         .want = "64 MiB killed, 1 OOM kills"},
	{.name = "memory beyond the limit goes to swap",
         .container = {.memory_max_bytes = 32 * MIB, .memory_swap_bytes = 96 * MIB},
         .observe = eat_into_swap,
         .want = "16 MiB lives, 64 MiB lives, 0 OOM kills"},
	{.name = "swap has its limit",
         .container = {.memory_max_bytes = 24 * MIB, .memory_swap_bytes = 40 * MIB},
         .observe = eat_into_swap,
         .want = "16 MiB lives, 64 MiB killed, 1 OOM kills"},
	{.name = "swap without a limit",
         .container = {.memory_max_bytes = 24 * MIB, .memory_swap_bytes = -1},
         .observe = eat_into_swap,
         .want = "16 MiB lives, 64 MiB lives, 0 OOM kills"},
	{.name = "no quota", .observe = burn_freely, .want = "lives, not throttled"},
	{.name = "a container beyond its quota",
         .container = {.cpu_quota_usec = 10000},
         .observe = burn_under_quota,
         .want = "lives, throttled"},
	{.name = "a container beyond the quota of its task",
         .task = {.cpu_quota_usec = 10000},
         .observe = burn_under_quota,
         .want = "lives, throttled"},
	{.name = "many shares against 1024",
         .container = {.cpu_shares = 16384},
         .observe = compete_for_cpu,
         .want = "lives, lives, favoured"},
	{.name = "few shares against 1024",
         .container = {.cpu_shares = 64},
         .observe = compete_for_cpu,
         .want = "lives, lives, behind"},
	{.name = "forks at the limit of the container",
         .container = {.pids_max = 5},
         .observe = fork_to_the_limit,
         .want = "lives, 4 forks"},
	{.name = "forks at the limit of the task",
         .task = {.pids_max = 5},
         .observe = fork_to_the_limit,
         .want = "lives, 4 forks"},
	{.name = "devices",
         .observe = use_devices,
         .want = "new:, null yes, read yes, write yes, mknod yes, "
                 "default:, null yes, read EPERM, write EPERM, mknod yes, "
                 "one more:, null yes, read yes, write EPERM, mknod yes, "
                 "all:, null yes, read yes, write yes, mknod yes"},
	{.name = "freezing and thawing",
         .observe = freeze_and_thaw,
         .want = "frozen: stands, thawed: runs, frozen again: killed"},
	{.name = "killing a tree",
         .observe = kill_a_tree,
         .want = "empty, populated, remove EBUSY, killed, killed, empty, removed"},
	{.name = "a cgroup that somebody has removed",
         .observe = use_after_removal,
         .want = "empty, kill 0, stats ENOENT, OOM kills ENOENT, limits ENOENT, freeze ENOENT, "
                 "pressure ENOENT, join ENOENT"},

	/* What is counted. */
	{.name = "statistics of memory and processes",
         .container = {.memory_max_bytes = 64 * MIB, .pids_max = 9},
         .observe = count_memory_and_pids,
         .want = "lives, used 24, anonymous 24, peak known, of 64 MiB, counters many, "
                 "1 of 9 processes"},
	{.name = "statistics of the memory limit",
         .container = {.memory_max_bytes = 32 * MIB},
         .observe = count_limit_hits,
         .want = "limit met"},
	{.name = "statistics of the CPU",
         .observe = count_cpu,
         .want = "lives, usage counted, user and system counted, each right"},
	{.name = "statistics of I/O",
         .observe = count_io,
         .want = "lives, read 1 MiB, written 1 MiB"},
	{.name = "pressure",
         .observe = feel_pressure,
         .want = "lives, lives, some waited, memory and io known"},
};

static int run_row(struct bench *b, const struct row *row)
{
	int r;

	memset(b->shared, 0, sizeof(*b->shared));
	b->seen[0] = '\0';
	r = cgroup_create(b->root, "t", true, &row->task, &b->task, &b->err);
	if (r == 0)
		r = cgroup_create(b->root, "t/c", false, &row->container, &b->container, &b->err);
	if (r == 0)
		r = row->observe(b);
	if (r < 0)
		see(b, "%s: %s", strerrorname_np(-r), b->err.text);
	printf("%s\t%s\t%s\n", row->name, row->want, b->seen);
	fflush(stdout);

	b->container = cgroup_free(b->container);
	r = b->task ? cgroup_kill(b->task, &b->err) : 0;
	b->task = cgroup_free(b->task);
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	return r < 0 ? r : cgroup_remove(b->root, "t", &b->err);
}

static bool is_chosen(const char *name, char **chosen, int n)
{
	for (int i = 0; i < n; i++)
		if (strcmp(chosen[i], name) == 0)
			return true;
	return n == 0;
}

int main(int argc, char **argv)
{
	struct bench b = {0};
	int r;

	if (argc < 2)
		return 2;
	b.shared = mmap(NULL, sizeof(*b.shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
	                -1, 0);
	if (b.shared == MAP_FAILED)
		return 1;
	r = cgroup_root_open(NULL, argv[1], &b.root, &b.err);
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(rows); i++)
		if (is_chosen(rows[i].name, argv + 2, argc - 2))
			r = run_row(&b, &rows[i]);
	cgroup_root_free(b.root);
	if (r < 0)
		fprintf(stderr, "%s: %s\n", strerrorname_np(-r), b.err.text);
	return r < 0;
}
