/* Ask every supervisor of a task that the store does not have, all at once; when the last has
 * answered, or failed to, write what they said. */
#include "agent/engine/rebuild.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "agent/engine/peer.h"
#include "agent/engine/record.h"
#include "agent/engine/task.h"
#include "agent/engine/task_parse.h"
#include "agent/launcher/protocol.h"
#include "agent/task/protocol.h"
#include "lib/fd.h"
#include "lib/json.h"
#include "lib/log.h"
#include "lib/loop.h"
#include "lib/parse.h"

#define DOCUMENT_MAX (4 * 1024 * 1024)
#define ANSWER_USEC  (30 * 1000 * 1000ull)

/* A task that is in the store. */
struct known_task {
	struct known_task *next;
	char arn[];
};

struct candidate {
	struct candidate *next;
	struct rebuild *rebuild;
	char id[LAUNCHER_TASK_ID_MAX + 1];
	struct peer *peer;
	struct json_object *record; /* NULL: none, or none that can be used */
};

struct rebuild {
	struct rebuild_options o;
	rebuild_done_fn done;
	void *userdata;
	sd_event_source *finish; /* once nothing is pending */
	struct known_task *known;
	bool has_unreadable;
	char *container_instance_arn; /* of the store; NULL: it is lost */
	struct candidate *candidates;
	size_t pending, n_rebuilt;
};

static struct candidate *candidate_free(struct candidate *candidate)
{
	peer_free(candidate->peer);
	json_object_put(candidate->record);
	free(candidate);
	return NULL;
}

struct rebuild *rebuild_free(struct rebuild *rebuild)
{
	if (!rebuild)
		return NULL;
	while (rebuild->candidates) {
		struct candidate *candidate = rebuild->candidates;

		rebuild->candidates = candidate->next;
		candidate_free(candidate);
	}
	while (rebuild->known) {
		struct known_task *known = rebuild->known;

		rebuild->known = known->next;
		free(known);
	}
	sd_event_source_disable_unref(rebuild->finish);
	free(rebuild->container_instance_arn);
	free(rebuild);
	return NULL;
}

size_t rebuild_count(const struct rebuild *rebuild)
{
	return rebuild->n_rebuilt;
}

/* 1. What the store has. */

static int read_row(const struct state_task *row, struct err *err)
{
	_cleanup_json_ struct json_object *document = NULL;
	_cleanup_(task_freep) struct task *task = NULL;
	enum task_status status;
	int r;

	r = json_parse_object(row->document, strlen(row->document), DOCUMENT_MAX, &document, err);
	if (r == 0)
		r = task_parse_stored(document, &task, err);
	if (r == 0 && strcmp(task->arn, row->arn) != 0)
		r = err_text(err, -EBADMSG, "its document is of task %s", task->arn);
	if (r == 0 && (task_status_from_string(row->known, &status) < 0 ||
	               task_status_from_string(row->desired, &status) < 0))
		r = err_text(err, -EBADMSG, "its status is none");
	return r;
}

static int look_for_unreadable(const struct state_task *row, void *userdata)
{
	bool *found = userdata;
	int r = read_row(row, NULL);

	*found |= r < 0 && r != -ENOMEM;
	return r == -ENOMEM ? r : 0;
}

int rebuild_is_needed(struct state *state, bool *ret, struct err *err)
{
	bool has_unreadable = false;
	int r;

	r = state_read_tasks(state, look_for_unreadable, &has_unreadable, err);
	if (r == 0)
		*ret = has_unreadable || state_is_incomplete(state);
	return r;
}

static int note_known(const struct state_task *row, void *userdata)
{
	struct rebuild *rebuild = userdata;
	struct known_task *known;
	struct err err = {0};

	if (read_row(row, &err) < 0) {
		log_warning(NULL, 0, "task %s cannot be read from the state: %s", row->arn,
		            err.text);
		rebuild->has_unreadable = true;
		return state_remove_task(rebuild->o.state, row->arn);
	}
	known = malloc(sizeof(*known) + strlen(row->arn) + 1);
	if (!known)
		return -ENOMEM;
	strcpy(known->arn, row->arn);
	known->next = rebuild->known;
	rebuild->known = known;
	return 0;
}

static bool is_of_task(const char *arn, const char *id)
{
	const char *slash = strrchr(arn, '/');

	return slash && strcmp(slash + 1, id) == 0;
}

static bool is_known(const struct rebuild *rebuild, const char *id)
{
	for (const struct known_task *known = rebuild->known; known; known = known->next)
		if (is_of_task(known->arn, id))
			return true;
	return false;
}

/* 2. Ask. */

static void answered(struct candidate *candidate)
{
	struct rebuild *rebuild = candidate->rebuild;

	/* The engine connects anew. */
	candidate->peer = peer_free(candidate->peer);
	if (--rebuild->pending == 0)
		(void)sd_event_source_set_enabled(rebuild->finish, SD_EVENT_ONESHOT);
}

