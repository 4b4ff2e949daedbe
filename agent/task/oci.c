/* A table of commands; what they share is the handling of options and the way to the supervisor. */
#include "agent/task/oci.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "agent/task/capability.h"
#include "agent/task/oci_client.h"
#include "agent/task/oci_config.h"
#include "agent/task/protocol.h"
#include "lib/fd.h"
#include "lib/json.h"
#include "lib/parse.h"

#define ROOT_DEFAULT   "/run/ecs-oci"
#define PARENT_DEFAULT "ecs-oci"
#define ID_MAX         64
#define ENV_MAX        256
#define KILL_WAIT_MSEC 10000

struct oci_options {
	const char *root, *cgroup_parent, *log, *log_format; /* before the command */
	const char *bundle, *pid_file, *console_socket, *user, *cwd;
	const char *env[ENV_MAX];
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

#define VALUE(name, letter, member)                                                                \
	{                                                                                          \
		name, letter, offsetof(struct oci_options, member), OPTION_VALUE                   \
	}
#define FLAG(name, letter, member)                                                                 \
	{                                                                                          \
		name, letter, offsetof(struct oci_options, member), OPTION_FLAG                    \
	}
#define OPTIONS_END                                                                                \
	{                                                                                          \
		NULL, 0, 0, OPTION_FLAG                                                            \
	}

static const struct oci_option global_options[] = {
	VALUE("root", 0, root), VALUE("cgroup-parent", 0, cgroup_parent), VALUE("log", 0, log),
	VALUE("log-format", 0, log_format), OPTIONS_END};

/* --- options --- */

static int set_option(const struct oci_option *option, struct oci_options *options,
                      const char *value, struct err *err)
{
	char *place = (char *)options + option->offset;

	if (option->kind == OPTION_FLAG) {
		*(bool *)place = true;
	} else if (option->kind == OPTION_VALUE) {
		*(const char **)place = value;
	} else {
		if (options->n_env == ENV_MAX - 1)
			return err_text(err, -EINVAL, "more than %d variables", ENV_MAX - 1);
		options->env[options->n_env++] = value;
	}
	return 0;
}

static const struct oci_option *find_option(const struct oci_option *options, const char *text)
{
	const char *name = text + strspn(text, "-");
	size_t len = strcspn(name, "=");

	for (; options->name; options++) {
		if (text[1] == '-' && strlen(options->name) == len &&
		    strncmp(options->name, name, len) == 0)
			return options;
		if (text[1] != '-' && len == 1 && options->letter == *name)
			return options;
	}
	return NULL;
}

/* From argv[i] on; *ret is the index of what is no option. */
static int parse_options(int argc, char **argv, int i, const struct oci_option *known,
                         struct oci_options *options, int *ret, struct err *err)
{
	int r = 0;

	for (; r == 0 && i < argc && argv[i][0] == '-' && argv[i][1]; i++) {
		const struct oci_option *option;
		const char *value;

		if (strcmp(argv[i], "--") == 0) {
			i++;
			break;
		}
		option = find_option(known, argv[i]);
		if (!option)
			return err_text(err, -EINVAL, "option %.80s is not supported", argv[i]);
		value = strchr(argv[i], '=');
		if (option->kind == OPTION_FLAG && value)
			return err_text(err, -EINVAL, "option --%s takes no value", option->name);
		if (option->kind != OPTION_FLAG && !value && i + 1 >= argc)
			return err_text(err, -EINVAL, "option --%s needs a value", option->name);
		if (option->kind != OPTION_FLAG)
			value = value ? value + 1 : argv[++i];
		r = set_option(option, options, value, err);
	}
	*ret = i;
	return r;
}

/* --- what commands share --- */

static int take_id(const char *id, struct oci_client *client, struct err *err)
{
	if (!id)
		return err_text(err, -EINVAL, "the id of a container is missing");
	if (!name_is_component(id, ID_MAX))
		return err_text(
			err, -EINVAL,
			"container id \"%.80s\" must be 1 to %d letters, digits, '_', '-' or "
			"'.', not starting with '.'",
			id, ID_MAX);
	client->id = id;
	return 0;
}

static struct json_object *container_message(const char *type)
{
	_cleanup_json_ struct json_object *body = ipc_message_new(type, NULL);

