/* One function for each family of paths, tried in order; each says whether the path is its own. */
#include "iam-creds/route.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/json.h"
#include "lib/log.h"

void answer_done(struct answer *answer)
{
	answer->body = body_unref(answer->body);
}

static int answer_bytes(struct answer *a, unsigned status, enum answer_type type, const char *text)
{
	a->status = status;
	a->type = type;
	a->body = body_new(text, strlen(text));
	return a->body ? 0 : -ENOMEM;
}

static int answer_body(struct answer *a, struct body *body)
{
	a->status = 200;
	a->type = ANSWER_JSON;
	a->body = body_ref(body);
	return 0;
}

/* The error is one JSON string. */
static int answer_string(struct answer *a, unsigned status, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
static int answer_string(struct answer *a, unsigned status, const char *fmt, ...)
{
	_cleanup_json_ struct json_object *string = NULL;
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	string = json_object_new_string(text);
	if (!string)
		return -ENOMEM;
	return answer_bytes(a, status, ANSWER_JSON, json_to_text(string, NULL));
}

static int answer_not_found(struct answer *a)
{
	return answer_bytes(a, 404, ANSWER_TEXT, "404 page not found\n");
}

static bool starts_with(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* What a request is told while ecs-agent has not sent everything again after a restart. */
static int answer_not_yet(struct answer *a)
{
	a->not_yet = true;
	return answer_string(a, 503, "metadata is not available yet, try again");
}

/* Credentials */

static int credentials_error(struct answer *a, int version, unsigned status, const char *code,
                             const char *message)
{
	char text[256];

	snprintf(text, sizeof(text),
	         "{\"code\":\"%s\",\"message\":\"CredentialsV%dRequest: %s\",\"HTTPErrorCode\":%u}",
	         code, version, message, status);
	return answer_bytes(a, status, ANSWER_JSON, text);
}

/* What the answer depends on comes first: the last question searches. */
static bool is_for_host(const struct credentials *c, const struct route_config *config,
                        uint64_t root_cgroup_id)
{
	struct err err = {0};
	int r;

	if (!c->for_mounts || c->task->released || root_cgroup_id == 0 || !config->host)
		return false;
	r = host_cgroups_has(config->host, root_cgroup_id, &err);
	if (r < 0)
		log_warning(NULL, 0, "mount.efs does not get the role of task %s: %s", c->task->id,
		            err.text);
	return r > 0;
}

static const struct credentials *find_own(const struct store *store,
                                          const struct route_config *config,
                                          const struct route_request *request, const char *id)
{
	const struct credentials *c = store_find_credentials(store, id);
	const struct container *container = request->container;

	if (!c)
		return NULL;
	if (!container)
		return is_for_host(c, config, request->root_cgroup_id) ? c : NULL;
	return c->task == container->task && !c->task->released ? c : NULL;
}

static int answer_credentials(const struct store *store, const struct route_config *config,
                              const struct route_request *request, int version, const char *id,
                              struct answer *a)
{
	if (!id || id[0] == '\0')
		return credentials_error(a, version, 400, "NoIdInRequest",
		                         "No Credential ID in the request");
	a->credentials = find_own(store, config, request, id);
	a->not_yet = !a->credentials && !store_is_complete(store);
	if (a->not_yet)
		return credentials_error(a, version, 503, "CredentialsUninitialized",
		                         "Credentials uninitialized for ID");
	if (!a->credentials)
		return credentials_error(a, version, 400, "InvalidIdInRequest",
		                         "Credentials not found");
	if (a->credentials->expiration_realtime_usec <= request->now_realtime_usec)
		return credentials_error(a, version, 503, "CredentialsExpired",
		                         "Credentials expired");
	return answer_body(a, a->credentials->body);
}

#define V1_PATH "/v1/credentials"
#define V2_PATH "/v2/credentials"

/* Whether the path is one for credentials; *id may be NULL. */
static bool is_credentials_path(const struct route_request *request, int *version, const char **id)
{
	const char *path = request->path;

	if (strcmp(path, V1_PATH) == 0) {
		*version = 1;
		*id = request->id_argument;
		return true;
	}
	if (!starts_with(path, V2_PATH) ||
	    (path[strlen(V2_PATH)] != '\0' && path[strlen(V2_PATH)] != '/'))
		return false;
	*version = 2;
	*id = path[strlen(V2_PATH)] == '/' ? path + strlen(V2_PATH) + 1 : NULL;
	return true;
}

/* Documents that are not there: each family has words of its own */

/* "/v4/<id>/<rest>" taken apart; rest is "" for the container itself. */
struct endpoint_path {
	int version;
	char id[STORE_ID_MAX + 1];
	const char *rest;
};

static bool parse_endpoint_path(const char *path, struct endpoint_path *ret)
{
	size_t n;

	if (!starts_with(path, "/v3/") && !starts_with(path, "/v4/"))
		return false;
	ret->version = path[2] - '0';
	path += strlen("/v4/");
	n = strcspn(path, "/");
	if (n == 0 || n > STORE_ID_MAX)
		return false;
	memcpy(ret->id, path, n);
	ret->id[n] = '\0';
	ret->rest = path[n] == '/' ? path + n + 1 : "";
	return path[n] != '/' || ret->rest[0] != '\0';
}

enum subject {
	SUBJECT_CONTAINER,
	SUBJECT_TASK
};

/* The paths below an endpoint id and what they are about. */
static const struct endpoint_kind {
	const char *rest;
	enum subject subject;
	const char *handler; /* in the words of the errors */
	bool is_stats;
} endpoint_kinds[] = {
	{"", SUBJECT_CONTAINER, "container metadata", false},
	{"task", SUBJECT_TASK, "task metadata", false},
	{"taskWithTags", SUBJECT_TASK, "task metadata", false},
	{"stats", SUBJECT_CONTAINER, "container stats", true},
	{"task/stats", SUBJECT_TASK, "task stats", true},
};

static const struct endpoint_kind *find_endpoint_kind(const char *rest)
{
	for (size_t i = 0; i < ARRAY_SIZE(endpoint_kinds); i++)
		if (strcmp(endpoint_kinds[i].rest, rest) == 0)
			return &endpoint_kinds[i];
	return NULL;
}

/* Does the task that asks have a container with this endpoint id. */
static bool knows_endpoint(const struct task *task, const struct endpoint_path *path)
{
	char root[STORE_ID_MAX + 8];

	snprintf(root, sizeof(root), "/v%d/%s", path->version, path->id);
	return task && task_find_document(task, root);
}

static int answer_unknown_endpoint(struct answer *a, const struct endpoint_path *path,
                                   const char *handler, enum subject subject, unsigned status)
{
	const char *what = subject == SUBJECT_TASK ? "task arn" : "container ID";
	const char *whose = subject == SUBJECT_TASK ? "task Arn" : "docker ID";

	return answer_string(
		a, status,
		"V%d %s handler: unable to get %s from request: unable to get %s from v3 endpoint ID: %s",
		path->version, handler, what, whose, path->id);
}

/* associations/<type>[/<name>] of an endpoint. */
static int answer_association(struct answer *a, const struct endpoint_path *path, bool known)
{
	const char *type = path->rest + strlen("associations/"), *slash = strchr(type, '/');

	if (!known)
		return answer_unknown_endpoint(
			a, path, slash ? "container association" : "container associations",
			SUBJECT_CONTAINER, 400);
	if (!slash)
		return answer_bytes(a, 200, ANSWER_JSON, "{\"Associations\":null}");
	return answer_string(
		a, 400,
		"Unable to write container association response: unable to get association from association type %.*s and association name %s",
		(int)(slash - type), type, slash + 1);
}

/* v3 tells an unknown id as its server's failure (metadata) or the client's (the rest). */
static unsigned unknown_endpoint_status(int version, bool is_stats)
{
	return version == 4 ? 404 : is_stats ? 400 : 500;
}

static int answer_endpoint(const struct task *task, const struct endpoint_path *path,
                           struct answer *a)
{
	bool known = knows_endpoint(task, path);
	const struct endpoint_kind *kind = find_endpoint_kind(path->rest);

	if (starts_with(path->rest, "associations/") && path->rest[strlen("associations/")] != '\0')
		return answer_association(a, path, known);
	if (!kind)
		return answer_not_found(a);
	if (!known)
		return answer_unknown_endpoint(
			a, path, kind->handler, kind->subject,
			unknown_endpoint_status(path->version, kind->is_stats));
	if (kind->is_stats)
		return answer_string(a, 500, "Unable to get %s stats for: %s",
		                     kind->subject == SUBJECT_TASK ? "task" : "container",
		                     path->id);
	return answer_string(a, 500, "Unable to generate metadata for v%d %s: '%s'", path->version,
	                     kind->subject == SUBJECT_TASK ? "task" : "container", path->id);
}

/* v2 knew its callers by address; here the socket tells, but the words are kept. */
static int answer_v2(const struct task *task, const char *path, struct answer *a)
{
	bool known = task && (task_find_document(task, "/v2/metadata") ||
	                      task_find_document(task, "/v2/metadata/"));
	const char *id;

	if (!known)
		return answer_string(
			a, 400,
			"Unable to get task arn from request: unable to associate '169.254.170.2' with task");
	id = strchr(path + strlen("/v2/"), '/');
	id = id ? id + 1 : "";
	if (starts_with(path, "/v2/stats"))
		return answer_string(a, 400, "Unable to get container stats for: %s", id);
	return answer_string(a, 400, "Unable to generate metadata for container '%s'", id);
}

static bool is_v2_path(const char *path)
{
	return strcmp(path, "/v2/metadata") == 0 || starts_with(path, "/v2/metadata/") ||
	       strcmp(path, "/v2/metadataWithTags") == 0 ||
	       strcmp(path, "/v2/metadataWithTags/") == 0 || strcmp(path, "/v2/stats") == 0 ||
	       starts_with(path, "/v2/stats/");
}

static int answer_metadata(const struct store *store, const struct route_request *request,
                           struct answer *a)
{
	const struct task *task = request->container && !request->container->task->released
	                                  ? request->container->task
	                                  : NULL;
	struct body *document = task ? task_find_document(task, request->path) : NULL;
	struct endpoint_path endpoint;
	bool is_endpoint = parse_endpoint_path(request->path, &endpoint);

	if (document)
		return answer_body(a, document);
	if (!is_endpoint && !is_v2_path(request->path))
		return answer_not_found(a);
	if (!store_is_complete(store))
		return answer_not_yet(a);
	return is_endpoint ? answer_endpoint(task, &endpoint, a)
	                   : answer_v2(task, request->path, a);
}

/* Rate limits */

static unsigned hash_path(const char *path)
{
	unsigned hash = 2166136261u; /* FNV-1a */

	for (; *path; path++)
		hash = (hash ^ (unsigned char)*path) * 16777619u;
	return hash;
}

static int answer_limited(struct answer *a)
{
	a->limited = true;
	return answer_bytes(a, 429, ANSWER_TEXT, "You have reached maximum request limit.");
}

int route_answer(const struct store *store, const struct route_config *config,
                 struct container *strangers, const struct route_request *request,
                 struct answer *ret)
{
	struct container *asking = request->container ? request->container : strangers;
	struct answer a = {0};
	const char *id = NULL;
	int version = 0, r;

	if (is_credentials_path(request, &version, &id)) {
		a.audit_path = version == 1 ? V1_PATH : V2_PATH;
		if (request->is_repeated || bucket_take(&asking->task->credentials_bucket,
		                                        &config->credentials, request->now_usec))
			r = answer_credentials(store, config, request, version, id, &a);
		else
			r = answer_limited(&a);
	} else if (request->is_repeated ||
	           bucket_take(&asking->buckets[hash_path(request->path) % CONTAINER_BUCKETS],
	                       &config->metadata, request->now_usec)) {
		r = answer_metadata(store, request, &a);
	} else {
		r = answer_limited(&a);
	}
	if (r < 0)
		return r;
	*ret = a;
	return 0;
}

/* One segment of a path, n bytes at text, put behind those that are in out. */
static size_t add_segment(char *out, size_t len, const char *text, size_t n)
{
	if (n == 0 || (n == 1 && text[0] == '.'))
		return len;
	if (n == 2 && text[0] == '.' && text[1] == '.') {
		while (len > 0 && out[--len] != '/')
			;
		return len;
	}
	out[len++] = '/';
	memcpy(out + len, text, n);
	return len + n;
}

char *route_clean_target(const char *target)
{
	size_t path_len = strcspn(target, "?"), len = 0;
	char *out = malloc(strlen(target) + 3);

	if (!out)
		return NULL;
	for (size_t i = 0; i < path_len;) {
		size_t n = strcspn(target + i, "/?");

		len = add_segment(out, len, target + i, n);
		i += n + 1;
	}
	/* The last slash stays, as a directory's. */
	if (len == 0 || target[path_len - 1] == '/')
		out[len++] = '/';
	if (len == path_len && memcmp(out, target, len) == 0) {
		free(out);
		return NULL;
	}
	memcpy(out + len, target + path_len, strlen(target + path_len) + 1);
	return out;
}
