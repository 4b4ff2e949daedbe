/* Two questions: ecs-metadata for keys, then the ECR API for the token. */
#include "agent/image/ecr.h"

#include "iam-creds/protocol.h"
#include "lib/aws_keys.h"
#include "lib/backoff.h"
#include "lib/fd.h"
#include "lib/ipc.h"
#include "lib/json.h"
#include "lib/loop.h"
#include "lib/sigv4.h"

#include <ctype.h>
#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#define ERROR_NAME            "CannotPullECRContainerError"
#define ANSWER_BYTES_MAX      (1024 * 1024)
#define CREDENTIALS_WAIT_USEC 60000000
#define TRIES                 3

static int read_keys(struct json_object *body, struct aws_keys **ret, struct err *err)
{
	const char *access_key_id, *secret_access_key, *session_token = NULL, *expiration = NULL;
	uint64_t expires = AWS_KEYS_NO_EXPIRY;
	int r;

	r = json_get_string(body, "accessKeyId", &access_key_id, err);
	if (r == 0)
		r = json_get_string(body, "secretAccessKey", &secret_access_key, err);
	if (r == 0)
		r = json_optional(json_get_string(body, "sessionToken", &session_token, err));
	if (r == 0)
		r = json_optional(json_get_string(body, "expiration", &expiration, err));
	if (r < 0)
		return r;
	if (expiration && *expiration && aws_time_parse(expiration, &expires) < 0)
		return err_text(err, -EINVAL, "expiration of the credentials is no time");
	if (expires != AWS_KEYS_NO_EXPIRY && expires <= now_realtime_usec())
		return err_text(err, -EKEYEXPIRED, "the credentials have expired");
	*ret = aws_keys_new(access_key_id, secret_access_key, session_token, expires);
	return *ret ? 0 : err_oom(err);
}

static int ask_metadata(const char *runtime_dir, const char *credentials_id, struct aws_keys **ret,
                        struct err *err)
{
	_cleanup_json_ struct json_object *request = ipc_message_new("get-credentials", NULL);
	_cleanup_(ipc_message_done) struct ipc_message answer = {};
	_cleanup_close_ int fd = -EBADF;
	char path[512];
	int r;

	if (!request || json_add_string(request, "credentialsId", credentials_id) < 0)
		return err_oom(err);
	snprintf(path, sizeof(path), "%s/" METADATA_SOCKET, runtime_dir);
	fd = ipc_connect(path, err);
	if (fd < 0)
		return fd;
	r = ipc_call(fd, request, NULL, 0, 10000000, &answer, err);
	if (r < 0)
		return r;
	return read_keys(answer.body, ret, err);
}

static int get_keys(const char *runtime_dir, const char *credentials_id,
                    const struct transfer_limits *limits, struct aws_keys **ret, struct err *err)
{
	uint64_t end = now_usec() + CREDENTIALS_WAIT_USEC;

	for (;;) {
		int r = ask_metadata(runtime_dir, credentials_id, ret, err), wr;

		/* Announced but not here yet; or ecs-metadata is being started. */
		if ((r != -EAGAIN && r != -ECONNREFUSED) || now_usec() >= end)
			return r < 0 ? err_prefix(err, r, "credentials %.80s", credentials_id) : 0;
		wr = transfer_wait(limits, 500000, NULL);
		if (wr < 0)
			return err_prefix(err, wr, "credentials %.80s", credentials_id);
	}
}

/* A region becomes part of a host name. */
static bool region_is_valid(const char *region)
{
	size_t n = strlen(region);

	if (n < 1 || n > 63)
		return false;
	for (size_t i = 0; i < n; i++)
		if (!islower((unsigned char)region[i]) && !isdigit((unsigned char)region[i]) &&
		    region[i] != '-')
			return false;
	return true;
}

static int make_endpoint(struct json_object *ecr, const char *region, char *buf, size_t n,
                         struct err *err)
{
	const char *endpoint = NULL;
	size_t len;
	int r;

	r = json_optional(json_get_string(ecr, "endpoint", &endpoint, err));
	if (r < 0)
		return r;
	if (!endpoint || !*endpoint) {
		snprintf(buf, n, "https://api.ecr.%s.amazonaws.com%s/", region,
		         strncmp(region, "cn-", 3) == 0 ? ".cn" : "");
		return 0;
	}
	len = strlen(endpoint);
	if (snprintf(buf, n, "%s%s%s", strstr(endpoint, "://") ? "" : "https://", endpoint,
	             endpoint[len - 1] == '/' ? "" : "/") >= (int)n)
		return err_text(err, -EINVAL, "ECR endpoint \"%.60s...\" is too long", endpoint);
	return 0;
}

static int read_token(const struct transfer_response *response, char **ret_username,
                      struct secret **ret_password, struct err *err)
{
	_cleanup_json_ struct json_object *doc = NULL;
	_cleanup_secret_ char *plain = NULL;
	struct json_object *list;
	const char *token;
	char *colon;
	size_t len;
	int n, r;

	r = json_parse_object(response->body ? response->body : "", response->body_len,
	                      ANSWER_BYTES_MAX, &doc, err);
	if (r == 0)
		r = json_get_array(doc, "authorizationData", &list, err);
	if (r == 0)
		r = json_get_string(json_object_array_get_idx(list, 0), "authorizationToken",
		                    &token, err);
	if (r < 0)
		return err_prefix(err, -EBADMSG, "answer of GetAuthorizationToken");

