/*
 * The requests "exec" and "exec-signal" of protocol.h, from ecs-agent's connection and from
 * operators, who have a socket of their own (TASK_EXEC_SOCKET, root only): each of its connections
 * carries one exec, and takes nothing from ecs-agent's.
 */
#pragma once

#include <json-c/json.h>
#include <poll.h>
#include <stddef.h>

#include "agent/task/exec.h"
#include "lib/ipc.h"

#define OPERATORS_MAX         16
#define EXEC_REQUESTS_FDS_MAX (1 + OPERATORS_MAX + EXEC_FDS_MAX)

struct exec_run;
struct operator_conn;

/* What it needs of the supervisor. */
struct exec_requests_calls {
	/* The container that a request names, or an errno with err. */
	int (*get_container)(void *userdata, struct json_object *request, struct container **ret,
	                     struct err *err);
	void (*send_to_agent)(void *userdata, struct json_object *body, const int *fds, size_t n);
	void *userdata;
};

struct exec_requests {
	struct exec_requests_calls calls;
	struct exec_set set;
	struct exec_run *runs;
	struct operator_conn *operators;
	size_t n_operators;
	int listen_fd;
};

void exec_requests_init(struct exec_requests *er, const struct exec_requests_calls *calls);
/* Listen for operators below run_dir. */
int exec_requests_listen(struct exec_requests *er, const char *run_dir, struct err *err);
void exec_requests_done(struct exec_requests *er);

/* From ecs-agent's connection; errors are the caller's to answer. */
int exec_requests_exec(struct exec_requests *er, struct json_object *request,
                       struct ipc_message *msg, struct err *err);
int exec_requests_signal(struct exec_requests *er, struct json_object *request, struct err *err);

/* What ecs-agent's requests have running in the container: an array for "state"; NULL: no memory.
 */
struct json_object *exec_requests_state(const struct exec_requests *er,
                                        const struct container *container);

/* As the functions of exec.h: at most EXEC_REQUESTS_FDS_MAX entries. */
size_t exec_requests_poll(struct exec_requests *er, struct pollfd *fds);
void exec_requests_serve(struct exec_requests *er, const struct pollfd *fds);
