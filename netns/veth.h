/*
 * The link of one container: eth0 in its namespace, and on the host a port of the bridge, named
 * "ecs" and the first 12 digits of the container id, whose alias is the whole id.
 */
#pragma once

#include "lib/cleanup.h"
#include "lib/err.h"
#include "netns/bridge.h"

#include <net/if.h>
#include <stdint.h>

#define CONTAINER_ID_LENGTH 64
#define MAC_TEXT_MAX        sizeof("00:00:00:00:00:00")

/* name: IFNAMSIZ bytes. */
void veth_name(const char *id, char *name);

/*
 * Make the pair and fill eth0: address, MAC, default route over the bridge, no IPv6; both ends up.
 * netns_fd is borrowed. mac: MAC_TEXT_MAX bytes.
 * Returns 0, -EEXIST (that container has a link, or the namespace an eth0), -ENOENT (there is no
 * bridge) or another errno; on failure nothing is left.
 */
int veth_create(const struct bridge *bridge, struct nl_sock *sock, const char *id, int netns_fd,
                uint32_t address, char *mac, struct err *err);

/* Remove the link of a container. Returns 1, or 0 if there is none, or -errno. */
int veth_remove(struct nl_sock *sock, const char *id, struct err *err);

/*
 * Call fn with the id of each container that has a port on the bridge; only its first 12 digits
 * when the process that made it died before it could write the alias. fn may remove it.
 */
int veth_foreach(const struct bridge *bridge, struct nl_sock *sock,
                 int (*fn)(const char *id, void *userdata, struct err *err), void *userdata,
                 struct err *err);
