/* What the files of the engine share; of no one else. */
#pragma once

#include <stdbool.h>

#include "agent/engine/addresses.h"
#include "agent/engine/engine.h"
#include "agent/engine/host_resources.h"
#include "agent/engine/image_cleanup.h"
#include "agent/engine/metadata_client.h"
#include "agent/engine/network_client.h"
#include "agent/engine/outbox.h"
#include "agent/engine/peer.h"
#include "agent/engine/pull.h"
#include "agent/engine/role_credentials.h"
#include "agent/engine/spec.h"
#include "agent/engine/task.h"
#include "agent/engine/task_parse.h"
#include "lib/backoff.h"
#include "lib/heap.h"
#include "lib/log.h"

#define SECOND_USEC (1000 * 1000ull)
#define MINUTE_USEC (60 * SECOND_USEC)

/* Source: the time limits of the ECS agent's runtime calls. */
#define NETWORK_TIMEOUT_USEC  MINUTE_USEC
#define METADATA_TIMEOUT_USEC (10 * SECOND_USEC)
#define STATE_TIMEOUT_USEC    (30 * SECOND_USEC)
#define STOP_MARGIN_USEC      (2 * MINUTE_USEC)
#define STOP_TRIES_MAX        5

/*
 * The supervisor (ecs-task) of one task.
 *
 *   NONE -> SAVING -> LAUNCHING -> READY -> ENDING -> REAPING -> NONE
 *   after a restart, or when the connection is lost: FINDING -> READY, or -> GONE
 *   GONE -> REAPING -> NONE, where it may be launched again
 */
enum supervisor_status {
	SUPERVISOR_NONE,
	SUPERVISOR_SAVING, /* "launched" is being written to the store */
	SUPERVISOR_LAUNCHING,
	SUPERVISOR_FINDING,
	SUPERVISOR_READY,
	SUPERVISOR_REAPING,
	SUPERVISOR_ENDING,
};

struct supervisor {
	enum supervisor_status status;
	struct peer *peer;
	sd_event_source *timer; /* next try of what status says */
	struct backoff backoff;
	unsigned int tries;
	uint64_t deadline_usec; /* of launching, monotonic */
	unsigned int deaths;    /* before any of the task's containers ran */
	bool keeps_no_records;  /* it is of an older version */
};

/* What is under way for a container; one thing at a time. */
enum container_op {
	OP_NONE,
	OP_PULL,
	OP_CREATE,
	OP_ATTACH,
	OP_SAVE, /* its address, before it starts */
	OP_SERVE,
	OP_START,
	OP_STOP,
};

struct engine_container {
	struct engine_task *et;
	struct container *c; /* borrowed from et->task */
	char *image;         /* in its normal form; NULL: it has none */
	struct log_ctx log;

	enum container_op op;
	struct pull *pull;
	bool pull_started; /* its turn in the queue has come */
	bool cache_only;   /* the pull has failed: what is in the local store will do */
	bool pulled_again; /* after a create that found something missing */

	/* In the supervisor's hands. */
	bool made;                   /* "create" succeeded */
	bool attached;               /* has its network */
	bool served;                 /* its endpoint is answered */
	bool may_run;                /* a start without an answer */
	bool may_be_attached;        /* an attach was asked for, perhaps by an earlier agent */
	uint64_t waiting_since_usec; /* for network or credentials, monotonic; 0: not waiting */
	uint64_t serving_since_usec; /* its endpoint is to be served since then; 0: it is not */
	uint64_t serve_again_usec;   /* refused: not before then, monotonic */

	int netns_fd, endpoint_fd;
	int *port_fds;
	size_t n_port_fds;
	unsigned int prefix;
	char gateway[16];

	/* It has ended, and its restart policy starts it again. */
	bool restart_due;
	int last_exit_code;
	uint64_t last_exit_realtime_usec;

	unsigned int stop_tries;
	struct backoff stop_backoff;
	sd_event_source *stop_retry;
	bool detached; /* after STOPPED */
};

/* What is left to do after STOPPED. */
enum teardown_step {
	TEARDOWN_NOT_YET,
	TEARDOWN_DETACH,
	TEARDOWN_END,
	TEARDOWN_DONE,
};

struct engine_task {
	struct engine *engine;
	struct task *task; /* owned */
	struct log_ctx log;
	struct engine_container *containers; /* as many as the task has */
	struct supervisor supervisor;
	struct engine_mount *mounts; /* volumes that ecs-volume mounts */
	size_t n_mounts;

	uint64_t sequence, received_realtime_usec;
	bool durable;  /* the store has it */
	bool launched; /* and knows that a supervisor was asked for */
	bool launched_durable;
	bool admitted;        /* has its host resources */
	bool dirty;           /* to be reconciled */
	bool unsaved;         /* to be written */
	bool documents_stale; /* to be sent to ecs-metadata */
	bool stopped_durable; /* the store has STOPPED, and the exit codes */
	bool stopped_waits;   /* for that */
	bool record_stale;    /* the supervisor's record is not what the store has */
	bool record_waits;    /* for the store's commit */
	bool sockets_due;     /* ecs-metadata lacks its endpoint sockets */
	bool sockets_asked;
	bool execution_credentials_there; /* ecs-metadata had them at its hello */

