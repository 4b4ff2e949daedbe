/* pull_image() is the story; each step below it stands in the order of the story. */
#include "agent/image/pull.h"

#include "agent/image/ecr.h"
#include "agent/image/fetch.h"
#include "agent/image/reference.h"
#include "agent/image/registry.h"
#include "lib/fd.h"
#include "lib/ipc.h"
#include "lib/json.h"
#include "lib/loop.h"
#include "lib/parse.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define FETCHES_MAX             3
#define MANIFEST_TIMEOUT_USEC   (60ull * 1000000)
#define INACTIVITY_TIMEOUT_USEC (60ull * 1000000)
#define TIMEOUT_USEC            (7200ull * 1000000)
#define TIMEOUT_MAX_USEC        (7 * 86400ull * 1000000)
#define STORE_TIMEOUT_USEC      (600ul * 1000000) /* a put-image waits for the disk */
#define PROGRESS_EVERY_USEC     500000

#define PULL_ERROR     "CannotPullContainerError"
#define MANIFEST_ERROR "CannotPullImageManifestError"

struct pull {
	const struct pull_options *options;
	struct reference reference;
	struct json_object *ecr; /* borrowed from the request */
	bool by_operator;
	uint64_t manifest_timeout_usec;
	uint64_t timeout_usec;
	struct transfer_limits limits;

	char *username;
	struct secret *password;
	struct registry_options registry_options;
	struct registry *registry;

	struct digest digest; /* what the reference names */
	struct manifest manifest;
	struct image_config config;

	bool is_missing[LAYERS_MAX];
	struct fetch *fetches[FETCHES_MAX];
	size_t next_layer;
	uint64_t bytes_done;
	uint64_t told_usec;
};

static void pull_done(struct pull *pull)
{
	for (size_t i = 0; i < FETCHES_MAX; i++)
		pull->fetches[i] = fetch_free(pull->fetches[i]);
	pull->registry = registry_free(pull->registry);
	image_config_done(&pull->config);
	pull->password = secret_free(pull->password);
	secret_string_free(pull->username);
}

static int parse_auth(struct pull *pull, struct json_object *auth, struct err *err)
{
	const char *username, *password;
	int r;

	pull->ecr = json_get(auth, "ecr");
	if (pull->ecr)
		return 0;
	r = json_get_string(auth, "username", &username, err);
	if (r == 0)
		r = json_get_string(auth, "password", &password, err);
	if (r < 0)
		return err_prefix(err, -EINVAL, "auth");
	pull->username = strdup(username);
	pull->password = secret_new(password, strlen(password));
	return pull->username && pull->password ? 0 : err_oom(err);
}

static int get_timeout(struct json_object *request, const char *name, uint64_t *ret,
                       struct err *err)
{
	int r = json_optional(json_get_u64(request, name, TIMEOUT_MAX_USEC, ret, err));

	if (r == 0 && *ret == 0)
		return err_text(err, -EINVAL, "%s must not be 0", name);
	return r;
}

static int parse_request(struct pull *pull, struct json_object *request, struct err *err)
{
	struct json_object *auth = json_get(request, "auth");
	const char *reference;
	int r;

	pull->manifest_timeout_usec = MANIFEST_TIMEOUT_USEC;
	pull->timeout_usec = TIMEOUT_USEC;
	pull->limits.inactivity_usec = INACTIVITY_TIMEOUT_USEC;
	pull->limits.cancel_fd = pull->options->client_fd;

	r = json_get_string(request, "reference", &reference, err);
	if (r == 0)
		r = reference_parse(reference, &pull->reference, err);
	if (r == 0)
		r = json_optional(json_get_bool(request, "byOperator", &pull->by_operator, err));
	if (r == 0)
		r = get_timeout(request, "manifestTimeoutUsec", &pull->manifest_timeout_usec, err);
	if (r == 0)
		r = get_timeout(request, "timeoutUsec", &pull->timeout_usec, err);
	if (r == 0)
		r = get_timeout(request, "inactivityTimeoutUsec", &pull->limits.inactivity_usec,
		                err);
	if (r == 0 && auth)
		r = parse_auth(pull, auth, err);
	return r;
}

static int open_registry(struct pull *pull, struct err *err)
{
	const struct pull_options *options = pull->options;
	int r;

	if (pull->ecr) {
		r = ecr_get_password(pull->ecr, options->runtime_dir, options->settings,
		                     &pull->limits, &pull->username, &pull->password, err);
		if (r < 0)
			return r;
	}
	pull->registry_options = (struct registry_options){
		.reference = &pull->reference,
		.settings = options->settings,
		.limits = &pull->limits,
		.username = pull->username,
		.password = pull->password,
		.certs_dir = options->certs_dir,
	};
	return registry_new(&pull->registry_options, &pull->registry, err);
}

