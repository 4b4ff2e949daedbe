/* The bridge of the host and the host's own endpoint: asked for before the first container needs
 * them, and again when ecs-metadata has lost the endpoint's socket. */
#include <errno.h>
#include <string.h>

#include "agent/engine/engine_internal.h"
#include "lib/json.h"
#include "lib/loop.h"

static void ask(struct engine *engine);

static int on_retry(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct engine *engine = userdata;

	(void)source;
	(void)usec;
	engine->host_retry = sd_event_source_disable_unref(engine->host_retry);
	ask(engine);
	return 0;
}

static void failed(struct engine *engine, const struct err *err)
{
	uint64_t usec;

	if (!engine->host_error.text[0])
		log_warning(&engine->log, 0, "bridge: %s; trying again", err->text);
	engine->host_error = *err;
	usec = backoff_next(&engine->host_backoff, random_fraction());
	engine->host_retry = sd_event_source_disable_unref(engine->host_retry);
	(void)loop_add_timer(engine->loop, usec, usec / 10, on_retry, engine, &engine->host_retry);
	engine_changed_all(engine);
}

static void mark_addresses(struct engine *engine)
{
	for (size_t i = 0; i < engine->n_tasks; i++) {
		const struct task *task = engine->tasks[i]->task;

		for (size_t k = 0; k < task->n_containers; k++)
			if (task->containers[k].address[0])
				addresses_mark(engine->addresses, task->containers[k].address);
	}
}

static int read_bridge(struct engine *engine, struct json_object *body, struct err *err)
{
	const char *address = NULL;
	uint64_t prefix = 0;
	int r;

	if (engine->addresses)
		return 0;
	r = json_get_string(body, "address", &address, err);
	if (r >= 0)
		r = json_get_u64(body, "prefix", 32, &prefix, err);
	if (r >= 0)
		r = addresses_new(address, (unsigned int)prefix, &engine->addresses, err);
	if (r < 0)
		return err_prefix(err, r, "answer of ecs-network");
	mark_addresses(engine);
	return 0;
}

static void serve_host(struct engine *engine, struct ipc_message *msg)
{
	if (msg->n_fds == 0 || !metadata_is_up(engine->metadata))
		return; /* asked for again with the next connection */
	if (metadata_request(engine->metadata, ipc_message_new("serve-host", NULL), msg->fds,
	                     msg->n_fds, NULL, NULL) == 0)
		engine->host_endpoint_due = false;
	metadata_sync_check(engine);
}

/* Published ports, where the rules were found missing, or may have been: containers go on
 * meanwhile. What is published already stays as it is. */

static int add_binding(struct json_object *list, const struct network_binding *binding)
{
	struct json_object *obj = json_object_new_object();
	int r = json_append(list, obj);

	if (r == 0)
		r = json_add_u64(obj, "containerPort", binding->container_port);
	if (r == 0)
		r = json_add_u64(obj, "hostPort", binding->host_port);
	if (r == 0)
		r = json_add_string(obj, "protocol", binding->udp ? "udp" : "tcp");
	return r == 0 ? json_add_string(obj, "bindIP", binding->bind_ip) : r;
}

static struct json_object *publish_message(const struct container *c)
{
	_cleanup_json_ struct json_object *body = ipc_message_new("publish", NULL);
	struct json_object *bindings = json_object_new_array();
	int r = json_add(body, "bindings", bindings);

	if (r == 0)
		r = json_add_string(body, "id", c->runtime_id);
	if (r == 0)
		r = json_add_string(body, "address", c->address);
	for (size_t i = 0; i < c->n_bindings && r == 0; i++)
		r = add_binding(bindings, &c->bindings[i]);
	return r == 0 ? TAKE_PTR(body) : NULL;
}

static void publish_again(struct engine *engine);

/* One that is lost is not asked for again at once: perhaps it is what ecs-network dies of. */
static void on_published(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct engine *engine = userdata;
	bool created = false;

	if (r < 0) {
		log_warning(&engine->log, 0, "ports of a container are not published again: %s",
		            err->text);
		engine->ports_unsure =
			engine->ports_unsure || !network_has_refused(engine->network);
		return;
	}
	(void)json_get_bool(msg->body, "created", &created, NULL);
	if (created)
		publish_again(engine);
}

static bool is_published(const struct engine_container *ec)
{
	return (ec->attached || ec->c->known == TASK_STATUS_RUNNING) &&
	       ec->c->known != TASK_STATUS_STOPPED && ec->c->n_bindings > 0;
}

