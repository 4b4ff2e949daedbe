/*
 * <run>/metadata/control.sock: ecs-metadata, the one store of credentials and the server of
 * 169.254.170.2. Peers by SO_PEERCRED: ecs-agent (or root) may do everything, ecs-logs and
 * ecs-image may only "get-credentials" of execution roles and of "instance". Everything is in
 * memory. Under systemd all but the documents survives this process, and a request is answered when
 * it would (keep.h); otherwise all is gone with it. "hello" tells ecs-agent what to send again.
 *
 *  {"type":"hello","seq":n} -> {"type":"hello","tasks":["<task id>",...],
 *      "served":{"<task id>":["<container>",...],...},"credentials":["<id>",...],"host":bool}
 *      What this process has. A container is served when its socket is here or, in host mode, its
 *      cgroup is known.
 *  {"type":"put-credentials","seq":n,"credentialsId":"...","taskId":"..."|absent for "instance",
 *   "taskArn":"...","roleType":"TaskApplication"|"TaskExecution"|"Instance","roleArn":"...",
 *   "accessKeyId":"...","secretAccessKey":"...","sessionToken":"...","expiration":"<RFC 3339>",
 *   "forMounts":bool}
 *      Replaces those of the same id. forMounts, for roleType TaskApplication only and false where
 *      it is missing: the task has an EFS volume with IAM, so that processes of the host ask for
 *      them (below).
 *  {"type":"remove-credentials","seq":n,"credentialsId":"..."}
 *  {"type":"serve","seq":n,"taskId":"...","container":"app"}     descriptor: endpoint socket
 *      Requests that arrive there are this container's. Serving one again replaces the socket.
 *  {"type":"serve-host","seq":n}       descriptors: the host's endpoint socket and its BPF link,
 *      kept open beside it (without the link nothing leads from port 80 to the socket)
 *  {"type":"host-container","seq":n,"taskId":"...","container":"app","cgroupId":n}
 *      In host mode the caller is the container whose cgroup2 id its connection carries.
 *  {"type":"documents","seq":n,"taskId":"...","documents":{"/v4/<uuid>":{...},
 *   "/v4/<uuid>/task":{...},...}}
 *      Answered as they are to the containers of this task only. Replaces all earlier documents of
 *      the task.
 *  {"type":"release","seq":n,"taskId":"..."}   forget the task: sockets, documents, credentials of
 *      role TaskApplication, or all with "all":true.
 *  {"type":"get-credentials","seq":n,"credentialsId":"..."} -> {"type":"credentials","roleArn",
 *      "accessKeyId","secretAccessKey","sessionToken","expiration"} or error ENOENT (unknown),
 *      EAGAIN (announced, not here yet), EKEYEXPIRED.
 *  {"type":"configure","seq":n,"cluster":"...","containerInstanceArn":"...",
 *   "requestsPerSecond":40,"burst":60}     descriptor (optional): the audit log, open for
 * appending; ecs-metadata has no file system of its own, so without it audit lines go to its log.
 *  Other requests answer {"type":"ok"}.
 *
 * HTTP for containers, on every socket: GET (or any method) /v2/credentials/<id> and
 * /v1/credentials?id=<id>, the documents' paths; a credentials id of another task is refused as
 * unknown (400 InvalidIdInRequest). Root of the host may ask for those that are forMounts, on the
 * host's socket and from a cgroup outside of all tasks' (route.h).
 * After a restart, until "hello" was followed by {"type":"complete"} (a request), a request for an
 * unknown id or document waits for it, not quite a second, and is answered 503 then rather than 400
 * or 404.
 */
#pragma once

#define METADATA_SOCKET "metadata/control.sock"
