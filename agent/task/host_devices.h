/*
 * Devices of the host. A container is given them by path, as Docker takes them: a device, a link to
 * one, or a directory with all devices in it. Looked up when the container is made, by us:
 * ecs-agent has a /dev of its own. A privileged container is given all of them.
 */
#pragma once

#include "agent/task/spec.h"
#include "lib/err.h"

/*
 * Append what spec->host_devices means to spec->devices and spec->device_rules.
 * -ENOENT and so on of a path; -EINVAL: it is no device, or a directory without any; -E2BIG: more
 * than SPEC_DEVICES_MAX; -ENOMEM. err names the path.
 */
int host_devices_add(struct container_spec *spec, struct err *err);

struct host_device; /* child.h */

/*
 * Every device in the host's /dev, for privileged containers, but for consoles, terminals and what
 * is mounted there. *ret is owned by the caller. Returns 0 or -ENOMEM.
 */
int host_devices_all(struct host_device **ret, size_t *ret_n, struct err *err);
