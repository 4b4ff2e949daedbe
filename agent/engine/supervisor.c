/*
 * The supervisor of a task: launched once, found again after a restart or a lost connection, ended
 * with its task; and when it is dead, the reaper in its place.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/engine/engine_internal.h"
#include "agent/task/protocol.h"
#include "lib/fd.h"
#include "lib/json.h"
#include "lib/loop.h"

#define EXIT_FILE_MAX  (64 * 1024)
#define FIND_TRIES_MAX 20
#define REAP_TRIES_MAX 5
#define END_TRIES_MAX  5
#define DEATHS_MAX     3

static void find(struct engine_task *et);
static int on_find(sd_event_source *source, uint64_t usec, void *userdata);
static void reap(struct engine_task *et);
static void on_peer_end(struct peer *peer, int r, const struct err *err, void *userdata);
static void on_peer_event(struct peer *peer, struct ipc_message *msg, void *userdata);

static const struct peer_ops supervisor_ops = {.on_event = on_peer_event, .on_end = on_peer_end};

void supervisor_done(struct supervisor *supervisor)
{
	supervisor->peer = peer_free(supervisor->peer);
	supervisor->timer = sd_event_source_disable_unref(supervisor->timer);
}

static void set_status(struct engine_task *et, enum supervisor_status status)
{
	et->supervisor.status = status;
	et->supervisor.tries = 0;
	et->supervisor.backoff = (struct backoff){.min_usec = 100 * 1000,
	                                          .max_usec = 10 * SECOND_USEC,
	                                          .multiple = 1.6,
	                                          .jitter = 0.2};
	et->supervisor.timer = sd_event_source_disable_unref(et->supervisor.timer);
	engine_changed(et);
}

static void again(struct engine_task *et, sd_event_time_handler_t fn)
{
	uint64_t usec = backoff_next(&et->supervisor.backoff, random_fraction());

	et->supervisor.timer = sd_event_source_disable_unref(et->supervisor.timer);
	(void)loop_add_timer(et->engine->loop, usec, usec / 10, fn, et, &et->supervisor.timer);
}

static void ready(struct engine_task *et)
{
	set_status(et, SUPERVISOR_READY);
	records_connected(et); /* before anything is made that the record could tell of */
}

/* Events. */

static void on_peer_event(struct peer *peer, struct ipc_message *msg, void *userdata)
{
	struct engine_task *et = userdata;
	const char *type = json_text(msg->body, "type");
	struct engine_container *ec = engine_container_find(et, json_text(msg->body, "container"));
	uint64_t records = 0, bytes = 0;

	(void)peer;
	if (!type || !ec)
		return;
	if (strcmp(type, "exited") == 0) {
		container_exited(ec, msg->body);
	} else if (strcmp(type, "health") == 0) {
		container_health(ec, msg->body);
	} else if (strcmp(type, "managed-agent") == 0) {
		container_managed_agent(ec, msg->body);
	} else if (strcmp(type, "dropped") == 0) {
		(void)json_get_u64(msg->body, "records", UINT64_MAX, &records, NULL);
		(void)json_get_u64(msg->body, "bytes", UINT64_MAX, &bytes, NULL);
		log_warning(&ec->log, 0,
		            "%ju log records (%ju bytes) of the container did not fit the spool "
		            "and were dropped so far",
		            (uintmax_t)records, (uintmax_t)bytes);
	}
}

/* The connection broke. A supervisor that is there takes another; if it died, nobody listens. */
static void on_peer_end(struct peer *peer, int r, const struct err *err, void *userdata)
{
	struct engine_task *et = userdata;

	(void)peer;
	et->supervisor.peer = peer_free(et->supervisor.peer);
	et->sockets_asked = false;
	if (et->supervisor.status == SUPERVISOR_NONE)
		return;
	log_debug(&et->log, "connection to the supervisor ended: %s",
	          r == -EPIPE ? "closed" : err->text);
	if (et->supervisor.status != SUPERVISOR_FINDING)
		set_status(et, SUPERVISOR_FINDING);
	find(et);
}

