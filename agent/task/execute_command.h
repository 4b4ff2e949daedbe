/*
 * ECS Exec in a container: the SSM agent that answers `aws ecs execute-command`. Its files are the
 * host's (execute_command_files.h); it runs as root inside the container like any exec (exec.h),
 * with the container's environment, through which it finds the credentials of the task's role.
 *
 *   PENDING  not started yet
 *   RUNNING  "ExecuteCommandAgent started", or "restarted" when one before it has ended
 *   STOPPED  with what is wrong: it is not there, could not be started, or ends again and again
 *
 * One that ends is started again a second later. If it does not last a minute, that is doubled each
 * time up to a quarter of an hour, and it is STOPPED until one has lasted for five seconds. Where
 * its files or mounts fail it is STOPPED for good. Nothing of it ever fails the container.
 *
 * Source: Amazon ECS agent, managed agents; ECS developer guide, "Using ECS Exec".
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "agent/task/exec.h"
#include "agent/task/execute_command_files.h"
#include "lib/cleanup.h"
#include "lib/err.h"

/* "executeCommandAgent" of protocol.h: its sessionLimit. -EINVAL names the member. */
int execute_command_parse(struct json_object *obj, unsigned int *ret_session_limit,
                          struct err *err);

struct execute_command;

/* What is missing on the host makes it STOPPED, which is no error here. -ENOMEM. */
int execute_command_new(const struct execute_command_request *request,
                        struct execute_command **ret);
struct execute_command *execute_command_free(struct execute_command *ec);
DEFINE_CLEANUP(struct execute_command *, execute_command_free)

/* For one start of the container: the mounts of its files, of the caller to close with
 * execute_command_mounts_done(), which copes with those of false, too. */
bool execute_command_get_mounts(struct execute_command *ec,
                                struct execute_command_mount ret[EXECUTE_COMMAND_MOUNTS]);
/* The child could not attach mount i of them. */
void execute_command_mount_failed(struct execute_command *ec, int error, int i);

/* The container has started; it and the set are borrowed until execute_command_stop(). */
void execute_command_start(struct execute_command *ec, struct exec_set *set,
                           struct container *container);
/* It has ended. The last status stays. */
void execute_command_stop(struct execute_command *ec);

/* When execute_command_due() has something to do, monotonic; 0: nothing is waiting. */
uint64_t execute_command_deadline(const struct execute_command *ec);
void execute_command_due(struct execute_command *ec, uint64_t now_usec);

/* Is there anything new in execute_command_to_json() since this was asked last? */
bool execute_command_take_news(struct execute_command *ec);

/* Adds "name", "status" and "reason"; PENDING has neither status nor reason. */
int execute_command_to_json(const struct execute_command *ec, struct json_object *obj);
