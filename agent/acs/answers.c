/* The messages of the agent, each in its envelope. */
#include <errno.h>

#include "agent/acs/message.h"
#include "lib/json.h"

/* Takes message; NULL when it is NULL. */
static struct json_object *envelope(const char *type, struct json_object *message)
{
	_cleanup_json_ struct json_object *frame = json_object_new_object();

	if (!frame) {
		json_object_put(message);
		return NULL;
	}
	if (json_add(frame, "message", message) < 0 || json_add_string(frame, "type", type) < 0)
		return NULL;
	return TAKE_PTR(frame);
}

static struct json_object *origin(const char *cluster, const char *container_instance,
                                  const char *message_id)
{
	_cleanup_json_ struct json_object *message = json_object_new_object();

	if (!message || json_add_string(message, "cluster", cluster) < 0 ||
	    json_add_string(message, "containerInstance", container_instance) < 0 ||
	    json_add_string(message, "messageId", message_id) < 0)
		return NULL;
	return TAKE_PTR(message);
}

struct json_object *acs_ack_message(const char *cluster, const char *container_instance,
                                    const char *message_id)
{
	return envelope("AckRequest", origin(cluster, container_instance, message_id));
}

struct json_object *acs_nack_message(const char *cluster, const char *container_instance,
                                     const char *message_id, const char *reason)
{
	_cleanup_json_ struct json_object *message =
		origin(cluster, container_instance, message_id);

	if (!message || json_add_string(message, "reason", reason) < 0)
		return NULL;
	return envelope("NackRequest", TAKE_PTR(message));
}

struct json_object *acs_credentials_ack_message(const char *message_id, const char *expiration,
                                                const char *credentials_id)
{
	_cleanup_json_ struct json_object *message = json_object_new_object();

	if (!message || json_add_string(message, "messageId", message_id) < 0 ||
	    json_add_string(message, "expiration", expiration) < 0 ||
	    json_add_string(message, "credentialsId", credentials_id) < 0)
		return NULL;
	return envelope("IAMRoleCredentialsAckRequest", TAKE_PTR(message));
}

struct json_object *acs_heartbeat_ack_message(const char *message_id)
{
	_cleanup_json_ struct json_object *message = json_object_new_object();

	if (!message || json_add_string(message, "messageId", message_id) < 0)
		return NULL;
	return envelope("HeartbeatAckRequest", TAKE_PTR(message));
}

static struct json_object *candidate(const struct acs_task_identifier *task)
{
	_cleanup_json_ struct json_object *item = json_object_new_object();

	if (!item || json_add_string(item, "taskArn", task->task_arn) < 0 ||
	    json_add_string(item, "taskClusterArn", task->task_cluster_arn) < 0 ||
	    json_add_string(item, "desiredStatus", "STOPPED") < 0)
		return NULL;
	return TAKE_PTR(item);
}

struct json_object *acs_stop_candidates_message(const char *message_id,
                                                const struct acs_task_identifier *candidates,
                                                size_t n)
{
	_cleanup_json_ struct json_object *message = json_object_new_object();
	_cleanup_json_ struct json_object *list = json_object_new_array();

	if (!message || !list || json_add_string(message, "messageId", message_id) < 0)
		return NULL;
	for (size_t i = 0; i < n; i++)
		if (json_append(list, candidate(&candidates[i])) < 0)
			return NULL;
	if (json_add(message, "stopCandidates", TAKE_PTR(list)) < 0)
		return NULL;
	return envelope("TaskStopVerificationMessage", TAKE_PTR(message));
}