	len = strlen(token);
	plain = calloc(1, len + 4);
	if (!plain)
		return err_oom(err);
	n = EVP_DecodeBlock((unsigned char *)plain, (const unsigned char *)token, (int)len);
	colon = n > 0 ? strchr(plain, ':') : NULL;
	if (!colon)
		return err_text(err, -EBADMSG,
		                "authorizationToken is not the base64 form of user:password");
	*colon = '\0';
	*ret_password = secret_new(colon + 1, strlen(colon + 1));
	*ret_username = strdup(plain);
	return *ret_password && *ret_username ? 0 : err_oom(err);
}

static int service_error(const struct transfer_response *response, struct err *err)
{
	_cleanup_json_ struct json_object *doc = NULL;
	const char *code = NULL, *message = NULL, *hash;

	if (response->body && json_parse_object(response->body, response->body_len,
	                                        response->body_len, &doc, NULL) == 0) {
		code = json_text(doc, "__type");
		message = json_text(doc, "message");
	}
	hash = code ? strchr(code, '#') : NULL;
	return err_text(err,
	                response->status >= 500 || response->status == 429 ? -EREMOTEIO : -EACCES,
	                "GetAuthorizationToken: %.80s (status %u): %.300s",
	                hash   ? hash + 1
	                : code ? code
	                       : "error",
	                response->status, message ? message : "no message");
}

static int call_once(struct transfer *transfer, const struct sigv4_request *signing,
                     char **ret_username, struct secret **ret_password, struct err *err)
{
	_cleanup_response_ struct transfer_response response = {};
	_cleanup_sigv4_ struct sigv4_signature signature = {};
	int r;

	r = sigv4_sign(signing, &signature, err);
	if (r < 0)
		return r;

	const struct http_header headers[] = {
		{"Content-Type", "application/x-amz-json-1.1"},
		{"X-Amz-Target", signing->headers[1].value},
		{"Host", signature.host},
		{"X-Amz-Date", signature.date},
		{"X-Amz-Security-Token", signature.security_token},
	};
	const struct transfer_request request = {
		.url = signing->url,
		.authorization = signature.authorization,
		.headers = headers,
		.n_headers = ARRAY_SIZE(headers) - (signature.security_token ? 0 : 1),
		.post = signing->body,
		.post_len = signing->body_len,
		.max_bytes = ANSWER_BYTES_MAX,
	};

	r = transfer_perform(transfer, &request, &response, err);
	if (r < 0)
		return r;
	if (response.status != 200)
		return service_error(&response, err);
	return read_token(&response, ret_username, ret_password, err);
}

static int call_ecr(const struct sigv4_request *signing, const struct http_settings *settings,
                    const struct transfer_limits *limits, char **ret_username,
                    struct secret **ret_password, struct err *err)
{
	_cleanup_(transfer_freep) struct transfer *transfer = NULL;
	struct backoff backoff = {
		.min_usec = 500000, .max_usec = 5000000, .multiple = 2, .jitter = 0.5};
	int r;

	/* The endpoint is the control plane's word, not a registry's: a stand-in may be local. */
	r = transfer_new(settings, limits, true, &transfer, err);
	if (r < 0)
		return r;
	for (int tries = TRIES;; tries--) {
		r = call_once(transfer, signing, ret_username, ret_password, err);
		if (r == 0 || tries == 1 || (!transfer_error_is_transient(r) && r != -EREMOTEIO))
			return r;
		if (transfer_wait(limits, backoff_next(&backoff, random_fraction()), NULL) < 0)
			return r;
	}
}

static int get_password(struct json_object *ecr, const char *runtime_dir,
                        const struct http_settings *settings, const struct transfer_limits *limits,
                        char **ret_username, struct secret **ret_password, struct err *err)
{
	static const struct http_header headers[] = {
		{"Content-Type", "application/x-amz-json-1.1"},
		{"X-Amz-Target", "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"},
	};
	_cleanup_(aws_keys_unrefp) struct aws_keys *keys = NULL;
	_cleanup_json_ struct json_object *body = json_object_new_object();
	const char *region, *credentials_id, *registry_id = NULL;
	struct json_object *ids;
	char endpoint[512];
	int r;

	r = json_get_string(ecr, "region", &region, err);
	if (r == 0)
		r = json_get_string(ecr, "credentialsId", &credentials_id, err);
	if (r == 0)
		r = json_optional(json_get_string(ecr, "registryId", &registry_id, err));
	if (r < 0)
		return r;
	if (!region_is_valid(region))
		return err_text(err, -EINVAL, "ECR region \"%.64s\" is no region", region);
	r = make_endpoint(ecr, region, endpoint, sizeof(endpoint), err);
	if (r < 0)
		return r;
	r = get_keys(runtime_dir, credentials_id, limits, &keys, err);
	if (r < 0)
		return r;

	if (!body)
		return err_oom(err);
	if (registry_id && *registry_id) {
		ids = json_object_new_array();
		if (!ids || json_append(ids, json_object_new_string(registry_id)) < 0 ||
		    json_add(body, "registryIds", ids) < 0)
			return err_oom(err);
	}

	struct sigv4_request signing = {
		.keys = keys,
		.region = region,
		.service = "ecr",
		.method = "POST",
		.url = endpoint,
		.headers = headers,
		.n_headers = ARRAY_SIZE(headers),
	};
	signing.body = json_to_text(body, &signing.body_len);
	if (!signing.body)
		return err_oom(err);
	return call_ecr(&signing, settings, limits, ret_username, ret_password, err);
}

int ecr_get_password(struct json_object *ecr, const char *runtime_dir,
                     const struct http_settings *settings, const struct transfer_limits *limits,
                     char **ret_username, struct secret **ret_password, struct err *err)
{
	int r = get_password(ecr, runtime_dir, settings, limits, ret_username, ret_password, err);

	if (r < 0 && err)
		err->name = ERROR_NAME;
	return r;
}
