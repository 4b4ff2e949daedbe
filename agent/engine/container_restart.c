/*
 * Restarts by policy (restart.h). An exit that the policy answers with a restart makes one due; the
 * reconciler starts it. The supervisor keeps the container, its exit and the number of its starts:
 * an agent that was away, or was killed in the midst of a restart, decides by the same facts as one
 * that saw it all.
 */
#include <errno.h>

#include "agent/engine/engine_internal.h"
#include "lib/json.h"

void container_note_restarts(struct engine_container *ec, struct json_object *told)
{
	uint64_t restarts = 0;

	(void)json_get_u64(told, "restarts", INT64_MAX, &restarts, NULL);
	if (!ec->c->restart_policy.enabled || restarts <= ec->c->restart_count)
		return;
	ec->c->restart_count = restarts;
	engine_save(ec->et);
}

bool container_wants_restart(struct engine_container *ec, struct json_object *exit)
{
	struct container *c = ec->c;
	int64_t code = 0;
	uint64_t ran_usec = 0, time = 0;

	if (!c->restart_policy.enabled || c->known == TASK_STATUS_STOPPED ||
	    c->desired == TASK_STATUS_STOPPED || !ec->et->supervisor.peer)
		return false;
	if (json_get_i64(exit, "exitCode", 0, 255, &code, NULL) < 0 ||
	    json_get_u64(exit, "ranUsec", INT64_MAX, &ran_usec, NULL) < 0 ||
	    !restart_policy_wants(&c->restart_policy, (int)code, ran_usec))
		return false;
	if (json_get_u64(exit, "time", INT64_MAX, &time, NULL) == -ENOENT)
		(void)json_get_u64(exit, "exitTime", INT64_MAX, &time, NULL);

	/* It has run, which an agent that was away may not know yet. */
	ec->may_run = false;
	ec->made = ec->attached = ec->served = true;
	container_reach(ec, TASK_STATUS_RUNNING);
	ec->restart_due = true;
	ec->last_exit_code = (int)code;
	ec->last_exit_realtime_usec = time;
	engine_changed(ec->et);
	return true;
}

void container_give_up_restart(struct engine_container *ec)
{
	if (!ec->restart_due)
		return;
	ec->restart_due = false;
	container_stopped(ec, &ec->last_exit_code, ec->last_exit_realtime_usec);
}

static void restart_failed(struct engine_container *ec, int r, const struct err *err)
{
	bool host_ends = r == -ECANCELED || r == -ESHUTDOWN;

	log_warning(&ec->log, 0, "restart of the container fails: %s", err->text);
	if (!host_ends) {
		ec->c->restart_count++; /* it was tried */
		container_set_reason(ec, err->name ? err->name : "CannotStartContainerError",
		                     err->text);
	}
	ec->restart_due = true;
	container_give_up_restart(ec);
}

static void on_restarted(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct engine_container *ec = userdata;
	struct peer *peer = ec->et->supervisor.peer;

	ec->op = OP_NONE;
	if (r == 0) {
		container_note_restarts(ec, msg->body);
		log_info(&ec->log, "container was started again after exit code %d",
		         ec->last_exit_code);
	} else if (r == -ETIMEDOUT && !peer_error(peer)) {
		container_fail_timeout(ec, "started",
		                       ec->et->engine->o.config->container_start_timeout_usec);
	} else if (!answer_is_lost(peer, r)) {
		restart_failed(ec, r, err);
	} /* else the state of the supervisor tells */
	engine_changed(ec->et);
}

void container_restart(struct engine_container *ec)
{
	struct json_object *body = ipc_message_new("start", NULL);
	int r;

	if (body && json_add_string(body, "container", ec->c->name) < 0) {
		json_object_put(body);
		body = NULL;
	}
	ec->op = OP_START;
	r = peer_request(ec->et->supervisor.peer, body, NULL, 0,
	                 ec->et->engine->o.config->container_start_timeout_usec, on_restarted, ec);
	ec->restart_due = false;
	if (r == 0)
		return;
	ec->op = OP_NONE;
	if (r == -EPIPE || r == -ENOTCONN)
		return; /* the connection's end is about to be noticed */
	ec->restart_due = true;
	container_give_up_restart(ec);
}
