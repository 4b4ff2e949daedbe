/*
 * The steps of one container: create, serve, start, stop; pull and attach are in files of their
 * own. Each is one request with a deadline; ec->op says which one is under way. An answer that is
 * lost with its connection fails nothing: what became of it is found out when the supervisor is
 * found again.
 */
#include <errno.h>
#include <string.h>

#include "agent/engine/engine_internal.h"
#include "lib/fd.h"
#include "lib/json.h"
#include "lib/loop.h"

bool answer_is_lost(const struct peer *peer, int r)
{
	return r != 0 && r != -ETIMEDOUT && !(peer && peer_error(peer));
}

static struct peer *supervisor_peer(const struct engine_container *ec)
{
	return ec->et->supervisor.peer;
}

void container_request_failed(struct engine_container *ec, const char *name, int r,
                              const char *what)
{
	struct err err = {0};

	ec->op = OP_NONE;
	if (r == -EPIPE || r == -ENOTCONN)
		return; /* the connection's end is about to be noticed */
	(void)err_set(&err, r, "%s", what);
	container_fail(ec, name, &err);
}

/* Create. */

static void created(struct engine_container *ec, struct ipc_message *msg)
{
	ec->made = true;
	(void)json_get_u64(msg->body, "cgroupId", UINT64_MAX, &ec->c->cgroup_id, NULL);
	if (msg->n_fds >= 2) {
		ec->netns_fd = fd_close(ec->netns_fd);
		ec->endpoint_fd = fd_close(ec->endpoint_fd);
		ec->netns_fd = TAKE_FD(msg->fds[0]);
		ec->endpoint_fd = TAKE_FD(msg->fds[1]);
	}
	if (ec->c->created_realtime_usec == 0)
		ec->c->created_realtime_usec = now_realtime_usec();
	container_reach(ec, TASK_STATUS_CREATED);
	engine_save(ec->et);
}

static void on_created(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct engine_container *ec = userdata;

	ec->op = OP_NONE;
	if (r == 0)
		created(ec, msg);
	else if (r == -ETIMEDOUT && !peer_error(supervisor_peer(ec)))
		container_fail_timeout(ec, "created",
		                       ec->et->engine->o.config->container_create_timeout_usec);
	else if (!answer_is_lost(supervisor_peer(ec), r) && !container_pull_again(ec, r))
		container_fail(ec, "CannotCreateContainerError", err);
	engine_changed(ec->et);
}

void container_create(struct engine_container *ec)
{
	const struct engine *engine = ec->et->engine;
	struct spec_options spec = engine->spec;
	struct json_object *container = NULL, *body;
	struct err err = {0};
	int r;

	if (ec->et->task->network_mode == NETWORK_MODE_HOST)
		spec.task_iam_role =
			spec.task_iam_role && engine->o.config->task_iam_role_network_host;
	(void)managed_agent_begin(&ec->c->managed_agent); /* of memory: it is not told */
	r = spec_container(ec->et->task, ec->c, &spec, &container, &err);
	if (r < 0) {
		container_fail(ec, "CannotCreateContainerError", &err);
		return;
	}
	body = ipc_message_new("create", NULL);
	if (!body || json_add(body, "container", container) < 0) {
		if (!body)
			json_object_put(container);
		json_object_put(body);
		container_request_failed(ec, "CannotCreateContainerError", -ENOMEM,
		                         "ask the supervisor");
		return;
	}
	ec->op = OP_CREATE;
	r = peer_request(supervisor_peer(ec), body, NULL, 0,
	                 engine->o.config->container_create_timeout_usec, on_created, ec);
	if (r < 0)
		container_request_failed(ec, "CannotCreateContainerError", r, "ask the supervisor");
}

/* Serve: the endpoint must be answered before the container's first instruction. */

#define SERVE_AGAIN_USEC SECOND_USEC