static void on_state(int r, struct ipc_message *msg, const struct err *err, void *userdata)
{
	struct candidate *candidate = userdata;
	struct json_object *record = NULL;

	if (r < 0)
		log_warning(NULL, 0, "task %s is not in the state, and its supervisor fails: %s",
		            candidate->id, err->text);
	else if (json_get_object(msg->body, "record", &record, NULL) == 0)
		candidate->record = json_object_get(record);
	answered(candidate);
}

static int ask(struct candidate *candidate)
{
	static const struct peer_ops ops = {0};
	struct rebuild *rebuild = candidate->rebuild;
	_cleanup_json_ struct json_object *body = ipc_message_new("state", NULL);
	_cleanup_free_ char *path = NULL;
	struct err err = {0};
	int fd, r;

	if (asprintf(&path, "%s/tasks/%s/" TASK_SOCKET, rebuild->o.runtime_dir, candidate->id) <
	    0) {
		path = NULL;
		return -ENOMEM;
	}
	if (!body || json_add_bool(body, "record", true) < 0)
		return -ENOMEM;
	fd = ipc_connect(path, &err);
	if (fd < 0)
		return fd; /* it is dead */
	r = peer_new(rebuild->o.loop, fd, false, &ops, candidate, &candidate->peer);
	if (r < 0)
		return r;
	return peer_request(candidate->peer, TAKE_PTR(body), NULL, 0, ANSWER_USEC, on_state,
	                    candidate);
}

static int ask_one(struct rebuild *rebuild, const char *id)
{
	struct candidate *candidate = calloc(1, sizeof(*candidate));

	if (!candidate)
		return -ENOMEM;
	candidate->rebuild = rebuild;
	strcpy(candidate->id, id);
	candidate->next = rebuild->candidates;
	rebuild->candidates = candidate;
	if (ask(candidate) < 0)
		candidate->peer = peer_free(candidate->peer);
	else
		rebuild->pending++;
	return 0;
}

static int ask_all(struct rebuild *rebuild, struct err *err)
{
	_cleanup_free_ char *path = NULL;
	const struct dirent *entry;
	int r = 0;
	DIR *dir;

	if (asprintf(&path, "%s/tasks", rebuild->o.runtime_dir) < 0) {
		path = NULL;
		return err_oom(err);
	}
	dir = opendir(path);
	if (!dir)
		return errno == ENOENT ? 0 : err_set(err, -errno, "look for tasks in %s", path);
	while (r == 0 && (entry = readdir(dir)))
		if (name_is_component(entry->d_name, LAUNCHER_TASK_ID_MAX) &&
		    !is_known(rebuild, entry->d_name))
			r = ask_one(rebuild, entry->d_name);
	closedir(dir);
	return r < 0 ? err_oom(err) : 0;
}

/* 3. Choose. */

static bool differs(const char *a, const char *b)
{
	return a && b && strcmp(a, b) != 0;
}

static int check(const struct candidate *candidate, struct err *err)
{
	const struct rebuild_options *o = &candidate->rebuild->o;
	struct json_object *record = candidate->record, *containers;
	const char *cluster = record_instance(record, "cluster");
	const char *arn = record_instance(record, "container-instance-arn");
	struct state_container container;
	struct state_task task = {0};
	int r;

	if (!record)
		return err_text(err, -ENOENT, "it has none");
	r = record_get_task(record, &task, err);
	if (r < 0)
		return r;
	if (!is_of_task(task.arn, candidate->id))
		return err_text(err, -EXDEV, "it is of task %s", task.arn);
	if (!cluster || differs(cluster, o->cluster))
		return err_text(err, -EXDEV, "it is of cluster %s", cluster ? cluster : "?");
	if (differs(record_instance(record, "ec2-instance-id"), o->instance_id))
		return err_text(err, -EXDEV, "it is of instance %s",
		                record_instance(record, "ec2-instance-id"));
	if (differs(record_instance(record, "machine-id"), o->machine_id))
		return err_text(err, -EXDEV, "it is of another machine");
	if (!arn)
		return err_text(err, -EINVAL, "it names no container instance");

	containers = record_containers(record);
	for (size_t i = 0; i < json_object_array_length(containers) && r == 0; i++)
		r = record_get_container(json_object_array_get_idx(containers, i), task.arn,
		                         &container, err);
	return r;
}

static struct json_object *newest(const struct rebuild *rebuild)
{
	struct json_object *found = NULL;

	for (const struct candidate *c = rebuild->candidates; c; c = c->next)
		if (c->record && (!found || record_time(c->record) > record_time(found)))
			found = c->record;
	return found;
}

