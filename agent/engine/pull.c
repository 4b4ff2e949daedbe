/*
 * A job is one ecs-image process and everyone who waits for it. Jobs are started in order while
 * fewer than PULLS_MAX run.
 */
#include "agent/engine/pull.h"

#include <errno.h>
#include <string.h>

#include "agent/engine/peer.h"
#include "lib/json.h"
#include "lib/log.h"
#include "lib/loop.h"

/* ecs-image keeps its own limits; this is for one that does not answer at all. */
#define GUARD_USEC (60 * 1000 * 1000ull)

struct pull {
	struct pull *next; /* of the same job */
	struct job *job;   /* NULL: reported */
	struct pull_ops ops;
	void *userdata;
};

struct job {
	struct job *next; /* oldest first */
	struct puller *puller;
	char *reference;
	struct json_object *auth;
	struct pull_options options;
	char *digest; /* resolved, for those who join later */
	struct ipc_event *conn;
	sd_event_source *guard;
	struct pull *pulls;
	bool reporting; /* its callbacks are on the stack */
	bool finished;
	bool waits_for_room; /* after full_err */
	bool had_room;       /* it is the second try */
	struct err full_err;
};

struct puller {
	sd_event *loop;
	const char *runtime_dir;
	struct job *jobs;
	sd_event_source *start;        /* deferred */
	struct remembered *remembered; /* latest first */
	int (*make_room)(void *userdata);
	void *make_room_userdata;
};

struct remembered {
	struct remembered *next;
	char *reference, *digest, *image_id;
	struct json_object *layers, *config;
};

static void start_jobs(struct puller *puller);

void json_wipe(struct json_object *value)
{
	char *text;

	switch (json_object_get_type(value)) {
	case json_type_object: {
		json_object_object_foreach (value, key, member) {
			(void)key;
			json_wipe(member);
		}
		break;
	}
	case json_type_array:
		for (size_t i = 0; i < json_object_array_length(value); i++)
			json_wipe(json_object_array_get_idx(value, i));
		break;
	case json_type_string:
		/* json-c has no other way to its own buffer; the length stays. */
		text = (char *)(uintptr_t)json_object_get_string(value);
		memset(text, 'x', (size_t)json_object_get_string_len(value));
		__asm__ __volatile__("" : : "r"(text) : "memory");
		break;
	default:
		break;
	}
}

/* The text that json-c keeps of an object is as secret; made again, it overwrites itself. */
static void put_secret(struct json_object *value)
{
	if (!value)
		return;
	json_wipe(value);
	(void)json_to_text(value, NULL);
	json_object_put(value);
}

/* Memory. */

static void remembered_free(struct remembered *m)
{
	free(m->reference);
	free(m->digest);
	free(m->image_id);
	json_object_put(m->layers);
	json_object_put(m->config);
	free(m);
}

void puller_forget(struct puller *puller, const char *reference)
{
	for (struct remembered **p = &puller->remembered; *p; p = &(*p)->next)
		if (strcmp((*p)->reference, reference) == 0) {
			struct remembered *m = *p;

			*p = m->next;
			remembered_free(m);
			return;
		}
}

void puller_forget_all(struct puller *puller)
{
	while (puller->remembered) {
		struct remembered *m = puller->remembered;

		puller->remembered = m->next;
		remembered_free(m);
	}
}

static void forget_oldest(struct puller *puller)
{
	struct remembered **p = &puller->remembered;

	for (size_t n = 0; *p && n < REMEMBERED_MAX; n++)
		p = &(*p)->next;
	while (*p) {
		struct remembered *m = *p;

		*p = m->next;
		remembered_free(m);
	}
}

/* Without memory to remember, the next look asks ecs-image again. */
static void remember(struct puller *puller, const char *reference, const struct pull_result *result)
{
	struct remembered *m = calloc(1, sizeof(*m));

	if (!m)
		return;
	m->reference = strdup(reference);
	m->digest = strdup(result->digest ? result->digest : "");
	m->image_id = strdup(result->image_id ? result->image_id : "");
	m->layers = json_object_get(result->layers);
	m->config = json_object_get(result->config);
	if (!m->reference || !m->digest || !m->image_id) {
		remembered_free(m);
		return;
	}
	puller_forget(puller, reference);
	m->next = puller->remembered;
	puller->remembered = m;
	forget_oldest(puller);
}

