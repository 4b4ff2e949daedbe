/*
 * <run>/launcher.sock: the only door to privileged work. The peer must be the user ecs-agent or
 * root (SO_PEERCRED). It writes one line of at most 128 bytes,
 *
 *     task <task id>\n      start the supervisor of a task (ecs-task), in its own cgroup,
 *                           pid namespace and mount namespace
 *     task-host-pid <id>\n  the same for a task of pidMode host: not in a pid namespace of its own
 *     image\n               start an image pull (ecs-image)
 *     network\n             start ecs-network
 *     volume\n              start the mount of a volume (ecs-volume)
 *     reap <task id>\n      remove what a dead supervisor left (ecs-task --reap): cgroups,
 *                           overlay directories, runtime files; safe to repeat
 *     discard <task id>\n   the same, and its log spool: of a task of another host, whose state
 *                           came here with a copy of the disk (ecs-task --discard)
 *
 * and from the byte after the newline on speaks with the program that was started, which has the
 * connection as descriptor 3 (lib/ipc messages). A refusal is one lib/ipc error message
 * ("type":"error","message":...), then the connection is closed. For "reap" and "discard" the
 * program answers {"type":"reaped"} or an error. While the service that owns all tasks is being
 * stopped, "task" is refused with code ESHUTDOWN (agent/launcher/parent.h).
 *
 * A task id is 1 to 64 letters, digits and '-', and does not start with '-'.
 *
 * The programs stand beside ecs-launcher and are started as
 *     ecs-task [--host-pid | --reap | --discard] OPTIONS --cgroup-parent P -- <task id>
 *     ecs-image --serve OPTIONS
 *     ecs-network OPTIONS
 *     ecs-volume OPTIONS
 * where OPTIONS are --config F --state-dir D --runtime-dir D. They run
 * from a sealed copy in memory, as root, leading a session of their own, in "/", with umask 022,
 * default signals, no descriptor but 0 to 3 (0 and 1 are /dev/null), and of the environment only
 * PATH, the proxy, AWS endpoint and certificate variables and JOURNAL_STREAM. The supervisor of a
 * task also has descriptor 4, the mount namespace of the launcher, which is the host's. /proc is
 * still that of the host when ecs-task begins.
 */
#pragma once

#define LAUNCHER_SOCKET      "launcher.sock" /* below the runtime directory */
#define LAUNCHER_LINE_MAX    128
#define LAUNCHER_CONTROL_FD  3
#define LAUNCHER_MOUNTS_FD   4
#define LAUNCHER_TASK_ID_MAX 64
