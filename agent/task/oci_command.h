/*
 * What the commands of the OCI command line (oci.h) share: their options, and what more than one of
 * them does. oci.c has the commands, oci_exec.c that of its name.
 */
#pragma once

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "agent/task/oci_client.h"
#include "lib/err.h"

#define OCI_ENV_MAX 256

struct oci_options {
	const char *root, *cgroup_parent, *log, *log_format; /* before the command */
	const char *bundle, *pid_file, *console_socket, *user, *cwd;
	const char *env[OCI_ENV_MAX];
	size_t n_env;
	bool force, detach, keep, tty, all;
};

struct oci_option {
	const char *name;
	char letter; /* 0: none */
	size_t offset;
	enum {
		OPTION_FLAG,
		OPTION_VALUE,
		OPTION_ENV
	} kind;
};

#define OCI_VALUE(name, letter, member)                                                            \
	{                                                                                          \
		name, letter, offsetof(struct oci_options, member), OPTION_VALUE                   \
	}
#define OCI_FLAG(name, letter, member)                                                             \
	{                                                                                          \
		name, letter, offsetof(struct oci_options, member), OPTION_FLAG                    \
	}
#define OCI_OPTIONS_END                                                                            \
	{                                                                                          \
		NULL, 0, 0, OPTION_FLAG                                                            \
	}

/* From argv[i] on; *ret is the index of what is no option. Values are borrowed from argv. */
int oci_parse_options(int argc, char **argv, int i, const struct oci_option *known,
                      struct oci_options *options, int *ret, struct err *err);

/* A request about the only container of a supervisor; owned. NULL: out of memory. */
struct json_object *oci_container_message(const char *type);

/* Nothing is written where path is NULL. */
int oci_write_pid_file(const char *path, pid_t pid, struct err *err);

/* The master of a terminal to whoever asked for it, as with runc: one message, its name as data. */
int oci_send_console(const char *path, int console_fd, struct err *err);

/* -EINVAL unless there is a terminal and a --console-socket, or neither. what: "config.json". */
int oci_check_terminal(bool terminal, const struct oci_options *options, const char *what,
                       struct err *err);

int oci_on_exec(struct oci_client *client, const struct oci_options *options, char **args,
                int *ret_code, struct err *err);
