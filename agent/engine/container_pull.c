/*
 * The pull of one container: from its registry or out of the local store, as
 * ECS_IMAGE_PULL_BEHAVIOR has it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "agent/engine/engine_internal.h"
#include "agent/engine/image_auth.h"
#include "lib/json.h"
#include "lib/loop.h"

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
		container_request_failed(ec, "CannotPullContainerError", r, "start the pull");
}

bool container_pull_again(struct engine_container *ec, int r)
{
	struct container *c = ec->c;

	if (r != -ENOENT || !ec->cache_only || ec->pulled_again ||
	    !peer_error(ec->et->supervisor.peer))
		return false;
	puller_forget(ec->et->engine->puller, c->image);
	json_object_put(c->image_config);
	json_object_put(c->layers);
	c->image_config = c->layers = NULL;
	ec->cache_only = false;
	ec->pulled_again = true;
	return true;
}
