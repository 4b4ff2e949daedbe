/*
 * The command line of OCI runtimes, as users of runc know it:
 *
 *   ecs-task [--root DIR] [--cgroup-parent NAME] [--log FILE] [--log-format text|json]
 *       create [--bundle DIR] [--pid-file FILE] [--console-socket PATH] ID
 *       start ID
 *       state ID
 *       kill ID [SIGNAL]
 *       delete [--force] ID
 *       run [--bundle DIR] [--pid-file FILE] [--console-socket PATH] [--detach] [--keep] ID
 *       exec [--user UID[:GID]] [--cwd DIR] [--env NAME=VALUE]... [--tty] [--detach]
 *            [--console-socket PATH] [--pid-file FILE] ID COMMAND [ARG]...
 *       features
 *
 * Each container is a supervisor with one container (oci_client.h): the code is that of tasks.
 * Of config.json see oci_config.h. A terminal is handed to --console-socket, and needs one.
 */
#pragma once

#include <stdbool.h>

/* Is this such a command line, rather than that of a task's supervisor? */
bool oci_is_command(int argc, char **argv);

/* The exit code for the process. */
int oci_main(int argc, char **argv);
