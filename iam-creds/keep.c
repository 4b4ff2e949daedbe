/* The three kinds of things that come back meet here: descriptors, their meaning, and the rest. */
#include "iam-creds/keep.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "iam-creds/snapshot.h"
#include "iam-creds/vault.h"
#include "lib/fd.h"
#include "lib/log.h"

#define NAME_MEMORY "memory"
#define NAME_AUDIT  "audit"

struct keep {
	struct keep_config config;
	struct vault *vault; /* NULL: there is nobody to keep it */
	struct fdstore_name memory_name, audit_name;
	sd_event_source *flush;
	bool is_behind, complained;
	void (*flushed)(void *userdata);
	void *flushed_userdata;
};

/* Writing */

static void add_endpoint(uint64_t cookie, const struct container *container, bool has_link,
                         void *userdata)
{
	struct snapshot *snapshot = userdata;

	snapshot_add_endpoint(snapshot, cookie, container, has_link);
}

static void add_cgroups(struct snapshot *snapshot, const struct task *task)
{
	for (size_t i = 0; i < task->n_containers; i++)
		if (task->containers[i]->cgroup_id != 0)
			snapshot_add_cgroup(snapshot, task->containers[i]);
}

static void write_vault(struct keep *keep)
{
	const struct keep_config *config = &keep->config;
	const struct bucket_rate *rate = http_rates(config->http);
	struct snapshot snapshot = {.bytes = vault_begin(keep->vault), .size = VAULT_BYTES_MAX};
	const struct snapshot_settings settings = {
		.requests_per_second = rate->per_second,
		.burst = rate->burst,
		.cluster = audit_cluster(config->audit),
		.instance_arn = audit_instance_arn(config->audit),
	};
	const struct credentials *c;
	const struct task *task;

	snapshot_add_settings(&snapshot, &settings);
	http_each_endpoint(config->http, add_endpoint, &snapshot);
	for (size_t i = 0; (task = store_task_at(config->store, i)); i++)
		add_cgroups(&snapshot, task);
	for (size_t i = 0; (c = store_credentials_at(config->store, i)); i++)
		snapshot_add_credentials(&snapshot, c);
	vault_commit(keep->vault, snapshot.len);

	if (snapshot.n_left_out > 0 && !keep->complained)
		log_warning(
			NULL, 0,
			"%zu credentials and endpoints of %d bytes and more would not survive a "
			"restart without ecs-agent",
			snapshot.n_left_out, VAULT_BYTES_MAX);
	keep->complained = snapshot.n_left_out > 0;
}

void keep_flush(struct keep *keep)
{
	if (!keep->is_behind)
		return;
	keep->is_behind = false;
	(void)sd_event_source_set_enabled(keep->flush, SD_EVENT_OFF);
	write_vault(keep);
	if (keep->flushed)
		keep->flushed(keep->flushed_userdata);
}

static int on_flush(sd_event_source *source, void *userdata)
{
	(void)source;
	keep_flush(userdata);
	return 0;
}

void keep_changed(struct keep *keep)
{
	if (!keep->vault)
		return;
	keep->is_behind = true;
	(void)sd_event_source_set_enabled(keep->flush, SD_EVENT_ONESHOT);
}

bool keep_is_behind(const struct keep *keep)
{
	return keep->is_behind;
}

void keep_on_flushed(struct keep *keep, void (*fn)(void *userdata), void *userdata)
{
	keep->flushed = fn;
	keep->flushed_userdata = userdata;
}

void keep_set_audit_file(struct keep *keep, int fd)
{
	fdstore_remove(keep->config.fdstore, &keep->audit_name);
	if (fd >= 0)
		fdstore_put(keep->config.fdstore, fd, NAME_AUDIT, &keep->audit_name);
	audit_set_file(keep->config.audit, fd);
}

/* Reading: first what the vault says, then the sockets, by what it says of them. */

struct known_endpoint {
	uint64_t cookie;
	struct container *container; /* a reference; NULL for the host */
	bool has_link;
};

struct restoration {
	struct keep *keep;
	struct known_endpoint *endpoints;
	size_t n_endpoints;
	size_t n_credentials, n_sockets, n_refused;
};

static void restoration_done(struct restoration *r)
{
	for (size_t i = 0; i < r->n_endpoints; i++)
		container_unref(r->endpoints[i].container);
	free(r->endpoints);
}

static void refuse(struct restoration *r, const char *what, const struct err *err)
{
	r->n_refused++;
	log_warning(NULL, 0, "%s of before the restart: %s", what, err->text);
}

