/* Dependencies between containers and the minimum rule; see the header. */
#include "agent/engine/progress.h"

#include <errno.h>
#include <string.h>

bool container_depends_on(const struct container *container, const char *name)
{
	for (size_t i = 0; i < container->n_dependencies; i++)
		if (strcmp(container->dependencies[i].container, name) == 0)
			return true;
	return false;
}

/* Take away, again and again, every container whose dependencies are all taken away: what is left
 * is a circle. ECS bounds a task to ten containers, the parser to a few more. */
static bool is_acyclic(const struct task *task, bool *taken)
{
	size_t n_taken = 0, before;

	do {
		before = n_taken;
		for (size_t i = 0; i < task->n_containers; i++) {
			const struct container *c = &task->containers[i];
			bool free_to_take = !taken[i];

			for (size_t k = 0; k < task->n_containers && free_to_take; k++)
				if (!taken[k] && container_depends_on(c, task->containers[k].name))
					free_to_take = false;
			if (free_to_take) {
				taken[i] = true;
				n_taken++;
			}
		}
	} while (n_taken > before);
	return n_taken == task->n_containers;
}

int dependencies_resolve(const struct task *task, struct err *err)
{
	_cleanup_free_ bool *taken = calloc(task->n_containers + 1, sizeof(*taken));
	int r = 0;

	if (!taken)
		return err_oom(err);
	for (size_t i = 0; i < task->n_containers; i++)
		for (size_t k = 0; k < task->containers[i].n_dependencies; k++)
			if (!task_container(task, task->containers[i].dependencies[k].container))
				r = -ENOENT;
	if (r == 0 && !is_acyclic(task, taken))
		r = -ELOOP;
	if (r < 0)
		return err_text(err, r, "Task dependencies cannot be resolved, taskArn: %s",
		                task->arn);
	return 0;
}

static bool has_started(const struct container *c)
{
	return c->known == TASK_STATUS_RUNNING || c->started_realtime_usec > 0;
}

/* Everything but its command was there, as in an image that is nothing but data. */
static bool could_not_run(const struct container *c)
{
	return c->known == TASK_STATUS_STOPPED && c->created_realtime_usec > 0 && c->has_exit_code;
}

static bool is_satisfied(const struct container *dependency, enum dependency_condition condition)
{
	switch (condition) {
	case DEPENDENCY_CREATE:
		return has_started(dependency) || could_not_run(dependency);
	case DEPENDENCY_START:
		return has_started(dependency);
	case DEPENDENCY_COMPLETE:
		return dependency->known == TASK_STATUS_STOPPED && dependency->has_exit_code;
	case DEPENDENCY_SUCCESS:
		return dependency->known == TASK_STATUS_STOPPED && dependency->has_exit_code &&
		       dependency->exit_code == 0;
	case DEPENDENCY_HEALTHY:
		return dependency->known == TASK_STATUS_RUNNING &&
		       dependency->health == HEALTH_HEALTHY;
	}
	return false;
}

static const char *describe_end(const struct container *dependency)
{
	if (has_started(dependency))
		return "has ended without an exit code";
	return dependency->known == TASK_STATUS_STOPPED ? "did not start" : "will never start";
}

static enum dependency_state check_one(const struct container *container,
                                       const struct dependency *edge,
                                       const struct container *dependency, uint64_t now_usec,
                                       uint64_t *ret_deadline, struct err *err)
{
	uint64_t end;

	if (is_satisfied(dependency, edge->condition))
		return DEPENDENCIES_MET;

	if (dependency->known == TASK_STATUS_STOPPED && dependency->has_exit_code &&
	    has_started(dependency)) {
		err_text(err, 0,
		         "dependency graph: container %s has exited with code %d, %s as %s needs",
		         dependency->name, dependency->exit_code,
		         edge->condition == DEPENDENCY_HEALTHY ? "before it was HEALTHY" : "not 0",
		         container->name);
		return DEPENDENCIES_NEVER;
	}
	if (dependency->known == TASK_STATUS_STOPPED ||
	    dependency->desired == TASK_STATUS_STOPPED) {
		if (has_started(dependency) && dependency->known != TASK_STATUS_STOPPED)
			return DEPENDENCIES_WAIT;
		err_text(err, 0, "dependency graph: container %s, which %s depends on, %s",
		         dependency->name, container->name, describe_end(dependency));
		return DEPENDENCIES_NEVER;
	}
	if (edge->condition <= DEPENDENCY_START || dependency->start_timeout_usec == 0 ||
	    dependency->started_usec == 0 || container->known >= TASK_STATUS_CREATED)
		return DEPENDENCIES_WAIT;

	end = dependency->started_usec + dependency->start_timeout_usec;
	if (now_usec >= end) {
		err_text(
			err, 0,
			"dependency graph: container ordering dependency [%s] for target [%s] has timed out",
			dependency->name, container->name);
		return DEPENDENCIES_NEVER;
	}
	if (end < *ret_deadline)
		*ret_deadline = end;
	return DEPENDENCIES_WAIT;
}

enum dependency_state dependencies_check(const struct task *task, const struct container *container,
                                         uint64_t now_usec, uint64_t *ret_deadline, struct err *err)
{
	enum dependency_state worst = DEPENDENCIES_MET, state;

	for (size_t i = 0; i < container->n_dependencies; i++) {
		const struct dependency *edge = &container->dependencies[i];
		const struct container *dependency = task_container(task, edge->container);

		if (!dependency) {
			err_text(err, 0, "dependency graph: container %s is missing",
			         edge->container);
			return DEPENDENCIES_NEVER;
		}
		state = check_one(container, edge, dependency, now_usec, ret_deadline, err);
		if (state == DEPENDENCIES_NEVER)
			return state;
		if (state > worst)
			worst = state;
	}
	return worst;
}

bool dependents_are_stopped(const struct task *task, const struct container *container)
{
	for (size_t i = 0; i < task->n_containers; i++) {
		const struct container *other = &task->containers[i];

		if (other != container && container_depends_on(other, container->name) &&
		    other->known != TASK_STATUS_STOPPED)
			return false;
	}
	return true;
}

enum task_status task_status_reached(const struct task *task)
{
	enum task_status least = TASK_STATUS_STOPPED;
	bool essential_stopped = false;

	for (size_t i = 0; i < task->n_containers; i++) {
		const struct container *c = &task->containers[i];

		if (c->known < least)
			least = c->known;
		if (c->essential && c->known == TASK_STATUS_STOPPED)
			essential_stopped = true;
	}
	if (least == TASK_STATUS_RUNNING && essential_stopped)
		return task->known;
	return least > task->known ? least : task->known;
}

const char *task_status_on_wire(enum task_status status)
{
	if (status == TASK_STATUS_RUNNING || status == TASK_STATUS_STOPPED)
		return task_status_to_string(status);
	return "PENDING";
}
