/*
 * The bytes that a vault holds: what ecs-metadata must know to go on serving after a restart
 * without anyone's help. Not the documents: ecs-agent sends those again, and nobody's work hangs on
 * them.
 *
 * Records, one after the other: u32 type, u32 length of what follows, numbers and strings in the
 * order below, as this machine has them. A string is a u32 length, its bytes and a NUL that is not
 * counted. A record of a type that is not known is passed over, and so is what follows the known
 * members of one that is: an older ecs-metadata reads what a newer one has left, and the reverse.
 * This has to stay so, or VERSION in vault.c has to change.
 *
 *   1 settings     u64 requestsPerSecond, u64 burst, cluster, containerInstanceArn
 *
 *   2 credentials  u64 role type (TaskApplication 0, TaskExecution 1, Instance 2), id, task id (""
 *                  for Instance), task ARN, the JSON that containers get, u64 flags (bit 0: for
 *                  mounts; none where the record ends before them)
 *
 *   3 endpoint     u64 cookie of the socket (SO_COOKIE), task id, container; for the host's the
 *                  task id is "" and the container SNAPSHOT_HOST_LINK, or "" if it has no BPF link
 *
 *   4 cgroup       u64 cgroup2 id, task id, container
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "iam-creds/store.h"
#include "lib/err.h"

#define SNAPSHOT_HOST_LINK "link"

/* Writing: into a buffer of fixed size. What does not fit is left out and counted, whole records
 * only. */
struct snapshot {
	uint8_t *bytes;
	size_t size, len;
	size_t n_left_out;
};

struct snapshot_settings {
	uint64_t requests_per_second, burst;
	const char *cluster, *instance_arn;
};

void snapshot_add_settings(struct snapshot *snapshot, const struct snapshot_settings *settings);
void snapshot_add_credentials(struct snapshot *snapshot, const struct credentials *credentials);
/* container: NULL for the host. */
void snapshot_add_endpoint(struct snapshot *snapshot, uint64_t cookie,
                           const struct container *container, bool has_link);
void snapshot_add_cgroup(struct snapshot *snapshot, const struct container *container);

/* Reading. All strings are borrowed from the bytes, for the call. What they say is for the callee
 * to check. */
struct snapshot_credentials {
	enum role_type role_type;
	const char *id, *task_id, *task_arn, *body;
	size_t body_len;
	bool for_mounts;
};

struct snapshot_handlers {
	void (*settings)(const struct snapshot_settings *settings, void *userdata);
	void (*credentials)(const struct snapshot_credentials *credentials, void *userdata);
	void (*endpoint)(uint64_t cookie, const char *task_id, const char *container,
	                 void *userdata);
	void (*cgroup)(uint64_t id, const char *task_id, const char *container, void *userdata);
};

/* Any bytes are fine. -EBADMSG (err says where) ends it; what came before has been handed out. */
int snapshot_read(const void *bytes, size_t len, const struct snapshot_handlers *handlers,
                  void *userdata, struct err *err);