	if (!body || json_add_string(body, "container", OCI_CONTAINER_NAME) < 0)
		return NULL;
	return TAKE_PTR(body);
}

static int write_pid_file(const char *path, pid_t pid, struct err *err)
{
	char text[16];
	int n = snprintf(text, sizeof(text), "%d", (int)pid);
	int r = path ? file_replace(AT_FDCWD, path, text, (size_t)n, 0644) : 0;

	return r < 0 ? err_set(err, r, "write --pid-file %s", path) : 0;
}

/* The master of a terminal to whoever asked for it, as with runc: one message, its name as data. */
static int send_console(const char *path, int console_fd, struct err *err)
{
	char name[] = "/dev/ptmx";
	struct iovec data = {.iov_base = name, .iov_len = strlen(name)};
	union {
		struct cmsghdr header;
		char room[CMSG_SPACE(sizeof(int))];
	} control = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)),
	                        .cmsg_level = SOL_SOCKET,
	                        .cmsg_type = SCM_RIGHTS}};
	struct msghdr msg = {.msg_iov = &data,
	                     .msg_iovlen = 1,
	                     .msg_control = &control,
	                     .msg_controllen = sizeof(control)};
	_cleanup_close_ int fd = ipc_connect(path, err);

	if (fd < 0)
		return err_prefix(err, fd, "--console-socket");
	memcpy(CMSG_DATA(&control.header), &console_fd, sizeof(console_fd));
	if (sendmsg(fd, &msg, MSG_NOSIGNAL) < 0)
		return err_set(err, -errno, "send the terminal to --console-socket %s", path);
	return 0;
}

static int check_terminal(bool terminal, const struct oci_options *options, const char *what,
                          struct err *err)
{
	if (terminal && !options->console_socket)
		return err_text(err, -EINVAL,
		                "%s asks for a terminal, which needs --console-socket", what);
	if (!terminal && options->console_socket)
		return err_text(err, -EINVAL, "--console-socket is given, but %s has no terminal",
		                what);
	return 0;
}

/* --- create --- */

static int read_bundle(const struct oci_options *options, char *bundle, struct oci_config *ret,
                       struct err *err)
{
	_cleanup_json_ struct json_object *config = NULL;
	_cleanup_free_ char *text = NULL;
	unsigned char bytes[32];
	char path[PATH_MAX], id[65];
	size_t len;
	int r;

	if (!realpath(options->bundle ? options->bundle : ".", bundle))
		return err_set(err, -errno, "bundle %s", options->bundle ? options->bundle : ".");
	if (snprintf(path, sizeof(path), "%s/config.json", bundle) >= (int)sizeof(path))
		return err_text(err, -ENAMETOOLONG, "the path of the bundle is too long");
	r = file_read(AT_FDCWD, path, OCI_CONFIG_MAX, &text, &len);
	if (r < 0)
		return err_set(err, r, "read %s", path);
	r = json_parse_object(text, len, OCI_CONFIG_MAX, &config, err);
	if (r == 0 && getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
		r = err_set(err, -EIO, "getrandom");
	for (size_t i = 0; i < sizeof(bytes); i++)
		snprintf(id + 2 * i, 3, "%02x", bytes[i]);
	if (r == 0)
		r = oci_config_parse(config, bundle, id, ret, err);
	return r < 0 ? err_prefix(err, r, "%s", path) : 0;
}

static int set_up(struct oci_client *client, const struct oci_config *config, struct err *err)
{
	struct json_object *body = ipc_message_new("setup", NULL);
	struct json_object *task = json_object_new_object();

	if (json_add(body, "task", task) < 0 ||
	    json_add_string(task, "networkMode", config->host_network ? "host" : "none") < 0) {
		json_object_put(body);
		return err_oom(err);
	}
	return oci_client_call(client, body, NULL, 0, NULL, err);
}

static int create_container(struct oci_client *client, const struct oci_config *config,
                            struct err *err)
{
	static const int stdio[] = {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO};
	struct json_object *body = ipc_message_new("create", NULL);

