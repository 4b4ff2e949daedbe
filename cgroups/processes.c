/*
 * The processes of a cgroup as a whole: whether there are any, and freezing, thawing and killing
 * all of them. cgroup2 has a file for each; v1 has a freezer, and killing is done by hand.
 */
#include "cgroups/cgroup.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "cgroups/hierarchy.h"

#define KILL_TIMEOUT_USEC        (2 * 1000 * 1000)
#define FREEZE_TIMEOUT_USEC      (2 * 1000 * 1000)
#define KILL_FREEZE_TIMEOUT_USEC (200 * 1000)

static bool is_gone(int r)
{
	return r == -ENOENT || r == -ENODEV; /* ENODEV: removed while the file was open */
}

int cgroup_is_populated(const struct cgroup *cgroup, bool *ret)
{
	const struct cgroup_root *root = cgroup->root;
	const struct hierarchy *freezer = root->by_controller[CONTROLLER_FREEZER];
	uint64_t populated = 0;
	bool found = false;
	int r;

	if (root->unified) {
		r = hierarchy_read_u64(root->unified, cgroup->path, "cgroup.events", "populated",
		                       &populated);
		if (r < 0 && !is_gone(r))
			return r;
	}
	*ret = populated != 0;
	if (root->v2 || *ret)
		return 0;

	/* On v1 a process that died between two joins, or a host without cgroup2. */
	if (!freezer)
		freezer = root->by_controller[CONTROLLER_PIDS];
	r = hierarchy_has_processes(freezer, cgroup->path, &found);
	if (r < 0 && !is_gone(r))
		return r;
	*ret = found;
	return 0;
}