static void on_served(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct engine_container *ec = userdata;

	(void)msg;
	ec->op = OP_NONE;
	if (r == 0) {
		ec->served = true;
		ec->serving_since_usec = ec->serve_again_usec = 0;
		ec->endpoint_fd = fd_close(ec->endpoint_fd);
	} else if (metadata_has_refused(ec->et->engine->metadata)) {
		if (ec->serve_again_usec == 0)
			log_warning(&ec->log, 0, "ecs-metadata does not serve the endpoint: %s",
			            err->text);
		ec->serve_again_usec = now_usec() + SERVE_AGAIN_USEC;
	} else {
		/* Asked again at once, or when ecs-metadata is back. */
		log_debug(&ec->log, "endpoint is not served yet: %s", err->text);
	}
	engine_changed(ec->et);
}

void container_serve(struct engine_container *ec)
{
	bool host = ec->et->task->network_mode == NETWORK_MODE_HOST;
	struct json_object *body = ipc_message_new(host ? "host-container" : "serve", NULL);
	int r = body ? 0 : -ENOMEM;

	if (r == 0)
		r = json_add_string(body, "taskId", ec->et->task->id);
	if (r == 0)
		r = json_add_string(body, "container", ec->c->name);
	if (r == 0 && host)
		r = json_add_u64(body, "cgroupId", ec->c->cgroup_id);
	if (r < 0) {
		json_object_put(body);
		container_request_failed(ec, "CannotStartContainerError", r, "ask ecs-metadata");
		return;
	}
	ec->op = OP_SERVE;
	r = metadata_request(ec->et->engine->metadata, body, &ec->endpoint_fd, host ? 0 : 1,
	                     on_served, ec);
	if (r < 0)
		container_request_failed(ec, "CannotStartContainerError", r, "ask ecs-metadata");
}

/* Start. */

static void started(struct engine_container *ec, struct json_object *body)
{
	uint64_t time = 0;

	(void)json_get_u64(body, "time", INT64_MAX, &time, NULL);
	if (ec->c->started_realtime_usec == 0)
		container_set_started(ec->c, time ? time : now_realtime_usec());
	for (size_t i = 0; i < ec->n_port_fds; i++)
		ec->port_fds[i] = fd_close(ec->port_fds[i]);
	ec->n_port_fds = 0;
	log_info(&ec->log, "container has started");
	container_reach(ec, TASK_STATUS_RUNNING);
}

static void start_failed(struct engine_container *ec, const struct err *err)
{
	struct json_object *message = peer_error(supervisor_peer(ec));
	int64_t code = 0;
	int exit_code;
	bool has_code;

	has_code = json_get_i64(message, "exitCode", 0, 255, &code, NULL) == 0;
	exit_code = (int)code;
	container_fail(ec, "CannotStartContainerError", err);
	container_stopped(ec, has_code ? &exit_code : NULL, 0);
}

static void on_started(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct engine_container *ec = userdata;

	ec->op = OP_NONE;
	if (r == 0) {
		started(ec, msg->body);
	} else if (r == -ETIMEDOUT && !peer_error(supervisor_peer(ec))) {
		ec->may_run = true;
		container_fail_timeout(ec, "started",
		                       ec->et->engine->o.config->container_start_timeout_usec);
	} else if (!answer_is_lost(supervisor_peer(ec), r)) {
		start_failed(ec, err);
	} else {
		ec->may_run = true;
	}
	engine_changed(ec->et);
}

static int add_network(struct engine_container *ec, struct json_object *body)
{
	struct json_object *network;
	int r;

	if (container_network_mode(ec->et->task, ec->c) != NETWORK_MODE_BRIDGE)
		return 0;
	network = json_object_new_object();
	r = json_add(body, "network", network);
	if (r == 0)
		r = json_add_string(network, "address", ec->c->address);
	if (r == 0)
		r = json_add_u64(network, "prefix", ec->prefix);
	if (r == 0)
		r = json_add_string(network, "gateway", ec->gateway);
	return r;
}

void container_start(struct engine_container *ec)
{
	struct json_object *body = ipc_message_new("start", NULL);
	int r = body ? 0 : -ENOMEM;

	if (r == 0)
		r = json_add_string(body, "container", ec->c->name);
	if (r == 0)
		r = add_network(ec, body);
	if (r < 0) {
		json_object_put(body);
		container_request_failed(ec, "CannotStartContainerError", r, "ask the supervisor");
		return;
	}
	ec->op = OP_START;
	r = peer_request(supervisor_peer(ec), body, ec->port_fds, ec->n_port_fds,
	                 ec->et->engine->o.config->container_start_timeout_usec, on_started, ec);
	if (r < 0)
		container_request_failed(ec, "CannotStartContainerError", r, "ask the supervisor");
}