static void publish_again(struct engine *engine)
{
	engine->ports_unsure = false;
	for (size_t i = 0; i < engine->n_tasks; i++) {
		const struct engine_task *et = engine->tasks[i];

		for (size_t k = 0; k < et->task->n_containers; k++) {
			const struct engine_container *ec = &et->containers[k];

			if (is_published(ec) &&
			    network_request(engine->network, publish_message(ec->c), NULL, 0,
			                    NETWORK_TIMEOUT_USEC, on_published, engine) < 0)
				log_warning(&ec->log, 0, "ports cannot be published again");
		}
	}
}

void host_network_answered(struct engine *engine, struct json_object *answer)
{
	bool created = false;

	(void)json_get_bool(answer, "created", &created, NULL);
	if (created || engine->ports_unsure)
		publish_again(engine);
}

void host_network_lost_answer(struct engine *engine)
{
	engine->ports_unsure = true;
	if (!engine->host_asked && !engine->host_retry)
		ask(engine);
}

static void on_host(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct engine *engine = userdata;
	struct err bad = {0};

	engine->host_asked = false;
	if (r >= 0)
		r = read_bridge(engine, msg->body, &bad);
	else
		bad = *err;
	if (r < 0) {
		engine->ports_unsure = true; /* the rules may have been made before it failed */
		failed(engine, &bad);
		return;
	}
	engine->host_ready = true;
	engine->host_error = (struct err){0};
	backoff_reset(&engine->host_backoff);
	host_network_answered(engine, msg->body);
	if (engine->host_endpoint_due)
		serve_host(engine, msg);
	/* ecs-metadata came up while an answer without the endpoint was under way. */
	if (engine->host_endpoint_due && msg->n_fds == 0 && metadata_is_up(engine->metadata))
		host_network_start(engine);
	engine_changed_all(engine);
}

static void ask(struct engine *engine)
{
	struct json_object *body = ipc_message_new("host", NULL);
	struct err err = {0};
	int r;

	r = body ? json_add_bool(body, "metadata", engine->host_endpoint_due) : -ENOMEM;
	if (r == 0)
		r = network_request(engine->network, body, NULL, 0, NETWORK_TIMEOUT_USEC, on_host,
		                    engine);
	else
		json_object_put(body);
	engine->host_asked = r == 0;
	if (r < 0) {
		(void)err_set(&err, r, "ask ecs-network");
		failed(engine, &err);
	}
}

void host_network_start(struct engine *engine)
{
	if (engine->host_backoff.max_usec == 0)
		engine->host_backoff = (struct backoff){.min_usec = SECOND_USEC / 2,
		                                        .max_usec = 30 * SECOND_USEC,
		                                        .multiple = 2,
		                                        .jitter = 0.2};
	if (engine->host_asked || engine->host_retry)
		return;
	if (!engine->host_ready || engine->host_endpoint_due)
		ask(engine);
}

static void on_pruned(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct engine *engine = userdata;
	struct json_object *removed = NULL;

	if (r < 0) {
		log_warning(&engine->log, 0, "prune of the bridge: %s", err->text);
		return;
	}
	if (json_get_array(msg->body, "removed", &removed, NULL) == 0 &&
	    json_object_array_length(removed) > 0)
		log_info(&engine->log, "%zu links of containers that are gone were removed",
		         json_object_array_length(removed));
}

/*
 * A container without an address in the store has none that it runs with: what there is was made by
 * an agent that was killed before it could keep it, and would lead to whoever gets that address
 * next. But a store that was rebuilt may be older than what runs.
 */
static bool is_kept(const struct engine *engine, const struct engine_task *et,
                    const struct container *c)
{
	return et->task->known != TASK_STATUS_STOPPED && (c->address[0] || engine->may_have_lost);
}

void host_network_prune(struct engine *engine)
{
	struct json_object *body = ipc_message_new("prune", NULL), *keep = json_object_new_array();
	int r = body && keep ? 0 : -ENOMEM;

	for (size_t i = 0; i < engine->n_tasks && r == 0; i++) {
		const struct engine_task *et = engine->tasks[i];

		for (size_t k = 0; k < et->task->n_containers && r == 0; k++)
			if (is_kept(engine, et, &et->task->containers[k]))
				r = json_append(keep, json_object_new_string(
							      et->task->containers[k].runtime_id));
	}
	if (r == 0) {
		r = json_add(body, "keep", keep);
		keep = NULL;
	}
	json_object_put(keep);
	if (r == 0)
		r = network_request(engine->network, body, NULL, 0, NETWORK_TIMEOUT_USEC, on_pruned,
		                    engine);
	else
		json_object_put(body);
	if (r < 0)
		log_warning(&engine->log, r, "prune of the bridge");
}