static void job_done(struct job *job, int r, const struct err *err,
                     const struct pull_result *result);

/* Ends the job if it only looks into the local store and that is known. */
static bool answer_from_memory(struct job *job)
{
	struct remembered *m = job->puller->remembered;
	struct pull_result result;

	while (m && strcmp(m->reference, job->reference) != 0)
		m = m->next;
	if (!job->options.local || !m)
		return false;
	result = (struct pull_result){.digest = *m->digest ? m->digest : NULL,
	                              .image_id = *m->image_id ? m->image_id : NULL,
	                              .layers = m->layers,
	                              .config = m->config};
	job_done(job, 0, NULL, &result);
	return true;
}

static void job_stop(struct job *job)
{
	job->conn = ipc_event_free(job->conn);
	job->guard = sd_event_source_disable_unref(job->guard);
}

static void job_free(struct job *job)
{
	struct puller *puller = job->puller;

	for (struct job **p = &puller->jobs; *p; p = &(*p)->next)
		if (*p == job) {
			*p = job->next;
			break;
		}
	for (struct pull *pull = job->pulls; pull; pull = pull->next)
		pull->job = NULL;
	job_stop(job);
	put_secret(job->auth);
	free(job->digest);
	free(job->reference);
	free(job);
	(void)sd_event_source_set_enabled(puller->start, SD_EVENT_ONESHOT);
}

/* Calls everyone; any of them may free any pull, also all of this job. */
static void job_done(struct job *job, int r, const struct err *err,
                     const struct pull_result *result)
{
	struct pull *pull;

	job_stop(job);
	job->finished = true;
	job->reporting = true;
	while ((pull = job->pulls)) {
		job->pulls = pull->next;
		pull->job = NULL;
		pull->ops.done(r, err, result, pull->userdata);
	}
	job_free(job);
}

void puller_on_full_disk(struct puller *puller, int (*make_room)(void *userdata), void *userdata)
{
	puller->make_room = make_room;
	puller->make_room_userdata = userdata;
}

/* Whether the job goes on: images are removed, and then it is tried again. */
static bool wait_for_room(struct job *job, const struct err *err)
{
	struct puller *puller = job->puller;

	if (job->had_room || job->options.local || !puller->make_room ||
	    puller->make_room(puller->make_room_userdata) < 0)
		return false;
	log_warning(NULL, 0, "pull of %s has met a full disk, removing images: %s", job->reference,
	            err->text);
	job_stop(job);
	job->full_err = *err;
	job->waits_for_room = job->had_room = true;
	(void)sd_event_source_set_enabled(puller->start, SD_EVENT_ONESHOT);
	return true;
}

static struct job *find_waiting(struct puller *puller)
{
	struct job *job = puller->jobs;

	while (job && !job->waits_for_room)
		job = job->next;
	return job;
}

void puller_room_made(struct puller *puller, bool freed)
{
	struct job *job;

	while ((job = find_waiting(puller))) {
		job->waits_for_room = false;
		if (!freed)
			job_done(job, -ENOSPC, &job->full_err, NULL);
	}
	(void)sd_event_source_set_enabled(puller->start, SD_EVENT_ONESHOT);
}

static int read_result(struct json_object *body, struct pull_result *ret, struct err *err)
{
	int r;

	*ret = (struct pull_result){.digest = json_text(body, "digest"),
	                            .image_id = json_text(body, "imageId")};
	r = json_get_array(body, "layers", &ret->layers, err);
	if (r >= 0)
		r = json_get_object(body, "config", &ret->config, err);
	return r < 0 ? err_prefix(err, -EBADMSG, "answer of ecs-image") : 0;
}

