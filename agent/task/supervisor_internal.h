/*
 * A supervisor in two files: supervisor.c has the loop, the signals, the start and the end of it
 * all; supervisor_requests.c has what it is asked for, and what it says of its containers.
 */
#pragma once

#include <json-c/json.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "agent/task/container.h"
#include "agent/task/exec_requests.h"
#include "agent/task/mounted.h"
#include "agent/task/supervisor.h"
#include "lib/err.h"
#include "lib/ipc.h"

#define CONTAINERS_MAX 64

struct supervisor {
	struct task task;
	const char *state_dir;
	char run_dir[PATH_MAX]; /* <run>/tasks/<id> */
	gid_t agent_gid;        /* group of <run>/tasks: who may connect besides root */
	int signal_fd, listen_fd;
	struct ipc_conn *conn; /* NULL: ecs-agent is not there */
	struct container *containers;
	size_t n_containers;
	char *record;                   /* JSON text of "record"; NULL: none */
	struct json_object *stop_order; /* array of "stop-order"; NULL: none */
	char exits_dir[PATH_MAX];       /* <state>/exits */
	struct exec_requests execs;
	struct mounted_volumes mounted;
	bool oci, host_pid;
	bool was_set_up;
	bool stopping; /* SIGTERM */
	bool ended;    /* leave the loop once the answer is sent */
	uint64_t dropped_usec;
};

/* --- the connection of ecs-agent; what cannot be sent drops it --- */

void supervisor_drop_connection(struct supervisor *s);
void supervisor_send(struct supervisor *s, struct json_object *body, const int *fds, size_t n);
void supervisor_send_error(struct supervisor *s, struct json_object *request, int code,
                           const struct err *err);

/* One request, answered or failed. */
void supervisor_handle(struct supervisor *s, struct ipc_message *msg);

/* --- what is said without being asked --- */

/* Read what the child of a start reports, and answer the request when it is over. ended: the child
 * is gone. */
void supervisor_start_progress(struct supervisor *s, struct container *container, bool ended);
void supervisor_answer_start_failed(struct supervisor *s, struct container *container,
                                    const struct err *err);
void supervisor_send_exited(struct supervisor *s, struct container *container);
/* Where there are any that were not told yet. */
void supervisor_send_dropped(struct supervisor *s, struct container *container);
void supervisor_send_health(struct supervisor *s);
void supervisor_send_managed_agents(struct supervisor *s);

/* --- calls of exec_requests.h; userdata: the supervisor --- */

int supervisor_container_for_exec(void *userdata, struct json_object *request,
                                  struct container **ret, struct err *err);
void supervisor_send_for_exec(void *userdata, struct json_object *body, const int *fds, size_t n);

/* What fails is logged and left to the reaper. */
void supervisor_remove_runtime_directory(struct supervisor *s);
