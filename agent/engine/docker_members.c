/* Two tables, a line for each member, and one function that holds a document against a table. */
#include "agent/engine/docker_members.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "agent/engine/refuse.h"
#include "lib/json.h"

enum kind {
	KIND_BOOL,
	KIND_INTEGER,
	KIND_STRING,
	KIND_STRINGS,    /* array of strings */
	KIND_STRING_MAP, /* object of strings */
	KIND_OBJECT,
	KIND_OBJECTS,  /* array of objects */
	KIND_INTEGERS, /* array of integers */
	_KIND_MAX,
};

enum treatment {
	HONOURED,
	WITHOUT_EFFECT,
	REFUSED,       /* unless it asks for nothing */
	REFUSED_EMPTY, /* an empty list asks for something, too */
};

struct member {
	const char *name;
	enum kind kind;
	enum treatment treatment;
	const char *neutral;        /* refused: a word that asks for nothing */
	const char *advice;         /* refused: what serves the purpose; NULL: "leave it out" */
	const char *const *members; /* of an object, or of each in an array; NULL: any */
};

static const char *const health_members[] = {"Test",          "Interval", "Timeout", "StartPeriod",
                                             "StartInterval", "Retries",  NULL};

static const struct member config_members[] = {
	{.name = "ArgsEscaped", KIND_BOOL, WITHOUT_EFFECT},
	{.name = "AttachStderr", KIND_BOOL, WITHOUT_EFFECT},
	{.name = "AttachStdin", KIND_BOOL, WITHOUT_EFFECT},
	{.name = "AttachStdout", KIND_BOOL, WITHOUT_EFFECT},
	{.name = "Cmd", KIND_STRINGS, REFUSED, .advice = "the container's command"},
	{.name = "Domainname", KIND_STRING, HONOURED},
	{.name = "Entrypoint", KIND_STRINGS, REFUSED, .advice = "the container's entryPoint"},
	{.name = "Env", KIND_STRINGS, REFUSED, .advice = "the container's environment"},
	{.name = "ExposedPorts", KIND_OBJECT, HONOURED},
	{.name = "Healthcheck", KIND_OBJECT, HONOURED, .members = health_members},
	{.name = "Hostname", KIND_STRING, HONOURED},
	{.name = "Image", KIND_STRING, HONOURED},
	{.name = "Labels", KIND_STRING_MAP, HONOURED},
	{.name = "MacAddress", KIND_STRING, REFUSED},
	{.name = "NetworkDisabled", KIND_BOOL, HONOURED},
	{.name = "OnBuild", KIND_STRINGS, WITHOUT_EFFECT},
	{.name = "OpenStdin", KIND_BOOL, HONOURED},
	{.name = "Shell", KIND_STRINGS, HONOURED},
	{.name = "StdinOnce", KIND_BOOL, WITHOUT_EFFECT},
	{.name = "StopSignal", KIND_STRING, HONOURED},
	{.name = "StopTimeout", KIND_INTEGER, HONOURED},
	{.name = "Tty", KIND_BOOL, HONOURED},
	{.name = "User", KIND_STRING, HONOURED},
	{.name = "Volumes", KIND_OBJECT, HONOURED},
	{.name = "WorkingDir", KIND_STRING, HONOURED},
};

static const char *const device_members[] = {"PathOnHost", "PathInContainer", "CgroupPermissions",
                                             NULL};
static const char *const ulimit_members[] = {"Name", "Soft", "Hard", NULL};
static const char *const log_members[] = {"Type", "Config", NULL};

