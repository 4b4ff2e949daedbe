/* The task object of a payload: its own members here, each container in container_parse.c. */
#include "agent/engine/task_parse.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "agent/engine/container_parse.h"
#include "agent/engine/links.h"
#include "agent/engine/namespaces.h"
#include "agent/engine/refuse.h"
#include "agent/engine/volumes.h"
#include "lib/json.h"
#include "lib/parse.h"

#define TASK_CONTAINERS_MAX 100
#define TASK_ID_MAX         64
#define TASK_ARN_MAX        2048

static int dup_optional(struct json_object *obj, const char *name, char **ret, struct err *err)
{
	const char *text = NULL;
	int r;

	r = json_optional(json_get_string(obj, name, &text, err));
	if (r < 0 || !text)
		return r;
	*ret = strdup(text);
	return *ret ? 0 : err_oom(err);
}

int task_parse_desired(struct json_object *obj, enum task_status *ret, struct err *err)
{
	const char *desired = "RUNNING";
	enum task_status status;
	int r;

	r = json_optional(json_get_string(obj, "desiredStatus", &desired, err));
	if (r < 0)
		return r;
	if (task_status_from_string(desired, &status) < 0)
		return err_text(err, -EINVAL,
		                "desiredStatus is \"%.40s\", it must be RUNNING or STOPPED",
		                desired);
	/* Anything short of STOPPED wants the task to run. */
	*ret = status == TASK_STATUS_STOPPED ? status : TASK_STATUS_RUNNING;
	return 0;
}

static int parse_identity(struct json_object *obj, struct task *task, struct err *err)
{
	const char *arn, *id;
	int r;

	r = json_get_string(obj, "arn", &arn, err);
	if (r < 0)
		return r;
	id = arn_resource_id(arn);
	if (strlen(arn) > TASK_ARN_MAX || !name_is_component(id, TASK_ID_MAX) || strpbrk(id, "._"))
		return err_text(
			err, -EINVAL,
			"arn is \"%.100s\", it must be a task ARN that ends in '/' and 1 to %d letters, digits or '-'",
			arn, TASK_ID_MAX);
	task->arn = strdup(arn);
	task->id = strdup(id);
	if (!task->arn || !task->id)
		return err_oom(err);
	return task_parse_desired(obj, &task->desired, err);
}

/* Members that nothing here reads: a value of another type makes a task invalid all the same. */
static int check_shape(struct json_object *obj, struct err *err)
{
	static const struct typed table[] = {
		{"zone", json_type_string},
		{"group", json_type_string},
		{"taskDefinitionAccountId", json_type_string},
		{"agentConfiguration", json_type_string},
		{"trustedExecutionConfiguration", json_type_object},
	};
	int r = refuse_ambiguous_members(obj, err);

	return r < 0 ? r : refuse_other_types(obj, table, ARRAY_SIZE(table), err);
}

static int check_task_members(struct json_object *obj, struct err *err)
{
	static const struct refused table[] = {
		{"elasticNetworkInterfaces", "network mode awsvpc"},
		{"proxyConfiguration", "proxyConfiguration"},
		{"associations", "accelerator associations"},
		{"enableFaultInjection", "enableFaultInjection"},
	};
	static const char *const attachments[] = {"serviceconnectdetail", "amazonebs", "s3files"};
	struct json_object *list = NULL;
	int r;

	r = refuse_members(obj, table, ARRAY_SIZE(table), "task", err);
	if (r == 0)
		r = json_optional(json_get_array(obj, "attachments", &list, err));
	if (r < 0 || !list)
		return r;
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		const char *type = json_text(json_object_array_get_idx(list, i), "attachmentType");

		for (size_t k = 0; type && k < ARRAY_SIZE(attachments); k++)
			if (strcasecmp(type, attachments[k]) == 0)
				return err_text(
					err, -EOPNOTSUPP,
					"task: attachment of type %s is not supported by this agent",
					type);
	}
	return 0;
}

static int parse_network_mode(struct json_object *obj, enum network_mode *ret, struct err *err)
{
	const char *word = "";
	int r;

	r = json_optional(json_get_string(obj, "networkMode", &word, err));
	if (r < 0)
		return r;
	if (!*word) {
		*ret = NETWORK_MODE_BRIDGE;
		return 0;
	}
	if (strcmp(word, "awsvpc") == 0)
		return err_text(err, -EOPNOTSUPP,
		                "network mode awsvpc is not supported by this agent");
	for (enum network_mode mode = 0; mode < _NETWORK_MODE_MAX; mode++)
		if (strcmp(word, network_mode_to_string(mode)) == 0) {
			*ret = mode;
			return 0;
		}
	return err_text(err, -EINVAL, "networkMode is \"%.40s\", it must be bridge, host or none",
	                word);
}

