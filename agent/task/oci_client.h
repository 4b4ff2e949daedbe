/*
 * A container of the OCI command line: a supervisor with one container, and the directory that
 * names it. Nobody but the supervisor keeps its state.
 *
 *   <root>/tasks/<id>/            root 0700; as of any task (protocol.h), and
 *       oci.json                  what "state" shows of the bundle
 *       lock                      held (flock(2)) by the command that speaks with the supervisor
 *   <root>/state/                 as <state> of tasks
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <sys/types.h>

#include "lib/err.h"
#include "lib/ipc.h"

struct oci_client {
	const char *root;          /* --root, absolute */
	const char *cgroup_parent; /* --cgroup-parent */
	const char *id;
	struct ipc_conn *conn;
	int lock_fd;
};

#define OCI_CLIENT_EMPTY                                                                           \
	{                                                                                          \
		.lock_fd = -EBADF                                                                  \
	}

void oci_client_done(struct oci_client *client);

/* Make the directories and start the supervisor. -EEXIST: the id is in use. What was made is
 * removed by oci_client_remove(), also after a failure other than that. */
int oci_client_create(struct oci_client *client, struct err *err);

/* -ENOENT: no container of this id; -ECONNREFUSED: its supervisor has died. */
int oci_client_open(struct oci_client *client, struct err *err);

/* One request: body is taken. *ret may be NULL. An answer of type "error" is its negative errno. */
int oci_client_call(struct oci_client *client, struct json_object *body, const int *fds, size_t n,
                    struct ipc_message *ret, struct err *err);

/* End the supervisor, which must not have anything running, and remove what there is of it. */
int oci_client_remove(struct oci_client *client, struct err *err);

struct oci_state {
	const char *status; /* created, running or stopped, as OCI has it */
	pid_t pid;          /* 0 when stopped */
	int exit_code;      /* -1: none */
};
int oci_client_state(struct oci_client *client, struct oci_state *ret, struct err *err);

/* "oci.json"; *ret is owned by the caller. */
int oci_client_save(const struct oci_client *client, struct json_object *obj, struct err *err);
int oci_client_load(const struct oci_client *client, struct json_object **ret, struct err *err);

/* <root>/tasks/<id>/<name> */
int oci_client_path(const struct oci_client *client, const char *name, char *buf, size_t n,
                    struct err *err);
