/* Each credential is kept as the message that ecs-metadata gets, so that it exists once. */
#include "agent/engine/role_credentials.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/engine/pull.h"
#include "lib/ipc.h"
#include "lib/json.h"

struct role_credentials {
	struct role_credential *first;
	struct role_sending *sending;
	uint64_t last_sent;
};

static void credential_free(struct role_credential *credential)
{
	if (credential->message) {
		json_wipe(credential->message);
		/* What json-c keeps of the text is overwritten by making it again. */
		(void)json_to_text(credential->message, NULL);
		json_object_put(credential->message);
	}
	free(credential->id);
	free(credential->task_id);
	free(credential->task_arn);
	free(credential);
}

struct role_credentials *role_credentials_new(void)
{
	return calloc(1, sizeof(struct role_credentials));
}

struct role_credentials *role_credentials_free(struct role_credentials *set)
{
	if (!set)
		return NULL;
	while (set->first) {
		struct role_credential *credential = set->first;

		set->first = credential->next;
		credential_free(credential);
	}
	while (set->sending) {
		struct role_sending *sending = set->sending;

		set->sending = sending->next;
		free(sending);
	}
	free(set);
	return NULL;
}

static struct json_object *message_new(const struct role_credentials_values *v)
{
	struct json_object *body = ipc_message_new("put-credentials", NULL);
	const struct {
		const char *name, *value;
	} members[] = {
		{"credentialsId", v->id},
		{"taskId", v->task_id},
		{"taskArn", v->task_arn},
		{"roleType", v->execution ? "TaskExecution" : "TaskApplication"},
		{"roleArn", v->role_arn},
		{"accessKeyId", v->access_key_id},
		{"secretAccessKey", v->secret_access_key},
		{"sessionToken", v->session_token},
		{"expiration", v->expiration},
	};

	for (size_t i = 0; i < ARRAY_SIZE(members) && body; i++)
		if (json_add_string(body, members[i].name,
		                    members[i].value ? members[i].value : "") < 0) {
			json_object_put(body);
			body = NULL;
		}
	return body;
}

/* Returns where the next one goes. */
static struct role_credential **remove_id(struct role_credentials *set, const char *id)
{
	struct role_credential **p = &set->first;

	while (*p) {
		struct role_credential *credential = *p;

		if (strcmp(credential->id, id) != 0) {
			p = &credential->next;
			continue;
		}
		*p = credential->next;
		credential_free(credential);
	}
	return p;
}

int role_credentials_put(struct role_credentials *set, const struct role_credentials_values *values,
                         struct role_credential **ret)
{
	struct role_credential *credential = calloc(1, sizeof(*credential));

	if (!credential)
		return -ENOMEM;
	credential->id = strdup(values->id);
	credential->task_id = strdup(values->task_id);
	credential->task_arn = strdup(values->task_arn);
	credential->role_type = values->execution ? "TaskExecution" : "TaskApplication";
	credential->message = message_new(values);
	if (!credential->id || !credential->task_id || !credential->task_arn ||
	    !credential->message) {
		credential_free(credential);
		return -ENOMEM;
	}
	*remove_id(set, values->id) = credential;
	*ret = credential;
	return 0;
}

struct role_credential *role_credentials_find(struct role_credentials *set, const char *id)
{
	for (struct role_credential *c = set->first; c && id; c = c->next)
		if (strcmp(c->id, id) == 0)
			return c;
	return NULL;
}

struct role_credential *role_credentials_first(struct role_credentials *set)
{
	return set->first;
}

size_t role_credentials_count(const struct role_credentials *set)
{
	size_t n = 0;

	for (const struct role_credential *c = set->first; c; c = c->next)
		n++;
	return n;
}

void role_credentials_remove(struct role_credentials *set, const char *task_id, bool all)
{
	struct role_credential **p = &set->first;

	while (*p) {
		struct role_credential *credential = *p;

		if (strcmp(credential->task_id, task_id) != 0 ||
		    (!all && strcmp(credential->role_type, "TaskApplication") != 0)) {
			credential->has_ended |= strcmp(credential->task_id, task_id) == 0;
			p = &credential->next;
			continue;
		}
		*p = credential->next;
		credential_free(credential);
	}
}

struct role_sending *role_credentials_send(struct role_credentials *set,
                                           struct role_credential *credential, void *userdata)
{
	struct role_sending *sending = calloc(1, sizeof(*sending));

	if (!sending)
		return NULL;
	*sending = (struct role_sending){
		.next = set->sending,
		.set = set,
		.sent = ++set->last_sent,
		.userdata = userdata,
	};
	set->sending = sending;
	credential->sent = sending->sent;
	credential->is_put = false;
	return sending;
}

struct role_credential *role_sending_end(struct role_sending *sending, bool is_put)
{
	struct role_credentials *set = sending->set;
	struct role_credential *credential = set->first;
	struct role_sending **p = &set->sending;

	while (credential && credential->sent != sending->sent)
		credential = credential->next;
	if (credential)
		credential->is_put = is_put;
	while (*p != sending)
		p = &(*p)->next;
	*p = sending->next;
	free(sending);
	return credential;
}

void role_credentials_reset(struct role_credentials *set)
{
	for (struct role_credential *c = set->first; c; c = c->next)
		*c = (struct role_credential){.next = c->next,
		                              .id = c->id,
		                              .task_id = c->task_id,
		                              .task_arn = c->task_arn,
		                              .role_type = c->role_type,
		                              .has_ended = c->has_ended,
		                              .message = c->message};
}