static void job_resolved(struct job *job, const char *digest)
{
	struct pull *next;

	if (!digest || job->digest)
		return;
	job->digest = strdup(digest);
	/* A callee only takes note: it frees no pull. */
	for (struct pull *pull = job->pulls; pull; pull = next) {
		next = pull->next;
		if (pull->ops.resolved)
			pull->ops.resolved(digest, pull->userdata);
	}
}

static void on_message(struct ipc_event *conn, struct ipc_message *msg, void *userdata)
{
	struct job *job = userdata;
	const char *type = json_text(msg->body, "type");
	struct pull_result result = {0};
	struct err err = {0};
	int r;

	(void)conn;
	if (!type)
		return;
	if (strcmp(type, "resolved") == 0) {
		job_resolved(job, json_text(msg->body, "digest"));
	} else if (strcmp(type, "pulled") == 0) {
		r = read_result(msg->body, &result, &err);
		if (r >= 0)
			remember(job->puller, job->reference, &result);
		job_done(job, r, &err, &result);
	} else if (strcmp(type, "error") == 0) {
		r = ipc_message_error(msg->body, &err);
		if (r != -ENOSPC || !wait_for_room(job, &err))
			job_done(job, r, &err, NULL);
	}
}

static void on_end(struct ipc_event *conn, int r, const struct err *err, void *userdata)
{
	struct err ended = {0};

	(void)conn;
	if (err)
		ended = *err;
	(void)err_prefix(&ended, r, "ecs-image ended without a result");
	job_done(userdata, r, &ended, NULL);
}

static int on_guard(sd_event_source *source, uint64_t usec, void *userdata)
{
	struct err err = {0};

	(void)source;
	(void)usec;
	(void)err_text(&err, 0, "ecs-image gave no result in time");
	job_done(userdata, -ETIMEDOUT, &err, NULL);
	return 0;
}

static struct json_object *request_new(const struct job *job)
{
	struct json_object *body = ipc_message_new(job->options.local ? "inspect" : "pull", NULL);
	int r;

	if (!body)
		return NULL;
	r = json_add_i64(body, "seq", 1);
	if (r == 0)
		r = json_add_string(body, "reference", job->reference);
	if (r == 0 && !job->options.local && job->auth)
		r = json_add(body, "auth", json_object_get(job->auth));
	if (r == 0 && !job->options.local) {
		r = json_add_u64(body, "manifestTimeoutUsec", job->options.manifest_timeout_usec);
		if (r == 0)
			r = json_add_u64(body, "inactivityTimeoutUsec",
			                 job->options.inactivity_timeout_usec);
		if (r == 0)
			r = json_add_u64(body, "timeoutUsec", job->options.timeout_usec);
	}
	if (r < 0) {
		json_object_put(body);
		return NULL;
	}
	return body;
}

static int job_start(struct job *job, struct err *err)
{
	_cleanup_json_ struct json_object *body = NULL;
	struct ipc_conn *conn = NULL;
	uint64_t limit = GUARD_USEC;
	int fd, r;

	fd = launcher_connect(job->puller->runtime_dir, "image", NULL, err);
	if (fd < 0)
		return fd;
	r = ipc_conn_new(fd, 0, true, &conn);
	if (r < 0)
		return err_oom(err);
	r = ipc_event_new(job->puller->loop, conn, on_message, on_end, job, &job->conn);
	if (r < 0)
		return err_set(err, r, "watch ecs-image");

	body = request_new(job);
	if (!body)
		return err_oom(err);
	if (!job->options.local)
		limit += job->options.manifest_timeout_usec + job->options.timeout_usec;
	r = loop_add_timer(job->puller->loop, limit, 1000 * 1000, on_guard, job, &job->guard);
	if (r >= 0)
		r = ipc_event_send(job->conn, body, NULL, 0);
	(void)json_to_text(body, NULL);
	return r < 0 ? err_set(err, r, "ask ecs-image") : 0;
}

