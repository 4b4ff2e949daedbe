/*
 * Task metadata endpoint documents. Version 3 is version 4 without what came later; times are RFC
 * 3339 with nanoseconds, UTC. Source: the ECS developer guide, "Task metadata endpoint version 4".
 */
#include "agent/engine/documents.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "agent/engine/health.h"
#include "agent/engine/namespaces.h"
#include "agent/engine/refuse.h"
#include "agent/engine/volumes.h"
#include "lib/json.h"

enum version {
	V3 = 3,
	V4 = 4,
};

int document_add_time(struct json_object *obj, const char *name, uint64_t realtime_usec)
{
	time_t seconds = (time_t)(realtime_usec / 1000000);
	char date[32], text[64];
	struct tm tm;

	if (realtime_usec == 0)
		return 0;
	gmtime_r(&seconds, &tm);
	strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(text, sizeof(text), "%s.%06u000Z", date, (unsigned int)(realtime_usec % 1000000));
	return json_add_string(obj, name, text);
}

static int add_optional(struct json_object *obj, const char *name, const char *text)
{
	return text && *text ? json_add_string(obj, name, text) : 0;
}

static int add_ports(struct json_object *obj, const struct container *c, enum version version)
{
	struct json_object *list = json_object_new_array();

	if (c->n_ports == 0) {
		json_object_put(list);
		return 0;
	}
	if (json_add(obj, "Ports", list) < 0)
		return -ENOMEM;
	for (size_t i = 0; i < c->n_ports; i++) {
		const struct network_binding *b = i < c->n_bindings ? &c->bindings[i] : NULL;
		uint16_t host_port = b ? b->host_port : c->ports[i].host_port;
		struct json_object *port = json_object_new_object();

		if (json_append(list, port) < 0 ||
		    json_add_i64(port, "ContainerPort", c->ports[i].container_port) < 0 ||
		    json_add_string(port, "Protocol", c->ports[i].udp ? "udp" : "tcp") < 0)
			return -ENOMEM;
		if (host_port && json_add_i64(port, "HostPort", host_port) < 0)
			return -ENOMEM;
		if (version == V4 && b && json_add_string(port, "HostIp", b->bind_ip) < 0)
			return -ENOMEM;
	}
	return 0;
}

static int add_labels(struct json_object *obj, const struct task *task, const struct container *c,
                      const struct document_options *options)
{
	struct json_object *given = json_get(c->config, "Labels"),
			   *image = json_get(c->image_config, "Labels"),
			   *labels = json_object_new_object();

	if (json_add(obj, "Labels", labels) < 0)
		return -ENOMEM;
	if (json_object_is_type(image, json_type_object)) {
		json_object_object_foreach (image, key, value) {
			if (json_add(labels, key, json_object_get(value)) < 0)
				return -ENOMEM;
		}
	}
	if (json_object_is_type(given, json_type_object)) {
		json_object_object_foreach (given, name, value) {
			if (json_add(labels, name, json_object_get(value)) < 0)
				return -ENOMEM;
		}
	}
	if (json_add_string(labels, "com.amazonaws.ecs.cluster", options->cluster) < 0 ||
	    json_add_string(labels, "com.amazonaws.ecs.container-name", c->name) < 0 ||
	    json_add_string(labels, "com.amazonaws.ecs.task-arn", task->arn) < 0 ||
	    json_add_string(labels, "com.amazonaws.ecs.task-definition-family",
	                    task->family ? task->family : "") < 0 ||
	    json_add_string(labels, "com.amazonaws.ecs.task-definition-version",
	                    task->version ? task->version : "") < 0)
		return -ENOMEM;
	return 0;
}

static int add_limits(struct json_object *obj, const struct container *c)
{
	struct json_object *limits = json_object_new_object();

	if (json_add(obj, "Limits", limits) < 0 ||
	    json_add_i64(limits, "CPU", c->cpu_shares < 2 ? 2 : c->cpu_shares) < 0)
		return -ENOMEM;
	return json_add_i64(limits, "Memory", c->memory_mib);
}

/* A volume of ours has a name; where it lies on the host is nobody's business in a container. */
static int add_volume(struct json_object *list, const struct volume_mount *mount)
{
	struct json_object *volume = json_object_new_object();
	bool host = mount->kind == VOLUME_KIND_HOST;

	if (json_append(list, volume) < 0)
		return -ENOMEM;
	if (add_optional(volume, host ? "Source" : "DockerName",
	                 mount->source ? mount->source : mount->anonymous) < 0)
		return -ENOMEM;
	return json_add_string(volume, "Destination", mount->destination);
}

