/*
 * A run is an exec with somebody to tell: ecs-agent, an operator, or nobody any more. An operator
 * who goes away takes the terminal along (SIGHUP by the kernel) and, without a terminal, has SIGHUP
 * sent; a run of ecs-agent goes on while that restarts.
 */
#include "agent/task/exec_requests.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "agent/task/protocol.h"
#include "lib/fd.h"
#include "lib/json.h"
#include "lib/log.h"
#include "lib/parse.h"

#define ID_MAX            128
#define ARGS_MAX          4096
#define MESSAGES_PER_TURN 16

enum peer {
	PEER_AGENT,
	PEER_OPERATOR,
	PEER_NONE,
};

struct exec_run {
	struct exec_run *next;
	struct exec_requests *er;
	enum peer peer;
	struct operator_conn *operator; /* borrowed */
	struct exec *exec;
	char *id;                    /* PEER_AGENT */
	struct json_object *request; /* to answer; NULL once answered */
	bool started;
};

struct operator_conn {
	struct operator_conn *next;
	struct ipc_conn *conn; /* NULL: to be freed */
	bool polled;
};

/* --- answers --- */

static void send_to(struct exec_run *run, struct json_object *body, const int *fds, size_t n)
{
	struct exec_requests_calls *calls = &run->er->calls;

	if (!body)
		return;
	if (run->peer == PEER_AGENT)
		calls->send_to_agent(calls->userdata, body, fds, n);
	else if (run->peer == PEER_OPERATOR &&
	         run->operator->conn && ipc_conn_send(run->operator->conn, body, fds, n) < 0)
		run->operator->conn = ipc_conn_free(run->operator->conn);
}

static struct json_object *run_message(const struct exec_run *run, const char *type,
                                       struct json_object *request)
{
	_cleanup_json_ struct json_object *body = ipc_message_new(type, request);

	if (!body || json_add_string(body, "container", exec_container_name(run->exec)) < 0 ||
	    (run->id && json_add_string(body, "exec", run->id) < 0))
		return NULL;
	return TAKE_PTR(body);
}

static void send_started(struct exec_run *run)
{
	const struct exec_result *result = exec_result(run->exec);
	_cleanup_json_ struct json_object *request = TAKE_PTR(run->request);
	_cleanup_json_ struct json_object *body = run_message(run, "exec-started", request);
	_cleanup_close_ int console = exec_take_console(run->exec);

	if (body && (json_add_i64(body, "pid", result->host_pid) < 0 ||
	             json_add_u64(body, "time", result->started_realtime_usec) < 0))
		return;
	send_to(run, body, &console, console >= 0 ? 1 : 0);
}

static void send_exited(struct exec_run *run)
{
	const struct exec_result *result = exec_result(run->exec);
	_cleanup_json_ struct json_object *body = run_message(run, "exec-exited", NULL);

	if (body &&
	    (json_add_i64(body, "exitCode", result->exit_code) < 0 ||
	     (result->exit_signal && json_add_i64(body, "signal", result->exit_signal) < 0) ||
	     json_add_u64(body, "time", result->ended_realtime_usec) < 0))
		return;
	send_to(run, body, NULL, 0);
}

static void send_failed(struct exec_run *run)
{
	const struct exec_result *result = exec_result(run->exec);
	_cleanup_json_ struct json_object *request = TAKE_PTR(run->request);
	_cleanup_json_ struct json_object *body = run_message(run, "error", request);
	const char *code = strerrorname_np(-result->error);

	if (body &&
	    (json_add_string(body, "code", code ? code : "EIO") < 0 ||
	     json_add_string(body, "message", result->err.text) < 0 ||
	     (result->exit_code >= 0 && json_add_i64(body, "exitCode", result->exit_code) < 0)))
		return;
	send_to(run, body, NULL, 0);
}

static void run_free(struct exec_run *run)
{
	for (struct exec_run **at = &run->er->runs; *at; at = &(*at)->next)
		if (*at == run) {
			*at = run->next;
			break;
		}
	exec_free(run->exec);
	json_object_put(run->request);
	free(run->id);
	free(run);
}

static void on_exec(struct exec *exec, void *userdata)
{
	struct exec_run *run = userdata;

	switch (exec_result(exec)->status) {
	case EXEC_STARTING:
		return;
	case EXEC_RUNNING:
		run->started = true;
		send_started(run);
		if (run->peer == PEER_NONE)
			(void)exec_signal(exec, SIGHUP); /* its operator left meanwhile */
		return;
	case EXEC_EXITED:
		send_exited(run);
		break;
	case EXEC_FAILED:
		if (run->started)
			send_exited(run);
		else
			send_failed(run);
		break;
	}
	run_free(run);
}