static void start_jobs(struct puller *puller)
{
	size_t running = 0;
	struct job *job;

	for (job = puller->jobs; job; job = job->next)
		running += job->conn != NULL;

	for (job = puller->jobs; job && running < PULLS_MAX; job = job->next) {
		struct err err = {0};
		int r;

		if (job->conn || job->finished || job->waits_for_room)
			continue;
		if (answer_from_memory(job))
			return; /* the rest starts from the loop */
		r = job_start(job, &err);
		if (r < 0) {
			job_done(job, r, &err, NULL); /* starts the rest from the loop */
			return;
		}
		running++;
		for (struct pull *pull = job->pulls; pull; pull = pull->next)
			if (pull->ops.started)
				pull->ops.started(pull->userdata);
	}
}

static int on_start(sd_event_source *source, void *userdata)
{
	(void)source;
	start_jobs(userdata);
	return 0;
}

int puller_new(sd_event *loop, const char *runtime_dir, struct puller **ret)
{
	_cleanup_(puller_freep) struct puller *puller = calloc(1, sizeof(*puller));
	int r;

	if (!puller)
		return -ENOMEM;
	puller->loop = sd_event_ref(loop);
	puller->runtime_dir = runtime_dir;
	r = sd_event_add_defer(loop, &puller->start, on_start, puller);
	if (r < 0)
		return r;
	(void)sd_event_source_set_enabled(puller->start, SD_EVENT_OFF);
	(void)sd_event_source_set_description(puller->start, "pulls");
	*ret = TAKE_PTR(puller);
	return 0;
}

struct puller *puller_free(struct puller *puller)
{
	if (!puller)
		return NULL;
	while (puller->jobs)
		job_free(puller->jobs);
	puller_forget_all(puller);
	sd_event_source_disable_unref(puller->start);
	sd_event_unref(puller->loop);
	free(puller);
	return NULL;
}

static bool same_job(const struct job *job, const struct pull_options *options)
{
	return !job->finished && job->options.local == options->local &&
	       strcmp(job->reference, options->reference) == 0 &&
	       (job->auth == options->auth || json_object_equal(job->auth, options->auth));
}

static int job_new(struct puller *puller, const struct pull_options *options, struct job **ret)
{
	struct job *job = calloc(1, sizeof(*job)), **end = &puller->jobs;

	if (!job)
		return -ENOMEM;
	job->puller = puller;
	job->options = *options;
	job->options.auth = NULL;
	job->options.reference = NULL;
	job->reference = strdup(options->reference);
	if (!job->reference ||
	    (options->auth && json_object_deep_copy(options->auth, &job->auth, NULL) < 0)) {
		free(job->reference);
		free(job);
		return -ENOMEM;
	}
	while (*end)
		end = &(*end)->next;
	*end = job;
	(void)sd_event_source_set_enabled(puller->start, SD_EVENT_ONESHOT);
	*ret = job;
	return 0;
}

int pull_start(struct puller *puller, const struct pull_options *options,
               const struct pull_ops *ops, void *userdata, struct pull **ret)
{
	struct pull *pull = calloc(1, sizeof(*pull));
	struct job *job;
	int r;

	if (!pull)
		return -ENOMEM;
	pull->ops = *ops;
	pull->userdata = userdata;

	for (job = puller->jobs; job && !same_job(job, options); job = job->next)
		;
	if (!job) {
		r = job_new(puller, options, &job);
		if (r < 0) {
			free(pull);
			return r;
		}
	}
	pull->job = job;
	pull->next = job->pulls;
	job->pulls = pull;
	*ret = pull;
	if (job->conn && ops->started)
		ops->started(userdata);
	if (job->digest && ops->resolved)
		ops->resolved(job->digest, userdata);
	return 0;
}

struct pull *pull_free(struct pull *pull)
{
	struct job *job;

	if (!pull)
		return NULL;
	job = pull->job;
	if (job) {
		for (struct pull **p = &job->pulls; *p; p = &(*p)->next)
			if (*p == pull) {
				*p = pull->next;
				break;
			}
		if (!job->pulls && !job->reporting)
			job_free(job); /* closing the connection cancels it */
	}
	free(pull);
	return NULL;
}
