/* A queue of requests in front of one peer, which is there only while it is needed. */
#include "agent/engine/network_client.h"

#include <errno.h>

#include "lib/fd.h"
#include "lib/json.h"
#include "lib/log.h"
#include "lib/loop.h"

#define IDLE_USEC (3 * 1000 * 1000ull)

struct entry {
	struct entry *next;
	struct network_client *client;
	struct json_object *body;
	int *fds;
	size_t n_fds;
	uint64_t timeout_usec;
	peer_answer_fn fn; /* NULL: forgotten */
	void *userdata;
};

struct network_client {
	sd_event *loop;
	const char *runtime_dir;
	struct peer *peer;
	struct entry *first, **end; /* the first one is being asked while busy */
	bool busy;
	sd_event_source *start; /* deferred */
	sd_event_source *idle;
};

static void entry_free(struct entry *entry)
{
	for (size_t i = 0; i < entry->n_fds; i++)
		(void)fd_close(entry->fds[i]);
	free(entry->fds);
	json_object_put(entry->body);
	free(entry);
}

static void start_next(struct network_client *client)
{
	if (client->first && !client->busy)
		(void)sd_event_source_set_enabled(client->start, SD_EVENT_ONESHOT);
}

static int on_idle(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct network_client *client = userdata;

	(void)source;
	(void)usec;
	client->idle = sd_event_source_disable_unref(client->idle);
	if (!client->busy)
		client->peer = peer_free(client->peer);
	return 0;
}

/* The request in front has its outcome. */
static void finish(struct network_client *client, int r, struct ipc_message *msg,
                   const struct err *err)
{
	struct entry *entry = client->first;

	client->busy = false;
	client->first = entry->next;
	if (!client->first)
		client->end = &client->first;
	start_next(client);
	if (!client->first && !client->idle)
		(void)loop_add_timer(client->loop, IDLE_USEC, IDLE_USEC / 10, on_idle, client,
		                     &client->idle);
	if (entry->fn)
		entry->fn(r, msg, err, entry->userdata);
	entry_free(entry);
}

static void on_answer(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct network_client *client = userdata;

	/* One that hangs is of no more use for the others either. */
	if (r == -ETIMEDOUT && !peer_error(client->peer))
		client->peer = peer_free(client->peer);
	finish(client, r, msg, err);
}

static void on_end(struct peer *peer, int r, const struct err *err, void *userdata)
{
	struct network_client *client = userdata;

	(void)peer;
	log_debug(NULL, "ecs-network ended: %s", r == -EPIPE ? "closed" : err->text);
	client->peer = peer_free(client->peer);
}

static int connect_peer(struct network_client *client, struct err *err)
{
	static const struct peer_ops ops = {.on_end = on_end};
	int fd, r;

	fd = launcher_connect(client->runtime_dir, "network", NULL, err);
	if (fd < 0)
		return fd;
	r = peer_new(client->loop, fd, false, &ops, client, &client->peer);
	return r < 0 ? err_set(err, r, "watch ecs-network") : 0;
}

static int on_start(sd_event_source *source, void *userdata)
{
	struct network_client *client = userdata;
	struct entry *entry = client->first;
	struct err err = {0};
	int r = 0;

	(void)source;
	if (!entry || client->busy)
		return 0;
	client->idle = sd_event_source_disable_unref(client->idle);
	client->busy = true;
	if (!client->peer)
		r = connect_peer(client, &err);
	if (r >= 0) {
		r = peer_request(client->peer, json_object_get(entry->body), entry->fds,
		                 entry->n_fds, entry->timeout_usec, on_answer, client);
		if (r < 0)
			(void)err_set(&err, r, "ask ecs-network");
	}
	if (r < 0)
		finish(client, r, NULL, &err);
	return 0;
}

int network_client_new(sd_event *loop, const char *runtime_dir, struct network_client **ret)
{
	_cleanup_(network_client_freep) struct network_client *client = calloc(1, sizeof(*client));
	int r;

	if (!client)
		return -ENOMEM;
	client->loop = sd_event_ref(loop);
	client->runtime_dir = runtime_dir;
	client->end = &client->first;
	r = sd_event_add_defer(loop, &client->start, on_start, client);
	if (r < 0)
		return r;
	(void)sd_event_source_set_enabled(client->start, SD_EVENT_OFF);
	(void)sd_event_source_set_description(client->start, "network");
	*ret = TAKE_PTR(client);
	return 0;
}

struct network_client *network_client_free(struct network_client *client)
{
	if (!client)
		return NULL;
	peer_free(client->peer);
	while (client->first) {
		struct entry *entry = client->first;

		client->first = entry->next;
		entry_free(entry);
	}
	sd_event_source_disable_unref(client->start);
	sd_event_source_disable_unref(client->idle);
	sd_event_unref(client->loop);
	free(client);
	return NULL;
}

static int copy_fds(struct entry *entry, const int *fds, size_t n_fds)
{
	entry->fds = calloc(n_fds + 1, sizeof(*entry->fds));
	if (!entry->fds)
		return -ENOMEM;
	for (; entry->n_fds < n_fds; entry->n_fds++) {
		entry->fds[entry->n_fds] = fcntl(fds[entry->n_fds], F_DUPFD_CLOEXEC, 3);
		if (entry->fds[entry->n_fds] < 0)
			return -errno;
	}
	return 0;
}

int network_request(struct network_client *client, struct json_object *body, const int *fds,
                    size_t n_fds, uint64_t timeout_usec, peer_answer_fn fn, void *userdata)
{
	struct entry *entry;
	int r;

	if (!body)
		return -ENOMEM;
	entry = calloc(1, sizeof(*entry));
	if (!entry) {
		json_object_put(body);
		return -ENOMEM;
	}
	*entry = (struct entry){.client = client,
	                        .body = body,
	                        .timeout_usec = timeout_usec,
	                        .fn = fn,
	                        .userdata = userdata};
	r = copy_fds(entry, fds, n_fds);
	if (r < 0) {
		entry_free(entry);
		return r;
	}
	*client->end = entry;
	client->end = &entry->next;
	start_next(client);
	return 0;
}

bool network_has_refused(const struct network_client *client)
{
	return client->peer && peer_error(client->peer);
}

void network_forget(struct network_client *client, void *userdata)
{
	for (struct entry *entry = client->first; entry; entry = entry->next)
		if (entry->userdata == userdata)
			entry->fn = NULL;
}
