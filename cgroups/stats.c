/*
 * What a cgroup has used and what it waits for. The two hierarchies have the same numbers in other
 * files, words and units; here they become one. The parsers of whole files stand first.
 */
#include "cgroups/cgroup.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cgroups/hierarchy.h"
#include "lib/cleanup.h"
#include "lib/parse.h"

#define DEVICES_MAX  1024
#define COUNTERS_MAX 256

/* Splits "name<separator>value" in place. */
static int split_number(char *word, char separator, uint64_t *ret)
{
	char *value = strchr(word, separator);

	if (!value)
		return -EBADMSG;
	*value++ = '\0';
	return parse_u64(value, UINT64_MAX, ret) < 0 ? -EBADMSG : 0;
}

static size_t count_lines(const char *text)
{
	size_t n = 0;

	for (; (text = strchr(text, '\n')); text++)
		n++;
	return n + 1; /* the last may have no end */
}

int memory_stat_parse(char *text, struct cgroup_stats *stats)
{
	size_t n_max = count_lines(text);
	char *rest = NULL;

	if (n_max > COUNTERS_MAX)
		return -EBADMSG;
	stats->memory_counters = calloc(n_max, sizeof(*stats->memory_counters));
	if (!stats->memory_counters)
		return -ENOMEM;
	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		struct cgroup_memory_counter *counter =
			&stats->memory_counters[stats->n_memory_counters];

		if (split_number(line, ' ', &counter->value) < 0)
			return -EBADMSG;
		counter->name = line;
		stats->n_memory_counters++;
	}
	return 0;
}

static int parse_device(char *word, uint32_t *major, uint32_t *minor)
{
	uint64_t a, b;

	if (split_number(word, ':', &b) < 0 || parse_u64(word, UINT32_MAX, &a) < 0 ||
	    b > UINT32_MAX)
		return -EBADMSG;
	*major = (uint32_t)a;
	*minor = (uint32_t)b;
	return 0;
}

/* The entry of a device, new if there is none yet. */
static int io_entry(struct cgroup_stats *stats, char *word, struct cgroup_io_stats **ret)
{
	struct cgroup_io_stats *grown, io = {0};

	if (parse_device(word, &io.major, &io.minor) < 0)
		return -EBADMSG;
	for (size_t i = 0; i < stats->n_io; i++)
		if (stats->io[i].major == io.major && stats->io[i].minor == io.minor) {
			*ret = &stats->io[i];
			return 0;
		}
	if (stats->n_io == DEVICES_MAX)
		return -EBADMSG;
	grown = reallocarray(stats->io, stats->n_io + 1, sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	stats->io = grown;
	grown[stats->n_io] = io;
	*ret = &grown[stats->n_io++];
	return 0;
}

static int io_words_parse(char **rest, struct cgroup_io_stats *io)
{
	const struct {
		const char *name;
		uint64_t *value;
	} fields[] = {{"rbytes", &io->read_bytes},    {"wbytes", &io->write_bytes},
	              {"rios", &io->reads},           {"wios", &io->writes},
	              {"dbytes", &io->discard_bytes}, {"dios", &io->discards}};
	char *word;

	while ((word = strtok_r(NULL, " ", rest))) {
		size_t n = strcspn(word, "=");

		for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
			if (strlen(fields[i].name) == n && strncmp(word, fields[i].name, n) == 0 &&
			    split_number(word, '=', fields[i].value) < 0)
				return -EBADMSG;
	}
	return 0;
}

int io_stat_parse(char *text, struct cgroup_stats *stats)
{
	char *rest = NULL;
	int r = 0;

	for (char *line = strtok_r(text, "\n", &rest); r == 0 && line;
	     line = strtok_r(NULL, "\n", &rest)) {
		struct cgroup_io_stats *io;
		char *words = NULL, *device = strtok_r(line, " ", &words);

		/* A device that has gone, or that nothing has used, stands without numbers. */
		if (!device || !strchr(words, '='))
			continue;
		r = io_entry(stats, device, &io);
		if (r == 0)
			r = io_words_parse(&words, io);
	}
	return r;
}

static uint64_t *blkio_number(struct cgroup_io_stats *io, const char *operation, bool bytes)
{
	if (strcmp(operation, "Read") == 0)
		return bytes ? &io->read_bytes : &io->reads;
	if (strcmp(operation, "Write") == 0)
		return bytes ? &io->write_bytes : &io->writes;
	if (strcmp(operation, "Discard") == 0)
		return bytes ? &io->discard_bytes : &io->discards;
	return NULL; /* Sync, Async and Total are sums of these */
}

int blkio_stat_parse(char *text, bool bytes, struct cgroup_stats *stats)
{
	char *rest = NULL;

	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		char *words = NULL, *device = strtok_r(line, " ", &words);
		const char *operation = strtok_r(NULL, " ", &words);
		const char *value = strtok_r(NULL, " ", &words);
		struct cgroup_io_stats *io;
		uint64_t *number;
		int r;

		if (!device || strcmp(device, "Total") == 0)
			continue; /* the sum over all devices */
		r = io_entry(stats, device, &io);
		if (r < 0)
			return r;
		if (!operation || !value)
			return -EBADMSG;
		number = blkio_number(io, operation, bytes);
		if (number && parse_u64(value, UINT64_MAX, number) < 0)
			return -EBADMSG;
	}
	return 0;
}

