/*
 * Plain arrays: the largest host has some hundred tasks, and a request looks no further than the
 * credentials and documents of the task it came from.
 */
#include "iam-creds/store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "iam-creds/rfc3339.h"
#include "lib/json.h"
#include "lib/secret.h"

struct store {
	bool complete;
	struct task *tasks[STORE_TASKS_MAX];
	size_t n_tasks, documents_bytes;
	uint64_t last_ended;
	struct credentials *credentials[STORE_CREDENTIALS_MAX]; /* sorted by id */
	size_t n_credentials;
};

static const char *const role_types[_ROLE_MAX] = {
	[ROLE_TASK_APPLICATION] = "TaskApplication",
	[ROLE_TASK_EXECUTION] = "TaskExecution",
	[ROLE_INSTANCE] = "Instance",
};

const char *role_type_to_string(enum role_type type)
{
	return role_types[type];
}

int role_type_from_string(const char *text, enum role_type *ret)
{
	for (int i = 0; i < _ROLE_MAX; i++)
		if (strcmp(role_types[i], text) == 0) {
			*ret = (enum role_type)i;
			return 0;
		}
	return -EINVAL;
}

int store_new(struct store **ret)
{
	*ret = calloc(1, sizeof(**ret));
	return *ret ? 0 : -ENOMEM;
}

void store_set_complete(struct store *store)
{
	store->complete = true;
}

bool store_is_complete(const struct store *store)
{
	return store->complete;
}

/* Ids and names go into log lines and error texts, never into paths. */
static int check_name(const char *what, const char *text, struct err *err)
{
	size_t n = strlen(text);

	if (n < 1 || n > STORE_ID_MAX)
		return err_text(err, -EINVAL, "%s must have 1 to %d bytes, not %zu", what,
		                STORE_ID_MAX, n);
	for (size_t i = 0; i < n; i++)
		if (text[i] <= ' ' || text[i] == 0x7f || text[i] == '"' || text[i] == '\\')
			return err_text(err, -EINVAL,
			                "%s must be printable ASCII without blanks or quotes",
			                what);
	return 0;
}

static void documents_free(struct document *documents, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		free(documents[i].path);
		body_unref(documents[i].body);
	}
	free(documents);
}

struct task *task_ref(struct task *task)
{
	if (task)
		task->refs++;
	return task;
}

struct task *task_unref(struct task *task)
{
	if (task && --task->refs == 0) {
		documents_free(task->documents, task->n_documents);
		free(task->id);
		free(task);
	}
	return NULL;
}
DEFINE_CLEANUP(struct task *, task_unref)

struct container *container_ref(struct container *container)
{
	if (container)
		container->refs++;
	return container;
}

struct container *container_unref(struct container *container)
{
	if (container && --container->refs == 0) {
		task_unref(container->task);
		free(container->name);
		free(container);
	}
	return NULL;
}

static struct credentials *credentials_free(struct credentials *c)
{
	if (c) {
		free(c->id);
		free(c->task_arn);
		task_unref(c->task);
		body_unref(c->body);
		free(c);
	}
	return NULL;
}
DEFINE_CLEANUP(struct credentials *, credentials_free)

struct task *store_find_task(const struct store *store, const char *id)
{
	for (size_t i = 0; i < store->n_tasks; i++)
		if (strcmp(store->tasks[i]->id, id) == 0)
			return store->tasks[i];
	return NULL;
}

struct task *store_task_at(const struct store *store, size_t i)
{
	return i < store->n_tasks ? store->tasks[i] : NULL;
}

const struct credentials *store_credentials_at(const struct store *store, size_t i)
{
	return i < store->n_credentials ? store->credentials[i] : NULL;
}

