/*
 * One operation of cgroups/ on the running kernel, so that test_cgroups.py can look at the files it
 * leaves and at what it says:
 *
 *   cgroup_tool <parent> create <path> [inner] [shares=N quota=N period=N memory=N reservation=N
 *               swap=N swappiness=N pids=N io=N]
 *   cgroup_tool <parent> run <path> <command>...     join, then exec
 *   cgroup_tool <parent> devices <path> [all] [c:1:3:rwm ...]
 *   cgroup_tool <parent> id|oom|populated|stats|pressure|freeze|thaw|kill|remove|open <path>
 *   cgroup_tool <parent> list <prefix>
 *   cgroup_tool <parent> version
 *
 * Exit 0, or 1 with the error on standard error as "<errno>: <text>".
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cgroups/cgroup.h"
#include "lib/cleanup.h"
#include "lib/parse.h"

struct call {
	struct cgroup_root *root;
	struct cgroup *cgroup; /* of path, where the operation wants it open */
	const char *path;
	char **args;
	int n_args;
	struct err err;
};

static int parse_limit(const char *text, struct cgroup_limits *limits, struct err *err)
{
	const struct {
		const char *key;
		uint64_t *value;
	} keys[] = {{"shares=", &limits->cpu_shares},
	            {"quota=", &limits->cpu_quota_usec},
	            {"period=", &limits->cpu_period_usec},
	            {"memory=", &limits->memory_max_bytes},
	            {"reservation=", &limits->memory_reservation_bytes},
	            {"swappiness=", &limits->memory_swappiness},
	            {"pids=", &limits->pids_max},
	            {"io=", &limits->io_weight}};

	limits->has_memory_swappiness |= strncmp(text, "swappiness=", 11) == 0;
	if (strncmp(text, "swap=", 5) == 0)
		return parse_i64(text + 5, INT64_MIN, INT64_MAX, &limits->memory_swap_bytes);
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (strncmp(text, keys[i].key, strlen(keys[i].key)) == 0)
			return parse_u64(text + strlen(keys[i].key), UINT64_MAX, keys[i].value);
	return err_text(err, -EINVAL, "unknown limit %s", text);
}

static int do_create(struct call *call)
{
	struct cgroup_limits limits = {0};
	bool inner = false;

	for (int i = 0; i < call->n_args; i++) {
		int r = 0;

		if (strcmp(call->args[i], "inner") == 0)
			inner = true;
		else
			r = parse_limit(call->args[i], &limits, &call->err);
		if (r < 0)
			return r;
	}
	return cgroup_create(call->root, call->path, inner, &limits, &call->cgroup, &call->err);
}

static int do_run(struct call *call)
{
	int r = cgroup_join(call->cgroup);

	if (r < 0)
		return err_set(&call->err, r, "join");
	execvp(call->args[0], call->args);
	return err_set(&call->err, -errno, "exec %s", call->args[0]);
}

static int do_devices(struct call *call)
{
	struct cgroup_device devices[16];
	char access[16][4];
	bool all = false;
	size_t n = 0;

	for (int i = 0; i < call->n_args; i++) {
		if (strcmp(call->args[i], "all") == 0) {
			all = true;
			continue;
		}
		if (n == ARRAY_SIZE(devices) ||
		    sscanf(call->args[i], "%c:%" SCNd64 ":%" SCNd64 ":%3s", &devices[n].type,
		           &devices[n].major, &devices[n].minor, access[n]) != 4)
			return err_text(&call->err, -EINVAL, "bad device %s", call->args[i]);
		devices[n].access = access[n];
		n++;
	}
	return cgroup_set_devices(call->cgroup, all, devices, n, &call->err);
}

static int do_open(struct call *call)
{
	(void)call;
	return 0;
}

static int do_id(struct call *call)
{
	uint64_t id;
	int r = cgroup_id(call->cgroup, &id);

	if (r == 0)
		printf("%" PRIu64 "\n", id);
	return r;
}

static int do_oom(struct call *call)
{
	uint64_t kills;
	int r = cgroup_oom_kills(call->cgroup, &kills);

	if (r == 0)
		printf("%" PRIu64 "\n", kills);
	return r;
}

