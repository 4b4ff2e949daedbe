/*
 * A container of the payload. Typed members first, then the two Docker documents that ECS packs
 * into strings (dockerConfig.config and .hostConfig): those are read by spec.c; here they are
 * parsed and everything in them that could not be honoured is refused.
 */
#include "agent/engine/container_parse.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "agent/engine/docker_members.h"
#include "agent/engine/health.h"
#include "agent/engine/links.h"
#include "agent/engine/refuse.h"
#include "agent/engine/security.h"
#include "lib/json.h"
#include "lib/parse.h"

#define DOCKER_API_MINOR        44
#define DOCKER_CONFIG_MAX_BYTES (256 * 1024)
#define CONTAINER_NAME_MAX      255
#define PORT_MAPPINGS_MAX       100
#define TIMEOUT_MAX_SECONDS     (7 * 24 * 3600)

static int dup_string(struct json_object *obj, const char *name, char **ret, struct err *err)
{
	const char *text;
	int r;

	r = json_get_string(obj, name, &text, err);
	if (r < 0)
		return r;
	*ret = strdup(text);
	return *ret ? 0 : err_oom(err);
}

static int check_members(struct json_object *obj, const char *where, struct err *err)
{
	static const struct refused table[] = {
		{"secrets", "secrets"},
		{"environmentFiles", "environmentFiles"},
		{"firelensConfiguration", "firelensConfiguration"},
		{"credentialSpecs", "credentialSpecs"},
	};

	return refuse_members(obj, table, ARRAY_SIZE(table), where, err);
}

static int parse_protocol(struct json_object *mapping, bool *ret_udp, struct err *err)
{
	const char *protocol = "tcp";
	int r;

	r = json_optional(json_get_string(mapping, "protocol", &protocol, err));
	if (r < 0)
		return r;
	if (strcmp(protocol, "tcp") != 0 && strcmp(protocol, "udp") != 0)
		return err_text(err, -EINVAL, "protocol is \"%s\", it must be tcp or udp",
		                protocol);
	*ret_udp = protocol[0] == 'u';
	return 0;
}

static int parse_port(struct json_object *mapping, struct port_mapping *ret, struct err *err)
{
	int64_t container_port, host_port = 0;
	int r;

	if (!json_is_zero(json_get(mapping, "containerPortRange")))
		return err_text(err, -EOPNOTSUPP,
		                "containerPortRange is not supported by this agent");
	r = json_get_i64(mapping, "containerPort", 1, UINT16_MAX, &container_port, err);
	if (r == 0)
		r = json_optional(
			json_get_i64(mapping, "hostPort", 0, UINT16_MAX, &host_port, err));
	if (r == 0)
		r = parse_protocol(mapping, &ret->udp, err);
	if (r < 0)
		return r;
	ret->container_port = (uint16_t)container_port;
	ret->host_port = (uint16_t)host_port;
	return 0;
}

static int parse_ports(struct json_object *obj, struct container *c, struct err *err)
{
	struct json_object *list = NULL;
	size_t n;
	int r;

	r = json_optional(json_get_array(obj, "portMappings", &list, err));
	if (r < 0 || !list)
		return r;
	n = json_object_array_length(list);
	if (n > PORT_MAPPINGS_MAX)
		return err_text(err, -EINVAL, "%zu portMappings, at most %d are allowed", n,
		                PORT_MAPPINGS_MAX);
	c->ports = calloc(n ? n : 1, sizeof(*c->ports));
	if (!c->ports)
		return err_oom(err);
	for (; c->n_ports < n; c->n_ports++) {
		r = parse_port(json_object_array_get_idx(list, c->n_ports), &c->ports[c->n_ports],
		               err);
		if (r < 0)
			return err_prefix(err, r, "portMappings[%zu]", c->n_ports);
	}
	return 0;
}

/* In these modes nothing is published: what asks for it would be asked in vain. */
static int check_ports(const struct container *c, enum network_mode mode, struct err *err)
{
	if (mode == NETWORK_MODE_NONE && c->n_ports > 0)
		return err_text(err, -EINVAL,
		                "portMappings need a network, and networkMode is none");
	for (size_t i = 0; mode == NETWORK_MODE_HOST && i < c->n_ports; i++) {
		const struct port_mapping *port = &c->ports[i];

		if (port->host_port != 0 && port->host_port != port->container_port)
			return err_text(err, -EINVAL,
			                "portMappings[%zu]: hostPort is %u, it must be "
			                "containerPort (%u) or 0 in networkMode host",
			                i, port->host_port, port->container_port);
	}
	return 0;
}