/* --- requests --- */

static int get_list(struct json_object *request, const char *name, const char ***ret,
                    struct err *err)
{
	_cleanup_free_ const char **list = NULL;
	struct json_object *array = NULL;
	size_t n;
	int r;

	r = json_optional(json_get_array(request, name, &array, err));
	if (r < 0 || !array)
		return r;
	n = json_object_array_length(array);
	if (n > ARGS_MAX)
		return err_text(err, -EINVAL, "exec: %s has %zu entries; at most %d are taken",
		                name, n, ARGS_MAX);
	list = calloc(n + 1, sizeof(*list));
	if (!list)
		return err_oom(err);
	for (size_t i = 0; i < n; i++) {
		struct json_object *item = json_object_array_get_idx(array, i);

		if (!json_object_is_type(item, json_type_string) ||
		    strlen(json_object_get_string(item)) !=
		            (size_t)json_object_get_string_len(item))
			return err_text(err, -EINVAL,
			                "exec: %s[%zu] must be a string without a NUL byte", name,
			                i);
		list[i] = json_object_get_string(item);
	}
	*ret = TAKE_PTR(list);
	return 0;
}

/* "stdio" names what the descriptors of the message are, in their order. */
static int get_stdio(struct json_object *request, const struct ipc_message *msg, bool terminal,
                     int stdio[3], struct err *err)
{
	static const char *const names[] = {"stdin", "stdout", "stderr"};
	_cleanup_free_ const char **list = NULL;
	size_t n = 0;
	int r;

	r = get_list(request, "stdio", &list, err);
	if (r < 0)
		return r;
	for (; list && list[n]; n++) {
		size_t k = 0;

		while (k < 3 && strcmp(names[k], list[n]) != 0)
			k++;
		if (k == 3 || stdio[k] >= 0)
			return err_text(err, -EINVAL,
			                "exec: stdio has \"%.32s\"; it must name stdin, stdout and "
			                "stderr at most once each",
			                list[n]);
		if (n < msg->n_fds)
			stdio[k] = msg->fds[n];
	}
	if (n != msg->n_fds)
		return err_text(err, -EINVAL, "exec: stdio names %zu descriptors, %zu came", n,
		                msg->n_fds);
	if (terminal && n > 0)
		return err_text(err, -EINVAL, "exec: stdio is not for an exec with a terminal");
	return 0;
}

static int get_size(struct json_object *request, struct exec_request *ret, struct err *err)
{
	struct json_object *size = NULL;
	uint64_t rows = 0, columns = 0;
	int r;

	r = json_optional(json_get_object(request, "size", &size, err));
	if (r < 0 || !size)
		return r;
	r = json_get_u64(size, "rows", UINT16_MAX, &rows, err);
	if (r == 0)
		r = json_get_u64(size, "columns", UINT16_MAX, &columns, err);
	if (r < 0)
		return err_prefix(err, r == -ENOENT ? -EINVAL : r, "exec: size");
	ret->rows = (unsigned short)rows;
	ret->columns = (unsigned short)columns;
	return 0;
}

static int start_run(struct exec_run *run, struct container *container, struct json_object *request,
                     const struct ipc_message *msg, struct err *err)
{
	_cleanup_free_ const char **args = NULL, **env = NULL;
	struct exec_request req = {.stdio = EXEC_NO_STDIO};
	int r;

	r = get_list(request, "args", &args, err);
	if (r == 0)
		r = get_list(request, "env", &env, err);
	if (r == 0)
		r = json_optional(json_get_string(request, "user", &req.user, err));
	if (r == 0)
		r = json_optional(json_get_string(request, "cwd", &req.cwd, err));
	if (r == 0)
		r = json_optional(json_get_bool(request, "terminal", &req.terminal, err));
	if (r == 0)
		r = get_size(request, &req, err);
	if (r == 0)
		r = get_stdio(request, msg, req.terminal, req.stdio, err);
	if (r < 0)
		return r;
	req.args = args;
	req.env = env;
	return exec_start(&run->er->set, container, &req, on_exec, run, &run->exec, err);
}

static struct exec_run *find_run(const struct exec_requests *er,
                                 const struct operator_conn *operator, const char * id)
{
	for (struct exec_run *run = er->runs; run; run = run->next)
		if (operator ? run->operator == operator && run->peer == PEER_OPERATOR
		             : run->peer == PEER_AGENT && strcmp(run->id, id) == 0)
			return run;
	return NULL;
}