	if (json_add(body, "container", json_object_get(config->container)) < 0) {
		json_object_put(body);
		return err_oom(err);
	}
	return oci_client_call(client, body, stdio, config->terminal ? 0 : ARRAY_SIZE(stdio), NULL,
	                       err);
}

/* All but the program: its process is there and waits. */
static int hold_container(struct oci_client *client, const struct oci_options *options,
                          const struct oci_config *config, pid_t *ret_pid, struct err *err)
{
	struct ipc_message msg = {};
	int64_t pid = 0;
	int r = oci_client_call(client, container_message("start"), NULL, 0, &msg, err);

	if (r < 0)
		return r;
	r = json_get_i64(msg.body, "pid", 1, INT32_MAX, &pid, err);
	if (r == 0 && config->terminal)
		r = msg.n_fds == 1 ? send_console(options->console_socket, msg.fds[0], err)
		                   : err_text(err, -EPROTO, "the supervisor sent no terminal");
	ipc_message_done(&msg);
	*ret_pid = (pid_t)pid;
	return r;
}

static int save(const struct oci_client *client, const struct oci_config *config,
                const char *bundle, struct err *err)
{
	_cleanup_json_ struct json_object *obj = json_object_new_object();
	struct json_object *oci = json_get(config->container, "oci");
	char created[64];
	struct timespec now;
	struct tm tm;
	size_t n;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	n = strftime(created, sizeof(created), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(created + n, sizeof(created) - n, ".%09ldZ", now.tv_nsec);
	if (!obj || json_add_string(obj, "ociVersion", OCI_VERSION) < 0 ||
	    json_add_string(obj, "id", client->id) < 0 ||
	    json_add_string(obj, "bundle", bundle) < 0 ||
	    json_add_string(obj, "rootfs", json_text(oci, "rootfs")) < 0 ||
	    json_add_string(obj, "created", created) < 0 ||
	    (config->annotations &&
	     json_add(obj, "annotations", json_object_get(config->annotations)) < 0))
		return err_oom(err);
	return oci_client_save(client, obj, err);
}

static int create(struct oci_client *client, const struct oci_options *options, pid_t *ret_pid,
                  struct err *err)
{
	struct oci_config config = {};
	char bundle[PATH_MAX];
	int r = read_bundle(options, bundle, &config, err);

	if (r == 0)
		r = check_terminal(config.terminal, options, "process.terminal", err);
	if (r < 0)
		goto done;
	r = oci_client_create(client, err);
	if (r == -EEXIST)
		goto done; /* that one is another's */
	if (r == 0)
		r = set_up(client, &config, err);
	if (r == 0)
		r = create_container(client, &config, err);
	if (r == 0)
		r = hold_container(client, options, &config, ret_pid, err);
	if (r == 0)
		r = save(client, &config, bundle, err);
	if (r == 0)
		r = write_pid_file(options->pid_file, *ret_pid, err);
	if (r < 0) {
		client->conn = ipc_conn_free(client->conn);
		(void)oci_client_remove(client, NULL); /* the first failure is what counts */
	}
done:
	oci_config_done(&config);
	return r;
}

static int on_create(struct oci_client *client, const struct oci_options *options, char **args,
                     int *ret_code, struct err *err)
{
	pid_t pid;

	(void)args;
	(void)ret_code;
	return create(client, options, &pid, err);
}

/* --- start, state, kill, delete --- */

static int start(struct oci_client *client, struct err *err)
{
	struct oci_state state;
	int r = oci_client_state(client, &state, err);

	if (r == 0 && strcmp(state.status, "created") != 0)
		return err_text(err, -EBUSY,
		                "container %s is %s; only a created one can be started", client->id,
		                state.status);
	return r < 0 ? r : oci_client_call(client, container_message("start"), NULL, 0, NULL, err);
}

static int on_start(struct oci_client *client, const struct oci_options *options, char **args,
                    int *ret_code, struct err *err)
{
	int r = oci_client_open(client, err);

	(void)options;
	(void)args;
	(void)ret_code;
	return r < 0 ? r : start(client, err);
}

/* With a supervisor that has died, all of the container has. */
static int open_or_dead(struct oci_client *client, struct oci_state *ret, struct err *err)
{
	int r = oci_client_open(client, err);

	if (r == 0)
		r = oci_client_state(client, ret, err);
	if (r != -ECONNREFUSED)
		return r;
	*ret = (struct oci_state){.status = "stopped", .exit_code = -1};
	return 0;
}

static int on_state(struct oci_client *client, const struct oci_options *options, char **args,
                    int *ret_code, struct err *err)
{
	_cleanup_json_ struct json_object *obj = NULL;
	struct oci_state state;
	int r = open_or_dead(client, &state, err);

	(void)options;
	(void)args;
	(void)ret_code;
	if (r == 0)
		r = oci_client_load(client, &obj, err);
	if (r < 0)
		return r;
	if (json_add_string(obj, "status", state.status) < 0 ||
	    json_add_i64(obj, "pid", state.pid) < 0)
		return err_oom(err);
	if (puts(json_object_to_json_string_ext(obj, JSON_C_TO_STRING_PRETTY |
	                                                     JSON_C_TO_STRING_SPACED |
	                                                     JSON_C_TO_STRING_NOSLASHESCAPE)) < 0 ||
	    fflush(stdout) != 0)
		return err_set(err, -errno, "write to standard output");
	return 0;
}

static int send_signal(struct oci_client *client, const char *name, struct err *err)
{
	struct json_object *body = container_message("signal");

	if (!body || json_add_string(body, "signal", name) < 0) {
		json_object_put(body);
		return err_oom(err);
	}
	return oci_client_call(client, body, NULL, 0, NULL, err);
}

static int on_kill(struct oci_client *client, const struct oci_options *options, char **args,
                   int *ret_code, struct err *err)
{
	struct oci_state state;
	int r = open_or_dead(client, &state, err);

	(void)options;
	(void)ret_code;
	if (r == 0 && strcmp(state.status, "stopped") == 0)
		r = err_text(err, -ESRCH, "container %s is not running", client->id);
	return r < 0 ? r : send_signal(client, args[0] ? args[0] : "SIGTERM", err);
}

static int wait_until_stopped(struct oci_client *client, struct err *err)
{
	static const struct timespec pause = {.tv_nsec = 10 * 1000000};
	struct oci_state state;

	for (int i = 0; i < KILL_WAIT_MSEC / 10; i++) {
		int r = oci_client_state(client, &state, err);

		if (r < 0 || strcmp(state.status, "stopped") == 0)
			return r == -ECONNREFUSED ? 0 : r;
		(void)nanosleep(&pause, NULL); /* shorter does no harm */
	}
	return err_text(err, -ETIMEDOUT, "container %s does not end after SIGKILL", client->id);
}

/* With its connection open. */
static int remove_container(struct oci_client *client, bool force, struct err *err)
{
	struct oci_state state;
	int r = oci_client_state(client, &state, err);

	if (r == 0 && strcmp(state.status, "running") == 0 && !force)
		return err_text(err, -EBUSY, "container %s is running; delete it with --force",
		                client->id);
	if (r == 0 && strcmp(state.status, "stopped") != 0) {
		r = send_signal(client, "SIGKILL", err);
		if (r == 0 || r == -ESRCH)
			r = wait_until_stopped(client, err);
	}
	return r < 0 && r != -ECONNREFUSED ? r : oci_client_remove(client, err);
}

static int on_delete(struct oci_client *client, const struct oci_options *options, char **args,
                     int *ret_code, struct err *err)
{
	int r = oci_client_open(client, err);

	(void)args;
	(void)ret_code;
	if (r == -ENOENT && options->force)
		return 0;
	if (r == -ECONNREFUSED)
		return oci_client_remove(client, err);
	return r < 0 ? r : remove_container(client, options->force, err);
}

/* --- run --- */

/* Signals go on to the container until the process has ended. */
static int wait_for_end(const struct oci_client *client, int pid_fd, int signal_fd, pid_t pid,
                        struct err *err)
{
	for (;;) {
		struct pollfd fds[] = {{.fd = pid_fd, .events = POLLIN},
		                       {.fd = signal_fd, .events = POLLIN}};
		struct signalfd_siginfo info;

		if (poll(fds, ARRAY_SIZE(fds), -1) < 0 && errno != EINTR)
			return err_set(err, -errno, "wait for container %s", client->id);
		if (fds[0].revents)
			return 0;
		while (read(signal_fd, &info, sizeof(info)) == sizeof(info))
			if (syscall(SYS_pidfd_send_signal, pid_fd, info.ssi_signo, NULL, 0) < 0 &&
			    errno != ESRCH)
				return err_set(err, -errno, "send signal %u to process %d",
				               info.ssi_signo, (int)pid);
	}
}

static int catch_signals(int *ret, struct err *err)
{
	sigset_t mask;

	sigfillset(&mask);
	sigdelset(&mask, SIGCHLD);
	if (sigprocmask(SIG_BLOCK, &mask, NULL) < 0)
		return err_set(err, -errno, "block signals");
	*ret = signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC);
	return *ret < 0 ? err_set(err, -errno, "signalfd") : 0;
}

/* Others may look at the container meanwhile: the connection and the lock are given up. */
static int run_to_the_end(struct oci_client *client, pid_t pid, int *ret_code, struct err *err)
{
	_cleanup_close_ int pid_fd = (int)syscall(SYS_pidfd_open, pid, 0), signal_fd = -EBADF;
	struct oci_state state;
	int r;

	if (pid_fd < 0)
		return err_set(err, -errno, "open process %d", (int)pid);
	r = catch_signals(&signal_fd, err); /* before there is anybody to send one for */
	if (r == 0)
		r = start(client, err);
	if (r < 0)
		return r;
	oci_client_done(client);
	r = wait_for_end(client, pid_fd, signal_fd, pid, err);
	if (r == 0)
		r = oci_client_open(client, err);
	if (r == 0)
		r = wait_until_stopped(client, err);
	if (r == 0)
		r = oci_client_state(client, &state, err);
	if (r == 0)
		*ret_code = state.exit_code >= 0 ? state.exit_code : EXIT_FAILURE;
	return r;
}

static int on_run(struct oci_client *client, const struct oci_options *options, char **args,
                  int *ret_code, struct err *err)
{
	struct err later = {};
	pid_t pid = 0;
	int r = create(client, options, &pid, err);

	(void)args;
	if (r < 0)
		return r;
	r = options->detach ? start(client, err) : run_to_the_end(client, pid, ret_code, err);
	if (r == 0 && (options->detach || options->keep))
		return 0;
	if (remove_container(client, true, &later) < 0 && r == 0) {
		*err = later;
		r = -EIO;
	}
	return r;
}

/* --- exec --- */

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
	_cleanup_json_ struct json_object *body = container_message("exec");
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

static int on_exec(struct oci_client *client, const struct oci_options *options, char **args,
                   int *ret_code, struct err *err)
{
	static const int stdio[] = {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO};
	struct ipc_message msg = {};
	int64_t pid = 0;
	int r = check_terminal(options->tty, options, "exec", err);

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
		r = msg.n_fds == 1 ? send_console(options->console_socket, msg.fds[0], err)
		                   : err_text(err, -EPROTO, "the supervisor sent no terminal");
	ipc_message_done(&msg);
	if (r == 0)
		r = write_pid_file(options->pid_file, (pid_t)pid, err);
	return r < 0 || options->detach ? r : wait_for_exec(client, ret_code, err);
}

/* --- features --- */

static int on_features(struct oci_client *client, const struct oci_options *options, char **args,
                       int *ret_code, struct err *err)
{
	static const char text[] =
		"{\"ociVersionMin\":\"1.0.0\",\"ociVersionMax\":\"" OCI_VERSION "\",\"hooks\":[],"
		"\"mountOptions\":[\"bind\",\"dev\",\"diratime\",\"exec\",\"noatime\",\"nodev\","
		"\"nodiratime\",\"noexec\",\"nosuid\",\"private\",\"rbind\",\"relatime\",\"ro\","
		"\"rprivate\",\"rro\",\"rslave\",\"rw\",\"slave\",\"strictatime\",\"suid\"],"
		"\"linux\":{\"namespaces\":[\"cgroup\",\"ipc\",\"mount\",\"network\",\"pid\",\"uts\"],"
		"\"cgroup\":{\"v1\":true,\"v2\":true,\"systemd\":false,\"systemdUser\":false},"
		"\"seccomp\":{\"enabled\":false},\"apparmor\":{\"enabled\":false},"
		"\"selinux\":{\"enabled\":false}}}";

	(void)client;
	(void)options;
	(void)args;
	(void)ret_code;
	if (puts(text) < 0 || fflush(stdout) != 0)
		return err_set(err, -errno, "write to standard output");
	return 0;
}

/* --- commands --- */

#define BUNDLE_OPTIONS                                                                             \
	VALUE("bundle", 'b', bundle), VALUE("pid-file", 0, pid_file),                              \
		VALUE("console-socket", 0, console_socket)

static const struct oci_option no_options[] = {OPTIONS_END};
static const struct oci_option create_options[] = {BUNDLE_OPTIONS, OPTIONS_END};
static const struct oci_option run_options[] = {BUNDLE_OPTIONS, FLAG("detach", 'd', detach),
                                                FLAG("keep", 0, keep), OPTIONS_END};
static const struct oci_option delete_options[] = {FLAG("force", 'f', force), OPTIONS_END};
static const struct oci_option exec_options[] = {VALUE("console-socket", 0, console_socket),
                                                 VALUE("pid-file", 0, pid_file),
                                                 VALUE("user", 'u', user),
                                                 VALUE("cwd", 0, cwd),
                                                 {"env", 'e', 0, OPTION_ENV},
                                                 FLAG("tty", 't', tty),
                                                 FLAG("detach", 'd', detach),
                                                 OPTIONS_END};

static const struct {
	const char *name;
	const struct oci_option *options;
	int max_args; /* beyond the id; -1: any number; -2: no id either */
	int (*run)(struct oci_client *client, const struct oci_options *options, char **args,
	           int *ret_code, struct err *err);
} commands[] = {
	{"create", create_options, 0, on_create}, {"start", no_options, 0, on_start},
	{"state", no_options, 0, on_state},       {"kill", no_options, 1, on_kill},
	{"delete", delete_options, 0, on_delete}, {"run", run_options, 0, on_run},
	{"exec", exec_options, -1, on_exec},      {"features", no_options, -2, on_features},
};

static int find_command(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (strcmp(commands[i].name, name) == 0)
			return (int)i;
	return -1;
}

/* A supervisor is started with "--" before the id, so none is taken for a command. */
bool oci_is_command(int argc, char **argv)
{
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
		if (argv[i][0] != '-')
			return find_command(argv[i]) >= 0;
		if (!strchr(argv[i], '='))
			i++; /* the global options all have a value */
	}
	return false;
}