static int add_volumes(struct json_object *obj, const struct task *task, const struct container *c)
{
	struct volume_mounts mounts = {0};
	struct json_object *list;
	int r;

	r = volumes_of(task, c, &mounts, NULL);
	if (r < 0 || mounts.n == 0) {
		free(mounts.items);
		return r == -ENOMEM ? r
		                    : 0; /* what is wrong with them ends the container's start */
	}
	list = json_object_new_array();
	r = json_add(obj, "Volumes", list);
	for (size_t i = 0; r == 0 && i < mounts.n; i++)
		r = add_volume(list, &mounts.items[i]);
	free(mounts.items);
	return r;
}

static int add_networks(struct json_object *obj, const struct task *task, const struct container *c)
{
	struct json_object *list = json_object_new_array(), *network = json_object_new_object(),
			   *addresses = json_object_new_array();

	if (json_add(obj, "Networks", list) < 0) {
		json_object_put(network);
		json_object_put(addresses);
		return -ENOMEM;
	}
	if (json_append(list, network) < 0) {
		json_object_put(addresses);
		return -ENOMEM;
	}
	if (json_add_string(network, "NetworkMode",
	                    namespaces_is_pause_container(c)
	                            ? "none"
	                            : network_mode_to_string(container_network_mode(task, c))) <
	    0) {
		json_object_put(addresses);
		return -ENOMEM;
	}
	if (json_add(network, "IPv4Addresses", addresses) < 0)
		return -ENOMEM;
	return json_append(addresses, json_object_new_string(c->address));
}

static int add_log(struct json_object *obj, const struct container *c)
{
	struct json_object *log_config = json_get(c->host_config, "LogConfig");
	struct json_object *log_options = json_get(log_config, "Config");

	if (add_optional(obj, "LogDriver", json_text(log_config, "Type")) < 0)
		return -ENOMEM;
	return json_is_zero(log_options)
	               ? 0
	               : json_add(obj, "LogOptions", json_object_get(log_options));
}

static int add_docker_name(struct json_object *obj, const struct task *task,
                           const struct container *c)
{
	char name[TASK_RUNTIME_NAME_SIZE];

	container_runtime_name(task, c, name, sizeof(name));
	return json_add_string(obj, "DockerName", name);
}

static int add_identity(struct json_object *obj, const struct task *task, const struct container *c)
{
	if (json_add_string(obj, "DockerId", c->runtime_id) < 0 ||
	    json_add_string(obj, "Name", c->name) < 0 || add_docker_name(obj, task, c) < 0 ||
	    json_add_string(obj, "Image", c->image) < 0 ||
	    json_add_string(obj, "ImageID", c->image_id ? c->image_id : "") < 0)
		return -ENOMEM;
	return 0;
}

static int add_status(struct json_object *obj, const struct container *c)
{
	if (json_add_string(obj, "DesiredStatus", task_status_to_string(c->desired)) < 0 ||
	    json_add_string(obj, "KnownStatus", task_status_to_string(c->known)) < 0)
		return -ENOMEM;
	if (c->has_exit_code && json_add_i64(obj, "ExitCode", c->exit_code) < 0)
		return -ENOMEM;
	return 0;
}

static int add_times(struct json_object *obj, const struct container *c)
{
	if (document_add_time(obj, "CreatedAt", c->created_realtime_usec) < 0 ||
	    document_add_time(obj, "StartedAt", c->started_realtime_usec) < 0 ||
	    document_add_time(obj, "FinishedAt", c->finished_realtime_usec) < 0)
		return -ENOMEM;
	return json_add_string(obj, "Type",
	                       namespaces_is_pause_container(c) ? "NAMESPACE_PAUSE" : "NORMAL");
}

static int container_document(const struct task *task, const struct container *c,
                              const struct document_options *options, enum version version,
                              struct json_object **ret)
{
	_cleanup_json_ struct json_object *obj = json_object_new_object();

	if (!obj || add_identity(obj, task, c) < 0 || add_ports(obj, c, version) < 0 ||
	    add_labels(obj, task, c, options) < 0 || add_status(obj, c) < 0 ||
	    add_limits(obj, c) < 0 || add_times(obj, c) < 0)
		return -ENOMEM;
	/* Version 3 has the networks before the rest, version 4 at the end. */
	if (version == V3 && add_networks(obj, task, c) < 0)
		return -ENOMEM;
	if (health_add_document(c, obj) < 0)
		return -ENOMEM;
	if (add_volumes(obj, task, c) < 0)
		return -ENOMEM;
	if (version == V4 &&
	    (add_log(obj, c) < 0 || add_optional(obj, "ContainerARN", c->arn) < 0 ||
	     add_networks(obj, task, c) < 0))
		return -ENOMEM;
	if (version == V4 && c->restart_policy.enabled &&
	    json_add_u64(obj, "RestartCount", c->restart_count) < 0)
		return -ENOMEM;
	*ret = TAKE_PTR(obj);
	return 0;
}