/* Stop. */

uint64_t container_stop_timeout_usec(const struct engine_container *ec)
{
	return ec->c->stop_timeout_usec ? ec->c->stop_timeout_usec
	                                : ec->et->engine->o.config->container_stop_timeout_usec;
}

static int on_stop_retry(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct engine_container *ec = userdata;

	(void)source;
	(void)usec;
	ec->stop_retry = sd_event_source_disable_unref(ec->stop_retry);
	ec->op = OP_NONE;
	engine_changed(ec->et);
	return 0;
}

/* The event "exited" must come within the grace period and a margin; this is for when it does not,
 * and for the next try after an error. */
static void watch_stop(struct engine_container *ec, uint64_t usec)
{
	ec->stop_retry = sd_event_source_disable_unref(ec->stop_retry);
	(void)loop_add_timer(ec->et->engine->loop, usec, usec / 10, on_stop_retry, ec,
	                     &ec->stop_retry);
}

static void on_stopping(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct engine_container *ec = userdata;

	(void)msg;
	if (r == 0 || ec->c->known == TASK_STATUS_STOPPED)
		return; /* "exited" follows */
	if (answer_is_lost(supervisor_peer(ec), r)) {
		ec->op = OP_NONE;
		ec->stop_retry = sd_event_source_disable_unref(ec->stop_retry);
		engine_changed(ec->et);
		return;
	}
	log_warning(&ec->log, 0, "stop: %s", err->text);
	watch_stop(ec, backoff_next(&ec->stop_backoff, random_fraction()));
}

static void give_up_stopping(struct engine_container *ec)
{
	container_set_reason(ec, "CannotStopContainerError", "the supervisor does not stop it");
	if (!ec->et->task->reason)
		ec->et->task->reason =
			strdup("TaskStateError: Agent could not progress task's state to stopped");
	log_err(&ec->log, 0, "container could not be stopped in %d tries and is given up",
	        STOP_TRIES_MAX);
	container_stopped(ec, NULL, 0);
}

void container_stop(struct engine_container *ec)
{
	uint64_t timeout = container_stop_timeout_usec(ec);
	struct json_object *body;
	int r;

	if (ec->stop_tries++ >= STOP_TRIES_MAX) {
		give_up_stopping(ec);
		return;
	}
	body = ipc_message_new("stop", NULL);
	r = body ? json_add_string(body, "container", ec->c->name) : -ENOMEM;
	if (r == 0)
		r = json_add_u64(body, "timeoutUsec", timeout);
	ec->op = OP_STOP;
	if (r == 0)
		r = peer_request(supervisor_peer(ec), body, NULL, 0, STATE_TIMEOUT_USEC,
		                 on_stopping, ec);
	else
		json_object_put(body);
	if (r == -EPIPE)
		ec->op = OP_NONE;
	else
		watch_stop(ec, r < 0 ? SECOND_USEC : timeout + STOP_MARGIN_USEC);
}

void container_discard(struct engine_container *ec)
{
	struct json_object *body = ipc_message_new("stop", NULL);

	if (!body || json_add_string(body, "container", ec->c->name) < 0 ||
	    json_add_u64(body, "timeoutUsec", 0) < 0) {
		json_object_put(body);
		return; /* it goes with the task */
	}
	(void)peer_request(supervisor_peer(ec), body, NULL, 0, STATE_TIMEOUT_USEC, NULL, NULL);
}

/* Forget. */

void container_forget_step(struct engine_container *ec)
{
	struct engine *engine = ec->et->engine;

	switch (ec->op) {
	case OP_PULL:
		return; /* as good for the next one */
	case OP_ATTACH:
		network_forget(engine->network, ec);
		host_network_lost_answer(engine);
		break;
	case OP_SAVE:
		state_forget(engine->o.state, ec);
		break;
	case OP_SERVE:
		metadata_forget(engine->metadata, ec);
		break;
	case OP_NONE:
	case OP_CREATE:
	case OP_START:
	case OP_STOP:
		break; /* gone with the connection */
	}
	ec->op = OP_NONE;
}
