/* "exec": a program in a container that runs, in the foreground or detached. */
#include "agent/task/oci_command.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/task/protocol.h"
#include "lib/json.h"

static int add_strings(struct json_object *body, const char *name, const char *const *list)
{
	struct json_object *array = json_object_new_array();

	if (json_add(body, name, array) < 0)
		return -ENOMEM;
	for (; *list; list++)
		if (json_append(array, json_object_new_string(*list)) < 0)
			return -ENOMEM;
	return 0;
}

static struct json_object *exec_message(const struct oci_options *options, char **args)
{
	static const char *const stdio[] = {"stdin", "stdout", "stderr", NULL};
	static const char *const none[] = {NULL};
	_cleanup_json_ struct json_object *body = oci_container_message("exec");
	char id[32];

	snprintf(id, sizeof(id), "cli-%d", (int)getpid());
	if (!body || json_add_string(body, "exec", id) < 0 ||
	    add_strings(body, "args", (const char *const *)args) < 0 ||
	    add_strings(body, "env", options->env) < 0 ||
	    add_strings(body, "stdio", options->tty ? none : stdio) < 0 ||
	    json_add_bool(body, "terminal", options->tty) < 0 ||
	    (options->user && json_add_string(body, "user", options->user) < 0) ||
	    (options->cwd && json_add_string(body, "cwd", options->cwd) < 0))
		return NULL;
	return TAKE_PTR(body);
}

/* The end of the program, on the connection that asked for it. */
static int wait_for_exec(struct oci_client *client, int *ret_code, struct err *err)
{
	for (;;) {
		struct pollfd fd = {.fd = ipc_conn_fd(client->conn), .events = POLLIN};
		struct ipc_message msg = {};
		int64_t code = EXIT_FAILURE;
		bool ended;
		int r = ipc_conn_receive(client->conn, &msg, err);

		if (r < 0)
			return err_text(err, r, "the supervisor of container %s has died",
			                client->id);
		if (r == 0) {
			(void)poll(&fd, 1, -1); /* then the connection says what there is */
			continue;
		}
		ended = strcmp(json_text(msg.body, "type"), "exec-exited") == 0;
		if (ended)
			(void)json_get_i64(msg.body, "exitCode", 0, 255, &code, NULL);
		ipc_message_done(&msg);
		if (ended) {
			*ret_code = (int)code;
			return 0;
		}
	}
}

/* In the foreground by the operators' socket, which is this command's alone; else by the other. */
static int connect_for_exec(struct oci_client *client, bool detach, struct err *err)
{
	char path[PATH_MAX];
	int fd, r;

	r = oci_client_open(client, err);
	if (r < 0 || detach)
		return r;
	oci_client_done(client);
	r = oci_client_path(client, TASK_EXEC_SOCKET, path, sizeof(path), err);
	if (r < 0)
		return r;
	fd = ipc_connect(path, err);
	if (fd < 0)
		return fd;
	r = ipc_conn_new(fd, 0, true, &client->conn);
	return r < 0 ? err_set(err, r, "connect to container %s", client->id) : 0;
}

int oci_on_exec(struct oci_client *client, const struct oci_options *options, char **args,
                int *ret_code, struct err *err)
{
	static const int stdio[] = {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO};
	struct ipc_message msg = {};
	int64_t pid = 0;
	int r = oci_check_terminal(options->tty, options, "exec", err);

	if (r == 0 && !args[0])
		r = err_text(err, -EINVAL, "the command to execute is missing");
	if (r == 0)
		r = connect_for_exec(client, options->detach, err);
	if (r == 0)
		r = oci_client_call(client, exec_message(options, args), stdio,
		                    options->tty ? 0 : ARRAY_SIZE(stdio), &msg, err);
	if (r < 0)
		return r;
	r = json_get_i64(msg.body, "pid", 1, INT32_MAX, &pid, err);
	if (r == 0 && options->tty)
		r = msg.n_fds == 1 ? oci_send_console(options->console_socket, msg.fds[0], err)
		                   : err_text(err, -EPROTO, "the supervisor sent no terminal");
	ipc_message_done(&msg);
	if (r == 0)
		r = oci_write_pid_file(options->pid_file, (pid_t)pid, err);
	return r < 0 || options->detach ? r : wait_for_exec(client, ret_code, err);
}
