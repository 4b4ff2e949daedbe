/*
 * The client of a supervisor's exec socket (agent/task/protocol.h). It relays between its own
 * standard input and output and pipes or a terminal of the container: the container never gets a
 * descriptor of the operator, whose files and terminal it could open anew through /proc.
 */
#include "agent/exec_command.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include "agent/exec_options.h"
#include "agent/task/protocol.h"
#include "lib/fd.h"
#include "lib/ipc.h"
#include "lib/json.h"
#include "lib/parse.h"

#define EXIT_NOT_ASKED 125
#define TASK_ID_MAX    255
#define NAMES_MAX      400 /* bytes of task ids in a message */

struct session {
	const struct exec_options *command;
	struct ipc_conn *conn;
	int signal_fd;
	int to_fd;       /* the command's standard input, or its terminal */
	int from_fds[2]; /* its output; with a terminal the first is that */
	bool input_ended;
	char input[4096]; /* read and not yet passed on */
	size_t input_len;
	bool started, ended;
	int exit_code;
	bool is_raw;
	struct termios saved;
};

/* --- which task --- */

static void append_name(char *names, size_t *used, const char *name)
{
	if (*used < NAMES_MAX - 2)
		*used += (size_t)snprintf(names + *used, NAMES_MAX - *used, "%s%s",
		                          *used > 0 ? ", " : "", name);
}

/* The whole id of the task that text is the beginning of, or all of. */
static int find_task(const char *run_dir, const char *text, char *ret, size_t n_ret,
                     struct err *err)
{
	const char *wanted = strncmp(text, "arn:", 4) == 0 ? arn_resource_id(text) : text;
	char path[PATH_MAX], matching[NAMES_MAX] = "", known[NAMES_MAX] = "";
	size_t n_matching = 0, used_matching = 0, used_known = 0;
	struct dirent *entry;
	bool exact = false;
	DIR *dir;

	if (!wanted || !*wanted)
		return err_text(err, -EINVAL, "\"%.200s\" is neither a task's id nor its ARN",
		                text);
	if (snprintf(path, sizeof(path), "%s/tasks", run_dir) >= (int)sizeof(path))
		return err_text(err, -ENAMETOOLONG, "the runtime folder's path is too long");
	dir = opendir(path);
	if (!dir)
		return err_set(err, -errno, "look for tasks in %s", path);
	while (!exact && (entry = readdir(dir))) {
		if (!name_is_component(entry->d_name, TASK_ID_MAX))
			continue;
		append_name(known, &used_known, entry->d_name);
		if (strncmp(entry->d_name, wanted, strlen(wanted)) != 0)
			continue;
		exact = strcmp(entry->d_name, wanted) == 0;
		n_matching = exact ? 1 : n_matching + 1;
		append_name(matching, &used_matching, entry->d_name);
		snprintf(ret, n_ret, "%s", entry->d_name);
	}
	(void)closedir(dir); /* it was read only */
	if (n_matching == 1)
		return 0;
	if (n_matching > 1)
		return err_text(err, -EINVAL, "\"%.64s\" is the beginning of several tasks: %s",
		                wanted, matching);
	if (used_known > 0)
		return err_text(err, -ENOENT, "no task \"%.64s\" is on this host, which has %s",
		                wanted, known);
	return err_text(err, -ENOENT, "no task \"%.64s\" is on this host, which has none", wanted);
}

static int connect_task(const struct exec_options *command, const char *run_dir, struct session *s,
                        struct err *err)
{
	char id[TASK_ID_MAX + 1], path[PATH_MAX];
	int fd, r;

	if (geteuid() != 0)
		return err_text(err, -EPERM, "only root may run commands in containers");
	r = find_task(run_dir, command->task, id, sizeof(id), err);
	if (r < 0)
		return r;
	if (snprintf(path, sizeof(path), "%s/tasks/%s/" TASK_EXEC_SOCKET, run_dir, id) >=
	    (int)sizeof(path))
		return err_text(err, -ENAMETOOLONG, "the runtime folder's path is too long");
	fd = ipc_connect(path, err);
	if (fd < 0)
		return err_prefix(err, fd, "task %s", id);
	r = ipc_conn_new(fd, 0, true, &s->conn);
	return r < 0 ? err_set(err, r, "connect to task %s", id) : 0;
}

