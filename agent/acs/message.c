/* What comes in, checked member by member. A message that is not right is no message. */
#include "agent/acs/message.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/json.h"

static const struct {
	const char *name;
	enum acs_message_type type;
} types[] = {
	{"PayloadMessage", ACS_MESSAGE_PAYLOAD},
	{"IAMRoleCredentialsMessage", ACS_MESSAGE_CREDENTIALS},
	{"HeartbeatMessage", ACS_MESSAGE_HEARTBEAT},
	{"TaskManifestMessage", ACS_MESSAGE_MANIFEST},
	{"TaskStopVerificationAck", ACS_MESSAGE_STOP_VERIFICATION},
	{"StageUpdateMessage", ACS_MESSAGE_UPDATE},
	{"PerformUpdateMessage", ACS_MESSAGE_UPDATE},
	{"AttachTaskNetworkInterfacesMessage", ACS_MESSAGE_UNSUPPORTED},
	{"AttachInstanceNetworkInterfacesMessage", ACS_MESSAGE_UNSUPPORTED},
	{"ConfirmAttachmentMessage", ACS_MESSAGE_UNSUPPORTED},
	{"CloseMessage", ACS_MESSAGE_NOTICE},
	{"ErrorMessage", ACS_MESSAGE_NOTICE},
	{"ServerException", ACS_MESSAGE_NOTICE},
	{"BadRequestException", ACS_MESSAGE_NOTICE},
	{"InvalidClusterException", ACS_MESSAGE_NOTICE},
	{"InvalidInstanceException", ACS_MESSAGE_NOTICE},
	{"AccessDeniedException", ACS_MESSAGE_NOTICE},
	{"InactiveInstanceException", ACS_MESSAGE_NOTICE},
};

static enum acs_message_type type_of(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if (strcmp(types[i].name, name) == 0)
			return types[i].type;
	return ACS_MESSAGE_UNKNOWN;
}

/* {"X":"text"} with one member and a string: the form of an error without an envelope. */
static bool is_bare_error(struct json_object *object, const char **ret_name, const char **ret_text)
{
	if (json_object_object_length(object) != 1)
		return false;
	json_object_object_foreach (object, name, value) {
		if (!json_object_is_type(value, json_type_string))
			return false;
		*ret_name = name;
		*ret_text = json_object_get_string(value);
	}
	return true;
}

static void copy_text(char *buf, size_t n, const char *text)
{
	snprintf(buf, n, "%s", text ? text : "");
}

int acs_frame_parse(const char *text, size_t len, struct acs_frame *ret, struct err *err)
{
	_cleanup_json_ struct json_object *object = NULL;
	struct acs_frame frame = {0};
	const char *name, *notice;
	int r;

	r = json_parse_object(text, len, ACS_FRAME_MAX_BYTES, &object, err);
	if (r < 0)
		return r;
	if (is_bare_error(object, &name, &notice) && type_of(name) == ACS_MESSAGE_NOTICE) {
		frame.type = ACS_MESSAGE_NOTICE;
		frame.message = TAKE_PTR(object);
	} else {
		r = json_get_string(object, "type", &name, err);
		if (r == 0)
			r = json_get_object(object, "message", &frame.message, err);
		if (r < 0)
			return r == -ENOMEM ? r : -EINVAL;
		json_object_get(frame.message);
		frame.type = type_of(name);
		notice = json_text(frame.message, "message");
	}
	copy_text(frame.type_name, sizeof(frame.type_name), name);
	if (frame.type == ACS_MESSAGE_NOTICE)
		copy_text(frame.notice, sizeof(frame.notice), notice);
	*ret = frame;
	return 0;
}

void acs_frame_done(struct acs_frame *frame)
{
	json_object_put(frame->message);
	*frame = (struct acs_frame){0};
}

/* A member that must be there and say something. */
static int get_required(struct json_object *message, const char *name, const char **ret,
                        struct err *err)
{
	const char *text;
	int r = json_get_string(message, name, &text, err);

	if (r < 0)
		return r;
	if (!*text)
		return err_text(err, -EINVAL, "member \"%s\" is empty", name);
	*ret = text;
	return 0;
}

/* "" when it is absent. */
static int get_optional(struct json_object *message, const char *name, const char **ret,
                        struct err *err)
{
	*ret = "";
	return json_optional(json_get_string(message, name, ret, err));
}

static int get_origin(struct json_object *message, const char **ret_id, const char **ret_cluster,
                      const char **ret_instance, struct err *err)
{
	int r = get_required(message, "messageId", ret_id, err);

	if (r == 0)
		r = get_required(message, "clusterArn", ret_cluster, err);
	if (r == 0)
		r = get_required(message, "containerInstanceArn", ret_instance, err);
	return r;
}

int acs_payload_read(struct json_object *message, struct acs_payload *ret, struct err *err)
{
	struct acs_payload payload = {.message = message};
	int r;

	r = get_origin(message, &payload.message_id, &payload.cluster_arn,
	               &payload.container_instance_arn, err);
	if (r == 0)
		r = json_optional(json_get_i64(message, "seqNum", INT64_MIN, INT64_MAX,
		                               &payload.seq_num, err));
	if (r == 0)
		r = json_optional(json_get_array(message, "tasks", &payload.tasks, err));
	if (r < 0)
		return r;
	payload.tasks = payload.tasks ? json_object_get(payload.tasks) : json_object_new_array();
	if (!payload.tasks)
		return err_oom(err);
	*ret = payload;
	return 0;
}

