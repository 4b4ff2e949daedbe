/*
 * What ECS_DISABLE_PRIVILEGED asks of a container beside not being "privileged": nothing that hands
 * it what only privileged containers have with Docker's defaults.
 *
 *   linux.maskedPaths, .readonlyPaths   have all that a container has by default (default_paths.h):
 *                                       root in a container may otherwise write /proc/sys and
 *                                       /proc/sysrq-trigger, which are the host's
 *   linux.resources.devices             rules that let read or write name one device each
 *
 * Capabilities, devices by name, seccomp profiles and host paths are not looked at: ECS tasks may
 * have them, so with CAP_SYS_ADMIN or a disk of the host a container still gets at all of it.
 */
#pragma once

#include "agent/task/spec.h"
#include "lib/err.h"

/* -EPERM: err says what is forbidden. */
int unprivileged_check(const struct container_spec *spec, struct err *err);