static int parse_condition(const char *word, enum dependency_condition *ret, struct err *err)
{
	if (strcmp(word, "START") == 0)
		*ret = DEPENDENCY_START;
	else if (strcmp(word, "COMPLETE") == 0)
		*ret = DEPENDENCY_COMPLETE;
	else if (strcmp(word, "SUCCESS") == 0)
		*ret = DEPENDENCY_SUCCESS;
	else if (strcmp(word, "HEALTHY") == 0)
		*ret = DEPENDENCY_HEALTHY;
	else
		return err_text(
			err, -EINVAL,
			"condition is \"%s\", it must be START, COMPLETE, SUCCESS or HEALTHY",
			word);
	return 0;
}

static int parse_dependencies(struct json_object *obj, struct container *c, struct err *err)
{
	struct json_object *list = NULL;
	const char *condition;
	int r;

	r = json_optional(json_get_array(obj, "dependsOn", &list, err));
	if (r < 0 || !list)
		return r;
	c->dependencies = calloc(json_object_array_length(list) + 1, sizeof(*c->dependencies));
	if (!c->dependencies)
		return err_oom(err);
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		struct json_object *item = json_object_array_get_idx(list, i);

		c->n_dependencies = i + 1;
		r = dup_string(item, "containerName", &c->dependencies[i].container, err);
		if (r == 0)
			r = json_get_string(item, "condition", &condition, err);
		if (r == 0)
			r = parse_condition(condition, &c->dependencies[i].condition, err);
		if (r < 0)
			return err_prefix(err, r, "dependsOn[%zu]", i);
	}
	return 0;
}

static const struct dependency *find_dependency(const struct container *c, const char *name)
{
	for (size_t i = 0; i < c->n_dependencies; i++)
		if (strcmp(c->dependencies[i].container, name) == 0)
			return &c->dependencies[i];
	return NULL;
}

/* Every condition includes that the other one was created. */
static int depend_on_volumes(struct json_object *obj, struct container *c, struct err *err)
{
	struct json_object *list = NULL;
	struct dependency *all;
	const char *source;
	int r;

	r = json_optional(json_get_array(obj, "volumesFrom", &list, err));
	if (r < 0 || !list)
		return r;
	all = reallocarray(c->dependencies, c->n_dependencies + json_object_array_length(list) + 1,
	                   sizeof(*all));
	if (!all)
		return err_oom(err);
	c->dependencies = all;
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		r = json_get_string(json_object_array_get_idx(list, i), "sourceContainer", &source,
		                    err);
		if (r < 0)
			return err_prefix(err, r, "volumesFrom[%zu]", i);
		if (find_dependency(c, source))
			continue;
		all[c->n_dependencies] = (struct dependency){.condition = DEPENDENCY_CREATE,
		                                             .container = strdup(source)};
		if (!all[c->n_dependencies++].container)
			return err_oom(err);
	}
	return 0;
}

static int parse_timeout(struct json_object *obj, const char *name, uint64_t *ret_usec,
                         struct err *err)
{
	int64_t seconds = 0;
	int r;

	r = json_optional(json_get_i64(obj, name, 0, TIMEOUT_MAX_SECONDS, &seconds, err));
	if (r == 0)
		*ret_usec = (uint64_t)seconds * 1000000;
	return r;
}

static int check_string_list(struct json_object *obj, const char *name, struct err *err)
{
	struct json_object *list = NULL;
	int r;

	r = json_optional(json_get_array(obj, name, &list, err));
	if (r < 0 || !list)
		return r;
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		struct json_object *item = json_object_array_get_idx(list, i);

		if (!json_object_is_type(item, json_type_string) ||
		    strlen(json_object_get_string(item)) !=
		            (size_t)json_object_get_string_len(item))
			return err_text(err, -EINVAL, "%s[%zu] must be a string without a NUL byte",
			                name, i);
	}
	return 0;
}