	enum teardown_step teardown;
	unsigned int detach_tries;
	size_t detaching;
	sd_event_source *wake; /* a deadline that nothing else would notice */
	sd_event_source *cleanup;
	bool cleanup_due;
};

struct engine {
	sd_event *loop;
	struct engine_options o;
	struct spec_options spec;
	struct log_ctx log;
	char *container_instance_arn;
	char *availability_zone;

	struct engine_task **tasks; /* in order of arrival, which is the waiting queue's */
	size_t n_tasks, tasks_allocated;
	uint64_t last_sequence;
	sd_event_source *reconcile;
	bool reconciling;

	struct outbox *outbox;
	struct puller *puller;
	struct image_cleanup *image_cleanup;
	struct network_client *network;
	struct metadata_client *metadata;
	struct role_credentials *credentials;
	struct host_resources *host;
	struct addresses *addresses; /* NULL until the bridge is known */
	struct aws_keys *instance_keys;
	struct acs_session *session;
	struct orphan *orphans;
	struct acknowledgement *acknowledgements;
	struct heap_trimmer *heap;

	sd_event_source *ticker; /* buffered container events */

	/* The bridge and the host's endpoint. */
	bool host_asked, host_ready, host_endpoint_due;
	struct err host_error;
	struct backoff host_backoff;
	sd_event_source *host_retry;
	int port_cursor;
	bool ports_unsure; /* published ones may be missing from the rules */

	bool metadata_complete; /* told on this connection */

	int64_t manifest_seq;
	char *manifest_id; /* current one, NULL once verified */

	bool host_restarted; /* since the store was written; while recovering */

	/* After a rebuild of the store. */
	bool may_have_lost; /* tasks, of which a manifest will tell */
	struct lost_task *lost;
	sd_event_source *lost_timer;
	uint64_t lost_wait_usec; /* for payloads that are on their way */
};