/* operator: NULL for ecs-agent, which names its execs. */
static int handle_exec(struct exec_requests *er, struct operator_conn *operator,
                       struct json_object * request, struct ipc_message *msg, struct err *err)
{
	struct container *container;
	struct exec_run *run;
	const char *id = "";
	int r;

	r = er->calls.get_container(er->calls.userdata, request, &container, err);
	if (r == 0 && !operator)
		r = json_get_string(request, "exec", &id, err);
	if (r < 0)
		return r == -ENOENT && !operator? -EINVAL : r;
	if (!operator&& !name_is_component(id, ID_MAX))
		return err_text(
			err, -EINVAL,
			"exec is \"%.130s\"; it must be 1 to %d letters, digits, '_', '-' or "
			"'.', not starting with '.'",
			id, ID_MAX);
	if (find_run(er, operator, id))
		return err_text(err, -EEXIST,
		                "exec %s runs already", operator? "of this connection" : id);

	run = calloc(1, sizeof(*run));
	if (!run)
		return err_oom(err);
	run->er = er;
	run->peer = operator? PEER_OPERATOR : PEER_AGENT;
	run->operator= operator;
	run->request = json_object_get(request);
	run->id = operator? NULL : strdup(id);
	r = !operator&& !run->id ? err_oom(err) : start_run(run, container, request, msg, err);
	if (r < 0) {
		run_free(run);
		return r;
	}
	run->next = er->runs;
	er->runs = run;
	return 0;
}

static int handle_signal(struct exec_requests *er, struct operator_conn *operator,
                         struct json_object * request, struct err *err)
{
	_cleanup_json_ struct json_object *answer = ipc_message_new("exec-signalled", request);
	const char *id = "", *name;
	struct exec_run *run;
	int r, signal;

	if (!answer)
		return err_oom(err);
	r = json_get_string(request, "signal", &name, err);
	if (r == 0 && !operator)
		r = json_get_string(request, "exec", &id, err);
	if (r < 0)
		return r == -ENOENT ? -EINVAL : r;
	signal = signal_from_name(name);
	if (signal < 0)
		return err_text(err, -EINVAL, "signal \"%.64s\" is no signal", name);
	run = find_run(er, operator, id);
	r = run ? exec_signal(run->exec, signal) : -ESRCH;
	if (r < 0)
		return err_set(err, r, "send signal %s to exec %.130s", name, id);
	send_to(run, answer, NULL, 0);
	return 0;
}

int exec_requests_exec(struct exec_requests *er, struct json_object *request,
                       struct ipc_message *msg, struct err *err)
{
	return handle_exec(er, NULL, request, msg, err);
}

int exec_requests_signal(struct exec_requests *er, struct json_object *request, struct err *err)
{
	return handle_signal(er, NULL, request, err);
}

struct json_object *exec_requests_state(const struct exec_requests *er,
                                        const struct container *container)
{
	_cleanup_json_ struct json_object *list = json_object_new_array();

	for (const struct exec_run *run = er->runs; list && run; run = run->next) {
		struct json_object *item;

		if (run->peer != PEER_AGENT ||
		    strcmp(exec_container_name(run->exec), container->name) != 0)
			continue;
		item = json_object_new_object();
		if (json_append(list, item) < 0 || json_add_string(item, "exec", run->id) < 0 ||
		    (run->started &&
		     json_add_i64(item, "pid", exec_result(run->exec)->host_pid) < 0))
			return NULL;
	}
	return TAKE_PTR(list);
}

/* --- operators --- */

/* Its exec goes on without anybody to tell, unless SIGHUP ends it. */
static void operator_free(struct exec_requests *er, struct operator_conn *operator)
{
	for (struct exec_run *run = er->runs; run; run = run->next)
		if (run->operator== operator) {
			run->peer = PEER_NONE;
			run->operator= NULL;
			(void)exec_signal(run->exec, SIGHUP); /* it may not run yet, or any more */
		}
	for (struct operator_conn **at = &er->operators; *at; at = &(*at)->next)
		if (*at == operator) {
			*at = operator->next;
			er->n_operators--;
			break;
		}
	ipc_conn_free(operator->conn);
	free(operator);
}

static void operator_message(struct exec_requests *er, struct operator_conn *operator,
                             struct ipc_message * msg)
{
	const char *type = json_text(msg->body, "type");
	struct err err = {};
	int r;