/* "1.23" as 123. */
static int parse_hundredths(char *text, unsigned int *ret)
{
	uint64_t whole, part;

	if (split_number(text, '.', &part) < 0 || part > 99 || parse_u64(text, 100, &whole) < 0)
		return -EBADMSG;
	*ret = (unsigned int)(whole * 100 + part);
	return 0;
}

static int stall_parse(char **words, struct cgroup_stall *ret)
{
	const struct {
		const char *name;
		unsigned int *value;
	} averages[] = {
		{"avg10=", &ret->avg10}, {"avg60=", &ret->avg60}, {"avg300=", &ret->avg300}};
	char *word;

	while ((word = strtok_r(NULL, " ", words))) {
		size_t i = 0;

		while (i < ARRAY_SIZE(averages) &&
		       strncmp(word, averages[i].name, strlen(averages[i].name)) != 0)
			i++;
		if (i < ARRAY_SIZE(averages) ? parse_hundredths(word + strlen(averages[i].name),
		                                                averages[i].value) < 0
		                             : split_number(word, '=', &ret->total_usec) < 0)
			return -EBADMSG;
	}
	return 0;
}

int pressure_parse(char *text, struct cgroup_pressure *ret)
{
	struct cgroup_pressure pressure = {0};
	char *rest = NULL;

	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		char *words = NULL, *kind = strtok_r(line, " ", &words);
		bool some = kind && strcmp(kind, "some") == 0;

		if (!some && !(kind && strcmp(kind, "full") == 0))
			return -EBADMSG;
		if (stall_parse(&words, some ? &pressure.some : &pressure.full) < 0)
			return -EBADMSG;
	}
	*ret = pressure;
	return 0;
}

/* --- reading them --- */

/* ENODEV: the cgroup was removed while the file was open. */
static int without_enodev(int r)
{
	return r == -ENODEV ? -ENOENT : r;
}

static int read_text(const struct cgroup *cgroup, enum controller controller, const char *file,
                     char **ret)
{
	const struct hierarchy *h;
	int r = root_controller(cgroup->root, controller, &h, NULL);

	return r < 0 ? r : without_enodev(hierarchy_read_text(h, cgroup->path, file, ret));
}

static int read_number(const struct cgroup *cgroup, enum controller controller, const char *file,
                       uint64_t *ret)
{
	const struct hierarchy *h;
	int r = root_controller(cgroup->root, controller, &h, NULL);

	return r < 0 ? r : without_enodev(hierarchy_read_u64(h, cgroup->path, file, NULL, ret));
}

struct field {
	const char *name;
	uint64_t *value;
};

/* Several numbers of a file of "name value" lines; those that are not there stay as they are. */
static int read_fields(const struct cgroup *cgroup, enum controller controller, const char *file,
                       const struct field *fields, size_t n)
{
	_cleanup_free_ char *text = NULL;
	char *rest = NULL;
	int r;

	r = read_text(cgroup, controller, file, &text);
	if (r < 0)
		return r;
	for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		uint64_t value;

		if (split_number(line, ' ', &value) < 0)
			return -EBADMSG;
		for (size_t i = 0; i < n; i++)
			if (strcmp(line, fields[i].name) == 0)
				*fields[i].value = value;
	}
	return 0;
}

static int read_each_cpu(const struct cgroup *cgroup, struct cgroup_stats *stats)
{
	_cleanup_free_ char *text = NULL;
	char *rest = NULL;
	size_t n_max = 1;
	int r;

	r = read_text(cgroup, CONTROLLER_CPUACCT, "cpuacct.usage_percpu", &text);
	if (r < 0)
		return r;
	for (const char *p = text; (p = strchr(p, ' ')); p++)
		n_max++;
	stats->cpu_usage_each_nsec = calloc(n_max, sizeof(*stats->cpu_usage_each_nsec));
	if (!stats->cpu_usage_each_nsec)
		return -ENOMEM;
	for (char *word = strtok_r(text, " \n", &rest); word; word = strtok_r(NULL, " \n", &rest))
		if (parse_u64(word, UINT64_MAX, &stats->cpu_usage_each_nsec[stats->n_cpus++]) < 0)
			return -EBADMSG;
	return 0;
}

