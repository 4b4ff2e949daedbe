/*
 * What a task definition may require of this node. The scheduler derives required attributes from
 * task definitions in terms of Docker's API versions, so those names are sent although there is no
 * Docker: each stands for features that are there.
 *
 * Left out until they work: secrets, environment files, port ranges, awsvpc, other volume
 * drivers, GPUs, FireLens, Service Connect, fault injection.
 */
#include "agent/ecs/capabilities.h"

#include <errno.h>
#include <stdio.h>

#include "lib/json.h"

#define P1 "com.amazonaws.ecs.capability."
#define P2 "ecs.capability."

typedef bool (*condition_fn)(const struct config *config, const struct node_facts *facts);

static bool privileged_is_allowed(const struct config *config, const struct node_facts *facts)
{
	(void)facts;
	return !config->privileged_disabled;
}

static bool health_checks_are_run(const struct config *config, const struct node_facts *facts)
{
	(void)facts;
	return !config->health_check_disabled;
}

static bool has_task_iam_role(const struct config *config, const struct node_facts *facts)
{
	(void)facts;
	return config->task_iam_role;
}

static bool has_task_iam_role_network_host(const struct config *config,
                                           const struct node_facts *facts)
{
	(void)facts;
	return config->task_iam_role_network_host;
}

static bool has_task_limits(const struct config *config, const struct node_facts *facts)
{
	return config->task_cpu_mem_limit && facts->task_cgroups;
}

static bool has_awslogs_execution_role(const struct config *config, const struct node_facts *facts)
{
	(void)facts;
	return config->awslogs_execution_role;
}

static bool has_execute_command(const struct config *config, const struct node_facts *facts)
{
	(void)config;
	return facts->execute_command;
}

static bool has_selinux(const struct config *config, const struct node_facts *facts)
{
	return config->selinux_capable && facts->selinux;
}

static bool has_apparmor(const struct config *config, const struct node_facts *facts)
{
	return config->apparmor_capable && facts->apparmor;
}

static bool has_efs_utils(const struct config *config, const struct node_facts *facts)
{
	(void)config;
	return facts->efs_utils;
}

static const struct capability {
	const char *name;
	condition_fn condition; /* NULL: always */
} capabilities[] = {
	{P2 "container-ordering", NULL},
	{P2 "container-restart-policy", NULL},
	{P2 "container-health-check", health_checks_are_run},
	{P2 "docker-plugin.local", NULL},
	{P2 "efs", NULL},
	{P2 "efsAuth", has_efs_utils},
	{P2 "pid-ipc-namespace-sharing", NULL},
	{P2 "full-sync", NULL},
	{P1 "privileged-container", privileged_is_allowed},
	{P1 "docker-remote-api.1.17", NULL},
	{P1 "docker-remote-api.1.18", NULL},
	{P1 "docker-remote-api.1.19", NULL},
	{P1 "docker-remote-api.1.20", NULL},
	{P1 "docker-remote-api.1.21", NULL},
	{P1 "docker-remote-api.1.22", NULL},
	{P1 "docker-remote-api.1.23", NULL},
	{P1 "docker-remote-api.1.24", NULL},
	{P1 "docker-remote-api.1.25", NULL},
	{P1 "docker-remote-api.1.28", NULL},
	{P1 "docker-remote-api.1.29", NULL},
	{P1 "docker-remote-api.1.30", NULL},
	{P1 "docker-remote-api.1.32", NULL},
	{P1 "selinux", has_selinux},
	{P1 "apparmor", has_apparmor},
	{P1 "task-iam-role", has_task_iam_role},
	{P1 "task-iam-role-network-host", has_task_iam_role_network_host},
	{P2 "task-cpu-mem-limit", has_task_limits},
	{P2 "increased-task-cpu-limit", has_task_limits},
	{P1 "ecr-auth", NULL},
	{P2 "execution-role-ecr-pull", NULL},
	{P2 "execution-role-awslogs", has_awslogs_execution_role},
	{P2 "execute-command", has_execute_command},
};

static int append_name(struct json_object *array, const char *name)
{
	_cleanup_json_ struct json_object *attribute = json_object_new_object();

	if (!attribute || json_add_string(attribute, "name", name) < 0)
		return -ENOMEM;
	return json_append(array, TAKE_PTR(attribute));
}

static int append_logging_drivers(const struct config *config, struct json_object *array)
{
	for (size_t i = 0; i < config->logging_drivers.n; i++) {
		char name[128];

		snprintf(name, sizeof(name), P1 "logging-driver.%s",
		         config->logging_drivers.items[i]);
		if (append_name(array, name) < 0)
			return -ENOMEM;
	}
	return 0;
}

int capabilities_append(const struct config *config, const struct node_facts *facts,
                        struct json_object *array)
{
	for (size_t i = 0; i < ARRAY_SIZE(capabilities); i++) {
		if (capabilities[i].condition && !capabilities[i].condition(config, facts))
			continue;
		if (append_name(array, capabilities[i].name) < 0)
			return -ENOMEM;
	}
	return append_logging_drivers(config, array);
}