/* One request to the unpack half; the answer's body is the caller's. */
static int ask_store(struct pull *pull, struct json_object *request, struct json_object **ret,
                     struct err *err)
{
	_cleanup_(ipc_message_done) struct ipc_message answer = {};
	int r;

	if (!request)
		return err_oom(err);
	r = ipc_call(pull->options->unpack_fd, request, NULL, 0, STORE_TIMEOUT_USEC, &answer, err);
	if (r < 0)
		return err_prefix(err, r, "image store");
	if (ret)
		*ret = TAKE_PTR(answer.body);
	return 0;
}

static int hold_store(struct pull *pull, struct err *err)
{
	_cleanup_json_ struct json_object *request = ipc_message_new("hold", NULL);

	return ask_store(pull, request, NULL, err);
}

static int tell_resolved(struct pull *pull, struct err *err)
{
	_cleanup_json_ struct json_object *message = ipc_message_new("resolved", NULL);
	char text[80];

	snprintf(text, sizeof(text), "sha256:%s", pull->digest.hex);
	if (!message || json_add_string(message, "digest", text) < 0)
		return err_oom(err);
	return pull->options->on_event(message, pull->options->userdata);
}

/* The manifest of the image for this machine, by way of an index if there is one. */
static int resolve(struct pull *pull, struct err *err)
{
	const struct digest *digest =
		pull->reference.digest.hex[0] ? &pull->reference.digest : NULL;
	_cleanup_document_ struct registry_document document = {}, image = {};
	struct descriptor descriptor;
	int r;

	r = registry_get_manifest(pull->registry, pull->reference.tag, digest, &document, err);
	if (r < 0)
		return r;
	pull->digest = document.digest;
	r = manifest_parse(document.text, document.len, document.content_type,
	                   machine_architecture(), &pull->manifest, err);
	if (r < 0)
		return err_prefix(err, r, "manifest of %.200s", pull->reference.repository);
	if (pull->manifest.kind == MANIFEST_IMAGE)
		return tell_resolved(pull, err);

	descriptor = pull->manifest.image;
	r = registry_get_manifest(pull->registry, NULL, &descriptor.digest, &image, err);
	if (r < 0)
		return r;
	if (image.len != descriptor.size)
		return err_text(err, -EBADMSG, "manifest has %zu bytes, the index says %llu",
		                image.len, (unsigned long long)descriptor.size);
	r = manifest_parse(image.text, image.len, image.content_type, machine_architecture(),
	                   &pull->manifest, err);
	if (r < 0)
		return err_prefix(err, r, "manifest of %.200s", pull->reference.repository);
	if (pull->manifest.kind != MANIFEST_IMAGE)
		return err_text(err, -EBADMSG, "an index within an index is not supported");
	return tell_resolved(pull, err);
}

struct text {
	char *bytes;
	size_t len, size;
};

static void text_done(struct text *text)
{
	free(text->bytes);
}

/* The registry client gives no more than the descriptor's size. */
static int append_text(const void *bytes, size_t n, void *userdata)
{
	struct text *text = userdata;

	if (n > text->size - text->len)
		return -EFBIG;
	memcpy(text->bytes + text->len, bytes, n);
	text->len += n;
	return 0;
}

static int read_config(struct pull *pull, struct err *err)
{
	const struct descriptor *descriptor = &pull->manifest.config;
	_cleanup_(text_done) struct text text = {.bytes = malloc(descriptor->size + 1),
	                                         .size = descriptor->size};
	int r;

	if (!text.bytes)
		return err_oom(err);
	r = registry_get_blob(pull->registry, descriptor, append_text, &text, err);
	if (r == 0)
		r = image_config_parse(text.bytes, text.len, pull->manifest.n_layers, &pull->config,
		                       err);
	return r < 0 ? err_prefix(err, r, "image configuration") : 0;
}

