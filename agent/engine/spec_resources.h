/*
 * What a container may use: "linux.resources" of its OCI configuration (memory, cpu, pids, block
 * I/O, rules for devices), and the devices of the host that it is given.
 */
#pragma once

#include "agent/engine/spec.h"

/* The cpu of a container definition as the kernel takes it: 2 to 262144. */
int64_t spec_cpu_shares(int64_t cpu);

/* Fill resources. -EINVAL names the member, its value and what it must be; -ENOMEM. */
int spec_resources(const struct task *task, const struct container *container,
                   const struct spec_options *options, struct json_object *resources,
                   struct err *err);

/* Does nobody ask for an amount of swap: then Docker's default may be left out on a host that does
 * not count it. */
bool spec_has_default_swap(const struct container *container);

/* "hostDevices" of the "create" message (agent/task/protocol.h), which looks them up. */
int spec_devices(const struct container *container, struct json_object *obj, struct err *err);
