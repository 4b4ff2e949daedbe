/* Requests are served one after the other; only a pull takes long, and it watches the client. */
#include "agent/image/network.h"

#include "agent/image/pull.h"
#include "agent/image/reference.h"
#include "lib/confine.h"
#include "lib/fd.h"
#include "lib/ipc.h"
#include "lib/json.h"

#include <curl/curl.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>

#define USER               "ecs-image"
#define CERTS_DIR          "/etc/docker/certs.d"
#define STORE_TIMEOUT_USEC (600ul * 1000000)

struct network {
	const struct network_options *options;
	int unpack_fd;
	struct ipc_conn *client;
	struct json_object *request; /* of the pull under way, borrowed */
};

static int confine_network_half(struct err *err)
{
	static const char *const none[] = {NULL};
	const struct confinement confinement = {.user = USER, .syscalls = none};
	int r;

	r = confine(&confinement, err);
	if (r < 0)
		return r;
	/* After the change of user, which clears it. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0)
		return err_set(err, -errno, "die with the unpack half");
	return confine_no_dumps(err);
}

/* Sends all of it: the client is worth waiting for, since it asked. */
static int send_all(struct ipc_conn *conn, struct json_object *message)
{
	int r = ipc_conn_send(conn, message, NULL, 0);

	while (r == 0 && ipc_conn_wants_write(conn)) {
		struct pollfd pfd = {.fd = ipc_conn_fd(conn), .events = POLLOUT};

		if (poll(&pfd, 1, -1) < 0 && errno != EINTR)
			return -errno;
		r = ipc_conn_flush(conn);
	}
	return r;
}

static int on_pull_event(struct json_object *message, void *userdata)
{
	struct network *network = userdata;
	struct json_object *seq = json_get(network->request, "seq");
	int r;

	if (seq) {
		r = json_add(message, "seq", json_object_get(seq));
		if (r < 0)
			return r;
	}
	return send_all(network->client, message);
}

/* "pulled", out of a record of the store. */
static int answer_image(struct network *network, struct json_object *request,
                        struct json_object *record, struct err *err)
{
	static const char *const members[] = {"digest", "imageId", "layers", "config"};
	_cleanup_json_ struct json_object *answer = ipc_message_new("pulled", request);

	if (!answer)
		return err_oom(err);
	for (size_t i = 0; i < ARRAY_SIZE(members); i++)
		if (json_add(answer, members[i], json_object_get(json_get(record, members[i]))) < 0)
			return err_oom(err);
	return send_all(network->client, answer);
}

static int handle_pull(struct network *network, struct json_object *request, struct err *err)
{
	_cleanup_json_ struct json_object *record = NULL;
	const struct pull_options options = {
		.settings = network->options->settings,
		.runtime_dir = network->options->runtime_dir,
		.certs_dir = CERTS_DIR,
		.unpack_fd = network->unpack_fd,
		.client_fd = ipc_conn_fd(network->client),
		.on_event = on_pull_event,
		.userdata = network,
	};
	int r;

	network->request = request;
	r = pull_run(&options, request, &record, err);
	network->request = NULL;
	return r < 0 ? r : answer_image(network, request, record, err);
}

/* Ask the unpack half about the reference of the request, in its normal form. */
static int ask_about_reference(struct network *network, const char *type,
                               struct json_object *request, struct ipc_message *ret,
                               struct err *err)
{
	_cleanup_json_ struct json_object *question = ipc_message_new(type, NULL);
	char normal[REFERENCE_TEXT_N];
	struct reference reference;
	const char *text;
	int r;

	r = json_get_string(request, "reference", &text, err);
	if (r == 0)
		r = reference_parse(text, &reference, err);
	if (r < 0)
		return -EINVAL;
	reference_to_string(&reference, normal);
	if (!question || json_add_string(question, "reference", normal) < 0)
		return err_oom(err);
	return ipc_call(network->unpack_fd, question, NULL, 0, STORE_TIMEOUT_USEC, ret, err);
}

static int handle_inspect(struct network *network, struct json_object *request, struct err *err)
{
	_cleanup_(ipc_message_done) struct ipc_message answer = {};
	int r;

	r = ask_about_reference(network, "get-image", request, &answer, err);
	if (r < 0)
		return r;
	return answer_image(network, request, json_get(answer.body, "record"), err);
}

static int handle_list(struct network *network, struct json_object *request, struct err *err)
{
	_cleanup_json_ struct json_object *question = ipc_message_new("list-images", NULL);
	_cleanup_json_ struct json_object *list = ipc_message_new("images", request);
	_cleanup_(ipc_message_done) struct ipc_message answer = {};
	int r;

	if (!question || !list)
		return err_oom(err);
	r = ipc_call(network->unpack_fd, question, NULL, 0, STORE_TIMEOUT_USEC, &answer, err);
	if (r < 0)
		return r;
	if (json_add(list, "images", json_object_get(json_get(answer.body, "images"))) < 0)
		return err_oom(err);
	return send_all(network->client, list);
}

static int handle_remove(struct network *network, struct json_object *request, struct err *err)
{
	_cleanup_json_ struct json_object *done = ipc_message_new("removed", request);
	_cleanup_(ipc_message_done) struct ipc_message answer = {};
	int r;

	r = ask_about_reference(network, "remove-image", request, &answer, err);
	if (r < 0)
		return r;
	if (!done || json_add(done, "layersRemoved",
	                      json_object_get(json_get(answer.body, "layersRemoved"))) < 0)
		return err_oom(err);
	return send_all(network->client, done);
}

static int handle_sweep(struct network *network, struct json_object *request, struct err *err)
{
	_cleanup_json_ struct json_object *question = ipc_message_new("sweep", NULL);
	_cleanup_json_ struct json_object *done = ipc_message_new("swept", request);
	_cleanup_(ipc_message_done) struct ipc_message answer = {};
	int r;

	if (!question || !done)
		return err_oom(err);
	r = ipc_call(network->unpack_fd, question, NULL, 0, STORE_TIMEOUT_USEC, &answer, err);
	if (r < 0)
		return r;
	if (json_add(done, "layersRemoved",
	             json_object_get(json_get(answer.body, "layersRemoved"))) < 0)
		return err_oom(err);
	return send_all(network->client, done);
}

static const struct {
	const char *type;
	int (*handle)(struct network *network, struct json_object *request, struct err *err);
} requests[] = {
	{"pull", handle_pull},     {"inspect", handle_inspect}, {"list", handle_list},
	{"remove", handle_remove}, {"sweep", handle_sweep},
};

static int dispatch(struct network *network, struct json_object *request)
{
	const char *type = json_text(request, "type");
	struct err err = {};
	int r = -EINVAL;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(requests); i++)
		if (strcmp(requests[i].type, type) == 0)
			break;
	if (i < ARRAY_SIZE(requests))
		r = requests[i].handle(network, request, &err);
	else
		err_text(&err, r, "unknown request \"%.40s\"", type);
	return r < 0 ? ipc_conn_send_error(network->client, request, r, &err) : 0;
}

