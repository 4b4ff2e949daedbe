/* What this node is and has, as ECS wants to hear it. */
#include "agent/ecs/registration_request.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/fd.h"
#include "lib/json.h"

int node_resources_read(struct node_resources *ret, struct err *err)
{
	_cleanup_free_ char *meminfo = NULL;
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	const char *total;
	uint64_t kib;
	int r;

	r = file_read(AT_FDCWD, "/proc/meminfo", 64 * 1024, &meminfo, NULL);
	if (r < 0)
		return err_set(err, r, "read /proc/meminfo");
	total = strstr(meminfo, "MemTotal:");
	if (!total || sscanf(total, "MemTotal: %" SCNu64 " kB", &kib) != 1)
		return err_text(err, -EINVAL, "/proc/meminfo has no MemTotal");
	*ret = (struct node_resources){.cpus = cpus > 0 ? (uint64_t)cpus : 1,
	                               .memory_bytes = kib * 1024};
	return 0;
}

static int append_attribute(struct json_object *array, const char *name, const char *value)
{
	_cleanup_json_ struct json_object *attribute = json_object_new_object();

	if (!attribute || json_add_string(attribute, "name", name) < 0 ||
	    json_add_string(attribute, "value", value) < 0)
		return -ENOMEM;
	return json_append(array, TAKE_PTR(attribute));
}

/* Custom attributes are sent the first time only: after that they are the user's to change. */
static struct json_object *attributes_to_json(const struct registration_request *request)
{
	const struct config_pairs *custom = &request->config->instance_attributes;
	_cleanup_json_ struct json_object *array = json_object_new_array();
	const char *outpost_arn = request->instance->outpost_arn;

	if (!array)
		return NULL;
	for (size_t i = 0; !request->container_instance_arn && i < custom->n; i++)
		if (append_attribute(array, custom->items[i].name, custom->items[i].value) < 0)
			return NULL;
	if (capabilities_append(request->config, request->facts, array) < 0 ||
	    append_attribute(array, "ecs.os-type", "linux") < 0 ||
	    append_attribute(array, "ecs.os-family", "LINUX") < 0 ||
	    append_attribute(array, "ecs.os-type-detailed", request->config->detailed_os_family) <
	            0)
		return NULL;
	if (outpost_arn && append_attribute(array, "ecs.outpost-arn", outpost_arn) < 0)
		return NULL;
	return TAKE_PTR(array);
}

static int append_integer(struct json_object *array, const char *name, uint64_t value)
{
	_cleanup_json_ struct json_object *item = json_object_new_object();

	if (!item || json_add_string(item, "name", name) < 0 ||
	    json_add_string(item, "type", "INTEGER") < 0 ||
	    json_add_u64(item, "integerValue", value) < 0)
		return -ENOMEM;
	return json_append(array, TAKE_PTR(item));
}

static int append_ports(struct json_object *array, const char *name,
                        const struct config_ports *ports)
{
	_cleanup_json_ struct json_object *item = json_object_new_object();
	_cleanup_json_ struct json_object *set = json_object_new_array();

	for (size_t i = 0; set && i < ports->n; i++) {
		char text[8];

		snprintf(text, sizeof(text), "%u", ports->items[i]);
		if (json_append(set, json_object_new_string(text)) < 0)
			return -ENOMEM;
	}
	if (!item || json_add_string(item, "name", name) < 0 ||
	    json_add_string(item, "type", "STRINGSET") < 0 ||
	    json_add(item, "stringSetValue", TAKE_PTR(set)) < 0)
		return -ENOMEM;
	return json_append(array, TAKE_PTR(item));
}

static int resources_to_json(const struct registration_request *request, struct json_object **ret,
                             struct err *err)
{
	_cleanup_json_ struct json_object *array = json_object_new_array();
	uint64_t memory_mib = request->resources->memory_bytes / (1024 * 1024);
	uint64_t reserved_mib = request->config->reserved_memory_mib;

