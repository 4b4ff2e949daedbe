/* One request, its events and its answer, printed. Running it takes root, as the store is root's.
 */
#include "agent/image/command.h"

#include "agent/image/halves.h"
#include "lib/cleanup.h"
#include "lib/confine.h"
#include "lib/fd.h"
#include "lib/ipc.h"
#include "lib/json.h"
#include "lib/log.h"
#include "lib/secret.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define PASSWORD_MAX 4096

static int read_password(struct secret **ret, struct err *err)
{
	char buf[PASSWORD_MAX + 1];
	ssize_t n = fd_read_all(STDIN_FILENO, buf, sizeof(buf));

	if (n < 0)
		return err_set(err, (int)n, "read the password from standard input");
	if (n > PASSWORD_MAX)
		return err_text(err, -EFBIG, "the password is longer than %d bytes", PASSWORD_MAX);
	while (n > 0 && (buf[n - 1] == '\n' || buf[n - 1] == '\r'))
		n--;
	if (n > 0 && !memchr(buf, '\0', (size_t)n))
		*ret = secret_new(buf, (size_t)n);
	explicit_bzero(buf, sizeof(buf));
	if (n == 0)
		return err_text(err, -EINVAL, "there is no password on standard input");
	return *ret ? 0 : err_text(err, -EINVAL, "the password cannot be used");
}

static int add_auth(struct json_object *request, const char *username, struct err *err)
{
	_cleanup_(secret_freep) struct secret *password = NULL;
	struct json_object *auth;
	int r;

	r = read_password(&password, err);
	if (r < 0)
		return r;
	auth = json_object_new_object();
	if (!auth || json_add_string(auth, "username", username) < 0 ||
	    json_add_string(auth, "password", secret_bytes(password)) < 0) {
		json_object_put(auth);
		return err_oom(err);
	}
	return json_add(request, "auth", auth) < 0 ? err_oom(err) : 0;
}

static void print_progress(struct json_object *message)
{
	uint64_t bytes;

	if (isatty(STDERR_FILENO) && json_get_u64(message, "bytes", UINT64_MAX, &bytes, NULL) == 0)
		fprintf(stderr, "\r%.1f MiB ", (double)bytes / (1024 * 1024));
}

static void print_pulled(struct json_object *answer)
{
	if (isatty(STDERR_FILENO))
		fputc('\n', stderr);
	printf("%s\n", json_text(answer, "digest"));
}

static void print_images(struct json_object *answer)
{
	struct json_object *list = json_get(answer, "images");
	size_t n = list ? json_object_array_length(list) : 0;

	printf("%-56s %-19s %-19s %6s  %s\n", "REFERENCE", "DIGEST", "IMAGE ID", "LAYERS",
	       "PULLED");
	for (size_t i = 0; i < n; i++) {
		struct json_object *image = json_object_array_get_idx(list, i), *layers = NULL;
		const char *reference = json_text(image, "reference");
		const char *digest = json_text(image, "digest");
		const char *image_id = json_text(image, "imageId");
		const char *pulled_at = json_text(image, "pulledAt");

		(void)json_get_array(image, "layers", &layers, NULL);
		printf("%-56s %-19.19s %-19.19s %6zu  %s\n", reference ? reference : "?",
		       digest ? digest : "?", image_id ? image_id : "?",
		       layers ? json_object_array_length(layers) : 0, pulled_at ? pulled_at : "?");
	}
}

static void print_removed(struct json_object *answer)
{
	uint64_t n = 0;

	(void)json_get_u64(answer, "layersRemoved", UINT64_MAX, &n, NULL);
	printf("removed, with %llu layers\n", (unsigned long long)n);
}

static void print_inspected(struct json_object *answer)
{
	json_object_object_del(answer, "type");
	puts(json_object_to_json_string_ext(answer, JSON_C_TO_STRING_PRETTY |
	                                                    JSON_C_TO_STRING_NOSLASHESCAPE));
}

static const struct {
	const char *word;
	const char *request;
	const char *answer;
	bool takes_reference;
	void (*print)(struct json_object *answer);
} commands[] = {
	{"pull", "pull", "pulled", true, print_pulled},
	{"ls", "list", "images", false, print_images},
	{"rm", "remove", "removed", true, print_removed},
	{"inspect", "inspect", "pulled", true, print_inspected},
};