static int serve(struct network *network, struct err *err)
{
	for (;;) {
		_cleanup_(ipc_message_done) struct ipc_message msg = {};
		struct pollfd pfd = {.fd = ipc_conn_fd(network->client), .events = POLLIN};
		int r = ipc_conn_receive(network->client, &msg, err);

		if (r < 0)
			return r;
		if (r > 0) {
			r = dispatch(network, msg.body);
			if (r < 0)
				return err_set(err, r, "answer");
			continue;
		}
		if (ipc_conn_wants_write(network->client))
			pfd.events |= POLLOUT;
		if (poll(&pfd, 1, -1) < 0 && errno != EINTR)
			return err_set(err, -errno, "wait for requests");
		if (pfd.revents & POLLOUT) {
			r = ipc_conn_flush(network->client);
			if (r < 0)
				return err_set(err, r, "answer");
		}
	}
}

int network_serve(const struct network_options *options, struct err *err)
{
	_cleanup_(ipc_conn_freep) struct ipc_conn *client = NULL;
	_cleanup_close_ int unpack_fd = options->unpack_fd;
	struct network network = {.options = options, .unpack_fd = unpack_fd};
	int r;

	(void)signal(SIGPIPE, SIG_IGN);
	/* Requests carry passwords. */
	r = ipc_conn_new(options->client_fd, 0, true, &client);
	if (r < 0)
		return err_set(err, r, "use the client's connection");
	r = confine_network_half(err);
	if (r < 0)
		return r;
	if (curl_global_init(CURL_GLOBAL_DEFAULT) != 0)
		return err_text(err, -EIO, "set up libcurl");
	network.client = client;
	r = serve(&network, err);
	curl_global_cleanup();
	return r == -EPIPE ? 0 : r;
}
