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
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "agent/task/oci_client.h"
#include "agent/task/oci_command.h"
#include "agent/task/oci_config.h"
#include "lib/fd.h"
#include "lib/json.h"
#include "lib/parse.h"

#define ROOT_DEFAULT   "/run/ecs-oci"
#define PARENT_DEFAULT "ecs-oci"
#define ID_MAX         64
#define KILL_WAIT_MSEC 10000

static const struct oci_option global_options[] = {
	OCI_VALUE("root", 0, root), OCI_VALUE("cgroup-parent", 0, cgroup_parent),
	OCI_VALUE("log", 0, log), OCI_VALUE("log-format", 0, log_format), OCI_OPTIONS_END};

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
	int r = oci_client_call(client, oci_container_message("start"), NULL, 0, &msg, err);

	if (r < 0)
		return r;
	r = json_get_i64(msg.body, "pid", 1, INT32_MAX, &pid, err);
	if (r == 0 && config->terminal)
		r = msg.n_fds == 1 ? oci_send_console(options->console_socket, msg.fds[0], err)
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
		r = oci_check_terminal(config.terminal, options, "process.terminal", err);
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
		r = oci_write_pid_file(options->pid_file, *ret_pid, err);
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
	return r < 0 ? r
	             : oci_client_call(client, oci_container_message("start"), NULL, 0, NULL, err);
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
	struct json_object *body = oci_container_message("signal");

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

/* --- features --- */

static int on_features(struct oci_client *client, const struct oci_options *options, char **args,
                       int *ret_code, struct err *err)
{
	static const char text[] =
		"{\"ociVersionMin\":\"1.0.0\",\"ociVersionMax\":\"" OCI_VERSION "\",\"hooks\":[],"
		"\"mountOptions\":[\"bind\",\"dev\",\"diratime\",\"exec\",\"noatime\",\"nodev\","
		"\"nodiratime\",\"noexec\",\"nosuid\",\"private\",\"rbind\",\"relatime\",\"ro\","
		"\"rprivate\",\"rro\",\"rslave\",\"rw\",\"slave\",\"strictatime\",\"suid\"],"
		"\"linux\":{\"namespaces\":[\"cgroup\",\"ipc\",\"mount\",\"network\",\"pid\",\"user\",\"uts\"],"
		"\"cgroup\":{\"v1\":true,\"v2\":true,\"systemd\":false,\"systemdUser\":false},"
		"\"seccomp\":{\"enabled\":true,\"actions\":[\"SCMP_ACT_ALLOW\","
		"\"SCMP_ACT_ERRNO\",\"SCMP_ACT_KILL\",\"SCMP_ACT_KILL_PROCESS\","
		"\"SCMP_ACT_KILL_THREAD\",\"SCMP_ACT_LOG\",\"SCMP_ACT_TRACE\","
		"\"SCMP_ACT_TRAP\"],\"operators\":[\"SCMP_CMP_EQ\",\"SCMP_CMP_GE\","
		"\"SCMP_CMP_GT\",\"SCMP_CMP_LE\",\"SCMP_CMP_LT\",\"SCMP_CMP_MASKED_EQ\","
		"\"SCMP_CMP_NE\"],\"knownFlags\":[\"SECCOMP_FILTER_FLAG_LOG\","
		"\"SECCOMP_FILTER_FLAG_SPEC_ALLOW\",\"SECCOMP_FILTER_FLAG_TSYNC\"]},"
		"\"apparmor\":{\"enabled\":true},\"selinux\":{\"enabled\":true}}}";

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
	OCI_VALUE("bundle", 'b', bundle), OCI_VALUE("pid-file", 0, pid_file),                      \
		OCI_VALUE("console-socket", 0, console_socket)

static const struct oci_option no_options[] = {OCI_OPTIONS_END};
static const struct oci_option create_options[] = {BUNDLE_OPTIONS, OCI_OPTIONS_END};
static const struct oci_option run_options[] = {BUNDLE_OPTIONS, OCI_FLAG("detach", 'd', detach),
                                                OCI_FLAG("keep", 0, keep), OCI_OPTIONS_END};
static const struct oci_option delete_options[] = {OCI_FLAG("force", 'f', force), OCI_OPTIONS_END};
static const struct oci_option exec_options[] = {OCI_VALUE("console-socket", 0, console_socket),
                                                 OCI_VALUE("pid-file", 0, pid_file),
                                                 OCI_VALUE("user", 'u', user),
                                                 OCI_VALUE("cwd", 0, cwd),
                                                 {"env", 'e', 0, OPTION_ENV},
                                                 OCI_FLAG("tty", 't', tty),
                                                 OCI_FLAG("detach", 'd', detach),
                                                 OCI_OPTIONS_END};

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
	{"exec", exec_options, -1, oci_on_exec},  {"features", no_options, -2, on_features},
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

	r = oci_parse_options(argc, argv, 1, global_options, options, &first, err);
	if (r == 0)
		r = check_globals(options, err);
	if (r < 0)
		return r;
	command = find_command(argv[first]);
	r = oci_parse_options(argc, argv, first + 1, commands[command].options, options, &first,
	                      err);
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