static int read_cpu_v1(const struct cgroup *cgroup, struct cgroup_stats *stats)
{
	const struct field fields[] = {{"nr_periods", &stats->cpu_periods},
	                               {"nr_throttled", &stats->cpu_throttled_periods},
	                               {"throttled_time", &stats->cpu_throttled_nsec}};
	int r;

	r = read_number(cgroup, CONTROLLER_CPUACCT, "cpuacct.usage", &stats->cpu_usage_nsec);
	if (r == 0)
		r = read_number(cgroup, CONTROLLER_CPUACCT, "cpuacct.usage_user",
		                &stats->cpu_user_nsec);
	if (r == 0)
		r = read_number(cgroup, CONTROLLER_CPUACCT, "cpuacct.usage_sys",
		                &stats->cpu_system_nsec);
	if (r == 0)
		r = read_each_cpu(cgroup, stats);
	if (r == 0)
		r = read_fields(cgroup, CONTROLLER_CPU, "cpu.stat", fields, ARRAY_SIZE(fields));
	return r;
}

static int read_cpu_v2(const struct cgroup *cgroup, struct cgroup_stats *stats)
{
	const struct field fields[] = {{"usage_usec", &stats->cpu_usage_nsec},
	                               {"user_usec", &stats->cpu_user_nsec},
	                               {"system_usec", &stats->cpu_system_nsec},
	                               {"nr_periods", &stats->cpu_periods},
	                               {"nr_throttled", &stats->cpu_throttled_periods},
	                               {"throttled_usec", &stats->cpu_throttled_nsec}};
	int r;

	r = read_fields(cgroup, CONTROLLER_CPU, "cpu.stat", fields, ARRAY_SIZE(fields));
	if (r < 0)
		return r;
	stats->cpu_usage_nsec *= 1000;
	stats->cpu_user_nsec *= 1000;
	stats->cpu_system_nsec *= 1000;
	stats->cpu_throttled_nsec *= 1000;
	return 0;
}

static uint64_t memory_counter(const struct cgroup_stats *stats, const char *name)
{
	for (size_t i = 0; i < stats->n_memory_counters; i++)
		if (strcmp(stats->memory_counters[i].name, name) == 0)
			return stats->memory_counters[i].value;
	return 0;
}

/* v1 counts a cgroup alone under the plain names, and with those below it as total_. */
static int read_memory_counters(const struct cgroup *cgroup, struct cgroup_stats *stats)
{
	bool v2 = cgroup->root->v2;
	int r;

	r = read_text(cgroup, CONTROLLER_MEMORY, "memory.stat", &stats->text);
	if (r == 0)
		r = memory_stat_parse(stats->text, stats);
	if (r < 0)
		return r;
	stats->memory_file_bytes = memory_counter(stats, v2 ? "file" : "total_cache");
	stats->memory_anon_bytes = memory_counter(stats, v2 ? "anon" : "total_rss");
	stats->memory_inactive_file_bytes =
		memory_counter(stats, v2 ? "inactive_file" : "total_inactive_file");
	return 0;
}

static int read_memory_v1(const struct cgroup *cgroup, struct cgroup_stats *stats)
{
	const struct {
		const char *file;
		uint64_t *value;
	} numbers[] = {{"memory.usage_in_bytes", &stats->memory_bytes},
	               {"memory.limit_in_bytes", &stats->memory_max_bytes},
	               {"memory.max_usage_in_bytes", &stats->memory_peak_bytes},
	               {"memory.failcnt", &stats->memory_limit_hits}};
	int r = 0;

	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(numbers); i++)
		r = read_number(cgroup, CONTROLLER_MEMORY, numbers[i].file, numbers[i].value);
	/* "No limit" is the largest multiple of a page. */
	if (stats->memory_max_bytes > INT64_MAX / 2)
		stats->memory_max_bytes = 0;
	return r;
}

static int read_memory_v2(const struct cgroup *cgroup, struct cgroup_stats *stats)
{
	const struct field hits = {"max", &stats->memory_limit_hits};
	int r;

	r = read_number(cgroup, CONTROLLER_MEMORY, "memory.current", &stats->memory_bytes);
	if (r == 0)
		r = read_number(cgroup, CONTROLLER_MEMORY, "memory.max", &stats->memory_max_bytes);
	if (r == 0)
		r = read_fields(cgroup, CONTROLLER_MEMORY, "memory.events", &hits, 1);
	if (r < 0)
		return r;
	if (stats->memory_max_bytes == UINT64_MAX)
		stats->memory_max_bytes = 0;
	r = read_number(cgroup, CONTROLLER_MEMORY, "memory.peak", &stats->memory_peak_bytes);
	return r == -ENOENT ? 0 : r;
}

