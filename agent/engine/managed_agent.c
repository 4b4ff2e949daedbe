/* One per container, and of one kind: lists are ECS's form, not ours. */
#include "agent/engine/managed_agent.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/task/execute_command_files.h"
#include "agent/task/execute_command_paths.h"
#include "lib/cleanup.h"
#include "lib/json.h"
#include "lib/parse.h"

#define TEXT_MAX (64 * 1024)

static const char *const status_words[] = {
	[MANAGED_AGENT_NONE] = NULL,
	[MANAGED_AGENT_RUNNING] = "RUNNING",
	[MANAGED_AGENT_STOPPED] = "STOPPED",
};

const char *managed_agent_status_to_string(enum managed_agent_status status)
{
	return status_words[status];
}

/* NONE for a word that is none of these. */
static enum managed_agent_status status_from_string(const char *word)
{
	for (size_t i = 1; word && i < ARRAY_SIZE(status_words); i++)
		if (strcmp(word, status_words[i]) == 0)
			return (enum managed_agent_status)i;
	return MANAGED_AGENT_NONE;
}

void managed_agent_done(struct managed_agent *agent)
{
	free(agent->refused);
	free(agent->reason);
	*agent = (struct managed_agent){0};
}

/* --- what is asked for --- */

static int refuse(struct managed_agent *agent, const char *name, const char *value, const char *why)
{
	free(agent->refused);
	if (asprintf(&agent->refused, "property %.64s is \"%.64s\", %s", name, value, why) < 0) {
		agent->refused = NULL;
		return -ENOMEM;
	}
	return 0;
}

static int take_property(struct managed_agent *agent, const char *name, struct json_object *value)
{
	const char *text = json_object_is_type(value, json_type_string)
	                           ? json_object_get_string(value)
	                           : json_to_text(value, NULL);
	uint64_t limit;

	if (strcmp(name, "sessionLimit") != 0)
		return refuse(agent, name, text ? text : "null", "which this agent does not know");
	if (!text || parse_u64(text, EXECUTE_COMMAND_SESSIONS_MAX, &limit) < 0 || limit == 0)
		return refuse(agent, name, text ? text : "null",
		              "it must be a number from 1 to 1000");
	agent->session_limit = (unsigned int)limit;
	return 0;
}

static int parse_one(struct json_object *item, struct managed_agent *ret, struct err *err)
{
	struct json_object *properties = NULL;
	const char *name;
	int r;

	r = json_get_string(item, "name", &name, err);
	if (r < 0)
		return r;
	if (strcmp(name, EXECUTE_COMMAND_NAME) != 0)
		return err_text(err, -EOPNOTSUPP,
		                "name is \"%.80s\"; only " EXECUTE_COMMAND_NAME
		                " is supported by this agent",
		                name);
	if (ret->wanted)
		return err_text(err, -EINVAL, EXECUTE_COMMAND_NAME " is there twice");
	ret->wanted = true;
	r = json_optional(json_get_object(item, "properties", &properties, err));
	if (r < 0 || !properties)
		return r;
	json_object_object_foreach (properties, key, value) {
		if (take_property(ret, key, value) < 0)
			return err_oom(err);
	}
	return 0;
}

int managed_agent_parse(struct json_object *container, struct managed_agent *ret, struct err *err)
{
	struct json_object *list = NULL;
	int r;

	r = json_optional(json_get_array(container, "managedAgents", &list, err));
	for (size_t i = 0; r == 0 && list && i < json_object_array_length(list); i++) {
		r = parse_one(json_object_array_get_idx(list, i), ret, err);
		if (r < 0)
			return err_prefix(err, r, "managedAgents[%zu]", i);
	}
	return r;
}

int managed_agent_add_to_spec(const struct managed_agent *agent, struct json_object *spec)
{
	struct json_object *obj;

	if (!agent->wanted || agent->refused)
		return 0;
	obj = json_object_new_object();
	if (json_add(spec, "executeCommandAgent", obj) < 0)
		return -ENOMEM;
	return agent->session_limit ? json_add_u64(obj, "sessionLimit", agent->session_limit) : 0;
}

/* --- what becomes of it --- */

int managed_agent_set(struct managed_agent *agent, enum managed_agent_status status,
                      const char *reason)
{
	char *copy;

	if (agent->status == status && agent->reason && strcmp(agent->reason, reason) == 0)
		return 0;
	copy = strdup(reason);
	if (!copy)
		return -ENOMEM;
	free(agent->reason);
	agent->reason = copy;
	agent->status = status;
	agent->unsent = true;
	return 1;
}

int managed_agent_update(struct managed_agent *agent, struct json_object *event)
{
	const char *name = json_text(event, "name"), *status = json_text(event, "status"),
		   *reason = json_text(event, "reason");

	if (!agent->wanted || !name || strcmp(name, EXECUTE_COMMAND_NAME) != 0 || !status)
		return 0;
	if (status_from_string(status) == MANAGED_AGENT_NONE)
		return 0;
	return managed_agent_set(agent, status_from_string(status), reason ? reason : "");
}

int managed_agent_begin(struct managed_agent *agent)
{
	_cleanup_free_ char *reason = NULL;

	if (!agent->refused)
		return 0;
	if (asprintf(&reason, EXECUTE_COMMAND_NAME " Initialization failed - %s", agent->refused) <
	    0) {
		reason = NULL;
		return -ENOMEM;
	}
	return managed_agent_set(agent, MANAGED_AGENT_STOPPED, reason);
}

/* What went wrong before says more than that it is over. */
int managed_agent_end(struct managed_agent *agent)
{
	if (!agent->wanted || agent->status == MANAGED_AGENT_STOPPED)
		return 0;
	return managed_agent_set(agent, MANAGED_AGENT_STOPPED, "Received Container Stopped event");
}

void managed_agent_mark_sent(struct managed_agent *agent)
{
	agent->sent = agent->status;
	agent->unsent = false;
}

/* --- the store --- */

int managed_agent_to_text(const struct managed_agent *agent, char **ret)
{
	_cleanup_json_ struct json_object *obj = NULL;
	const char *text;

	*ret = NULL;
	if (agent->status == MANAGED_AGENT_NONE)
		return 0;
	obj = json_object_new_object();
	if (!obj || json_add_string(obj, "name", EXECUTE_COMMAND_NAME) < 0 ||
	    json_add_string(obj, "status", status_words[agent->status]) < 0 ||
	    json_add_string(obj, "reason", agent->reason) < 0 ||
	    json_add_bool(obj, "unsent", agent->unsent) < 0 ||
	    (agent->sent != MANAGED_AGENT_NONE &&
	     json_add_string(obj, "sent", status_words[agent->sent]) < 0))
		return -ENOMEM;
	text = json_to_text(obj, NULL);
	*ret = text ? strdup(text) : NULL;
	return *ret ? 0 : -ENOMEM;
}

int managed_agent_from_text(const char *text, struct managed_agent *agent)
{
	_cleanup_json_ struct json_object *obj = NULL;
	bool unsent = true;
	int r;

	if (!text)
		return 0;
	if (json_parse_object(text, strlen(text), TEXT_MAX, &obj, NULL) < 0)
		return -EBADMSG;
	(void)json_get_bool(obj, "unsent", &unsent, NULL); /* told once more does no harm */
	r = managed_agent_update(agent, obj);
	if (r < 0)
		return r;
	agent->unsent = agent->status != MANAGED_AGENT_NONE && unsent;
	agent->sent = status_from_string(json_text(obj, "sent"));
	return 0;
}