/* Launch. */

static void launch_failed(struct engine_task *et, const struct err *err)
{
	et->supervisor.peer = peer_free(et->supervisor.peer);
	engine_fail_task(et, "resource cannot be initialized for task %s: %s", et->task->arn,
	                 err->text);
	set_status(et, SUPERVISOR_REAPING);
	reap(et);
}

static void on_ready(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct engine_task *et = userdata;

	(void)msg;
	if (r == 0)
		ready(et);
	else if (!answer_is_lost(et->supervisor.peer, r))
		launch_failed(et, err);
}

static int send_setup(struct engine_task *et, struct err *err)
{
	const struct engine *engine = et->engine;
	struct json_object *task = NULL, *body;
	int r;

	r = spec_task(et->task, &engine->spec, &task, err);
	if (r < 0)
		return r;
	body = ipc_message_new("setup", NULL);
	if (!body) {
		json_object_put(task);
		return err_oom(err);
	}
	r = json_add(body, "task", task);
	if (r < 0) {
		json_object_put(body);
		return err_oom(err);
	}
	r = peer_request(et->supervisor.peer, body, NULL, 0,
	                 engine->o.config->container_create_timeout_usec, on_ready, et);
	return r < 0 ? err_set(err, r, "ask the supervisor") : 0;
}

static int on_launch(sd_event_source *source, uint64_t usec, void *userdata);

static void launch(struct engine_task *et)
{
	struct engine *engine = et->engine;
	struct err err = {0};
	int fd, r;

	fd = launcher_connect(engine->o.runtime_dir,
	                      et->task->pid_mode == TASK_PID_HOST ? "task-host-pid" : "task",
	                      et->task->id, &err);
	if (fd < 0) {
		if (now_usec() < et->supervisor.deadline_usec) {
			if (et->supervisor.tries++ == 0)
				log_warning(&et->log, 0, "launch: %s; trying again", err.text);
			again(et, on_launch);
			return;
		}
		launch_failed(et, &err);
		return;
	}
	r = peer_new(engine->loop, fd, false, &supervisor_ops, et, &et->supervisor.peer);
	if (r < 0)
		(void)err_set(&err, r, "watch the supervisor");
	else
		r = send_setup(et, &err);
	if (r < 0)
		launch_failed(et, &err);
}

static int on_launch(sd_event_source *source, uint64_t usec, void *userdata)
{
	(void)source;
	(void)usec;
	launch(userdata);
	return 0;
}

static void on_launch_saved(void *userdata)
{
	struct engine_task *et = userdata;

	et->launched_durable = true;
	if (et->supervisor.status == SUPERVISOR_SAVING) {
		set_status(et, SUPERVISOR_LAUNCHING);
		launch(et);
	}
}

void supervisor_launch(struct engine_task *et)
{
	et->supervisor.deadline_usec =
		now_usec() + et->engine->o.config->container_create_timeout_usec;
	et->launched = true;
	if (et->launched_durable) {
		set_status(et, SUPERVISOR_LAUNCHING);
		launch(et);
		return;
	}
	set_status(et, SUPERVISOR_SAVING);
	(void)persist_task(et);
	(void)state_after_commit(et->engine->o.state, on_launch_saved, et);
}

/* Find again. */

/* Made, but not started: "create" answers once more with the descriptors, unless they are here. */
static void merge_created(struct engine_container *ec)
{
	ec->may_run = false;
	if (ec->netns_fd >= 0 || ec->attached || ec->served)
		ec->made = true;
	else
		ec->made = false;
}

