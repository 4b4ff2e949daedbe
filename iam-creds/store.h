/*
 * What ecs-metadata knows: tasks with their containers and documents, and credentials. In memory
 * alone. ecs-agent fills it; until it says that it has sent everything (store_set_complete()), what
 * is unknown may only be late. What a restart leaves of it is in keep.h.
 *
 * Tasks and containers are counted references, since a connection may outlive them: after
 * store_release() they are "released", answer nothing, and go with the last reference.
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "iam-creds/body.h"
#include "iam-creds/bucket.h"
#include "lib/cleanup.h"
#include "lib/err.h"

/* Ceilings; reaching one is an error that names it, but for tasks: of those that were released and
 * keep credentials the one that was released first goes then. */
#define STORE_TASKS_MAX           1024
#define STORE_CONTAINERS_MAX      64 /* of a task */
#define STORE_CREDENTIALS_MAX     (4 * STORE_TASKS_MAX)
#define STORE_DOCUMENTS_MAX       1024              /* of a task */
#define STORE_DOCUMENT_BYTES_MAX  (4 * 1024 * 1024) /* of a task */
#define STORE_DOCUMENTS_BYTES_MAX (64 * 1024 * 1024)
#define STORE_ID_MAX              255
#define STORE_VALUE_MAX           (32 * 1024) /* a session token has 1 to 2 KiB */

#define CONTAINER_BUCKETS 32

struct task {
	unsigned refs;
	bool released;
	uint64_t ended; /* order of releases; 0: it has not been, else it is but credentials */
	char *id;
	struct document *documents; /* sorted by path */
	size_t n_documents, documents_bytes;
	struct container *containers[STORE_CONTAINERS_MAX];
	size_t n_containers;
	struct bucket credentials_bucket;
	unsigned n_connections; /* counted by the server */
};

struct document {
	char *path;
	struct body *body;
};

struct container {
	unsigned refs;
	struct task *task; /* a reference */
	char *name;
	uint64_t cgroup_id;                       /* host network: 0 if none */
	bool is_served;                           /* has an endpoint socket; set by the server */
	struct bucket buckets[CONTAINER_BUCKETS]; /* requests for metadata, by path */
};

enum role_type {
	ROLE_TASK_APPLICATION,
	ROLE_TASK_EXECUTION,
	ROLE_INSTANCE,
	_ROLE_MAX,
};

const char *role_type_to_string(enum role_type type);
int role_type_from_string(const char *text, enum role_type *ret); /* -EINVAL */

/* One set of credentials as put-credentials brings them; all borrowed. */
struct credentials_input {
	const char *id, *task_id, *task_arn; /* task_id, task_arn: NULL for ROLE_INSTANCE */
	enum role_type role_type;
	const char *role_arn, *access_key_id, *secret_access_key, *session_token, *expiration;
	bool for_mounts; /* of ROLE_TASK_APPLICATION: mount.efs asks for them on the host */
};

struct credentials {
	char *id;
	struct task *task; /* a reference; NULL for ROLE_INSTANCE */
	char *task_arn;    /* "" if none */
	enum role_type role_type;
	uint64_t expiration_realtime_usec;
	bool for_mounts;
	struct body *body; /* the JSON that containers get */
};

struct store;

int store_new(struct store **ret);
struct store *store_free(struct store *store);
DEFINE_CLEANUP(struct store *, store_free)

void store_set_complete(struct store *store);
bool store_is_complete(const struct store *store);

struct task *task_ref(struct task *task);
struct task *task_unref(struct task *task);
struct container *container_ref(struct container *container);
struct container *container_unref(struct container *container);
DEFINE_CLEANUP(struct container *, container_unref)

/* Borrowed, or NULL. */
struct task *store_find_task(const struct store *store, const char *id);
const struct credentials *store_find_credentials(const struct store *store, const char *id);
struct container *store_find_cgroup(const struct store *store, uint64_t cgroup_id);
struct body *task_find_document(const struct task *task, const char *path);

/* By index, NULL past the end; the order changes with every removal. */
struct task *store_task_at(const struct store *store, size_t i);
const struct credentials *store_credentials_at(const struct store *store, size_t i);

/* Find or make a container, and its task; *ret is borrowed. -EINVAL for a bad name, -ENOSPC at a
 * ceiling. */
int store_get_container(struct store *store, const char *task_id, const char *name,
                        struct container **ret, struct err *err);

/* In host mode this cgroup's processes are that container. */
int store_set_cgroup(struct store *store, struct container *container, uint64_t cgroup_id,
                     struct err *err);

/* Replaces those of the same id. -EINVAL names the bad member, never its value. */
int store_put_credentials(struct store *store, const struct credentials_input *input,
                          struct err *err);
/* The same from a body that an earlier process has made: input lacks what is in it. -EINVAL or
 * -EBADMSG. */
int store_put_credentials_body(struct store *store, const struct credentials_input *input,
                               const char *body, size_t len, struct err *err);
int store_remove_credentials(struct store *store, const char *id, struct err *err); /* -ENOENT */
/* Overwrites the secret strings of a message or body, which json-c would free as they are. */
void credentials_wipe_json(struct json_object *object);

/* Replaces all documents of the task by the members of this object: path to value. The earlier ones
 * stay if it fails. */
int store_set_documents(struct store *store, const char *task_id, struct json_object *documents,
                        struct err *err);

/* Forget the task with its containers, documents and ROLE_TASK_APPLICATION credentials, or all of
 * its credentials. What is kept of it (execution roles, for the logs) makes room where new tasks
 * need it. Unknown tasks are fine. */
void store_release(struct store *store, const char *task_id, bool all);
