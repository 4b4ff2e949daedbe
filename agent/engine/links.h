/*
 * Links between containers of a task in network mode bridge: the linking container starts after the
 * linked one, finds it in its /etc/hosts by alias, host name and name, and has variables that tell
 * of it. Source: Docker, "Legacy container links".
 */
#pragma once

#include <json-c/json.h>

#include "agent/engine/task.h"
#include "lib/err.h"

/*
 * "links" of a container of the payload, "name" or "name:alias", into c, with a dependency START on
 * each that is not one already.
 * -EINVAL naming the link that is wrong; -EOPNOTSUPP: links outside network mode bridge.
 */
int links_parse(struct json_object *container, enum network_mode mode, struct container *c,
                struct err *err);

/* Are the linked containers others of the task? -EINVAL naming the link. */
int links_check(const struct task *task, const struct container *c, struct err *err);

/* ExposedPorts of dockerConfig.config, which make variables of who links to c. -EINVAL naming a key
 * that is no port. */
int links_check_exposed_ports(const struct container *c, struct err *err);

/*
 * Add "linkedHosts" of agent/task/protocol.h to obj. -ENOTCONN with err->name
 * CannotStartContainerError: a linked container is not running; -ENOMEM.
 */
int links_add_hosts(const struct task *task, const struct container *c, struct json_object *obj,
                    struct err *err);

/*
 * Add the variables of all links to env, an object of names and values; what env has stays:
 *
 *   DB_NAME                        "/<name of the container>/db"
 *   DB_PORT                        "tcp://172.29.0.5:5432", of the exposed port with the lowest
 * number DB_PORT_5432_TCP               the same of each exposed port DB_PORT_5432_TCP_ADDR, _PORT,
 * _PROTO DB_ENV_<NAME>                  what its image and its definition set, but for HOME and
 * PATH; never what the agent itself gives it
 *
 * -E2BIG when the linked container exposes more ports than there is room for; -ENOMEM.
 */
int links_add_environment(const struct task *task, const struct container *c,
                          struct json_object *env, struct err *err);