static void merge_container(struct engine_container *ec, struct json_object *entry,
                            bool *ret_starting)
{
	const char *status = json_text(entry, "status");
	uint64_t time = 0;

	if (!status)
		return;
	(void)json_get_u64(entry, "cgroupId", UINT64_MAX, &ec->c->cgroup_id, NULL);
	container_note_restarts(ec, entry);
	ec->restart_due = false;
	if (json_get_u64(entry, "startedTime", INT64_MAX, &time, NULL) == 0 && time > 0 &&
	    ec->c->started_realtime_usec == 0)
		container_set_started(ec->c, time);

	if (json_get(entry, "health"))
		container_health(ec, json_get(entry, "health"));
	if (json_get(entry, "managedAgent"))
		container_managed_agent(ec, json_get(entry, "managedAgent"));
	if (strcmp(status, "running") == 0) {
		ec->may_run = false;
		ec->made = ec->attached = ec->served = true;
		container_reach(ec, TASK_STATUS_RUNNING);
	} else if (strcmp(status, "stopped") == 0) {
		ec->made = true;
		container_exited(ec, entry);
	} else if (strcmp(status, "starting") == 0) {
		*ret_starting = true;
	} else if (ec->c->known < TASK_STATUS_RUNNING && ec->op == OP_NONE) {
		merge_created(ec);
	}
}

static struct json_object *find_entry(struct json_object *containers, const char *name)
{
	for (size_t i = 0; i < json_object_array_length(containers); i++) {
		struct json_object *entry = json_object_array_get_idx(containers, i);
		const char *other = json_text(entry, "name");

		if (other && strcmp(other, name) == 0)
			return entry;
	}
	return NULL;
}

static void vanish(struct engine_container *ec)
{
	if (ec->c->known == TASK_STATUS_STOPPED)
		return;
	if (ec->c->known == TASK_STATUS_RUNNING || ec->may_run) {
		container_set_reason(ec, "ContainerVanishedError",
		                     "No container matching saved ID found");
		container_stopped(ec, NULL, 0);
		return;
	}
	/* Never started: it can be made again. */
	ec->made = ec->attached = ec->served = false;
	ec->serving_since_usec = ec->serve_again_usec = 0;
	container_release_descriptors(ec);
}

static bool merge_state(struct engine_task *et, struct json_object *containers)
{
	bool starting = false;

	for (size_t i = 0; i < et->task->n_containers; i++) {
		struct engine_container *ec = &et->containers[i];
		struct json_object *entry = find_entry(containers, ec->c->name);

		if (entry)
			merge_container(ec, entry, &starting);
		else
			vanish(ec);
	}
	engine_save(et);
	return starting;
}

static int ask_state(struct engine_task *et);

static int on_ask_again(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct engine_task *et = userdata;
	int r;

	(void)source;
	(void)usec;
	r = ask_state(et);
	if (r < 0 && r != -EPIPE) /* a broken connection is noticed as such */
		again(et, on_ask_again);
	return 0;
}

static void on_state(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct engine_task *et = userdata;
	struct json_object *containers = NULL;
	struct err failure = {0};
	bool is_ready = false;

	if (r < 0) {
		log_warning(&et->log, 0, "state of the supervisor: %s", err->text);
		if (!answer_is_lost(et->supervisor.peer, r)) {
			et->supervisor.peer = peer_free(et->supervisor.peer);
			find(et);
		}
		return;
	}
	(void)json_get_bool(msg->body, "ready", &is_ready, NULL);
	mounts_merge(et, json_get(msg->body, "volumes"));
	if (json_get_array(msg->body, "containers", &containers, NULL) == 0 &&
	    merge_state(et, containers)) {
		again(et, on_ask_again); /* how the start ends was told to an earlier connection */
		return;
	}
	if (is_ready) {
		ready(et);
		return;
	}
	set_status(et, SUPERVISOR_LAUNCHING);
	if (send_setup(et, &failure) < 0)
		launch_failed(et, &failure);
}

static int ask_state(struct engine_task *et)
{
	return peer_request(et->supervisor.peer, ipc_message_new("state", NULL), NULL, 0,
	                    STATE_TIMEOUT_USEC, on_state, et);
}

/* Exits that the dead supervisor wrote before it died; where it was told that the host shuts down,
 * also in a place that outlives the host. */
