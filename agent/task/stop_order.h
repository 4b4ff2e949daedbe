/*
 * How a task is stopped when the host shuts down: in which order ("stop-order" of protocol.h), and
 * where the exits go so that they outlive the host.
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

#include "agent/task/container.h"
#include "lib/err.h"

/* The longest order that is taken. */
#define STOP_ORDER_MAX 64

/*
 * Take the order of a request in place of *order (owned; NULL: none). Returns 0, or -EINVAL or
 * -E2BIG with what is wrong; *order is untouched then.
 */
int stop_order_take(struct json_object **order, struct json_object *request, struct err *err);

/* Is it the container's turn: has every one that comes before it stopped? containers: the first of
 * the task's. Where the order says nothing of it, or names what is not there, it is. */
bool stop_order_allows(struct json_object *order, const struct container *containers,
                       const struct container *container);
uint64_t stop_order_timeout_usec(struct json_object *order, const struct container *container);

/* Make the directory <exits>/<task id> for container_save_exit(); synced as far as its own name
 * goes. Its descriptor, or -errno with err. */
int exits_create(const char *exits_dir, const char *task_id, struct err *err);