/* --- the request --- */

static int add_list(struct json_object *body, const char *name, const char *const *list, size_t n)
{
	struct json_object *array = json_object_new_array();

	if (json_add(body, name, array) < 0)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		if (json_append(array, json_object_new_string(list[i])) < 0)
			return -ENOMEM;
	return 0;
}

static bool get_size(struct winsize *size)
{
	return (ioctl(STDIN_FILENO, TIOCGWINSZ, size) == 0 ||
	        ioctl(STDOUT_FILENO, TIOCGWINSZ, size) == 0) &&
	       size->ws_row > 0 && size->ws_col > 0;
}

static int add_size(struct json_object *body)
{
	struct json_object *obj;
	struct winsize size;

	if (!get_size(&size))
		return 0;
	obj = json_object_new_object();
	if (json_add(body, "size", obj) < 0 || json_add_u64(obj, "rows", size.ws_row) < 0)
		return -ENOMEM;
	return json_add_u64(obj, "columns", size.ws_col);
}

static int make_request(const struct exec_options *command, const char *const *stdio,
                        size_t n_stdio, struct json_object **ret)
{
	_cleanup_json_ struct json_object *body = ipc_message_new("exec", NULL);
	size_t n_args = 0;

	while (command->args[n_args])
		n_args++;
	if (!body || json_add_i64(body, "seq", 1) < 0 ||
	    json_add_string(body, "container", command->container) < 0 ||
	    add_list(body, "args", (const char *const *)command->args, n_args) < 0 ||
	    add_list(body, "env", command->env, command->n_env) < 0 ||
	    add_list(body, "stdio", stdio, n_stdio) < 0 ||
	    json_add_bool(body, "terminal", command->tty) < 0 ||
	    (command->user && json_add_string(body, "user", command->user) < 0) ||
	    (command->workdir && json_add_string(body, "cwd", command->workdir) < 0) ||
	    (command->tty && add_size(body) < 0))
		return -ENOMEM;
	*ret = TAKE_PTR(body);
	return 0;
}

/* One pipe: mine is the end that stays here and does not block. */
static int make_pipe(bool reads_here, int *ret_mine, int *ret_theirs, struct err *err)
{
	int fds[2], r;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return err_set(err, -errno, "make a pipe");
	*ret_mine = fds[reads_here ? 0 : 1];
	*ret_theirs = fds[reads_here ? 1 : 0];
	r = fd_set_nonblock(*ret_mine, true);
	return r < 0 ? err_set(err, r, "make a pipe non-blocking") : 0;
}

static int ask(struct session *s, struct err *err)
{
	_cleanup_close_ int in = -EBADF, out = -EBADF, error = -EBADF;
	_cleanup_json_ struct json_object *body = NULL;
	const char *stdio[3];
	int fds[3], r = 0;
	size_t n = 0;

	if (!s->command->tty && s->command->interactive) {
		r = make_pipe(false, &s->to_fd, &in, err);
		stdio[n] = "stdin";
		fds[n++] = in;
	}
	if (r == 0 && !s->command->tty) {
		r = make_pipe(true, &s->from_fds[0], &out, err);
		stdio[n] = "stdout";
		fds[n++] = out;
	}
	if (r == 0 && !s->command->tty) {
		r = make_pipe(true, &s->from_fds[1], &error, err);
		stdio[n] = "stderr";
		fds[n++] = error;
	}
	if (r < 0)
		return r;
	if (make_request(s->command, stdio, n, &body) < 0)
		return err_oom(err);
	r = ipc_conn_send(s->conn, body, fds, n);
	return r < 0 ? err_set(err, r, "ask the task") : 0;
}

/* --- our own terminal and signals --- */

static int make_raw(struct session *s, struct err *err)
{
	struct termios raw;

	if (!s->command->tty || !s->command->interactive)
		return 0;
	if (tcgetattr(STDIN_FILENO, &s->saved) < 0)
		return err_set(err, -errno, "read the settings of the terminal");
	raw = s->saved;
	cfmakeraw(&raw);
	if (tcsetattr(STDIN_FILENO, TCSANOW, &raw) < 0)
		return err_set(err, -errno, "set the terminal to raw mode");
	s->is_raw = true;
	return 0;
}