/* Where the credentials of this id are, or would be. */
static size_t find_place(const struct store *store, const char *id, bool *ret_found)
{
	size_t low = 0, high = store->n_credentials;

	*ret_found = false;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int order = strcmp(store->credentials[middle]->id, id);

		if (order == 0) {
			*ret_found = true;
			return middle;
		}
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

const struct credentials *store_find_credentials(const struct store *store, const char *id)
{
	bool found;
	size_t i = find_place(store, id, &found);

	return found ? store->credentials[i] : NULL;
}

struct container *store_find_cgroup(const struct store *store, uint64_t cgroup_id)
{
	for (size_t i = 0; i < store->n_tasks; i++) {
		const struct task *task = store->tasks[i];

		for (size_t k = 0; k < task->n_containers; k++)
			if (cgroup_id != 0 && task->containers[k]->cgroup_id == cgroup_id)
				return task->containers[k];
	}
	return NULL;
}

static void forget_task(struct store *store, struct task *task, bool all);

static int task_new(const char *id, struct task **ret)
{
	_cleanup_(task_unrefp) struct task *task = calloc(1, sizeof(*task));

	if (!task)
		return -ENOMEM;
	task->refs = 1;
	task->id = strdup(id);
	if (!task->id)
		return -ENOMEM;
	*ret = TAKE_PTR(task);
	return 0;
}

/* Thousands of tasks may end before their logs have to be delivered; false: none has ended. */
static bool forget_first_ended(struct store *store)
{
	struct task *first = NULL;

	for (size_t i = 0; i < store->n_tasks; i++)
		if (store->tasks[i]->ended > 0 && (!first || store->tasks[i]->ended < first->ended))
			first = store->tasks[i];
	if (first)
		forget_task(store, first, true);
	return first != NULL;
}

static int get_task(struct store *store, const char *id, struct task **ret, struct err *err)
{
	struct task *task = store_find_task(store, id);
	int r;

	if (!task) {
		r = check_name("task id", id, err);
		if (r < 0)
			return r;
		if (store->n_tasks == STORE_TASKS_MAX && !forget_first_ended(store))
			return err_text(err, -ENOSPC, "there are %d tasks already",
			                STORE_TASKS_MAX);
		if (task_new(id, &task) < 0)
			return err_oom(err);
		store->tasks[store->n_tasks++] = task;
	}
	*ret = task;
	return 0;
}

static struct container *container_new(struct task *task, const char *name)
{
	_cleanup_(container_unrefp) struct container *container = calloc(1, sizeof(*container));

	if (!container)
		return NULL;
	container->refs = 1;
	container->task = task_ref(task);
	container->name = strdup(name);
	if (!container->name)
		return NULL;
	return TAKE_PTR(container);
}

int store_get_container(struct store *store, const char *task_id, const char *name,
                        struct container **ret, struct err *err)
{
	struct container *container;
	struct task *task;
	int r;

	r = check_name("container name", name, err);
	if (r == 0)
		r = get_task(store, task_id, &task, err);
	if (r < 0)
		return r;

	for (size_t i = 0; i < task->n_containers; i++)
		if (strcmp(task->containers[i]->name, name) == 0) {
			*ret = task->containers[i];
			return 0;
		}
	if (task->n_containers == STORE_CONTAINERS_MAX)
		return err_text(err, -ENOSPC, "task %s has %d containers already", task_id,
		                STORE_CONTAINERS_MAX);
	container = container_new(task, name);
	if (!container)
		return err_oom(err);
	task->containers[task->n_containers++] = container;
	*ret = container;
	return 0;
}

int store_set_cgroup(struct store *store, struct container *container, uint64_t cgroup_id,
                     struct err *err)
{
	struct container *other = store_find_cgroup(store, cgroup_id);

	if (cgroup_id == 0)
		return err_text(err, -EINVAL, "cgroupId must not be 0");
	if (other)
		other->cgroup_id = 0; /* a cgroup is one container's: the newest word counts */
	container->cgroup_id = cgroup_id;
	return 0;
}

static int compare_documents(const void *a, const void *b)
{
	return strcmp(((const struct document *)a)->path, ((const struct document *)b)->path);
}

struct body *task_find_document(const struct task *task, const char *path)
{
	const struct document key = {.path = (char *)path};
	const struct document *found;

	if (task->n_documents == 0)
		return NULL;
	found = bsearch(&key, task->documents, task->n_documents, sizeof(key), compare_documents);
	return found ? found->body : NULL;
}

/* The documents of one message, on their way into a task. */
struct documents {
	struct document *list;
	size_t n, bytes;
};

static void documents_done(struct documents *d)
{
	documents_free(d->list, d->n);
}

static int add_document(struct documents *d, const char *path, struct json_object *value,
                        struct err *err)
{
	struct document *document = &d->list[d->n];
	const char *text;
	size_t len;

	if (path[0] != '/' || strlen(path) > 1024)
		return err_text(
			err, -EINVAL,
			"document path \"%.64s\" must start with '/' and have at most 1024 bytes",
			path);
	text = value ? json_to_text(value, &len) : "null";
	if (!text)
		return err_oom(err);
	if (!value)
		len = 4;
	d->n++;
	document->path = strdup(path);
	document->body = body_new(text, len);
	if (!document->path || !document->body)
		return err_oom(err);
	d->bytes += len;
	return 0;
}

static int build_documents(struct json_object *object, struct documents *d, struct err *err)
{
	size_t n = (size_t)json_object_object_length(object);

	if (n > STORE_DOCUMENTS_MAX)
		return err_text(err, -ENOSPC, "%zu documents of a task are more than %d", n,
		                STORE_DOCUMENTS_MAX);
	d->list = calloc(n ? n : 1, sizeof(*d->list));
	if (!d->list)
		return err_oom(err);

	json_object_object_foreach (object, path, value) {
		int r = add_document(d, path, value, err);

		if (r < 0)
			return r;
	}
	if (d->bytes > STORE_DOCUMENT_BYTES_MAX)
		return err_text(err, -ENOSPC,
		                "documents of %zu bytes are more than the %d of a task", d->bytes,
		                STORE_DOCUMENT_BYTES_MAX);
	qsort(d->list, d->n, sizeof(*d->list), compare_documents);
	return 0;
}

int store_set_documents(struct store *store, const char *task_id, struct json_object *documents,
                        struct err *err)
{
	_cleanup_(documents_done) struct documents d = {0};
	struct task *task;
	int r;

	r = build_documents(documents, &d, err);
	if (r == 0)
		r = get_task(store, task_id, &task, err);
	if (r < 0)
		return r;
	if (store->documents_bytes - task->documents_bytes + d.bytes > STORE_DOCUMENTS_BYTES_MAX)
		return err_text(err, -ENOSPC, "the documents of all tasks have reached %d bytes",
		                STORE_DOCUMENTS_BYTES_MAX);

	store->documents_bytes += d.bytes - task->documents_bytes;
	documents_free(task->documents, task->n_documents);
	task->documents = d.list;
	task->n_documents = d.n;
	task->documents_bytes = d.bytes;
	d = (struct documents){0};
	return 0;
}

/* Appends text as a JSON string, by hand: json-c would leave copies of it in freed memory. */
static char *append_json(char *at, const char *text)
{
	static const char hex[] = "0123456789abcdef";

	*at++ = '"';
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;

		if (c == '"' || c == '\\') {
			*at++ = '\\';
			*at++ = (char)c;
		} else if (c < 0x20) {
			memcpy(at, "\\u00", 4);
			at += 4;
			*at++ = hex[c >> 4];
			*at++ = hex[c & 15];
		} else {
			*at++ = (char)c;
		}
	}
	*at++ = '"';
	return at;
}

