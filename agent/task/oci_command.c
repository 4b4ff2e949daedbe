/* Options are tables of where in struct oci_options they go; the rest is small and said once. */
#include "agent/task/oci_command.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "agent/task/oci_config.h"
#include "lib/fd.h"
#include "lib/json.h"

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
		if (options->n_env == OCI_ENV_MAX - 1)
			return err_text(err, -EINVAL, "more than %d variables", OCI_ENV_MAX - 1);
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
int oci_parse_options(int argc, char **argv, int i, const struct oci_option *known,
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

struct json_object *oci_container_message(const char *type)
{
	_cleanup_json_ struct json_object *body = ipc_message_new(type, NULL);

	if (!body || json_add_string(body, "container", OCI_CONTAINER_NAME) < 0)
		return NULL;
	return TAKE_PTR(body);
}

int oci_write_pid_file(const char *path, pid_t pid, struct err *err)
{
	char text[16];
	int n = snprintf(text, sizeof(text), "%d", (int)pid);
	int r = path ? file_replace(AT_FDCWD, path, text, (size_t)n, 0644) : 0;

	return r < 0 ? err_set(err, r, "write --pid-file %s", path) : 0;
}

/* The master of a terminal to whoever asked for it, as with runc: one message, its name as data. */
int oci_send_console(const char *path, int console_fd, struct err *err)
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

int oci_check_terminal(bool terminal, const struct oci_options *options, const char *what,
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