static int read_pids(const struct cgroup *cgroup, struct cgroup_stats *stats)
{
	int r;

	r = read_number(cgroup, CONTROLLER_PIDS, "pids.current", &stats->pids);
	if (r == 0)
		r = read_number(cgroup, CONTROLLER_PIDS, "pids.max", &stats->pids_max);
	if (stats->pids_max == UINT64_MAX)
		stats->pids_max = 0;
	return r;
}

/* The controller of I/O is the one that a host may lack. */
static int read_io_v1(const struct cgroup *cgroup, struct cgroup_stats *stats)
{
	static const struct {
		const char *file;
		bool bytes;
	} files[] = {{"blkio.throttle.io_service_bytes_recursive", true},
	             {"blkio.throttle.io_serviced_recursive", false}};

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		_cleanup_free_ char *text = NULL;
		int r = read_text(cgroup, CONTROLLER_BLKIO, files[i].file, &text);

		if (r == 0)
			r = blkio_stat_parse(text, files[i].bytes, stats);
		if (r < 0)
			return r == -ENOENT || r == -EOPNOTSUPP ? 0 : r;
	}
	return 0;
}

static int read_io_v2(const struct cgroup *cgroup, struct cgroup_stats *stats)
{
	_cleanup_free_ char *text = NULL;
	int r = read_text(cgroup, CONTROLLER_BLKIO, "io.stat", &text);

	if (r < 0)
		return r == -ENOENT ? 0 : r;
	return io_stat_parse(text, stats);
}

int cgroup_get_stats(const struct cgroup *cgroup, struct cgroup_stats *ret)
{
	_cleanup_(cgroup_stats_done) struct cgroup_stats stats = {0};
	bool v2 = cgroup->root->v2;
	int r;

	r = v2 ? read_cpu_v2(cgroup, &stats) : read_cpu_v1(cgroup, &stats);
	if (r == 0)
		r = v2 ? read_memory_v2(cgroup, &stats) : read_memory_v1(cgroup, &stats);
	if (r == 0)
		r = read_memory_counters(cgroup, &stats);
	if (r == 0)
		r = read_pids(cgroup, &stats);
	if (r == 0)
		r = v2 ? read_io_v2(cgroup, &stats) : read_io_v1(cgroup, &stats);
	if (r < 0)
		return r;
	*ret = stats;
	stats = (struct cgroup_stats){0};
	return 0;
}

void cgroup_stats_done(struct cgroup_stats *stats)
{
	free(stats->cpu_usage_each_nsec);
	free(stats->memory_counters);
	free(stats->io);
	free(stats->text);
	*stats = (struct cgroup_stats){0};
}

static int add_oom_kills(const struct hierarchy *h, const char *path, void *userdata)
{
	uint64_t kills = 0, *sum = userdata;
	int r = hierarchy_read_u64(h, path, "memory.oom_control", "oom_kill", &kills);

	*sum += kills;
	return r;
}

int cgroup_oom_kills(const struct cgroup *cgroup, uint64_t *ret)
{
	const struct hierarchy *h;
	uint64_t sum = 0;
	int r;

	r = root_controller(cgroup->root, CONTROLLER_MEMORY, &h, NULL);
	if (r < 0)
		return r;
	/* v2 adds up what happens below by itself, and keeps it when that is removed. */
	r = cgroup->root->v2
	            ? hierarchy_read_u64(h, cgroup->path, "memory.events", "oom_kill", &sum)
	            : hierarchy_each_cgroup(h, cgroup->path, add_oom_kills, &sum);
	if (r < 0)
		return without_enodev(r);
	*ret = sum;
	return 0;
}

int cgroup_get_pressure(const struct cgroup *cgroup, enum cgroup_pressure_resource resource,
                        struct cgroup_pressure *ret)
{
	static const char *const files[] = {
		[CGROUP_PRESSURE_CPU] = "cpu.pressure",
		[CGROUP_PRESSURE_MEMORY] = "memory.pressure",
		[CGROUP_PRESSURE_IO] = "io.pressure",
	};
	const struct hierarchy *h = cgroup->root->unified;
	_cleanup_free_ char *text = NULL;
	int r;

	if (!h)
		return -EOPNOTSUPP;
	r = without_enodev(hierarchy_read_text(h, cgroup->path, files[resource], &text));
	/* Switched off at boot it refuses the read, not compiled in there is no file. */
	if (r == -ENOENT && hierarchy_has(h, cgroup->path, "cgroup.procs"))
		return -EOPNOTSUPP;
	return r < 0 ? r : pressure_parse(text, ret);
}