static void restore_settings(const struct snapshot_settings *settings, void *userdata)
{
	struct restoration *r = userdata;
	const struct bucket_rate rate = {.per_second = settings->requests_per_second,
	                                 .burst = settings->burst};
	struct err err = {0};

	if (rate.per_second < 1 || rate.per_second > 1000000 || rate.burst < 1 ||
	    rate.burst > 1000000) {
		(void)err_text(&err, -EINVAL,
		               "%" PRIu64 " requests per second and a burst of %" PRIu64
		               " are not 1 to 1000000",
		               rate.per_second, rate.burst);
		refuse(r, "settings", &err);
		return;
	}
	http_set_rates(r->keep->config.http, &rate);
	if (audit_configure(r->keep->config.audit, settings->cluster, settings->instance_arn,
	                    &err) < 0)
		refuse(r, "settings", &err);
}

static void restore_credentials(const struct snapshot_credentials *c, void *userdata)
{
	struct restoration *r = userdata;
	const struct credentials_input input = {
		.id = c->id,
		.task_id = c->role_type == ROLE_INSTANCE ? NULL : c->task_id,
		.task_arn = c->role_type == ROLE_INSTANCE ? NULL : c->task_arn,
		.role_type = c->role_type,
		.for_mounts = c->for_mounts,
	};
	struct err err = {0};

	if (store_put_credentials_body(r->keep->config.store, &input, c->body, c->body_len, &err) <
	    0)
		refuse(r, "credentials", &err);
	else
		r->n_credentials++;
}

static void restore_cgroup(uint64_t id, const char *task_id, const char *name, void *userdata)
{
	struct restoration *r = userdata;
	struct container *container;
	struct err err = {0};

	if (store_get_container(r->keep->config.store, task_id, name, &container, &err) < 0 ||
	    store_set_cgroup(r->keep->config.store, container, id, &err) < 0)
		refuse(r, "cgroup of a container", &err);
}

static void note_endpoint(uint64_t cookie, const char *task_id, const char *name, void *userdata)
{
	struct restoration *r = userdata;
	struct known_endpoint *known = &r->endpoints[r->n_endpoints];
	struct container *container = NULL;
	bool is_host = task_id[0] == '\0';
	struct err err = {0};

	if (r->n_endpoints == FDSTORE_MAX)
		(void)err_text(&err, -ENOSPC, "there are more than %d", FDSTORE_MAX);
	else if (!is_host)
		(void)store_get_container(r->keep->config.store, task_id, name, &container, &err);
	if (err.text[0] != '\0') {
		refuse(r, "endpoint", &err);
		return;
	}
	*known = (struct known_endpoint){.cookie = cookie,
	                                 .container = container_ref(container),
	                                 .has_link =
	                                         is_host && strcmp(name, SNAPSHOT_HOST_LINK) == 0};
	r->n_endpoints++;
}

static int compare_endpoints(const void *a, const void *b)
{
	const struct known_endpoint *x = a, *y = b;

	return x->cookie < y->cookie ? -1 : x->cookie > y->cookie;
}

static void read_vault(struct restoration *r)
{
	static const struct snapshot_handlers handlers = {
		.settings = restore_settings,
		.credentials = restore_credentials,
		.endpoint = note_endpoint,
		.cgroup = restore_cgroup,
	};
	struct err err = {0};
	const void *bytes;
	size_t len;

	bytes = vault_bytes(r->keep->vault, &len);
	if (snapshot_read(bytes, len, &handlers, r, &err) < 0)
		refuse(r, "memory", &err);
	qsort(r->endpoints, r->n_endpoints, sizeof(*r->endpoints), compare_endpoints);
}

static const struct known_endpoint *find_endpoint(const struct restoration *r, uint64_t cookie)
{
	const struct known_endpoint key = {.cookie = cookie};

	return bsearch(&key, r->endpoints, r->n_endpoints, sizeof(key), compare_endpoints);
}

/* Takes what is in endpoint, or gives it up. */
static void restore_endpoint(struct restoration *r, struct http_endpoint *endpoint)
{
	struct fdstore *fdstore = r->keep->config.fdstore;
	struct fdstore_name name = endpoint->name, link_name = endpoint->link_name;
	const struct known_endpoint *known = NULL;
	struct err err = {0};
	int result;

	result = http_check_socket(endpoint->fd, &endpoint->cookie, &err);
	if (result == 0) {
		known = find_endpoint(r, endpoint->cookie);
		if (!known || known->has_link != (endpoint->link_fd >= 0))
			result = err_text(&err, -ENOENT, "it is not known whose this socket is");
	}
	if (result == 0) {
		result = http_restore(r->keep->config.http, known->container, endpoint, &err);
	} else {
		fd_close(endpoint->fd);
		fd_close(endpoint->link_fd);
	}
	if (result < 0) {
		refuse(r, "endpoint", &err);
		fdstore_remove(fdstore, &name);
		fdstore_remove(fdstore, &link_name);
	} else {
		r->n_sockets++;
	}
}

