/*
 * From the outside in: a blob or manifest is an operation that is tried several times; a try is
 * one request with at most one new authorisation; a request follows redirects, leaving the
 * authorisation behind.
 */
#include "agent/image/registry.h"

#include "agent/image/challenge.h"
#include "lib/backoff.h"
#include "lib/json.h"
#include "lib/log.h"
#include "lib/url.h"

#include <ctype.h>
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define REDIRECTS_MAX   5
#define TOKEN_BYTES_MAX (1024 * 1024)
#define TOKEN_MAX       (64 * 1024)
#define BLOB_TRIES      5
#define MANIFEST_TRIES  9

struct registry {
	const struct registry_options *options;
	struct transfer *transfer;
	char host[REFERENCE_NAME_MAX + 1]; /* with port */
	char ca_file[512];                 /* empty: none */
	bool is_loopback;
	bool is_plain;       /* found to speak no TLS */
	char *authorization; /* value of the header; secret; NULL: none yet */
};

/* The host of "host:port" or "[::1]:port". */
static void host_without_port(const char *registry, char *buf, size_t n)
{
	if (registry[0] == '[')
		snprintf(buf, n, "%.*s", (int)strcspn(registry + 1, "]"), registry + 1);
	else
		snprintf(buf, n, "%.*s", (int)strcspn(registry, ":"), registry);
}

