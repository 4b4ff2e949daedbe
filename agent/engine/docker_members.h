/*
 * The members of Docker's container Config and HostConfig (Engine API 1.44), and what becomes of
 * each in a container of ours: no member is accepted and then forgotten.
 *
 * A member is honoured (spec.c and its neighbours read it), without effect (Docker has no use for
 * it in a container that nobody attaches to either), or refused unless it asks for nothing: null,
 * false, 0, "", [], {} or a word that names what is the case anyway. All are of their type, names
 * are matched without regard to case, and one that is not in the tables is refused by its name.
 */
#pragma once

#include <json-c/json.h>

#include "lib/err.h"

/* dockerConfig.config and .hostConfig. -EINVAL: of another type, or there twice in different case;
 * -EOPNOTSUPP: cannot be honoured. err names the member, what it is and what is right. */
int docker_config_check(struct json_object *config, struct err *err);
int docker_host_config_check(struct json_object *host_config, struct err *err);
