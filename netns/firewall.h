/*
 * The nft table of one bridge, "ip ecs_<bridge>": outbound NAT, published ports, and what must not
 * pass. A published port is an element of the map "ports" with the container id as its comment.
 * The rules name the bridge only, so that they never change while containers come and go.
 *
 * The table accepts what it has to, and drops what must not reach a container. It cannot undo a
 * drop of another table: where the host's own forward policy is to drop (Docker sets it so), the
 * administrator has to let the bridge through there.
 */
#pragma once

#include "lib/cleanup.h"
#include "lib/err.h"
#include "netns/bridge.h"
#include "netns/host_port.h"
#include "netns/veth.h"

#include <stdbool.h>

struct firewall;

struct published_port {
	char id[CONTAINER_ID_LENGTH + 1];
	uint32_t address; /* of the container, in host byte order */
	struct port_mapping mapping;
};

/* bridge is borrowed for the life of the object. Talks to the namespace that the thread is in. */
int firewall_new(const struct bridge *bridge, struct firewall **ret, struct err *err);
struct firewall *firewall_free(struct firewall *firewall);
DEFINE_CLEANUP(struct firewall *, firewall_free)

/* Make the table, or put its rules right; ports that are published stay so. One transaction.
 * *ret_created, on failure too: it was not there, so neither was any published port. */
int firewall_create(struct firewall *firewall, bool *ret_created, struct err *err);

/* Make the table if somebody has removed it; costs next to nothing while it is there. */
int firewall_repair(struct firewall *firewall, bool *ret_created, struct err *err);

/* Remove the table; one that is not there is no error. */
int firewall_remove(struct firewall *firewall, struct err *err);

/* All published ports, owned by the caller (free()). Without the table there are none. */
int firewall_list(struct firewall *firewall, struct published_port **ret, size_t *ret_n,
                  struct err *err);

/*
 * Publish ports, in one transaction. The caller has the host ports (host_ports_bind()), so what
 * other containers have published on them is left over, and replaced. A table that somebody has
 * removed is made again; *ret_created, on failure too, says so.
 */
int firewall_publish(struct firewall *firewall, const struct published_port *ports, size_t n,
                     bool *ret_created, struct err *err);

/* Take back these, as firewall_list() gave them, in one transaction. */
int firewall_unpublish(struct firewall *firewall, const struct published_port *ports, size_t n,
                       struct err *err);
