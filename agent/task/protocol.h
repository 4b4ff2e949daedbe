/*
 * ecs-agent and ecs-task: the supervisor of one task. The first connection comes through the
 * launcher; ecs-task also listens at <run>/tasks/<task id>/control.sock (root:ecs-agent 0660, peer
 * checked) so that a restarted ecs-agent finds it again. The newest connection replaces the one
 * before. Requests ("seq" is repeated in the answer or error). Either program may be of an older
 * version than the other: a request that ecs-task does not know is answered with ENOSYS, and
 * members that are not known are ignored but for those of "setup" and "create":
 *
 *  {"type":"setup","task":{
 *      "arn":"arn:aws:ecs:...","networkMode":"bridge"|"host"|"none",
 *      "pidMode":"private"|"task"|"host","ipcMode":"private"|"none"|"task"|"host","shmBytes":n,
 *      "cgroup":{"cpuQuotaUsec":n,"cpuPeriodUsec":n,"cpuShares":n,"memoryBytes":n,"pidsMax":n}}}
 *      Once, first. pidMode, ipcMode: see namespaces.h; private if missing. shmBytes: size of the
 *      /dev/shm that ipcMode task shares. -> {"type":"ready"}
 *
 *  {"type":"volume","name":"data"}         descriptor: the lifeline of ecs-volume
 *      (agent/volume/protocol.h), through which the mount itself is taken. From here on containers
 *      can mount "mounted/data". It goes with this process. -> {"type":"volume-held"}
 *      Repeated for a name: the same answer, and the second mount is let go.
 *
 *  {"type":"create","container":{
 *      "name":"app",                       the name in the task definition
 *      "id":"<64 hex>",                    runtime id
 *      "layers":["<64 hex diffID>",...],   lowest first; below <state>/images/layers/
 *      "config":{...},                     OCI runtime-spec 1.0.2 config.json, see below
 *      "user":"1000:1000"|"nginx",         as in Docker's Config.User, names from the image
 *      "seccomp":"default"|"unconfined"|{"profile":"<JSON as text>"}|{"path":"/of/a/profile"},
 *                                          see seccomp_profile.h and seccomp_task.h
 *      "privileged":false,
 *      "userns":"host",                    as Docker's UsernsMode: not remapped, which root's
 *                                          configuration must allow (userns.h); or absent
 *      "init":false,                       true: a small init is process 1 of the container
 *      "restart":false,                    true: may be started again after it has exited, with the
 *                                          same root file system and namespaces; its log stream
 *                                          then ends with the task, not with the exit
 *      "interactive":false,                true: standard input stays open, and silent
 *      "networkDisabled":false,            true: bridge mode, but "start" comes without "network"
 *      "hostDevices":[{"hostPath":"/dev/snd","path":"/dev/snd","access":"rwm"}],
 *                                          devices of the host, see host_devices.h
 *      "swapIfCounted":false,              true: where the kernel does not count swap, memory.swap
 *                                          is left out rather than refused
 *      "domainname":"example.com",         what follows the host name, or none
 *      "dns":{"servers":[],"search":[],"options":[]}, "extraHosts":["name:ip"],
 *      "linkedHosts":["ip name name ..."], lines of /etc/hosts for linked containers
 *      "stopSignal":"SIGTERM",
 *      "ipcMode":"none"|"host",            in a task that has no ipcMode: of this container alone
 *      "healthCheck":{"args":["..."],"intervalUsec":n,"timeoutUsec":n,"startPeriodUsec":n,
 *          "startIntervalUsec":n,"retries":n}, see health.h; all of it but startIntervalUsec (5 s
 *                                          without it), or no "healthCheck"
 *      "executeCommandAgent":{"sessionLimit":n},   ECS Exec (execute_command.h), or none
 *      "log":{...}}}                       see lib/spool.h; driver "none": output is discarded
 *      Cgroup, namespaces, network endpoint, root file system. For host mode no namespace is made.
 *      Of config these are taken, and a member not known is refused by name: ociVersion, hostname,
 *      root.readonly, process (args, env, cwd, terminal, consoleSize, capabilities, rlimits,
 *      noNewPrivileges, oomScoreAdj, apparmorProfile, selinuxLabel), mounts (bind and tmpfs; a
 *      source that is missing is made as a directory; type "volume": source "task/NAME",
 *      "anonymous/NAME", "shared/NAME" or "mounted/NAME" (volume.h), the options "nocopy" and
 *      "existing", and a member "labels"), linux.maskedPaths, .readonlyPaths, .sysctl, .devices,
 * .mountLabel, linux.resources (cpu.shares, .quota, .period, memory.limit, .reservation, .swap,
 *      .swappiness, pids.limit, blockIO.weight, and devices: rules that allow; without them
 *      linux.devices may be used in every way). Labels and AppArmor profiles: label.h.
 *      -> {"type":"created","container":"app","cgroupId":n} descriptors: network namespace and
 *         endpoint socket (bridge and none), none in host mode.
 *      Repeated for a container of this id that has not been started: the same answer again, for an
 *      ecs-agent that was restarted before it had the first. Errors are named
 *      CannotCreateContainerError.
 *
 *  {"type":"start","container":"app","network":{"address":"172.29.0.5","prefix":16,
 *      "gateway":"172.29.0.1"}}            descriptors: host port sockets, held until the task ends
 *      Writes /etc/hosts, /etc/hostname, /etc/resolv.conf and runs the process. "network" only for
 *      bridge, and not with networkDisabled. One that was made with "restart" is started again by
 * the same request, with the "network" and the ports of before where none are given.
 *      -> {"type":"started","container":"app","pid":n,"time":<realtime usec>,"restarts":n} once
 *         execve(2) has succeeded; pid as the host counts; restarts: starts but for the first.
 *      Errors are named CannotStartContainerError; the container is stopped then, with exit code
 *      127 (command not found) or 126 (not executable), sent as "exitCode" in the error message
 *      beside "container".
 *
 *      With "oci":{"rootfs":"/dir","hold":true,"additionalGids":[],"uidMappings":[],
 *      "gidMappings":[],"networkNamespace":"/path"} (only of a supervisor of the
 *      OCI command line) in place of layers, and descriptors in "create" that are the container's
 *      standard input, output and error, nothing is added that Docker adds, and with "hold" the
 *      first "start" is answered {"type":"held","container":"app","pid":n} with the terminal's
 *      master side, if there is one; a second "start" runs the program.
 *
 *  {"type":"signal","container":"app","signal":"SIGHUP"} -> {"type":"signalled"}
 *      To the container's first process.
 *
 *  {"type":"stop","container":"app","timeoutUsec":30000000}
 *      stopSignal, then SIGKILL to the whole container after the timeout; repeated: the shorter
 *      timeout counts. A container that is created and not started is removed at once (event
 *      exited without exitCode). -> {"type":"stopping"} at once; the event "exited" follows.
 *
 *  {"type":"record","record":{...}}
 *      What ecs-agent would need to know of this task if it lost its own state: kept as it is, in
 *      memory, in place of the one before; at most TASK_RECORD_MAX bytes of JSON (-E2BIG). Never
 *      credentials. -> {"type":"recorded"}
 *
 *  {"type":"stop-order","containers":[{"name":"db","timeoutUsec":n,"after":["app",...]},...]}
 *      For SIGTERM: a container is stopped once those in "after" have stopped, with its own
 *      timeout; one that is not named is stopped at once. Names may be of containers that are not
 *      there (yet).
 *      -> {"type":"stop-ordered"}
 *
 *  {"type":"state"} -> {"type":"state","ready":bool,"containers":[{"name","id","status":"created"|
 *      "starting"|"running"|"stopped","pid","startedTime","exitCode","oomKilled","exitTime",
 *      "ranUsec","restarts","cgroupId","execs":[{"exec","pid"}]}],"volumes":["data",...]}
 *      execs: those of ecs-agent that have not ended; volumes: those that are mounted;
 *      with "record":true in the request also "record", if there is one.
 *  {"type":"sockets"} -> {"type":"sockets","containers":["app",...]} descriptors: the endpoint
 *      socket of each, in order, for an ecs-metadata that has lost its own.
 *  {"type":"end"}  all containers are stopped and their exits recorded by ecs-agent: removes
 *      cgroups, mounts, overlay directories, <run>/tasks/<id>, answers {"type":"ended"} and exits.
 *      Error EBUSY while a container runs. The cgroup of ecs-task itself stays, empty, until "reap"
 *      is asked of ecs-launcher.
 *
 *  {"type":"exec","container":"app","exec":"<id>","args":["ps"],"env":["A=b"],"user":"1000:1000",
 *      "cwd":"/srv","terminal":false,"size":{"rows":24,"columns":80},
 *      "stdio":["stdin","stdout","stderr"]}   descriptors: what "stdio" names, in its order
 *      One more process in a container that runs, with all that the container's own has (exec.h).
 *      "exec" is chosen by ecs-agent: 1 to 128 letters, digits, '_', '-', '.'. All but container,
 * exec and args may be missing; user and cwd are the container's then, what stdio does not name is
 *      /dev/null. Descriptors had better be pipes: the container can open them anew.
 *      -> {"type":"exec-started","container":"app","exec":"<id>","pid":n,"time":<realtime usec>}
 *         once execve(2) has succeeded; with "terminal" one descriptor: the terminal's master side,
 *         which nobody else has. Its size is changed on it (TIOCSWINSZ); closing it is a hangup.
 *      Errors: EINVAL, ENOENT (no such container: err names those there are), ESRCH (it does not
 *      run), EAGAIN (too many at once), EEXIST (the id is in use); "exitCode" 126 or 127 when the
 *      program cannot be run.
 *  {"type":"exec-signal","exec":"<id>","signal":"SIGTERM"} -> {"type":"exec-signalled"}
 *      To the program and its process group.
 *
 * Operators use a socket of their own, <run>/tasks/<task id>/exec.sock (root only): a connection
 * carries one "exec", without an id, whose events it gets, and "exec-signal". When it is closed,
 * the program gets SIGHUP.
 *
 * SIGTERM (the host shuts down): every container is stopped, as "stop-order" has it, nothing more
 * is created or started (-ECANCELED), and ecs-task exits. The exit files stay, and every exit there
 * is or comes is also, synced, in <state>/exits/<id>/exit-<name>.json (root:ecs-agent 0640), where
 * it outlives the host's restart; "end" and "reap" remove it.
 *
 * Events, without "seq":
 *  {"type":"exited","container":"app","exitCode":n,"signal":n,"oomKilled":bool,"time":<usec>,
 *      "ranUsec":n}
 *      exitCode is 128+n after a signal, ranUsec the time from the start to the exit. Written to
 *      <run>/tasks/<id>/exit-<name>.json (the same object; root:ecs-agent 0640) before it is sent,
 *      and sent only when no process of the container is left and its output is in the spool.
 *  {"type":"exec-exited","container":"app","exec":"<id>","exitCode":n,"signal":n,"time":<usec>}
 *  {"type":"health","container":"app","status":"STARTING"|"HEALTHY"|"UNHEALTHY","since":<usec>,
 *      "exitCode":n,"output":"..."}        of the last health check, -1 when it could not run or
 * did not end in time; absent before the first. Sent when something of it has changed; "state" has
 *      the same as "health" of each container that has a check.
 *  {"type":"managed-agent","container":"app","name":"ExecuteCommandAgent",
 *      "status":"RUNNING"|"STOPPED","reason":"..."}   ECS Exec: what execute_command.h says. Sent
 *      when something of it has changed; "state" has the same as "managedAgent" of each container
 *      with ECS Exec, without status and reason while there is nothing to tell.
 *  {"type":"dropped","container":"app","records":n,"bytes":n}
 *      log records that the spool's bound made it drop (mode non-blocking), in total so far.
 */
#pragma once

#define TASK_SOCKET      "control.sock"
#define TASK_EXEC_SOCKET "exec.sock"
#define TASK_RECORD_MAX  (1024 * 1024)