static void restore_terminal(struct session *s)
{
	if (s->is_raw)
		(void)tcsetattr(STDIN_FILENO, TCSADRAIN, &s->saved); /* it may be gone */
	s->is_raw = false;
}

static int catch_signals(struct session *s, struct err *err)
{
	static const int caught[] = {SIGWINCH, SIGINT, SIGTERM, SIGHUP, SIGQUIT};
	sigset_t mask;

	sigemptyset(&mask);
	for (size_t i = 0; i < ARRAY_SIZE(caught); i++)
		sigaddset(&mask, caught[i]);
	(void)signal(SIGPIPE, SIG_IGN);
	if (sigprocmask(SIG_BLOCK, &mask, NULL) < 0)
		return err_set(err, -errno, "block signals");
	s->signal_fd = signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC);
	return s->signal_fd < 0 ? err_set(err, -errno, "signalfd") : 0;
}

static void pass_signal(struct session *s, int signal)
{
	_cleanup_json_ struct json_object *body = ipc_message_new("exec-signal", NULL);
	char name[16];

	snprintf(name, sizeof(name), "%d", signal);
	if (body && json_add_string(body, "signal", name) == 0)
		(void)ipc_conn_send(s->conn, body, NULL, 0); /* its end is seen by reading */
}

static void pass_size(const struct session *s)
{
	struct winsize size;

	if (s->command->tty && s->from_fds[0] >= 0 && get_size(&size))
		(void)ioctl(s->from_fds[0], TIOCSWINSZ, &size); /* it may have ended */
}

static void on_signal(struct session *s)
{
	struct signalfd_siginfo info;

	while (read(s->signal_fd, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo != SIGWINCH)
			pass_signal(s, (int)info.ssi_signo);
		else
			pass_size(s);
	}
}

/* --- relaying --- */

static void on_message(struct session *s, struct ipc_message *msg, struct err *err, int *ret)
{
	const char *type = json_text(msg->body, "type");
	int64_t code = EXIT_NOT_ASKED;

	if (strcmp(type, "exec-started") == 0) {
		s->started = true;
		if (!s->command->tty)
			return;
		if (msg->n_fds != 1 || fd_set_nonblock(msg->fds[0], true) < 0) {
			*ret = err_text(err, -EPROTO, "the task sent no terminal");
			return;
		}
		s->from_fds[0] = TAKE_FD(msg->fds[0]);
		pass_size(s); /* it may have changed since the command was asked for */
		s->to_fd = s->command->interactive ? s->from_fds[0] : -EBADF;
		*ret = make_raw(s, err);
	} else if (strcmp(type, "exec-exited") == 0) {
		(void)json_get_i64(msg->body, "exitCode", 0, 255, &code, NULL);
		s->exit_code = (int)code;
		s->ended = true;
	} else if (strcmp(type, "error") == 0 && json_get(msg->body, "seq")) {
		(void)json_get_i64(msg->body, "exitCode", 0, 255, &code, NULL);
		s->exit_code = (int)code;
		*ret = ipc_message_error(msg->body, err);
	}
}

static int read_messages(struct session *s, struct err *err)
{
	for (int r = 0;;) {
		struct ipc_message msg = {};
		int n = ipc_conn_receive(s->conn, &msg, err);

		if (n == 0)
			return 0;
		if (n < 0)
			return s->ended ? 0 : err_text(err, n, "the task has ended");
		on_message(s, &msg, err, &r);
		ipc_message_done(&msg);
		if (r < 0)
			return r;
	}
}

/* What is there; false when the descriptor is at its end, and closed. */
static bool pass_output(struct session *s, int i)
{
	char buffer[16384];
	ssize_t n = read(s->from_fds[i], buffer, sizeof(buffer));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0) { /* EIO: nobody has the terminal open any more */
		if (s->to_fd == s->from_fds[i])
			s->to_fd = -EBADF;
		s->from_fds[i] = fd_close(s->from_fds[i]);
		return false;
	}
	/* Nobody reads it any more, so the command shall learn that, too. */
	if (fd_write_all(i == 0 ? STDOUT_FILENO : STDERR_FILENO, buffer, (size_t)n) < 0 &&
	    !s->command->tty)
		s->from_fds[i] = fd_close(s->from_fds[i]);
	return s->from_fds[i] >= 0;
}

