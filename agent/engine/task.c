/* Tasks and containers as memory: names of their statuses, and letting go of them. */
#include "agent/engine/task.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static const char *const status_names[_TASK_STATUS_MAX] = {
	[TASK_STATUS_NONE] = "NONE",       [TASK_STATUS_MANIFEST_PULLED] = "MANIFEST_PULLED",
	[TASK_STATUS_PULLED] = "PULLED",   [TASK_STATUS_CREATED] = "CREATED",
	[TASK_STATUS_RUNNING] = "RUNNING", [TASK_STATUS_STOPPED] = "STOPPED",
};

static const char *const mode_names[_NETWORK_MODE_MAX] = {
	[NETWORK_MODE_BRIDGE] = "bridge",
	[NETWORK_MODE_HOST] = "host",
	[NETWORK_MODE_NONE] = "none",
};

const char *task_status_to_string(enum task_status status)
{
	return status_names[status];
}

int task_status_from_string(const char *word, enum task_status *ret)
{
	for (enum task_status s = 0; word && s < _TASK_STATUS_MAX; s++)
		if (strcmp(word, status_names[s]) == 0) {
			*ret = s;
			return 0;
		}
	if (word && strcmp(word, "DEAD") == 0) {
		*ret = TASK_STATUS_STOPPED;
		return 0;
	}
	if (word && strcmp(word, "UNKNOWN") == 0) {
		*ret = TASK_STATUS_NONE;
		return 0;
	}
	return -EINVAL;
}

const char *network_mode_to_string(enum network_mode mode)
{
	return mode_names[mode];
}

enum network_mode container_network_mode(const struct task *task, const struct container *container)
{
	return container->network_disabled ? NETWORK_MODE_NONE : task->network_mode;
}

const char *dependency_condition_to_string(enum dependency_condition condition)
{
	static const char *const names[] = {
		[DEPENDENCY_CREATE] = "CREATE",     [DEPENDENCY_START] = "START",
		[DEPENDENCY_COMPLETE] = "COMPLETE", [DEPENDENCY_SUCCESS] = "SUCCESS",
		[DEPENDENCY_HEALTHY] = "HEALTHY",
	};

	return names[condition];
}

static void container_done(struct container *c)
{
	free(c->name);
	free(c->image);
	free(c->arn);
	json_object_put(c->document);
	json_object_put(c->config);
	json_object_put(c->host_config);
	for (size_t i = 0; i < c->n_dependencies; i++)
		free(c->dependencies[i].container);
	free(c->dependencies);
	for (size_t i = 0; i < c->n_links; i++) {
		free(c->links[i].container);
		free(c->links[i].alias);
	}
	free(c->links);
	restart_policy_done(&c->restart_policy);
	free(c->ports);
	free(c->reason);
	free(c->health_output);
	managed_agent_done(&c->managed_agent);
	free(c->image_digest);
	free(c->image_id);
	free(c->bindings);
	json_object_put(c->image_config);
	json_object_put(c->layers);
}

static void put_document(struct json_object **document)
{
	json_object_put(*document);
	*document = NULL;
}

void task_shrink(struct task *task)
{
	for (size_t i = 0; i < task->n_containers; i++) {
		struct container *c = &task->containers[i];

		put_document(&c->document);
		put_document(&c->config);
		put_document(&c->host_config);
		put_document(&c->image_config);
		put_document(&c->layers);
	}
	put_document(&task->document);
}

struct task *task_free(struct task *task)
{
	if (!task)
		return NULL;
	for (size_t i = 0; i < task->n_containers; i++)
		container_done(&task->containers[i]);
	free(task->containers);
	free(task->arn);
	free(task->id);
	free(task->family);
	free(task->version);
	free(task->cluster_arn);
	free(task->launch_type);
	free(task->service_name);
	free(task->credentials_id);
	free(task->execution_credentials_id);
	free(task->reason);
	json_object_put(task->document);
	free(task);
	return NULL;
}

void container_runtime_name(const struct task *task, const struct container *c, char *buf, size_t n)
{
	char name[101];
	size_t len = 0;

	for (const char *p = c->name; *p && len + 1 < sizeof(name); p++)
		if (isalnum((unsigned char)*p) || *p == '-')
			name[len++] = *p;
	name[len] = '\0';
	snprintf(buf, n, "ecs-%.100s-%.20s-%s-%.20s", task->family ? task->family : "",
	         task->version ? task->version : "", name, c->runtime_id);
}

struct container *task_container(const struct task *task, const char *name)
{
	for (size_t i = 0; i < task->n_containers; i++)
		if (strcmp(task->containers[i].name, name) == 0)
			return &task->containers[i];
	return NULL;
}