static void restore_host(struct restoration *r)
{
	struct fdstore *fdstore = r->keep->config.fdstore;
	struct http_endpoint endpoint = {0};

	endpoint.link_fd = fdstore_take_named(fdstore, HTTP_NAME_LINK, &endpoint.link_name);
	endpoint.fd = fdstore_take_named(fdstore, HTTP_NAME_HOST, &endpoint.name);
	if (endpoint.fd >= 0) {
		restore_endpoint(r, &endpoint);
	} else if (endpoint.link_fd >= 0) {
		fd_close(endpoint.link_fd);
		fdstore_remove(fdstore, &endpoint.link_name);
	}
}

/* A file or a device that is open for appending. */
static bool is_audit_file(int fd)
{
	struct stat st;
	int flags = fcntl(fd, F_GETFL);

	return flags >= 0 && (flags & O_ACCMODE) == O_WRONLY && (flags & O_APPEND) &&
	       fstat(fd, &st) == 0 && (S_ISREG(st.st_mode) || S_ISCHR(st.st_mode));
}

static void restore_audit_file(struct keep *keep)
{
	int fd = fdstore_take_named(keep->config.fdstore, NAME_AUDIT, &keep->audit_name);

	if (fd < 0)
		return;
	if (is_audit_file(fd)) {
		audit_set_file(keep->config.audit, fd);
		return;
	}
	log_warning(NULL, 0, "audit log of before the restart: it is not open for appending");
	fd_close(fd);
	fdstore_remove(keep->config.fdstore, &keep->audit_name);
}

static int restore(struct keep *keep, struct err *err)
{
	_cleanup_(restoration_done) struct restoration r = {.keep = keep};
	struct http_endpoint endpoint = {.link_fd = -EBADF};

	r.endpoints = calloc(FDSTORE_MAX, sizeof(*r.endpoints));
	if (!r.endpoints)
		return err_oom(err);
	if (keep->vault)
		read_vault(&r);
	restore_audit_file(keep);
	restore_host(&r);
	while ((endpoint.fd = fdstore_take(keep->config.fdstore, &endpoint.name)) >= 0)
		restore_endpoint(&r, &endpoint);
	if (r.n_credentials + r.n_sockets + r.n_refused > 0)
		log_info(NULL, "after a restart: %zu credentials, %zu of %zu endpoints",
		         r.n_credentials, r.n_sockets, r.n_endpoints);
	return 0;
}

/* The vault that came back, else a new one. */
static int get_vault(struct keep *keep, struct err *err)
{
	struct fdstore *fdstore = keep->config.fdstore;
	struct err damaged = {0};
	int fd, r;

	fd = fdstore_take_named(fdstore, NAME_MEMORY, &keep->memory_name);
	if (fd >= 0) {
		if (vault_open(fd, &keep->vault, &damaged) == 0)
			return 0;
		log_warning(NULL, 0, "memory of before the restart: %s", damaged.text);
		fdstore_remove(fdstore, &keep->memory_name);
	}
	if (!fdstore_is_there(fdstore))
		return 0;
	r = vault_create(&keep->vault, err);
	if (r < 0)
		return r;
	fdstore_put(fdstore, vault_fd(keep->vault), NAME_MEMORY, &keep->memory_name);
	return 0;
}

int keep_new(const struct keep_config *config, struct keep **ret, struct err *err)
{
	_cleanup_(keep_freep) struct keep *keep = calloc(1, sizeof(*keep));
	int r;

	if (!keep)
		return err_oom(err);
	keep->config = *config;
	r = sd_event_add_defer(config->loop, &keep->flush, on_flush, keep);
	if (r >= 0)
		r = sd_event_source_set_enabled(keep->flush, SD_EVENT_OFF);
	/* Before anything else, so that what was done in this turn is not done in vain. */
	if (r >= 0)
		r = sd_event_source_set_priority(keep->flush, SD_EVENT_PRIORITY_IMPORTANT);
	if (r < 0)
		return err_set(err, r, "set up the memory that survives");
	r = get_vault(keep, err);
	if (r == 0)
		r = restore(keep, err);
	if (r < 0)
		return r;
	keep_changed(keep);
	*ret = TAKE_PTR(keep);
	return 0;
}

struct keep *keep_free(struct keep *keep)
{
	if (!keep)
		return NULL;
	keep->flushed = NULL;
	keep_flush(keep);
	vault_free(keep->vault);
	sd_event_source_disable_unref(keep->flush);
	free(keep);
	return NULL;
}
