/* Requests of ecs-agent, and of ecs-logs and ecs-image for the two kinds of credentials they use.
 */
#include "iam-creds/control.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/fd.h"
#include "lib/heap.h"
#include "lib/ipc.h"
#include "lib/ipc_event.h"
#include "lib/json.h"
#include "lib/log.h"
#include "lib/loop.h"

#define PEERS_MAX 256

struct peer {
	LIST_ENTRY(peer) others;
	struct control *control;
	struct ipc_event *conn;
	uid_t uid;
	bool may_all;
};

/* An "ok" that is held back until what it confirms would survive. */
struct late_answer {
	STAILQ_ENTRY(late_answer) others;
	struct peer *peer;
	struct json_object *body;
};

struct control {
	struct control_config config;
	sd_event *loop;
	sd_event_source *io;
	int listen_fd;
	LIST_HEAD(, peer) peers;
	unsigned n_peers;
	STAILQ_HEAD(, late_answer) late;
	struct heap_trimmer *heap;
};

/* A handler fills *answer or leaves it for {"type":"ok"}. */
typedef int (*handler_fn)(struct peer *peer, struct ipc_message *msg, struct json_object **answer,
                          struct err *err);

static int take_fd(struct ipc_message *msg, const char *what, struct err *err)
{
	if (msg->n_fds != 1)
		return err_text(err, -EINVAL, "request needs one descriptor (%s), got %zu", what,
		                msg->n_fds);
	return TAKE_FD(msg->fds[0]);
}

/* Something that a container of this task may be waiting for. */
static void changed(struct control *control, const char *task_id)
{
	http_changed(control->config.http, store_find_task(control->config.store, task_id));
	keep_changed(control->config.keep);
}

static int add_text(struct json_object *array, const char *text)
{
	return json_append(array, json_object_new_string(text));
}

/* The containers of a task whose callers are known, by socket or cgroup. */
static int add_served(struct json_object *served, const struct task *task)
{
	struct json_object *names = NULL;

	for (size_t i = 0; i < task->n_containers; i++) {
		const struct container *container = task->containers[i];

		if (!container->is_served && container->cgroup_id == 0)
			continue;
		if (!names) {
			names = json_object_new_array();
			if (json_add(served, task->id, names) < 0)
				return -ENOMEM;
		}
		if (add_text(names, container->name) < 0)
			return -ENOMEM;
	}
	return 0;
}

static int on_hello(struct peer *peer, struct ipc_message *msg, struct json_object **answer,
                    struct err *err)
{
	_cleanup_json_ struct json_object *hello = ipc_message_new("hello", msg->body);
	_cleanup_json_ struct json_object *tasks = json_object_new_array();
	_cleanup_json_ struct json_object *credentials = json_object_new_array();
	_cleanup_json_ struct json_object *served = json_object_new_object();
	const struct store *store = peer->control->config.store;
	const struct credentials *c;
	const struct task *task;

	if (!hello || !tasks || !credentials || !served)
		return err_oom(err);
	for (size_t i = 0; (task = store_task_at(store, i)); i++)
		if (add_text(tasks, task->id) < 0 || add_served(served, task) < 0)
			return err_oom(err);
	for (size_t i = 0; (c = store_credentials_at(store, i)); i++)
		if (add_text(credentials, c->id) < 0)
			return err_oom(err);
	if (json_add(hello, "tasks", TAKE_PTR(tasks)) < 0 ||
	    json_add(hello, "served", TAKE_PTR(served)) < 0 ||
	    json_add(hello, "credentials", TAKE_PTR(credentials)) < 0 ||
	    json_add_bool(hello, "host", http_has_host(peer->control->config.http)) < 0)
		return err_oom(err);
	*answer = TAKE_PTR(hello);
	return 0;
}

static int on_complete(struct peer *peer, struct ipc_message *msg, struct json_object **answer,
                       struct err *err)
{
	(void)msg;
	(void)answer;
	(void)err;
	store_set_complete(peer->control->config.store);
	http_changed(peer->control->config.http, NULL);
	return 0;
}