static int converse(int fd, size_t command, struct json_object *request, struct err *err)
{
	_cleanup_(ipc_conn_freep) struct ipc_conn *conn = NULL;
	int r;

	r = ipc_conn_new(fd, 0, true, &conn);
	if (r == 0)
		r = ipc_conn_send(conn, request, NULL, 0);
	if (r < 0)
		return err_set(err, r, "send the request");
	for (;;) {
		_cleanup_(ipc_message_done) struct ipc_message msg = {};
		struct pollfd pfd = {.fd = ipc_conn_fd(conn), .events = POLLIN};
		const char *type;

		r = ipc_conn_receive(conn, &msg, err);
		if (r < 0)
			return r == -EPIPE ? err_text(err, -EIO, "there was no answer") : r;
		if (r == 0) {
			(void)poll(&pfd, 1, -1);
			continue;
		}
		type = json_text(msg.body, "type");
		if (strcmp(type, "error") == 0)
			return ipc_message_error(msg.body, err);
		if (strcmp(type, "progress") == 0)
			print_progress(msg.body);
		if (strcmp(type, commands[command].answer) == 0) {
			commands[command].print(msg.body);
			return 0;
		}
	}
}

static int make_request(const struct command_options *options, size_t command, int argc,
                        char **argv, struct json_object **ret, struct err *err)
{
	_cleanup_json_ struct json_object *request =
		ipc_message_new(commands[command].request, NULL);
	const char *word = commands[command].word;
	int r;

	if (!request)
		return err_oom(err);
	if (argc != (commands[command].takes_reference ? 2 : 1))
		return err_text(err, -EINVAL, "%s takes %s", word,
		                commands[command].takes_reference ? "one image reference"
		                                                  : "no arguments");
	if (options->username && strcmp(word, "pull") != 0)
		return err_text(err, -EINVAL, "--username is for pull only");
	if (commands[command].takes_reference && json_add_string(request, "reference", argv[1]) < 0)
		return err_oom(err);
	if (strcmp(word, "pull") == 0 && json_add_bool(request, "byOperator", true) < 0)
		return err_oom(err);
	if (options->username) {
		r = add_auth(request, options->username, err);
		if (r < 0)
			return r;
	}
	*ret = TAKE_PTR(request);
	return 0;
}

/* The child becomes what the launcher would have started. */
static int start_halves(const struct options *options, int *ret_fd, pid_t *ret_pid, struct err *err)
{
	int fds[2];
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return err_set(err, -errno, "make a socket");
	pid = fork();
	if (pid < 0) {
		int r = err_set(err, -errno, "start the image service");

		fd_close(fds[0]);
		fd_close(fds[1]);
		return r;
	}
	if (pid == 0) {
		struct err child_err = {};
		int r;

		fd_close(fds[0]);
		r = halves_run(options, fds[1], &child_err);
		if (r < 0)
			log_err(NULL, 0, "%s", child_err.text);
		exit(r < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
	}
	fd_close(fds[1]);
	*ret_fd = fds[0];
	*ret_pid = pid;
	return 0;
}

int command_run(const struct command_options *options, int argc, char **argv, struct err *err)
{
	static const char *const none[] = {NULL};
	const struct confinement confinement = {.syscalls = none};
	_cleanup_json_ struct json_object *request = NULL;
	size_t command = 0;
	pid_t pid = 0;
	int fd = -EBADF, r;

	while (command < ARRAY_SIZE(commands) && strcmp(commands[command].word, argv[0]) != 0)
		command++;
	if (command == ARRAY_SIZE(commands))
		return err_text(err, -EINVAL,
		                "unknown command \"%.40s\": it must be pull, ls, rm or inspect",
		                argv[0]);
	r = make_request(options, command, argc, argv, &request, err);
	if (r < 0)
		return r;
	if (geteuid() != 0)
		return err_text(err, -EPERM, "the image store is root's: run this as root");

	r = start_halves(options->options, &fd, &pid, err);
	if (r < 0)
		return r;
	(void)signal(SIGPIPE, SIG_IGN);
	/* Root without capabilities is what a container can be, one of pidMode host, too. */
	r = confine_no_dumps(err);
	if (r == 0)
		r = confine(&confinement, err);
	if (r < 0)
		fd_close(fd);
	else
		r = converse(fd, command, request, err);
	/* The connection is closed, which ends both halves; what they clean up is waited for. */
	(void)waitpid(pid, NULL, 0);
	return r;
}
