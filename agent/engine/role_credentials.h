/*
 * Credentials of task roles as ACS sent them, in memory only, to be passed on to ecs-metadata now
 * and whenever that has lost its own. Wiped when replaced or removed.
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "lib/cleanup.h"

struct role_credentials; /* the set of them */

/* One; all strings but the task's are from ACS. Borrowed from the set. */
struct role_credential {
	struct role_credential *next;
	char *id;
	char *task_id, *task_arn;
	const char *role_type;       /* "TaskApplication" or "TaskExecution" */
	bool has_ended;              /* the task; kept for its logs */
	bool is_put;                 /* ecs-metadata has acknowledged it on this connection */
	uint64_t sent;               /* number under which it was sent there; 0: not yet */
	struct json_object *message; /* put-credentials without "seq"; owned, wiped */
};

/* One on its way to ecs-metadata. Owned by the set until role_sending_end(). */
struct role_sending {
	struct role_sending *next;
	struct role_credentials *set;
	uint64_t sent;
	void *userdata;
};

struct role_credentials *role_credentials_new(void);
struct role_credentials *role_credentials_free(struct role_credentials *set);
DEFINE_CLEANUP(struct role_credentials *, role_credentials_free)

struct role_credentials_values {
	const char *id, *task_id, *task_arn;
	bool execution;
	const char *role_arn, *access_key_id, *secret_access_key, *session_token, *expiration;
};

/* Add, or replace that of the same id. -ENOMEM. */
int role_credentials_put(struct role_credentials *set, const struct role_credentials_values *values,
                         struct role_credential **ret);
struct role_credential *role_credentials_find(struct role_credentials *set, const char *id);
/* The oldest; the others follow. */
struct role_credential *role_credentials_first(struct role_credentials *set);
size_t role_credentials_count(const struct role_credentials *set);
/* The task has ended. Forget those of its own role, or all. */
void role_credentials_remove(struct role_credentials *set, const char *task_id, bool all);
/* It is being sent; NULL: out of memory. */
struct role_sending *role_credentials_send(struct role_credentials *set,
                                           struct role_credential *credential, void *userdata);
/* That has come to an end, is_put: ecs-metadata has it. Frees sending. Returns what was sent; NULL
 * if it was removed, replaced or sent once more meanwhile. */
struct role_credential *role_sending_end(struct role_sending *sending, bool is_put);
/* A new connection to ecs-metadata: nothing was put on it yet. */
void role_credentials_reset(struct role_credentials *set);