static void read_exit(struct engine_container *ec, const char *dir, const char *below)
{
	_cleanup_json_ struct json_object *exit = NULL;
	_cleanup_free_ char *path = NULL, *text = NULL;
	size_t len = 0;

	if (asprintf(&path, "%s/%s/%s/exit-%s.json", dir, below, ec->et->task->id, ec->c->name) <
	    0) {
		path = NULL;
		return;
	}
	if (file_read(AT_FDCWD, path, EXIT_FILE_MAX, &text, &len) == 0 &&
	    json_parse_object(text, len, EXIT_FILE_MAX, &exit, NULL) == 0)
		container_exited(ec, exit);
}

static void read_exits(struct engine_task *et)
{
	const struct engine_options *o = &et->engine->o;

	for (size_t i = 0; i < et->task->n_containers; i++) {
		container_give_up_restart(&et->containers[i]);
		read_exit(&et->containers[i], o->runtime_dir, "tasks");
		read_exit(&et->containers[i], o->state_dir, "exits");
	}
}

static bool may_have_run(const struct engine_container *ec)
{
	return ec->c->known == TASK_STATUS_RUNNING || ec->may_run;
}

/* The task's own reason, where a part of it that it cannot do without ended with the host. */
static void note_restart_of_host(struct engine_task *et)
{
	for (size_t i = 0; i < et->task->n_containers; i++) {
		const struct engine_container *ec = &et->containers[i];

		if (!ec->c->essential || !may_have_run(ec) || et->task->reason)
			continue;
		et->task->reason = strdup("The host was restarted while the task was running");
	}
}

static void note_lost_containers(struct engine_task *et)
{
	for (size_t i = 0; i < et->task->n_containers; i++)
		if (may_have_run(&et->containers[i]))
			container_set_reason(
				&et->containers[i], "ContainerVanishedError",
				et->engine->host_restarted
					? "The host was restarted while the container was running"
					: "The supervisor of the task ended unexpectedly");
}

static void on_exits_saved(void *userdata)
{
	reap(userdata);
}

static void gone(struct engine_task *et)
{
	log_warning(&et->log, 0, "supervisor of the task is gone%s",
	            et->engine->host_restarted ? ", with the restart of the host" : "");
	et->supervisor.peer = peer_free(et->supervisor.peer);
	if (et->engine->host_restarted)
		note_restart_of_host(et);
	read_exits(et);
	note_lost_containers(et);
	set_status(et, SUPERVISOR_REAPING);
	engine_save(et);
	/* The reaper removes what the exits were read from: the store must have them first. */
	if (persist_task(et) < 0 || state_after_commit(et->engine->o.state, on_exits_saved, et) < 0)
		again(et, on_find);
}

static int on_find(sd_event_source *source, uint64_t usec, void *userdata)
{
	(void)source;
	(void)usec;
	find(userdata);
	return 0;
}

static void find(struct engine_task *et)
{
	struct engine *engine = et->engine;
	_cleanup_free_ char *path = NULL;
	struct err err = {0};
	int fd, r;

	if (asprintf(&path, "%s/tasks/%s/" TASK_SOCKET, engine->o.runtime_dir, et->task->id) < 0) {
		path = NULL;
		again(et, on_find);
		return;
	}
	fd = ipc_connect(path, &err);
	if (fd == -ENOENT || fd == -ECONNREFUSED || fd == -ENOTDIR ||
	    et->supervisor.tries++ >= FIND_TRIES_MAX) {
		(void)fd_close(fd);
		gone(et);
		return;
	}
	if (fd < 0) {
		again(et, on_find);
		return;
	}
	r = peer_new(engine->loop, fd, false, &supervisor_ops, et, &et->supervisor.peer);
	if (r >= 0)
		r = ask_state(et);
	if (r < 0) {
		et->supervisor.peer = peer_free(et->supervisor.peer);
		again(et, on_find);
	}
}

void supervisor_find(struct engine_task *et)
{
	set_status(et, SUPERVISOR_FINDING);
	find(et);
}

/* Reap. */

