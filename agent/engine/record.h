/*
 * The record of a task: what ecs-agent's store says of it and of the container instance, as one
 * JSON object that the task's supervisor keeps, so that a store which is lost can be rebuilt.
 *
 *   {"version":1,"time":<realtime usec>,
 *    "instance":{"cluster":"...","container-instance-arn":"...",...},   as in state_set()
 *    "task":{"arn":"...",...}, "containers":[{"name":"app",...},...]}   columns of their rows
 *
 * Columns are matched by name, so an ecs-agent of another version takes what it knows. Never
 * credentials.
 */
#pragma once

#include <json-c/json.h>

#include "agent/state/state.h"
#include "lib/err.h"

#define RECORD_VERSION 1

/* Members of "instance". */
extern const char *const record_instance_keys[];
extern const size_t record_n_instance_keys;

/* Owned by the caller; NULL when out of memory. */
struct json_object *record_new(uint64_t time_realtime_usec);
int record_set_instance(struct json_object *record, const char *key, const char *value);
int record_set_task(struct json_object *record, const struct state_task *row);
int record_add_container(struct json_object *record, const struct state_container *row);

/*
 * Back. Text is borrowed from the record. Returns 0, or -EINVAL with what is wrong in err: a member
 * that is missing, of another type, or of a version with another meaning. container takes an
 * element of record_containers(), which is never NULL after record_get_task() has succeeded.
 */
int record_get_task(struct json_object *record, struct state_task *ret, struct err *err);
struct json_object *record_containers(struct json_object *record);
int record_get_container(struct json_object *element, const char *task_arn,
                         struct state_container *ret, struct err *err);

/* NULL when the record does not have it. */
const char *record_instance(struct json_object *record, const char *key);
uint64_t record_time(struct json_object *record);