/* {"RoleArn":..,"AccessKeyId":..,"SecretAccessKey":..,"Token":..,"Expiration":..} */
static int build_body(const struct credentials_input *in, struct body **ret)
{
	const struct {
		const char *name, *value;
	} members[] = {{"RoleArn", in->role_arn},
	               {"AccessKeyId", in->access_key_id},
	               {"SecretAccessKey", in->secret_access_key},
	               {"Token", in->session_token},
	               {"Expiration", in->expiration}};
	size_t room = 2;
	char *text, *at;

	for (size_t i = 0; i < ARRAY_SIZE(members); i++)
		room += 2 * strlen(members[i].name) + 6 * strlen(members[i].value) + 8;
	text = malloc(room);
	if (!text)
		return -ENOMEM;

	at = text;
	for (size_t i = 0; i < ARRAY_SIZE(members); i++) {
		*at++ = i == 0 ? '{' : ',';
		at = append_json(at, members[i].name);
		*at++ = ':';
		at = append_json(at, members[i].value);
	}
	*at++ = '}';
	*ret = body_new(text, (size_t)(at - text));
	explicit_bzero(text, room);
	free(text);
	return *ret ? 0 : -ENOMEM;
}

static int check_input(const struct credentials_input *in, struct err *err)
{
	const struct {
		const char *name, *value;
	} members[] = {{"roleArn", in->role_arn},
	               {"accessKeyId", in->access_key_id},
	               {"secretAccessKey", in->secret_access_key},
	               {"sessionToken", in->session_token},
	               {"taskArn", in->task_arn ? in->task_arn : ""}};
	int r;

	r = check_name("credentialsId", in->id, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < ARRAY_SIZE(members); i++)
		if (strlen(members[i].value) > STORE_VALUE_MAX)
			return err_text(err, -EINVAL, "%s is longer than %d bytes", members[i].name,
			                STORE_VALUE_MAX);
	if (in->access_key_id[0] == '\0' || in->secret_access_key[0] == '\0')
		return err_text(err, -EINVAL, "accessKeyId and secretAccessKey must not be empty");
	if ((in->role_type == ROLE_INSTANCE) != (in->task_id == NULL))
		return err_text(err, -EINVAL,
		                "taskId must be given for roles of tasks, and for no other");
	if (in->for_mounts && in->role_type != ROLE_TASK_APPLICATION)
		return err_text(err, -EINVAL,
		                "forMounts may be true for roleType TaskApplication only, not %s",
		                role_type_to_string(in->role_type));
	return 0;
}