	if (strcmp(type, "exec") == 0)
		r = handle_exec(er, operator, msg->body, msg, &err);
	else if (strcmp(type, "exec-signal") == 0)
		r = handle_signal(er, operator, msg->body, &err);
	else
		r = err_text(&err, -ENOSYS,
		             "request \"%.64s\" is not for an operator, who can ask for exec and "
		             "exec-signal",
		             type);
	if (r < 0 && operator->conn && ipc_conn_send_error(operator->conn, msg->body, r, &err) < 0)
		operator->conn = ipc_conn_free(operator->conn);
}

static void operator_read(struct exec_requests *er, struct operator_conn *operator)
{
	for (int i = 0; i < MESSAGES_PER_TURN && operator->conn; i++) {
		struct ipc_message msg = {};
		struct err err = {};
		int r = ipc_conn_receive(operator->conn, &msg, &err);

		if (r == 0)
			return;
		if (r < 0) {
			operator->conn = ipc_conn_free(operator->conn);
			return;
		}
		operator_message(er, operator, & msg);
		ipc_message_done(&msg);
	}
}

static void accept_operator(struct exec_requests *er)
{
	_cleanup_close_ int fd = accept4(er->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct operator_conn *operator;
	uid_t uid;
	int r;

	if (fd < 0)
		return; /* it went away again, or the loop comes back */
	r = ipc_peer(fd, &uid, NULL, NULL);
	if (r < 0 || uid != 0 || er->n_operators == OPERATORS_MAX) {
		log_warning(NULL, r, "refused an operator's connection (uid %d, %zu are there)",
		            r < 0 ? -1 : (int)uid, er->n_operators);
		return;
	}
	operator= calloc(1, sizeof(*operator));
	if (!operator|| ipc_conn_new(TAKE_FD(fd), 0, true, &operator->conn) < 0) {
		free(operator);
		return;
	}
	operator->next = er->operators;
	er->operators = operator;
	er->n_operators++;
}

/* --- life and loop --- */

void exec_requests_init(struct exec_requests *er, const struct exec_requests_calls *calls)
{
	*er = (struct exec_requests){.calls = *calls, .listen_fd = -EBADF};
}

int exec_requests_listen(struct exec_requests *er, const char *run_dir, struct err *err)
{
	char path[PATH_MAX];

	if (snprintf(path, sizeof(path), "%s/" TASK_EXEC_SOCKET, run_dir) >= (int)sizeof(path))
		return err_text(err, -ENAMETOOLONG, "the path of the exec socket is too long");
	er->listen_fd = ipc_listen(path, 0600, 0, err);
	return er->listen_fd < 0 ? er->listen_fd : 0;
}

void exec_requests_done(struct exec_requests *er)
{
	while (er->runs)
		run_free(er->runs);
	while (er->operators)
		operator_free(er, er->operators);
	er->listen_fd = fd_close(er->listen_fd);
}

size_t exec_requests_poll(struct exec_requests *er, struct pollfd *fds)
{
	struct operator_conn *next;
	size_t n = 0;

	for (struct operator_conn *o = er->operators; o; o = next) {
		next = o->next;
		if (!o->conn)
			operator_free(er, o);
	}
	fds[n++] = (struct pollfd){.fd = er->listen_fd, .events = POLLIN};
	for (struct operator_conn *o = er->operators; o; o = o->next) {
		o->polled = true;
		fds[n++] = (struct pollfd){
			.fd = ipc_conn_fd(o->conn),
			.events = POLLIN | (ipc_conn_wants_write(o->conn) ? POLLOUT : 0),
		};
	}
	return n + execs_poll(&er->set, fds + n);
}

void exec_requests_serve(struct exec_requests *er, const struct pollfd *fds)
{
	struct operator_conn *next;
	size_t at = 1, n_polled = 0;

	for (struct operator_conn *o = er->operators; o; o = o->next)
		n_polled += o->polled;
	execs_serve(&er->set, fds + at + n_polled);
	for (struct operator_conn *o = er->operators; o; o = next) {
		next = o->next;
		if (!o->polled)
			continue;
		o->polled = false;
		if (o->conn && (fds[at].revents & POLLOUT) && ipc_conn_flush(o->conn) < 0)
			o->conn = ipc_conn_free(o->conn);
		if (o->conn && (fds[at].revents & ~POLLOUT))
			operator_read(er, o);
		at++;
	}
	if (fds[0].revents)
		accept_operator(er);
}