int registry_new(const struct registry_options *options, struct registry **ret, struct err *err)
{
	_cleanup_(registry_freep) struct registry *registry = calloc(1, sizeof(*registry));
	char host[REFERENCE_NAME_MAX + 1];
	int r;

	if (!registry)
		return err_oom(err);
	registry->options = options;
	reference_api_host(options->reference, registry->host, sizeof(registry->host));
	host_without_port(registry->host, host, sizeof(host));
	registry->is_loopback = host_is_loopback(host);

	snprintf(registry->ca_file, sizeof(registry->ca_file), "%s/%s/ca.crt", options->certs_dir,
	         options->reference->registry);
	if (access(registry->ca_file, F_OK) < 0)
		registry->ca_file[0] = '\0';

	r = transfer_new(options->settings, options->limits, registry->is_loopback,
	                 &registry->transfer, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(registry);
	return 0;
}

struct registry *registry_free(struct registry *registry)
{
	if (!registry)
		return NULL;

	registry->transfer = transfer_free(registry->transfer);
	secret_string_free(registry->authorization);
	free(registry);
	return NULL;
}

int registry_disconnect(struct registry *registry, struct err *err)
{
	registry->transfer = transfer_free(registry->transfer);
	return transfer_new(registry->options->settings, registry->options->limits,
	                    registry->is_loopback, &registry->transfer, err);
}

void registry_document_done(struct registry_document *document)
{
	free(document->text);
	*document = (struct registry_document){};
}

/* Texts of a registry go into reasons that people read: one line of plain characters. */
static void copy_plain(char *buf, size_t n, const char *text)
{
	size_t len = 0;

	for (; *text && len + 1 < n; text++)
		buf[len++] = (unsigned char)*text < ' ' || *text == 0x7f ? ' ' : *text;
	/* Not half a character at the end. */
	while (len > 0 && *text && ((unsigned char)buf[len - 1] & 0xc0) == 0x80)
		len--;
	buf[len] = '\0';
}

/* "manifest unknown", "denied: requested access to the resource is denied", as Docker words it. */
static void describe_error(const struct transfer_response *response, char *buf, size_t n)
{
	_cleanup_json_ struct json_object *doc = NULL;
	struct json_object *errors = NULL, *first;
	const char *code, *message;
	char words[64] = "", text[384] = "";

	snprintf(buf, n, "status %u", response->status);
	if (!response->body || json_parse_object(response->body, response->body_len,
	                                         response->body_len, &doc, NULL) < 0)
		return;
	if (json_get_array(doc, "errors", &errors, NULL) < 0)
		return;
	first = json_object_array_get_idx(errors, 0);
	code = json_text(first, "code");
	message = json_text(first, "message");
	if (code)
		copy_plain(words, sizeof(words), code);
	if (message)
		copy_plain(text, sizeof(text), message);
	for (char *p = words; *p; p++)
		*p = *p == '_' ? ' ' : (char)tolower((unsigned char)*p);
	if (words[0] && text[0] && strcmp(words, text) != 0)
		snprintf(buf, n, "%s: %s", words, text);
	else if (words[0] || text[0])
		snprintf(buf, n, "%s", text[0] ? text : words);
}

static int status_error(struct registry *registry, const struct transfer_response *response,
                        struct err *err)
{
	const struct reference *ref = registry->options->reference;
	char text[512], name[REFERENCE_TEXT_N];

	describe_error(response, text, sizeof(text));
	reference_to_string(ref, name);
	switch (response->status) {
	case 401:
	case 403:
		return err_text(err, -EACCES,
		                "pull access denied for %.200s, repository does not exist or may "
		                "require authorization: %s",
		                ref->repository, text);
	case 404:
		return err_text(err, -ENOENT, "ref not found: %.200s: %s", name, text);
	case 429:
		return err_text(err, -EBUSY, "registry %s limits requests: %s", registry->host,
		                text);
	default:
		return err_text(err, response->status >= 500 ? -EREMOTEIO : -EPROTO,
		                "registry %s answered: %s", registry->host, text);
	}
}

static int encode_basic(struct registry *registry, char **ret)
{
	_cleanup_secret_ char *plain = NULL, *header = NULL;
	size_t n;

	if (asprintf(&plain, "%s:%s", registry->options->username,
	             secret_bytes(registry->options->password)) < 0)
		return -ENOMEM;
	n = strlen(plain);
	header = malloc(6 + 4 * (n / 3 + 1) + 1);
	if (!header)
		return -ENOMEM;
	memcpy(header, "Basic ", 6);
	EVP_EncodeBlock((unsigned char *)header + 6, (const unsigned char *)plain, (int)n);
	*ret = TAKE_PTR(header);
	return 0;
}

static int token_url(struct registry *registry, const struct challenge *challenge, char **ret)
{
	const char *scope = challenge->scope;
	char own_scope[REFERENCE_NAME_MAX + 32];
	_cleanup_free_ char *query = NULL;

	if (!*scope) {
		snprintf(own_scope, sizeof(own_scope), "repository:%s:pull",
		         registry->options->reference->repository);
		scope = own_scope;
	}
	query = url_with_query("",
	                       (const struct url_parameter[]){
				       {"service", *challenge->service ? challenge->service : NULL},
				       {"scope", scope},
			       },
	                       2);
	if (!query)
		return -ENOMEM;
	/* A realm may have a query of its own. */
	if (strchr(challenge->realm, '?'))
		query[0] = '&';
	return asprintf(ret, "%s%s", challenge->realm, query) < 0 ? -ENOMEM : 0;
}

static int read_token(const struct transfer_response *response, char **ret, struct err *err)
{
	_cleanup_json_ struct json_object *doc = NULL;
	const char *token;
	int r;

	r = json_parse_object(response->body ? response->body : "", response->body_len,
	                      TOKEN_BYTES_MAX, &doc, err);
	if (r < 0)
		return err_prefix(err, -EBADMSG, "answer of the token server");
	token = json_text(doc, "token");
	if (!token || !*token)
		token = json_text(doc, "access_token");
	if (!token || !*token)
		return err_text(err, -EBADMSG, "answer of the token server has no token");
	if (strlen(token) > TOKEN_MAX)
		return err_text(err, -EBADMSG, "token is over the limit of %d bytes", TOKEN_MAX);
	for (const char *p = token; *p; p++)
		if (*p <= ' ' || *p > '~')
			return err_text(err, -EBADMSG, "token has a byte that no header may hold");
	return asprintf(ret, "Bearer %s", token) < 0 ? err_oom(err) : 0;
}

static int ask_token_server(struct registry *registry, const struct challenge *challenge,
                            char **ret, struct err *err)
{
	_cleanup_response_ struct transfer_response response = {};
	_cleanup_secret_ char *basic = NULL;
	_cleanup_free_ char *url = NULL;
	struct transfer_request request = {.max_bytes = TOKEN_BYTES_MAX};
	int r;

	r = transfer_check_url(challenge->realm, registry->is_loopback, err);
	if (r < 0)
		return err_prefix(err, r, "token server");
	if (token_url(registry, challenge, &url) < 0)
		return err_oom(err);
	if (registry->options->username && encode_basic(registry, &basic) < 0)
		return err_oom(err);

	request.url = url;
	request.authorization = basic;
	request.ca_file = registry->ca_file[0] ? registry->ca_file : NULL;
	r = transfer_perform(registry->transfer, &request, &response, err);
	if (r < 0)
		return err_prefix(err, r, "token server");
	if (response.status == 400 || response.status == 404)
		response.status = 403; /* as some say that they give no token for this */
	if (response.status / 100 != 2)
		return status_error(registry, &response, err);
	return read_token(&response, ret, err);
}

/* Replaces the authorisation by what the registry asks for. */
static int authorize(struct registry *registry, const struct transfer_response *refusal,
                     struct err *err)
{
	_cleanup_secret_ char *authorization = NULL;
	struct challenge challenge;
	int r;

	r = challenge_parse(refusal->authenticate, &challenge, err);
	if (r < 0)
		return r;
	switch (challenge.scheme) {
	case CHALLENGE_BEARER:
		r = ask_token_server(registry, &challenge, &authorization, err);
		if (r < 0)
			return r;
		break;
	case CHALLENGE_BASIC:
		if (!registry->options->username)
			return status_error(registry, refusal, err);
		if (encode_basic(registry, &authorization) < 0)
			return err_oom(err);
		break;
	default:
		return status_error(registry, refusal, err);
	}
	secret_string_free(registry->authorization);
	registry->authorization = TAKE_PTR(authorization);
	return 0;
}

static bool is_redirect(unsigned int status)
{
	return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

/* Same scheme, host and port as the registry's own URL. */
static bool is_own_url(struct registry *registry, const char *url)
{
	char prefix[REFERENCE_NAME_MAX + 16];
	int n = snprintf(prefix, sizeof(prefix), "%s://%s/", registry->is_plain ? "http" : "https",
	                 registry->host);

	return strncasecmp(url, prefix, (size_t)n) == 0;
}

/* The request, and where it is sent on to. */
static int follow(struct registry *registry, struct transfer_request *request,
                  struct transfer_response *ret, struct err *err)
{
	_cleanup_free_ char *url = strdup(request->url);

	for (int i = 0; url && i <= REDIRECTS_MAX; i++) {
		_cleanup_response_ struct transfer_response response = {};
		bool is_own = is_own_url(registry, url);
		int r;

		request->url = url;
		request->authorization = is_own ? registry->authorization : NULL;
		request->ca_file = is_own && registry->ca_file[0] ? registry->ca_file : NULL;
		r = transfer_perform(registry->transfer, request, &response, err);
		if (r < 0)
			return r;
		if (response.status == 401 && !is_own)
			response.authenticate[0] = '\0'; /* only the registry may ask for it */
		if (!is_redirect(response.status) || !response.location[0]) {
			*ret = response;
			response = (struct transfer_response){};
			return 0;
		}

		r = transfer_check_url(response.location, registry->is_loopback, err);
		if (r < 0)
			return err_prefix(err, r, "redirect");
		if (!registry->is_plain && strncasecmp(response.location, "https:", 6) != 0)
			return err_text(err, -EACCES, "registry %s redirects from https to http",
			                registry->host);
		free(url);
		url = strdup(response.location);
	}
	if (!url)
		return err_oom(err);
	return err_text(err, -ELOOP, "registry %s redirects more than %d times", registry->host,
	                REDIRECTS_MAX);
}

static int request_path(struct registry *registry, const char *path,
                        struct transfer_request *request, struct transfer_response *ret,
                        struct err *err)
{
	_cleanup_free_ char *url = NULL;
	int r;

	if (asprintf(&url, "%s://%s/v2/%s/%s", registry->is_plain ? "http" : "https",
	             registry->host, registry->options->reference->repository, path) < 0)
		return err_oom(err);
	request->url = url;
	r = follow(registry, request, ret, err);
	request->url = NULL;
	if (r != -EPROTONOSUPPORT || !registry->is_loopback || registry->is_plain)
		return r;

	/* As Docker does: registries on loopback may do without TLS. */
	registry->is_plain = true;
	return request_path(registry, path, request, ret, err);
}

/* One try: a 2xx answer, with a new authorisation if the old one is refused. */
static int request_authorized(struct registry *registry, const char *path,
                              struct transfer_request *request, struct transfer_response *ret,
                              struct err *err)
{
	for (int authorized = 0;; authorized++) {
		_cleanup_response_ struct transfer_response response = {};
		int r = request_path(registry, path, request, &response, err);

		if (r < 0)
			return r;
		if (response.status == 401 && response.authenticate[0] && authorized == 0) {
			r = authorize(registry, &response, err);
			if (r < 0)
				return r;
			continue;
		}
		*ret = response;
		response = (struct transfer_response){};
		return ret->status / 100 == 2 ? 0 : status_error(registry, ret, err);
	}
}

static bool is_transient(int r)
{
	return transfer_error_is_transient(r) || r == -EREMOTEIO || r == -EBUSY;
}

/* Between two tries; returns the error of the last one when there are no more. */
static int wait_before_retry(struct registry *registry, struct backoff *backoff, int *tries, int r,
                             uint64_t retry_after_usec, struct err *err)
{
	struct err wait_err = {};
	uint64_t usec;
	int wr;

	if (!is_transient(r) || --*tries <= 0)
		return r;
	usec = backoff_next(backoff, random_fraction());
	if (usec < retry_after_usec)
		usec = retry_after_usec;
	log_debug(NULL, "registry %s: trying again in %llu ms: %s", registry->host,
	          (unsigned long long)(usec / 1000), err ? err->text : "");
	wr = transfer_wait(registry->options->limits, usec, &wait_err);
	if (wr < 0) {
		/* The reason for the waiting says more than that time has run out. */
		if (err && wr == -ECANCELED)
			*err = wait_err;
		return wr == -ETIME ? err_prefix(err, -ETIME, "timed out") : wr;
	}
	return 0;
}

static int get_document(struct registry *registry, const char *path, const char *accept, size_t max,
                        struct registry_document *ret, char digest_header[static 160],
                        struct err *err)
{
	struct backoff backoff = {
		.min_usec = 10000, .max_usec = 5000000, .multiple = 3, .jitter = 0.2};
	int tries = MANIFEST_TRIES;

	for (;;) {
		_cleanup_response_ struct transfer_response response = {};
		struct transfer_request request = {.accept = accept, .max_bytes = max};
		int r = request_authorized(registry, path, &request, &response, err);

		if (r == 0) {
			ret->text = response.body ? TAKE_PTR(response.body) : strdup("");
			ret->len = response.body_len;
			snprintf(ret->content_type, sizeof(ret->content_type), "%s",
			         response.content_type);
			snprintf(digest_header, 160, "%s", response.content_digest);
			return ret->text ? 0 : err_oom(err);
		}
		r = wait_before_retry(registry, &backoff, &tries, r, response.retry_after_usec,
		                      err);
		if (r < 0)
			return r;
	}
}

static int verify_manifest(const struct registry_document *document, const struct digest *digest,
                           const char *digest_header, struct err *err)
{
	struct digest announced;

	if (digest && !digest_equal(digest, &document->digest))
		return err_text(err, -EBADMSG, "manifest has digest sha256:%s instead of sha256:%s",
		                document->digest.hex, digest->hex);
	if (strncmp(digest_header, "sha256:", 7) != 0)
		return 0; /* none, or one that we need not know */
	if (digest_parse(digest_header, &announced, err) < 0)
		return -EBADMSG;
	if (!digest_equal(&announced, &document->digest))
		return err_text(err, -EBADMSG,
		                "manifest has digest sha256:%s, the registry announced sha256:%s",
		                document->digest.hex, announced.hex);
	return 0;
}

int registry_get_manifest(struct registry *registry, const char *tag, const struct digest *digest,
                          struct registry_document *ret, struct err *err)
{
	_cleanup_document_ struct registry_document document = {};
	char path[REFERENCE_TAG_MAX + 32], digest_header[160] = "";
	int r;

	snprintf(path, sizeof(path), "manifests/%s%s", digest ? "sha256:" : "",
	         digest ? digest->hex : tag);
	r = get_document(registry, path, MANIFEST_ACCEPT, MANIFEST_BYTES_MAX, &document,
	                 digest_header, err);
	if (r == -EFBIG)
		return err_prefix(err, -EBADMSG, "manifest");
	if (r < 0)
		return r;
	if (digest_of(document.text, document.len, &document.digest) < 0)
		return err_text(err, -EIO, "hash manifest");
	r = verify_manifest(&document, digest, digest_header, err);
	if (r < 0)
		return r;
	*ret = document;
	document = (struct registry_document){};
	return 0;
}

struct blob {
	const struct descriptor *descriptor;
	struct digester *digester;
	registry_sink_fn sink;
	void *userdata;
	uint64_t received; /* and given to sink */
	uint64_t skip;     /* bytes that come again, from a server that knows no ranges */
	bool has_begun;    /* the answer of this try */
	struct err err;
};

static void blob_done(struct blob *blob)
{
	blob->digester = digester_free(blob->digester);
}

static int begin_answer(struct blob *blob, const struct transfer_response *response)
{
	blob->has_begun = true;
	blob->skip = 0;
	if (response->status != 206) {
		blob->skip = blob->received;
		return 0;
	}
	if (!response->has_content_range || response->content_range_start != blob->received)
		return err_text(&blob->err, -EPROTO, "registry answers with another range");
	return 0;
}

static int on_blob_bytes(const struct transfer_response *response, const void *bytes, size_t n,
                         void *userdata)
{
	struct blob *blob = userdata;
	size_t skipped;
	int r;

	if (!blob->has_begun) {
		r = begin_answer(blob, response);
		if (r < 0)
			return r;
	}
	skipped = blob->skip < n ? (size_t)blob->skip : n;
	blob->skip -= skipped;
	bytes = (const char *)bytes + skipped;
	n -= skipped;
	if (n > blob->descriptor->size - blob->received)
		return err_text(&blob->err, -EBADMSG, "blob sha256:%s is longer than %llu bytes",
		                blob->descriptor->digest.hex,
		                (unsigned long long)blob->descriptor->size);
	if (n == 0)
		return 0;
	if (digester_update(blob->digester, bytes, n) < 0)
		return err_text(&blob->err, -EIO, "hash blob");
	blob->received += n;
	return blob->sink(bytes, n, blob->userdata);
}

/* One try, from where the last one broke off. */
static int try_blob(struct registry *registry, struct blob *blob, const char *path,
                    uint64_t *ret_retry_after_usec, struct err *err)
{
	_cleanup_response_ struct transfer_response response = {};
	struct transfer_request request = {
		.sink = on_blob_bytes, .userdata = blob, .range_from = blob->received};
	int r;

	blob->has_begun = false;
	blob->err = (struct err){};
	r = request_authorized(registry, path, &request, &response, err);
	*ret_retry_after_usec = response.retry_after_usec;
	if (r < 0) {
		if (blob->err.text[0] && err)
			*err = blob->err;
		return r;
	}
	if (blob->received < blob->descriptor->size)
		return err_text(err, -ECONNRESET, "blob sha256:%s ended after %llu of %llu bytes",
		                blob->descriptor->digest.hex, (unsigned long long)blob->received,
		                (unsigned long long)blob->descriptor->size);
	return 0;
}

static int verify_blob(struct blob *blob, struct err *err)
{
	struct digest found;

	if (digester_finish(blob->digester, &found) < 0)
		return err_text(err, -EIO, "hash blob");
	if (!digest_equal(&found, &blob->descriptor->digest))
		return err_text(err, -EBADMSG, "blob has digest sha256:%s instead of sha256:%s",
		                found.hex, blob->descriptor->digest.hex);
	return 0;
}

int registry_get_blob(struct registry *registry, const struct descriptor *descriptor,
                      registry_sink_fn sink, void *userdata, struct err *err)
{
	_cleanup_(blob_done) struct blob blob = {
		.descriptor = descriptor, .sink = sink, .userdata = userdata};
	struct backoff backoff = {
		.min_usec = 1100000, .max_usec = 5000000, .multiple = 2, .jitter = 0.2};
	char path[DIGEST_HEX_LEN + 32];
	int tries = BLOB_TRIES;

	if (digester_new(&blob.digester) < 0)
		return err_oom(err);
	snprintf(path, sizeof(path), "blobs/sha256:%s", descriptor->digest.hex);
	for (;;) {
		uint64_t before = blob.received, retry_after_usec = 0;
		int r = blob.received == descriptor->size && descriptor->size > 0
		                ? 0
		                : try_blob(registry, &blob, path, &retry_after_usec, err);

		if (r == 0)
			return verify_blob(&blob, err);
		if (blob.received > before) {
			tries = BLOB_TRIES; /* it does get on */
			backoff_reset(&backoff);
		}
		r = wait_before_retry(registry, &backoff, &tries, r, retry_after_usec, err);
		if (r < 0)
			return r;
	}
}