static int credentials_new(struct store *store, const struct credentials_input *in,
                           struct credentials **ret, struct err *err)
{
	_cleanup_(credentials_freep) struct credentials *c = NULL;
	struct task *task = NULL;
	uint64_t expiration;
	int r;

	if (rfc3339_parse(in->expiration, &expiration) < 0)
		return err_text(err, -EINVAL, "expiration \"%.40s\" is no time as in RFC 3339",
		                in->expiration);
	if (in->task_id) {
		r = get_task(store, in->task_id, &task, err);
		if (r < 0)
			return r;
	}
	c = calloc(1, sizeof(*c));
	if (!c)
		return err_oom(err);
	c->task = task_ref(task);
	c->role_type = in->role_type;
	c->expiration_realtime_usec = expiration;
	c->for_mounts = in->for_mounts;
	c->id = strdup(in->id);
	c->task_arn = strdup(in->task_arn ? in->task_arn : "");
	if (!c->id || !c->task_arn || build_body(in, &c->body) < 0)
		return err_oom(err);
	*ret = TAKE_PTR(c);
	return 0;
}

int store_put_credentials(struct store *store, const struct credentials_input *input,
                          struct err *err)
{
	struct credentials *c = NULL, **place;
	bool found;
	int r;

	r = check_input(input, err);
	if (r < 0)
		return r;
	(void)find_place(store, input->id, &found);
	if (!found && store->n_credentials == STORE_CREDENTIALS_MAX)
		return err_text(err, -ENOSPC, "there are %d credentials already",
		                STORE_CREDENTIALS_MAX);
	r = credentials_new(store, input, &c, err);
	if (r < 0)
		return r;
	/* Only now, since others may have gone to make room. */
	place = &store->credentials[find_place(store, input->id, &found)];
	if (found) {
		credentials_free(*place);
	} else {
		memmove(place + 1, place,
		        (size_t)(store->credentials + store->n_credentials - place) *
		                sizeof(*place));
		store->n_credentials++;
	}
	*place = c;
	return 0;
}

