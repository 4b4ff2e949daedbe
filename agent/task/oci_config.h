/*
 * The config.json of a bundle (OCI runtime-spec 1.0.2, config.md and config-linux.md), as the
 * "container" of protocol.h, with which tasks are made as well. What it asks for that ecs-task does
 * not do is refused by name; nothing is passed over, but for these, which change nothing:
 *
 *   - capabilities in "ambient" that are not in "inheritable", which the kernel does not give
 *     (inheritable must be empty);
 *   - the mounts that every container has (/proc, /dev, /dev/pts, /dev/shm, /dev/mqueue, /sys,
 *     /sys/fs/cgroup) are made whether they are listed or not, as "runc spec" writes them; another
 *     type or option there is refused. /proc and what is masked are mounted nosuid, nodev and
 * noexec;
 *   - a container always has a cgroup namespace of its own, also when "cgroup" is not listed; the
 *     IPC and the network namespace are the host's when they are not, and the latter can have a
 *     path;
 *   - with a user namespace the root file system and the mounts are as they are on the host: who
 *     made the bundle has given them to the ids of the container;
 *   - the primary gid is one of the supplementary groups, too.
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>

#include "lib/err.h"

#define OCI_VERSION    "1.0.2"
#define OCI_CONFIG_MAX (4 * 1024 * 1024)

struct oci_config {
	struct json_object *container;   /* owned */
	struct json_object *annotations; /* owned; NULL: none */
	bool host_network;
	bool terminal;
};

/* bundle: its absolute path, which root.path is relative to. id: 64 hex digits. */
int oci_config_parse(struct json_object *config, const char *bundle, const char *id,
                     struct oci_config *ret, struct err *err);
void oci_config_done(struct oci_config *config);

/* The container's name in its supervisor. */
#define OCI_CONTAINER_NAME "container"