void acs_payload_done(struct acs_payload *payload)
{
	json_object_put(payload->tasks);
	payload->tasks = NULL;
}

static int get_role_type(struct json_object *message, const char **ret, struct err *err)
{
	const char *type = NULL;
	int r = get_required(message, "roleType", &type, err);

	if (r < 0)
		return r;
	if (strcmp(type, "TaskApplication") != 0 && strcmp(type, "TaskExecution") != 0)
		return err_text(err, -EINVAL, "roleType '%.32s' is not known", type);
	*ret = type;
	return 0;
}

int acs_role_credentials_read(struct json_object *message, struct acs_role_credentials *ret,
                              struct err *err)
{
	struct acs_role_credentials read = {0};
	struct json_object *role;
	int r;

	r = get_required(message, "messageId", &read.message_id, err);
	if (r == 0)
		r = get_required(message, "taskArn", &read.task_arn, err);
	if (r == 0)
		r = get_role_type(message, &read.role_type, err);
	if (r == 0)
		r = json_get_object(message, "roleCredentials", &role, err);
	if (r == 0)
		r = get_required(role, "credentialsId", &read.credentials_id, err);
	if (r == 0)
		r = get_optional(role, "roleArn", &read.role_arn, err);
	if (r == 0)
		r = get_optional(role, "accessKeyId", &read.access_key_id, err);
	if (r == 0)
		r = get_optional(role, "secretAccessKey", &read.secret_access_key, err);
	if (r == 0)
		r = get_optional(role, "sessionToken", &read.session_token, err);
	if (r == 0)
		r = get_optional(role, "expiration", &read.expiration, err);
	if (r == 0)
		*ret = read;
	return r;
}

/*
 * One bad entry makes the whole list worthless: a task that is left out of a manifest is a task to
 * be stopped.
 */
static int read_identifiers(struct json_object *message, const char *name,
                            struct acs_task_identifier **ret, size_t *ret_n, struct err *err)
{
	_cleanup_free_ struct acs_task_identifier *list = NULL;
	struct json_object *array = NULL;
	size_t n;
	int r;

	r = json_optional(json_get_array(message, name, &array, err));
	if (r < 0)
		return r;
	n = array ? json_object_array_length(array) : 0;
	if (n > ACS_TASKS_MAX)
		return err_text(err, -EINVAL, "\"%s\" lists more than %d tasks", name,
		                ACS_TASKS_MAX);
	list = calloc(n + 1, sizeof(*list));
	if (!list)
		return err_oom(err);
	for (size_t i = 0; i < n; i++) {
		struct json_object *item = json_object_array_get_idx(array, i);

		if (!json_object_is_type(item, json_type_object))
			return err_text(err, -EINVAL, "entry %zu of \"%s\" is no object", i, name);
		r = get_required(item, "taskArn", &list[i].task_arn, err);
		if (r == 0)
			r = get_optional(item, "taskClusterArn", &list[i].task_cluster_arn, err);
		if (r == 0)
			r = get_optional(item, "desiredStatus", &list[i].desired_status, err);
		if (r < 0)
			return err_prefix(err, r, "entry %zu of \"%s\"", i, name);
	}
	*ret = TAKE_PTR(list);
	*ret_n = n;
	return 0;
}

int acs_manifest_read(struct json_object *message, struct acs_manifest *ret, struct err *err)
{
	struct acs_task_identifier *tasks;
	struct acs_manifest read = {0};
	int r;

	r = get_origin(message, &read.message_id, &read.cluster_arn, &read.container_instance_arn,
	               err);
	if (r == 0)
		r = json_get_i64(message, "timeline", INT64_MIN, INT64_MAX, &read.timeline, err);
	if (r == 0)
		r = read_identifiers(message, "tasks", &tasks, &read.n_tasks, err);
	if (r < 0)
		return r;
	read.tasks = tasks;
	*ret = read;
	return 0;
}

void acs_manifest_done(struct acs_manifest *manifest)
{
	free((struct acs_task_identifier *)manifest->tasks);
	manifest->tasks = NULL;
}

int acs_stop_verification_read(struct json_object *message, struct acs_stop_verification *ret,
                               struct err *err)
{
	struct acs_stop_verification read = {0};
	struct acs_task_identifier *tasks;
	int r;

	r = get_required(message, "messageId", &read.message_id, err);
	if (r == 0)
		r = read_identifiers(message, "stopTasks", &tasks, &read.n_stop_tasks, err);
	if (r < 0)
		return r;
	read.stop_tasks = tasks;
	*ret = read;
	return 0;
}

void acs_stop_verification_done(struct acs_stop_verification *verification)
{
	free((struct acs_task_identifier *)verification->stop_tasks);
	verification->stop_tasks = NULL;
}

void acs_refusal_read(const char *body, size_t len, struct acs_refusal *ret)
{
	/* The object may stand between the sizes of chunks. */
	const char *start = memchr(body, '{', len), *end = memrchr(body, '}', len);
	_cleanup_json_ struct json_object *object = NULL;
	struct json_object *message;
	const char *name, *text;

	*ret = (struct acs_refusal){0};
	if (!start || !end || end < start ||
	    json_parse_object(start, (size_t)(end - start) + 1, 64 * 1024, &object, NULL) < 0)
		return;
	if (!is_bare_error(object, &name, &text)) {
		name = json_text(object, "type");
		message = json_get(object, "message");
		text = json_object_is_type(message, json_type_object)
		               ? json_text(message, "message")
		               : NULL;
	}
	copy_text(ret->name, sizeof(ret->name), name);
	copy_text(ret->text, sizeof(ret->text), text);
}