/* For callers that read it from a file, such as containerd. */
static void write_log(const struct oci_options *options, const char *message)
{
	_cleanup_json_ struct json_object *line = NULL;
	_cleanup_fclose_ FILE *file = options->log ? fopen(options->log, "ae") : NULL;
	char now[32];
	time_t seconds = time(NULL);
	struct tm tm;

	if (!file)
		return;
	gmtime_r(&seconds, &tm);
	(void)strftime(now, sizeof(now), "%Y-%m-%dT%H:%M:%SZ", &tm); /* it fits */
	if (!options->log_format || strcmp(options->log_format, "json") != 0) {
		fprintf(file, "time=\"%s\" level=error msg=\"%s\"\n", now, message);
		return;
	}
	line = json_object_new_object();
	if (line && json_add_string(line, "level", "error") == 0 &&
	    json_add_string(line, "msg", message) == 0 && json_add_string(line, "time", now) == 0)
		fprintf(file, "%s\n", json_to_text(line, NULL));
}

static int check_globals(const struct oci_options *options, struct err *err)
{
	if (geteuid() != 0)
		return err_text(err, -EPERM, "containers need root");
	if (options->root[0] != '/')
		return err_text(err, -EINVAL, "--root \"%.200s\" must be an absolute path",
		                options->root);
	if (options->log_format && strcmp(options->log_format, "json") != 0 &&
	    strcmp(options->log_format, "text") != 0)
		return err_text(err, -EINVAL, "--log-format \"%.32s\" must be text or json",
		                options->log_format);
	return 0;
}