static void read_input(struct session *s)
{
	ssize_t n = read(STDIN_FILENO, s->input, sizeof(s->input));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	s->input_ended = n <= 0;
	s->input_len = n > 0 ? (size_t)n : 0;
}

static void pass_input(struct session *s)
{
	ssize_t n = write(s->to_fd, s->input, s->input_len);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0) { /* EPIPE: it does not want more */
		s->input_ended = true;
		s->input_len = 0;
		return;
	}
	s->input_len -= (size_t)n;
	memmove(s->input, s->input + n, s->input_len);
}

/* The end of our input is the end of the command's; a terminal has none. */
static void end_input(struct session *s)
{
	if (s->input_ended && s->input_len == 0 && s->to_fd >= 0 && !s->command->tty)
		s->to_fd = fd_close(s->to_fd);
}

enum {
	AT_SIGNALS,
	AT_TASK,
	AT_INPUT,
	AT_TO,
	AT_FROM,
	_AT_MAX = AT_FROM + 2,
};

static int turn(struct session *s, struct err *err)
{
	bool wants_input = s->started && s->to_fd >= 0 && !s->input_ended && s->input_len == 0;
	struct pollfd fds[_AT_MAX] = {
		[AT_SIGNALS] = {.fd = s->signal_fd, .events = POLLIN},
		[AT_TASK] = {.fd = ipc_conn_fd(s->conn),
	                     .events = POLLIN | (ipc_conn_wants_write(s->conn) ? POLLOUT : 0)},
		[AT_INPUT] = {.fd = wants_input ? STDIN_FILENO : -1, .events = POLLIN},
		[AT_TO] = {.fd = s->input_len > 0 ? s->to_fd : -1, .events = POLLOUT},
		[AT_FROM] = {.fd = s->from_fds[0], .events = POLLIN},
		[AT_FROM + 1] = {.fd = s->from_fds[1], .events = POLLIN},
	};

	if (poll(fds, _AT_MAX, -1) < 0)
		return errno == EINTR ? 0 : err_set(err, -errno, "poll");
	if (fds[AT_SIGNALS].revents)
		on_signal(s);
	for (int i = 0; i < 2; i++)
		if (fds[AT_FROM + i].revents)
			(void)pass_output(s, i);
	if (fds[AT_INPUT].revents)
		read_input(s);
	if (s->input_len > 0 && s->to_fd >= 0)
		pass_input(s);
	end_input(s);
	if ((fds[AT_TASK].revents & POLLOUT) && ipc_conn_flush(s->conn) < 0)
		return err_text(err, -EPIPE, "the task has ended");
	return fds[AT_TASK].revents & ~POLLOUT ? read_messages(s, err) : 0;
}

static int run(struct session *s, struct err *err)
{
	int r = catch_signals(s, err);

	if (r == 0)
		r = ask(s, err);
	while (r == 0 && !s->ended)
		r = turn(s, err);
	/* What it wrote before it ended; others may hold the pipes, and are not waited for. */
	for (int i = 0; i < 2; i++)
		while (s->from_fds[i] >= 0 && pass_output(s, i))
			;
	return r;
}

static void done(struct session *s)
{
	restore_terminal(s);
	if (s->to_fd != s->from_fds[0])
		fd_close(s->to_fd);
	fd_close(s->from_fds[0]);
	fd_close(s->from_fds[1]);
	fd_close(s->signal_fd);
	ipc_conn_free(s->conn);
}

int exec_command(int argc, char **argv, const struct options *options)
{
	struct exec_options command = {};
	struct session s = {
		.command = &command,
		.signal_fd = -EBADF,
		.to_fd = -EBADF,
		.from_fds = {-EBADF, -EBADF},
		.exit_code = EXIT_NOT_ASKED,
	};
	struct err err = {};
	int r;

	r = exec_options_parse(argc, argv, &command, &err);
	if (r == 0 && command.help)
		return fputs(exec_options_usage, stdout) < 0 || fflush(stdout) != 0 ? EXIT_NOT_ASKED
		                                                                    : 0;
	if (r == 0)
		r = connect_task(&command, options->runtime_dir, &s, &err);
	if (r == 0)
		r = run(&s, &err);
	done(&s);
	if (r < 0)
		fprintf(stderr, "ecs-agent exec: %s\n", err.text);
	return s.exit_code;
}
