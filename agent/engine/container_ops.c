/*
 * The steps of one container: pull, create, attach, serve, start, stop. Each is one request with a
 * deadline; ec->op says which one is under way. An answer that is lost with its connection fails
 * nothing: what became of it is found out when the supervisor is found again.
 */
#include <errno.h>
#include <string.h>

#include "agent/engine/engine_internal.h"
#include "agent/engine/image_auth.h"
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

/* Could not even be sent. */
static void request_failed(struct engine_container *ec, const char *name, int r, const char *what)
{
	struct err err = {0};

	ec->op = OP_NONE;
	if (r == -EPIPE || r == -ENOTCONN)
		return; /* the connection's end is about to be noticed */
	(void)err_set(&err, r, "%s", what);
	container_fail(ec, name, &err);
}

/* Pull. */

static void pull_begun(void *userdata)
{
	struct engine_container *ec = userdata;
	struct task *task = ec->et->task;

	ec->pull_started = true;
	if (task->pull_started_realtime_usec == 0) {
		task->pull_started_realtime_usec = now_realtime_usec();
		engine_save(ec->et);
	}
}

static void set_digest(struct engine_container *ec, const char *digest)
{
	if (!digest || ec->c->image_digest)
		return;
	ec->c->image_digest = strdup(digest);
}

static void pull_resolved(const char *digest, void *userdata)
{
	struct engine_container *ec = userdata;

	set_digest(ec, digest);
	container_reach(ec, TASK_STATUS_MANIFEST_PULLED);
}

static void image_is_here(struct engine_container *ec, const struct pull_result *result)
{
	struct container *c = ec->c;

	set_digest(ec, result->digest);
	free(c->image_id);
	c->image_id = result->image_id ? strdup(result->image_id) : NULL;
	json_object_put(c->layers);
	c->layers = json_object_get(result->layers);
	json_object_put(c->image_config);
	c->image_config = json_object_get(result->config);
	container_reach(ec, TASK_STATUS_PULLED);
	engine_save(ec->et);
}

/* No image. Under always and once that ends the task; otherwise what is in the local store will
 * do, and the reason stays. */
static void pull_failed(struct engine_container *ec, const struct err *err)
{
	enum image_pull_behavior behavior = ec->et->engine->o.config->image_pull_behavior;
	bool was_local = ec->cache_only;

	if (was_local && !ec->c->reason) {
		ec->cache_only = false; /* not there: pull it */
		return;
	}
	container_set_reason(ec, err->name ? err->name : "CannotPullContainerError", err->text);
	if (was_local) {
		container_fail(ec, "CannotPullContainerError", err);
	} else if (behavior == IMAGE_PULL_ALWAYS || behavior == IMAGE_PULL_ONCE) {
		log_warning(&ec->log, 0, "pull of %s failed, so its task stops: %s", ec->c->image,
		            err->text);
		engine_desire_stopped(ec->et);
	} else {
		log_warning(&ec->log, 0, "pull of %s failed, looking for a local copy: %s",
		            ec->c->image, err->text);
		ec->cache_only = true;
	}
}

static void pull_done(int r, const struct err *err, const struct pull_result *result,
                      void *userdata)
{
	struct engine_container *ec = userdata;
	struct engine_task *et = ec->et;
	bool from_registry = !ec->cache_only;

	ec->pull = pull_free(ec->pull);
	ec->op = OP_NONE;
	if (from_registry)
		et->task->pull_stopped_realtime_usec = now_realtime_usec();
	if (r < 0) {
		pull_failed(ec, err);
	} else {
		if (from_registry)
			(void)state_put_image(et->engine->o.state, ec->c->image,
			                      result->digest ? result->digest : "");
		image_is_here(ec, result);
	}
	engine_save(et);
}

/* Whether to look in the local store only, or first. */
static bool wants_local(struct engine_container *ec)
{
	const struct engine *engine = ec->et->engine;
	bool pulled_before = false;

	switch (engine->o.config->image_pull_behavior) {
	case IMAGE_PULL_PREFER_CACHED:
		return !ec->pull_started;
	case IMAGE_PULL_ONCE:
		(void)state_has_image(engine->o.state, ec->c->image, &pulled_before, NULL);
		return pulled_before && !ec->pull_started;
	default:
		return false;
	}
}

