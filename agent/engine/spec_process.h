/* The "process" object of a container's OCI configuration: args, env, capabilities, limits. */
#pragma once

#include "agent/engine/spec.h"

/* *ret is owned by the caller. Errors as spec_container(). */
int spec_process(const struct task *task, const struct container *container,
                 const struct spec_options *options, struct json_object **ret, struct err *err);