/* engine.c */
struct engine_task *engine_find(struct engine *engine, const char *arn);
struct engine_task *engine_find_id(struct engine *engine, const char *id);
/* Takes task. The task is reconciled from the loop once it is durable. */
int engine_add(struct engine *engine, struct task *task, struct engine_task **ret);
int engine_insert(struct engine *engine, struct task *task, struct engine_task **ret);
void engine_remove(struct engine_task *et);
/* Look at the task again, from the loop. */
void engine_changed(struct engine_task *et);
void engine_changed_all(struct engine *engine);
/* The same, and write it to the store; documents: for its containers to see. */
void engine_save(struct engine_task *et);
void engine_desire_stopped(struct engine_task *et);
/* Terminal reason of the task (the first one stays); it is to stop. */
void engine_fail_task(struct engine_task *et, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* task_reconcile.c */
void engine_reconcile(struct engine_task *et);
/* Give the waiting tasks what has become free. */
void engine_admit_waiting(struct engine *engine);

/* container.c: what is known of one container */
int engine_containers_init(struct engine_task *et);
void engine_containers_done(struct engine_task *et);
struct engine_container *engine_container_find(struct engine_task *et, const char *name);
void container_reach(struct engine_container *ec, enum task_status status);
/* Its first start, as ecs-task or the store tells it; 0: none. */
void container_set_started(struct container *c, uint64_t realtime_usec);
/* "<name>: <text>"; the first one stays. */
void container_set_reason(struct engine_container *ec, const char *name, const char *text);
/* It has failed on its way: wanted no more. name is used where err has none. */
void container_fail(struct engine_container *ec, const char *name, const struct err *err);
void container_fail_timeout(struct engine_container *ec, const char *transition, uint64_t usec);
void container_stopped(struct engine_container *ec, const int *exit_code,
                       uint64_t finished_realtime_usec);
/* An "exited" event, an exit file, or an element of "state". */
void container_exited(struct engine_container *ec, struct json_object *exit);
/* A "health" event, or that part of the state. */
void container_health(struct engine_container *ec, struct json_object *event);
/* A "managed-agent" event, or that part of the state. */
void container_managed_agent(struct engine_container *ec, struct json_object *event);
/* Namespace, endpoint and host ports, as far as they are here. */
void container_release_descriptors(struct engine_container *ec);

/* container_restart.c */
/* Of "started" and "state" of the supervisor. */
void container_note_restarts(struct engine_container *ec, struct json_object *told);
/* Is a container that has ended so, as in container_exited(), to be started again? Then that is
 * due. */
bool container_wants_restart(struct engine_container *ec, struct json_object *exit);
void container_restart(struct engine_container *ec);
/* It is to stop instead: STOPPED with its last exit, if a restart is due. */
void container_give_up_restart(struct engine_container *ec);

/* The steps of one container; each returns at once and marks the task when it has an outcome.
 * container_pull.c */
void container_pull(struct engine_container *ec);
/* A create failed with r because something is not there: perhaps a layer, of an image that is known
 * from memory and was removed meanwhile. True: it is pulled again, once. */
bool container_pull_again(struct engine_container *ec, int r);

/* container_attach.c */
void container_attach(struct engine_container *ec);

/* container_ops.c */
void container_create(struct engine_container *ec);
void container_serve(struct engine_container *ec);
void container_start(struct engine_container *ec);
void container_stop(struct engine_container *ec);
/* Made, and wanted no more before it ran: the supervisor may forget it. */
void container_discard(struct engine_container *ec);
/* Its supervisor is gone. The step under way, but for a pull, has no outcome any more: what comes
 * of it would be of a namespace that is gone too. */
void container_forget_step(struct engine_container *ec);
/* The answer says that the connection ended, not that the request failed. */
bool answer_is_lost(const struct peer *peer, int r);
/* The request of a step could not even be sent: it has failed, unless its connection is ending. */
void container_request_failed(struct engine_container *ec, const char *name, int r,
                              const char *what);

/* supervisor.c */
void supervisor_launch(struct engine_task *et);
void supervisor_find(struct engine_task *et);
void supervisor_end(struct engine_task *et);
void supervisor_done(struct supervisor *supervisor);

/* mounts.c */
int mounts_init(struct engine_task *et);
void mounts_free(struct engine_task *et);
/* Is there one that is mounted with the role of the task. */
bool mounts_need_task_role(const struct engine_task *et);
/* Start what can start; true: the supervisor has all of them. */
bool mounts_are_held(struct engine_task *et);
/* The task is to stop: no more of those that are under way. */
void mounts_cancel(struct engine_task *et);
/* What the supervisor says it has; and: there is none any more. */
void mounts_merge(struct engine_task *et, struct json_object *names);
void mounts_lost(struct engine_task *et);

/* images.c */
int images_start(struct engine *engine, struct err *err);

/* host_network.c: the bridge, the host's endpoint */
void host_network_start(struct engine *engine);
void host_network_prune(struct engine *engine);
/* The answer to "host" or "attach": if the rules had to be made anew, all ports are published
 * again. And: an attach has none, so that they may have been. */
void host_network_answered(struct engine *engine, struct json_object *answer);
void host_network_lost_answer(struct engine *engine);

/* metadata_sync.c */
extern const struct metadata_client_ops engine_metadata_ops;
void metadata_put_credentials(struct engine *engine, struct role_credential *credential);
void metadata_put_instance(struct engine *engine);
void metadata_configure(struct engine *engine);
void metadata_send_documents(struct engine_task *et);
/* The task has ended. all: its logs need its execution role no more either. */
void metadata_release(struct engine_task *et, bool all);
/* Are logs of the task sent with its execution role, which is needed until they are delivered? */
bool metadata_keeps_role(const struct task *task);
void metadata_sync_task(struct engine_task *et);
void metadata_sync_check(struct engine *engine);

uint64_t container_stop_timeout_usec(const struct engine_container *ec);

/* teardown.c */
void teardown_progress(struct engine_task *et);
void teardown_arm_cleanup(struct engine_task *et);
/* The outbox has nothing more of this task. */
void teardown_accepted(struct engine *engine, const char *arn);

/* events.c */
void events_emit(struct engine_task *et);
/* A task that is no struct task: STOPPED with a reason. */
int events_refuse(struct engine *engine, const char *arn, const char *reason);

/* persist.c */
int persist_task(struct engine_task *et);
int persist_read(struct engine *engine, struct err *err);
/* Add what the store has of the task to a record. */
int persist_to_record(const struct engine_task *et, struct json_object *record);

/* records.c: what supervisors are given to keep: a record of their task, and the order in which to
 * stop it when the host shuts down. changed: something was written to the store; connected: the
 * supervisor is ready for requests. */
void records_changed(struct engine_task *et);
void records_changed_all(struct engine *engine);
void records_connected(struct engine_task *et);

/* lost.c */
int lost_read(struct engine *engine, struct err *err);
void lost_check(struct engine *engine, const struct acs_manifest *manifest);
void lost_free(struct engine *engine);

/* orphans.c */
void orphans_start(struct engine *engine);
void orphans_free(struct engine *engine);

/* acknowledge.c: answer a message of ACS once everything of this turn is durable. payload: the
 * PayloadMessage, whose credentials are acknowledged one by one; NULL for other messages. */
void acknowledge_when_durable(struct engine *engine, const char *cluster_arn,
                              const char *container_instance_arn, const char *message_id,
                              struct json_object *payload);
void acknowledgements_free(struct engine *engine);
size_t acknowledgements_count(const struct engine *engine);

/* payload.c, manifest.c: handlers of ACS */
void payload_handle(struct acs_session *session, const struct acs_payload *payload, void *userdata);
void credentials_handle(struct acs_session *session, const struct acs_role_credentials *credentials,
                        void *userdata);
void manifest_handle(struct acs_session *session, const struct acs_manifest *manifest,
                     void *userdata);
void stop_verification_handle(struct acs_session *session,
                              const struct acs_stop_verification *verification, void *userdata);
int manifest_read(struct engine *engine, struct err *err);
void manifest_note_seq(struct engine *engine, int64_t seq);