static uint64_t clock_usec(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* Pauses between two looks at a state that the kernel is about to reach; doubling, bounded. */
static void pause_usec(uint64_t *usec)
{
	struct timespec t = {.tv_nsec = (long)(*usec * 1000)};

	nanosleep(&t, NULL);
	*usec = *usec * 2 < 20000 ? *usec * 2 : 20000;
}

/* --- freezing --- */

/* The v1 freezer where there is one: processes that are joining are in it first or last, as in any
 * other hierarchy, but only those that are in it are what v1 calls frozen. */
static const struct hierarchy *freezer_of(const struct cgroup *cgroup)
{
	const struct hierarchy *v1 = cgroup->root->by_controller[CONTROLLER_FREEZER];

	return v1 ? v1 : cgroup->root->unified;
}

static int freezer_write(const struct hierarchy *h, const char *path, bool frozen, struct err *err)
{
	if (h->unified)
		return hierarchy_write(h, path, "cgroup.freeze", frozen ? "1" : "0", err);
	return hierarchy_write(h, path, "freezer.state", frozen ? "FROZEN" : "THAWED", err);
}

static int freezer_is_frozen(const struct hierarchy *h, const char *path, bool *ret)
{
	uint64_t frozen = 0;
	char state[32] = "";
	int r;

	if (h->unified) {
		r = hierarchy_read_u64(h, path, "cgroup.events", "frozen", &frozen);
	} else {
		r = hierarchy_read(h, path, "freezer.state", state, sizeof(state));
		frozen = strcmp(state, "FROZEN\n") == 0;
	}
	*ret = frozen != 0;
	return r;
}

/* -ETIMEDOUT: it may never come true, for a process in an uninterruptible wait. */
static int freezer_freeze(const struct hierarchy *h, const char *path, uint64_t timeout_usec,
                          struct err *err)
{
	uint64_t deadline = clock_usec() + timeout_usec, pause = 100;
	bool is_frozen = false;
	int r;

	r = freezer_write(h, path, true, err);
	if (r < 0)
		return r;
	for (;;) {
		r = freezer_is_frozen(h, path, &is_frozen);
		if (r < 0)
			return err_set(err, r, "read whether %s/%s is frozen", h->path, path);
		if (is_frozen)
			return 0;
		if (clock_usec() >= deadline)
			return err_text(err, -ETIMEDOUT, "processes in cgroup %s do not freeze",
			                path);
		pause_usec(&pause);
	}
}

static int no_freezer(struct err *err)
{
	return err_text(err, -EOPNOTSUPP, "no cgroup controller freezer on this host");
}

int cgroup_freeze(struct cgroup *cgroup, struct err *err)
{
	const struct hierarchy *h = freezer_of(cgroup);
	int r;

	if (!h)
		return no_freezer(err);
	r = freezer_freeze(h, cgroup->path, FREEZE_TIMEOUT_USEC, err);
	if (r < 0)
		(void)freezer_write(h, cgroup->path, false, NULL); /* the first error counts */
	return r;
}

int cgroup_thaw(struct cgroup *cgroup, struct err *err)
{
	const struct hierarchy *h = freezer_of(cgroup);

	return h ? freezer_write(h, cgroup->path, false, err) : no_freezer(err);
}

/* --- killing --- */

static int kill_process(pid_t pid, void *userdata)
{
	(void)userdata;
	/* Gone meanwhile is as good; pid 0 would be our own group. */
	if (pid > 0)
		(void)kill(pid, SIGKILL);
	return 0;
}

static int thaw_one(const struct hierarchy *h, const char *path, void *userdata)
{
	(void)userdata;
	(void)freezer_write(h, path, false, NULL);
	return 0;
}

/*
 * Where a tree cannot be killed at once: frozen, it cannot fork away from under the list of its
 * pids. What is frozen on v1 dies only once thawed, and a container may have frozen cgroups below.
 */
static int kill_by_hand(const struct cgroup *cgroup, struct err *err)
{
	const struct hierarchy *freezer = freezer_of(cgroup);
	const struct hierarchy *h =
		freezer ? freezer : cgroup->root->by_controller[CONTROLLER_PIDS];
	int r;

	if (freezer)
		(void)freezer_freeze(freezer, cgroup->path, KILL_FREEZE_TIMEOUT_USEC, NULL);
	r = hierarchy_each_process(h, cgroup->path, kill_process, NULL);
	if (freezer)
		(void)hierarchy_each_cgroup(freezer, cgroup->path, thaw_one, NULL);
	return r < 0 && !is_gone(r)
	               ? err_set(err, r, "kill the processes of %s/%s", h->path, cgroup->path)
	               : 0;
}

/* One round: cgroup.kill (Linux 5.14, also on hybrid hosts), or by hand. */
static int kill_once(struct cgroup *cgroup, bool by_hand, struct err *err)
{
	const struct cgroup_root *root = cgroup->root;
	const struct hierarchy *freezer = root->by_controller[CONTROLLER_FREEZER];
	int r;

	if (by_hand || !root->unified || !hierarchy_has(root->unified, cgroup->path, "cgroup.kill"))
		return kill_by_hand(cgroup, err);
	cgroup->was_killed = true;
	r = hierarchy_write(root->unified, cgroup->path, "cgroup.kill", "1", err);
	if (freezer)
		(void)hierarchy_each_cgroup(freezer, cgroup->path, thaw_one, NULL);
	return is_gone(r) ? 0 : r;
}

int cgroup_kill(struct cgroup *cgroup, struct err *err)
{
	uint64_t deadline = clock_usec() + KILL_TIMEOUT_USEC, pause = 500;
	bool populated = false;
	int r;

	for (unsigned round = 0;; round++) {
		r = cgroup_is_populated(cgroup, &populated);
		if (r < 0)
			return err_set(err, r, "look for processes in cgroup %s", cgroup->path);
		if (!populated)
			return 0;
		if (clock_usec() >= deadline)
			return err_text(err, -ETIMEDOUT,
			                "processes in cgroup %s do not end when killed",
			                cgroup->path);
		/* Dying takes a moment: go back to the list only now and then. */
		if (round % 8 == 0) {
			r = kill_once(cgroup, round > 0, err);
			if (r < 0)
				return r;
		}
		pause_usec(&pause);
	}
}