static int check_environment(struct json_object *obj, struct err *err)
{
	struct json_object *map = NULL;
	int r;

	r = json_optional(json_get_object(obj, "environment", &map, err));
	if (r < 0 || !map)
		return r;
	json_object_object_foreach (map, key, value) {
		if (!*key || strchr(key, '='))
			return err_text(err, -EINVAL,
			                "environment: name \"%s\" is empty or holds '='", key);
		if (!json_object_is_type(value, json_type_string) ||
		    strlen(json_object_get_string(value)) !=
		            (size_t)json_object_get_string_len(value))
			return err_text(
				err, -EINVAL,
				"environment: the value of %s must be a string without a NUL byte",
				key);
	}
	return 0;
}

/* overrides is an object, or a string that holds one; only "command" may be in it. */
static int apply_overrides(struct json_object *document, struct err *err)
{
	static const char *const known[] = {"command"};
	_cleanup_json_ struct json_object *parsed = NULL;
	struct json_object *overrides = json_get(document, "overrides"), *command;
	const char *text;
	int r;

	if (json_is_zero(overrides))
		return 0;
	if (json_object_is_type(overrides, json_type_string)) {
		text = json_object_get_string(overrides);
		r = json_parse_object(text, strlen(text), DOCKER_CONFIG_MAX_BYTES, &parsed, err);
		if (r < 0)
			return err_prefix(err, r, "overrides");
		overrides = parsed;
	}
	if (!json_object_is_type(overrides, json_type_object))
		return err_text(err, -EINVAL, "overrides must be an object");
	r = refuse_unknown_members(overrides, known, ARRAY_SIZE(known), "overrides", err);
	if (r < 0)
		return r;
	r = check_string_list(overrides, "command", err);
	if (r < 0)
		return err_prefix(err, r, "overrides");
	command = json_get(overrides, "command");
	return command ? json_add(document, "command", json_object_get(command)) : 0;
}

/* A Docker document in a string; an absent or empty one is {}. */
static int parse_docker_document(struct json_object *docker, const char *name,
                                 struct json_object **ret, struct err *err)
{
	const char *text = "";
	int r;

	r = json_optional(json_get_string(docker, name, &text, err));
	if (r < 0)
		return r;
	if (!*text)
		text = "{}";
	r = json_parse_object(text, strlen(text), DOCKER_CONFIG_MAX_BYTES, ret, err);
	return r < 0 ? err_prefix(err, r, "dockerConfig.%s", name) : 0;
}

static int check_config(const struct container *c, struct err *err)
{
	const char *dir = json_text(c->config, "WorkingDir");

	if (dir && *dir && *dir != '/')
		return err_text(err, -EINVAL,
		                "workingDirectory is \"%s\", it must be an absolute path", dir);
	return 0;
}

/* Docker's own grace, for a container that the task definition gives none. */
static int parse_stop_timeout(struct container *c, struct err *err)
{
	int64_t seconds = 0;
	int r;

	r = json_optional(
		json_get_i64(c->config, "StopTimeout", 1, TIMEOUT_MAX_SECONDS, &seconds, err));
	if (r < 0)
		return err_prefix(err, r, "dockerConfig.config");
	if (c->stop_timeout_usec == 0)
		c->stop_timeout_usec = (uint64_t)seconds * 1000000;
	return 0;
}

static int parse_network_disabled(enum network_mode mode, struct container *c, struct err *err)
{
	(void)json_get_bool(c->config, "NetworkDisabled", &c->network_disabled, NULL);
	if (c->network_disabled && mode == NETWORK_MODE_HOST)
		return err_text(
			err, -EOPNOTSUPP,
			"disableNetworking is true in a task of networkMode host; it is for "
			"bridge and none");
	if (c->network_disabled && c->n_ports > 0)
		return err_text(err, -EINVAL,
		                "portMappings need a network, and disableNetworking is true");
	return 0;
}

static int check_network_mode(struct json_object *host_config, enum network_mode mode,
                              struct err *err)
{
	const char *word = "";
	int r;

	r = json_optional(json_get_string(host_config, "NetworkMode", &word, err));
	if (r < 0)
		return r;
	if (*word && strcmp(word, "default") != 0 &&
	    strcmp(word, network_mode_to_string(mode)) != 0)
		return err_text(err, -EOPNOTSUPP,
		                "hostConfig.NetworkMode is \"%s\" in a task of network mode %s",
		                word, network_mode_to_string(mode));
	return 0;
}