static int parse_limits(struct json_object *obj, struct task *task, struct err *err)
{
	int r;

	r = json_optional(json_get_double(obj, "cpu", &task->cpu, err));
	if (r == 0 && (!isfinite(task->cpu) || task->cpu < 0 || task->cpu > 8192))
		r = err_text(err, -ERANGE, "cpu is %g, it must be 0 to 8192 vCPU", task->cpu);
	if (r == 0)
		r = json_optional(
			json_get_i64(obj, "memory", 0, INT32_MAX, &task->memory_mib, err));
	return r;
}

static int check_dependencies(const struct task *task, const struct container *c, struct err *err)
{
	for (size_t i = 0; i < c->n_dependencies; i++) {
		const char *name = c->dependencies[i].container;
		const struct container *other = task_container(task, name);

		if (!other)
			return err_text(
				err, -EINVAL,
				"container %s: dependsOn names %.80s, which is not in the task",
				c->name, name);
		if (c->dependencies[i].condition == DEPENDENCY_HEALTHY && !other->has_health_check)
			return err_text(
				err, -EINVAL,
				"container %s: dependsOn waits until %.80s is HEALTHY, which has no "
				"healthCheck",
				c->name, name);
	}
	return 0;
}

static int check_references(struct json_object *obj, const struct task *task, struct err *err)
{
	int r;

	for (size_t i = 0; i < task->n_containers; i++) {
		const struct container *c = &task->containers[i];

		if (task_container(task, c->name) != c)
			return err_text(err, -EINVAL, "two containers are named %s", c->name);
		r = volumes_check_container(obj, task, c, err);
		if (r == 0)
			r = namespaces_check(task, c, err);
		if (r < 0)
			return r;
		r = links_check(task, c, err);
		if (r < 0)
			return r;
		r = check_dependencies(task, c, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static int parse_containers(struct json_object *obj, const struct task_policy *policy,
                            struct task *task, struct err *err)
{
	struct json_object *list = NULL;
	size_t n;
	int r;

	r = json_get_array(obj, "containers", &list, err);
	if (r < 0)
		return r;
	n = json_object_array_length(list);
	if (n == 0 || n > TASK_CONTAINERS_MAX)
		return err_text(err, -EINVAL, "%zu containers, a task has 1 to %d", n,
		                TASK_CONTAINERS_MAX);
	task->containers = calloc(n, sizeof(*task->containers));
	if (!task->containers)
		return err_oom(err);
	for (size_t i = 0; i < n; i++) {
		task->n_containers = i + 1;
		r = container_parse(json_object_array_get_idx(list, i), task->network_mode, policy,
		                    &task->containers[i], err);
		if (r < 0)
			return r;
		task->containers[i].desired = task->desired;
	}
	return check_references(obj, task, err);
}

static int parse_credentials_ids(struct json_object *obj, struct task *task, struct err *err)
{
	static const char *const names[] = {"roleCredentials", "executionRoleCredentials"};
	char **const ids[] = {&task->credentials_id, &task->execution_credentials_id};
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		struct json_object *credentials = json_get(obj, names[i]);

		if (!credentials)
			continue;
		r = dup_optional(credentials, "credentialsId", ids[i], err);
		if (r < 0)
			return err_prefix(err, r, "%s", names[i]);
		if (!*ids[i] || !name_is_component(*ids[i], TASK_CREDENTIALS_ID_MAX))
			return err_text(
				err, -EINVAL,
				"%s: credentialsId must be 1 to %d letters, digits, '_', '-' or '.'",
				names[i], TASK_CREDENTIALS_ID_MAX);
	}
	return 0;
}

/* Without its role a task would run, and fail at whatever it asks AWS for. */
static int check_task_role(const struct task *task, const struct task_policy *policy,
                           struct err *err)
{
	if (!task->credentials_id)
		return 0;
	if (policy->task_roles_are_off)
		return err_text(err, -EPERM,
		                "taskRoleArn: task roles are off on this container instance "
		                "(ECS_ENABLE_TASK_IAM_ROLE)");
	if (task->network_mode == NETWORK_MODE_HOST && policy->host_task_roles_are_off)
		return err_text(err, -EPERM,
		                "taskRoleArn: task roles are off on this container instance in "
		                "network mode host (ECS_ENABLE_TASK_IAM_ROLE_NETWORK_HOST)");
	return 0;
}

static int copy_without_credentials(struct json_object *obj, struct json_object **ret,
                                    struct err *err)
{
	static const char *const names[] = {"roleCredentials", "executionRoleCredentials"};
	_cleanup_json_ struct json_object *copy = NULL;

	if (json_object_deep_copy(obj, &copy, NULL) < 0)
		return err_oom(err);
	/* Only the ids stay, so that a stored task still knows which role is its own. */
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		struct json_object *credentials = json_get(copy, names[i]);
		_cleanup_json_ struct json_object *id =
			json_object_get(json_get(credentials, "credentialsId"));
		struct json_object *stripped;

		if (!credentials)
			continue;
		json_object_object_del(copy, names[i]);
		stripped = json_object_new_object();
		if (json_add(copy, names[i], stripped) < 0)
			return err_oom(err);
		if (id && json_add(stripped, "credentialsId", json_object_get(id)) < 0)
			return err_oom(err);
	}
	*ret = TAKE_PTR(copy);
	return 0;
}

static int parse_names(struct json_object *obj, struct task *task, struct err *err)
{
	int r;

	r = dup_optional(obj, "family", &task->family, err);
	if (r == 0)
		r = dup_optional(obj, "version", &task->version, err);
	if (r == 0)
		r = dup_optional(obj, "taskClusterArn", &task->cluster_arn, err);
	if (r == 0)
		r = dup_optional(obj, "launchType", &task->launch_type, err);
	if (r == 0)
		r = dup_optional(obj, "serviceName", &task->service_name, err);
	return r;
}

int task_parse(struct json_object *obj, const struct task_policy *policy, struct task **ret,
               struct err *err)
{
	_cleanup_(task_freep) struct task *task = calloc(1, sizeof(*task));
	int r;

	if (!task)
		return err_oom(err);
	if (!json_object_is_type(obj, json_type_object))
		return err_text(err, -EINVAL, "a task must be an object");
	r = parse_identity(obj, task, err);
	if (r == 0)
		r = copy_without_credentials(obj, &task->document, err);
	if (r < 0)
		return r;
	/* Nothing of a task that is to stop will run, so nothing else of it is looked at. */
	if (task->desired == TASK_STATUS_STOPPED) {
		*ret = TAKE_PTR(task);
		return 0;
	}

	obj = task->document;
	r = parse_names(obj, task, err);
	if (r == 0)
		r = check_task_members(obj, err);
	if (r == 0 && !policy->was_accepted)
		r = check_shape(obj, err);
	if (r == 0)
		r = parse_network_mode(obj, &task->network_mode, err);
	if (r == 0)
		r = namespaces_parse(obj, task, err);
	if (r == 0)
		r = parse_limits(obj, task, err);
	if (r == 0)
		r = parse_credentials_ids(obj, task, err);
	if (r == 0)
		r = check_task_role(task, policy, err);
	if (r == 0)
		r = volumes_check(obj, err);
	if (r == 0)
		r = parse_containers(obj, policy, task, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(task);
	return 0;
}

int task_parse_stored(struct json_object *document, struct task **ret, struct err *err)
{
	static const struct task_policy allow_what_was_allowed = {.was_accepted = true};

	return task_parse(document, &allow_what_was_allowed, ret, err);
}

static void to_hex(const unsigned char *bytes, size_t n, char *out)
{
	for (size_t i = 0; i < n; i++)
		snprintf(out + 2 * i, 3, "%02x", bytes[i]);
}

static int random_bytes(void *buf, size_t n)
{
	return getrandom(buf, n, 0) == (ssize_t)n ? 0 : -EIO;
}

int task_assign_ids(struct task *task)
{
	for (size_t i = 0; i < task->n_containers; i++) {
		struct container *c = &task->containers[i];
		unsigned char id[32], uuid[16];
		char hex[33];
		int r;

		r = random_bytes(id, sizeof(id));
		if (r == 0)
			r = random_bytes(uuid, sizeof(uuid));
		if (r < 0)
			return r;
		to_hex(id, sizeof(id), c->runtime_id);
		uuid[6] = (unsigned char)((uuid[6] & 0x0f) | 0x40); /* RFC 4122 version 4 */
		uuid[8] = (unsigned char)((uuid[8] & 0x3f) | 0x80);
		to_hex(uuid, sizeof(uuid), hex);
		snprintf(c->endpoint_id, sizeof(c->endpoint_id), "%.8s-%.4s-%.4s-%.4s-%.12s", hex,
		         hex + 8, hex + 12, hex + 16, hex + 20);
	}
	return 0;
}