static int on_put_credentials(struct peer *peer, struct ipc_message *msg,
                              struct json_object **answer, struct err *err)
{
	struct credentials_input in = {0};
	const struct {
		const char *name, **value;
		bool optional;
	} members[] = {
		{"credentialsId", &in.id, false},
		{"taskId", &in.task_id, true},
		{"taskArn", &in.task_arn, true},
		{"roleArn", &in.role_arn, false},
		{"accessKeyId", &in.access_key_id, false},
		{"secretAccessKey", &in.secret_access_key, false},
		{"sessionToken", &in.session_token, false},
		{"expiration", &in.expiration, false},
	};
	const char *role_type;
	int r;

	(void)answer;
	for (size_t i = 0; i < ARRAY_SIZE(members); i++) {
		r = json_get_string(msg->body, members[i].name, members[i].value, err);
		if (r < 0 && !(r == -ENOENT && members[i].optional))
			return r;
	}
	r = json_get_string(msg->body, "roleType", &role_type, err);
	if (r == 0)
		r = json_optional(json_get_bool(msg->body, "forMounts", &in.for_mounts, err));
	if (r < 0)
		return r;
	if (role_type_from_string(role_type, &in.role_type) < 0)
		return err_text(
			err, -EINVAL,
			"roleType \"%.40s\" must be TaskApplication, TaskExecution or Instance",
			role_type);
	r = store_put_credentials(peer->control->config.store, &in, err);
	if (r == 0 && in.task_id)
		changed(peer->control, in.task_id);
	else if (r == 0)
		keep_changed(peer->control->config.keep);
	return r;
}

static int on_remove_credentials(struct peer *peer, struct ipc_message *msg,
                                 struct json_object **answer, struct err *err)
{
	const char *id;
	int r;

	(void)answer;
	r = json_get_string(msg->body, "credentialsId", &id, err);
	if (r == 0)
		r = store_remove_credentials(peer->control->config.store, id, err);
	if (r == 0)
		keep_changed(peer->control->config.keep);
	return r;
}

static int get_container(struct peer *peer, struct json_object *body, struct container **ret,
                         struct err *err)
{
	const char *task_id, *name;
	int r;

	r = json_get_string(body, "taskId", &task_id, err);
	if (r == 0)
		r = json_get_string(body, "container", &name, err);
	return r < 0 ? r
	             : store_get_container(peer->control->config.store, task_id, name, ret, err);
}

static int on_serve(struct peer *peer, struct ipc_message *msg, struct json_object **answer,
                    struct err *err)
{
	_cleanup_close_ int fd = take_fd(msg, "the endpoint's socket", err);
	struct container *container;
	int r;

	(void)answer;
	if (fd < 0)
		return fd;
	r = get_container(peer, msg->body, &container, err);
	if (r == 0)
		r = http_serve(peer->control->config.http, container, TAKE_FD(fd), err);
	if (r == 0)
		keep_changed(peer->control->config.keep);
	return r;
}

/* The socket, and the BPF link that leads port 80 to it. */
static int on_serve_host(struct peer *peer, struct ipc_message *msg, struct json_object **answer,
                         struct err *err)
{
	int fd, link_fd, r;

	(void)answer;
	if (msg->n_fds < 1 || msg->n_fds > 2)
		return err_text(
			err, -EINVAL,
			"request needs the host endpoint's socket and its link, got %zu descriptors",
			msg->n_fds);
	fd = TAKE_FD(msg->fds[0]);
	link_fd = msg->n_fds == 2 ? TAKE_FD(msg->fds[1]) : -EBADF;
	r = http_serve_host(peer->control->config.http, fd, link_fd, err);
	if (r == 0)
		keep_changed(peer->control->config.keep);
	return r;
}

static int on_host_container(struct peer *peer, struct ipc_message *msg,
                             struct json_object **answer, struct err *err)
{
	struct container *container;
	uint64_t id;
	int r;

	(void)answer;
	r = json_get_u64(msg->body, "cgroupId", UINT64_MAX, &id, err);
	if (r == 0)
		r = get_container(peer, msg->body, &container, err);
	if (r == 0)
		r = store_set_cgroup(peer->control->config.store, container, id, err);
	if (r == 0)
		changed(peer->control, container->task->id);
	return r;
}