static const struct member host_config_members[] = {
	{.name = "Annotations", KIND_STRING_MAP, REFUSED, .advice = "dockerLabels"},
	{.name = "AutoRemove", KIND_BOOL, REFUSED},
	{.name = "Binds", KIND_STRINGS, REFUSED, .advice = "volumes and mountPoints"},
	{.name = "BlkioDeviceReadBps", KIND_OBJECTS, REFUSED, .advice = "BlkioWeight"},
	{.name = "BlkioDeviceReadIOps", KIND_OBJECTS, REFUSED, .advice = "BlkioWeight"},
	{.name = "BlkioDeviceWriteBps", KIND_OBJECTS, REFUSED, .advice = "BlkioWeight"},
	{.name = "BlkioDeviceWriteIOps", KIND_OBJECTS, REFUSED, .advice = "BlkioWeight"},
	{.name = "BlkioWeight", KIND_INTEGER, HONOURED},
	{.name = "BlkioWeightDevice", KIND_OBJECTS, REFUSED, .advice = "BlkioWeight"},
	{.name = "CapAdd", KIND_STRINGS, HONOURED},
	{.name = "CapDrop", KIND_STRINGS, HONOURED},
	{.name = "Cgroup", KIND_STRING, REFUSED},
	{.name = "CgroupParent", KIND_STRING, REFUSED},
	{.name = "CgroupnsMode", KIND_STRING, HONOURED},
	{.name = "ConsoleSize", KIND_INTEGERS, HONOURED},
	{.name = "ContainerIDFile", KIND_STRING, REFUSED},
	{.name = "CpuCount", KIND_INTEGER, REFUSED, .advice = "cpu"},
	{.name = "CpuPercent", KIND_INTEGER, REFUSED, .advice = "cpu"},
	{.name = "CpuPeriod", KIND_INTEGER, HONOURED},
	{.name = "CpuQuota", KIND_INTEGER, HONOURED},
	{.name = "CpuRealtimePeriod", KIND_INTEGER, REFUSED, .advice = "CpuQuota"},
	{.name = "CpuRealtimeRuntime", KIND_INTEGER, REFUSED, .advice = "CpuQuota"},
	{.name = "CpuShares", KIND_INTEGER, HONOURED},
	{.name = "CpusetCpus", KIND_STRING, REFUSED, .advice = "CpuQuota"},
	{.name = "CpusetMems", KIND_STRING, REFUSED},
	{.name = "DeviceCgroupRules", KIND_STRINGS, HONOURED},
	{.name = "DeviceRequests", KIND_OBJECTS, REFUSED, .advice = "linuxParameters.devices"},
	{.name = "Devices", KIND_OBJECTS, HONOURED, .members = device_members},
	{.name = "Dns", KIND_STRINGS, HONOURED},
	{.name = "DnsOptions", KIND_STRINGS, HONOURED},
	{.name = "DnsSearch", KIND_STRINGS, HONOURED},
	{.name = "ExtraHosts", KIND_STRINGS, HONOURED},
	{.name = "GroupAdd", KIND_STRINGS, REFUSED, .advice = "user"},
	{.name = "IOMaximumBandwidth", KIND_INTEGER, REFUSED, .advice = "BlkioWeight"},
	{.name = "IOMaximumIOps", KIND_INTEGER, REFUSED, .advice = "BlkioWeight"},
	{.name = "Init", KIND_BOOL, HONOURED},
	{.name = "IpcMode", KIND_STRING, HONOURED},
	{.name = "Isolation", KIND_STRING, REFUSED, .neutral = "default"},
	{.name = "KernelMemory", KIND_INTEGER, REFUSED, .advice = "memory"},
	{.name = "KernelMemoryTCP", KIND_INTEGER, REFUSED, .advice = "memory"},
	{.name = "Links", KIND_STRINGS, REFUSED, .advice = "the container's links"},
	{.name = "LogConfig", KIND_OBJECT, HONOURED, .members = log_members},
	{.name = "MaskedPaths",
         KIND_STRINGS,
         REFUSED_EMPTY,
         .advice = "the security option systempaths=unconfined"},
	{.name = "Memory", KIND_INTEGER, HONOURED},
	{.name = "MemoryReservation", KIND_INTEGER, HONOURED},
	{.name = "MemorySwap", KIND_INTEGER, HONOURED},
	{.name = "MemorySwappiness", KIND_INTEGER, HONOURED},
	{.name = "Mounts", KIND_OBJECTS, REFUSED, .advice = "volumes and mountPoints"},
	{.name = "NanoCpus", KIND_INTEGER, HONOURED},
	{.name = "NetworkMode", KIND_STRING, HONOURED},
	{.name = "OomKillDisable", KIND_BOOL, REFUSED, .advice = "OomScoreAdj"},
	{.name = "OomScoreAdj", KIND_INTEGER, HONOURED},
	{.name = "PidMode", KIND_STRING, HONOURED},
	{.name = "PidsLimit", KIND_INTEGER, HONOURED},
	{.name = "PortBindings", KIND_OBJECT, REFUSED, .advice = "portMappings"},
	{.name = "Privileged", KIND_BOOL, HONOURED},
	{.name = "PublishAllPorts", KIND_BOOL, REFUSED, .advice = "portMappings"},
	{.name = "ReadonlyPaths",
         KIND_STRINGS,
         REFUSED_EMPTY,
         .advice = "the security option systempaths=unconfined"},
	{.name = "ReadonlyRootfs", KIND_BOOL, HONOURED},
	{.name = "RestartPolicy",
         KIND_OBJECT,
         REFUSED,
         .neutral = "no",
         .advice = "the container's restartPolicy"},
	{.name = "Runtime", KIND_STRING, REFUSED},
	{.name = "SecurityOpt", KIND_STRINGS, HONOURED},
	{.name = "ShmSize", KIND_INTEGER, HONOURED},
	{.name = "StorageOpt", KIND_STRING_MAP, REFUSED},
	{.name = "Sysctls", KIND_STRING_MAP, HONOURED},
	{.name = "Tmpfs", KIND_STRING_MAP, HONOURED},
	{.name = "UTSMode", KIND_STRING, HONOURED},
	{.name = "Ulimits", KIND_OBJECTS, HONOURED, .members = ulimit_members},
	{.name = "UsernsMode", KIND_STRING, HONOURED},
	{.name = "VolumeDriver",
         KIND_STRING,
         REFUSED,
         .neutral = "local",
         .advice = "dockerVolumeConfiguration"},
	{.name = "VolumesFrom", KIND_STRINGS, REFUSED, .advice = "the container's volumesFrom"},
};