static int dispatch(int argc, char **argv, struct oci_options *options, int *ret_code,
                    struct err *err)
{
	struct oci_client client = OCI_CLIENT_EMPTY;
	int command, first, r;

	r = parse_options(argc, argv, 1, global_options, options, &first, err);
	if (r == 0)
		r = check_globals(options, err);
	if (r < 0)
		return r;
	command = find_command(argv[first]);
	r = parse_options(argc, argv, first + 1, commands[command].options, options, &first, err);
	if (r == 0 && commands[command].max_args > -2)
		r = take_id(argv[first], &client, err);
	if (r == 0 && commands[command].max_args > -2)
		first++;
	if (r == 0 && commands[command].max_args >= 0 && argc - first > commands[command].max_args)
		r = err_text(err, -EINVAL, "unexpected argument \"%.80s\"",
		             argv[first + commands[command].max_args]);
	if (r < 0)
		return r;
	client.root = options->root;
	client.cgroup_parent = options->cgroup_parent;
	r = commands[command].run(&client, options, argv + first, ret_code, err);
	oci_client_done(&client);
	return r;
}

int oci_main(int argc, char **argv)
{
	struct oci_options options = {.root = ROOT_DEFAULT, .cgroup_parent = PARENT_DEFAULT};
	struct err err = {};
	int code = EXIT_SUCCESS;
	int r = dispatch(argc, argv, &options, &code, &err);

	if (r == 0)
		return code;
	fprintf(stderr, "ecs-task: %s\n", err.text);
	write_log(&options, err.text);
	return code != EXIT_SUCCESS ? code : EXIT_FAILURE;
}