/* The arn stays: the newest record that it may be of is never one that is dropped. */
static void choose(struct rebuild *rebuild)
{
	const char *arn;

	for (struct candidate *c = rebuild->candidates; c; c = c->next) {
		struct err err = {0};

		if (check(c, &err) == 0)
			continue;
		log_warning(NULL, 0, "record of task %s cannot be used: %s", c->id, err.text);
		json_object_put(c->record);
		c->record = NULL;
	}
	arn = rebuild->container_instance_arn;
	if (!arn)
		arn = record_instance(newest(rebuild), "container-instance-arn");
	for (struct candidate *c = rebuild->candidates; c; c = c->next) {
		if (!c->record ||
		    !differs(record_instance(c->record, "container-instance-arn"), arn))
			continue;
		log_warning(NULL, 0, "record of task %s is of another container instance", c->id);
		json_object_put(c->record);
		c->record = NULL;
	}
}

/* 4. Write. */

static int write_task(struct rebuild *rebuild, struct json_object *record)
{
	struct json_object *containers = record_containers(record);
	struct state *state = rebuild->o.state;
	struct state_container container;
	struct state_task task;
	int r;

	r = record_get_task(record, &task, NULL);
	if (r == 0)
		r = state_put_task(state, &task);
	for (size_t i = 0; i < json_object_array_length(containers) && r == 0; i++) {
		r = record_get_container(json_object_array_get_idx(containers, i), task.arn,
		                         &container, NULL);
		if (r == 0)
			r = state_put_container(state, &container);
	}
	if (r == 0)
		rebuild->n_rebuilt++;
	return r;
}

/* The number of the manifest only grows, and a record may be older than the last. */
static int write_manifest_number(struct rebuild *rebuild)
{
	static const char key[] = "task-manifest-seq-num";
	const char *highest = NULL;
	int64_t max = -1, n;

	for (const struct candidate *c = rebuild->candidates; c; c = c->next) {
		const char *text = c->record ? record_instance(c->record, key) : NULL;

		if (text && parse_i64(text, 0, INT64_MAX, &n) == 0 && n > max) {
			max = n;
			highest = text;
		}
	}
	return highest ? state_set(rebuild->o.state, key, highest) : 0;
}

static int write_instance(struct rebuild *rebuild)
{
	struct json_object *record = newest(rebuild);
	int r = 0;

	if (rebuild->container_instance_arn)
		return 0;
	for (size_t i = 0; record && i < record_n_instance_keys && r == 0; i++) {
		const char *value = record_instance(record, record_instance_keys[i]);

		if (value)
			r = state_set(rebuild->o.state, record_instance_keys[i], value);
	}
	return r == 0 ? write_manifest_number(rebuild) : r;
}

static int write_all(struct rebuild *rebuild, struct err *err)
{
	struct state *state = rebuild->o.state;
	int r;

	r = write_instance(rebuild);
	for (const struct candidate *c = rebuild->candidates; c && r == 0; c = c->next)
		if (c->record)
			r = write_task(rebuild, c->record);
	if (r == 0 && (rebuild->candidates || rebuild->has_unreadable ||
	               state_origin(state) == STATE_ORIGIN_DAMAGED))
		r = state_set(state, REBUILD_LOST_KEY, "yes");
	if (r == 0)
		r = state_complete(state);
	if (r < 0)
		return err_set(err, r, "rebuild the state");
	return state_commit(state, err);
}

static int on_finish(sd_event_source *source, void *userdata)
{
	struct rebuild *rebuild = userdata;
	struct err err = {0};
	int r;

	(void)source;
	choose(rebuild);
	r = write_all(rebuild, &err);
	if (r == 0 && rebuild->candidates)
		log_info(NULL, "state was rebuilt from %zu supervisors", rebuild->n_rebuilt);
	rebuild->done(r, &err, rebuild->userdata); /* may free rebuild */
	return 0;
}

int rebuild_start(const struct rebuild_options *options, rebuild_done_fn done, void *userdata,
                  struct rebuild **ret, struct err *err)
{
	_cleanup_(rebuild_freep) struct rebuild *rebuild = calloc(1, sizeof(*rebuild));
	int r;

	if (!rebuild)
		return err_oom(err);
	rebuild->o = *options;
	rebuild->done = done;
	rebuild->userdata = userdata;
	r = sd_event_add_defer(options->loop, &rebuild->finish, on_finish, rebuild);
	if (r < 0)
		return err_set(err, r, "rebuild the state");
	(void)sd_event_source_set_description(rebuild->finish, "rebuild");
	(void)sd_event_source_set_enabled(rebuild->finish, SD_EVENT_OFF);
	r = state_get(options->state, "container-instance-arn", &rebuild->container_instance_arn,
	              err);
	if (r >= 0)
		r = state_read_tasks(options->state, note_known, rebuild, err);
	if (r >= 0)
		r = ask_all(rebuild, err);
	if (r < 0)
		return r;
	if (rebuild->pending == 0)
		(void)sd_event_source_set_enabled(rebuild->finish, SD_EVENT_ONESHOT);
	*ret = TAKE_PTR(rebuild);
	return 0;
}