void container_pull(struct engine_container *ec)
{
	static const struct pull_ops registry_ops = {
		.started = pull_begun, .resolved = pull_resolved, .done = pull_done};
	static const struct pull_ops local_ops = {.done = pull_done};
	const struct engine *engine = ec->et->engine;
	const struct config *config = engine->o.config;
	_cleanup_json_ struct json_object *auth = NULL;
	struct pull_options options = {
		.reference = ec->c->image,
		.manifest_timeout_usec = config->manifest_pull_timeout_usec,
		.inactivity_timeout_usec = config->image_pull_inactivity_timeout_usec,
		.timeout_usec = config->image_pull_timeout_usec,
	};
	struct err err = {0};
	int r;

	if (!ec->c->reason && wants_local(ec)) {
		ec->cache_only = true;
		ec->pull_started = true;
	}
	options.local = ec->cache_only;
	r = options.local ? 0
	                  : image_auth(ec->et->task, ec->c, engine->o.registry_auth,
	                               engine->o.ecr_endpoint, engine->o.region, &auth, &err);
	if (r < 0) {
		container_fail(ec, "CannotPullContainerError", &err);
		return;
	}
	options.auth = auth;
	ec->op = OP_PULL;
	r = pull_start(engine->puller, &options, options.local ? &local_ops : &registry_ops, ec,
	               &ec->pull);
	if (auth)
		json_wipe(auth);
	if (r < 0)
		request_failed(ec, "CannotPullContainerError", r, "start the pull");
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

/* Something that create needs is not there: perhaps a layer, of an image that is known from memory
 * and was removed meanwhile. It is pulled again, once. */
static bool pull_again(struct engine_container *ec, int r)
{
	struct container *c = ec->c;

	if (r != -ENOENT || !ec->cache_only || ec->pulled_again || !peer_error(supervisor_peer(ec)))
		return false;
	puller_forget(ec->et->engine->puller, c->image);
	json_object_put(c->image_config);
	json_object_put(c->layers);
	c->image_config = c->layers = NULL;
	ec->cache_only = false;
	ec->pulled_again = true;
	return true;
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
	else if (!answer_is_lost(supervisor_peer(ec), r) && !pull_again(ec, r))
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
		request_failed(ec, "CannotCreateContainerError", -ENOMEM, "ask the supervisor");
		return;
	}
	ec->op = OP_CREATE;
	r = peer_request(supervisor_peer(ec), body, NULL, 0,
	                 engine->o.config->container_create_timeout_usec, on_created, ec);
	if (r < 0)
		request_failed(ec, "CannotCreateContainerError", r, "ask the supervisor");
}

/* Attach to the bridge. */

static int read_binding(struct json_object *obj, struct network_binding *ret)
{
	uint64_t container_port = 0, host_port = 0;
	const char *protocol = json_text(obj, "protocol"), *ip = json_text(obj, "bindIP");

	if (json_get_u64(obj, "containerPort", UINT16_MAX, &container_port, NULL) < 0 ||
	    json_get_u64(obj, "hostPort", UINT16_MAX, &host_port, NULL) < 0 || !protocol || !ip ||
	    strlen(ip) >= sizeof(ret->bind_ip))
		return -EBADMSG;
	*ret = (struct network_binding){
		.container_port = (uint16_t)container_port,
		.host_port = (uint16_t)host_port,
		.udp = strcmp(protocol, "udp") == 0,
	};
	strcpy(ret->bind_ip, ip);
	return 0;
}

static int read_bindings(struct container *c, struct json_object *array)
{
	size_t n = array ? json_object_array_length(array) : 0;
	struct network_binding *bindings;
	int r;

	bindings = calloc(n + 1, sizeof(*bindings));
	if (!bindings)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		r = read_binding(json_object_array_get_idx(array, i), &bindings[i]);
		if (r < 0) {
			free(bindings);
			return r;
		}
	}
	free(c->bindings);
	c->bindings = bindings;
	c->n_bindings = n;
	return 0;
}

static int take_port_sockets(struct engine_container *ec, struct ipc_message *msg)
{
	ec->port_fds = calloc(msg->n_fds + 1, sizeof(*ec->port_fds));
	if (!ec->port_fds)
		return -ENOMEM;
	for (size_t i = 0; i < msg->n_fds; i++)
		ec->port_fds[ec->n_port_fds++] = TAKE_FD(msg->fds[i]);
	return 0;
}

static void save_port_cursor(struct engine *engine, struct json_object *answer)
{
	uint64_t cursor = 0;
	char text[16];

	if (json_get_u64(answer, "portCursor", UINT16_MAX, &cursor, NULL) < 0 ||
	    engine->port_cursor == (int)cursor)
		return;
	engine->port_cursor = (int)cursor;
	snprintf(text, sizeof(text), "%d", engine->port_cursor);
	(void)state_set(engine->o.state, "port-cursor", text);
}

/* The address is durable: it may be used. */
static void on_address_saved(void *userdata)
{
	struct engine_container *ec = userdata;

	ec->op = OP_NONE;
	engine_changed(ec->et);
}

static int attached(struct engine_container *ec, struct ipc_message *msg, struct err *err)
{
	const char *gateway = json_text(msg->body, "gateway");
	struct json_object *bindings = NULL;
	uint64_t prefix = 0;
	int r;

	r = json_get_u64(msg->body, "prefix", 32, &prefix, err);
	if (r >= 0)
		r = json_optional(json_get_array(msg->body, "bindings", &bindings, err));
	if (r >= 0 && (!gateway || strlen(gateway) >= sizeof(ec->gateway)))
		r = err_text(err, -EBADMSG, "no gateway");
	if (r >= 0)
		r = read_bindings(ec->c, bindings);
	if (r >= 0)
		r = take_port_sockets(ec, msg);
	if (r < 0)
		return err_prefix(err, r, "answer of ecs-network");

	ec->prefix = (unsigned int)prefix;
	strcpy(ec->gateway, gateway);
	ec->attached = true;
	ec->netns_fd = fd_close(ec->netns_fd);
	save_port_cursor(ec->et->engine, msg->body);
	return 0;
}