static void wipe_member(struct json_object *object, const char *name)
{
	struct json_object *value = json_get(object, name);

	if (value && json_object_is_type(value, json_type_string))
		explicit_bzero((char *)json_object_get_string(value),
		               (size_t)json_object_get_string_len(value));
}

void credentials_wipe_json(struct json_object *object)
{
	static const char *const names[] = {"secretAccessKey", "sessionToken", "SecretAccessKey",
	                                    "Token"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		wipe_member(object, names[i]);
}

int store_put_credentials_body(struct store *store, const struct credentials_input *input,
                               const char *body, size_t len, struct err *err)
{
	_cleanup_json_ struct json_object *values = NULL;
	struct credentials_input in = *input;
	const struct {
		const char *name, **value;
	} members[] = {{"RoleArn", &in.role_arn},
	               {"AccessKeyId", &in.access_key_id},
	               {"SecretAccessKey", &in.secret_access_key},
	               {"Token", &in.session_token},
	               {"Expiration", &in.expiration}};
	int r;

	r = json_parse_object(body, len, len, &values, err);
	for (size_t i = 0; i < ARRAY_SIZE(members) && r == 0; i++)
		r = json_get_string(values, members[i].name, members[i].value, err);
	if (r == 0)
		r = store_put_credentials(store, &in, err);
	credentials_wipe_json(values);
	return r;
}

static void remove_credentials_at(struct store *store, size_t i)
{
	credentials_free(store->credentials[i]);
	store->n_credentials--;
	memmove(&store->credentials[i], &store->credentials[i + 1],
	        (store->n_credentials - i) * sizeof(store->credentials[0]));
}

int store_remove_credentials(struct store *store, const char *id, struct err *err)
{
	bool found;
	size_t i = find_place(store, id, &found);

	if (!found)
		return err_text(err, -ENOENT, "no credentials of this id");
	remove_credentials_at(store, i);
	return 0;
}

static void release_containers(struct task *task)
{
	for (size_t i = 0; i < task->n_containers; i++) {
		task->containers[i]->cgroup_id = 0;
		container_unref(task->containers[i]);
	}
	task->n_containers = 0;
}

static void forget_task(struct store *store, struct task *task, bool all)
{
	struct task *heir = NULL;
	bool kept = false;

	for (size_t i = store->n_credentials; i-- > 0;) {
		struct credentials *c = store->credentials[i];

		if (c->task != task)
			continue;
		if (all || c->role_type == ROLE_TASK_APPLICATION)
			remove_credentials_at(store, i);
		else
			kept = true;
	}

	/* Connections still hold the old object, which must answer nothing any more. What is kept
	 * (execution roles, for the logs) belongs to a new one of the same id. */
	if (kept && task_new(task->id, &heir) == 0) {
		heir->ended = ++store->last_ended;
		for (size_t i = 0; i < store->n_credentials; i++)
			if (store->credentials[i]->task == task) {
				task_unref(store->credentials[i]->task);
				store->credentials[i]->task = task_ref(heir);
			}
	}
	store->documents_bytes -= task->documents_bytes;
	release_containers(task);
	task->released = true;
	for (size_t i = 0; i < store->n_tasks; i++)
		if (store->tasks[i] == task)
			store->tasks[i] = heir ? heir : store->tasks[--store->n_tasks];
	task_unref(task);
}

void store_release(struct store *store, const char *task_id, bool all)
{
	struct task *task = store_find_task(store, task_id);

	if (task)
		forget_task(store, task, all);
}

struct store *store_free(struct store *store)
{
	if (!store)
		return NULL;
	while (store->n_credentials > 0)
		remove_credentials_at(store, store->n_credentials - 1);
	for (size_t i = 0; i < store->n_tasks; i++) {
		release_containers(store->tasks[i]);
		task_unref(store->tasks[i]);
	}
	free(store);
	return NULL;
}