static int layers_to_json(struct pull *pull, struct json_object **ret)
{
	_cleanup_json_ struct json_object *list = json_object_new_array();

	if (!list)
		return -ENOMEM;
	for (size_t i = 0; i < pull->config.n_diff_ids; i++) {
		const struct digest *diff_id = &pull->config.diff_ids[i];
		bool comes_again = false;

		/* Of a layer that comes twice the upper one counts: it covers all that the lower
		 * one has, and overlayfs refuses to take a directory twice. */
		for (size_t k = i + 1; k < pull->config.n_diff_ids; k++)
			comes_again |= digest_equal(diff_id, &pull->config.diff_ids[k]);
		if (!comes_again && json_append(list, json_object_new_string(diff_id->hex)) < 0)
			return -ENOMEM;
	}
	*ret = TAKE_PTR(list);
	return 0;
}

static int find_missing(struct pull *pull, struct err *err)
{
	_cleanup_json_ struct json_object *request = ipc_message_new("has-layers", NULL);
	_cleanup_json_ struct json_object *answer = NULL;
	struct json_object *layers, *missing;
	int r;

	if (!request || layers_to_json(pull, &layers) < 0 ||
	    json_add(request, "layers", layers) < 0)
		return err_oom(err);
	r = ask_store(pull, request, &answer, err);
	if (r == 0)
		r = json_get_array(answer, "missing", &missing, err);
	if (r < 0)
		return r;

	for (size_t i = 0; i < json_object_array_length(missing); i++) {
		const char *hex = json_object_get_string(json_object_array_get_idx(missing, i));

		/* The first one of its digest will do. */
		for (size_t k = 0; hex && k < pull->config.n_diff_ids; k++)
			if (strcmp(hex, pull->config.diff_ids[k].hex) == 0) {
				pull->is_missing[k] = true;
				break;
			}
	}
	return 0;
}

static int tell_progress(struct pull *pull, struct err *err)
{
	_cleanup_json_ struct json_object *message = NULL;
	uint64_t bytes = pull->bytes_done, now = now_usec();

	if (now - pull->told_usec < PROGRESS_EVERY_USEC)
		return 0;
	pull->told_usec = now;
	for (size_t i = 0; i < FETCHES_MAX; i++)
		if (pull->fetches[i])
			bytes += fetch_bytes(pull->fetches[i]);
	message = ipc_message_new("progress", NULL);
	if (!message || json_add_u64(message, "bytes", bytes) < 0)
		return err_oom(err);
	return pull->options->on_event(message, pull->options->userdata);
}

static int start_next_fetch(struct pull *pull, struct fetch **ret, struct err *err)
{
	size_t i = pull->next_layer;
	const struct fetch_options options = {
		.registry = pull->registry,
		.limits = &pull->limits,
		.blob = &pull->manifest.layers[i],
		.diff_id = &pull->config.diff_ids[i],
		.unpack_fd = pull->options->unpack_fd,
	};

	pull->next_layer++;
	return pull->is_missing[i] ? fetch_start(&options, ret, err) : 0;
}

static int start_fetches(struct pull *pull, struct err *err)
{
	for (size_t i = 0; i < FETCHES_MAX; i++)
		while (!pull->fetches[i] && pull->next_layer < pull->config.n_diff_ids) {
			int r = start_next_fetch(pull, &pull->fetches[i], err);

			if (r < 0)
				return r;
		}
	return 0;
}

/* Waits a second at most, so that the caller sees the deadline and the client's leaving. */
static int wait_for_fetches(struct pull *pull, struct err *err)
{
	struct pollfd fds[FETCHES_MAX + 1] = {
		{.fd = pull->options->client_fd, .events = POLLRDHUP}};

	for (size_t i = 0; i < FETCHES_MAX; i++)
		fds[1 + i] = (struct pollfd){
			.fd = pull->fetches[i] ? fetch_fd(pull->fetches[i]) : -1,
			.events = POLLIN,
		};
	if (poll(fds, FETCHES_MAX + 1, 1000) < 0 && errno != EINTR)
		return err_set(err, -errno, "wait for layers");

	for (size_t i = 0; i < FETCHES_MAX; i++) {
		int r = fds[1 + i].revents ? fetch_receive(pull->fetches[i], err) : 0;

		if (r < 0)
			return r;
		if (r > 0) {
			pull->bytes_done += fetch_bytes(pull->fetches[i]);
			pull->fetches[i] = fetch_free(pull->fetches[i]);
		}
	}
	return 0;
}

static bool has_fetches(const struct pull *pull)
{
	for (size_t i = 0; i < FETCHES_MAX; i++)
		if (pull->fetches[i])
			return true;
	return false;
}