static void give_address(struct engine_container *ec)
{
	if (ec->et->engine->addresses && ec->c->address[0])
		addresses_give(ec->et->engine->addresses, ec->c->address);
	ec->c->address[0] = '\0';
}

static void on_attached(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct engine_container *ec = userdata;
	struct err bad = {0};

	ec->op = OP_NONE;
	if (r == 0)
		r = attached(ec, msg, &bad);
	else if (err)
		bad = *err;

	if (r == -ETIMEDOUT) {
		container_fail_timeout(ec, "attached", NETWORK_TIMEOUT_USEC);
	} else if (r < 0) {
		give_address(ec);
		container_fail(ec,
		               r == -EADDRINUSE ? "CannotStartContainerError"
		                                : "ContainerNetworkingError",
		               &bad);
	} else {
		persist_task(ec->et);
		ec->et->unsaved = false;
		ec->op = OP_SAVE;
		if (state_after_commit(ec->et->engine->o.state, on_address_saved, ec) < 0)
			ec->op = OP_NONE;
	}
	engine_save(ec->et);
}

static struct json_object *attach_message(struct engine_container *ec)
{
	const struct engine *engine = ec->et->engine;
	struct json_object *body = ipc_message_new("attach", NULL);
	struct json_object *ports = json_object_new_array(), *range = json_object_new_array();
	int r = body && ports && range ? 0 : -ENOMEM;

	for (size_t i = 0; i < ec->c->n_ports && r == 0; i++) {
		const struct port_mapping *mapping = &ec->c->ports[i];
		struct json_object *port = json_object_new_object();

		r = json_add_u64(port, "containerPort", mapping->container_port);
		if (r == 0)
			r = json_add_u64(port, "hostPort", mapping->host_port);
		if (r == 0)
			r = json_add_string(port, "protocol", mapping->udp ? "udp" : "tcp");
		if (r == 0)
			r = json_append(ports, port);
		else
			json_object_put(port);
	}
	if (r == 0)
		r = json_append(range, json_object_new_int(engine->o.config->dynamic_port_first));
	if (r == 0)
		r = json_append(range, json_object_new_int(engine->o.config->dynamic_port_last));
	if (r == 0)
		r = json_add_string(body, "id", ec->c->runtime_id);
	if (r == 0)
		r = json_add_string(body, "address", ec->c->address);
	if (r == 0)
		r = json_add_i64(body, "portCursor", engine->port_cursor);
	if (r == 0)
		r = json_add(body, "ports", json_object_get(ports));
	if (r == 0)
		r = json_add(body, "portRange", json_object_get(range));
	json_object_put(ports);
	json_object_put(range);
	if (r == 0)
		return body;
	json_object_put(body);
	return NULL;
}

void container_attach(struct engine_container *ec)
{
	struct engine *engine = ec->et->engine;
	struct err err = {.name = "ContainerNetworkingError"};
	int r;

	if (ec->c->address[0] == '\0' && addresses_take(engine->addresses, ec->c->address) < 0) {
		(void)err_text(&err, -ENOSPC, "no address of the bridge subnet is free");
		container_fail(ec, err.name, &err);
		return;
	}
	ec->op = OP_ATTACH;
	r = network_request(engine->network, attach_message(ec), &ec->netns_fd, 1,
	                    NETWORK_TIMEOUT_USEC, on_attached, ec);
	if (r < 0)
		request_failed(ec, err.name, r, "ask ecs-network");
}

/* Serve: the endpoint must be answered before the container's first instruction. */

static void on_served(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct engine_container *ec = userdata;

	(void)msg;
	ec->op = OP_NONE;
	if (r == 0) {
		ec->served = true;
		ec->endpoint_fd = fd_close(ec->endpoint_fd);
	} else {
		/* Asked again when ecs-metadata is back; the time to start bounds that. */
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
		request_failed(ec, "CannotStartContainerError", r, "ask ecs-metadata");
		return;
	}
	ec->op = OP_SERVE;
	r = metadata_request(ec->et->engine->metadata, body, &ec->endpoint_fd, host ? 0 : 1,
	                     on_served, ec);
	if (r < 0)
		request_failed(ec, "CannotStartContainerError", r, "ask ecs-metadata");
}

/* Start. */

static void started(struct engine_container *ec, struct json_object *body)
{
	uint64_t time = 0;

	(void)json_get_u64(body, "time", INT64_MAX, &time, NULL);
	if (ec->c->started_realtime_usec == 0)
		ec->c->started_realtime_usec = time ? time : now_realtime_usec();
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
		request_failed(ec, "CannotStartContainerError", r, "ask the supervisor");
		return;
	}
	ec->op = OP_START;
	r = peer_request(supervisor_peer(ec), body, ec->port_fds, ec->n_port_fds,
	                 ec->et->engine->o.config->container_start_timeout_usec, on_started, ec);
	if (r < 0)
		request_failed(ec, "CannotStartContainerError", r, "ask the supervisor");
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
