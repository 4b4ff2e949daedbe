/* Connect, say hello, report; lost: try again, ever more slowly. */
#include "agent/engine/metadata_client.h"

#include <errno.h>
#include <stdio.h>

#include "iam-creds/protocol.h"
#include "lib/backoff.h"
#include "lib/json.h"
#include "lib/log.h"
#include "lib/loop.h"

#define ANSWER_TIMEOUT_USEC (10 * 1000 * 1000ull)

struct metadata_client {
	sd_event *loop;
	const char *runtime_dir;
	const struct metadata_client_ops *ops;
	void *userdata;
	struct peer *peer;
	bool is_up;
	bool complained;
	struct backoff backoff;
	sd_event_source *retry;
};

static void try_later(struct metadata_client *client);

static void lost(struct metadata_client *client)
{
	bool was_up = client->is_up;

	client->is_up = false;
	client->peer = peer_free(client->peer);
	try_later(client);
	if (was_up)
		client->ops->down(client->userdata);
}

static void on_end(struct peer *peer, int r, const struct err *err, void *userdata)
{
	struct metadata_client *client = userdata;

	(void)peer;
	if (client->is_up)
		log_warning(NULL, 0, "connection to ecs-metadata lost: %s",
		            r == -EPIPE ? "it has ended" : err->text);
	lost(client);
}

static void on_hello(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct metadata_client *client = userdata;

	if (r < 0) {
		log_debug(NULL, "ecs-metadata does not answer: %s", err->text);
		if (r == -ETIMEDOUT)
			lost(client);
		return; /* else on_end follows */
	}
	client->is_up = true;
	client->complained = false;
	backoff_reset(&client->backoff);
	client->ops->up(msg->body, client->userdata);
}

static int connect_peer(struct metadata_client *client, struct err *err)
{
	static const struct peer_ops ops = {.on_end = on_end};
	_cleanup_free_ char *path = NULL;
	int fd, r;

	if (asprintf(&path, "%s/" METADATA_SOCKET, client->runtime_dir) < 0)
		return err_oom(err);
	fd = ipc_connect(path, err);
	if (fd < 0)
		return fd;
	r = peer_new(client->loop, fd, true, &ops, client, &client->peer);
	if (r < 0)
		return err_set(err, r, "watch ecs-metadata");
	r = peer_request(client->peer, ipc_message_new("hello", NULL), NULL, 0, ANSWER_TIMEOUT_USEC,
	                 on_hello, client);
	if (r < 0) {
		client->peer = peer_free(client->peer);
		return err_set(err, r, "greet ecs-metadata");
	}
	return 0;
}

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct metadata_client *client = userdata;
	struct err err = {0};

	(void)source;
	(void)usec;
	client->retry = sd_event_source_disable_unref(client->retry);
	if (connect_peer(client, &err) >= 0)
		return 0;
	if (!client->complained)
		log_warning(NULL, 0, "ecs-metadata is not there, so no task can start: %s",
		            err.text);
	client->complained = true;
	try_later(client);
	return 0;
}

static void try_later(struct metadata_client *client)
{
	uint64_t usec = backoff_next(&client->backoff, random_fraction());

	client->retry = sd_event_source_disable_unref(client->retry);
	(void)loop_add_timer(client->loop, usec, usec / 10, on_retry, client, &client->retry);
}

int metadata_client_new(sd_event *loop, const char *runtime_dir,
                        const struct metadata_client_ops *ops, void *userdata,
                        struct metadata_client **ret)
{
	_cleanup_(metadata_client_freep) struct metadata_client *client =
		calloc(1, sizeof(*client));
	int r;

	if (!client)
		return -ENOMEM;
	*client = (struct metadata_client){
		.loop = sd_event_ref(loop),
		.runtime_dir = runtime_dir,
		.ops = ops,
		.userdata = userdata,
		.backoff = {.min_usec = 200 * 1000,
	                    .max_usec = 10 * 1000 * 1000,
	                    .multiple = 1.5,
	                    .jitter = 0.2},
	};
	r = loop_add_timer(loop, 0, 1, on_retry, client, &client->retry);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(client);
	return 0;
}

struct metadata_client *metadata_client_free(struct metadata_client *client)
{
	if (!client)
		return NULL;
	peer_free(client->peer);
	sd_event_source_disable_unref(client->retry);
	sd_event_unref(client->loop);
	free(client);
	return NULL;
}

bool metadata_is_up(const struct metadata_client *client)
{
	return client->is_up;
}

static void on_unasked_answer(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	(void)msg;
	(void)userdata;
	if (r < 0 && r != -EPIPE)
		log_warning(NULL, 0, "ecs-metadata: %s", err->text);
}

int metadata_request(struct metadata_client *client, struct json_object *body, const int *fds,
                     size_t n_fds, peer_answer_fn fn, void *userdata)
{
	if (!client->is_up) {
		json_object_put(body);
		return -ENOTCONN;
	}
	return peer_request(client->peer, body, fds, n_fds, ANSWER_TIMEOUT_USEC,
	                    fn ? fn : on_unasked_answer, userdata);
}

bool metadata_has_refused(const struct metadata_client *client)
{
	return client->peer && peer_error(client->peer);
}

void metadata_forget(struct metadata_client *client, void *userdata)
{
	if (client->peer)
		peer_forget(client->peer, userdata);
}