static void reaped(struct engine_task *et)
{
	et->supervisor.peer = peer_free(et->supervisor.peer);
	for (size_t i = 0; i < et->task->n_containers; i++) {
		container_forget_step(&et->containers[i]);
		vanish(&et->containers[i]);
	}
	mounts_lost(et);
	set_status(et, SUPERVISOR_NONE);
	if (et->task->desired != TASK_STATUS_STOPPED && ++et->supervisor.deaths >= DEATHS_MAX)
		engine_fail_task(et,
		                 "resource cannot be initialized for task %s: its supervisor ended "
		                 "%d times before a container ran",
		                 et->task->arn, DEATHS_MAX);
	engine_save(et);
}

static int on_reap(sd_event_source *source, uint64_t usec, void *userdata)
{
	(void)source;
	(void)usec;
	reap(userdata);
	return 0;
}

static void reap_failed(struct engine_task *et, const char *text)
{
	et->supervisor.peer = peer_free(et->supervisor.peer);
	if (et->supervisor.tries++ < REAP_TRIES_MAX) {
		log_debug(&et->log, "reap: %s; trying again", text);
		again(et, on_reap);
		return;
	}
	log_err(&et->log, 0, "what a dead supervisor left could not be removed: %s", text);
	reaped(et);
}

static void on_reaper_event(struct peer *peer, struct ipc_message *msg, void *userdata)
{
	const char *type = json_text(msg->body, "type");
	struct err err = {0};

	(void)peer;
	if (type && strcmp(type, "reaped") == 0) {
		reaped(userdata);
		return;
	}
	(void)ipc_message_error(msg->body, &err);
	reap_failed(userdata, err.text);
}

static void on_reaper_end(struct peer *peer, int r, const struct err *err, void *userdata)
{
	(void)peer;
	(void)r;
	reap_failed(userdata, err->text);
}

static int on_reap_timeout(sd_event_source *source, uint64_t usec, void *userdata)
{
	(void)source;
	(void)usec;
	reap_failed(userdata, "no answer in time");
	return 0;
}

static void reap(struct engine_task *et)
{
	static const struct peer_ops ops = {.on_event = on_reaper_event, .on_end = on_reaper_end};
	struct engine *engine = et->engine;
	struct err err = {0};
	int fd, r;

	fd = launcher_connect(engine->o.runtime_dir, "reap", et->task->id, &err);
	if (fd < 0) {
		reap_failed(et, err.text);
		return;
	}
	r = peer_new(engine->loop, fd, false, &ops, et, &et->supervisor.peer);
	if (r < 0) {
		reap_failed(et, "out of memory");
		return;
	}
	et->supervisor.timer = sd_event_source_disable_unref(et->supervisor.timer);
	(void)loop_add_timer(engine->loop, MINUTE_USEC, SECOND_USEC, on_reap_timeout, et,
	                     &et->supervisor.timer);
}

/* End. */

static void end_sent(struct engine_task *et);

static int on_end_again(sd_event_source *source, uint64_t usec, void *userdata)
{
	(void)source;
	(void)usec;
	end_sent(userdata);
	return 0;
}

static void on_ended(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct engine_task *et = userdata;

	(void)msg;
	if (r == 0) {
		/* Its own cgroup is left for the reaper. */
		et->supervisor.peer = peer_free(et->supervisor.peer);
		set_status(et, SUPERVISOR_REAPING);
		reap(et);
		return;
	}
	if (answer_is_lost(et->supervisor.peer, r))
		return; /* found again, or reaped */
	log_warning(&et->log, 0, "end of the supervisor: %s", err->text);
	if (et->supervisor.tries++ < END_TRIES_MAX) {
		again(et, on_end_again);
		return;
	}
	et->supervisor.peer = peer_free(et->supervisor.peer);
	set_status(et, SUPERVISOR_REAPING);
	reap(et);
}

static void end_sent(struct engine_task *et)
{
	int r;

	r = peer_request(et->supervisor.peer, ipc_message_new("end", NULL), NULL, 0, MINUTE_USEC,
	                 on_ended, et);
	if (r < 0 && r != -EPIPE)
		again(et, on_end_again);
}

void supervisor_end(struct engine_task *et)
{
	set_status(et, SUPERVISOR_ENDING);
	end_sent(et);
}