	if (reserved_mib > memory_mib)
		return err_text(err, -ERANGE,
		                "ECS_RESERVED_MEMORY=%" PRIu64 " is more than the %" PRIu64
		                " MiB that this host has",
		                reserved_mib, memory_mib);
	if (!array || append_integer(array, "CPU", request->resources->cpus * 1024) < 0 ||
	    append_integer(array, "MEMORY", memory_mib - reserved_mib) < 0 ||
	    append_ports(array, "PORTS", &request->config->reserved_ports) < 0 ||
	    append_ports(array, "PORTS_UDP", &request->config->reserved_ports_udp) < 0)
		return err_oom(err);
	*ret = TAKE_PTR(array);
	return 0;
}

static int add_tags(struct json_object *body, const struct config_pairs *tags)
{
	_cleanup_json_ struct json_object *array = json_object_new_array();

	if (tags->n == 0)
		return 0;
	for (size_t i = 0; i < tags->n; i++) {
		_cleanup_json_ struct json_object *tag = json_object_new_object();

		if (!array || !tag || json_add_string(tag, "key", tags->items[i].name) < 0 ||
		    json_add_string(tag, "value", tags->items[i].value) < 0 ||
		    json_append(array, TAKE_PTR(tag)) < 0)
			return -ENOMEM;
	}
	return json_add(body, "tags", TAKE_PTR(array));
}

int registration_request_to_json(const struct registration_request *request,
                                 struct json_object **ret, struct err *err)
{
	const struct instance *instance = request->instance;
	const char *document = instance->identity_document;
	const char *signature = instance->identity_document_signature;
	_cleanup_json_ struct json_object *body = json_object_new_object();
	struct json_object *resources = NULL;
	int r;

	r = resources_to_json(request, &resources, err);
	if (r < 0)
		return r;
	if (!body) {
		json_object_put(resources);
		return err_oom(err);
	}
	if (json_add(body, "totalResources", resources) < 0 ||
	    json_add_string(body, "cluster", request->config->cluster) < 0 ||
	    json_add_string(body, "clientToken", request->client_token) < 0 ||
	    json_add_string(body, "instanceIdentityDocument", document ? document : "") < 0 ||
	    json_add_string(body, "instanceIdentityDocumentSignature", signature ? signature : "") <
	            0 ||
	    json_add(body, "attributes", attributes_to_json(request)) < 0 ||
	    add_tags(body, &request->config->instance_tags) < 0)
		return err_oom(err);
	if (request->container_instance_arn &&
	    json_add_string(body, "containerInstanceArn", request->container_instance_arn) < 0)
		return err_oom(err);
	*ret = TAKE_PTR(body);
	return 0;
}

static bool has_attribute(struct json_object *answer, const char *name, const char *value)
{
	for (size_t i = 0; i < json_object_array_length(answer); i++) {
		struct json_object *item = json_object_array_get_idx(answer, i);
		const char *item_name = json_text(item, "name"),
			   *item_value = json_text(item, "value");

		if (item_name && strcmp(item_name, name) == 0)
			return strcmp(item_value ? item_value : "", value ? value : "") == 0;
	}
	return false;
}

int registration_check_attributes(struct json_object *request, struct json_object *answer,
                                  struct err *err)
{
	struct json_object *sent, *received;

	if (json_get_array(request, "attributes", &sent, NULL) < 0)
		return 0;
	if (json_get_array(answer, "attributes", &received, NULL) < 0)
		return err_text(err, -EBADMSG, "attribute validation failed: none came back");
	for (size_t i = 0; i < json_object_array_length(sent); i++) {
		struct json_object *item = json_object_array_get_idx(sent, i);

		if (!has_attribute(received, json_text(item, "name"), json_text(item, "value")))
			return err_text(err, -EBADMSG,
			                "attribute validation failed: %.128s did not "
			                "come back as it was sent",
			                json_text(item, "name"));
	}
	return 0;
}
