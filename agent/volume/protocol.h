/*
 * ecs-volume: one file system for one volume of one task, mounted by root and apart from the task,
 * so that a server that hangs holds up this process and no other. It is started through
 * ecs-launcher, once for each mount. Two parties:
 *
 * ecs-agent, on descriptor 3 (lib/ipc messages), asks once:
 *
 *  {"type":"mount","seq":n,"taskId":"...","name":"data",   the volume in the task definition
 *   "driver":{"type":"nfs","device":":/share","options":"addr=10.0.0.2,nfsvers=4.1"}
 *      what Docker's local driver takes as driverOpts type, device and o. Types: none (a bind
 *      mount of a host path, which ECS_ALLOWED_HOST_PATHS must have), tmpfs, nfs, nfs4, cifs
 *   or "efs":{"fileSystemId":"fs-...","rootDirectory":"/","server":"fs-....amazonaws.com",
 *      "tls":bool,"tlsPort":n,"accessPointId":"fsap-...","credentialsPath":"/v2/credentials/..."}
 *      by mount.efs where that is installed, else NFSv4.1 at "server", which can do none of the
 *      last four (-EOPNOTSUPP); all but the first may be missing
 *   "shared":{"existing":bool,"labels":{...}}}   the volume outlives the task: a directory of
 *      <state>/volumes says with which driver it was made (volume.h), and must agree
 *  -> {"type":"mounted","seq":n} descriptor: the lifeline, or an error
 *      Closing the connection before that gives the mount up.
 *
 * The supervisor of the task (ecs-task) gets the lifeline from ecs-agent: a SOCK_SEQPACKET socket
 * whose other end is this process. What it carries:
 *
 *  to the supervisor, once:   VOLUME_MOUNT with the mount, detached, to be attached once
 *  to ecs-volume:             VOLUME_HELD with a pidfd of the supervisor: it has attached it
 *                             VOLUME_ABORT: requests that wait for the server are to fail, so that
 *                             processes that were killed can end
 *
 * When the lifeline is closed (and the supervisor, if it took the mount, has ended with all its
 * processes) the file system is flushed and unmounted, and this process ends. It gives a server 30
 * seconds for that. Of types without a server (none, tmpfs) it ends as soon as it has answered.
 *
 * Nothing of a mount shows on the host, but for mount.efs: its watchdog looks for mounts in the
 * host's namespace and ends the tunnel of those it does not find. They are at
 * <run>/mounts/<task id>/<volume>, where ecs-task --reap removes what nobody holds (flock(2) on
 * <run>/mounts/<task id>).
 */
#pragma once

#define VOLUME_MOUNT "mount"
#define VOLUME_HELD  "held"
#define VOLUME_ABORT "abort"

#define VOLUME_MOUNTS_DIR "mounts" /* below the runtime directory */
