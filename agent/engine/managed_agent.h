/*
 * ECS Exec's agent of a container, which ECS calls a managed agent: what the payload asks for, what
 * ecs-task tells of it (agent/task/execute_command.h), and what ECS is told.
 *
 *   NONE     not asked for, or nothing is known yet
 *   RUNNING  may become STOPPED, and RUNNING again
 *   STOPPED  the last, with the container
 *
 * Source: ECS API, ManagedAgentStateChange; ECS agent, managed agents.
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>

#include "lib/err.h"

enum managed_agent_status {
	MANAGED_AGENT_NONE,
	MANAGED_AGENT_RUNNING,
	MANAGED_AGENT_STOPPED,
};

struct managed_agent {
	/* What the payload said. */
	bool wanted;
	unsigned int session_limit; /* 0: the default */
	char *refused; /* why it cannot be had, though the container can; NULL: nothing */
	/* How far it has got (persisted). */
	enum managed_agent_status status;
	char *reason;                   /* NULL while NONE */
	enum managed_agent_status sent; /* what ECS was told last */
	bool unsent;                    /* status or reason have changed since */
};

void managed_agent_done(struct managed_agent *agent);

/*
 * "managedAgents" of a container of the payload. Another agent than ExecuteCommandAgent is refused
 * (-EOPNOTSUPP); a property that we cannot honour costs the agent, not its container.
 */
int managed_agent_parse(struct json_object *container, struct managed_agent *ret, struct err *err);

/* Add "executeCommandAgent" to what ecs-task is asked to create, unless there is none. -ENOMEM. */
int managed_agent_add_to_spec(const struct managed_agent *agent, struct json_object *spec);

/* Set status and reason. 1: changed; 0; -ENOMEM. */
int managed_agent_set(struct managed_agent *agent, enum managed_agent_status status,
                      const char *reason);
/* From an event "managed-agent" or the state of ecs-task; as managed_agent_set(). */
int managed_agent_update(struct managed_agent *agent, struct json_object *event);
/* Its container is about to be made: one that was refused is STOPPED. As managed_agent_set(). */
int managed_agent_begin(struct managed_agent *agent);
/* Its container has stopped. As managed_agent_set(). */
int managed_agent_end(struct managed_agent *agent);

/* ECS has been told, or is about to be. */
void managed_agent_mark_sent(struct managed_agent *agent);

/* "RUNNING" and "STOPPED", NULL for NONE. */
const char *managed_agent_status_to_string(enum managed_agent_status status);

/* As one JSON text for the store, owned by the caller; *ret is NULL for one that has none. Back: a
 * text that cannot be read is -EBADMSG and leaves NONE. */
int managed_agent_to_text(const struct managed_agent *agent, char **ret);
int managed_agent_from_text(const char *text, struct managed_agent *agent);