/* --- of its type --- */

static const struct {
	enum json_type type, item; /* item: of an array, and of the values of a string map */
	const char *words;
} kinds[_KIND_MAX] = {
	[KIND_BOOL] = {json_type_boolean, json_type_null, "true or false"},
	[KIND_INTEGER] = {json_type_int, json_type_null, "an integer"},
	[KIND_STRING] = {json_type_string, json_type_null, "a string without a NUL byte"},
	[KIND_STRINGS] = {json_type_array, json_type_string,
                          "a list of strings without a NUL byte"},
	[KIND_STRING_MAP] = {json_type_object, json_type_string,
                             "an object of strings without a NUL byte"},
	[KIND_OBJECT] = {json_type_object, json_type_null, "an object"},
	[KIND_OBJECTS] = {json_type_array, json_type_object, "a list of objects"},
	[KIND_INTEGERS] = {json_type_array, json_type_int, "a list of integers"},
};

static bool is_of(enum json_type type, struct json_object *value)
{
	if (type == json_type_null)
		return true;
	if (!json_object_is_type(value, type))
		return false;
	return type != json_type_string ||
	       strlen(json_object_get_string(value)) == (size_t)json_object_get_string_len(value);
}

static bool is_of_kind(enum kind kind, struct json_object *value)
{
	enum json_type item = kinds[kind].item;

	if (!is_of(kinds[kind].type, value))
		return false;
	if (kinds[kind].type == json_type_array)
		for (size_t i = 0; i < json_object_array_length(value); i++)
			if (!is_of(item, json_object_array_get_idx(value, i)))
				return false;
	if (kinds[kind].type == json_type_object) {
		json_object_object_foreach (value, key, member) {
			(void)key;
			if (!is_of(item, member))
				return false;
		}
	}
	return true;
}