static int on_documents(struct peer *peer, struct ipc_message *msg, struct json_object **answer,
                        struct err *err)
{
	struct json_object *documents;
	const char *task_id;
	int r;

	(void)answer;
	r = json_get_string(msg->body, "taskId", &task_id, err);
	if (r == 0)
		r = json_get_object(msg->body, "documents", &documents, err);
	if (r == 0)
		r = store_set_documents(peer->control->config.store, task_id, documents, err);
	if (r == 0) /* they are not kept */
		http_changed(peer->control->config.http,
		             store_find_task(peer->control->config.store, task_id));
	return r;
}

static int on_release(struct peer *peer, struct ipc_message *msg, struct json_object **answer,
                      struct err *err)
{
	const struct control_config *config = &peer->control->config;
	const struct task *task;
	const char *task_id;
	bool all = false;
	int r;

	(void)answer;
	r = json_get_string(msg->body, "taskId", &task_id, err);
	if (r == 0)
		r = json_optional(json_get_bool(msg->body, "all", &all, err));
	if (r < 0)
		return r;
	task = store_find_task(config->store, task_id);
	if (task)
		http_release(config->http, task);
	store_release(config->store, task_id, all);
	keep_changed(config->keep);
	heap_trim_soon(peer->control->heap);
	return 0;
}

static int find_for_peer(const struct peer *peer, const char *id, const struct credentials **ret,
                         struct err *err)
{
	const struct store *store = peer->control->config.store;
	const struct credentials *c = store_find_credentials(store, id);

	/* A peer that may not have a task's own role learns nothing of it. */
	if (c && c->role_type == ROLE_TASK_APPLICATION && !peer->may_all)
		c = NULL;
	if (!c && !store_is_complete(store))
		return err_text(err, -EAGAIN, "credentials are not here yet");
	if (!c)
		return err_text(err, -ENOENT, "credentials not found");
	if (c->expiration_realtime_usec <= now_realtime_usec())
		return err_text(err, -EKEYEXPIRED, "credentials have expired");
	*ret = c;
	return 0;
}

static int on_get_credentials(struct peer *peer, struct ipc_message *msg,
                              struct json_object **answer, struct err *err)
{
	static const struct {
		const char *from, *to;
	} members[] = {{"RoleArn", "roleArn"},
	               {"AccessKeyId", "accessKeyId"},
	               {"SecretAccessKey", "secretAccessKey"},
	               {"Token", "sessionToken"},
	               {"Expiration", "expiration"}};
	_cleanup_json_ struct json_object *values = NULL, *reply = NULL;
	const struct credentials *c = NULL;
	const char *id;
	int r;

	r = json_get_string(msg->body, "credentialsId", &id, err);
	if (r == 0)
		r = find_for_peer(peer, id, &c, err);
	if (r == 0)
		r = json_parse_object(body_bytes(c->body), body_len(c->body), body_len(c->body),
		                      &values, err);
	if (r < 0)
		return r;

	reply = ipc_message_new("credentials", msg->body);
	if (!reply)
		return err_oom(err);
	for (size_t i = 0; i < ARRAY_SIZE(members) && r == 0; i++)
		r = json_add_string(reply, members[i].to, json_text(values, members[i].from));
	credentials_wipe_json(values);
	if (r < 0) {
		credentials_wipe_json(reply);
		return err_oom(err);
	}
	*answer = TAKE_PTR(reply);
	return 0;
}

static int get_rate(struct json_object *body, struct bucket_rate *rate, struct err *err)
{
	int r;

	r = json_optional(json_get_u64(body, "requestsPerSecond", 1000000, &rate->per_second, err));
	if (r == 0)
		r = json_optional(json_get_u64(body, "burst", 1000000, &rate->burst, err));
	if (r == 0 && (rate->per_second == 0 || rate->burst == 0))
		r = err_text(err, -EINVAL, "requestsPerSecond and burst must be 1 to 1000000");
	return r;
}

static int on_configure(struct peer *peer, struct ipc_message *msg, struct json_object **answer,
                        struct err *err)
{
	const struct control_config *config = &peer->control->config;
	struct bucket_rate rate = {.per_second = 40, .burst = 60};
	const char *cluster = "", *instance = "";
	int r;

