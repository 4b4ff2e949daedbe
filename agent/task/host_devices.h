/*
 * Devices of the host that a container is given by path, as Docker takes them: a device, a link to
 * one, or a directory with all devices in it. Looked up when the container is made, by us:
 * ecs-agent has a /dev of its own.
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