/* --- what it asks for --- */

static bool asks_for_nothing(const struct member *member, struct json_object *value)
{
	const char *word = NULL;

	if (member->treatment == REFUSED_EMPTY)
		return false;
	if (json_is_zero(value))
		return true;
	if (member->kind == KIND_STRING)
		word = json_object_get_string(value);
	else if (member->kind == KIND_OBJECT) /* {"Name": "no", "MaximumRetryCount": 0} */
		word = json_text(value, "Name");
	if (!word || !member->neutral)
		return false;
	return !*word || strcmp(word, member->neutral) == 0;
}

/* The value, but of lists and objects, which may hold secrets, what it is. */
static const char *describe(enum kind kind, struct json_object *value)
{
	bool scalar = kinds[kind].type != json_type_array && kinds[kind].type != json_type_object;

	switch (json_object_get_type(value)) {
	case json_type_array:
		return "a list";
	case json_type_object:
		return "an object";
	case json_type_string:
		return scalar ? json_to_text(value, NULL) : "a string";
	default:
		return json_to_text(value, NULL);
	}
}

static int refuse(const struct member *member, struct json_object *value, struct err *err)
{
	return err_text(err, -EOPNOTSUPP, "%s (%.100s) is not supported by this agent; %s%s",
	                member->name, describe(member->kind, value),
	                member->advice ? "it takes " : "leave it out",
	                member->advice ? member->advice : "");
}

static size_t list_length(const char *const *list)
{
	size_t n = 0;

	while (list[n])
		n++;
	return n;
}

/* Members of members, in the objects that are no maps. */
static int check_inside(const struct member *member, struct json_object *value, struct err *err)
{
	size_t n = list_length(member->members);
	int r = 0;

	if (member->kind == KIND_OBJECT)
		return refuse_unknown_members(value, member->members, n, member->name, err);
	for (size_t i = 0; r == 0 && i < json_object_array_length(value); i++) {
		char where[64];

		snprintf(where, sizeof(where), "%s[%zu]", member->name, i);
		r = refuse_unknown_members(json_object_array_get_idx(value, i), member->members, n,
		                           where, err);
	}
	return r;
}

static int check_member(const struct member *member, struct json_object *value, struct err *err)
{
	if (!is_of_kind(member->kind, value))
		return err_text(err, -EINVAL, "%s is %.100s, it must be %s", member->name,
		                describe(member->kind, value), kinds[member->kind].words);
	if (member->treatment >= REFUSED && !asks_for_nothing(member, value))
		return refuse(member, value, err);
	return member->members ? check_inside(member, value, err) : 0;
}

static const struct member *find_member(const struct member *table, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (strcasecmp(table[i].name, name) == 0)
			return &table[i];
	return NULL;
}

static int check(struct json_object *obj, const struct member *table, size_t n, struct err *err)
{
	int r = refuse_ambiguous_members(obj, err);

	if (r < 0)
		return r;
	json_object_object_foreach (obj, name, value) {
		const struct member *member = find_member(table, n, name);

		if (json_object_is_type(value, json_type_null))
			continue;
		if (member)
			r = check_member(member, value, err);
		else if (!json_is_zero(value))
			r = err_text(err, -EOPNOTSUPP,
			             "%.64s is no member that this agent knows; leave it out",
			             name);
		if (r < 0)
			return r;
	}
	return 0;
}

int docker_config_check(struct json_object *config, struct err *err)
{
	int r = check(config, config_members, ARRAY_SIZE(config_members), err);

	return r < 0 ? err_prefix(err, r, "dockerConfig.config") : 0;
}

int docker_host_config_check(struct json_object *host_config, struct err *err)
{
	int r = check(host_config, host_config_members, ARRAY_SIZE(host_config_members), err);

	return r < 0 ? err_prefix(err, r, "dockerConfig.hostConfig") : 0;
}