	(void)answer;
	if (msg->n_fds > 1)
		return err_text(err, -EINVAL, "request takes one descriptor, got %zu", msg->n_fds);
	r = json_optional(json_get_string(msg->body, "cluster", &cluster, err));
	if (r == 0)
		r = json_optional(
			json_get_string(msg->body, "containerInstanceArn", &instance, err));
	if (r == 0)
		r = get_rate(msg->body, &rate, err);
	if (r == 0)
		r = audit_configure(config->audit, cluster, instance, err);
	if (r < 0)
		return r;
	http_set_rates(config->http, &rate);
	keep_set_audit_file(config->keep, msg->n_fds == 1 ? TAKE_FD(msg->fds[0]) : -EBADF);
	keep_changed(config->keep);
	return 0;
}

static const struct {
	const char *type;
	bool for_all_peers; /* also ecs-logs and ecs-image */
	handler_fn fn;
} requests[] = {
	{"hello", false, on_hello},
	{"complete", false, on_complete},
	{"put-credentials", false, on_put_credentials},
	{"remove-credentials", false, on_remove_credentials},
	{"serve", false, on_serve},
	{"serve-host", false, on_serve_host},
	{"host-container", false, on_host_container},
	{"documents", false, on_documents},
	{"release", false, on_release},
	{"get-credentials", true, on_get_credentials},
	{"configure", false, on_configure},
};

static int handle(struct peer *peer, struct ipc_message *msg, struct json_object **answer,
                  struct err *err)
{
	const char *type = json_text(msg->body, "type");

	for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
		if (strcmp(requests[i].type, type) != 0)
			continue;
		if (!peer->may_all && !requests[i].for_all_peers)
			return err_text(err, -EACCES, "user %u may not use request \"%s\"",
			                (unsigned)peer->uid, type);
		return requests[i].fn(peer, msg, answer, err);
	}
	return err_text(err, -EINVAL, "unknown request \"%.40s\"", type);
}

static void late_answer_free(struct control *control, struct late_answer *late)
{
	STAILQ_REMOVE(&control->late, late, late_answer, others);
	json_object_put(late->body);
	free(late);
}

static void peer_free(struct peer *peer)
{
	struct control *control = peer->control;
	struct late_answer *late, *next;

	for (late = STAILQ_FIRST(&control->late); late; late = next) {
		next = STAILQ_NEXT(late, others);
		if (late->peer == peer)
			late_answer_free(control, late);
	}
	LIST_REMOVE(peer, others);
	control->n_peers--;
	ipc_event_free(peer->conn);
	free(peer);
}

/* What they confirm has been written. */
static void send_late_answers(void *userdata)
{
	struct control *control = userdata;
	struct late_answer *late;

	while ((late = STAILQ_FIRST(&control->late))) {
		struct peer *peer = late->peer;
		int r = ipc_event_send(peer->conn, late->body, NULL, 0);

		late_answer_free(control, late);
		if (r < 0)
			peer_free(peer); /* it does not read, or is gone */
	}
}

static int answer_late(struct peer *peer, struct json_object *body)
{
	struct late_answer *late = calloc(1, sizeof(*late));

	if (!late)
		return -ENOMEM;
	late->peer = peer;
	late->body = json_object_get(body);
	STAILQ_INSERT_TAIL(&peer->control->late, late, others);
	return 0;
}

static int send_answer(struct peer *peer, struct ipc_message *msg, struct json_object *answer)
{
	_cleanup_json_ struct json_object *ok = NULL;

	if (answer)
		return ipc_event_send(peer->conn, answer, NULL, 0);
	ok = ipc_message_new("ok", msg->body);
	if (!ok)
		return -ENOMEM;
	return keep_is_behind(peer->control->config.keep) ? answer_late(peer, ok)
	                                                  : ipc_event_send(peer->conn, ok, NULL, 0);
}

