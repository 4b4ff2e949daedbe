/* Acknowledgements that wait for the store. One that is lost with its session is no loss: ACS sends
 * the message again. */
#include <string.h>

#include "agent/engine/engine_internal.h"
#include "lib/json.h"

struct acknowledgement {
	struct acknowledgement *next;
	struct engine *engine;
	char *cluster_arn, *container_instance_arn, *message_id;
	struct json_object *payload;
};

static void acknowledgement_free(struct acknowledgement *a)
{
	for (struct acknowledgement **p = &a->engine->acknowledgements; *p; p = &(*p)->next)
		if (*p == a) {
			*p = a->next;
			break;
		}
	state_forget(a->engine->o.state, a);
	json_object_put(a->payload);
	free(a->cluster_arn);
	free(a->container_instance_arn);
	free(a->message_id);
	free(a);
}

void acknowledgements_free(struct engine *engine)
{
	while (engine->acknowledgements)
		acknowledgement_free(engine->acknowledgements);
}

size_t acknowledgements_count(const struct engine *engine)
{
	size_t n = 0;

	for (const struct acknowledgement *a = engine->acknowledgements; a; a = a->next)
		n++;
	return n;
}

static void acknowledge_credentials(const struct acknowledgement *a,
                                    struct json_object *credentials)
{
	const char *id = json_text(credentials, "credentialsId");
	const char *expiration = json_text(credentials, "expiration");

	if (id && id[0])
		(void)acs_credentials_ack(a->engine->session, a->message_id,
		                          expiration ? expiration : "", id);
}

static void on_durable(void *userdata)
{
	struct acknowledgement *a = userdata;
	struct json_object *tasks = json_get(a->payload, "tasks");

	if (a->engine->session) {
		(void)acs_ack(a->engine->session, a->cluster_arn, a->container_instance_arn,
		              a->message_id);
		for (size_t i = 0; tasks && i < json_object_array_length(tasks); i++) {
			struct json_object *task = json_object_array_get_idx(tasks, i);

			acknowledge_credentials(a, json_get(task, "roleCredentials"));
			acknowledge_credentials(a, json_get(task, "executionRoleCredentials"));
		}
	}
	acknowledgement_free(a);
}

void acknowledge_when_durable(struct engine *engine, const char *cluster_arn,
                              const char *container_instance_arn, const char *message_id,
                              struct json_object *payload)
{
	struct acknowledgement *a = calloc(1, sizeof(*a));

	if (!a)
		return;
	a->engine = engine;
	a->cluster_arn = strdup(cluster_arn);
	a->container_instance_arn = strdup(container_instance_arn);
	a->message_id = strdup(message_id);
	a->payload = json_object_get(payload);
	a->next = engine->acknowledgements;
	engine->acknowledgements = a;
	if (!a->cluster_arn || !a->container_instance_arn || !a->message_id ||
	    state_after_commit(engine->o.state, on_durable, a) < 0)
		acknowledgement_free(a);
}
