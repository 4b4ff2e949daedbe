/*
 * From a request to an answer: which credentials or document, for whom, and in which words the
 * endpoint refuses. No sockets here.
 *
 * Paths, codes, bodies and content types are those of the ECS agent that SDKs and applications
 * know; a credentials id of another task is as unknown as one that does not exist.
 */
#pragma once

#include "iam-creds/host_cgroups.h"
#include "iam-creds/store.h"

struct route_config {
	struct bucket_rate metadata;    /* per container and path */
	struct bucket_rate credentials; /* per task */
	struct host_cgroups *host;      /* borrowed; NULL: no caller is the host's */
};

struct route_request {
	struct container *container; /* who asks; NULL: nobody we know (host network) */
	/* Nobody we know, but root: the cgroup in which it has connected, else 0. If that is the
	 * host's (host_cgroups.h), it gets the role of a task that has an EFS volume with IAM
	 * (credentials.for_mounts), and whose credentials id it knows: mount.efs asks so, and from
	 * a service of its own the watchdog of amazon-efs-utils, as long as the task runs. */
	uint64_t root_cgroup_id;
	const char *path;        /* decoded */
	const char *id_argument; /* "id" of the query; NULL if absent */
	bool is_repeated;        /* has waited: it has passed its rate limit before */
	uint64_t now_usec, now_realtime_usec;
};

enum answer_type {
	ANSWER_JSON, /* application/json */
	ANSWER_TEXT, /* text/plain; charset=utf-8 */
};

struct answer {
	unsigned status;
	enum answer_type type;
	bool limited;      /* the answer of a rate limit */
	bool not_yet;      /* 503 only because ecs-agent may still send it */
	struct body *body; /* a reference; answer_done() lets go */
	/* For the audit log: NULL if the request was not for credentials, else the path without the
	 * id; the credentials that were meant, borrowed from the store and for this turn, NULL if
	 * unknown. */
	const char *audit_path;
	const struct credentials *credentials;
};

/* 0 or -ENOMEM. strangers: the buckets of requests without a container. */
int route_answer(const struct store *store, const struct route_config *config,
                 struct container *strangers, const struct route_request *request,
                 struct answer *ret);
void answer_done(struct answer *answer);

/* The clean form of a request target that has "//", "/./" or "/../" in its path, with its query;
 * NULL when it is clean (or out of memory). Owned. */
char *route_clean_target(const char *target);