static void on_message(struct ipc_event *conn, struct ipc_message *msg, void *userdata)
{
	_cleanup_json_ struct json_object *answer = NULL;
	struct peer *peer = userdata;
	struct err err = {0};
	int r;

	r = handle(peer, msg, &answer, &err);
	credentials_wipe_json(msg->body);
	/* Answers keep the order of their requests. */
	if (r < 0 || answer)
		keep_flush(peer->control->config.keep);
	if (r < 0) {
		log_debug(NULL, "refused a request of user %u: %s", (unsigned)peer->uid, err.text);
		r = ipc_event_send_error(conn, msg->body, r, &err);
	} else {
		r = send_answer(peer, msg, answer);
	}
	if (answer)
		credentials_wipe_json(answer);
	if (r < 0)
		peer_free(peer); /* it does not read, or is gone */
}

static void on_end(struct ipc_event *conn, int r, const struct err *err, void *userdata)
{
	struct peer *peer = userdata;

	(void)conn;
	if (r != -EPIPE)
		log_warning(NULL, 0, "control connection of user %u: %s", (unsigned)peer->uid,
		            err->text);
	peer_free(peer);
}

/* Whether this user may connect at all. */
static bool is_known_user(const struct control_config *config, uid_t uid, bool *may_all)
{
	*may_all = uid == 0 || uid == config->agent_uid;
	return *may_all || uid == config->logs_uid || uid == config->image_uid;
}

/* Takes fd. */
static int add_peer(struct control *control, int fd)
{
	_cleanup_close_ int owned = fd;
	_cleanup_free_ struct peer *peer = NULL;
	struct ipc_conn *conn;
	bool may_all;
	uid_t uid;
	int r;

	r = ipc_peer(fd, &uid, NULL, NULL);
	if (r < 0)
		return r;
	if (!is_known_user(&control->config, uid, &may_all)) {
		log_warning(NULL, 0, "user %u may not use ecs-metadata", (unsigned)uid);
		return -EACCES;
	}
	/* Whoever may do everything is never kept out by others. */
	if (control->n_peers >= PEERS_MAX && !may_all)
		return -EBUSY;
	peer = calloc(1, sizeof(*peer));
	if (!peer)
		return -ENOMEM;
	*peer = (struct peer){.control = control, .uid = uid, .may_all = may_all};
	r = ipc_conn_new(TAKE_FD(owned), 0, true, &conn);
	if (r == 0)
		r = ipc_event_new(control->loop, conn, on_message, on_end, peer, &peer->conn);
	if (r < 0)
		return r;
	LIST_INSERT_HEAD(&control->peers, peer, others);
	control->n_peers++;
	TAKE_PTR(peer);
	return 0;
}

static int on_connection(sd_event_source *source, int listen_fd, uint32_t revents, void *userdata)
{
	struct control *control = userdata;
	int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), r;

	(void)source;
	(void)revents;
	if (fd < 0) {
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			log_warning(NULL, -errno, "accept a control connection");
		return 0;
	}
	r = add_peer(control, fd);
	if (r < 0)
		log_debug(NULL, "closed a control connection: %s", strerror(-r));
	return 0;
}

int control_new(sd_event *loop, int listen_fd, const struct control_config *config,
                struct control **ret, struct err *err)
{
	_cleanup_close_ int fd = listen_fd;
	_cleanup_(control_freep) struct control *control = calloc(1, sizeof(*control));
	int r;

	if (!control)
		return err_oom(err);
	control->config = *config;
	control->loop = sd_event_ref(loop);
	control->listen_fd = TAKE_FD(fd);
	LIST_INIT(&control->peers);
	STAILQ_INIT(&control->late);
	keep_on_flushed(config->keep, send_late_answers, control);
	r = sd_event_add_io(loop, &control->io, control->listen_fd, EPOLLIN, on_connection,
	                    control);
	if (r >= 0)
		r = heap_trimmer_new(loop, &control->heap);
	if (r < 0)
		return err_set(err, r, "watch the control socket");
	*ret = TAKE_PTR(control);
	return 0;
}

struct control *control_free(struct control *control)
{
	struct peer *peer;

	if (!control)
		return NULL;
	keep_flush(control->config.keep); /* with its answers */
	keep_on_flushed(control->config.keep, NULL, NULL);
	while ((peer = LIST_FIRST(&control->peers)))
		peer_free(peer);
	sd_event_source_disable_unref(control->io);
	heap_trimmer_free(control->heap);
	fd_close(control->listen_fd);
	sd_event_unref(control->loop);
	free(control);
	return NULL;
}