static int check_host_config(struct json_object *host_config, enum network_mode mode,
                             const struct task_policy *policy, struct err *err)
{
	const char *userns = "";
	bool privileged = false;
	int r = check_network_mode(host_config, mode, err);

	if (r == 0) /* ecs-task knows whether it is allowed: agent/task/userns.h */
		r = json_optional(json_get_string(host_config, "UsernsMode", &userns, err));
	if (r == 0 && *userns && strcmp(userns, "host") != 0)
		r = err_text(err, -EINVAL, "hostConfig.UsernsMode is \"%s\", it must be host",
		             userns);
	if (r == 0)
		r = json_optional(json_get_bool(host_config, "Privileged", &privileged, err));
	if (r < 0)
		return r;
	if (!policy->privileged_disabled)
		return 0;
	if (privileged)
		return err_text(
			err, -EPERM,
			"privileged is not allowed on this container instance (ECS_DISABLE_PRIVILEGED)");
	if (security_opens_system_paths(host_config))
		return err_text(err, -EPERM,
		                "dockerSecurityOptions: systempaths=unconfined is not allowed on "
		                "this container instance (ECS_DISABLE_PRIVILEGED)");
	return 0;
}

static int check_registry_authentication(struct json_object *obj, struct err *err)
{
	struct json_object *auth = json_get(obj, "registryAuthentication");
	const char *type = "";
	int r;

	if (json_is_zero(auth))
		return 0;
	r = json_optional(json_get_string(auth, "type", &type, err));
	if (r < 0)
		return err_prefix(err, r, "registryAuthentication");
	if (strcmp(type, "asm") == 0)
		return err_text(
			err, -EOPNOTSUPP,
			"repositoryCredentials (a Secrets Manager secret) is not supported by this agent");
	if (*type && strcmp(type, "ecr") != 0)
		return err_text(err, -EINVAL,
		                "registryAuthentication.type is \"%s\", it must be ecr", type);
	return 0;
}

/* The same image may be named twice; another one would be pulled by nobody. */
static int check_config_image(const struct container *c, struct err *err)
{
	const char *image = "";
	int r;

	r = json_optional(json_get_string(c->config, "Image", &image, err));
	if (r < 0)
		return r;
	if (*image && strcmp(image, c->image) != 0)
		return err_text(
			err, -EINVAL,
			"dockerConfig.config.Image is \"%.100s\", it must be the container's image \"%.100s\"",
			image, c->image);
	return 0;
}

/* The lowest version of the API that the documents need: ours is that of docker_members.h. */
static int check_version(struct json_object *docker, struct err *err)
{
	const char *text = "", *minor;
	uint64_t number = 0;
	int r = json_optional(json_get_string(docker, "version", &text, err));

	if (r < 0 || !*text)
		return r < 0 ? err_prefix(err, r, "dockerConfig") : 0;
	minor = strncmp(text, "1.", 2) == 0 ? text + 2 : "";
	if (parse_u64(minor, DOCKER_API_MINOR, &number) < 0)
		return err_text(err, -EINVAL,
		                "dockerConfig.version is \"%.20s\", it must be 1.0 to 1.%d", text,
		                DOCKER_API_MINOR);
	return 0;
}

static int check_logs_auth(struct json_object *obj, struct err *err)
{
	const char *strategy = json_text(obj, "logsAuthStrategy");

	if (strategy && *strategy && strcmp(strategy, "ExecutionRole") != 0)
		return err_text(err, -EINVAL,
		                "logsAuthStrategy is \"%.40s\", it must be ExecutionRole",
		                strategy);
	return 0;
}

/* linuxParameters, privileged and networkInterfaceNames are told again in hostConfig, which counts;
 * but a value of another type makes a task invalid. */
static int check_shape(struct json_object *obj, struct err *err)
{
	static const struct typed table[] = {
		{"dockerConfig", json_type_object},
		{"registryAuthentication", json_type_object},
		{"restartPolicy", json_type_object},
		{"logsAuthStrategy", json_type_string},
		{"healthCheckType", json_type_string},
		{"linuxParameters", json_type_object},
		{"networkInterfaceNames", json_type_array},
		{"privileged", json_type_boolean},
	};
	int r = refuse_ambiguous_members(obj, err);

	if (r == 0)
		r = refuse_other_types(obj, table, ARRAY_SIZE(table), err);
	if (r == 0)
		r = check_version(json_get(obj, "dockerConfig"), err);
	return r < 0 ? r : check_logs_auth(obj, err);
}