static int add_task_limits(struct json_object *obj, const struct task *task)
{
	struct json_object *limits;

	if (task->cpu <= 0 && task->memory_mib <= 0)
		return 0;
	limits = json_object_new_object();
	if (json_add(obj, "Limits", limits) < 0)
		return -ENOMEM;
	if (task->cpu > 0 && json_add(limits, "CPU", json_object_new_double(task->cpu)) < 0)
		return -ENOMEM;
	return task->memory_mib > 0 ? json_add_i64(limits, "Memory", task->memory_mib) : 0;
}

static int add_containers(struct json_object *obj, const struct task *task,
                          const struct document_options *options, enum version version)
{
	struct json_object *list = json_object_new_array(), *container;
	struct container pause_container;

	if (json_add(obj, "Containers", list) < 0)
		return -ENOMEM;
	for (size_t i = 0; i < task->n_containers; i++)
		if (container_document(task, &task->containers[i], options, version, &container) <
		            0 ||
		    json_append(list, container) < 0)
			return -ENOMEM;
	if (namespaces_pause_container(task, &pause_container) &&
	    (container_document(task, &pause_container, options, version, &container) < 0 ||
	     json_append(list, container) < 0))
		return -ENOMEM;
	return 0;
}

static int task_document(const struct task *task, const struct document_options *options,
                         enum version version, struct json_object **ret)
{
	_cleanup_json_ struct json_object *obj = json_object_new_object();

	if (!obj || json_add_string(obj, "Cluster", options->cluster) < 0 ||
	    json_add_string(obj, "TaskARN", task->arn) < 0 ||
	    json_add_string(obj, "Family", task->family ? task->family : "") < 0 ||
	    json_add_string(obj, "Revision", task->version ? task->version : "") < 0 ||
	    json_add_string(obj, "DesiredStatus", task_status_to_string(task->desired)) < 0 ||
	    json_add_string(obj, "KnownStatus", task_status_to_string(task->known)) < 0 ||
	    add_task_limits(obj, task) < 0 ||
	    document_add_time(obj, "PullStartedAt", task->pull_started_realtime_usec) < 0 ||
	    document_add_time(obj, "PullStoppedAt", task->pull_stopped_realtime_usec) < 0 ||
	    document_add_time(obj, "ExecutionStoppedAt", task->execution_stopped_realtime_usec) <
	            0 ||
	    add_optional(obj, "AvailabilityZone", options->availability_zone) < 0)
		return -ENOMEM;
	if (version == V4 && add_optional(obj, "LaunchType", task->launch_type) < 0)
		return -ENOMEM;
	if (add_containers(obj, task, options, version) < 0)
		return -ENOMEM;
	if (version == V4 && (add_optional(obj, "ServiceName", task->service_name) < 0 ||
	                      json_add_bool(obj, "FaultInjectionEnabled", false) < 0))
		return -ENOMEM;
	*ret = TAKE_PTR(obj);
	return 0;
}

static int add_document(struct json_object *all, enum version version, const char *id,
                        const char *rest, struct json_object *document)
{
	char path[64];

	snprintf(path, sizeof(path), "/v%d/%s%s", (int)version, id, rest);
	return json_add(all, path, document);
}

static int build_version(const struct task *task, const struct document_options *options,
                         enum version version, struct json_object *all)
{
	_cleanup_json_ struct json_object *whole = NULL;
	struct json_object *own;

	if (task_document(task, options, version, &whole) < 0)
		return -ENOMEM;
	for (size_t i = 0; i < task->n_containers; i++) {
		const struct container *c = &task->containers[i];

		if (container_document(task, c, options, version, &own) < 0 ||
		    add_document(all, version, c->endpoint_id, "", own) < 0 ||
		    add_document(all, version, c->endpoint_id, "/task", json_object_get(whole)) < 0)
			return -ENOMEM;
	}
	return 0;
}

int documents_build(const struct task *task, const struct document_options *options,
                    struct json_object **ret)
{
	_cleanup_json_ struct json_object *all = json_object_new_object();

	if (!all || build_version(task, options, V4, all) < 0 ||
	    build_version(task, options, V3, all) < 0)
		return -ENOMEM;
	*ret = TAKE_PTR(all);
	return 0;
}
