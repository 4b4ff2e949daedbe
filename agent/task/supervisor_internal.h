/*
 * What the files of a supervisor share. supervisor.c has the loop, the signals, the start and the
 * end of it all; supervisor_requests.h is what it is asked for, with supervisor_containers.h for
 * one container and supervisor_state.h for an agent that comes back; supervisor_report.h is what
 * it says.
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