static int fetch_layers(struct pull *pull, struct err *err)
{
	int r;

	r = registry_disconnect(pull->registry, err);
	if (r < 0)
		return r;
	for (;;) {
		r = start_fetches(pull, err);
		if (r < 0 || !has_fetches(pull))
			return r;
		r = wait_for_fetches(pull, err);
		if (r == 0)
			r = transfer_wait(&pull->limits, 0, err);
		if (r == 0)
			r = tell_progress(pull, err);
		if (r < 0)
			return r;
	}
}

static int make_record(struct pull *pull, struct json_object **ret)
{
	_cleanup_json_ struct json_object *record = json_object_new_object();
	char reference[REFERENCE_TEXT_N], digest[80], image_id[80], now[40];
	struct json_object *layers;
	time_t seconds = time(NULL);
	struct tm tm;

	reference_to_string(&pull->reference, reference);
	snprintf(digest, sizeof(digest), "sha256:%s", pull->digest.hex);
	snprintf(image_id, sizeof(image_id), "sha256:%s", pull->manifest.config.digest.hex);
	strftime(now, sizeof(now), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&seconds, &tm));
	if (!record || json_add_string(record, "reference", reference) < 0 ||
	    json_add_string(record, "digest", digest) < 0 ||
	    json_add_string(record, "imageId", image_id) < 0 ||
	    json_add_string(record, "pulledAt", now) < 0 || layers_to_json(pull, &layers) < 0 ||
	    json_add(record, "layers", layers) < 0 ||
	    json_add(record, "config", json_object_get(pull->config.config)) < 0 ||
	    (pull->by_operator && json_add_bool(record, "byOperator", true) < 0))
		return -ENOMEM;
	*ret = TAKE_PTR(record);
	return 0;
}

static int commit(struct pull *pull, struct json_object **ret_record, struct err *err)
{
	_cleanup_json_ struct json_object *request = ipc_message_new("put-image", NULL);
	_cleanup_json_ struct json_object *record = NULL;
	int r;

	if (!request || make_record(pull, &record) < 0 ||
	    json_add(request, "record", json_object_get(record)) < 0)
		return err_oom(err);
	r = ask_store(pull, request, NULL, err);
	if (r < 0)
		return r;
	*ret_record = TAKE_PTR(record);
	return 0;
}

static void name_error(struct err *err, const char *name)
{
	if (err && !err->name)
		err->name = name;
}

static int pull_image(struct pull *pull, struct json_object *request,
                      struct json_object **ret_record, struct err *err)
{
	uint64_t start = now_usec();
	int r;

	r = parse_request(pull, request, err);
	if (r < 0)
		return r == -ENOMEM ? r : -EINVAL;

	pull->limits.deadline_usec = start + pull->manifest_timeout_usec;
	r = open_registry(pull, err);
	if (r < 0)
		return r;
	r = resolve(pull, err);
	if (r < 0) {
		/* With a digest in the reference there was nothing to resolve. */
		name_error(err, pull->reference.digest.hex[0] ? PULL_ERROR : MANIFEST_ERROR);
		return r;
	}

	pull->limits.deadline_usec = start + pull->timeout_usec;
	r = read_config(pull, err);
	if (r == 0)
		r = hold_store(pull, err);
	if (r == 0)
		r = find_missing(pull, err);
	if (r == 0)
		r = fetch_layers(pull, err);
	if (r == 0)
		r = commit(pull, ret_record, err);
	return r;
}

/* The first sentence of these reasons is what ECS users look for. */
static void add_hint(int r, struct err *err)
{
	static const char cannot[] = "The task can\u2019t pull the image.";
	bool is_network = strstr(err->text, "request canceled while waiting for connection") ||
	                  strstr(err->text, "no connection to registry");

	if (strstr(err->text, "is not authorized to perform: ecr:BatchGetImage on resource"))
		(void)err_prefix(err, r,
		                 "%s Check that the role has the permissions to pull images from "
		                 "the registry. Error response from registry",
		                 cannot);
	else if (strstr(err->text, "denied: requested access to the resource is denied"))
		(void)err_prefix(err, r,
		                 "%s Check whether the image exists. Error response from registry",
		                 cannot);
	else if (is_network)
		(void)err_prefix(
			err, r, "%s Check your network configuration. Error response from registry",
			cannot);
}

int pull_run(const struct pull_options *options, struct json_object *request,
             struct json_object **ret_record, struct err *err)
{
	_cleanup_(pull_done) struct pull pull = {.options = options};
	int r;

	r = pull_image(&pull, request, ret_record, err);
	if (r >= 0)
		return 0;
	name_error(err, PULL_ERROR);
	if (err && r != -EINVAL)
		add_hint(r, err);
	return r == -ETIME ? -ETIMEDOUT : r;
}