static int parse_documents(struct json_object *obj, enum network_mode mode,
                           const struct task_policy *policy, struct container *c, struct err *err)
{
	struct json_object *docker = json_get(obj, "dockerConfig");
	int r;

	r = parse_docker_document(docker, "config", &c->config, err);
	if (r == 0)
		r = parse_docker_document(docker, "hostConfig", &c->host_config, err);
	/* What was taken by an earlier version is not turned away by this one. */
	if (r == 0 && !policy->was_accepted)
		r = docker_config_check(c->config, err);
	if (r == 0 && !policy->was_accepted)
		r = docker_host_config_check(c->host_config, err);
	if (r == 0 && !policy->was_accepted)
		r = links_check_exposed_ports(c, err);
	if (r == 0)
		r = check_config(c, err);
	if (r == 0)
		r = check_config_image(c, err);
	if (r == 0)
		r = parse_stop_timeout(c, err);
	if (r == 0)
		r = parse_network_disabled(mode, c, err);
	if (r == 0)
		r = check_host_config(c->host_config, mode, policy, err);
	return r;
}

static int parse_plain_members(struct json_object *obj, struct container *c, struct err *err)
{
	static const char *const lists[] = {"command", "entryPoint"};
	const char *strategy = json_text(obj, "logsAuthStrategy");
	int r;

	c->logs_by_role = strategy && *strategy; /* checked: there is but one */

	r = dup_string(obj, "image", &c->image, err);
	if (r == 0 && !*c->image)
		r = err_text(err, -EINVAL, "image is empty");
	if (r == 0)
		r = json_optional(dup_string(obj, "containerArn", &c->arn, err));
	if (r == 0)
		r = json_optional(json_get_bool(obj, "essential", &c->essential, err));
	if (r == 0)
		r = json_optional(json_get_i64(obj, "cpu", 0, INT32_MAX, &c->cpu_shares, err));
	if (r == 0)
		r = json_optional(json_get_i64(obj, "memory", 0, INT32_MAX, &c->memory_mib, err));
	if (r == 0)
		r = parse_timeout(obj, "startTimeout", &c->start_timeout_usec, err);
	if (r == 0)
		r = parse_timeout(obj, "stopTimeout", &c->stop_timeout_usec, err);
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(lists); i++)
		r = check_string_list(obj, lists[i], err);
	return r;
}

int container_parse(struct json_object *obj, enum network_mode mode,
                    const struct task_policy *policy, struct container *c, struct err *err)
{
	char where[CONTAINER_NAME_MAX + 16];
	int r;

	if (!json_object_is_type(obj, json_type_object))
		return err_text(err, -EINVAL, "a container must be an object");
	r = dup_string(obj, "name", &c->name, err);
	if (r < 0)
		return err_prefix(err, r, "container");
	if (!name_is_component(c->name, CONTAINER_NAME_MAX))
		return err_text(
			err, -EINVAL,
			"container name \"%.80s\" must be 1 to %d letters, digits, '_', '-' or '.'",
			c->name, CONTAINER_NAME_MAX);
	snprintf(where, sizeof(where), "container %s", c->name);

	r = check_members(obj, where, err);
	if (r < 0)
		return r;
	c->document = json_object_get(obj);
	r = policy->was_accepted ? 0 : check_shape(obj, err);
	if (r == 0)
		r = parse_plain_members(obj, c, err);
	if (r == 0)
		r = check_environment(obj, err);
	if (r == 0)
		r = parse_ports(obj, c, err);
	if (r == 0 && !policy->was_accepted)
		r = check_ports(c, mode, err);
	if (r == 0)
		r = parse_dependencies(obj, c, err);
	if (r == 0)
		r = managed_agent_parse(obj, &c->managed_agent, err);
	if (r == 0)
		r = depend_on_volumes(obj, c, err);
	if (r == 0)
		r = links_parse(obj, mode, c, err);
	if (r == 0)
		r = restart_policy_parse(obj, &c->restart_policy, err);
	if (r == 0)
		r = apply_overrides(c->document, err);
	if (r == 0)
		r = check_registry_authentication(obj, err);
	if (r == 0)
		r = parse_documents(obj, mode, policy, c, err);
	if (r == 0 && !policy->was_accepted)
		r = health_check_own(c, err);
	if (r == 0)
		r = health_parse(c, err);
	return r < 0 ? err_prefix(err, r, "%s", where) : 0;
}
