/*
 * Requests of ecs-agent to ecs-network, the one owner of host-wide network state. Started by the
 * launcher ("network"), the connection is descriptor 3; requests are answered in order, and the
 * process ends when the connection does. One runs at a time: the next waits for the one before
 * (a lock in the runtime directory). It keeps no state: what is there is found in the kernel
 * (links named by container id, nft elements with the id as comment). Members not named here are
 * refused by name.
 *
 *  {"type":"host","seq":n,"metadata":true}
 *      Make what the host needs, if it is missing: bridge with its address, ip_forward, nft table
 *      (outbound NAT, published ports) and, with "metadata", the host's own endpoint
 *      169.254.170.2 for tasks in host mode.
 *      -> {"type":"host","bridge":"ecs0","address":"172.29.0.1","prefix":16,"mtu":1500,
 *          "created":bool}
 *         descriptors, with "metadata": the endpoint's listening socket, and its BPF link, which
 *         must be kept open as long as the socket.
 *      "created": the nft table was not there (first start, or somebody has flushed the rules, as
 *      a reload of nftables.service does), so nothing is published: "publish" puts the ports of
 *      running containers back. "attach" and "publish" make a missing table as well, and say so.
 *      Errors: code EADDRINUSE when the host's endpoint is still listened on (ecs-metadata has it
 *      already), EEXIST when bridge name or subnet are those of something else. What was made until
 *      then stays.
 *
 *  {"type":"attach","seq":n,"id":"<64 hex>","address":"172.29.0.5",
 *   "ports":[{"containerPort":80,"hostPort":0,"protocol":"tcp"},...],
 *   "portRange":[32768,60999],"portCursor":32767}        descriptor: the namespace
 *      A veth pair into the bridge, eth0 with address and default route inside, published ports
 *      (at most 64). hostPort 0: a free one from portRange is found, scanning from portCursor + 1
 *      and wrapping once; range and cursor may be missing if there is none to find.
 *      Each host port is bound and the sockets are handed back: whoever holds them keeps the port
 *      from ephemeral use, for as long as the task lives.
 *      -> {"type":"attached","address":"172.29.0.5","prefix":16,"gateway":"172.29.0.1",
 *          "mac":"0a:58:...","portCursor":32768,"created":bool,
 *          "bindings":[{"containerPort":80,"hostPort":32768,"protocol":"tcp","bindIP":"0.0.0.0"}]}
 *         descriptors: one bound socket for each binding, in order.
 *      Errors: code EADDRINUSE "host port 8080/tcp is already in use" or "a host port is
 *      unavailable"; ENOENT: there is no bridge, "host" was not asked for. On an error nothing of
 *      the id is left. A repeated attach of an id first removes what is there (close the sockets
 *      that were handed back for it).
 *
 *  {"type":"publish","seq":n,"id":"<64 hex>","address":"172.29.0.5","bindings":[as answered]}
 *      The rules for the ports of an attached container, whose sockets are held already, and no
 *      others for it; those that are there are not touched, so it is safe to repeat.
 *      -> {"type":"published","created":bool}
 *
 *  {"type":"detach","seq":n,"id":"<64 hex>"}     -> {"type":"detached"}; nothing there is no error
 *  {"type":"prune","seq":n,"keep":["<64 hex>",...]}  -> {"type":"pruned","removed":["..."]}
 *      Removes every link and nft element of an id not listed. In "removed" an id is its first 12
 *      digits only if the process that attached it was killed before it could note the rest.
 *
 * Bridge, subnet and table name come from root's ecs.config: ECS_BRIDGE_NAME (ecs0) and
 * ECS_BRIDGE_SUBNET (172.29.0.0/16, the first address is the bridge's); the nft table is "ip ecs_"
 * and the bridge name. `ecs-network --remove` removes all of it, for the end of an installation.
 * Other tables of the host stay as they are: where one of them drops forwarded packets, as Docker's
 * does, the administrator has to let the bridge through there.
 */
#pragma once

#define NETWORK_BRIDGE_NAME_DEFAULT   "ecs0"
#define NETWORK_BRIDGE_SUBNET_DEFAULT "172.29.0.0/16"
#define NETWORK_BRIDGE_PREFIX_MIN     8 /* of a subnet */
#define NETWORK_BRIDGE_PREFIX_MAX     29