static int do_populated(struct call *call)
{
	bool populated;
	int r = cgroup_is_populated(call->cgroup, &populated);

	if (r == 0)
		printf("%d\n", populated);
	return r;
}

static int do_stats(struct call *call)
{
	_cleanup_(cgroup_stats_done) struct cgroup_stats s = {0};
	int r = cgroup_get_stats(call->cgroup, &s);

	if (r < 0)
		return r;
	printf("cpu=%" PRIu64 " user=%" PRIu64 " system=%" PRIu64 " memory=%" PRIu64 " max=%" PRIu64
	       " peak=%" PRIu64 " anon=%" PRIu64 " file=%" PRIu64 " inactive_file=%" PRIu64
	       " counters=%zu pids=%" PRIu64 " pids_max=%" PRIu64 " devices=%zu\n",
	       s.cpu_usage_nsec, s.cpu_user_nsec, s.cpu_system_nsec, s.memory_bytes,
	       s.memory_max_bytes, s.memory_peak_bytes, s.memory_anon_bytes, s.memory_file_bytes,
	       s.memory_inactive_file_bytes, s.n_memory_counters, s.pids, s.pids_max, s.n_io);
	return 0;
}

static int do_pressure(struct call *call)
{
	static const char *const names[] = {"cpu", "memory", "io"};

	for (enum cgroup_pressure_resource i = CGROUP_PRESSURE_CPU; i <= CGROUP_PRESSURE_IO; i++) {
		struct cgroup_pressure p;
		int r = cgroup_get_pressure(call->cgroup, i, &p);

		if (r < 0)
			return err_set(&call->err, r, "pressure of %s", names[i]);
		printf("%s some=%" PRIu64 " full=%" PRIu64 "\n", names[i], p.some.total_usec,
		       p.full.total_usec);
	}
	return 0;
}

static int do_freeze(struct call *call)
{
	return cgroup_freeze(call->cgroup, &call->err);
}

static int do_thaw(struct call *call)
{
	return cgroup_thaw(call->cgroup, &call->err);
}

static int do_kill(struct call *call)
{
	return cgroup_kill(call->cgroup, &call->err);
}

static int do_remove(struct call *call)
{
	return cgroup_remove(call->root, call->path, &call->err);
}

static int do_list(struct call *call)
{
	char **names;
	int r = cgroup_list(call->root, call->path, &names);

	if (r < 0)
		return r;
	for (char **name = names; *name; name++) {
		puts(*name);
		free(*name);
	}
	free(names);
	return 0;
}

static int do_version(struct call *call)
{
	puts(cgroup_root_is_v2(call->root) ? "2" : "1");
	return 0;
}

static const struct {
	const char *name;
	int (*fn)(struct call *call);
	bool opens;
} operations[] = {
	{"create", do_create, false},
	{"run", do_run, true},
	{"devices", do_devices, true},
	{"open", do_open, true},
	{"id", do_id, true},
	{"oom", do_oom, true},
	{"populated", do_populated, true},
	{"stats", do_stats, true},
	{"pressure", do_pressure, true},
	{"freeze", do_freeze, true},
	{"thaw", do_thaw, true},
	{"kill", do_kill, true},
	{"remove", do_remove, false},
	{"list", do_list, false},
	{"version", do_version, false},
};

static int run(const char *parent, const char *name, struct call *call)
{
	int r;

	r = cgroup_root_open(NULL, parent, &call->root, &call->err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(operations); i++) {
		if (strcmp(operations[i].name, name) != 0)
			continue;
		if (operations[i].opens)
			r = cgroup_open(call->root, call->path, &call->cgroup, &call->err);
		return r < 0 ? r : operations[i].fn(call);
	}
	return err_text(&call->err, -EINVAL, "unknown operation %s", name);
}

int main(int argc, char **argv)
{
	struct call call = {.path = argc > 3 ? argv[3] : "",
	                    .args = argc > 4 ? argv + 4 : NULL,
	                    .n_args = argc > 4 ? argc - 4 : 0};
	int r;

	if (argc < 3)
		return 2;
	r = run(argv[1], argv[2], &call);
	if (r < 0)
		fprintf(stderr, "%s: %s\n", strerrorname_np(-r), call.err.text);
	cgroup_free(call.cgroup);
	cgroup_root_free(call.root);
	return r < 0;
}
